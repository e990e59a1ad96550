"""Reading and writing of images as RGB in [0, 1], color preservation, and contact sheets.

This module handles the peculiarities of image files for the whole package: rotation flags, color profiles, transparency,
palettes, 16 bits, CMYK, animations, broken files and huge ones.
"""

import io
import os
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.utils import make_grid

from stylezoo.errors import StylezooError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of the files that count as images."""

MAX_PIXELS = 300_000_000
"""Largest number of decoded pixels; an RGB image of that size takes 0.9 GB of memory."""

_FORMATS = {".bmp": "BMP", ".gif": "GIF", ".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".ppm": "PPM"}
_FORMATS |= {".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}


class ImageError(StylezooError):
    """Raised if an image cannot be read or written; the message is one sentence for the user."""


def read_image(path: str | os.PathLike[str], min_side: int | None = None) -> Image.Image:
    """Reads an image file of any kind as 8-bit sRGB.

    The EXIF rotation is applied, an embedded color profile is converted to sRGB, transparent images are composed onto
    white, 16-bit values are scaled (not clipped), and the first frame of an animation is used.

    Args:
        path: Path of the file.
        min_side: Short side in pixels that the caller shrinks the image to. Large JPEGs are then decoded at 1/2, 1/4 or
            1/8 of their size, which is much faster, but not below twice ``min_side``.

    Returns:
        An image of mode "RGB".

    Raises:
        ImageError: If the file is missing, empty, truncated or not an image, or has more than `MAX_PIXELS` pixels.
    """
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise ImageError(f"{path} is empty (0 bytes).")
            file.seek(0)
            with _no_size_limit():
                image = Image.open(file)
            _draft(image, min_side)
            if image.width * image.height > MAX_PIXELS:
                megapixels = image.width * image.height / 1e6
                raise ImageError(
                    f"{path} has {megapixels:.0f} million pixels and the limit is {MAX_PIXELS / 1e6:.0f} million: "
                    "make it smaller first."
                )
            image.load()
            _rotate(image)
            return _to_rgb(image)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist.") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder, not an image.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image in a known format.") from None
    except Exception as error:  # Pillow's decoders raise anything from OSError to struct.error on broken files
        raise ImageError(f"{path} cannot be read: {error or type(error).__name__}.") from error


_open_lock = threading.Lock()


@contextmanager
def _no_size_limit() -> Iterator[None]:
    """Disables Pillow's size limit while a header is parsed: `read_image` checks the size after JPEG down-scaling."""
    with _open_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _draft(image: Image.Image, min_side: int | None) -> None:
    """Makes the JPEG decoder return a smaller image whose short side is still at least 2 * min_side."""
    if image.format not in ("JPEG", "MPO") or min_side is None:  # MPO: the JPEGs of phones with a second image
        return
    ratio = min(image.size) / (2 * min_side)
    if ratio >= 2:
        image.draft(None, (int(np.ceil(image.width / ratio)), int(np.ceil(image.height / ratio))))


