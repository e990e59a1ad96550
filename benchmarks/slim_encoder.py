"""Measures how close the slim encoder is to VGG, and how much computation it saves.

    python benchmarks/slim_encoder.py --output docs/slim_encoder \\
        --teacher_weights vgg_normalised_to_relu4_1.pth --deep_teacher_weights encoder_relu5_1_with_aux.pth \\
        --photos data/photos --paintings data/wikiart [--checkpoint last.ckpt]

The encoder of the package, or a checkpoint of experiments/slim_encoder.yaml, is measured on the images that the data sets
hold out of training (validation and test), in 16 bits as it ships. OUTPUT/layers.csv has the means over images, per layer:

- cosine: between the encoder's features and the teacher's, where all features of an image are one vector;
- correlation: the same after the mean of each channel is subtracted;
- gram_error_percent: |G - G_teacher| / |G_teacher|, Frobenius norms.

OUTPUT/cost.csv has the FLOPs (2 per multiply-accumulate) and milliseconds up to relu4_1 of a 512 x 512 image, the smallest
of several runs that alternate between the two networks. `tools/publish_encoder.py` adds a measured checkpoint to the
package.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stylezoo import losses
from stylezoo.data import Folder
from stylezoo.data.stream import Framing
from stylezoo.images import read_image, to_tensor
from stylezoo.studies.base import as_csv
from stylezoo.training.slim_encoder import LAYERS
from stylezoo.vgg import VGG, Features

NAME = "vgg19_slim"


def held_out(root: Path, size: int) -> Iterator[Tensor]:
    """Yields the images of a folder that no training uses, resized and cut to the central square, (1, 3, size, size)."""
    folder, frame = Folder(str(root)), Framing(size, size, "shorter", "center", False)
    for path in [*folder.files("val"), *folder.files("test")]:
        yield to_tensor(frame(read_image(path), None)).unsqueeze(0)


def fidelity(features: Tensor, teacher: Tensor) -> dict[str, float]:
    """Computes three measures of the similarity of features (1, C, H, W) to those of the teacher."""
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
    """Compares all layers with the teachers'.

    Args:
        encoder: The slim encoder.
        teacher: The normalized VGG-19.
        deep_teacher: The teacher of the layers that the teacher's file lacks.
        sets: {name: images (1, 3, H, W)}.

    Returns:
        A row per set of images and layer.
    """
    rows = []
    for name, images in sets.items():
        found: dict[str, list[dict[str, float]]] = {}
        for image in images:
            targets: Features = teacher(image, [layer for layer in LAYERS if layer in teacher.channels])
            if deep_teacher is not None:
                targets |= deep_teacher(image, [layer for layer in LAYERS if layer not in targets])
            features = encoder(image, list(targets))
            for layer, target in targets.items():
                found.setdefault(layer, []).append(fidelity(features[layer], target))
        for layer, values in found.items():
            means = {key: sum(value[key] for value in values) / len(values) for key in values[0]}
            name_of_teacher = teacher.name if layer in teacher.channels else "deep teacher"
            rows.append({"images": name, "count": len(values), "layer": layer, "teacher": name_of_teacher, **means})
    return rows


@torch.no_grad()
def cost_table(networks: dict[str, VGG], size: int = 512, runs: int = 7) -> list[dict[str, Any]]:
    """Returns FLOPs and milliseconds up to relu4_1, a row per network, for images of size x size pixels."""
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


def main(
    output: Path,
    photos: Path,
    paintings: Path,
    teacher_weights: str,
    deep_teacher_weights: str | None = None,
    checkpoint: Path | None = None,
    size: int = 256,
) -> None:
    """Measures the slim encoder.

    Args:
        output: Folder of the tables.
        photos: Folder of the photos of training, of which a part is held out.
        paintings: Folder of the paintings of training.
        teacher_weights: File of the normalized VGG-19.
        deep_teacher_weights: File of the slim encoder that was the teacher of the layers that this file lacks.
        checkpoint: A trained encoder; null measures the one of the package.
        size: Side of the images that are compared, in pixels.
    """
    teacher = VGG("vgg19_normalised", teacher_weights)
    deep_teacher = None if deep_teacher_weights is None else VGG(NAME, deep_teacher_weights)
    encoder = VGG(NAME, None if checkpoint is None else str(checkpoint))
    for layers in (encoder.convs, encoder.maps):
        layers.half().float()  # as shipped
    sets = {"photos": held_out(photos, size), "paintings": held_out(paintings, size)}
    rows = layer_table(encoder, teacher, deep_teacher, sets)
    output.mkdir(parents=True, exist_ok=True)
    for name, table in (("layers", rows), ("cost", cost_table({teacher.name: teacher, NAME: encoder}))):
        (output / f"{name}.csv").write_text(as_csv(table), encoding="utf-8")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
