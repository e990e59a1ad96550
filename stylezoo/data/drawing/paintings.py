"""Procedural "paintings" in several manners.

Every family is a function of a random generator ``rng`` and a side ``n`` in pixels that returns an RGB image (n, n, 3).
Most families render a motif (a small scene of `photos`) in the colors of one palette; abstract ones compose shapes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from stylezoo.data.drawing.noise import (
    Array,
    Points,
    Rng,
    blur,
    fractal,
    grid,
    luminance,
    over,
    polygon,
    profile,
    ramp,
    relief,
    resize,
    rgb,
    sample,
    smoothstep,
    window,
)
from stylezoo.data.drawing.photos import render

Index = npt.NDArray[np.int32]
T = TypeVar("T", bound=np.generic)

PALETTES = {
    "starry": rgb("0b1a3e", "17366f", "2f63a8", "6d9fcb", "b9cfc4", "f3d34a", "e8a42c", "1d2a20"),
    "wheat": rgb("3a4a1c", "6f8a2c", "c9a227", "f0cf4a", "f7e7a4", "2f6fa8", "8fb8d0", "7a3f1c"),
    "iris": rgb("1f2a5a", "3f4fa0", "7d83cf", "b7c3ea", "2f6a4a", "7fae5a", "e8d9a0", "c96a3a"),
    "lilies": rgb("1f3f4a", "3a6f6a", "6fa58a", "a9cfa8", "8f8fc4", "d6b4d4", "f2dfe0", "4a3f6f"),
    "haystack": rgb("4a3a5a", "8a5f7a", "d98a5c", "f4bd6a", "f9e2a8", "7f9ab8", "b9c4cf", "6a7a3a"),
    "harbour": rgb("22344a", "4a6f8a", "86a9b4", "c9d4c8", "f08a4a", "e85f34", "5a4a5a", "f4c98a"),
    "parasol": rgb("20402a", "4f7f3f", "9fc25a", "e6e29a", "f4f0dc", "6f8fc9", "3a4f94", "d9704a"),
    "fauve": rgb("14213a", "1f5fa8", "1f8f6a", "f2c22f", "f0742f", "d92f3f", "e87fa4", "f4ecd4"),
    "tahiti": rgb("2a1a2f", "7a2f3a", "d9582f", "f2a83a", "f4d98a", "2f7a5a", "2a4f8a", "c97f9a"),
    "ochre": rgb("1f1a16", "4a3a2a", "7a5f3f", "a8875a", "cfb486", "ece0c0", "5f6a5a", "8a8f84"),
    "slate": rgb("171b22", "38424c", "66727a", "99a2a2", "ccccc0", "efeadd", "8a5a3a", "c9985f"),
    "harlequin": rgb("23202a", "c9382c", "e8a83a", "f2e6c4", "3a6a8a", "7fa6a4", "8a4a5f", "4f7f4a"),
    "jewel": rgb("2a0f3a", "8f1230", "d93a2a", "f2b32a", "1a7a4a", "1a4fa8", "5a2f9a", "f4e2a0"),
    "byzantine": rgb("1a2340", "2f4f8a", "a8282f", "d9a52f", "f2d672", "f0e6cc", "4a6f4a", "6a3f2a"),
    "edo": rgb("14284a", "2f5a8a", "7fa4b8", "d3d8c4", "efe4c8", "d9583f", "8a8f6a", "3a3a34"),
    "vermilion": rgb("2a1f22", "7a2a26", "d9452f", "f08a5a", "f4d3a4", "f6ecd6", "4a6a6a", "a8b49a"),
    "de_stijl": rgb("f4f1e6", "ece8da", "d8261f", "1f3f94", "f2c81f", "141416", "d2d0c8", "f7f5ee"),
    "bauhaus": rgb("efe4cc", "1f2a33", "d94a34", "f2b134", "2f7f86", "7a4a6f", "f4c9a8", "3a5fa0"),
    "orphic": rgb("d9302f", "f28a2a", "f7cf3a", "3fa05a", "1f6fb8", "5a3a94", "f4e6d8", "17203f"),
    "nocturne": rgb("0a1020", "16263f", "2a4a66", "5a7f94", "c9b48a", "f2c86a", "8a4f3a", "39304f"),
    "gold": rgb("2a1c12", "6a4318", "a8741f", "d9a83a", "f4d67a", "3f5a3a", "8a2f2a", "1f3a5a"),
    "sakura": rgb("4a3a4a", "8a6a7a", "d99aa8", "f4cfcf", "f8ece4", "8fae9a", "5a7f86", "c95f6a"),
}


class Strokes(NamedTuple):
    """The topmost stroke at each pixel, and the position of the pixel in it.

    Attributes:
        top: Number of the stroke, -1 for bare ground, (n, n).
        along: Position from -1, the start of the stroke, to 1, its end, (n, n).
        across: Position from -1 to 1, from edge to edge, (n, n).
    """

    top: Index
    along: Array
    across: Array


def _palette(rng: Rng, *names: str) -> Array:
    """Returns one of the named palettes, (K, 3)."""
    return PALETTES[names[rng.integers(len(names))]]


def _motif(rng: Rng, n: int, *families: str) -> Array:
    """A scene to paint: in the full tonal range, its middle tone neither dark nor pale, its colors strong."""
    image = render(rng, n, families[rng.integers(len(families))])
    low, middle, high = np.percentile(luminance(image), [2, 50, 98])
    image = np.clip((image - low) / max(high - low, 0.1), 0.01, 1)
    middle = np.clip((middle - low) / max(high - low, 0.1), 0.1, 0.9)
    image = image ** (0.35 + 0.65 * np.log(0.52) / np.log(middle))
    gray = luminance(image)[..., None]
    return np.asarray(np.clip(gray + 1.25 * (image - gray), 0, 1), np.float32)


def _affinity(colors: Array, palette: Array, sharpness: float) -> Array:
    """How well each palette color stands for each of `colors` (..., 3): weights (..., K) that sum to 1.

    Lightness is compared by its place within the palette's own range, hue by two opponent channels.
    """

    def opponents(c: Array) -> Array:
        light = luminance(c)
        return np.stack(
            [light, 0.7 * (c[..., 0] - c[..., 1]), 0.7 * (0.5 * (c[..., 0] + c[..., 1]) - c[..., 2])], axis=-1
        )

    keys = opponents(palette)
    keys[:, 0] = (keys[:, 0] - keys[:, 0].min()) / np.ptp(keys[:, 0])
    values = opponents(colors)
    # |a - b|^2 without the term that all palette colors share
    closeness = sharpness * (2 * values @ keys.T - (keys**2).sum(1))
    weights = np.exp(closeness - closeness.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32)


def _recolor(image: Array, palette: Array, sharpness: float = 22) -> Array:
    """Replaces colors by mixtures of palette colors."""
    return _affinity(image, palette, sharpness) @ palette


def _pick(rng: Rng, colors: Array, palette: Array, sharpness: float) -> Array:
    """One palette color for each of `colors` (M, 3), drawn by affinity: colors mix in the eye, not on the canvas."""
    weights = np.cumsum(_affinity(colors, palette, sharpness), axis=1)
    chosen = (rng.random((len(colors), 1)) > weights).sum(axis=1)
    return np.asarray(palette[np.minimum(chosen, len(palette) - 1)], np.float32)


def _flow(rng: Rng, motif: Array, follow: float, cells: int = 2, vortices: int = 0) -> Array:
    """Directions for the brush, (g, g) in radians: along the motif's edges, elsewhere along swirls of noise."""
    g = 96
    light = blur(resize(luminance(motif), g, g), 0.04)
    dy, dx = np.gradient(light)
    swirl_y, swirl_x = np.gradient(fractal(rng, g, cells, gain=0.3))
    # Directions have no sign: add them as doubled angles.
    edge, swirl = np.arctan2(dx, -dy), np.arctan2(swirl_x, -swirl_y)
    weight = np.hypot(dx, dy) * follow * 60
    c, s = weight * np.cos(2 * edge) + np.cos(2 * swirl), weight * np.sin(2 * edge) + np.sin(2 * swirl)
    x, y = grid(g)
    for _ in range(vortices):
        cx, cy, reach = rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.45), rng.uniform(0.08, 0.2)
        pull = 6 * np.exp(-(((x - cx) ** 2 + (y - cy) ** 2) / reach**2))
        around = np.arctan2(y - cy, x - cx) + np.pi / 2
        c, s = c + pull * np.cos(2 * around), s + pull * np.sin(2 * around)
    return (0.5 * np.arctan2(blur(s, 0.03), blur(c, 0.03))).astype(np.float32)


