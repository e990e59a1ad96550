"""Adds a trained model to the package: its file, and its entry in the table of weights.

    python tools/publish.py --checkpoint last.ckpt --tag adain.slim --recipe experiments/adain.yaml \\
        --data "COCO 2017 and WikiArt, 40,000 images each" [--default true]
    python tools/publish.py --checkpoint stylezoo/pretrained/adain.slim.safetensors --tag adain.slim --bits 8

The second command writes a file that ships again with other bits; its metadata stay. The checkpoint of a run with
averaged weights (EMA) holds the average. The file, stylezoo/pretrained/TAG.safetensors, has matrices of 16 or 8 bits and
no encoder: it uses the encoder that ships, and is refused if the model was trained with another one. Paths are removed
from the settings. The metadata of the file describe the model (settings, recipe, data, steps, license, commit); the table
has in addition the checksum, the size and the fingerprint of the outputs (`stylezoo.inference.fingerprint`), computed
with the file. Publishing a tag again replaces it.
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
"""The largest sizes of one model and of all files that ship, in bytes."""

ALLOWED = 0.02
"""The largest difference between areas of an output before and after rounding to fewer bits, as a share of white."""


def commit() -> str:
    """Returns the commit of this checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run_of(checkpoint: Path) -> dict[str, Any]:
    """Returns the settings of the run that wrote a checkpoint, or nothing if its folder has no config.yaml."""
    file = checkpoint.resolve().parents[1] / "config.yaml"
    config = yaml.safe_load(file.read_text()) if file.is_file() else {}
    wanted = {
        "data": ("batch_size", "size", "crop"),
        "trainer": ("max_steps", "precision", "gradient_clip_val"),
        "training": ("loss_encoder",),
    }
    run = {name: (config.get(part) or {}).get(name) for part, names in wanted.items() for name in names}
    run["seed"] = config.get("seed_everything")
    start = config.get("start")
    run["start"] = "an earlier run" if start is not None and Path(start).suffix else start
    return {name: value for name, value in run.items() if value is not None}


def deviation(golden: list[float], model: StyleModel) -> float:
    """Returns the largest difference between a fingerprint and that of a model, as a share of white."""
    return max(abs(a - b) for a, b in zip(golden, fingerprint(model), strict=True))


def sensitive(model: StyleModel) -> list[str]:
    """Returns the tensors whose rounding to 8 bits alone changes outputs by more than a fifth of what is allowed."""
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
    """Returns the history of a model, which its metadata describe.

    Args:
        checkpoint: A checkpoint, or a published file, whose metadata are returned.
        recipe: The recipe of a checkpoint.
        data: The training data of a checkpoint.
        license: The license of a checkpoint.

    Raises:
        ValueError: If recipe or data are missing, or the recipe does not ship.
    """
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
        tag: SYSTEM.NAME, the name that `stylezoo.load_model` loads it by.
        recipe: The recipe of the training, one of experiments/.
        data: The training data in words: data sets, numbers of images, their licenses.
        license: License of the weights.
        note: Further facts, such as several training runs or a teacher.
        default: Whether the bare name of the system loads it.
        bits: Bits per number; 8 for large systems, except for tensors whose rounding changes the outputs.
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
        half = sensitive(model) if bits == 8 else ()
        stylezoo.save_model(model, file, packed=True, bits=bits, half=half, about=about)
        total = total_size(tag, file)
        packed = stylezoo.load_model(file)
        error = deviation(fingerprint(model), packed)
        if not error <= ALLOWED:
            raise ValueError(f"The outputs of {tag} differ in {bits} bits: areas differ by up to {error:.3f} of white.")
        entry = weights.ModelFile(
            file=file.name,
            sha256=checksum(file),
            bytes=file.stat().st_size,
            system=model.system,
            encoder=next((vgg.name for name, vgg in packed.encoders() if name != "loss_encoder"), None),
            styles=model.styles,
            default=default or (tag in table.models and table.models[tag].default),
            golden=fingerprint(packed),
            **{key: value for key, value in about.items() if key != "run"},
        )
        file.replace(entry.path)
    add_entry(tag, entry, replace_default=default)
    size = entry.bytes or 0
    print(f"{entry.path}: {size / 1e6:.2f} MB of {total / 1e6:.1f}, {error:.4f} of white from the checkpoint's output")


def total_size(tag: str, file: Path) -> int:
    """Returns the size of all files that ship in bytes, with a new file for a tag.

    Raises:
        ValueError: If the file or all files together are too large.
    """
    size = file.stat().st_size
    others = [f for name, f in weights.table().files.items() if f.file is not None and name != tag]
    total = size + sum(other.path.stat().st_size for other in others)
    if size > LARGEST or total > TOTAL:
        raise ValueError(
            f"{tag} takes {size / 1e6:.1f} MB, all files together {total / 1e6:.1f} MB; {LARGEST / 1e6:.0f} and"
            f" {TOTAL / 1e6:.0f} are the most that ship: make it thinner (width), or publish fewer."
        )
    return total


def add_entry(tag: str, entry: weights.ModelFile, replace_default: bool) -> None:
    """Adds an entry to the table of weights, or replaces it; it may replace the default of its system, too."""
    table = weights.table()
    if replace_default:
        for name, other in table.models.items():
            if other.system == entry.system:
                table.models[name] = replace(other, default=False)
    table.models[tag] = entry
    weights.write_table(table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
