"""Images in and out: files of any kind become RGB in [0, 1] and back, plus color preservation and contact sheets.

Everything that can be odd about an image file is settled here once: rotation flags, color profiles, transparency,
palettes, 16 bits, CMYK, animations, broken and gigantic files.
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

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 300_000_000  # decoded; one RGB image of that size is 0.9 GB of memory

_FORMATS = {".bmp": "BMP", ".gif": "GIF", ".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".ppm": "PPM"}
_FORMATS |= {".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}


class ImageError(ValueError):
    """An image cannot be read or written; the message is one sentence for the user."""


def read_image(path: str | os.PathLike[str], min_side: int | None = None) -> Image.Image:
    """Read any image as 8-bit sRGB.

    The EXIF rotation is applied, an embedded color profile is converted to sRGB, transparency is laid on white,
    16-bit values are scaled (not clipped) and of an animation the first frame is taken.

    Args:
        path: the file.
        min_side: the caller will shrink the image to this short side (pixels): a large JPEG is then decoded at
            1/2, 1/4 or 1/8 of its size (much faster), never below twice `min_side`.

    Returns:
        An image of mode "RGB".

    Raises:
        ImageError: missing, empty, truncated, not an image, or more than 300 million pixels.
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
    """Pillow's size limit lifted while a header is parsed: `read_image` has its own, after JPEG down-scaling."""
    with _open_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _draft(image: Image.Image, min_side: int | None) -> None:
    """Ask the JPEG decoder for a smaller version whose short side is still at least 2 * min_side."""
    if image.format not in ("JPEG", "MPO") or min_side is None:  # MPO: the JPEGs of phones with a second image
        return
    ratio = min(image.size) / (2 * min_side)
    if ratio >= 2:
        image.draft(None, (int(np.ceil(image.width / ratio)), int(np.ceil(image.height / ratio))))


def _rotate(image: Image.Image) -> None:
    """Apply the EXIF rotation."""
    with suppress(Exception):  # broken EXIF raises anything; the pixels are good all the same
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to 8-bit sRGB on white."""
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
    """Wide gray modes: 16-bit values (also held in a 32-bit image) are divided by 257, floats are taken as [0, 1]."""
    values = np.asarray(image).astype(np.float64)
    top = float(values.max(initial=0.0))
    if image.mode == "F":
        scale = 255.0 if top <= 1 else 1.0 if top <= 255 else 255 / top
    else:
        scale = 1 / 257 if top <= 65535 else 255 / top
    return Image.fromarray(np.rint(values * scale).clip(0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    if isinstance(profile, bytes) and profile or image.mode == "LAB":
        transform = _profile_transform(profile if isinstance(profile, bytes) else b"", image.mode)
        if transform is not None:
            try:
                converted = ImageCms.applyTransform(image, transform)
                if converted is not None:
                    return converted
            except (ImageCms.PyCMSError, ValueError):  # a profile that does not fit the pixels: show them as they are
                pass
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=32)  # the images of one camera or one museum share a profile
def _profile_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion of an embedded profile to sRGB; None if there is nothing to do or the profile is broken."""
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
    """A PIL image as a float32 tensor (3, H, W) in [0, 1]."""
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def to_image(tensor: Tensor) -> Image.Image:
    """A tensor (3, H, W) or (1, 3, H, W) as an 8-bit image: clamped to [0, 1] and rounded (not truncated).

    Raises:
        ImageError: for any other shape.
    """
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ImageError(f"An image is a tensor (3, H, W) or (1, 3, H, W), not {tuple(tensor.shape)}.")
    pixels = tensor.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def write_image(image: Image.Image | Tensor, path: str | os.PathLike[str], quality: int = 95) -> None:
    """Write an image under a temporary name and rename it: a failed run leaves an existing file as it was.

    Args:
        image: a PIL image, or a tensor as for `to_image`.
        path: its suffix chooses the format; missing folders are created.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        ImageError: unknown suffix, or the file cannot be written.
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
        # the temporary file is private (0600); an image gets what a plain open() would have given it
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise ImageError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


@lru_cache(maxsize=1)
def _umask() -> int:
    mask = os.umask(0o077)  # the only portable way to read it is to set it
    os.umask(mask)
    return mask


def list_images(folder: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """All images in a folder, in an order that depends on nothing but the names.

    Hidden files and folders and macOS `._x` files are skipped; links to folders are followed once.

    Returns:
        Paths that begin with `folder`, sorted by their composed (NFC) relative path, code point by code point:
        the same on every locale and file system.
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
    """Colors of `target` on `source` (CORAL, AdaIN's `-preserveColor`): matches mean and color covariance.

    Per channel z-scores (unbiased std), scatter matrices z z^T (not divided by n) plus identity, symmetric square
    roots: result = S_t^(1/2) S_s^(-1/2) z_s, scaled back with the target's std and mean. Not clamped.
    Source: naoto0804/pytorch-AdaIN@47950d0 function.py `coral`. A flat channel gives no NaN here.

    Args:
        source: (3, H, W), usually the style.
        target: (3, h, w), usually the content whose colors are to be kept.

    Returns:
        (3, H, W), dtype and device of `source`.
    """
    z_source, _, _ = _z_score(source)
    z_target, mean, std = _z_score(target.to(source.device))
    transfer = _matrix_power(_scatter(z_target), 0.5) @ _matrix_power(_scatter(z_source), -0.5)  # (3, 3)
    result: Tensor = transfer @ z_source * std + mean
    return result.view_as(source).to(source.dtype)