def _at(field: npt.NDArray[T], points: Array) -> npt.NDArray[T]:
    """Nearest values of a field (g, g, ...) at points (..., 2) in [0, 1]."""
    g = len(field)
    where = np.clip((points * g).astype(np.int32), 0, g - 1)
    return field[where[..., 1], where[..., 0]]


def _lay(
    n: int, starts: Array, flow: Array, length: Array, width: Array, taper: float = 0.7, bends: int = 6
) -> Strokes:
    """Lays strokes along the flow, later ones on top.

    Args:
        n: side of the image in pixels.
        starts: middles of the strokes, (K, 2).
        flow: directions, (g, g).
        length: of each stroke, (K,).
        width: of each stroke, (K,).
        taper: how much narrower the ends are, 0 (square) to 1 (pointed).
        bends: number of straight pieces per stroke.
    """
    heading = _at(flow, starts)
    halves = []
    for sign in (-1.0, 1.0):  # trace both ways from the middle
        point, angle, path = starts, heading, []
        for _ in range(bends // 2):
            turn = _at(flow, point) - angle
            angle = angle + np.arctan2(np.sin(2 * turn), np.cos(2 * turn)) / 2  # the nearer of the two senses
            step = np.stack([np.cos(angle), np.sin(angle)], axis=1)
            point = point + sign * step * (length / bends)[:, None]
            path.append(point)
        halves.append(path)
    center = np.stack([*halves[0][::-1], starts, *halves[1]], axis=1)  # (K, bends + 1, 2)
    tangent = np.gradient(center, axis=1)
    tangent /= np.linalg.norm(tangent, axis=2, keepdims=True) + 1e-9
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=2)
    swell = 1 - taper * np.abs(np.linspace(-1, 1, center.shape[1])) ** 2.5
    offset = normal * (0.5 * width[:, None] * swell)[..., None]
    outlines = np.concatenate([center + offset, (center - offset)[:, ::-1]], axis=1) * n

    canvas = Image.new("I", (n, n), -1)
    draw = ImageDraw.Draw(canvas)
    for number, outline in enumerate(outlines.reshape(len(outlines), -1).tolist()):
        draw.polygon(outline, fill=number)
    index = np.asarray(canvas, np.int32)
    x, y = grid(n)
    dx, dy = x - starts[index, 0], y - starts[index, 1]
    cos, sin = np.cos(heading)[index], np.sin(heading)[index]
    return Strokes(index, 2 * (dx * cos + dy * sin) / length[index], 2 * (dy * cos - dx * sin) / width[index])


def _scatter(rng: Rng, spacing: float) -> Array:
    """Evenly scattered points (K, 2) in random order: a jittered grid that reaches beyond the edges."""
    side = np.arange(-0.02, 1.02 + spacing, spacing)
    points = (
        np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        + rng.uniform(-0.5, 0.5, (len(side) ** 2, 2)) * spacing
    )
    return rng.permutation(points).astype(np.float32)


def _bristles(rng: Rng, strokes: Strokes, count: float = 9) -> Array:
    """Height of the paint (n, n) in about [0, 1]: rounded strokes with furrows of the bristles along them."""
    furrows = fractal(rng, 256, 16, gain=0.7)
    u = strokes.across * np.float32(count / 40) + strokes.top * np.float32(0.381)
    ridge = sample(furrows, u, strokes.along * np.float32(0.02) + strokes.top * np.float32(0.173))
    body = np.clip(1 - np.abs(strokes.across) ** 3, 0, 1) * np.clip(1.15 - 0.3 * strokes.along, 0, 1.2)
    return np.asarray(0.45 * body + 1.1 * (ridge - 0.5) + 0.3, np.float32)


def _impasto(image: Array, height: Array, strength: float) -> Array:
    """Thick paint in raking light."""
    scale = len(image) / 512  # slopes are per pixel
    return image * relief(height, strength * scale)[..., None]


def _canvas(rng: Rng, n: int, strength: float = 0.05) -> Array:
    """Woven cloth, around 1, (n, n, 1) so that it multiplies an image."""
    x, y = grid(n)
    threads = 2 * np.pi * 100
    weave = np.sin(x * threads) * np.sin(y * threads) + 2 * (fractal(rng, n, 32, gain=0.8) - 0.5)
    return np.asarray(1 + strength * weave, np.float32)[..., None]


def _paper(rng: Rng, n: int, color: Array, grain: float = 0.05) -> Array:
    """Toothed paper, a little foxed."""
    tooth = fractal(rng, n, 64, gain=0.9) - 0.5
    stain = fractal(rng, n, 2, gain=0.5) - 0.5
    return (color * (1 + grain * 2 * tooth + grain * 1.2 * stain)[..., None]).astype(np.float32)


def _voronoi(rng: Rng, n: int, cells: int, angle: Array | None = None) -> tuple[Index, Array, Array, Array]:
    """Cells around the points of a jittered grid; with `angle` (n, n) squarish ones, turned by it.

    Returns:
        The number of each pixel's cell, its distance from the cell's point, from the border, and the points (K, 2).
    """
    side = cells + 4
    jitter = 0.42 if angle is None else 0.3
    points = (
        np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1)
        - 1.5
        + rng.uniform(-jitter, jitter, (side, side, 2))
    )
    points = points.astype(np.float32)
    x, y = grid(n)
    column, row = (x * cells).astype(np.int32) + 2, (y * cells).astype(np.int32) + 2
    first, second = np.full((n, n), 9, np.float32), np.full((n, n), 9, np.float32)
    index = np.zeros((n, n), np.int32)
    cos, sin = (np.cos(angle), np.sin(angle)) if angle is not None else (None, None)
    for step_y in (-1, 0, 1):
        for step_x in (-1, 0, 1):
            near = points[row + step_y, column + step_x]
            dx, dy = x * cells - near[..., 0], y * cells - near[..., 1]
            if cos is None or sin is None:
                distance = np.sqrt(dx * dx + dy * dy)
            else:
                distance = np.maximum(np.abs(dx * cos + dy * sin), np.abs(dy * cos - dx * sin))
            nearer = distance < first
            second = np.where(nearer, first, np.minimum(second, distance))
            first = np.where(nearer, distance, first)
            index = np.where(nearer, (row + step_y) * side + column + step_x, index)
    return index, first / cells, (second - first) / cells, points.reshape(-1, 2) / cells


# ------------------------------------------------------------------------------------------------- brush and dots


def swirls(rng: Rng, n: int) -> Array:
    """Long curved strokes that swirl through sky and fields, thick and saturated."""
    palette = _palette(rng, "starry", "wheat", "iris", "nocturne", "tahiti")
    motif = _motif(
        rng, 160, "mountains", "hills", "hills", "skyline", "misty_ridges", "blossoms", "still_life", "seascape"
    )
    flow = _flow(rng, motif, follow=0.8, vortices=int(rng.integers(1, 5)))
    return _brushwork(
        rng, n, motif, palette, flow, spacings=(0.034, 0.017), aspect=5.5, sharpness=26, relief_strength=1.1
    )


def dabs(rng: Rng, n: int) -> Array:
    """Short broken touches of light color, lying down on water and standing up in foliage."""
    palette = _palette(rng, "lilies", "haystack", "harbour", "parasol", "sakura", "iris")
    motif = _motif(rng, 160, "seascape", "hills", "mountains", "street", "blossoms", "misty_ridges")
    flow = _flow(rng, motif, follow=0.5, cells=3) * 0.35 + rng.choice([0.0, 0.25, -0.3])
    return _brushwork(
        rng, n, motif, palette, flow, spacings=(0.03, 0.016), aspect=2.3, sharpness=28, relief_strength=0.8
    )


def knife(rng: Rng, n: int) -> Array:
    """Broad rectangular slabs of paint spread with a knife."""
    palette = _palette(rng, "nocturne", "fauve", "tahiti", "harbour", "orphic", "jewel")
    motif = _motif(rng, 160, "skyline", "street", "seascape", "blossoms", "dunes", "hills")
    flow = _flow(rng, motif, follow=1.2, cells=2) + rng.choice([0.0, 0.8])
    return _brushwork(
        rng, n, motif, palette, flow, spacings=(0.06, 0.034), aspect=1.9, sharpness=30, relief_strength=1.3, taper=0.05
    )


def _brushwork(
    rng: Rng,
    n: int,
    motif: Array,
    palette: Array,
    flow: Array,
    *,
    spacings: Sequence[float],
    aspect: float,
    sharpness: float,
    relief_strength: float,
    taper: float = 0.75,
) -> Array:
    """Paints the motif in layers from broad to fine strokes."""
    middles, widths = [], []
    detail = np.abs(resize(luminance(motif), 96, 96) - blur(resize(luminance(motif), 96, 96), 0.06))
    for layer, spacing in enumerate(spacings):
        points = _scatter(rng, spacing)
        if layer:  # fine strokes go where the motif has detail
            points = points[_at(detail, points) * 5 + 0.3 > rng.random(len(points))]
        middles.append(points)
        widths.append(spacing * rng.uniform(0.9, 1.5, len(points)))
    starts, width = np.concatenate(middles), np.concatenate(widths).astype(np.float32)
    length = width * aspect * rng.uniform(0.7, 1.3, len(width)).astype(np.float32)
    colors = 0.65 * _pick(rng, _at(motif, starts), palette, sharpness) + 0.35 * _recolor(
        _at(motif, starts), palette, 14
    )
    colors *= 1 + 0.09 * rng.standard_normal((len(starts), 1))
    strokes = _lay(n, starts, flow, length, width, taper)
    height = _bristles(rng, strokes)
    image = colors[strokes.top].astype(np.float32)
    image = image * (0.86 + 0.22 * height)[..., None]
    return _impasto(image, height, relief_strength) * _canvas(rng, n, 0.02)


def pointillism(rng: Rng, n: int) -> Array:
    """Dots of pure palette colors on a light ground that mix in the eye."""
    palette = _palette(rng, "harbour", "parasol", "haystack", "fauve", "lilies", "iris")
    motif = _motif(rng, 160, "seascape", "hills", "mountains", "street", "still_life", "blossoms", "dunes")
    image = _paper(rng, n, rgb("efe4cc")) * _canvas(rng, n, 0.03)
    spacing = rng.uniform(0.011, 0.016)
    points = np.concatenate([_scatter(rng, spacing), _scatter(rng, spacing * 0.9)])
    colors = _pick(rng, _at(motif, points), palette, 24) * (1 + 0.06 * rng.standard_normal((len(points), 1)))
    radius = spacing * rng.uniform(0.42, 0.62, len(points))
    canvas = Image.new("I", (n, n), -1)
    draw = ImageDraw.Draw(canvas)
    boxes = np.concatenate([points - radius[:, None], points + radius[:, None]], axis=1) * n
    for number, box in enumerate(boxes.tolist()):
        draw.ellipse(box, fill=number)
    index = np.asarray(canvas, np.int32)
    x, y = grid(n)
    dome = 1 - ((x - points[index, 0]) ** 2 + (y - points[index, 1]) ** 2) / radius[index] ** 2
    dots = colors[index].astype(np.float32) * (0.9 + 0.14 * np.clip(dome, 0, 1))[..., None]
    over(image, dots, (index >= 0))
    return _impasto(image, np.where(index >= 0, np.sqrt(np.clip(dome, 0, 1)), 0), 0.35)


def fauve(rng: Rng, n: int) -> Array:
    """Flat unmixed colors inside dark contours, brushed on quickly."""
    palette = _palette(rng, "fauve", "tahiti", "orphic", "harlequin")
    motif = _motif(rng, 128, "still_life", "street", "blossoms", "hills", "seascape", "mountains", "skyline")
    area, margin = _areas(motif, palette, n, smooth=0.02)
    flow = _flow(rng, motif, follow=0.6)
    starts = _scatter(rng, 0.024)
    width = 0.036 * rng.uniform(0.7, 1.3, len(starts))
    strokes = _lay(n, starts, flow, width * 3.2, width, 0.4)
    height = _bristles(rng, strokes)
    tint = rng.normal(0, 0.05, (len(starts), 3))
    painted = palette[_at(area, starts)][strokes.top] * 0.75 + palette[area] * 0.25
    image = (painted + tint[strokes.top]) * (0.85 + 0.25 * height)[..., None]
    wobble = fractal(rng, n, 10, gain=0.6)
    over(
        image,
        palette[luminance(palette).argmin()] * 0.6,
        smoothstep(0.0095, 0.006, margin + 0.012 * (wobble - 0.5)) * 0.92,
    )
    return _impasto(image, height, 0.7) * _canvas(rng, n, 0.03)


def _areas(motif: Array, palette: Array, n: int, smooth: float) -> tuple[Index, Array]:
    """Cuts the motif into flat areas: the palette's color at each pixel (n, n), and the distance to the next area."""
    weights = resize(blur(_affinity(motif, palette, 60), smooth), n, n)
    best = np.partition(weights, -2, axis=-1)
    lead = best[..., -1] - best[..., -2]
    dy, dx = np.gradient(lead)
    # To first order: how far until the runner-up has caught up. The constant widens no contour on flat ground.
    return weights.argmax(axis=-1).astype(np.int32), (lead / (n * np.hypot(dx, dy) + 1.0)).astype(np.float32)


# ------------------------------------------------------------------------------------------------------ pieces


def mosaic(rng: Rng, n: int) -> Array:
    """Small stones set along the forms, with grout between them and gold among them."""
    palette = _palette(rng, "byzantine", "gold", "harlequin", "ochre", "jewel", "wheat")
    motif = _motif(rng, 160, "still_life", "blossoms", "seascape", "hills", "mountains", "street")
    angle = resize(_flow(rng, motif, follow=1.5), n, n, Image.Resampling.NEAREST)
    cells = int(rng.integers(34, 52))
    index, _, border, points = _voronoi(rng, n, cells, angle)
    colors = 0.75 * _pick(rng, _at(motif, points), palette, 60) + 0.3 * _recolor(_at(motif, points), palette)
    colors *= 1 + 0.1 * rng.standard_normal((len(points), 1))
    stone = smoothstep(0.05, 0.16, border * cells)
    tilt = rng.uniform(-1, 1, (len(points), 2))  # each stone catches the light differently
    x, y = grid(n)
    gleam = 1 + 5 * ((x - points[index, 0]) * tilt[index, 0] + (y - points[index, 1]) * tilt[index, 1])
    image = colors[index] * (gleam * (0.9 + 0.4 * (fractal(rng, n, 48, gain=0.8) - 0.5)))[..., None]
    grout = _paper(rng, n, rgb("cfc4ae", "4a4038", "8a8074")[rng.integers(3)], 0.1)
    over(grout, image, stone)
    return _impasto(grout, stone, 0.35)


def stained_glass(rng: Rng, n: int) -> Array:
    """Glowing panes in lead, the large ones cut by the forms of the motif."""
    palette = _palette(rng, "jewel", "byzantine", "orphic", "starry", "fauve")
    motif = _motif(rng, 128, "blossoms", "still_life", "mountains", "seascape", "hills")
    index, _, border, points = _voronoi(rng, n, int(rng.integers(9, 15)))
    area, margin = _areas(motif, palette, n, smooth=0.05)
    pane = palette[area] * (1 + 0.22 * rng.standard_normal((len(points), 1)))[index]
    ripple = fractal(rng, n, 6, gain=0.6)
    x, y = grid(n)
    glow = 0.75 + 0.7 * np.exp(-((x - 0.5) ** 2 + (y - 0.42) ** 2) * 3) + 0.7 * (ripple - 0.5)
    image: Array = np.clip(pane * 1.1 + 0.04, 0, 1) ** 1.15 * (glow * (0.8 + 9 * np.minimum(border, 0.03)))[..., None]
    lead = np.maximum(smoothstep(0.0085, 0.006, border), smoothstep(0.0075, 0.005, margin))
    over(image, rgb("14130f") + 0.1 * relief(blur(lead, 0.008), 3)[..., None] - 0.06, lead)
    return image


def cubism(rng: Rng, n: int) -> Array:
    """The motif broken by straight cuts; every facet shows it from elsewhere and fades into its neighbor."""
    palette = _palette(rng, "ochre", "ochre", "slate", "harlequin", "vermilion", "harbour")
    motif = _motif(rng, 192, "still_life", "still_life", "street", "skyline", "blossoms")
    x, y = grid(n)
    signature = np.zeros((n, n), np.int64)
    nearest, shade = np.full((n, n), 9.0, np.float32), np.ones((n, n), np.float32)
    main = rng.uniform(0, np.pi)
    for cut in range(int(rng.integers(11, 17))):
        angle = main + rng.choice([0, 0.9, 1.57, 2.3]) + rng.normal(0, 0.15)
        if cut % 4 == 3:  # an arc now and then
            distance = np.hypot(x - rng.uniform(0.1, 0.9), y - rng.uniform(0.1, 0.9)) - rng.uniform(0.12, 0.4)
        else:
            distance = (x - rng.uniform(0.1, 0.9)) * np.cos(angle) + (y - rng.uniform(0.1, 0.9)) * np.sin(angle)
        # A cut ends at an older one, so that facets differ in size.
        active = (signature >> int(rng.integers(0, cut))) & 1 == rng.integers(2) if cut > 2 else np.True_
        signature = signature * 2 + (active & (distance > 0))
        nearest = np.where(active & (np.abs(distance) < np.abs(nearest)), distance, nearest)
        passage = np.clip(1 - np.abs(distance) / rng.uniform(0.08, 0.25), 0, 1)
        shade = np.where(
            active & (distance * rng.choice([-1, 1]) > 0), shade * (1 + rng.choice([-0.5, 0.28]) * passage), shade
        )
    _, facet = np.unique(signature, return_inverse=True)
    facet = facet.reshape(n, n)
    count = int(facet.max()) + 1
    shift = rng.normal(0, 0.07, (count, 2))[facet]
    seen = motif[
        np.clip(((y + shift[..., 1]) * 192).astype(int), 0, 191),
        np.clip(((x + shift[..., 0]) * 192).astype(int), 0, 191),
    ]
    tone = rng.normal(0, 0.14, (count, 1))[facet]
    image = _recolor(np.clip(seen * 0.75 + 0.12 + tone, 0, 1), palette, 30) * np.clip(shade, 0.35, 1.4)[..., None]
    starts = _scatter(rng, 0.022)
    width = 0.026 * rng.uniform(0.7, 1.3, len(starts))
    touches = _lay(n, starts, np.full((8, 8), main + 0.78, "f4"), width * 2.2, width, 0.2)
    height = _bristles(rng, touches)
    image = image * (0.85 + 0.2 * height + rng.normal(0, 0.05, len(starts))[touches.top])[..., None]
    line = smoothstep(0.0055, 0.002, np.abs(nearest)) * (0.35 + 0.65 * (fractal(rng, n, 5) > 0.45))
    over(image, palette[luminance(palette).argmin()], 0.8 * line)
    return _impasto(image, height, 0.45) * _canvas(rng, n, 0.04)


# --------------------------------------------------------------------------------------------- paper, ink, water


def engraving(rng: Rng, n: int) -> Array:
    """Lines that swell with the shade and cross where it is deep."""
    motif = _motif(rng, 256, "still_life", "mountains", "street", "seascape", "blossoms", "hills", "skyline")
    light = np.clip(resize(luminance(motif), n, n), 0, 1)
    form = blur(light, 0.03)
    paper, ink = [
        (rgb("efe6d2"), rgb("1f1b18")), (rgb("ece0c4"), rgb("5a2f1c")), (rgb("f2ede0"), rgb("1f2f5a")),
        (rgb("e8d9bc"), rgb("9a3a22")), (rgb("1c2026"), rgb("ece4d2")),
    ][rng.integers(5)]  # fmt: skip
    dark = 1 - light if luminance(paper) > 0.5 else light
    dark = np.clip(1.12 * dark**1.15, 0, 1)
    x, y = grid(n)
    lines, first = rng.uniform(52, 72), rng.uniform(0, np.pi)
    shaky = 0.006 * (fractal(rng, n, 6) - 0.5)
    drawn = np.zeros((n, n), np.float32)
    for turn, threshold in ((0.0, 0.06), (1.1, 0.42), (2.1, 0.68)):
        angle = first + turn
        across = x * np.cos(angle) + y * np.sin(angle) + 0.16 * form * rng.choice([-1, 1]) + shaky
        ridge = np.abs((across * lines) % 1 - 0.5) * 2  # 0 on a line's middle
        swell = np.clip((dark - threshold) / (1 - threshold), 0, 1) ** 0.8 * (0.95 if turn == 0 else 0.7)
        drawn = np.maximum(drawn, np.clip((swell - ridge) * 3.2 + 0.35, 0, 1) * (swell > 0.02))
    dy, dx = np.gradient(blur(light, 0.006))
    drawn = np.maximum(drawn, smoothstep(0.012, 0.03, np.hypot(dx, dy) * n / 512) * 0.8)  # contours
    image = _paper(rng, n, paper, 0.04)
    over(image, ink, (drawn * (0.82 + 0.3 * (fractal(rng, n, 64, gain=0.9) - 0.5))))
    return image


