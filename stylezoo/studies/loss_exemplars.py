"""The images with the lowest and the highest style losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchmetrics.functional import spearman_corrcoef

from stylezoo.errors import StylezooError
from stylezoo.images import to_image
from stylezoo.metrics import AST_LAYERS
from stylezoo.module import StyleModel
from stylezoo.studies.balanced_loss import QUANTITIES, AstLosses, measured
from stylezoo.studies.base import StudyResult, new_figure, study
from stylezoo.studies.material import stylized
from stylezoo.studies.pairs import ImagePairs, measured_with
from stylezoo.studies.setups import PairSetup
from stylezoo.studies.verdicts import Row, cannot_be_said


@study(
    "loss_exemplars",
    source="Cheng et al. 2021, as re-made in Neroxn/ceng501-final-project, figure 3.3",
    paper="https://arxiv.org/abs/2104.10064",
    claim="Outputs of a low balanced loss look better than those of a low classic loss.",
    judge=cannot_be_said("it takes people who compare images"),
)
def loss_exemplars(
    *,
    setup: PairSetup = PairSetup(systems=("adain",), images=60),
    examples: int = 3,
) -> StudyResult:
    """The pairs with the lowest and the highest classic and balanced loss.

    According to the paper, a low classic loss marks images that are hardly stylized (their styles are flat, so that little
    can be missing), a high one images that are stylized too much; the balanced loss corrects this. As a number: the rank
    correlation over all pairs of either loss with the SSIM of output and photo, which is 1 if the output is the photo. A
    loss that measures how much of the style is missing is high where SSIM is high.

    Args:
        setup: The models and pairs, see `stylezoo.studies.setups.PairSetup`.
        examples: Number of pairs at either end.
    """
    if not 1 <= examples <= setup.images:
        raise StylezooError(f"examples is a number of pairs, from 1 to images ({setup.images}), not {examples}.")
    networks, network, pairs, losses = measured(setup)
    rows: list[Row] = []
    figures: dict[str, Any] = {}
    notes = [setup.origin]
    for number, (label, model) in enumerate(networks.items()):
        chosen = exemplars(losses, label, examples)
        rows += [
            {
                "model": label,
                "chosen for": reason,
                "photo": pairs.files[index][0].name,
                "painting": pairs.files[index][1].name,
                **{quantity: values[index].item() for quantity, values in losses.totals(label).items()},
                "SSIM with the photo": losses.similarity[label][index].item(),
            }
            for reason, indices in chosen.items()
            for index in indices
        ]
        figures[f"{number + 1}" if number else ""] = _figure(label, model, chosen, losses, pairs)
        if setup.images > 2:
            notes.append(f"{label}: rank correlation with the SSIM of output and photo {_correlations(losses, label)}.")
    notes.append(
        f"{measured_with(network, AST_LAYERS[network.depth], pairs)} Figures, one per model: photo, painting and output of"
        " each pair, with both losses and the SSIM of output and photo."
    )
    return StudyResult(rows, notes, figures)


def exemplars(losses: AstLosses, label: str, count: int) -> dict[str, list[int]]:
    """Returns the indices of the pairs at either end of either loss, the most extreme first, {reason: indices}."""
    chosen: dict[str, list[int]] = {}
    for quantity in reversed(QUANTITIES):
        order = losses.totals(label)[quantity].argsort().tolist()
        chosen |= {f"lowest {quantity}": order[:count], f"highest {quantity}": order[::-1][:count]}
    return chosen


def _correlations(losses: AstLosses, label: str) -> str:
    totals = losses.totals(label)
    values = {q: spearman_corrcoef(totals[q], losses.similarity[label]).item() for q in reversed(QUANTITIES)}
    return ", ".join(f"{value:+.2f} ({quantity} loss)" for quantity, value in values.items())


def _figure(
    label: str, model: StyleModel, chosen: Mapping[str, list[int]], losses: AstLosses, pairs: ImagePairs
) -> Any:
    count = len(next(iter(chosen.values())))
    figure = new_figure(4.2 * count, 1.75 * len(chosen))
    axes = figure.subplots(len(chosen), 3 * count, squeeze=False)
    totals = losses.totals(label)
    for line, (reason, indices) in zip(axes, chosen.items(), strict=True):
        for number, index in enumerate(indices):
            content, style = pairs[index]
            for axis, image in zip(line[3 * number :], (content, style, stylized(model, content, style)), strict=False):
                axis.imshow(to_image(image))
                axis.set_xticks([])
                axis.set_yticks([])
            classic, balanced = (totals[quantity][index].item() for quantity in ("classic", "balanced"))
            similarity = losses.similarity[label][index].item()
            line[3 * number + 1].set_title(
                f"classic {classic:.1e}, balanced {balanced:.2f}, SSIM {similarity:.2f}", fontsize=8
            )
        line[0].set_ylabel(reason.replace(" ", "\n"), fontsize=9)
    return figure
