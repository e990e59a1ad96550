"""Grids, colors and clipped pixels, against values computed by hand; and AdaIN's target."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from every_metric import THIN, some_images
from torch import Tensor

from stylezoo.layers import adain
from stylezoo.losses import mean_std
from stylezoo.metrics import (
    ClippedShare,
    ColorfulnessRatio,
    GridContrast,
    TargetContentLoss,
    clipped_share,
    colorfulness,
    colorfulness_ratio,
    grid_contrast,
    target_content_loss,
)


def wave(u: int, v: int, period: int, amplitude: float, side: int = 128) -> Tensor:
    """Gray with a cosine of u and v cycles per period along the two axes, (1, 3, side, side)."""
    rows, columns = torch.arange(side)[:, None], torch.arange(side)
    phase = 2 * math.pi * (u * rows + v * columns) / period
    return (0.5 + amplitude * torch.cos(phase.double())).expand(1, 3, side, side)


def every_wave(period: int, amplitude: float) -> Tensor:
    """Gray with a cosine of each frequency that a period of this length and no shorter one has."""
    own = [(u, v) for u, v in product(range(period), repeat=2) if math.gcd(u, v, period) == 1]
    return 0.5 + sum((wave(u, v, period, amplitude) - 0.5 for u, v in own), torch.zeros(()))


@pytest.mark.parametrize("period", [2, 4, 8])
def test_contrast_of_constructed_grids(period: int) -> None:
    """Waves of amplitude a at all frequencies of a period against waves of amplitude b have a / b of their contrast."""
    strong, weak, gray = every_wave(period, 0.02), every_wave(period, 0.005), torch.full((1, 3, 128, 128), 0.5)
    assert grid_contrast(strong, weak, gray, period).tolist() == pytest.approx([4.0], rel=1e-3)
    assert grid_contrast(strong, gray, weak, period).tolist() == pytest.approx([4.0], rel=1e-3)
    assert grid_contrast(weak, gray, strong, period).tolist() == pytest.approx([0.25], rel=1e-3)
    assert grid_contrast(gray, gray, gray, period).tolist() == [1.0]
    for other in {2, 4, 8} - {period}:
        assert grid_contrast(strong, gray, gray, other).tolist() == pytest.approx([1.0], rel=1e-5)


def test_a_checkerboard_has_one_of_three_frequencies() -> None:
    """The energy of a checkerboard of +-a in a block is a^2 * (sum w)^2 / (sum w^2 * 64^2), with the window w of 64 x 64
    pixels: 4/9 a^2. At the two other frequencies is nothing but the rounding error, and the mean over the three is geometric."""
    board, gray = wave(1, 1, 2, 0.1), torch.full((1, 3, 128, 128), 0.5)
    rounding = (1 / 255) ** 2 / 12 / 64**2
    energy = 4 / 9 * 0.1**2
    expected = ((energy + rounding) / rounding) ** (1 / 3 / 2)
    assert grid_contrast(board, gray, gray, 2).tolist() == pytest.approx([expected], rel=1e-6)
    assert grid_contrast(board, board, gray, 2).tolist() == pytest.approx([1.0])


def test_grids_that_do_not_count() -> None:
    content = some_images(2)["content"]
    twelve = wave(1, 1, 12, 0.1)
    gray = torch.full((1, 3, 128, 128), 0.5)
    for period in (2, 4):  # 12 is no multiple of these frequencies' periods
        assert float(grid_contrast(twelve, gray, gray, period)) < 1.2
    fine = gray + 1e-4 * torch.randn(gray.shape, generator=torch.Generator().manual_seed(0))
    assert float(grid_contrast(fine, gray, gray, 2)) < 1.05  # less than 8 bits can hold
    assert grid_contrast(content, content, content.flip(-1), 8).le(1).all()
    strips = grid_contrast(
        content[..., :40, :], content[..., :40, :], content, 8
    )  # a block of 40 pixels, another one of 64
    assert strips.shape == (2,) and strips.isfinite().all()


def test_grids_of_small_images_and_odd_periods_are_refused() -> None:
    small = torch.rand(1, 3, 31, 64)
    with pytest.raises(ValueError, match="64 x 31 pixels are too few for a grid of period 8: 32 x 32 are needed"):
        grid_contrast(small, small, small, 8)
    with pytest.raises(ValueError, match="The period of a grid is a power of 2, such as 8 pixels, not 6"):
        GridContrast(6)
    assert GridContrast(4).key.metric == "grid_4" and dict(GridContrast(4).key.settings) == {"block": 64, "period": 4}


def test_colorfulness() -> None:
    """Hasler & Suesstrunk's formula on two colors, and its scale: gray is 0."""
    gray = torch.linspace(0, 1, 64).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    assert colorfulness(gray).tolist() == [0.0]
    red, blue = (torch.tensor(color).view(3, 1, 1) for color in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]))
    image = torch.stack([torch.cat([red, blue], 2)])  # rg is 255 and 0, yb is 127.5 and -255
    spread = math.hypot(255 / 2, (127.5 + 255) / 2)
    mean = math.hypot(255 / 2, (127.5 - 255) / 2)
    assert colorfulness(image).tolist() == pytest.approx([spread + 0.3 * mean])
    assert colorfulness(3 * image - 0.5).tolist() == colorfulness(image).tolist()  # clamped
    half = 0.5 * image.double().mul(255).round().div(255)
    assert colorfulness_ratio(half, image).tolist() == pytest.approx([0.5], abs=0.01)
    assert colorfulness_ratio(image, gray).isnan().all()
    metric = ColorfulnessRatio()
    assert metric.higher_is_better is None
    assert metric.values(image, image).tolist() == [1.0]