def watercolor(rng: Rng, n: int) -> Array:
    """Transparent washes with dark rims on white paper, running into each other."""
    palette = _palette(rng, "sakura", "lilies", "harbour", "iris", "parasol", "haystack", "edo")
    motif = _motif(rng, 160, "mountains", "misty_ridges", "seascape", "hills", "blossoms", "street", "dunes")
    image = resize(motif, n, n)
    wander, bloom = fractal(rng, n, 5, gain=0.6), fractal(rng, n, 7, gain=0.6)
    x, y = grid(n)
    image = sample(image, x + 0.035 * (wander - 0.5), y + 0.035 * (bloom - 0.5))
    pigment = np.clip(resize(_recolor(blur(resize(image, 128, 128), 0.02), palette, 30), n, n), 0.02, 1)
    dark = 1 - luminance(image) + 0.22 * (bloom - 0.5)
    tooth = fractal(rng, n, 80, gain=0.95) - 0.5
    light = np.ones((n, n, 3), np.float32)
    for threshold, strength in ((0.06, 0.5), (0.3, 0.4), (0.52, 0.45), (0.74, 0.55)):
        wash = smoothstep(threshold, threshold + 0.035, dark + 0.12 * (wander - 0.5))
        rim = np.clip(wash - blur(wash, 0.012), 0, 1)
        density = strength * wash * (0.85 + 0.9 * (bloom - 0.5) + 0.45 * tooth) + 0.75 * strength * rim
        light *= np.clip(1 - density[..., None] * (1 - pigment), 0.03, 1)
    edge = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    sheet = smoothstep(0.035, 0.05, edge + 0.06 * (wander - 0.5))
    image = _paper(rng, n, rgb("f8f4ea"), 0.025)
    return image * (1 + (light - 1) * sheet[..., None])


def woodblock(rng: Rng, n: int) -> Array:
    """Flat printed colors with gradations, key-block outlines, waves and a red seal."""
    palette = _palette(rng, "edo", "edo", "vermilion", "sakura")
    order = palette[luminance(palette).argsort()]
    dark, pale, cream = order[0], order[-2], order[-1]
    deep, middle = order[rng.choice([1, 2, 3, 4], 2, replace=False)]
    red = palette[(palette[:, 0] - palette[:, 1:].mean(1)).argmax()]
    x, y = grid(n)
    grain = fractal(rng, n, 48, gain=0.7, tall=0.08)  # of the wood
    horizon = rng.uniform(0.45, 0.62)
    evening = rng.choice([0, 1])
    image = ramp(np.stack([(deep, red)[evening], pale, cream, cream, pale]), y / horizon + 0 * x)
    if rng.random() < 0.75:
        cx, cy, r = rng.uniform(0.2, 0.8), rng.uniform(0.14, 0.36), rng.uniform(0.07, 0.14)
        over(image, (red, cream)[evening], np.clip((r - np.hypot(x - cx, y - cy)) * n, 0, 1))
    for _ in range(int(rng.integers(2, 6))):  # bands of cloud with round ends
        cx, cy, half, r = rng.random(), rng.uniform(0.1, horizon), rng.uniform(0.1, 0.3), rng.uniform(0.008, 0.016)
        over(image, cream, np.clip((r - np.hypot(np.maximum(np.abs(x - cx) - half, 0), y - cy)) * n, 0, 1))

    def layer(line: Array, color: Array, fade: Array, reach: float) -> None:
        depth = y - line[None]
        over(
            image,
            fade + (color - fade) * np.clip(depth / reach, 0, 1)[..., None] if reach > 0 else color,
            np.clip(depth * n + 0.5, 0, 1),
        )
        over(image, dark, np.clip((0.0028 - np.abs(depth)) * n + 0.5, 0, 1))

    if rng.random() < 0.7:  # the great mountain
        peak, top = rng.uniform(0.3, 0.7), horizon - rng.uniform(0.22, 0.38)
        rise = np.abs(x[0] - peak)
        line = top + 0.62 * np.maximum(rise - 0.03, 0) ** 0.82 + 0.004 * profile(rng, n, 12)
        layer(line, middle, deep, 0.25)
        snow = (
            y
            - line[None]
            - 0.07
            - 0.03 * np.abs(((x * 14 + rng.random()) % 1) - 0.5) * 2 * (1 + profile(rng, n, 6, 0.4)[None] * 0.4)
        )
        over(image, cream, (np.clip(-snow * n, 0, 1) * np.clip((y - line[None] - 0.0028) * n, 0, 1)))
    for k in range(int(rng.integers(1, 4))):
        line = horizon - 0.05 + 0.05 * k + 0.035 * profile(rng, n, 3, 0.35)
        layer(line, (middle, deep, pale)[k % 3], (deep, middle, middle)[k % 3], 0.12)
    if rng.random() < 0.5:
        _seigaiha(image, horizon + 0.1, rng.uniform(0.05, 0.08), np.stack([deep, cream, middle]), dark)
    else:
        _crests(rng, image, horizon + 0.08, deep, middle, cream, dark)
    image *= (0.95 + 0.28 * (grain - 0.36))[..., None]
    if rng.random() < 0.35:  # rain
        slant = (x + 0.22 * y) * 90
        streak = (np.abs(slant % 1 - 0.5) < 0.06) * (
            sample(fractal(rng, 256, 24, tall=8.0), x + 0.22 * y, y * 0.5) > 0.5
        )
        over(image, dark, 0.5 * streak)
    part, px, py = window(n, 0.88, 0.06, 0.94, 0.17)
    image[part] = red
    over(image[part], cream, (np.abs(np.sin(px * 210) * np.cos(py * 170)) > 0.72) * 0.9)
    paper = _paper(rng, n, np.ones(3, np.float32), 0.035)
    return image * paper


