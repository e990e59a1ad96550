"""Keeping colors: CORAL, and the combination of one image's luminance with another's colors."""

import torch
from torch import Tensor

from stylezoo.errors import StylezooError
from stylezoo.streaming import StreamedMap


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Transfers the colors of one image to another by CORAL, as AdaIN's ``-preserveColor``.

    Mean and color covariance of ``source`` become those of ``target``: with z-scores z per channel (unbiased standard
    deviation) and scatter matrices S = z z^T (not divided by n) plus the identity, the result is
    S_t^(1/2) S_s^(-1/2) z_s, scaled with the target's standard deviation and mean.
    Source: naoto0804/pytorch-AdaIN@47950d0 function.py ``coral``.

    Deviations: A flat channel gives no NaN. Directions of color in which the source hardly varies (eigenvalues of its
    correlation matrix below `WEAK`) are not amplified to full strength. The identity is meant to prevent that, but beside a sum over
    all pixels it is nothing: of near-gray and sepia images the reference turns the noise of the last bits and of JPEG into
    speckles, with values from -1 to 2.2. Of usual paintings all eigenvalues are larger, and nothing changes.

    Args:
        source: (3, H, W), usually the style image.
        target: (3, h, w), usually the content image, whose colors are to be preserved.

    Returns:
        (3, H, W), not clamped, with the dtype and device of ``source``.

    Raises:
        StylezooError: If one of them is no image with pixels.
    """
    for image in (source, target):
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise StylezooError(f"CORAL needs images (3, H, W) with pixels, not {tuple(image.shape)}.")
    return recolored(source[None], target[None])[0]


def recolored(source: Tensor, target: Tensor) -> Tensor:
    """Does the same as `coral` for batches of one image, (1, 3, H, W), also for streamed ones (`stylezoo.streaming`)."""
    z_source, _, _ = _z_score(source)
    z_target, mean, std = _z_score(target.to(source.device))
    weak = WEAK * (z_source.shape[2] - 1)
    transfer = _root(_scatter(z_target)) @ _inverse_root(_scatter(z_source), weak)  # (3, 3)
    result: Tensor = torch.matmul(transfer, z_source) * std + mean
    return result.reshape(source.shape).to(source.dtype)


WEAK = 0.02
"""Below this share of variance, relative to that of one channel, a direction of color counts as noise: as measured on
paintings and photos, and on gray and sepia versions of them with noise of one 8-bit step and as JPEG."""


def _z_score(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns z-scores (1, 3, H*W), means and standard deviations, each (1, 3, 1); z-scores of a flat channel are 0."""
    flat = image.double().flatten(2)  # (1, 3, H*W)
    std, mean = torch.std_mean(flat, 2, correction=min(1, flat.shape[2] - 1), keepdim=True)
    flat_channel = std < 1e-6  # far below one 8-bit step: dividing by it would only magnify rounding errors
    return (flat - mean) / torch.where(flat_channel, 1.0, std) * ~flat_channel, mean, std


def _scatter(z: Tensor) -> Tensor:
    """Returns z z^T plus the identity, (3, 3)."""
    return torch.eye(3, dtype=z.dtype, device=z.device) + torch.matmul(z, z.transpose(1, 2))[0]


def _root(matrix: Tensor) -> Tensor:
    """Returns the square root of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)  # the identity in `_scatter` keeps the eigenvalues at 1 and above
    return torch.mm(vectors * values.clamp(min=1e-12).sqrt(), vectors.T)


def _inverse_root(matrix: Tensor, weak: float) -> Tensor:
    """Returns the inverse square root; eigenvalues v below ``weak`` count v / weak times, as in a Wiener filter."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp(min=1e-12)
    share = (values / weak).clamp(max=1) if weak else 1  # of a single pixel nothing varies
    return torch.mm(vectors * values.rsqrt() * share, vectors.T)


def keep_luminance(output: Tensor, content: Tensor) -> Tensor:
    """Combines the luminance of the output with the colors of the content image (luminance-only transfer).

    The result has Y of ``output``, and Cb and Cr of ``content``, in full-range BT.601 as in JPEG and Pillow.

    Args:
        output: (3, H, W) or (B, 3, H, W) in [0, 1], the stylized images.
        content: The content images, of the same shape.

    Returns:
        Images of the same shape, clamped to [0, 1].

    Raises:
        StylezooError: If the shapes differ.
    """
    if output.shape != content.shape:
        raise StylezooError(
            f"output {tuple(output.shape)} and content {tuple(content.shape)} must have the same shape."
        )
    if isinstance(output, StreamedMap) and isinstance(content, StreamedMap):
        return output.local(keep_luminance, content)
    y = _luma(output)
    red, _, blue = content.unbind(-3)
    cb, cr = (blue - _luma(content)) / 1.772, (red - _luma(content)) / 1.402
    green = y - (0.114 * 1.772 * cb + 0.299 * 1.402 * cr) / 0.587
    return torch.stack([y + 1.402 * cr, green, y + 1.772 * cb], dim=-3).clamp(0, 1)


def _luma(image: Tensor) -> Tensor:
    """Returns Y of BT.601."""
    red, green, blue = image.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue
