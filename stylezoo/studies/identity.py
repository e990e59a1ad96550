"""The reconstruction of images that are stylized with themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from stylezoo.studies.base import StudyResult, study
from stylezoo.studies.material import image_columns, stylized
from stylezoo.studies.setups import PairSetup
from stylezoo.studies.verdicts import Row, Verdict, verdict


def judge(rows: Sequence[Row]) -> Verdict:
    """Whether SANet's models return more of the content than AdaIN's of the same kind, which have no such loss."""
    itself = {str(row["model"]): float(row["SSIM"] or 0) for row in rows if row["painted with"] == "itself"}
    pairs = ((name, name.replace("sanet", "adain")) for name in itself if name.startswith("sanet"))
    found = [(name, itself[name], itself[other]) for name, other in pairs if other in itself]
    if not found:
        return Verdict("cannot be said", "no pair of SANet and AdaIN was measured")
    reason = ", ".join(f"SSIM {ours:.2f} of {name}, {theirs:.2f} of AdaIN's" for name, ours, theirs in found)
    return verdict(all(ours > theirs for _, ours, theirs in found), reason)


@study(
    "identity",
    source="SANet, section 3.3 (identity loss); asked for in xunhuang1995/AdaIN-style issue 12",
    paper="https://arxiv.org/abs/1812.02342",
    claim="Identity losses teach SANet to return a content that is its own style.",
    judge=judge,
)
def identity(*, setup: PairSetup = PairSetup(images=6)) -> StudyResult:
    """With the content as style, a model should return the content: how close each model comes to it.

    Every photo is stylized with itself. It is compared with the reconstruction at alpha 0, in which the photo passes
    through encoder and decoder without any style and which for AdaIN and SANet is the same by construction: the error of
    these two alone; with a true stylization in the style of a painting, which shows how much this model changes; and
    with the photo shrunk to an eighth and enlarged, which is all that a bottleneck of that size could preserve of it
    without its channels. PSNR in dB, SSIM and the mean absolute difference (of values in [0, 1]) are means over the
    photos.

    Args:
        setup: The models and pairs, see `stylezoo.studies.setups.PairSetup`. The paintings are for training and for the
            true stylization.
    """
    networks = setup.networks()
    photos = setup.photos(setup.images)
    paintings = setup.paintings(len(photos))
    others = paintings[torch.arange(len(photos)) % len(paintings)]
    small = F.interpolate(photos, scale_factor=1 / 8, mode="bicubic", antialias=True)
    shrunk = F.interpolate(small, size=photos.shape[-2:], mode="bicubic").clamp(0, 1)
    rows: list[Row] = [
        {"model": "(the photo itself)", "painted with": "", **_nearness(photos, photos)},
        {"model": "(shrunk to 1/8)", "painted with": "", **_nearness(shrunk, photos)},
    ]
    notes = [setup.origin]
    columns = [photos]
    for label, model in networks.items():
        outputs = {
            "itself": stylized(model, photos, photos),
            "itself, alpha 0 (floor)": stylized(model, photos, photos, alpha=0.0),
            "another image": stylized(model, photos, others),
        }
        measured = {name: _nearness(output, photos) for name, output in outputs.items()}
        rows += [{"model": label, "painted with": name, **values} for name, values in measured.items()]
        columns += [outputs["itself"], outputs["another image"]]
        own, reconstruction, other = measured.values()
        notes.append(
            f"{label}: SSIM {own['SSIM']:.3f} and {own['PSNR']:.1f} dB with itself as style, {reconstruction['SSIM']:.3f}"
            f" and {reconstruction['PSNR']:.1f} dB at alpha 0; {other['SSIM']:.3f} and {other['PSNR']:.1f} dB with another image."
        )
    notes.append(
        f"{len(photos)} photos, {setup.size} x {setup.size} pixels. Images: the photo, then for {', '.join(networks)} in turn the"
        " photo stylized with itself and with another image."
    )
    return StudyResult(rows, notes, {"": image_columns(*columns)})


def _nearness(outputs: Tensor, photos: Tensor) -> Row:
    """Means over images; no PSNR for equal ones, where it is infinite."""
    equal = torch.equal(outputs, photos)
    psnr = None if equal else peak_signal_noise_ratio(outputs, photos, data_range=1.0, dim=(1, 2, 3)).item()
    ssim = structural_similarity_index_measure(outputs, photos, data_range=1.0)
    assert isinstance(ssim, Tensor)
    return {"PSNR": psnr, "SSIM": ssim.item(), "mean difference": F.l1_loss(outputs, photos).item()}