def _seigaiha(image: Array, top: float, radius: float, colors: Array, dark: Array) -> None:
    """Overlapping scales of concentric arcs: the classic pattern for the sea."""
    n = len(image)
    x, y = grid(n)
    for row in range(int((1.0 - top) / (radius / 2)) + 3):
        center = top + row * radius / 2
        first, last = int(max(center - radius, 0) * n), int(np.clip((center + 0.5 * radius) * n, 0, n))
        across = (x + radius * (row % 2)) % (2 * radius) - radius
        distance = np.hypot(across, y[first:last] - center) / radius
        rings = ramp(np.repeat(colors[[1, 0, 1, 2, 1, 0]], 2, axis=0), distance)
        over(rings, dark, smoothstep(0.93, 0.97, distance))
        over(image[first:last], rings, np.clip((1 - distance) * radius * n, 0, 1))


def _crests(rng: Rng, image: Array, top: float, deep: Array, middle: Array, foam: Array, dark: Array) -> None:
    """Breaking waves, row before row: striped bodies under scalloped foam."""
    n = len(image)
    x, y = grid(n)
    for row in range(4):
        waves, phase, tall = rng.uniform(1.2, 2.6), rng.random(), 0.05 + 0.05 * row
        swell = (x[0] * waves + phase) % 1
        line = top + 0.12 * row + tall * (0.4 - np.exp(-(((swell - 0.55) / 0.22) ** 2)) - 0.4 * swell * (swell > 0.5))
        claws = 0.014 * np.abs(np.sin(x[0] * 60 * (1 + 0.1 * row) + 5 * swell))
        depth = y - line[None]
        stripes = np.sin((depth + 0.35 * swell * depth) * 150) > 0.35
        body = np.where(stripes[..., None], middle, deep)
        over(body, deep, np.clip(depth * 4, 0, 1))
        over(image, body, np.clip(depth * n, 0, 1))
        over(image, foam, (np.clip(depth * n, 0, 1) * np.clip((0.016 + claws + 0.006 * row - depth) * n, 0, 1)))
        for edge in (depth, depth - 0.016 - claws - 0.006 * row):
            over(image, dark, np.clip((0.0024 - np.abs(edge)) * n + 0.5, 0, 1))


# ------------------------------------------------------------------------------------------------------ abstract


def neoplastic(rng: Rng, n: int) -> Array:
    """Rectangles of primary colors and white between black bars."""
    palette = _palette(rng, "de_stijl", "de_stijl", "bauhaus", "harlequin")
    image = _paper(rng, n, palette[luminance(palette).argmax()], 0.02)
    bar = rng.uniform(0.008, 0.02)
    boxes = [(0.0, 0.0, 1.0, 1.0)]
    for _ in range(int(rng.integers(9, 18))):
        area = [(right - left) * (bottom - top) for left, top, right, bottom in boxes]
        left, top, right, bottom = boxes.pop(int(np.argmax(np.array(area) * rng.uniform(0.3, 1, len(area)))))
        where = rng.uniform(0.25, 0.75)
        if (right - left) * rng.uniform(0.6, 1.6) > bottom - top:
            cut = left + where * (right - left)
            boxes += [(left, top, cut, bottom), (cut, top, right, bottom)]
        else:
            cut = top + where * (bottom - top)
            boxes += [(left, top, right, cut), (left, cut, right, bottom)]
    vivid = palette[np.ptp(palette, axis=1).argsort()[::-1]]
    for number, place in enumerate(rng.permutation(len(boxes))):
        part, _, _ = window(n, *boxes[place])
        if number < 3:  # never only white
            image[part] = vivid[number]
        elif rng.random() < 0.45:
            image[part] = palette[rng.integers(len(palette))]
    for left, top, right, bottom in boxes:
        for box in ((left - bar / 2, top, left + bar / 2, bottom), (left, top - bar / 2, right, top + bar / 2)):
            part, _, _ = window(n, *box)
            image[part] = rgb("161616")
    brushed = fractal(rng, n, 24, gain=0.8, tall=0.15) + fractal(rng, n, 24, gain=0.8, tall=8)
    image = image * (1 + 0.1 * (brushed - 1))[..., None]
    return _impasto(image, brushed, 0.5) * _canvas(rng, n, 0.025)


