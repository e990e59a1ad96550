"""Puts a trained model into the package: its file, and its entry in the table of weights.

    python tools/publish.py --checkpoint last.ckpt --tag adain.slim --recipe experiments/adain.yaml \\
        --data "COCO 2017 and WikiArt, 40,000 images each" [--default true]
    python tools/publish.py --checkpoint stylezoo/pretrained/adain.slim.safetensors --tag adain.slim --bits 8

The second line writes a file that ships anew, in other bits: what is known of it stays.
The checkpoint of a run with averaged weights (EMA) holds the average. The file, stylezoo/pretrained/TAG.safetensors, has
matrices of 16 or 8 bits and no encoder: it paints with the one that ships, and is refused if it was trained with another.
What paths the settings had stays behind; what the model is (settings, recipe, data, steps, license, commit) is kept in the
file's metadata, and in the table with the checksum, the size and what it paints (`stylezoo.inference.fingerprint`), as the
file does it. Publishing a tag again replaces it.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import yaml
from jsonargparse import auto_cli

import stylezoo
from stylezoo import quantization, weights
from stylezoo.download import checksum
from stylezoo.inference import fingerprint
from stylezoo.module import StyleModel
from stylezoo.registry import RECIPES

LARGEST, TOTAL = 20_000_000, 60_000_000
"""Bytes of one model, and of all files that ship."""

ALLOWED = 0.02
"""Of white, that areas of a painting may differ by for the sake of fewer bits."""


def commit() -> str:
    """Of this checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run_of(checkpoint: Path) -> dict[str, Any]:
    """How the run was set up that left a checkpoint, as its folder tells; nothing if that is gone."""
    file = checkpoint.resolve().parents[1] / "config.yaml"
    config = yaml.safe_load(file.read_text()) if file.is_file() else {}
    wanted = {"data": ("batch_size", "size", "crop"), "trainer": ("max_steps", "precision", "gradient_clip_val")}
    run = {name: config.get(part, {}).get(name) for part, names in wanted.items() for name in names}
    run["seed"] = config.get("seed_everything")
    start = config.get("start")
    run["start"] = "an earlier run" if start is not None and Path(start).suffix else start
    return {name: value for name, value in run.items() if value is not None}


def deviation(golden: list[float], model: StyleModel) -> float:
    """By how much of white areas of what a model paints differ at most."""
    return max(abs(a - b) for a, b in zip(golden, fingerprint(model), strict=True))


def sensitive(model: StyleModel) -> list[str]:
    """The tensors whose rounding to 8 bits would show, alone, by a fifth of what is allowed."""
    golden, tensors = fingerprint(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = []
    for name, tensor in tensors.items():
        small = quantization.quantize({name: tensor}, 8)
        if len(small) == 1:  # no units, so no 8 bits
            continue
        model.load_state_dict(tensors | quantization.dequantize(small))
        if deviation(golden, model) > ALLOWED / 5:
            found.append(name)
    model.load_state_dict(tensors)
    return found


def history(checkpoint: Path, recipe: Path | None, data: str | None, license: str) -> dict[str, Any]:
    """How a model came to be: what its file tells of a published one, else what is given and the checkpoint knows."""
    if checkpoint.suffix == ".safetensors":
        card = weights.read_metadata(checkpoint)
        return {key: card[key] for key in ("data", "recipe", "steps", "commit", "license", "note", "run")}
    if recipe is None or data is None:
        raise ValueError(f"{checkpoint} is to be published: name the recipe and the data that it was trained with.")
    name = recipe.as_posix().rpartition("experiments/")[2]  # with the folder of an overlay
    if not (RECIPES / name).is_file():
        raise ValueError(f"{recipe} is no recipe of {RECIPES}.")
    steps = torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"]
    return {
        "data": data,
        "recipe": f"experiments/{name}",
        "steps": steps,
        "commit": commit(),
        "license": license,
        "run": run_of(checkpoint),
    }


def main(
    checkpoint: Path,
    tag: str,
    recipe: Path | None = None,
    data: str | None = None,
    license: str = "MIT",
    note: str | None = None,
    default: bool = False,
    bits: Literal[8, 16] = 16,
) -> None:
    """Publishes a model.

    Args:
        checkpoint: Of a training run; or a file that ships, whose recipe, data, license and note stay.
        tag: SYSTEM.NAME, what `stylezoo.load_model` shall load it by.
        recipe: Of the training, one of experiments/.
        data: What it was trained on, in words: sets, how many images, their licenses.
        license: Of the weights.
        note: What else should be known: how it was trained in several runs, which teacher it had.
        default: Whether the bare name of the system loads it.
        bits: Of its numbers; 8 for large systems, but for tensors whose rounding would show.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*\.[a-z0-9_]+", tag):
        raise ValueError(f"A tag is SYSTEM.NAME in lower case, such as adain.slim, not {tag!r}.")
    about = {"note": note, **history(checkpoint, recipe, data, license)}
    model = stylezoo.load_model(checkpoint)
    if model.system != tag.split(".")[0]:
        raise ValueError(f"{checkpoint} is a {model.system}: its tag is {model.system}.NAME, not {tag}.")
    table = weights.table()
    with TemporaryDirectory(dir=weights.PRETRAINED, prefix=".publish") as folder:
        file = Path(folder) / f"{tag}.safetensors"
        stylezoo.save_model(
            model,
            file,
            packed=True,
            bits=bits,
            half=sensitive(model) if bits == 8 else (),
            about=about,
        )
        size, others = file.stat().st_size, [f for name, f in table.files.items() if f.file is not None and name != tag]
        total = size + sum(other.path.stat().st_size for other in others)
        if size > LARGEST or total > TOTAL:
            raise ValueError(
                f"{tag} takes {size / 1e6:.1f} MB, all files together {total / 1e6:.1f} MB; {LARGEST / 1e6:.0f} and"
                f" {TOTAL / 1e6:.0f} are the most that ship: make it thinner (width), or publish fewer."
            )
        packed = stylezoo.load_model(file)
        golden = fingerprint(packed)
        error = deviation(fingerprint(model), packed)
        if not error <= ALLOWED:
            raise ValueError(f"{tag} paints something else in {bits} bits: areas differ by up to {error:.3f} of white.")
        entry = weights.ModelFile(
            file=file.name,
            sha256=checksum(file),
            bytes=size,
            system=model.system,
            encoder=next((vgg.name for name, vgg in packed.encoders() if name != "_loss_network"), None),
            styles=model.styles,
            default=default or (tag in table.models and table.models[tag].default),
            golden=golden,
            **{key: value for key, value in about.items() if key != "run"},
        )
        file.replace(entry.path)
    if default:
        for name, other in table.models.items():
            if other.system == model.system:
                table.models[name] = replace(other, default=False)
    table.models[tag] = entry
    weights.write_table(table)
    print(f"{entry.path}: {size / 1e6:.2f} MB of {total / 1e6:.1f}, {error:.4f} of white from the checkpoint's output")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
