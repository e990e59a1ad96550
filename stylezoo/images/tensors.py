"""Images as tensors, RGB in [0, 1]: one way in for everything that a user can give, and the way back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stylezoo.errors import StylezooError
from stylezoo.images.alpha import fill_hidden, visible_box
from stylezoo.images.formats import ImageError, check_pixels, described
from stylezoo.images.reading import read_picture

ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | Tensor | NDArray[Any]
"""What `load_image` takes as one image."""

RANGE_TOLERANCE = 1e-3
"""How far outside of [0, 1] numbers may lie, for rounding; they are clamped."""

LARGEST_ASPECT = 32
"""Long side over short side up to which images are enlarged: 1 x 300 pixels would become 256 x 76,800."""


def load_image(source: ImageLike, size: int | None = None) -> Tensor:
    """Turns whatever a user gives as one image into a tensor.

    ========================================  ========================================================================
    source                                    how it is read
    ========================================  ========================================================================
    file name (str or path)                   see `read_image`
    bytes, or a binary file (``BytesIO``)     the same, for the encoded image that it holds; the file stays where it stood
    PIL image of any mode                     the same conversions as for a file (rotation, profile, transparency, 16 bits)
    tensor (3, H, W) or (1, 3, H, W)          uint8 and uint16 are divided by 255 and 65,535; floats must lie in [0, 1]
    array (H, W), (H, W, 1), (H, W, 3 or 4)   the same; the fourth channel is the opacity
    ========================================  ========================================================================

    Transparent pixels take colors of visible ones (`stylezoo.images.alpha`).

    Args:
        source: The image. Nothing else is one: integers are no files, lists are no arrays.
        size: Short side in pixels to which the image is resized (bilinear, antialiased); None keeps its size.

    Returns:
        (3, H, W), float32 in [0, 1]; on the device of a tensor, else on the CPU.

    Raises:
        ImageError: If it is none of these, cannot be read, has no pixels, or its numbers do not say their range: other integers,
            bool, and floats that are not finite or lie outside of [0, 1] by more than `RANGE_TOLERANCE`.
    """
    return load_with_alpha(source, size)[0]


def load_with_alpha(source: ImageLike, size: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Does the same as `load_image`, and returns the opacity besides, so that an output can get it back.

    An output gets the opacity of its content by ``to_image(output, alpha)``; `write_image` keeps it in formats that have
    it (`stylezoo.images.ALPHA_SUFFIXES`) and lays the image on white in others::

        content, alpha = load_with_alpha("logo.png")
        write_image(to_image(stylizer(content[None]), alpha), "stylized.png")

    Returns:
        The image (3, H, W), and its opacity (1, H, W) in [0, 1], None if all is opaque.

    Raises:
        ImageError: See `load_image`.
    """
    color, alpha, name = _read(source, size)
    if alpha is None:
        return _resized(color, size, name), None
    return _resized(_filled(color, alpha, name), size, name), _resized(alpha[None], size, name)


def load_style(source: ImageLike, size: int | None = None) -> Tensor:
    """Does the same as `load_image` for an image whose style is taken, so that its visible pixels alone determine it.

    The image is cut to the smallest box around its visible pixels before it is resized.
    """
    color, alpha, name = _read(source, size)
    if alpha is not None:
        rows, columns = visible_box(alpha.numpy())
        color = _filled(color[:, rows, columns], alpha[rows, columns], name)
    return _resized(color, size, name)