def test_clipped_share() -> None:
    """A pixel is clipped if one of its channels is 0 or 255 after rounding."""
    values = torch.full((2, 3, 2, 4), 0.5)
    values[0, 1, 0, 0] = 0.0019  # 0.48 of 255
    values[0, 2, 1, 1] = 1.7
    values[0, :, 1, 2] = -0.1  # three channels of one pixel
    values[0, 0, 1, 3] = 0.002  # 0.51 of 255
    assert clipped_share(values).tolist() == [3 / 8, 0.0]
    metric = ClippedShare()
    metric.update(values)
    assert metric.result().value == 3 / 16


def test_target_content_loss() -> None:
    """Written out for one channel, and against the features that AdaIN's decoder is trained to restore."""
    content, style = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), torch.tensor([[[[10.0, 10.0, 16.0]]]])
    mean, std = 12.0, math.sqrt((4 + 4 + 16) / 2 + 1e-5)
    deviation = math.sqrt((9 + 1 + 1 + 9) / 3 + 1e-5)
    target = [mean + std * (value - 4) / deviation for value in (1, 3, 5, 7)]
    expected = sum((11 - value) ** 2 for value in target) / 4
    found = target_content_loss(torch.full((1, 1, 2, 2), 11.0), content, style)
    assert found.tolist() == pytest.approx([expected], rel=1e-6)

    batch = some_images(3)
    features = [THIN(batch[name], ["relu4_1"])["relu4_1"] for name in ("output", "content", "style")]
    wanted = (features[0] - adain(features[1], *mean_std(features[2]))).square().mean((1, 2, 3))
    values = TargetContentLoss(THIN).values(**batch)
    torch.testing.assert_close(values, wanted)
    baselines = [
        TargetContentLoss(THIN).values(batch[name], batch["content"], batch["style"]) for name in ("content", "style")
    ]
    assert all(float(values.min()) > 0 for values in baselines)  # it rewards neither the identity nor the copied style


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (((2, 3, 64, 64), (1, 3, 64, 64), (2, 3, 64, 64)), "but there are 2 outputs, 1 contents and 2 styles"),
        (((1, 3, 64, 64), (1, 3, 64, 72), (1, 3, 64, 64)), "outputs and contents of one size, not 64 x 64 and 72 x 64"),
    ],
)
def test_images_that_do_not_fit(sizes: tuple[tuple[int, ...], ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GridContrast(2).values(*(torch.rand(size) for size in sizes))
