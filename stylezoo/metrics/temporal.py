"""Flicker: the difference between stylizing a moved image and moving its stylized output, on still images and on clips."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stylezoo.errors import StylezooError
from stylezoo.metrics.base import MeanMetric, Setting

Stylizer = Callable[[Tensor], Tensor]
"""Maps contents (B, 3, H, W) to outputs of the same shape, such as `stylezoo.inference.Stylizer`."""

MOTIONS = ("shift", "rotate", "zoom", "tilt")


def homography(motion: str, height: int, width: int) -> Tensor:
    """Returns the matrix that maps pixels (x, y, 1) of the next frame to their position in the previous frame.

    Args:
        motion: ``shift`` (4 pixels to the right and 2 down, so that nothing is interpolated), ``rotate`` (2 degrees
        about
            the center), ``zoom`` (3 % closer) or ``tilt`` (a perspective that brings the right border 3 % closer than
            the center).
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.

    Returns:
        (3, 3), float64.

    Raises:
        StylezooError: If there is no such motion.
    """
    angle, scale, tilt = math.radians(2), 1 / 1.03, 0.03 / max(width - 1, 1) * 2
    about_center = {
        "rotate": [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0], [0.0, 0.0, 1.0]],
        "zoom": [[scale, 0.0, 0.0], [0.0, scale, 0.0], [0.0, 0.0, 1.0]],
        "tilt": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [tilt, 0.0, 1.0]],
    }
    if motion == "shift":
        return torch.tensor([[1.0, 0.0, -4.0], [0.0, 1.0, -2.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    if motion not in about_center:
        raise StylezooError(f"There is no motion {motion!r}: choose from {', '.join(MOTIONS)}.")
    center = torch.eye(3, dtype=torch.float64)
    center[0, 2], center[1, 2] = (width - 1) / 2, (height - 1) / 2
    matrix = torch.tensor(about_center[motion], dtype=torch.float64)
    around: Tensor = center @ matrix @ torch.linalg.inv(center)
    return around


def warp(images: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Moves images by a homography, bilinearly; pixels from outside the image mirror the inside.

    Args:
        images: (B, 3, H, W).
        matrix: See `homography`.

    Returns:
        The moved images (B, 3, H, W), and a boolean mask (H, W) of the pixels that come from inside the image.
    """
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    source = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ matrix.T  # (H, W, 3)
    return _sample(images, source[..., 0] / source[..., 2], source[..., 1] / source[..., 2])


def warp_by_flow(images: Tensor, flow: Tensor, mode: str = "bilinear") -> tuple[Tensor, Tensor]:
    """Moves images by an optical flow; pixels from outside the image mirror the inside.

    Args:
        images: (B, 3, H, W), previous frames.
        flow: (2, H, W), for each pixel of the next frame how many pixels to the right, and down, it lies in the previous one.
        mode: ``bilinear`` or ``bicubic``, which blurs less and overshoots.

    Returns:
        The moved images (B, 3, H, W), and a boolean mask (H, W) of the pixels that come from inside the image.
    """
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    return _sample(images, x + flow[0].to(x), y + flow[1].to(y), mode)


def _sample(images: Tensor, x: Tensor, y: Tensor, mode: str = "bilinear") -> tuple[Tensor, Tensor]:
    """Returns images (B, 3, H, W) at positions (H, W) in pixels, and which of these lie inside of them."""
    height, width = images.shape[-2:]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1).to(images)
    grid = grid.expand(len(images), -1, -1, -1)
    moved = F.grid_sample(images, grid, mode, padding_mode="reflection", align_corners=True)
    return moved, inside.to(images.device)


def temporal_error(previous: Tensor, current: Tensor, flow: Tensor, valid: Tensor | None = None) -> Tensor:
    """Computes the flicker between neighboring frames of a clip, the error of `warp_error` with a flow as motion.

    E = 1/|M| sum over M of |P_t - W(P_t-1)|, mean over channels. As there, values have to be compared with each other.

    Args:
        previous: Stylized frames (B, 3, H, W) in [0, 1].
        current: The stylized frames after these.
        flow: (2, H, W) of the contents, see `warp_by_flow`.
        valid: Boolean (H, W): where the flow holds; None for everywhere inside of the image.

    Returns:
        (B,), 0 or more; NaN if no pixel is valid.
    """
    moved, inside = warp_by_flow(previous, flow)
    counted = inside if valid is None else inside & valid.to(inside.device)
    return (current - moved).abs().mean(1)[:, counted].mean(1)


def warp_error(stylizer: Stylizer, content: Tensor, motions: Sequence[str] = MOTIONS) -> Tensor:
    """Computes how much the output flickers when the content moves.

    A still image I and its moved version W(I) are stylized independently: E = 1/|M| sum over M of |P(W(I)) - W(P(I))|,
    mean over channels, over the pixels M that the motion takes from inside the image, mean over the motions. E is 0 for
    a stylizer P that commutes with the motion. Motions other than ``shift`` interpolate, which blurs W(P(I)), so values
    have to be compared with each other and with the identity baseline, not with 0. A constant output does not flicker
    at all.

    Args:
        stylizer: Maps contents (B, 3, H, W) to outputs.
        content: Still images (B, 3, H, W), RGB in [0, 1].
        motions: Names of `MOTIONS`.

    Returns:
        (B,), 0 or more.
    """
    before = stylizer(content)
    errors = []
    for motion in motions:
        matrix = homography(motion, *content.shape[-2:])
        expected, inside = warp(before, matrix)
        difference = (stylizer(warp(content, matrix)[0]) - expected).abs().mean(1)  # (B, H, W)
        errors.append(difference[:, inside].mean(1))
    return torch.stack(errors).mean(0)


class WarpError(MeanMetric):
    """`warp_error` over still images; needs no network.

    Args:
        motions: Names of `MOTIONS`.
        resize: See `stylezoo.metrics.ImageMetric`.
    """

    name = "warp_error"

    def __init__(self, motions: Sequence[str] = MOTIONS, resize: str = "native") -> None:
        super().__init__(None, resize)
        for motion in motions:
            homography(motion, 2, 2)
        self.motions = tuple(motions)

    def settings(self) -> dict[str, Setting]:
        return {"motions": " ".join(self.motions)}

    def update(self, stylizer: Stylizer, content: Tensor) -> None:
        """Adds the errors of a stylizer on still images (B, 3, H, W), RGB in [0, 1]."""
        self._add(warp_error(stylizer, self._prepare(content), self.motions))
