"""The number of iterations of optimization that a feed-forward network is equivalent to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from stylezoo.checkpoints import create_model
from stylezoo.images import write_image
from stylezoo.module import Iteration, StyleModel
from stylezoo.studies.base import StudyResult, new_figure, published, study
from stylezoo.studies.material import device, stylized
from stylezoo.studies.setups import ModelSetup
from stylezoo.studies.verdicts import Row, within

CONTENT_LAYERS = {"relu4_1": 1.0}
STYLE_LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}

Point = tuple[float, float]
"""ln of the style loss, ln of the content loss."""

# Read off figure 3, to about 0.03.
PHOTO = 5.17
GATYS: dict[int, Point] = {50: (3.2, 2.44), 100: (2.05, 2.30), 500: (1.12, 2.13)}
NETWORKS: dict[
    str, tuple[str, Point, tuple[int, int]]
] = {  # iterations of Gatys et al. to their style and content loss
    "adain": ("AdaIN", (2.62, 2.22), (80, 145)),
    "texture_nets": ("Ulyanov et al.", (2.21, 2.16), (95, 235)),
}


@study(
    "adain_loss_vs_iterations",
    source="AdaIN, figure 3 (losses over iterations)",
    paper="https://arxiv.org/abs/1703.06868",
    claim="One pass of AdaIN has the style loss of 50 to 100 iterations of optimization.",
    judge=within("iterations to this style loss", "paper: iterations to this style loss (found)", 2.0),
)
def adain_loss_vs_iterations(
    *,
    setup: ModelSetup = ModelSetup(systems=("adain",), size=96, encoder="vgg19_random/4"),
    images: int = 5,
    paintings: int | None = None,
    single: str | None = "texture_nets",
    iterations: int = 500,
    init: Literal["noise", "content"] = "noise",
    style_loss: str = "mean_std",
    style_weight: float = 10.0,
) -> StudyResult:
    """Losses of optimization over its iterations, and the place of feed-forward networks on the curve.

    Every photo is stylized with every painting: by Gatys et al., who minimize the two losses that are measured, and by
    networks that need one pass. Content loss: mean squared difference of relu4_1 features. Style loss: means and standard
    deviations at relu1_1 to relu4_1, or another statistic. One encoder measures all. The table has logarithms of means
    over all pairs. A network of one style is trained for each painting.

    Args:
        setup: The models and images, see `stylezoo.studies.setups.ModelSetup`.
        images: Number of photos; the paper has 50.
        paintings: Number of paintings; None for a fifth of the photos, as in the paper.
        single: The system for one style that is trained as well if no models are given; None for no such system.
        iterations: Iterations of Gatys et al.
        init: Initial image of Gatys et al.; from noise the content loss falls, as in the paper.
        style_loss: Style statistic that is measured, and minimized by Gatys et al. and ``single``.
        style_weight: Weight of the style loss for these two.
    """
    shared = _losses_to_minimize(setup, style_loss, style_weight)
    own: dict[str, Any] = {
        "init": init,
        "iterations": iterations,
        "min_scale": None,
        "first_padding": None,
        "seed": setup.seed,
    }
    gatys = create_model("gatys", **shared, **own).to(device())
    networks = setup.networks()
    photos = setup.photos(images)
    styles = setup.paintings(max(1, images // 5) if paintings is None else paintings)
    pairs = [(p.unsqueeze(0), s.unsqueeze(0)) for s in styles for p in photos]
    curve = _mean_curve(gatys, pairs, iterations)
    photo_style = _logarithms([_losses(gatys, c, *_on_device(c, s)) for c, s in pairs])[0]
    found = {
        label: (model.system, _logarithms([_losses(gatys, stylized(model, c, s), *_on_device(c, s)) for c, s in pairs]))
        for label, model in networks.items()
    }
    if single is not None and not setup.models:
        found[single] = (single, _logarithms(_of_single(setup, single, shared, gatys, photos, styles)))
    rows = _rows(curve, photo_style, found)
    points: list[Row] = [{"iteration": i, "ln style": a, "ln content": b} for i, (a, b) in curve.items()]
    notes = [setup.origin, _findings(rows), _protocol(setup, len(photos), len(styles))]
    return StudyResult(rows, notes, {"": _figure(rows, curve, photo_style)}, {"curve": points})


def _losses_to_minimize(setup: ModelSetup, style_loss: str, style_weight: float) -> dict[str, Any]:
    """Returns constructor arguments of Gatys et al. and of the system for one style."""
    return {
        "style_weight": style_weight,
        "content_weight": 1.0,
        "content_layers": CONTENT_LAYERS,
        "style_layers": STYLE_LAYERS,
        "style_loss": style_loss,
        "encoder": setup.encoder,
        "encoder_weights": setup.encoder_weights,
    }


def _protocol(setup: ModelSetup, photos: int, styles: int) -> str:
    return (
        f"{photos} x {styles} photos and paintings, {setup.size} x {setup.size} pixels, measured with {setup.encoder}. The"
        " paper has 50 photos and 10 paintings; its values were read off a plot, to about 0.03. Logarithms of losses shift"
        " with the network and the normalization: compare differences (here less the photo's own style loss, and less the"
        " content loss of Gatys et al. at the end), and iterations."
    )


def _mean_curve(gatys: StyleModel, pairs: Sequence[tuple[Tensor, Tensor]], iterations: int) -> dict[int, Point]:
    """Returns logarithms of mean losses, {iteration: point}, at about a hundred iterations and those of the paper."""
    every = max(1, iterations // 100)
    kept = {1, iterations, *GATYS, *range(every, iterations, every)}
    losses = [_curve(gatys, *pair, kept) for pair in pairs]
    return {step: _logarithms([points[step] for points in losses]) for step in sorted(losses[0])}


def _on_device(*images: Tensor) -> list[Tensor]:
    return [image.to(device()) for image in images]


@torch.no_grad()
def _losses(gatys: StyleModel, image: Tensor, content: Tensor, style: Tensor) -> Point:
    """Computes style and content loss of an image, without their weights."""
    terms = gatys.losses(content, style, image=image.to(content))
    return float(terms["style"]) / gatys.hparams["style_weight"], float(terms["content"])


def _curve(gatys: StyleModel, content: Tensor, style: Tensor, kept: set[int]) -> dict[int, Point]:
    """Optimizes one image; returns its losses, {iteration: losses}."""
    content, style = _on_device(content, style)
    points: dict[int, Point] = {}

    def record(now: Iteration) -> None:
        if now.step in kept:
            points[now.step] = _losses(gatys, now.image.unsqueeze(0), content, style)

    gatys.on_iteration = record
    gatys(content, style)
    gatys.on_iteration = None
    return points


def _of_single(
    setup: ModelSetup, system: str, settings: Mapping[str, Any], gatys: StyleModel, photos: Tensor, styles: Tensor
) -> list[Point]:
    """Trains a network for each painting on the losses of Gatys et al.; returns the losses of all pairs."""
    points = []
    with TemporaryDirectory() as folder:
        for number, style in enumerate(styles):
            print(f"{system}, painting {number + 1} of {len(styles)}: {setup.steps} steps")
            file = str(Path(folder) / f"{number}.png")
            write_image(style, file)
            network = {"style_image": file, "lr": setup.lr, **settings}
            model = setup.material.train(system, setup.steps, with_styles=False, **network)
            for photo in photos:
                pair = _on_device(photo.unsqueeze(0), style.unsqueeze(0))
                with torch.no_grad():
                    points.append(_losses(gatys, model(pair[0]).clamp(0, 1), *pair))
    return points


def _logarithms(losses: Sequence[Point]) -> Point:
    """Computes the logarithms of the means over pairs; that of 0 is -inf."""
    means = [sum(values) / len(losses) for values in zip(*losses, strict=True)]
    style, content = (math.log(mean) if mean > 0 else -math.inf for mean in means)
    return style, content


def _reached(curve: Mapping[int, Point], term: int, target: float) -> int | None:
    """Returns the first iteration from which the loss stays at or below that of a network."""
    reached = None
    for step, point in sorted(curve.items(), reverse=True):
        if point[term] > target:
            break
        reached = step
    return reached


def _rows(curve: Mapping[int, Point], photo_style: float, found: Mapping[str, tuple[str, Point]]) -> list[Row]:
    end, paper_end = curve[max(curve)][1], GATYS[500][1]

    def row(
        method: str,
        point: tuple[float | None, float | None],
        paper: tuple[float | None, float | None],
        reached: tuple[int | None, int | None] = (None, None),
        paper_reached: tuple[int | None, int | None] = (None, None),
    ) -> Row:
        def columns(values: tuple[float | None, float | None], photo: float, gatys: float) -> list[float | None]:
            style, content = values
            return [style, content, _less(style, photo), _less(content, gatys)]

        names = ["ln style", "ln content", "ln style less the photo's", "ln content less Gatys et al.'s"]
        names += ["iterations to this style loss", "iterations to this content loss"]
        ours = [*columns(point, photo_style, end), *reached]
        theirs = [*columns(paper, PHOTO, paper_end), *paper_reached]
        printed = [published(name, "found") for name in names]
        return {"method": method, **dict(zip(names, ours, strict=True)), **dict(zip(printed, theirs, strict=True))}

    rows = [row("(the photo itself)", (photo_style, None), (PHOTO, None))]
    measured = {system for system, _ in found.values()}
    for label, (system, point) in found.items():
        name, paper, paper_reached = NETWORKS.get(system, (label, (None, None), (None, None)))
        name = name if label == system else label
        reached = (_reached(curve, 0, point[0]), _reached(curve, 1, point[1]))
        rows.append(row(name, point, paper, reached, paper_reached))
    for system, (name, paper, paper_reached) in NETWORKS.items():
        if system not in measured:
            rows.append(row(name, (None, None), paper, paper_reached=paper_reached))
    for step in sorted({*GATYS, max(curve)}):
        rows.append(row(f"Gatys et al., {step}", curve.get(step, (None, None)), GATYS.get(step, (None, None))))
    return rows


def _less(value: float | None, other: float) -> float | None:
    return None if value is None else value - other


def _findings(rows: Sequence[Row]) -> str:
    def said(row: Row, term: str) -> str:
        here, paper = (row[column] for column in (f"iterations to this {term} loss", _paper(f"{term} loss")))
        there = f", the paper's at {paper}" if paper is not None else ""
        return f"{term} loss {'is never reached' if here is None else f'at {here}'}{there}"

    def _paper(term: str) -> str:
        return published(f"iterations to this {term}", "found")

    networks = [row for row in rows[1:] if row["ln style"] is not None and "Gatys" not in str(row["method"])]
    return (
        "Iterations from which Gatys et al. stay at or below a network: "
        + "; ".join(f"{row['method']}: {said(row, 'style')}, {said(row, 'content')}" for row in networks)
        + "."
    )


def _figure(rows: Sequence[Row], curve: Mapping[int, Point], photo_style: float) -> Any:
    figure = new_figure(11, 4)
    end = curve[max(curve)][1]
    titles = ("ln style less the photo's", "ln content less Gatys et al.'s")
    for term, (axis, title) in enumerate(zip(figure.subplots(1, 2), titles, strict=True)):
        less, paper_less = (photo_style, PHOTO) if term == 0 else (end, GATYS[500][1])
        axis.plot(list(curve), [point[term] - less for point in curve.values()], color="C0", label="Gatys et al., here")
        axis.plot(
            list(GATYS),
            [p[term] - paper_less for p in GATYS.values()],
            "o",
            color="C0",
            mfc="none",
            label="Gatys et al., paper",
        )
        networks = [row for row in rows if "Gatys" not in str(row["method"])]
        for number, row in enumerate(networks[1:], start=1):
            for column, style, label in ((title, "-", ", here"), (published(title, "found"), ":", ", paper")):
                if row[column] is not None:
                    axis.axhline(
                        float(row[column] or 0.0), color=f"C{number}", linestyle=style, label=f"{row['method']}{label}"
                    )
        axis.set_xscale("log")
        axis.set_xlabel("iteration")
        axis.set_title(title, fontsize=10)
    figure.axes[0].legend(fontsize=8)
    return figure
