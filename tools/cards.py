"""Writes model cards: docs/models/SYSTEM.md and an image for every system whose weights ship, and an index of them.

    python tools/cards.py --output docs/models --results results

The sources of a card are the table of weights, the metadata of the files, the recipes, and the evaluations in RESULTS
(`make results`: folders evaluation*/ as `python -m stylezoo evaluate` writes them). Numbers are used only if they were
measured with the weights that ship; their means are written to the table of weights as well. The contents of the images
are scikit-image's public-domain photos, the styles are those that a network was trained on, or procedural paintings.
"""

from __future__ import annotations

import csv
import inspect
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import picture_check
import torch
from contact_sheet import Style, painting, photo, styles_of, stylizer
from jsonargparse import auto_cli
from safetensors import safe_open
from torch import Tensor

import stylezoo
from stylezoo import quantization, registry, weights
from stylezoo.evaluation.evaluate import model_key
from stylezoo.evaluation.store import ARROWS, IDENTITY_BASELINE, STYLE_COPY_BASELINE, read_settings
from stylezoo.files import replacing
from stylezoo.images import grid, write_image
from stylezoo.legacy import moved_to_training, upgrade_settings
from stylezoo.module import StyleModel

MOST_BYTES = 150_000
"""The largest size of an image file."""


@dataclass(frozen=True)
class Evaluation:
    """A folder that `evaluate` wrote.

    Attributes:
        folder: The folder.
        settings: Its settings.json.
        rows: The rows of its summary.csv, {model: {metric: row}}.
    """

    folder: Path
    settings: dict[str, Any]
    rows: dict[str, dict[str, dict[str, str]]]


def evaluations(results: Path) -> Iterator[Evaluation]:
    """Reads all evaluations of a folder."""
    for path in sorted(results.glob("evaluation*/summary.csv")):
        rows: dict[str, dict[str, dict[str, str]]] = {}
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                rows.setdefault(row["model"], {})[row["metric"]] = row
        settings = read_settings(path.parent)
        if settings is not None:
            yield Evaluation(path.parent, settings, rows)


def differences(told: dict[str, Any], model: StyleModel) -> list[tuple[str, Any, Any]]:
    """Returns (setting, value of the recipe, value of the model) of settings in which the training differed from its recipe."""
    recipe = registry.read_recipe(registry.RECIPES.parent / told["recipe"])
    defaults = {name: p.default for name, p in inspect.signature(type(model)).parameters.items()}
    planned = defaults | recipe["model"].get("init_args", {})
    own = {"style_name", "style_names"} | model.local_settings
    settings = upgrade_settings(model.system, told["settings"])
    found = [(k, planned[k], v) for k, v in settings.items() if k in planned and k not in own]
    asked = recipe.get("data", {}) | recipe.get("trainer", {})
    run = {"max_steps": told["steps"]} | {
        k: v for k, v in told.get("run", {}).items() if k not in ("max_steps", "seed")
    }
    found += [(k, asked.get(k), v) for k, v in run.items() if k in asked or k == "gradient_clip_val"]
    found += [(k, None, v) for k, v in training_options(model.system, told).items()]
    return [(k, a, b) for k, a, b in found if json.dumps(a) != json.dumps(b)]


FORMER_SETTINGS = {
    "first_pictures": ("training.initialization.crops", 0),
    "freeze_predictor": ("training.freeze", False),
    "distillation_weight": ("training.objective.weight", 1.0),
    "imitation_weight": ("training.objective.imitation_weight", 0.0),
    "norm_momentum": ("training.batch_norm_momentum", None),
}
"""{setting of models published by earlier versions: (the option of training that it is now, the value that stands for none)}."""


