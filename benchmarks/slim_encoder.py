"""How close the slim encoder is to VGG, and what it saves; and how a trained one gets into the package.

    python benchmarks/slim_encoder.py --output docs/slim_encoder \\
        --teacher_weights vgg_normalised_to_relu4_1.pth --deep_teacher_weights encoder_relu5_1_with_aux.pth \\
        --photos data/photos --paintings data/wikiart \\
        [--checkpoint last.ckpt --data "what it was trained on"]

Measures the encoder of the package, or a checkpoint of experiments/slim_encoder.yaml, on the images that the data sets
hold out of training (validation and test). OUTPUT/layers.csv holds, per layer, means over images of

- cosine: between the encoder's features and the teacher's, all of an image as one vector;
- correlation: the same after each channel's mean is subtracted;
- gram_error_percent: |G - G_teacher| / |G_teacher|, Frobenius norms;

OUTPUT/cost.csv the FLOPs (2 per multiply-accumulate) and milliseconds up to relu4_1 of a 512 x 512 image, the smallest of
several runs that alternate between the two networks.

With ``--checkpoint`` the encoder is written to stylezoo/pretrained in 16 bits, measured as it is then, with a card of what it
is in its metadata, and its sha256 into the table of weights. Models that were trained with the one before refuse the new one.
"""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from safetensors.torch import save
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stylezoo import losses, weights
from stylezoo.data import Folder
from stylezoo.data.stream import Framing
from stylezoo.images import read_image, to_tensor
from stylezoo.training.slim_encoder import LAYERS
from stylezoo.vgg import VGG, Features

NAME = "vgg19_slim"


def held_out(root: Path, size: int) -> Iterator[Tensor]:
    """The images of a folder that training does not see, (1, 3, size, size): resized, and cut to the central square."""
    folder, frame = Folder(str(root)), Framing(size, size, "shorter", "center", False)
    for path in [*folder.files("val"), *folder.files("test")]:
        yield to_tensor(frame(read_image(path), None)).unsqueeze(0)


def fidelity(features: Tensor, teacher: Tensor) -> dict[str, float]:
    """How close features (1, C, H, W) are to the teacher's."""
    centered = [x - x.mean((2, 3), keepdim=True) for x in (features, teacher)]
    grams = [losses.gram(x) for x in (features, teacher)]
    return {
        "cosine": float(F.cosine_similarity(features.flatten(), teacher.flatten(), dim=0)),
        "correlation": float(F.cosine_similarity(*(x.flatten() for x in centered), dim=0)),
        "gram_error_percent": 100 * float((grams[0] - grams[1]).norm() / grams[1].norm()),
    }


@torch.no_grad()
def layer_table(
    encoder: VGG, teacher: VGG, deep_teacher: VGG | None, sets: dict[str, Iterator[Tensor]]
) -> list[dict[str, Any]]:
    """One row per set of images and layer."""
    rows = []
    for name, images in sets.items():
        found: dict[str, list[dict[str, float]]] = {}
        for image in images:
            goals: Features = teacher(image, [layer for layer in LAYERS if layer in teacher.channels])
            if deep_teacher is not None:
                goals |= deep_teacher(image, [layer for layer in LAYERS if layer not in goals])
            features = encoder(image, list(goals))
            for layer, goal in goals.items():
                found.setdefault(layer, []).append(fidelity(features[layer], goal))
        for layer, values in found.items():
            means = {key: sum(value[key] for value in values) / len(values) for key in values[0]}
            taught = teacher.name if layer in teacher.channels else "deep teacher"
            rows.append({"pictures": name, "count": len(values), "layer": layer, "teacher": taught, **means})
    return rows


@torch.no_grad()
def cost_table(networks: dict[str, VGG], size: int = 512, runs: int = 7) -> list[dict[str, Any]]:
    """FLOPs and milliseconds up to relu4_1, one row per network."""
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(runs):
        for name, network in networks.items():
            start = time.perf_counter()
            network(image, ["relu4_1"])
            times[name].append(time.perf_counter() - start)
    rows = []
    for name, network in networks.items():
        with FlopCounterMode(display=False) as counter:
            network(image, ["relu4_1"])
        megabytes = sum(p.numel() for p in network.parameters()) * (2 if network.flavor == "slim" else 4) / 1e6
        flops = counter.get_total_flops() / 1e9
        rows.append(
            {"encoder": name, "gflop": flops, "milliseconds": 1e3 * min(times[name][1:]), "file_megabytes": megabytes}
        )
    return rows


def install(encoder: VGG, card: dict[str, Any]) -> None:
    """Writes the file of the package, and its sha256 into the table."""
    tensors = {k: v.half().contiguous() for k, v in encoder.tensors.items() if not k.startswith("preprocess")}
    data = save(tensors, metadata={"stylezoo": json.dumps(card)})
    table = weights.table()
    file = replace(table.encoders[NAME], sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    file.path.write_bytes(data)
    table.encoders[NAME] = file
    weights.write_table(table)


def write(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def main(
    output: Path,
    photos: Path,
    paintings: Path,
    teacher_weights: str,
    deep_teacher_weights: str | None = None,
    checkpoint: Path | None = None,
    data: str = "",
    size: int = 256,
) -> None:
    """Measures the slim encoder, and installs a trained one.

    Args:
        output: Folder of the tables.
        photos: Folder of the photos of training, of which a part is held out.
        paintings: The same of the paintings.
        teacher_weights: File of the normalized VGG-19.
        deep_teacher_weights: File of the slim encoder that taught the layers that this file lacks.
        checkpoint: The trained encoder to install; null measures the one of the package.
        data: What it was trained on, for its card.
        size: Side of the images that are compared.
    """
    teacher = VGG("vgg19_normalised", teacher_weights)
    deep_teacher = None if deep_teacher_weights is None else VGG(NAME, deep_teacher_weights)
    encoder = VGG(NAME, None if checkpoint is None else str(checkpoint))
    for part in (encoder.convs, encoder.maps):
        part.half().float()  # as shipped
    rows = layer_table(
        encoder, teacher, deep_teacher, {"photos": held_out(photos, size), "paintings": held_out(paintings, size)}
    )
    output.mkdir(parents=True, exist_ok=True)
    write(rows, output / "layers.csv")
    if checkpoint is not None:
        run = torch.load(checkpoint, map_location="cpu", weights_only=True)
        card = {
            "name": NAME,
            "license": "MIT",
            "recipe": "experiments/slim_encoder.yaml",
            "settings": {
                k: v for k, v in run["hyper_parameters"].items() if not k.endswith("_weights") and k[0] != "_"
            },
            "steps": run["global_step"],
            "data": data,
            "teachers": run["stylezoo"]["encoders"],
            "measured": rows,
        }
        install(encoder, card)
    write(cost_table({teacher.name: teacher, NAME: encoder}), output / "cost.csv")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
