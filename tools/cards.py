"""Model cards: docs/models/SYSTEM.md and an image for every system whose weights ship, and an index of all of them.

    python tools/cards.py --output docs/models --results results

What a card says comes from the table of weights, the metadata of the files, the recipes, and the evaluations in RESULTS
(`make results`: folders evaluation*/ as `python -m stylezoo evaluate` leaves them). Numbers are taken over only if they are
those of the very weights that ship; their means go into the table, too. The contents of the images are scikit-image's
public-domain photos, the styles those that a network was trained on or procedural paintings.
"""

from __future__ import annotations

import csv
import inspect
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from contact_sheet import PAINTINGS, PHOTOS, square
from jsonargparse import auto_cli
from PIL import Image
from safetensors import safe_open
from torch import Tensor

import stylezoo
from stylezoo import quantization, registry, weights
from stylezoo.data.synthetic import draw
from stylezoo.evaluation.evaluate import model_key
from stylezoo.evaluation.store import IDENTITY_BASELINE, STYLE_COPY_BASELINE, read_settings
from stylezoo.images import grid, write_image
from stylezoo.inference import Stylizer, load_image
from stylezoo.module import StyleModel

MOST_BYTES = 150_000
"""Of an image."""


@dataclass(frozen=True)
class Evaluation:
    """A folder of `evaluate`.

    Attributes:
        folder: The folder.
        settings: What is in its settings.json.
        rows: Of its summary.csv, {model: {metric: row}}.
    """

    folder: Path
    settings: dict[str, Any]
    rows: dict[str, dict[str, dict[str, str]]]


def evaluations(results: Path) -> Iterator[Evaluation]:
    for path in sorted(results.glob("evaluation*/summary.csv")):
        rows: dict[str, dict[str, dict[str, str]]] = {}
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                rows.setdefault(row["model"], {})[row["metric"]] = row
        settings = read_settings(path.parent)
        if settings is not None:
            yield Evaluation(path.parent, settings, rows)


def differences(told: dict[str, Any], model: StyleModel) -> list[tuple[str, Any, Any]]:
    """(setting, the recipe's value, the model's) of what was trained otherwise than the recipe says."""
    recipe = registry.read_recipe(registry.RECIPES.parent / told["recipe"])
    defaults = {name: p.default for name, p in inspect.signature(type(model)).parameters.items()}
    planned = defaults | recipe["model"].get("init_args", {})
    own = {"style_name", "style_names"} | model.local_settings
    found = [(k, planned[k], v) for k, v in told["settings"].items() if k in planned and k not in own]
    asked = recipe.get("data", {}) | recipe.get("trainer", {})
    run = {"max_steps": told["steps"]} | {
        k: v for k, v in told.get("run", {}).items() if k not in ("max_steps", "seed")
    }
    found += [(k, asked.get(k), v) for k, v in run.items() if k in asked or k == "gradient_clip_val"]
    return [(k, a, b) for k, a, b in found if json.dumps(a) != json.dumps(b)]


def numbers(tags: list[str], found: Evaluation, output: Path) -> str:
    """The rows of some tags and of all weights that do not ship, between the baselines."""
    shipped = weights.table().models
    others = [name for name in found.settings["models"] if name not in shipped]
    compared = [*(tag for tag in tags if tag in found.rows), *(n for n in others if n in found.rows)]
    names = [IDENTITY_BASELINE, *compared, STYLE_COPY_BASELINE]
    metrics = found.rows[IDENTITY_BASELINE]
    arrows = {"lower": "↓", "higher": "↑"}
    lines = [["", *(f"{name} {arrows[row['better']]}" for name, row in metrics.items())]]
    lines += [["---"] * len(lines[0])]
    for name in names:
        cells = [found.rows[name][metric] for metric in metrics]
        label = f"**{name}**" if name in tags else name
        lines.append([label, *(f"{float(c['mean']):.4g}" + interval(c) for c in cells)])
    protocol, backbones = found.settings["protocol"], dict.fromkeys(row["backbone"] for row in metrics.values())
    summary = os.path.relpath(found.folder / "summary.md", output)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + (
        f"\n\nMeans over {next(iter(metrics.values()))['n']} pairs of images, {protocol['crop']} x {protocol['crop']} pixels,"
        f" seen with {', '.join(name for name in backbones if name != 'none')}; in brackets 95 % intervals over pairs."
        f" *{IDENTITY_BASELINE}* is the identity baseline, *{STYLE_COPY_BASELINE}* the style-copy baseline. Rows in plain letters"
        f" are public weights of others. [All settings]({summary})."
    )