def composition(rng: Rng, n: int) -> Array:
    """Circles, wedges, grids and whiplash lines afloat on a tinted ground."""
    palette = _palette(rng, "bauhaus", "fauve", "orphic", "harlequin", "sakura")
    order = palette[luminance(palette).argsort()]
    mottle = fractal(rng, n, 3, gain=0.6)
    image = ramp(np.stack([order[-1] * 0.85, order[-1], order[-2]]), mottle)
    x, y = grid(n)

    def color() -> Array:
        return np.asarray(palette[rng.integers(len(palette))], np.float32)

    for _ in range(3):  # large transparent shapes first
        points: Points = [(px, py) for px, py in rng.uniform(-0.1, 1.1, (3, 2)).tolist()]
        over(image, color(), polygon(n, points) * rng.uniform(0.35, 0.8) * (0.6 + 0.8 * mottle))
    for _ in range(int(rng.integers(5, 10))):
        cx, cy, r = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.03, 0.17)
        part, px, py = window(n, cx - 1.3 * r, cy - 1.3 * r, cx + 1.3 * r, cy + 1.3 * r)
        distance = np.hypot(px - cx, py - cy) / r
        over(image[part], color(), np.clip(1.25 - distance, 0, 1) ** 1.5 * 0.7)  # a halo
        for ring in np.sort(rng.uniform(0.15, 1, rng.integers(2, 5)))[::-1]:
            over(image[part], color(), np.clip((ring - distance) * r * n, 0, 1) * rng.uniform(0.75, 1))
    for _ in range(int(rng.integers(2, 5))):  # chequered or ruled patches
        cx, cy, side, angle = *rng.uniform(0.1, 0.9, 2), rng.uniform(0.05, 0.13), rng.uniform(0, np.pi)
        u, v = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle), (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        inside = (np.abs(u) < side) & (np.abs(v) < side * 0.7)
        over(image, color(), inside * 0.9)
        over(image, color(), (inside & ((np.floor(u / side * 3) + np.floor(v / side * 3)) % 2 == 0)))
    for _ in range(int(rng.integers(5, 12))):  # straight lines and wedges
        a, b = rng.uniform(0, 1, 2), rng.uniform(0, 1, 2)
        w = rng.uniform(0.002, 0.012)
        over(
            image,
            order[0] if rng.random() < 0.7 else color(),
            polygon(n, [(a[0], a[1]), (b[0] - w, b[1] + w), (b[0] + w, b[1] - w)]),
        )
    for _ in range(int(rng.integers(2, 5))):  # whiplash lines
        wave = (
            rng.uniform(0.1, 0.9)
            + rng.uniform(0.02, 0.12) * np.sin(x * rng.uniform(5, 22) + rng.uniform(0, 6))
            + (x - 0.5) * rng.uniform(-0.6, 0.6)
        )
        width = 0.002 + 0.005 * np.abs(np.sin(x * rng.uniform(2, 6)))
        reach = np.abs(x - rng.uniform(0.3, 0.7)) < rng.uniform(0.15, 0.35)
        over(image, order[0], np.clip((width - np.abs(y - wave)) * n, 0, 1) * reach)
    image = image * (0.94 + 0.12 * fractal(rng, n, 20, gain=0.8))[..., None]
    return image * _canvas(rng, n, 0.04)


def discs(rng: Rng, n: int) -> Array:
    """Rings and sectors of simultaneous color contrasts, brushed around their centers."""
    palette = _palette(rng, "orphic", "orphic", "fauve", "bauhaus", "jewel", "starry")
    x, y = grid(n)
    image = np.zeros((n, n, 3), np.float32)
    furrows = fractal(rng, 256, 10, gain=0.7)
    height = np.zeros((n, n), np.float32)
    for disc in range(int(rng.integers(5, 9))):
        cx, cy = rng.uniform(0, 1, 2)
        size = 3.0 if disc == 0 else rng.uniform(0.16, 0.42)
        sectors, rings = int(rng.choice([2, 4, 6, 8])), rng.uniform(0.045, 0.085)
        distance, angle = np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx) + rng.uniform(0, 6.28)
        ring, sector = (distance / rings).astype(int), (angle / (2 * np.pi) * sectors).astype(int) % sectors
        table = palette[rng.integers(0, len(palette), (int(2 / rings) + 2, sectors))]
        brush = sample(furrows, distance * 6, angle / (2 * np.pi) * 0.5)
        shaded = (
            table[ring, sector] * (0.78 + 0.3 * (angle / (2 * np.pi) * sectors % 1) + 0.5 * (brush - 0.5))[..., None]
        )
        mask = np.clip((size - distance) * n, 0, 1)
        over(image, shaded, mask)
        height += (brush - height) * mask
    return _impasto(image, height, 1.6) * _canvas(rng, n, 0.03)


def ornament(rng: Rng, n: int) -> Array:
    """Gold ground with spirals, eyes and tesserae in a robe of patterns."""
    palette = _palette(rng, "gold", "gold", "byzantine", "jewel")
    gold = PALETTES["gold"][[1, 2, 3, 4]]
    flake = fractal(rng, n, 30, gain=0.9)
    image = ramp(gold, 0.25 + 0.9 * (0.5 * flake + 0.5 * fractal(rng, n, 3) - 0.15))
    index, _, border, points = _voronoi(rng, n, int(rng.integers(5, 8)))
    kinds = rng.integers(0, 4, len(points))
    hues = palette[rng.integers(0, len(palette), (len(points), 2))]
    x, y = grid(n)
    dx, dy = x - points[index, 0], y - points[index, 1]
    distance, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    turn = rng.choice([-1, 1], len(points))[index]
    spiral = ((distance * 26 + turn * angle / (2 * np.pi)) % 1) < 0.45
    eyes = np.floor(distance * 34).astype(int) % 3
    u, v = x * 30, y * 18 + 0.5 * (np.floor(x * 30) % 2)
    tiles = rng.random((64, 64))[np.floor(v).astype(int), np.floor(u).astype(int) + 0 * v.astype(int)]
    brick = (u % 1 > 0.12) & (v % 1 > 0.12) & (tiles > 0.3)
    waves = np.sin((y + 0.02 * np.sin(x * 40)) * 130) > 0.2
    pattern = np.select([kinds[index] == k for k in range(4)], [spiral, eyes == 0, brick, waves])
    first, second = hues[index, 0], hues[index, 1]
    patch = np.where(pattern[..., None], first, np.where((kinds[index] == 0)[..., None], image, second))
    patch = np.where((eyes == 1)[..., None] & (kinds[index] == 1)[..., None], rgb("f0e2b8"), patch)
    bare = (rng.random(len(points)) < 0.25)[index]
    over(image, patch * (0.8 + 0.4 * flake)[..., None], 0.92 * (~bare & (border > 0.008)))
    raised = pattern & ~bare
    over(image, gold[3], smoothstep(0.01, 0.006, border))
    return _impasto(image, blur(raised, 0.006) + 0.5 * flake, 1.0)


FAMILIES: dict[str, Callable[[Rng, int], Array]] = {
    manner.__name__: manner
    for manner in (
        swirls, dabs, knife, pointillism, fauve, mosaic, stained_glass, cubism,
        engraving, watercolor, woodblock, neoplastic, composition, discs, ornament,
    )
}  # fmt: skip


def draw_painting(seed: int, size: int = 256, family: str | None = None) -> Image.Image:
    """Draws a procedural painting.

    The same seed gives the same pixels on every run, and the same composition at another size.

    Args:
        seed: Any integer >= 0.
        size: Side of the square image in pixels.
        family: A key of `FAMILIES`; by default it depends on the seed.

    Returns:
        An RGB image of size x size.
    """
    rng = np.random.default_rng(seed)
    chosen = family or list(FAMILIES)[rng.integers(len(FAMILIES))]
    image = np.clip(FAMILIES[chosen](rng, max(2 * size, 192)), 0, 1).astype(np.float32)
    image = np.clip(resize(image, size, size, Image.Resampling.LANCZOS), 0, 1)
    return Image.fromarray((image * 255 + 0.5).astype(np.uint8))