def _filled(color: Tensor, alpha: Tensor, name: str) -> Tensor:
    """Returns colors (3, H, W) that are `fill_hidden` for an opacity (H, W)."""
    pixels = color.permute(1, 2, 0).contiguous().numpy()
    fill_hidden(pixels, alpha.numpy(), name)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def check_batch(images: Any, what: str = "The batch") -> Tensor:
    """Checks a batch of images by the rules of `load_image`.

    Args:
        images: (B, 3, H, W), uint8, uint16, or floats in [0, 1].
        what: What the message calls it.

    Returns:
        (B, 3, H, W) in [0, 1] on the same device: floats in their own precision, integers as float32.

    Raises:
        ImageError: If it is no such tensor, is empty, or its numbers do not say their range.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        hint = ": add [None] to a single image" if isinstance(images, Tensor) and images.ndim == 3 else ""
        raise ImageError(f"{what} must be a tensor (B, 3, H, W), not {described(images)}{hint}.")
    if not images.numel():
        raise ImageError(f"{what} is empty: it is {described(images)}.")
    return _in_range(images, what)


def _read(source: Any, size: int | None) -> tuple[Tensor, Tensor | None, str]:
    """Returns colors (3, H, W), opacity (H, W) or None, and the name for messages."""
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ImageError(f"The size of an image is its short side in pixels, for example 512, not {size!r}.")
    name = f"The image ({described(source)})"
    if isinstance(source, Tensor):
        return _from_tensor(source, name), None, name
    if hasattr(source, "__array__") and not isinstance(source, Image.Image):
        return *_from_array(np.asarray(source)), name
    picture = read_picture(source, min_side=size)
    if picture.alpha is not None:
        return to_tensor(picture.color), _plane(picture.alpha).div_(255), picture.name
    if size is None:
        return to_tensor(picture.color), None, picture.name
    # channel by channel, with the same result: all at once take three times the memory
    planes = [_resized(_plane(picture.color, i).div_(255)[None], size, picture.name) for i in range(3)]
    return torch.cat(planes), None, picture.name


def _from_tensor(source: Tensor, name: str) -> Tensor:
    if source.ndim == 4 and len(source) > 1 and source.shape[1] == 3:
        raise ImageError(
            f"An image is a tensor (3, H, W), not {described(source)}: give one image per call, or batches to Stylizer."
        )
    if source.ndim not in (3, 4) or source.shape[-3] != 3 or (source.ndim == 4 and len(source) != 1):
        last = source.ndim >= 3 and source.shape[-1] in (1, 3, 4)
        hint = ": its channels come first, so use permute(2, 0, 1)" if last else ""
        raise ImageError(f"An image is a tensor (3, H, W) or (1, 3, H, W), not {tuple(source.shape)}{hint}.")
    check_pixels(source.shape[-1], source.shape[-2], name)
    if source.layout != torch.strided or source.is_meta:
        raise ImageError(f"{name} is sparse or has no numbers: give a dense tensor.")
    return _in_range(source.reshape(source.shape[-3:]), name).to(torch.float32)


def _from_array(source: NDArray[Any]) -> tuple[Tensor, Tensor | None]:
    name = f"The image ({described(source)})"
    if source.ndim == 2:
        source = source[..., None]
    if source.ndim != 3 or source.shape[-1] not in (1, 3, 4):
        hint = ""
        if source.ndim == 4:
            hint = ": give one image per call"
        elif source.ndim == 3 and source.shape[0] == 3:
            hint = ": its channels come last, so use transpose(1, 2, 0), or give a tensor"
        raise ImageError(f"An image is an array (H, W), (H, W, 3) or (H, W, 4), not {described(source)}{hint}.")
    check_pixels(source.shape[1], source.shape[0], name)
    if source.dtype.kind not in "uif":
        raise ImageError(_wrong_type(name))
    if source.dtype.itemsize > 8:
        source = source.astype(np.float64)
    native = source.astype(source.dtype.newbyteorder("="))  # a copy, which strides and read-only files need, too
    values = _in_range(torch.from_numpy(native), name).to(torch.float32).permute(2, 0, 1).contiguous()
    alpha = values[3] if len(values) == 4 and bool((values[3] < 1).any()) else None
    return values[:3].expand(3, -1, -1).contiguous(), alpha


def _in_range(values: Tensor, name: str) -> Tensor:
    """Returns numbers in [0, 1], floats in their own precision."""
    if type(values) is not Tensor:
        values = values.as_subclass(Tensor)  # torchvision's Image, for one
    if values.dtype in (torch.uint8, torch.uint16):
        return values.to(torch.float32).div_(torch.iinfo(values.dtype).max).contiguous()
    if not values.dtype.is_floating_point:
        raise ImageError(_wrong_type(name))
    values = values.contiguous()
    low, high = (float(value) for value in values.detach().aminmax())
    if not low >= -RANGE_TOLERANCE or not high <= 1 + RANGE_TOLERANCE:  # NaN fails both
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ImageError(f"{name} holds values that are no finite numbers: replace NaN and infinity first.")
        hint = "divide them by 255" if low >= -RANGE_TOLERANCE and 2 < high <= 255 else "scale or clamp them first"
        raise ImageError(f"{name} has values from {low:.4g} to {high:.4g}, not in [0, 1]: {hint}.")
    return values.clamp(0, 1) if low < 0 or high > 1 else values


def _wrong_type(name: str) -> str:
    return f"{name} has numbers of another type than uint8, uint16 and floats in [0, 1]: convert it to one of these."


def _resized(image: Tensor, size: int | None, name: str) -> Tensor:
    """Resizes (C, H, W) to a short side."""
    if size is None or min(image.shape[-2:]) == size:
        return image
    short, long = sorted(image.shape[-2:])
    if size > short and long > LARGEST_ASPECT * short:
        raise ImageError(
            f"{name} has {image.shape[-1]} x {image.shape[-2]} pixels, too narrow a strip to be enlarged to a short side of"
            f" {size}: cut a part out of it, or keep its size."
        )
    check_pixels(size, size * long // short, f"{name}, resized to a short side of {size},")
    from torchvision.transforms.v2 import functional as transforms  # takes 160 MB, which windows of images do without

    resized: Tensor = transforms.resize(image, [size], antialias=True)
    return resized.clamp(0, 1)


def to_tensor(image: Image.Image) -> Tensor:
    """Converts a PIL image to a tensor.

    Args:
        image: An image of any mode; other modes than "RGB" are converted.

    Returns:
        (3, H, W), float32 in [0, 1].
    """
    if image.mode != "RGB":
        image = read_picture(image).color
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _plane(image: Image.Image, channel: int = 0) -> Tensor:
    """Returns a channel (H, W), float32 in [0, 255]."""
    return torch.from_numpy(np.array(image.getchannel(channel))).to(torch.float32)


def to_image(tensor: Tensor, alpha: Tensor | None = None) -> Image.Image:
    """Converts a tensor to an 8-bit image; values are clamped to [0, 1] and rounded (not truncated).

    Args:
        tensor: (3, H, W) or (1, 3, H, W), on any device.
        alpha: The opacity (1, H, W) or (H, W) in [0, 1], as `load_with_alpha` returns it.

    Returns:
        An image of mode "RGB", or "RGBA" with an opacity.

    Raises:
        ImageError: If the tensor has another shape, or the opacity another size.
    """
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ImageError(f"An image is a tensor (3, H, W) or (1, 3, H, W), not {tuple(tensor.shape)}.")
    if alpha is not None:
        if alpha.shape[-2:] != tensor.shape[-2:]:
            raise ImageError(f"The opacity {tuple(alpha.shape)} is not as large as the image {tuple(tensor.shape)}.")
        tensor = torch.cat([tensor, alpha.reshape(1, *alpha.shape[-2:]).to(tensor)])
    pixels = tensor.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def grid(rows: Sequence[Sequence[Tensor]], gap: int = 4) -> Tensor:
    """Arranges images in rows on a white contact sheet.

    Args:
        rows: Rows of images (3, H, W) in [0, 1]; sizes and numbers of images may differ and are padded with white.
        gap: White pixels between the images.

    Returns:
        (3, H', W'), on the CPU.

    Raises:
        StylezooError: If there is no image.
    """
    cells = [cell for row in rows for cell in row]
    if not cells:
        raise StylezooError("A contact sheet needs at least one image.")
    height, width = max(cell.shape[-2] for cell in cells), max(cell.shape[-1] for cell in cells)
    from torchvision.utils import make_grid  # late, as above

    columns = max(len(row) for row in rows)
    blank = torch.ones(3, height, width)
    padded = []
    for row in rows:
        for cell in row:
            cell = cell.detach().float().clamp(0, 1).cpu()
            padded.append(F.pad(cell, (0, width - cell.shape[-1], 0, height - cell.shape[-2]), value=1.0))
        padded += [blank] * (columns - len(row))
    sheet: Tensor = make_grid(torch.stack(padded), nrow=columns, padding=gap, pad_value=1.0)
    return sheet