def interval(row: dict[str, str]) -> str:
    return f" [{float(row['low']):.4g}, {float(row['high']):.4g}]" if row["low"] else ""


def limits(tag: str, entry: weights.ModelFile, model: StyleModel, told: dict[str, Any]) -> list[str]:
    """What the weights cannot do, in sentences."""
    planned = next((a for name, a, _ in differences(told, model) if name == "max_steps"), 0)
    share = f", {100 * entry.steps / planned:.2g} % of the recipe's {planned:,}" if planned > 0 else ""
    found = [f"Trained for {entry.steps:,} steps{share}."]
    if told.get("run", {}).get("start"):
        found = [f"Trained for {entry.steps:,} steps{share}, from the weights of {told['run']['start']}."]
    if entry.encoder is not None:
        found.append(
            f"Sees with [{entry.encoder}](../slim_encoder/README.md), a distilled VGG-19 of half the channels, not with VGG itself."
        )
    looked = told["settings"].get("loss_encoder") or told["settings"].get("encoder")
    if looked is not None and looked != entry.encoder:
        found.append(f"Its losses looked with {looked}, which painting does without.")
    if model.kind in ("single", "multi"):
        found.append(
            f"Paints in {'one style' if len(model.styles) == 1 else f'{len(model.styles)} styles'} and no other."
        )
    with safe_open(entry.path, "pt") as file:
        coarse = any(key.endswith(quantization.SUFFIX) for key in file.keys())  # noqa: SIM118 - not a dict
    return [*found, "Large matrices are stored in 8 bits per number." if coarse else "Stored in 16 bits per number."]


def picture(models: dict[str, StyleModel], path: Path, size: int = 160) -> str:
    """Writes the image of a system, a row per painting, tag or trained style; returns what is on it."""
    photos = torch.stack([square(Image.fromarray(photo()), size) for photo in PHOTOS[:3]])
    rows: list[list[Tensor]] = []
    told = []
    for tag, model in models.items():
        if model.kind == "arbitrary":
            styles: list[Any] = [load_image(draw("paintings", index, size)) for index in PAINTINGS[:3]]
        else:
            styles = model.styles[:: max(1, len(model.styles) // 6)][:6] if model.kind == "multi" else [None]
        for style in styles:
            outputs = [*Stylizer(model, [] if style is None else [style])(photos)]
            rows.append([style, *outputs] if isinstance(style, Tensor) else outputs)
        told.append(f"`{tag}`" + (f" in {', '.join(styles)}" if model.kind == "multi" else ""))
    blank = [torch.ones(3, size, size)] * (len(rows[0]) - len(photos))
    quality = 90
    write_image(grid([[*blank, *photos], *rows]), path, quality)
    while path.stat().st_size > MOST_BYTES and quality > 30:
        quality -= 5
        write_image(grid([[*blank, *photos], *rows]), path, quality)
    paintings = " First column: procedural paintings, the styles." if blank else ""
    return f"First row: photos of scikit-image. Below, row by row: {'; '.join(told)}.{paintings}"


def card(system: str, tags: list[str], found: list[Evaluation], output: Path) -> str:
    """The card of a system, and its image beside it."""
    table, cls = weights.table().models, registry.get(system)
    models = {tag: stylezoo.load_model(tag) for tag in tags}
    caption = picture(models, output / f"{system}.jpg")
    title = (inspect.getdoc(inspect.getmodule(cls)) or system).split("\n")[0]
    default = weights.default_tag(system)
    style = {"arbitrary": " --style painting.jpg", "multi": f" --style {(models[tags[0]].styles or ['0'])[0]}"}.get(
        cls.kind, ""
    )
    parts = [
        f"# {system}",
        f"{title} [Paper]({cls.paper}), [recipe](../../{table[tags[0]].recipe}).",
        f"```bash\npython -m stylezoo stylize --model {default} --content photo.jpg{style} --output out.png\n```",
        f"![{system}]({system}.jpg)",
        f"<sub>{caption}</sub>",
    ]
    for tag in tags:
        entry, told = table[tag], weights.read_metadata(table[tag].path)
        mark = f" (what the name `{system}` loads)" if tag == default and len(tags) > 1 else ""
        parameters = sum(p.numel() for p in models[tag].parameters())
        facts = {
            "File": f"`{entry.file}`, {(entry.bytes or 0) / 1e6:.2f} MB, sha256 `{entry.sha256[:12]}`, {parameters:,} parameters"
            + (" with the encoder's" if entry.encoder else ""),
            "Trained on": entry.data,
            "Recipe": f"`{entry.recipe}`, {entry.steps:,} steps, published at commit `{entry.commit}`",
            "License": entry.license,
            "Styles": ", ".join(entry.styles),
            "Note": entry.note,
        }
        parts.append(f"## {tag}{mark}")
        parts.append("\n".join(f"* {name}: {fact}" for name, fact in facts.items() if fact))
        changed = differences(told, models[tag])
        if changed:
            rows = "\n".join(f"| `{k}` | {a} | {b} |" for k, a, b in changed)
            parts.append(f"| otherwise than in the recipe | recipe | here |\n|---|---|---|\n{rows}")
        parts.append("Limits: " + " ".join(limits(tag, entry, models[tag], told)))
    for evaluation in found:
        measured = [tag for tag in tags if tag in evaluation.rows]
        if measured:
            parts += [f"## Measured: {', '.join(measured)}", numbers(measured, evaluation, output)]
    missing = [tag for tag in tags if not table[tag].metrics]
    if missing:
        parts.append(f"Not measured yet on held-out images: {', '.join(missing)}.")
    return "\n\n".join(parts) + "\n"


def check(found: list[Evaluation]) -> None:
    """Takes means into the table; raises a ValueError if numbers are not those of the weights that ship."""
    models = weights.table().models
    for tag in models:
        models[tag] = replace(models[tag], metrics={})
    for evaluation in found:
        for tag in evaluation.rows.keys() & models.keys():
            if model_key(stylezoo.load_model(models[tag].path)) != evaluation.settings["models"][tag]:
                raise ValueError(
                    f"{evaluation.folder} measured other weights of {tag} than those that ship: measure again (make results)."
                )
            means = {metric: float(f"{float(row['mean']):.5g}") for metric, row in evaluation.rows[tag].items()}
            models[tag] = replace(models[tag], metrics=means)
    weights.write_table(weights.table())


def main(output: Path = Path("docs/models"), results: Path = Path("results")) -> None:
    """Writes all cards.

    Args:
        output: Their folder.
        results: Folder with the evaluations.
    """
    found = list(evaluations(results))
    check(found)
    by_system: dict[str, list[str]] = {}
    for tag, entry in weights.table().models.items():
        by_system.setdefault(entry.system, []).append(tag)
    output.mkdir(parents=True, exist_ok=True)
    for path in [*output.glob("*.md"), *output.glob("*.jpg")]:  # of what does not ship any more
        if path.stem not in by_system:
            path.unlink()
    rows = []
    for system, tags in sorted(by_system.items()):
        (output / f"{system}.md").write_text(card(system, tags, found, output))
        for tag in tags:
            entry = weights.table().models[tag]
            metrics = [f"{entry.metrics[name]:.4g}" if name in entry.metrics else "-" for name in INDEX]
            megabytes = f"{(entry.bytes or 0) / 1e6:.2f}"
            rows.append(
                [
                    f"[{tag}]({system}.md)",
                    registry.get(system).kind,
                    megabytes,
                    f"{entry.steps:,}",
                    str(entry.license),
                    *metrics,
                ]
            )
    total = sum(file.bytes or 0 for file in weights.table().files.values() if file.file is not None)
    summary = os.path.relpath(results / "README.md", output)
    heading = ["weights", "takes", "MB", "steps", "license", *INDEX]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows))
    (output / "README.md").write_text(
        "# Weights that ship with the package\n\n"
        f"All together {total / 1e6:.1f} MB, with the [slim encoder](../slim_encoder/README.md) that most of them see with. Names"
        " are what `--model` and `stylezoo.load_model` take. Written by `python tools/cards.py`.\n\n"
        f"{table}\n\nNumbers are means over pairs of images that training does not see ([results]({summary})); those of single-"
        " and multi-style models are over their own styles and cannot be compared with the others. Each card has them with"
        " intervals, between the identity and the style-copy baseline.\n"
    )
    print(f"{len(by_system)} cards, {len(rows)} weights: {output}")


INDEX = ("content_loss", "style_loss", "ssim")
"""The metrics of the index."""


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
