"""The content that remains after an image is stylized repeatedly with the same style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stylezoo.metrics import ssim
from stylezoo.module import StyleModel
from stylezoo.studies.base import StudyResult, new_figure, study
from stylezoo.studies.material import ContentStyleLosses, device, image_columns
from stylezoo.studies.pairs import present
from stylezoo.studies.setups import PairSetup
from stylezoo.studies.verdicts import Row, Verdict, by_model, verdict


def judge(rows: Sequence[Row]) -> Verdict:
    """Whether StyTr2 is nearest to the photo after the last round."""
    last = {name: rounds[-1]["content to the photo"] for name, rounds in by_model(rows).items()}
    ours = [value for name, value in last.items() if name.startswith("stytr2")]
    others = [value for name, value in last.items() if not name.startswith("stytr2")]
    if not ours or not others:
        return Verdict("cannot be said", "StyTr2 or what it is compared with was not measured")
    reason = (
        f"content loss {min(ours):.2f} after the last round, {min(others):.2f} to {max(others):.2f} in other systems"  # type: ignore[type-var]
    )
    return verdict(min(ours) < min(others), reason)  # type: ignore[type-var, operator]


@study(
    "content_leak",
    source="StyTr2, content leak (repeated stylization)",
    paper="https://arxiv.org/abs/2105.14576",
    claim="Stylized again and again, outputs of convolutional networks lose the content, and those of StyTr2 do not.",
    judge=judge,
)
def content_leak(
    *,
    setup: PairSetup = PairSetup(images=4),
    rounds: tuple[int, ...] = (1, 5, 10, 20),
) -> StudyResult:
    """The content that remains after twenty rounds, in each of which the output is stylized again with its style.

    A model that preserves the content returns the same image in every round. Each output is compared with the output of
    the first round and with the photo: content loss (normalized relu4_1 features, so that color and contrast may change)
    and SSIM.

    Args:
        setup: The models and pairs, see `stylezoo.studies.setups.PairSetup`.
        rounds: After how many rounds the outputs are measured; 20 is the paper's last.
    """
    rounds = tuple(sorted({1, *rounds}))
    networks = setup.networks()
    network = setup.measuring(networks)
    present(network, ["relu4_1"])
    losses = ContentStyleLosses(network, normalized=True)
    contents, styles = setup.first_pairs()
    rows: list[Row] = []
    sheets: dict[str, Any] = {}
    notes = [setup.origin]
    for number, (label, model) in enumerate(networks.items()):
        kept = _repeated(model, contents, styles, rounds)
        rows += [
            {
                "model": label,
                "round": index,
                **_against(losses, images, kept[1], "round 1"),
                **_against(losses, images, contents, "the photo"),
            }
            for index, images in kept.items()
        ]
        last = rows[-1]
        notes.append(
            f"{label}: after {rounds[-1]} rounds the content loss to the first is {last['content to round 1']:.3g} and SSIM"
            f" {last['SSIM to round 1']:.2f}; to the photo SSIM went from"
            f" {rows[-len(kept)]['SSIM to the photo']:.2f} to {last['SSIM to the photo']:.2f}."
        )
        columns = [contents, styles, *kept.values()]
        sheets["images" + (f"_{number + 1}" if number else "")] = image_columns(*(column[:4] for column in columns))
    notes.append(
        f"{len(contents)} pairs, {setup.size} x {setup.size} pixels, measured with {network.name}. Images: photo, painting, round"
        f" {', '.join(map(str, rounds))}."
    )
    return StudyResult(rows, notes, {"": _figure(rows, list(networks)), **sheets})


@torch.inference_mode()
def _repeated(model: StyleModel, contents: Tensor, styles: Tensor, rounds: Sequence[int]) -> dict[int, Tensor]:
    """Returns the outputs of the rounds, {round: (N, 3, H, W)}; each style is encoded once."""
    images: dict[int, list[Tensor]] = {index: [] for index in rounds}
    for content, style in zip(contents.to(device()), styles.to(device()), strict=True):
        output, code = content.unsqueeze(0), model.encode_style(style.unsqueeze(0))
        for index in range(1, rounds[-1] + 1):
            output = model.decode(output, code).clamp(0, 1)
            if index in rounds:
                images[index].append(output.cpu())
    return {index: torch.cat(outputs) for index, outputs in images.items()}


def _against(losses: ContentStyleLosses, images: Tensor, reference: Tensor, name: str) -> Row:
    features, target = losses.features(images), losses.features(reference)
    return {
        f"content to {name}": losses(features, target, target)[0],
        f"SSIM to {name}": ssim(images, reference).mean().item(),
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
