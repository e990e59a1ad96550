"""Painting an image again and again with the same style: what is left of the content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stylezoo.images import grid
from stylezoo.metrics import ssim
from stylezoo.module import StyleModel
from stylezoo.studies.base import Result, Row, new_figure, study
from stylezoo.studies.material import Judge, device
from stylezoo.studies.pairs import OnPairs, present


@study(
    "content_leak",
    source="StyTr2, content leak (repeated stylization)",
    paper="https://arxiv.org/abs/2105.14576",
)
def content_leak(
    *,
    on: OnPairs = OnPairs(pictures=4),
    rounds: tuple[int, ...] = (1, 5, 10, 20),
) -> Result:
    """What is left of the content after twenty rounds: every output is painted again with its style.

    A model that keeps the content paints the same image in every round. Measured against the image of the first round
    and against the photo: content loss (normalized relu4_1 features, so that color and contrast may change) and SSIM.

    Args:
        on: What is painted, see `stylezoo.studies.pairs.OnPairs`.
        rounds: After how many rounds it is measured; 20 is the paper's last.
    """
    rounds = tuple(sorted({1, *rounds}))
    if rounds[0] < 1:
        raise ValueError(f"rounds are numbers from 1 up, not {rounds[0]}.")
    networks = on.networks()
    network = on.measuring(networks)
    present(network, ["relu4_1"])
    judge = Judge(network, normalized=True)
    contents, styles = on.first_pairs()
    rows: list[Row] = []
    sheets: dict[str, Any] = {}
    notes = [on.origin]
    for number, (label, model) in enumerate(networks.items()):
        kept = _repainted(model, contents, styles, rounds)
        rows += [
            {
                "model": label,
                "round": index,
                **_against(judge, picture, kept[1], "round 1"),
                **_against(judge, picture, contents, "the photo"),
            }
            for index, picture in kept.items()
        ]
        last = rows[-1]
        notes.append(
            f"{label}: after {rounds[-1]} rounds the content loss to the first is {last['content to round 1']:.3g} and SSIM"
            f" {last['SSIM to round 1']:.2f}; to the photo SSIM went from"
            f" {rows[-len(kept)]['SSIM to the photo']:.2f} to {last['SSIM to the photo']:.2f}."
        )
        columns = [contents, styles, *kept.values()]
        sheet = grid([list(row) for row in zip(*(column[:4] for column in columns), strict=True)])
        sheets["pictures" + (f"_{number + 1}" if number else "")] = sheet
    notes.append(
        f"{len(contents)} pairs, {on.size} x {on.size} pixels, measured with {network.name}. Images: photo, painting, round"
        f" {', '.join(map(str, rounds))}."
    )
    return Result(rows, notes, {"": _figure(rows, list(networks)), **sheets})


@torch.inference_mode()
def _repainted(model: StyleModel, contents: Tensor, styles: Tensor, rounds: Sequence[int]) -> dict[int, Tensor]:
    """{round: pictures}; each style is encoded once."""
    pictures: dict[int, list[Tensor]] = {index: [] for index in rounds}
    for content, style in zip(contents.to(device()), styles.to(device()), strict=True):
        output, code = content.unsqueeze(0), model.encode_style(style.unsqueeze(0))
        for index in range(1, rounds[-1] + 1):
            output = model.decode(output, code).clamp(0, 1)
            if index in rounds:
                pictures[index].append(output.cpu())
    return {index: torch.cat(outputs) for index, outputs in pictures.items()}


def _against(judge: Judge, pictures: Tensor, reference: Tensor, name: str) -> Row:
    features, target = judge.features(pictures), judge.features(reference)
    return {
        f"content to {name}": judge(features, target, target)[0],
        f"SSIM to {name}": ssim(pictures, reference).mean().item(),
    }


def _figure(rows: Sequence[Row], labels: Sequence[str]) -> Any:
    figure = new_figure(10, 3.6)
    axes = figure.subplots(1, 2)
    for axis, quantity in zip(axes, ("content", "SSIM"), strict=True):
        for number, label in enumerate(labels):
            chosen = [row for row in rows if row["model"] == label]
            for reference, line in (("round 1", "o-"), ("the photo", "s:")):
                values = [row[f"{quantity} to {reference}"] for row in chosen]
                x = [row["round"] for row in chosen]
                axis.plot(x, values, line, color=f"C{number}", label=f"{label}, to {reference}")
        axis.set_xlabel("round")
        axis.set_ylabel("content loss" if quantity == "content" else "SSIM")
        axis.legend(fontsize=8)
    return figure