def training_options(system: str, told: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of training, which are in no recipe of a system, that a published model was trained with."""
    settings, loss_encoder = told["settings"], told.get("run", {}).get("loss_encoder")
    found: dict[str, Any] = {}
    for old, (new, none) in FORMER_SETTINGS.items():
        if moved_to_training(system, old) and settings.get(old, none) != none:
            found[new] = ["predictor"] if old == "freeze_predictor" else settings[old]
    if "training.initialization.crops" in found:
        found["training.optimizer"] = "PreconditionedAdam"
    if moved_to_training(system, "loss_encoder"):
        loss_encoder = loss_encoder or settings.get("loss_encoder")
    return found if loss_encoder is None else {**found, "training.loss_encoder": loss_encoder}


def numbers(tags: list[str], found: Evaluation, output: Path) -> str:
    """Returns the table of an evaluation: some tags and all weights that do not ship, between the two baselines.

    Args:
        tags: The tags.
        found: The evaluation.
        output: The folder of the card, for links.
    """
    shipped = weights.table().models
    others = [name for name in found.settings["models"] if name not in shipped]
    compared = [*(tag for tag in tags if tag in found.rows), *(n for n in others if n in found.rows)]
    names = [IDENTITY_BASELINE, *compared, STYLE_COPY_BASELINE]
    metrics = found.rows[IDENTITY_BASELINE]
    parts = [table_of(found, names, tags, list(metrics), lambda row: f"{float(row['mean']):.4g}{interval(row)}")]
    protocol, backbones = found.settings["protocol"], dict.fromkeys(row["backbone"] for row in metrics.values())
    summary = os.path.relpath(found.folder / "summary.md", output)
    held_out = f" of the splits {' and '.join(protocol['split'])}" if protocol.get("split") else ""
    parts.append(
        f"Means over {next(iter(metrics.values()))['n']} pairs of images{held_out}, {protocol['crop']} x {protocol['crop']} pixels,"
        f" measured with {', '.join(name for name in backbones if name != 'none')}; in brackets 95 % intervals over pairs. *{IDENTITY_BASELINE}*"
        f" is the identity baseline, which returns the content; *{STYLE_COPY_BASELINE}* is the style-copy baseline, which returns the style. Rows"
        f" in plain letters are public weights of others. [All settings]({summary})."
    )
    with_medians = [metric for metric, row in metrics.items() if row.get("median")]
    if with_medians:
        parts.append("Medians over the same pairs, in brackets the 10th and 90th percentile:")
        parts.append(table_of(found, names, tags, with_medians, lambda row: percentiles(row, "")))
    rated = [name for name in compared if any(row.get("ratio_median") for row in found.rows[name].values())]
    if rated:
        reference = next(row["reference"] for row in found.rows[rated[0]].values() if row["reference"])
        parts.append(
            f"The same values divided by those of {reference}, pair by pair: median, in brackets the 10th and 90th percentile,"
            " in parentheses the ratio of means, which a few pairs decide:"
        )
        parts.append(
            table_of(
                found,
                rated,
                tags,
                with_medians,
                lambda row: f"{percentiles(row, 'ratio_')} ({float(row['ratio_of_means']):.4g})",
            )
        )
    return "\n\n".join(parts)


def table_of(
    found: Evaluation, names: list[str], tags: list[str], metrics: list[str], cell: Callable[[dict[str, str]], str]
) -> str:
    """Returns a table with a row per model, in bold letters for some tags, and a column per metric.

    Args:
        found: The evaluation.
        names: The models.
        tags: Those in bold letters.
        metrics: The metrics.
        cell: Writes a row of summary.csv as a cell.
    """
    lines = [["", *(f"{name} {ARROWS[found.rows[names[0]][name]['better']]}" for name in metrics)]]
    lines += [["---"] * len(lines[0])]
    for name in names:
        label = f"**{name}**" if name in tags else name
        lines.append([label, *(cell(found.rows[name][metric]) for metric in metrics)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percentiles(row: dict[str, str], prefix: str) -> str:
    """Returns a median with the 10th and 90th percentile in brackets, of the columns of summary.csv with a prefix."""
    median, low, high = (float(row[f"{prefix}{name}"]) for name in ("median", "p10", "p90"))
    return f"{median:.4g} [{low:.4g}, {high:.4g}]" if math.isfinite(median) else "not defined"


def interval(row: dict[str, str]) -> str:
    """Returns the interval of a mean in brackets, or nothing if there is none."""
    return f" [{float(row['low']):.4g}, {float(row['high']):.4g}]" if row["low"] else ""


def limits(tag: str, entry: weights.ModelFile, model: StyleModel, told: dict[str, Any]) -> list[str]:
    """Returns sentences on the limits of weights."""
    planned = next((a for name, a, _ in differences(told, model) if name == "max_steps"), 0)
    share = f", {100 * entry.steps / planned:.2g} % of the recipe's {planned:,}" if planned > 0 else ""
    found = [f"Trained for {entry.steps:,} steps{share}."]
    if told.get("run", {}).get("start"):
        found = [f"Trained for {entry.steps:,} steps{share}, from the weights of {told['run']['start']}."]
    if entry.encoder is not None:
        found.append(
            f"The encoder is [{entry.encoder}](../slim_encoder/README.md), a distilled VGG-19 of half the channels, not VGG itself."
        )
    judged = (
        told.get("run", {}).get("loss_encoder")
        or told["settings"].get("loss_encoder")
        or told["settings"].get("encoder")
    )
    if judged is not None and judged != entry.encoder:
        found.append(f"The network of its losses was {judged}, which inference does not need.")
    if model.kind in ("single", "multi"):
        found.append(f"It has {'one style' if len(model.styles) == 1 else f'{len(model.styles)} styles'} and no other.")
    known = picture_check.sentence(tag)
    found += [known] if known is not None else []
    with safe_open(entry.path, "pt") as file:
        coarse = any(key.endswith(quantization.SUFFIX) for key in file.keys())  # noqa: SIM118 - not a dict
    return [*found, "Large matrices are stored in 8 bits per number." if coarse else "Stored in 16 bits per number."]


def sheet(models: dict[str, StyleModel], path: Path, size: int = 160) -> str:
    """Writes the image of a system, with a row per painting, tag or trained style.

    Args:
        models: {tag: model} of the system.
        path: The image file.
        size: Side of each image in pixels.

    Returns:
        The caption.
    """
    photos = torch.stack([photo(index, size) for index in range(3)])
    paintings = [painting(index, size) for index in range(3)]
    rows: list[list[Tensor]] = []
    told = []
    for tag, model in models.items():
        styles: list[Style] = styles_of(model, 6, paintings)
        for style in styles:
            outputs = [*stylizer(model, style)(photos)]
            rows.append([style, *outputs] if isinstance(style, Tensor) else outputs)
        told.append(f"`{tag}`" + (f" in {', '.join(map(str, styles))}" if model.kind == "multi" else ""))
    blank = [torch.ones(3, size, size)] * (len(rows[0]) - len(photos))
    quality = 90
    write_image(grid([[*blank, *photos], *rows]), path, quality)
    while path.stat().st_size > MOST_BYTES and quality > 30:
        quality -= 5
        write_image(grid([[*blank, *photos], *rows]), path, quality)
    first = " First column: procedural paintings, the styles." if blank else ""
    return f"First row: photos of scikit-image. Below, row by row: {'; '.join(told)}.{first}"


def card(system: str, tags: list[str], found: list[Evaluation], output: Path) -> str:
    """Writes the image of a system and returns its card.

    Args:
        system: The system.
        tags: The tags of its weights that ship.
        found: All evaluations.
        output: The folder of the cards.
    """
    table, cls = weights.table().models, registry.get(system)
    models = {tag: stylezoo.load_model(tag) for tag in tags}
    caption = sheet(models, output / f"{system}.jpg")
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
        mark = f" (the default of `{system}`)" if tag == default and len(tags) > 1 else ""
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
            parts.append(f"| different from the recipe | recipe | here |\n|---|---|---|\n{rows}")
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
    """Writes the means of all evaluations to the table of weights.

    Raises:
        ValueError: If an evaluation measured other weights than those that ship.
    """
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
    for path in [*output.glob("*.md"), *output.glob("*.jpg")]:  # of systems that do not ship any more
        if path.stem not in by_system:
            path.unlink()
    pages = {f"{system}.md": card(system, tags, found, output) for system, tags in sorted(by_system.items())}
    pages["README.md"] = index(os.path.relpath(results / "README.md", output))
    for name, text in pages.items():
        with replacing(output / name) as file:
            file.write(text.encode())
    print(f"{len(by_system)} cards, {len(weights.table().models)} weights: {output}")


def index(results: str) -> str:
    """Returns the index of all weights that ship, with a link to the results."""
    heading = ["weights", "takes", "MB", "steps", "license", *INDEX]
    rows = [heading, ["---"] * len(heading)]
    for tag, entry in sorted(weights.table().models.items(), key=lambda item: item[1].system):
        megabytes, kind = f"{(entry.bytes or 0) / 1e6:.2f}", registry.get(entry.system).kind
        metrics = [f"{entry.metrics[name]:.4g}" if name in entry.metrics else "-" for name in INDEX]
        rows.append([f"[{tag}]({entry.system}.md)", kind, megabytes, f"{entry.steps:,}", str(entry.license), *metrics])
    total = sum(file.bytes or 0 for file in weights.table().files.values() if file.file is not None)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        "# Weights that ship with the package\n\n"
        f"All together {total / 1e6:.1f} MB, with the [slim encoder](../slim_encoder/README.md) that most of them use. Names"
        " are what `--model` and `stylezoo.load_model` accept. Written by `python tools/cards.py`.\n\n"
        f"{table}\n\nNumbers are means over pairs of images that no training used ([results]({results})); those of single-"
        " and multi-style models are over their own styles and cannot be compared with the others. Each card has them with"
        " intervals, between the identity baseline and the style-copy baseline.\n"
    )


INDEX = ("content_loss", "style_loss", "ssim")
"""The metrics of the index."""


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
