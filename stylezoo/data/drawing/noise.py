"""Primitives of procedural images: fractal noise, color ramps, warps and antialiased masks on float32 arrays.

Images are (n, n, 3), masks and heights (n, n). Lengths are fractions of the image's side, with x to the right and y
downwards, so that a scene drawn at another size is the same scene.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Array = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.floating[Any] | np.bool_]
Rng = np.random.Generator
Points = list[tuple[float, float]]


def rgb(*codes: str) -> Array:
    """Returns hexadecimal colors such as ``"f2c14e"`` as rows (K, 3) of RGB in [0, 1]; a single one as (3,)."""
    colors = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in codes], np.float32) / 255
    return colors[0] if len(codes) == 1 else colors


def grid(n: int) -> tuple[Array, Array]:
    """Returns the pixel centers of an n x n image as a row x (1, n) and a column y (n, 1), which broadcast."""
    centers = ((np.arange(n) + 0.5) / n).astype(np.float32)
    return centers[None, :], centers[:, None]


def smoothstep(low: float, high: float, t: Array) -> Array:
    """Returns a cubic step that rises from 0 where ``t`` is ``low`` to 1 where it is ``high``."""
    t = np.clip((t - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def luminance(image: Array) -> Array:
    """Returns the luminance (BT.601) of colors (..., 3)."""
    return image @ np.array([0.299, 0.587, 0.114], np.float32)


def resize(a: Array, height: int, width: int, method: Image.Resampling = Image.Resampling.BICUBIC) -> Array:
    """Resamples an array in float32.

    Args:
        a: (H, W) or (H, W, C).
        height: New height in pixels.
        width: New width in pixels.
        method: Filter of Pillow.

    Returns:
        (height, width) or (height, width, C).
    """
    if a.ndim == 3:
        return np.stack([resize(a[..., c], height, width, method) for c in range(a.shape[2])], axis=-1)
    return np.asarray(Image.fromarray(np.ascontiguousarray(a, np.float32)).resize((width, height), method))


def blur(a: Array, radius: float) -> Array:
    """Blurs an array by way of a small image, which is much cheaper than a convolution and smooth enough for light.

    Args:
        a: (H, W) or (H, W, C).
        radius: Radius as a fraction of the height.

    Returns:
        An array of the same shape.
    """
    height, width = a.shape[:2]
    small = resize(a, max(2, round(1 / radius)), max(2, round(width / height / radius)), Image.Resampling.HAMMING)
    return resize(small, height, width)


def fractal(rng: Rng, n: int, cells: int, *, gain: float = 0.5, tall: float = 1.0, ridged: bool = False) -> Array:
    """Returns tileable fractal noise with mean 0.5 and standard deviation 0.2.

    Args:
        rng: Random generator, from which one number is drawn whatever the size.
        n: Side in pixels.
        cells: Lattice cells of the first octave along a side; further octaves double them down to the pixel.
        gain: Amplitude of each octave relative to the previous one; 0.5 gives the 1/f spectrum of natural images.
        tall: Vertical stretch of the grain.
        ridged: Whether each octave is folded into sharp crests, as of mountains.

    Returns:
        (n, n).
    """
    rng = np.random.default_rng(rng.integers(1 << 62))  # one draw from the caller's stream, whatever the size
    total, amplitude = np.zeros((n, n), np.float32), 1.0
    while cells * 1.5 <= n:
        rows = max(2, round(cells / tall))
        lattice = np.pad(rng.standard_normal((rows, cells), np.float32), 2, mode="wrap")
        box = (2.0, 2.0, cells + 2.0, rows + 2.0)
        octave = np.asarray(Image.fromarray(lattice).resize((n, n), Image.Resampling.BICUBIC, box=box))
        total += amplitude * (0.8 - np.abs(octave) if ridged else octave)
        cells, amplitude = cells * 2, amplitude * gain
    total -= total.mean()
    total *= 0.2 / max(float(total.std()), 1e-6)
    total += 0.5
    return total


def profile(rng: Rng, n: int, cells: int, gain: float = 0.5) -> Array:
    """Returns one-dimensional fractal noise (n,), such as the outline of a ridge; the arguments are those of `fractal`."""
    rng = np.random.default_rng(rng.integers(1 << 62))
    total, amplitude, where = np.zeros(n, np.float32), 1.0, np.linspace(0, 1, n)
    while cells * 1.5 <= n:
        total += amplitude * np.interp(where * cells, np.arange(cells + 1), rng.standard_normal(cells + 1))
        cells, amplitude = cells * 2, amplitude * gain
    return total


def sample(texture: Array, u: Array, v: Array) -> Array:
    """Samples a tileable texture bilinearly.

    Args:
        texture: (h, w) or (h, w, C), which is repeated.
        u: Horizontal positions, in tiles.
        v: Vertical positions, in tiles, which broadcast with ``u``.

    Returns:
        Values in the shape of the positions, with C channels if the texture has channels.
    """
    height, width = texture.shape[:2]
    u, v = np.broadcast_arrays(u, v)
    x, y = u * np.float32(width) - np.float32(0.5), v * np.float32(height) - np.float32(0.5)
    left, top = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    fx, fy = (x - left).astype(np.float32), (y - top).astype(np.float32)
    if texture.ndim == 3:
        fx, fy = fx[..., None], fy[..., None]
    left, top = left % width, top % height
    right, bottom = (left + 1) % width, (top + 1) % height
    flat = texture.reshape(height * width, *texture.shape[2:])
    top, bottom = top * width, bottom * width
    upper = flat[top + left] * (1 - fx) + flat[top + right] * fx
    lower = flat[bottom + left] * (1 - fx) + flat[bottom + right] * fx
    values: Array = upper + (lower - upper) * fy
    return values


def ramp(colors: Array, t: Array) -> Array:
    """Returns colors (..., 3) at ``t`` in [0, 1] on a linear gradient through evenly spaced ``colors`` (K, 3)."""
    steps = 2048
    position = np.linspace(0, len(colors) - 1, steps)
    table = np.stack([np.interp(position, np.arange(len(colors)), c) for c in colors.T], axis=1).astype(np.float32)
    return table[(np.clip(t, 0, 1) * (steps - 1)).astype(np.int32)]


def over(image: Array, color: Array, mask: Mask) -> None:
    """Composes a color (3,) or an image over another image, in place, with a mask (n, n) in [0, 1] as opacity."""
    image += (color - image) * mask[..., None]


def polygon(n: int, *outlines: Points) -> Array:
    """Returns the mask (n, n) of filled polygons; the supersampling of the whole image antialiases it."""
    mask = Image.new("L", (n, n))
    draw = ImageDraw.Draw(mask)
    for outline in outlines:
        draw.polygon([(x * n, y * n) for x, y in outline], fill=255)
    return np.asarray(mask, np.float32) / 255


def window(n: int, left: float, top: float, right: float, bottom: float) -> tuple[tuple[slice, slice], Array, Array]:
    """Returns the slices of the part of an n x n image in a box, and its pixel coordinates x (1, w) and y (h, 1)."""
    x0, x1 = (int(np.clip(round(value * n), 0, n)) for value in (left, right))
    y0, y1 = (int(np.clip(round(value * n), 0, n)) for value in (top, bottom))
    x, y = grid(n)
    return (slice(y0, y1), slice(x0, x1)), x[:, x0:x1], y[y0:y1]


def relief(height: Array, strength: float, angle: float = 2.4) -> Array:
    """Returns the shading of a height map (n, n): around 1, brighter on slopes that face the light.

    Args:
        height: Heights, (n, n).
        strength: Contrast of the shading.
        angle: Direction of the light in radians, counterclockwise.

    Returns:
        Factors, (n, n).
    """
    dy, dx = np.gradient(height)
    return np.asarray(1 - strength * (np.cos(angle) * dx - np.sin(angle) * dy), np.float32)


def unit(*components: float) -> Array:
    """Returns the unit vector in the direction of some components."""
    vector = np.array(components, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)