def _rotate(image: Image.Image) -> None:
    """Applies the EXIF rotation."""
    with suppress(Exception):  # broken EXIF data raise anything, but the pixels are valid
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any Pillow mode to 8-bit sRGB on white."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "PA", "La", "RGBa") or ("transparency" in image.info and image.mode in ("L", "RGB")):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    alpha = None
    if image.mode in ("RGBA", "LA"):
        alpha = image.getchannel("A")
        image = image.convert(image.mode[:-1])
    image = _to_srgb(image, profile)
    if alpha is not None and alpha.getextrema() != (255, 255):
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        image = white
    return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Converts wide gray modes: divides 16-bit values (also those in a 32-bit image) by 257, reads floats as [0, 1]."""
    values = np.asarray(image).astype(np.float64)
    top = float(values.max(initial=0.0))
    if image.mode == "F":
        scale = 255.0 if top <= 1 else 1.0 if top <= 255 else 255 / top
    else:
        scale = 1 / 257 if top <= 65535 else 255 / top
    return Image.fromarray(np.rint(values * scale).clip(0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Converts an image from its embedded profile to sRGB."""
    if isinstance(profile, bytes) and profile or image.mode == "LAB":
        transform = _profile_transform(profile if isinstance(profile, bytes) else b"", image.mode)
        if transform is not None:
            try:
                converted = ImageCms.applyTransform(image, transform)
                if converted is not None:
                    return converted
            except (ImageCms.PyCMSError, ValueError):  # a profile that does not fit the pixels is ignored
                pass
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=32)  # the images of one camera or one museum share a profile
def _profile_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the conversion of a profile to sRGB; None if it is sRGB or broken."""
    try:
        if profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
                return None
        else:
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def to_tensor(image: Image.Image) -> Tensor:
    """Converts a PIL image to a tensor.

    Args:
        image: An image of any mode; other modes than "RGB" are converted.

    Returns:
        (3, H, W), float32 in [0, 1].
    """
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def to_image(tensor: Tensor) -> Image.Image:
    """Converts a tensor to an 8-bit image; values are clamped to [0, 1] and rounded (not truncated).

    Args:
        tensor: (3, H, W) or (1, 3, H, W), on any device.

    Returns:
        An RGB image.

    Raises:
        ImageError: If the tensor has another shape.
    """
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ImageError(f"An image is a tensor (3, H, W) or (1, 3, H, W), not {tuple(tensor.shape)}.")
    pixels = tensor.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def write_image(image: Image.Image | Tensor, path: str | os.PathLike[str], quality: int = 95) -> None:
    """Writes an image under a temporary name and renames it, so that a failed run leaves an existing file unchanged.

    Args:
        image: A PIL image, or a tensor as for `to_image`.
        path: Path of the file, whose suffix determines the format; missing folders are created.
        quality: Quality of JPEG and WebP, 1 to 100.

    Raises:
        ImageError: If the suffix is unknown or the file cannot be written.
    """
    path = Path(path)
    format = _FORMATS.get(path.suffix.lower())
    if format is None:
        raise ImageError(
            f"Cannot write {path}: the suffix {path.suffix!r} is not one of {', '.join(sorted(_FORMATS))}."
        )
    if isinstance(image, Tensor):
        image = to_image(image)
    options: dict[str, object] = {}
    if format in ("JPEG", "WEBP"):
        options["quality"] = quality
    if format in ("JPEG", "PPM", "BMP") and image.mode != "RGB":
        image = _to_rgb(image)
    if format == "JPEG" and quality >= 90:
        options["subsampling"] = 0  # color at full resolution: saturated brush strokes show chroma subsampling
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
            temporary = file.name
            image.save(file, format=format, **options)
        # the temporary file is private (0600); the image gets the permissions of a plain open()
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise ImageError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


@lru_cache(maxsize=1)
def _umask() -> int:
    """Returns the umask of the process."""
    mask = os.umask(0o077)  # the only portable way to read it is to set it
    os.umask(mask)
    return mask


def list_images(folder: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """Lists all images in a folder in an order that depends only on the names.

    Hidden files and folders and macOS ``._x`` files are skipped; links to folders are followed once.

    Args:
        folder: Path of the folder, which need not exist.
        recursive: Whether subfolders are searched.

    Returns:
        Paths that begin with ``folder``, sorted by the code points of their composed (NFC) relative paths, so that the
        order is the same in every locale and on every file system.
    """
    top = os.fspath(folder)
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(top, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        start = os.path.relpath(parent, top).replace(os.sep, "/") + "/" if parent != top else ""
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                found.append(start + name)
    found.sort(key=lambda name: (unicodedata.normalize("NFC", name), name))
    return [Path(top, name) for name in found]


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Transfers the colors of one image to another by CORAL, as AdaIN's ``-preserveColor``.

    Mean and color covariance of ``source`` become those of ``target``: with z-scores z per channel (unbiased standard
    deviation) and scatter matrices S = z z^T (not divided by n) plus the identity, the result is
    S_t^(1/2) S_s^(-1/2) z_s, scaled with the target's standard deviation and mean. Unlike in the reference, a flat
    channel gives no NaN. Source: naoto0804/pytorch-AdaIN@47950d0 function.py ``coral``.

    Args:
        source: (3, H, W), usually the style image.
        target: (3, h, w), usually the content image, whose colors are to be preserved.

    Returns:
        (3, H, W), not clamped, with the dtype and device of ``source``.
    """
    z_source, _, _ = _z_score(source)
    z_target, mean, std = _z_score(target.to(source.device))
    transfer = _matrix_power(_scatter(z_target), 0.5) @ _matrix_power(_scatter(z_source), -0.5)  # (3, 3)
    result: Tensor = transfer @ z_source * std + mean
    return result.view_as(source).to(source.dtype)


def _z_score(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns z-scores (3, H*W), means (3, 1) and standard deviations (3, 1); z-scores of a flat channel are 0."""
    flat = image.double().flatten(1)  # (3, H*W)
    mean = flat.mean(1, keepdim=True)
    std = flat.std(1, keepdim=True) if flat.shape[1] > 1 else torch.zeros_like(mean)
    flat_channel = std < 1e-6  # far below one 8-bit step: dividing by it would only magnify rounding errors
    return (flat - mean) / torch.where(flat_channel, 1.0, std) * ~flat_channel, mean, std


def _scatter(z: Tensor) -> Tensor:
    """Returns z z^T plus the identity."""
    return torch.addmm(torch.eye(3, dtype=z.dtype, device=z.device), z, z.T)


def _matrix_power(matrix: Tensor, power: float) -> Tensor:
    """Returns a power of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp(min=1e-12)  # rounding can push them below; the identity in `_scatter` keeps them at >= 1
    return torch.mm(vectors * values.pow(power), vectors.T)


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
    y = _luma(output)
    red, _, blue = content.unbind(-3)
    cb, cr = (blue - _luma(content)) / 1.772, (red - _luma(content)) / 1.402
    green = y - (0.114 * 1.772 * cb + 0.299 * 1.402 * cr) / 0.587
    return torch.stack([y + 1.402 * cr, green, y + 1.772 * cb], dim=-3).clamp(0, 1)


def _luma(image: Tensor) -> Tensor:
    """Returns Y of BT.601."""
    red, green, blue = image.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


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
