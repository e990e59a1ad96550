"""The table of content and style losses of StyTr2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from stylezoo.metrics import content_loss, style_loss
from stylezoo.models.stytr2 import CONTENT_LAYERS, LAYERS
from stylezoo.studies.base import StudyResult, new_figure, published, study
from stylezoo.studies.material import device
from stylezoo.studies.pairs import measured_with, outputs, present
from stylezoo.studies.setups import PairSetup
from stylezoo.studies.verdicts import Row, order_of, same_order

# From memory and with little confidence: to be checked in the paper before they are quoted.
PUBLISHED = {  # system: content loss, style loss
    "stytr2": (1.91, 1.47),
    "styleformer": (2.86, 2.91),
    "iest": (1.97, 3.47),
    "adaattn": (2.29, 2.45),
    "artflow": (2.13, 3.08),
    "mccnet": (2.38, 1.56),
    "mast": (2.46, 1.55),
    "aams": (2.44, 3.18),
    "sanet": (2.44, 1.18),
    "avatar_net": (2.84, 2.86),
    "adain": (2.34, 1.91),
}
PAPER = {kind: published(f"{kind} loss, unsure", "from memory") for kind in ("content", "style")}


@study(
    "stytr2_losses",
    source="StyTr2, table 1 (content and style loss)",
    paper="https://arxiv.org/abs/2105.14576",
    claim="Methods have this order of style losses.",
    judge=same_order("style", "paper: style loss, unsure (from memory)", by=["system"]),
)
def stytr2_losses(*, setup: PairSetup = PairSetup()) -> StudyResult:
    """Content and style loss of every model, beside the numbers of StyTr2's table.

    The code that measured the paper's table was never released, so only the order of its numbers can be compared. Style:
    means and standard deviations at relu1_1 to relu5_1; content: features of relu4_1 and relu5_1; both are summed over
    layers as in StyTr2's own training loss. The content loss is given with features normalized as there, and as they
    are. The protocol, from memory: 800 random pairs of COCO and WikiArt.

    Args:
        setup: The models and pairs, see `stylezoo.studies.setups.PairSetup`.
    """
    pairs, networks = setup.random_pairs(), setup.networks()
    network = setup.measuring(networks)
    style_layers = dict.fromkeys(present(network, LAYERS), 1.0)
    content_layers = dict.fromkeys(present(network, CONTENT_LAYERS), 1.0)
    found: dict[str, list[Any]] = {}
    with torch.inference_mode():
        for photo, painting in pairs:
            content_features = network(photo.to(device()), style_layers | content_layers)
            style_features = network(painting.to(device()), style_layers)
            for label, output in outputs(networks, photo, painting).items():
                features = network(output.to(device()), style_layers | content_layers)
                values = [
                    content_loss(features, content_features, content_layers, "normalized"),
                    content_loss(features, content_features, content_layers, "plain"),
                    style_loss(features, style_features, style_layers),
                ]
                found.setdefault(label, []).append(torch.cat(values).double().cpu())
    rows: list[Row] = []
    for label, lines in found.items():
        normalized, plain, style_value = torch.stack(lines).mean(0).tolist()
        system = networks[label].system if label in networks else ""
        row: Row = {"model": label, "system": system, "content": normalized, "content, not normalized": plain}
        rows.append(row | {"style": style_value, **_paper(system)})
    empty: Row = dict.fromkeys(("content", "content, not normalized", "style"))
    ours = {row["system"] for row in rows}
    rows += [{"model": "", "system": name, **empty, **_paper(name)} for name in PUBLISHED if name not in ours]
    orders = (f"{kind}: {order_of(rows, kind, PAPER[kind], by=['system'])}" for kind in PAPER)
    notes = [
        setup.origin,
        "The published numbers are from memory, with little confidence; how they were measured is not known.",
        f"Order beside theirs: {'; '.join(orders)}.",
        measured_with(network, LAYERS, pairs),
    ]
    return StudyResult(rows, notes, {"": _figure(rows)})


def _paper(system: str) -> Row:
    return dict(zip(PAPER.values(), PUBLISHED.get(system, (None, None)), strict=True))


def _figure(rows: Sequence[Row]) -> Any:
    figure = new_figure(10, 4)
    ours, theirs = figure.subplots(1, 2)
    for axis, x, y, name in ((ours, "content", "style", "model"), (theirs, *PAPER.values(), "system")):
        for row in rows:
            if row[x] is not None and row[y] is not None:
                axis.scatter([row[x]], [row[y]], s=15)
                axis.annotate(str(row[name]), (row[x], row[y]), textcoords="offset points", xytext=(4, 3), fontsize=7)
        axis.set_xlabel("content loss")
        axis.set_ylabel("style loss")
    ours.set_title("ours", fontsize=10)
    theirs.set_title("published, from memory; not in our units", fontsize=10)
    return figure
