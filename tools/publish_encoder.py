"""Adds a trained slim encoder to the package: its file, and its sha256 in the table of weights.

    python benchmarks/slim_encoder.py --output docs/slim_encoder --checkpoint last.ckpt ...
    python tools/publish_encoder.py --checkpoint last.ckpt --measured docs/slim_encoder/layers.csv \\
        --data "COCO 2017 and WikiArt, 40,000 images each"

The file has 16 bits per number; its metadata describe the training, with the measurements of the first command. Models
that were trained with the encoder before refuse the new one.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from safetensors.torch import save

from stylezoo import weights
from stylezoo.files import replacing
from stylezoo.vgg import VGG
from stylezoo.weights import write_table

NAME = "vgg19_slim"


def history(checkpoint: Path, data: str, measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the metadata of the file: how the encoder was trained, and its measurements."""
    run = torch.load(checkpoint, map_location="cpu", weights_only=True)
    settings = {k: v for k, v in run["hyper_parameters"].items() if not k.endswith("_weights") and k[0] != "_"}
    return {
        "name": NAME,
        "license": "MIT",
        "recipe": "experiments/slim_encoder.yaml",
        "settings": settings,
        "steps": run["global_step"],
        "data": data,
        "teachers": run["stylezoo"]["encoders"],
        "measured": measured,
    }


def read(table: Path) -> list[dict[str, Any]]:
    """Returns the rows of layers.csv with their numbers."""
    words = ("images", "layer", "teacher")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v if k in words else int(v) if k == "count" else float(v) for k, v in row.items()} for row in rows]


def main(checkpoint: Path, measured: Path, data: str) -> None:
    """Publishes an encoder.

    Args:
        checkpoint: The last checkpoint of a training with experiments/slim_encoder.yaml.
        measured: The table layers.csv that ``benchmarks/slim_encoder.py`` wrote for this checkpoint.
        data: The training data in words: data sets, numbers of images, their licenses.
    """
    file = install(VGG(NAME, str(checkpoint)), history(checkpoint, data, read(measured)))
    print(f"{file.path}: {(file.bytes or 0) / 1e6:.2f} MB")


def install(encoder: VGG, card: dict[str, Any]) -> weights.WeightFile:
    """Writes the file of the package with a card as its metadata, and its sha256 to the table; returns the entry."""
    tensors = {k: v.half().contiguous() for k, v in encoder.tensors.items() if not k.startswith("preprocess")}
    content = save(tensors, metadata={"stylezoo": json.dumps(card)})
    table = weights.table()
    file = replace(table.encoders[NAME], sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    with replacing(file.path) as opened:
        opened.write(content)
    table.encoders[NAME] = file
    write_table(table)
    return file


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
