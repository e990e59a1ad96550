"""An image painted with itself should stay as it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from stylezoo.images import grid
from stylezoo.studies.base import Result, Row, study
from stylezoo.studies.material import painted
from stylezoo.studies.pairs import OnPairs


@study(
    "identity",
    source="SANet, section 3.3 (identity loss); asked for in xunhuang1995/AdaIN-style issue 12",
    paper="https://arxiv.org/abs/1812.02342",
)
def identity(
    *,
    on: OnPairs = OnPairs(pictures=6),
) -> Result:
    """Content = style should give the content back: how nearly it does, per model.

    Every photo is painted with itself as style. Beside it: the model's floor (alpha 0, the photo passed through encoder
    and decoder without any style, which for AdaIN and SANet is the same by construction: what these two cost by
    themselves), a true stylization (another painting as style: what "changed" means for this model), and the photo shrunk
    to an eighth and enlarged, which is all that a bottleneck of that size could keep of it without its channels. PSNR in
    dB, SSIM and the mean absolute difference (of values in [0, 1]) are means over the photos.

    Args:
        on: What is painted, see `stylezoo.studies.pairs.OnPairs`; the paintings are for training and for the true stylization.
    """
    networks = on.networks()
    photos = on.material.photos(on.pictures, on.size, held_out=not on.models)
    paintings = on.material.paintings(len(photos), on.size, held_out=not on.models)
    others = paintings[torch.arange(len(photos)) % len(paintings)]
    small = F.interpolate(photos, scale_factor=1 / 8, mode="bicubic", antialias=True)
    shrunk = F.interpolate(small, size=photos.shape[-2:], mode="bicubic").clamp(0, 1)
    rows: list[Row] = [
        {"model": "(the photo itself)", "painted with": "", **_nearness(photos, photos)},
        {"model": "(shrunk to 1/8)", "painted with": "", **_nearness(shrunk, photos)},
    ]
    notes = [on.origin]
    columns = [photos]
    for label, model in networks.items():
        outputs = {
            "itself": painted(model, photos, photos),
            "itself, alpha 0 (floor)": painted(model, photos, photos, alpha=0.0),
            "another image": painted(model, photos, others),
        }
        measured = {name: _nearness(output, photos) for name, output in outputs.items()}
        rows += [{"model": label, "painted with": name, **values} for name, values in measured.items()]
        columns += [outputs["itself"], outputs["another image"]]
        own, floor, other = measured.values()
        notes.append(
            f"{label}: SSIM {own['SSIM']:.3f} and {own['PSNR']:.1f} dB with itself as style, floor {floor['SSIM']:.3f} and"
            f" {floor['PSNR']:.1f} dB; {other['SSIM']:.3f} and {other['PSNR']:.1f} dB with another image."
        )
    notes.append(
        f"{len(photos)} photos, {on.size} x {on.size} pixels. Images: the photo, then for {', '.join(networks)} in turn the"
        " photo painted with itself and with another image."
    )
    return Result(rows, notes, {"": grid([list(row) for row in zip(*columns, strict=True)])})


def _nearness(outputs: Tensor, photos: Tensor) -> Row:
    """Means over images; no PSNR for equal ones, where it is infinite."""
    equal = torch.equal(outputs, photos)
    psnr = None if equal else peak_signal_noise_ratio(outputs, photos, data_range=1.0, dim=(1, 2, 3)).item()
    ssim = structural_similarity_index_measure(outputs, photos, data_range=1.0)
    assert isinstance(ssim, Tensor)
    return {"PSNR": psnr, "SSIM": ssim.item(), "mean difference": F.l1_loss(outputs, photos).item()}