def _z_score(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    flat = image.double().flatten(1)  # (3, H*W)
    mean = flat.mean(1, keepdim=True)
    std = flat.std(1, keepdim=True) if flat.shape[1] > 1 else torch.zeros_like(mean)
    flat_channel = std < 1e-6  # far below one 8-bit step: dividing by it would only magnify rounding errors
    return (flat - mean) / torch.where(flat_channel, 1.0, std) * ~flat_channel, mean, std


def _scatter(z: Tensor) -> Tensor:
    return torch.addmm(torch.eye(3, dtype=z.dtype, device=z.device), z, z.T)


def _matrix_power(matrix: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp(min=1e-12)  # rounding can push them below; the identity in `_scatter` keeps them at >= 1
    return torch.mm(vectors * values.pow(power), vectors.T)


def keep_luminance(output: Tensor, content: Tensor) -> Tensor:
    """The brightness of `output` with the colors of `content` (luminance-only transfer).

    Y of `output`, Cb and Cr of `content`, full-range BT.601 as in JPEG and Pillow.

    Args:
        output: (3, H, W) or (B, 3, H, W) in [0, 1].
        content: the same shape.

    Returns:
        That shape, clamped to [0, 1].

    Raises:
        ValueError: if the shapes differ.
    """
    if output.shape != content.shape:
        raise ValueError(f"output {tuple(output.shape)} and content {tuple(content.shape)} must have the same shape.")
    y = _luma(output)
    red, _, blue = content.unbind(-3)
    cb, cr = (blue - _luma(content)) / 1.772, (red - _luma(content)) / 1.402
    green = y - (0.114 * 1.772 * cb + 0.299 * 1.402 * cr) / 0.587
    return torch.stack([y + 1.402 * cr, green, y + 1.772 * cb], dim=-3).clamp(0, 1)


def _luma(image: Tensor) -> Tensor:
    red, green, blue = image.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def grid(rows: Sequence[Sequence[Tensor]], gap: int = 4) -> Tensor:
    """A contact sheet: rows of images on white.

    Args:
        rows: lists of tensors (3, H, W) in [0, 1]; sizes and row lengths may differ (padded with white).
        gap: white pixels between the images.

    Returns:
        (3, H', W') on the CPU.

    Raises:
        ValueError: if there is no image at all.
    """
    cells = [cell for row in rows for cell in row]
    if not cells:
        raise ValueError("A contact sheet needs at least one image.")
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
