"""Procedural "photos" of several kinds of scenes.

Every family is a function of a random generator ``rng`` and a side ``n`` in pixels that returns an RGB image (n, n, 3).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

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
    unit,
    window,
)


class Mood(NamedTuple):
    """The light at a time of day.

    Attributes:
        sky: Colors of the sky at the zenith, in the middle and at the horizon, (3, 3).
        sun: Color of the sun, (3,).
        cloud: Colors of clouds in shade and in light, (2, 3).
        ambient: Ambient light, in [0, 1].
        low: Whether a low sun is in the image.
    """

    sky: Array
    sun: Array
    cloud: Array
    ambient: float
    low: bool


MOODS = {
    "noon": Mood(rgb("2a62b5", "6fa6dd", "c3dcee"), rgb("fff6e0"), rgb("9fb0c4", "ffffff"), 0.45, False),
    "clear": Mood(rgb("17458f", "4f8fcf", "a9d0ea"), rgb("fff3d6"), rgb("a9b8cc", "ffffff"), 0.42, False),
    "hazy": Mood(rgb("7f9fc0", "b3c6d4", "e4e2d4"), rgb("fff1cf"), rgb("b5b9c0", "f7f3ea"), 0.55, False),
    "storm": Mood(rgb("39434f", "66727c", "b9b9ad"), rgb("d8dcdc"), rgb("3b444e", "b9bdbe"), 0.60, False),
    "golden": Mood(rgb("4a74b0", "e0b58a", "ffdc9c"), rgb("ffd79a"), rgb("a67c7e", "ffe7c0"), 0.40, True),
    "sunset": Mood(rgb("2b3770", "b5597a", "ffa35c"), rgb("ffb46e"), rgb("5d3f6c", "ff9a74"), 0.36, True),
    "dawn": Mood(rgb("5a6fae", "d59bb4", "ffd9bd"), rgb("ffd0b4"), rgb("8d7fa8", "ffd3cd"), 0.45, True),
    "dusk": Mood(rgb("141b45", "4a3f7a", "e07a5f"), rgb("e8a07c"), rgb("2c2a52", "a4617a"), 0.32, True),
}


def _mood(rng: Rng, *names: str) -> Mood:
    """Returns one of the named moods."""
    return MOODS[names[rng.integers(len(names))]]


def _sky(rng: Rng, n: int, mood: Mood, horizon: float) -> Array:
    """Gradient, glow of a low sun, and clouds that shrink towards the horizon."""
    x, y = grid(n)
    up = np.clip(1 - y / horizon, 0, 1) + 0 * x
    image = ramp(mood.sky[::-1], up**0.8)
    sun_x, sun_y = rng.uniform(0.15, 0.85), horizon * rng.uniform(0.62, 0.95)
    cover, heap = rng.uniform(0.42, 0.68), fractal(rng, 256, int(rng.integers(3, 6)), gain=0.55)
    if mood.low:
        distance = np.hypot(x - sun_x, (y - sun_y) * 1.3)
        over(image, mood.sun, 0.75 * np.exp(-distance * 5))
        over(image, rgb("fffbe8"), smoothstep(0.045, 0.03, distance))
    # Clouds are soft: half the resolution is enough.
    x, y = grid(n // 2)
    far = 1 / (np.clip(1 - y / horizon, 0, 1) * 1.1 + 0.14)
    u, v = (x - 0.5) * far * 0.42, far * 0.5
    density = sample(heap, u, v)
    side = 0.03 * np.sign(sun_x - 0.5)
    light = np.clip(0.55 + 2.2 * (density - sample(heap, u + side, v + 0.035)), 0, 1)
    mask = smoothstep(cover, cover + 0.24, density) * smoothstep(0.0, 0.25, np.clip(1 - y / horizon, 0, 1))
    over(image, resize(ramp(mood.cloud, light), n, n), 0.92 * np.clip(resize(mask, n, n), 0, 1))
    return image


def _reflect(rng: Rng, image: Array, shore: float, tint: Array, ripple: float = 1.0) -> None:
    """Turns everything under `shore` into water that mirrors what stands above it."""
    n = len(image)
    x, y = grid(n)
    first = int(shore * n)
    below = np.maximum(y[first:] - shore, 1e-3)
    waves = fractal(rng, 256, 8, gain=0.6, tall=0.4)
    tilt = sample(waves, (x - 0.5) * 0.12 / (below + 0.02), 0.16 / (below + 0.02)) - 0.5
    rows = (first - 1 - (below * n) * 0.96 + tilt * n * ripple * (0.03 + 0.25 * below)).astype(np.int32)
    columns = (np.arange(n)[None] + tilt * n * ripple * 0.03).astype(np.int32)
    mirror = image[np.clip(rows, 0, first - 1), np.clip(columns, 0, n - 1)]
    depth = np.clip(0.12 + 0.75 * below + 0.5 * tilt * ripple, 0, 0.85)
    image[first:] = mirror + (tint - mirror) * depth[..., None]


def _conifers(rng: Rng, image: Array, ground: Array, count: int, height: float, color: Array) -> None:
    """Fir trees rooted on the line `ground` (n,), lit from above."""
    n = len(image)
    needles = fractal(rng, n, 48, gain=0.8)
    for root in np.sort(rng.uniform(-0.02, 1.02, count)):
        tall = height * rng.uniform(0.55, 1.15)
        foot = float(ground[int(np.clip(root * n, 0, n - 1))]) + rng.uniform(0.0, 0.04)
        part, x, y = window(n, root - tall * 0.3, foot - tall, root + tall * 0.3, foot)
        down = (y - foot + tall) / tall  # 0 at the tip
        tier = 0.75 + 0.25 * ((down * rng.uniform(7, 11)) % 1)
        width = tall * 0.21 * down * tier + tall * 0.15 * (needles[part] - 0.5) * down + 0.004
        mask = np.clip((width - np.abs(x - root)) * n * 0.7 + 0.5, 0, 1)
        lit = 0.55 + 1.3 * (needles[part] - 0.4) + 0.4 * np.clip((root - x) / (width + 1e-3), -1, 1) * 0.5
        over(image[part], color * np.clip(lit, 0.15, 1.6)[..., None], mask)


def _crown(
    rng: Rng, image: Array, center: tuple[float, float], radius: float, color: Array, light: Array, leaves: Array
) -> None:
    """A broad-leaved tree: trunk, then clumps of leaves from back to front, each a lit ball with a ragged edge."""
    n = len(image)
    cx, cy = center
    foot = cy + radius * 1.75
    part, x, y = window(n, cx - radius * 0.4, cy, cx + radius * 0.4, foot)
    width = radius * (0.08 + 0.12 * smoothstep(cy + radius * 0.9, foot, y) ** 3)
    bark = rgb("4a3524") * (0.6 + 0.8 * (leaves[part] - 0.3) + 0.5 * np.clip((cx - x) / width, -1, 1))[..., None]
    over(image[part], bark, np.clip((width - np.abs(x - cx)) * n + 0.5, 0, 1))
    clumps = rng.uniform(-1, 1, (26, 2)) * [0.75, 0.7]
    clumps = clumps[np.hypot(*clumps.T) < 0.85]
    for dx, dy in clumps[np.argsort(-clumps[:, 1])]:
        size = radius * rng.uniform(0.3, 0.5)
        bx, by = cx + dx * radius, cy + dy * radius
        part, x, y = window(n, bx - size * 1.3, by - size * 1.3, bx + size * 1.3, by + size * 1.3)
        px, py = (x - bx) / size, (y - by) / size
        mask = np.clip((1.1 - np.hypot(px, py) + 1.6 * (leaves[part] - 0.5)) * 6, 0, 1)
        lit = 0.5 - 0.35 * py - 0.28 * px - 0.22 * dy + 1.1 * (leaves[part] - 0.5)
        over(image[part], color * (0.28 + light * 0.95 * np.clip(lit, 0, 1.3)[..., None]), mask)


def _shape(n: int, x: float, y: float, size: float, points: Points) -> Array:
    """The mask of a polygon given around (0, 0) in units of `size`."""
    return polygon(n, [(x + px * size, y + py * size) for px, py in points])


def _boat(rng: Rng, image: Array, x: float, y: float, size: float) -> None:
    """Draws a sailing boat."""
    n = len(image)
    sail, trim = rgb("fbf6ea", "e9e2cf", "d2452f", "f2b138")[rng.permutation(4)[:2]]
    hull = rgb("3a2a22", "8c2f26", "1f3f5c", "e8e4da")[rng.integers(4)]
    lean = rng.uniform(-0.06, 0.06)
    over(image, sail * 0.94, _shape(n, x, y, size, [(-0.02, -0.16), (-0.52, -0.2), (lean, -1.35)]))
    over(image, trim * 0.85, _shape(n, x, y, size, [(0.04, -0.17), (0.46, -0.17), (lean + 0.02, -1.2)]))
    over(image, hull, _shape(n, x, y, size, [(-0.62, -0.13), (0.68, -0.16), (0.42, 0.04), (-0.45, 0.04)]))


# ---------------------------------------------------------------------------------------------------- landscapes


def mountains(rng: Rng, n: int) -> Array:
    """A real height field seen in perspective, with haze, snow or desert rock, often behind a lake and firs."""
    mood = _mood(rng, "noon", "clear", "golden", "dawn", "sunset", "hazy", "storm")
    land = [
        rgb("3d5a2a", "6b7a45", "7d7468", "8a857f", "f4f7fb", "ffffff"),  # alpine
        rgb("7c5a2c", "b5762f", "8a6248", "83766c", "d9d6d2", "ffffff"),  # autumn
        rgb("b5623a", "d68a56", "a34a2e", "d99a68", "c06a44", "f0c79c"),  # red rock
        rgb("4c6b3c", "58743f", "5a6450", "6d6f6a", "8b8c89", "e8ecef"),  # highland
    ][rng.choice(4, p=[0.4, 0.2, 0.25, 0.15])]
    horizon, strata, lake = rng.uniform(0.46, 0.6), land[0][0] > 0.65, rng.random() < 0.55
    image = _sky(rng, n, mood, horizon)

    height = 0.65 * fractal(rng, 512, int(rng.integers(2, 4)), gain=0.5, ridged=True) + 0.35 * fractal(rng, 512, 4)
    if strata:  # erosion leaves terraces
        height = height + 0.012 * np.sin(height * 70)
    dy, dx = np.gradient(height * 512 * 0.55)
    light = unit(rng.choice([-0.8, 0.8]), -0.25, 0.55)
    shade = np.clip((-dx * light[0] - dy * light[1] + light[2]) / np.sqrt(dx**2 + dy**2 + 1), 0.0, 1)
    slope = np.clip(1 / np.sqrt(dx**2 + dy**2 + 1), 0, 1).astype(np.float32)

    # March away from the viewer; what rises above everything nearer is seen.
    x, _ = grid(n)
    depth = np.geomspace(0.1, 2.4, 240, dtype=np.float32)[:, None]
    u0, v0 = rng.random(2)
    u, v = u0 + (x - 0.5) * depth * 0.9, v0 - depth * 0.6
    rise = smoothstep(0.2, 1.2, depth) * rng.uniform(1.2, 2.0) + 0.1
    z = (sample(height, u, v) - (0.42 if lake else 0.3)) * rise
    steps = len(depth)
    outline = np.minimum.accumulate(horizon + (0.13 - z * rng.uniform(0.75, 1.05)) * 0.45 / depth, axis=0)
    rows = np.clip(np.ceil(outline * n - 0.5), 0, n).astype(np.int64)
    hidden = np.bincount((rows * n + np.arange(n)).ravel(), minlength=(n + 1) * n).reshape(n + 1, n)
    hit = steps - np.cumsum(hidden, axis=0)[:n]  # the first step whose outline reaches up to this pixel
    seen = (hit < steps) & (np.arange(n)[:, None] >= rows[-1])
    hit = np.clip(hit, 1, steps - 1)
    columns = np.broadcast_to(np.arange(n), (n, n))
    above, below = outline[hit, columns], outline[hit - 1, columns]
    part = np.clip((below - grid(n)[1]) / np.maximum(below - above, 1e-6), 0, 1)
    far = depth[hit, 0] + part * (depth[hit, 0] - depth[hit - 1, 0])

    u, v = u0 + (x - 0.5) * far * 0.9, v0 - far * 0.6
    tall, facing, flat, grain = np.moveaxis(
        sample(np.stack([height, shade, slope, fractal(rng, 512, 12, gain=0.75)], 2), u, v), 2, 0
    )
    grain2 = sample(fractal(rng, 256, 16, gain=0.8), u * 6, v * 6)
    level = (tall - 0.3) * (smoothstep(0.15, 1.1, far) * 0.75 + 0.25) * 1.6 + 0.35 * (grain - 0.5)
    if strata:
        level = 0.5 + 0.5 * np.sin(tall * 40 + 3 * grain)
    else:
        level = level + 0.35 * (flat - 0.55)  # snow and grass slide off steep faces
    grain2 = grain2 + 0.8 * np.clip(0.7 - far, 0, 1) * (fractal(rng, n, 40, gain=0.8, tall=0.5) - 0.5)
    color = ramp(land, level) * (0.6 + 0.8 * grain2)[..., None]
    color *= mood.ambient * 0.8 + 1.05 * facing[..., None] * mood.sun
    over(color, mood.sky[2] * 0.93, 1 - np.exp(-(far**1.5) * rng.uniform(0.15, 0.42)))
    over(image, color, seen.astype(np.float32))
    if lake:
        shore = horizon + rng.uniform(0.08, 0.14)
        _reflect(rng, image, shore, rgb("1f3b4a", "24505c", "2d4a3e")[rng.integers(3)], ripple=rng.uniform(0.15, 0.7))
    if not strata and rng.random() < 0.6:
        ground = 1.0 + 0.06 * profile(rng, n, 3) - 0.12 * np.abs(np.linspace(-1, 1, n) + rng.uniform(-0.6, 0.6)) ** 2
        firs = rgb("2f4a2a", "3a4a2a", "26403a")[rng.integers(3)] * (0.6 + 0.4 * mood.sun)
        bank = np.clip((grid(n)[1] - ground[None] - 0.012) * n, 0, 1)
        over(image, firs * (0.4 + 1.3 * fractal(rng, n, 40, gain=0.8))[..., None], bank)
        _conifers(rng, image, ground, int(rng.integers(6, 16)), rng.uniform(0.25, 0.5), firs)
    return image


def misty_ridges(rng: Rng, n: int) -> Array:
    """Ridge behind ridge, each paler and bluer, the nearest ones wooded."""
    mood = _mood(rng, "dawn", "golden", "sunset", "dusk", "hazy")
    horizon = rng.uniform(0.5, 0.62)
    image = _sky(rng, n, mood, horizon + 0.1)
    _, y = grid(n)
    near = rgb("16261f", "1c2433", "2b2030", "2a2a1c")[rng.integers(4)]
    haze = 0.7 * mood.sky[2] + 0.3 * mood.sky[1]
    layers = int(rng.integers(5, 8))
    grain = 0.5 * fractal(rng, n, 5) + 0.5 * fractal(rng, n, 60, gain=0.8, tall=2.2)
    for layer in range(layers):
        close = (layer + 1) / layers
        line = horizon - 0.12 + 0.5 * close**1.4 + 0.05 * (0.5 + close) * profile(rng, n, 2 + layer // 2, 0.48)
        if layer >= layers - 3:  # tree tops
            spikes = np.abs(profile(rng, n, int(70 / close), 0.7)) * 0.011 * close**2
            line = line - spikes
        mask = np.clip((y - line[None]) * n + 0.5, 0, 1)
        tone = haze + (near - haze) * close**0.8
        mist = np.clip((y - line[None]) / (0.08 + 0.16 * close), 0, 1)
        color = tone + (haze - tone) * (0.85 * mist**1.2 * (1.1 - close))[..., None]
        color = color * (1 + (0.08 + 1.3 * close**3) * (grain - 0.5))[..., None]
        over(image, color, mask)
    if rng.random() < 0.6:
        ground = 0.98 + 0.05 * profile(rng, n, 3)
        _conifers(rng, image, ground, int(rng.integers(8, 22)), rng.uniform(0.2, 0.4), near * 1.5 + 0.02)
    return image


def seascape(rng: Rng, n: int) -> Array:
    """Open water to the horizon with glitter, surf or a beach, sails and headlands."""
    mood = _mood(rng, "noon", "clear", "golden", "sunset", "dawn", "storm", "dusk")
    horizon = rng.uniform(0.36, 0.56)
    image = _sky(rng, n, mood, horizon)
    x, y = grid(n)
    sea = rgb("0f3b57", "12566b", "1b4a6b", "2c4a50", "0e6a78")[rng.integers(5)]
    first = int(horizon * n)
    below = y[first:] - horizon + 1e-3
    far = 0.05 / (below + 0.012)
    wind = rng.uniform(0.6, 1.5)
    waves = fractal(rng, 512, 6, gain=0.62, tall=0.35)
    u, v = (x - 0.5) * far * 1.2, far * 0.9
    tilt = wind * (sample(waves, u, v) - 0.5) * 1.2 + 0.5 * (sample(waves, u * 3.7 + 0.3, v * 3.7) - 0.5)
    # A facet mirrors the sky at the height its tilt points to; steep facets show the water's own color.
    color = ramp(mood.sky[::-1], np.clip(0.15 + 0.5 * below + tilt, 0, 1))
    over(color, sea * (0.5 + mood.ambient), np.clip(0.35 + 0.9 * below - 1.1 * tilt, 0.1, 0.92))
    if mood.low:
        sun_x = rng.uniform(0.3, 0.7)
        spread = np.exp(-(((x - sun_x) / (0.05 + 0.35 * below)) ** 2))
        over(color, mood.sun, np.clip(spread * smoothstep(-0.05, 0.28, tilt) * 1.3, 0, 1))
    foam = smoothstep(0.2, 0.42, tilt) * smoothstep(0.02, 0.2, below) * (0.3 if mood.low else 0.8)
    over(color, mood.cloud[1], foam)
    image[first:] = color
    over(image, mood.sky[2], 0.5 * np.exp(-np.abs(y - horizon) * 70) + 0 * x)
    if rng.random() < 0.7:  # headlands, the farther first
        rock = fractal(rng, n, 7, gain=0.55, tall=0.7, ridged=True)
        facets = relief(rock, 14 * n / 512)
        for k in range(int(rng.integers(1, 4))):
            side, reach = float(rng.choice([-1, 1])), rng.uniform(0.3, 0.75)
            edge = np.clip((x[0] - 0.5) * side - 0.5 + reach, 0, 1)
            line = (
                horizon
                + 0.004
                + 0.01 * k
                - np.clip(rng.uniform(0.25, 0.6) * edge**0.8 * (1 + 0.3 * profile(rng, n, 4)), 0, 0.4)
            )
            mask = np.clip((y - line) * n + 0.5, 0, 1) * np.clip((horizon + 0.008 + 0.014 * k - y) * n, 0, 1)
            tone = rgb("54604c", "8b7a66", "4a5560")[rng.integers(3)] * (0.3 + 0.7 * mood.sun)
            cliff = tone * (np.clip(0.35 + 0.55 * facets, 0.25, 1.5) * (0.7 + 0.6 * rock))[..., None]
            over(cliff, mood.sky[2], np.float32(0.45 - 0.15 * k) + 0 * rock)
            over(image, cliff, (mask * (edge > 0)))
    for _ in range(int(rng.integers(0, 4))):
        at = rng.uniform(0.015, 0.2)
        _boat(rng, image, rng.uniform(0.1, 0.9), horizon + at, 0.05 + at * rng.uniform(0.6, 0.9))
    if rng.random() < 0.45:
        _beach(rng, image, mood)
    return image


def _beach(rng: Rng, image: Array, mood: Mood) -> None:
    """Sand in the foreground with a wet edge and lines of foam."""
    n = len(image)
    x, y = grid(n)
    sand = rgb("d9bd8e", "c9a878", "e6d3ae")[rng.integers(3)] * (0.35 + 0.65 * mood.sun) * (0.6 + 0.6 * mood.ambient)
    line = rng.uniform(0.76, 0.88) + 0.3 * (x[0] - 0.5) * rng.uniform(-1, 1) + 0.02 * profile(rng, n, 3)
    depth = y - line[None]
    grains = fractal(rng, n, 20, gain=0.85, tall=0.5)
    ground = sand * (0.75 + 0.6 * (grains - 0.2) * np.clip(0.4 + depth * 4, 0, 1))[..., None]
    ground *= (0.62 + 0.38 * smoothstep(0.0, 0.07, depth))[..., None]
    over(image, ground, np.clip(depth * n + 0.5, 0, 1))
    for offset in (-0.035, -0.012, 0.004):
        wash = depth - offset + 0.04 * (grains - 0.5)
        over(
            image, mood.cloud[1], 0.85 * np.exp(-((wash / 0.006) ** 2)) + 0.3 * smoothstep(-0.03, 0, wash) * (wash < 0)
        )


def hills(rng: Rng, n: int) -> Array:
    """Farmland: rolling hills with striped fields, hedges and trees, flowers or a path in front."""
    mood = _mood(rng, "noon", "clear", "hazy", "golden", "sunset")
    horizon = rng.uniform(0.38, 0.5)
    image = _sky(rng, n, mood, horizon)
    x, y = grid(n)
    season = [
        rgb("6f9a3a", "8fb04a", "c9c25a", "4f7d34"),
        rgb("c9a24a", "dcbf62", "a8963e", "8a7a38"),
        rgb("7f6bb0", "6f9a4a", "9a80c4", "b8b45a"),
        rgb("d8bf4a", "86a840", "b9b04c", "5f8a3c"),
    ][rng.integers(4)]
    grain = fractal(rng, n, 64, gain=0.85, tall=0.5)
    broad, leaves = fractal(rng, n, 4), fractal(rng, n, 40, gain=0.8)
    layers = int(rng.integers(3, 6))
    tops = horizon - 0.03 + 0.5 * (np.arange(layers) / layers) ** 1.3
    lit = mood.ambient + 0.75 * mood.sun
    for k, top in enumerate(tops):
        close = (k + 1) / layers
        slope = 0.045 * (0.6 + close) * profile(rng, n, 2, 0.3)
        slope = np.interp(np.arange(n), np.arange(0, n, 4), blur(np.tile(slope[None], (8, 1)), 0.05)[4][::4])
        line = (top + slope).astype(np.float32)
        depth = np.clip((y - line[None]), 0, 1)
        bend, lean = rng.uniform(0.5, 3), rng.uniform(-0.7, 0.7)
        rows = np.sin((x - 0.5 + lean * (1 - np.exp(-depth * 4))) / (0.15 + depth * bend) * rng.uniform(12, 26))
        color = (
            season[rng.integers(4)]
            * (0.8 + 0.16 * rows * close + 0.8 * (grain - 0.5) * close + 0.8 * (broad - 0.5))[..., None]
        )
        second = season[rng.integers(4)] * (0.8 + 0.8 * (grain - 0.5) * close + 0.6 * (broad - 0.5))[..., None]
        over(
            color,
            second,
            smoothstep(0.0, 0.012, np.sin(x * 5 * bend + 9 * depth * lean + k) * 0.1 + depth * 0.3 - 0.02),
        )
        color *= lit * (0.75 + 0.45 * np.exp(-depth * 9))[..., None]
        over(color, mood.sky[2], np.float32(0.55 * (1 - close) ** 1.2) + 0 * depth)
        over(image, color, np.clip((y - line[None]) * n + 0.5, 0, 1))
        green = rgb("3f6a2a", "54772f", "a8672a", "5f7f3a")[rng.integers(4)]
        trees = rng.integers(3, 9) if k < layers - 1 else rng.integers(0, 3)
        for _ in range(int(trees)):
            tx, radius = rng.uniform(0.02, 0.98), (0.012 + 0.055 * close**1.6) * rng.uniform(0.7, 1.4)
            ty = float(line[int(tx * n)]) - radius * 1.3 + rng.uniform(0, 0.05) * close
            tone = green * (1 - 0.45 * (1 - close)) + mood.sky[2] * 0.3 * (1 - close)
            _crown(rng, image, (tx, ty), radius, tone, lit, leaves)
    if rng.random() < 0.35:  # a large tree in front
        where = (rng.choice([rng.uniform(0.08, 0.25), rng.uniform(0.75, 0.92)]), rng.uniform(0.4, 0.5))
        tone = rgb("4a742e", "b06a2a", "5d7d34")[rng.integers(3)]
        _crown(rng, image, where, rng.uniform(0.2, 0.27), tone, lit, leaves)
    if rng.random() < 0.6:
        _flowers(rng, image, rgb("d9352c", "f2e24a", "f7f3ea", "8a6ad0", "e87ab0")[rng.integers(5)] * lit)
    return image


def _flowers(rng: Rng, image: Array, color: Array) -> None:
    """Blossoms strewn over the foreground, larger towards the viewer."""
    n = len(image)
    for depth in np.sort(rng.random(260)) ** 0.7:
        cx, cy, r = rng.random(), 0.72 + 0.3 * depth + 0.02 * rng.standard_normal(), 0.002 + 0.009 * depth**2
        part, x, y = window(n, cx - 2 * r, cy - 2 * r, cx + 2 * r, cy + 2 * r)
        distance = np.hypot(x - cx, (y - cy) * 1.4) / r
        over(image[part], color * rng.uniform(0.7, 1.1), np.clip((1 - distance) * 4, 0, 1))


def dunes(rng: Rng, n: int) -> Array:
    """Sand dunes: sharp crests between a lit and a shaded flank, wind ripples."""
    mood = _mood(rng, "clear", "golden", "sunset", "noon", "dusk")
    horizon = rng.uniform(0.3, 0.45)
    image = _sky(rng, n, mood, horizon + 0.05)
    x, y = grid(n)
    sand = rgb("d9a066", "e0b07c", "c98a54", "e8c9a0")[rng.integers(4)]
    grain = fractal(rng, n, 40, gain=0.9)
    bend = fractal(rng, n, 3)
    layers = int(rng.integers(4, 7))
    side = float(rng.choice([-1, 1]))  # a NumPy scalar would turn everything into float64
    for k in range(layers):
        close = (k + 1) / layers
        peak = rng.uniform(0.1, 0.9)
        tent = np.abs(x[0] - peak) ** 1.25 * rng.uniform(0.25, 0.6)
        line = (
            horizon - 0.04 + 0.55 * (k / layers) ** 1.2 + tent * (0.3 + 0.7 * close) + 0.012 * profile(rng, n, 2, 0.3)
        )
        depth = np.clip(y - line[None], 0, 1)
        # The crest runs down from the peak in an S towards the viewer and parts light from shade.
        crest = peak + side * (0.35 * depth - 0.25 * np.sin(depth * 7) * depth) + 0.1 * (bend - 0.5)
        shade = smoothstep(-0.004, 0.012 + 0.12 * depth.mean(), (x - crest) * side)
        ripple = np.sin((depth * 1.3 + 0.25 * (x - peak) * side + 0.09 * bend) * 420 / (0.6 + 3 * depth)) * close**2
        tone = (
            1.06
            - 0.55 * shade
            + 0.06 * ripple * (1 - 0.5 * shade)
            + 0.35 * (grain - 0.5) * close
            - 0.35 * (depth * (1 - shade))
        )
        color = sand * (mood.ambient * 0.5 + 0.75 * mood.sun * tone[..., None])
        over(color, mood.sky[0] * 0.7, 0.3 * shade)
        over(color, mood.sky[2], np.float32(0.45 * (1 - close)) + 0 * depth)
        over(image, color, np.clip((y - line[None]) * n + 0.5, 0, 1))
    return image


# -------------------------------------------------------------------------------------------------------- cities


def skyline(rng: Rng, n: int) -> Array:
    """Rows of towers with lit windows over a river, by day or at night."""
    night = rng.random() < 0.6
    mood = _mood(rng, "dusk", "sunset", "dusk") if night else _mood(rng, "noon", "hazy", "golden", "clear")
    shore = rng.uniform(0.7, 0.82)
    image = _sky(rng, n, mood, shore)
    x, y = grid(n)
    grain = fractal(rng, n, 16, gain=0.7)
    walls = rgb("7c8894", "b09a84", "98604a", "c9c2b4", "5f7484", "a8a29a", "8a7566", "dcd3c2")
    for layer in range(3):
        close = (layer + 1) / 3
        left = -0.02
        while left < 1:
            width = rng.uniform(0.05, 0.12) * (0.6 + 0.5 * close)
            towering = 1.5 if rng.random() < 0.2 else 1.0
            height = towering * rng.uniform(0.16, 0.4) * (1.25 - 0.5 * close)
            _tower(
                rng,
                image,
                mood,
                (left, shore - height, left + width, shore),
                walls[rng.integers(8)],
                night,
                close,
                grain,
            )
            left += width * rng.uniform(0.85, 1.25)
    quay = np.clip((y - shore + 0.018) * n, 0, 1) + 0 * x
    over(image, mood.sky[2] * 0.3 + 0.03, quay)
    if night:
        for lamp in np.arange(rng.uniform(0, 0.08), 1, rng.uniform(0.06, 0.1)):
            part, px, py = window(n, lamp - 0.03, shore - 0.05, lamp + 0.03, shore + 0.01)
            over(image[part], rgb("ffdf9a"), np.exp(-np.hypot(px - lamp, py - shore + 0.02) * 160))
    _reflect(rng, image, shore, rgb("101c2c") if night else rgb("3f5a62"), ripple=rng.uniform(0.35, 0.8))
    return image


def _tower(
    rng: Rng,
    image: Array,
    mood: Mood,
    box: tuple[float, float, float, float],
    wall: Array,
    night: bool,
    close: float,
    grain: Array,
) -> None:
    """One building: a lit and a shaded face, a grid of windows, a roof line."""
    n = len(image)
    left, top, right, bottom = box
    if rng.random() < 0.3:  # a set-back upper storey or a mast
        middle, half = (left + right) / 2, (right - left) * rng.choice([0.06, 0.25, 0.33])
        part, _, _ = window(n, middle - half, top - rng.uniform(0.02, 0.07), middle + half, top)
        image[part] = wall * (mood.ambient * (0.5 if night else 1.2)) + mood.sky[2] * 0.2 * (1 - close)
    part, x, y = window(n, left, top, right, bottom)
    u, v = (x - left) / (right - left), (y - top) / (bottom - top)
    columns, rows = int(rng.integers(4, 9)), int((bottom - top) * rng.uniform(45, 75))
    corner = rng.uniform(0.55, 0.8)
    face = np.where(u < corner, 1.0, 0.55) + 0 * v
    bright = (0.22 + 0.25 * v * close) if night else (mood.ambient + 0.55)
    color = wall * (face * bright * (0.8 + 0.5 * (grain[part] - 0.3)))[..., None] * (0.4 + 0.6 * mood.sun)
    cu, cv = u * columns, v * rows
    pane = (cu % 1 > 0.24) & (cu % 1 < rng.choice([0.76, 0.98])) & (cv % 1 > 0.3) & (cv % 1 < 0.86)
    lights = rng.random((rows + 1, columns + 1))
    cell = lights[np.minimum(cv.astype(int), rows), np.minimum(cu.astype(int), columns)]
    if night:
        glow = np.where(
            (cell > 0.52)[..., None],
            ramp(rgb("ffb65c", "ffe3a0", "fff3d8", "d6e8ff"), (cell * 7) % 1) * 0.95,
            color * 0.45,
        )
    else:
        glow = (
            ramp(np.stack([mood.sky[1] * 0.35, mood.sky[1] * 0.6, mood.sky[2] * 0.95]), cell * (1.1 - 0.5 * v))
            * face[..., None]
        )
    over(color, glow, pane)
    over(color, mood.sky[2], np.float32(0.5 * (1 - close)) + 0 * pane)
    image[part] = color


def street(rng: Rng, n: int) -> Array:
    """A street in one-point perspective between two rows of houses."""
    night = rng.random() < 0.35
    mood = _mood(rng, "dusk") if night else _mood(rng, "noon", "golden", "hazy", "sunset", "clear")
    vx, vy = rng.uniform(0.38, 0.62), rng.uniform(0.5, 0.6)
    image = _sky(rng, n, mood, vy + 0.08)
    x, y = grid(n)
    dx, dy = x - vx, y - vy
    half, eye = rng.uniform(0.42, 0.6), 0.17  # street's half width and the eye's height, in scene units
    wall_far = half / np.maximum(np.abs(dx), 1e-3) + 0 * y
    road_far = eye / np.maximum(dy, 1e-3) + 0 * x
    is_wall = wall_far < road_far
    far = np.minimum(np.minimum(wall_far, road_far), 60)
    side = (dx > 0).astype(int) + np.zeros((n, 1), int)

    # Houses along each side: ends by depth, heights, plaster colors.
    ends = np.cumsum(rng.uniform(0.7, 1.5, (2, 48)), axis=1)
    which = np.stack([np.searchsorted(ends[s], far) for s in (0, 1)])
    house = np.minimum(np.where(side == 0, which[0], which[1]), 47)
    tall = rng.uniform(0.75, 1.5, (2, 48))[side, house]
    plaster = rgb("d8b98a", "c98f6a", "e6dcc6", "a85f48", "b9b4a4", "d9a860", "8fa0a0", "e0b8a4", "9a8a78")[
        rng.integers(0, 9, (2, 48))[side, house]
    ]
    up = eye - dy * far  # height above the street
    storey, bay = up / 0.23, far / 0.27
    sunny = np.where(side == rng.integers(2), 1.0, 0.5)
    grain = sample(fractal(rng, 256, 8, gain=0.7), far * 0.35, up * 0.9)
    color = plaster * ((0.2 if night else mood.ambient * 0.55 + 0.6 * sunny) * (0.75 + 0.6 * (grain - 0.1)))[..., None]
    color = color * (0.35 + 0.65 * mood.sun)
    fine = np.clip(1.6 - far * 0.13, 0, 1)
    lit = rng.random((64, 8))[np.minimum(bay.astype(int), 63), np.clip(storey.astype(int), 0, 7)]
    pane = (bay % 1 > 0.3) & (bay % 1 < 0.72) & (storey % 1 > 0.28) & (storey % 1 < 0.8) & (up < tall - 0.1)
    frame = (bay % 1 > 0.24) & (bay % 1 < 0.78) & (storey % 1 > 0.22) & (storey % 1 < 0.84) & (up < tall - 0.06)
    over(color, plaster * (0.3 if night else 0.95 * mood.ambient + 0.4), frame * 0.6 * fine)
    glass = np.where(((lit > 0.55) & night)[..., None], rgb("ffcf7a"), mood.sky[1] * (0.15 + 0.35 * lit)[..., None])
    over(color, glass, pane * fine)
    shop = rgb("a8322c", "2f6a52", "2a4a7c", "d9a83a", "6a3a5c", "e8e0d0")[rng.integers(0, 6, (2, 48))[side, house]]
    over(color, shop * (0.35 if night else 0.4 + 0.5 * sunny[..., None]), (np.abs(up - 0.2) < 0.03) * fine)
    over(
        color,
        rgb("ffd58a") * 0.9 if night else rgb("2a2622"),
        ((up < 0.165) & (up > 0.03) & (bay * 0.5 % 1 > 0.12)) * 0.7 * fine,
    )
    over(color, plaster * 0.35, (np.abs(up - tall + 0.02) < 0.02))

    ground = np.abs(dx * far) / half
    cobbles = sample(fractal(rng, 256, 24, gain=0.8), dx * far * 1.2, far * 0.8)
    joints = np.maximum(np.abs((dx * far * 26) % 1 - 0.5), np.abs((far * 14 + 0.5 * np.floor(dx * far * 26)) % 1 - 0.5))
    cobbles = cobbles - 0.35 * smoothstep(0.38, 0.46, joints) * np.clip(1.5 - far * 0.7, 0, 1)
    stone = (
        rgb("6a6660", "5a5654", "807464")[rng.integers(3)]
        * ((0.3 if night else 0.55 + 0.5 * mood.ambient) * (0.55 + 0.9 * cobbles))[..., None]
    )
    over(stone, stone * 1.5 + 0.03, (ground > 0.68))
    over(stone, stone * 0.45, ((ground > 0.655) & (ground < 0.69)))
    if not night and rng.random() < 0.8:  # the shadow of the shaded row falls across the street
        towards_sun = dx * far / half * (-1 if sunny[0, 0] == 0.5 else 1)
        over(stone, stone * 0.5, smoothstep(-0.02, 0.02, towards_sun - 0.1 + 0.12 * np.sin(far * 2.2)))
    if night:
        stone += rgb("ffb65c") * (0.28 * ground * (0.4 + cobbles))[..., None]
    solid = np.where(is_wall, (up < tall), dy > 0)
    scene = np.where(is_wall[..., None], color, stone)
    over(scene, mood.sky[2], (1 - np.exp(-far * (0.03 if night else 0.055))))
    over(image, scene, (solid & (far < 55)))
    for _ in range(int(rng.integers(2, 7))):
        _walker(rng, image, (vx, vy), eye, rng.uniform(1.0, 5), rng.uniform(-0.8, 0.8) * half, 0.35 if night else 1.0)
    if night:
        for depth in (1.1, 1.6, 2.3, 3.3, 4.8):
            for edge in (-0.72, 0.72):
                lx, ly = vx + edge * half / depth, vy - 0.24 / depth
                part, px, py = window(n, lx - 0.2 / depth, ly - 0.2 / depth, lx + 0.2 / depth, ly + 0.2 / depth)
                over(image[part], rgb("ffe0a0"), np.exp(-np.hypot(px - lx, py - ly) * depth * 22))
    return image


def _walker(
    rng: Rng, image: Array, vanishing: tuple[float, float], eye: float, depth: float, across: float, light: float
) -> None:
    """A passer-by: legs, coat and head, with a shadow."""
    n = len(image)
    x, foot, s = vanishing[0] + across / depth, vanishing[1] + eye / depth, 0.2 / depth
    coat = rgb("20242c", "7c2a24", "2f4a6a", "c9b48a", "3a3f2a", "e8e0d4")[rng.integers(6)] * light
    over(image, image * 0.5, _shape(n, x, foot, s, [(-0.1, 0), (0.1, 0), (0.9, 0.18), (0.6, 0.2)]))
    step = rng.uniform(0.06, 0.16)
    for leg in (-step, step):
        legs = _shape(n, x, foot, s, [(leg - 0.05, 0), (leg + 0.05, 0), (0.09, -0.5), (-0.09, -0.5)])
        over(image, rgb("1c1c22") * light, legs)
    over(image, coat, _shape(n, x, foot, s, [(-0.17, -0.35), (0.17, -0.35), (0.14, -0.8), (0, -0.86), (-0.14, -0.8)]))
    part, px, py = window(n, x - 0.2 * s, foot - 1.1 * s, x + 0.2 * s, foot - 0.7 * s)
    over(
        image[part],
        rgb("c98f6a", "7a4f36")[rng.integers(2)] * light,
        np.clip((0.085 * s - np.hypot(px - x, py - foot + 0.93 * s)) * n, 0, 1),
    )


# --------------------------------------------------------------------------------------------------- near things


class Turned(NamedTuple):
    """A body of revolution.

    Attributes:
        outline: Half widths from foot to top as fractions of the height.
        colors: Dark, main and accent color, (3, 3).
        gloss: Strength of highlights.
        pattern: Surface pattern: "streak", "peel", "plain", "bands" or "glaze".
        ratio: Height relative to the tallest body on the table.
        open: Whether it is a vessel with an opening; otherwise it has a stem.
    """

    outline: list[float]
    colors: Array
    gloss: float
    pattern: str
    ratio: float = 1.0
    open: bool = False


FRUIT = [
    Turned(
        [0.12, 0.36, 0.49, 0.55, 0.57, 0.55, 0.48, 0.34, 0.08], rgb("8f1d1c", "c8322a", "e0a03c"), 0.5, "streak", 0.34
    ),
    Turned(
        [0.12, 0.36, 0.49, 0.55, 0.57, 0.55, 0.48, 0.34, 0.08], rgb("7c9a2a", "a8bf3f", "d9cf5a"), 0.5, "streak", 0.34
    ),
    Turned([0.1, 0.33, 0.46, 0.51, 0.52, 0.5, 0.44, 0.32, 0.06], rgb("c9671a", "e8892a", "f0a04a"), 0.3, "peel", 0.33),
    Turned(
        [0.1, 0.3, 0.41, 0.45, 0.44, 0.37, 0.26, 0.18, 0.14, 0.05],
        rgb("8a9a3a", "c2b64c", "d9a24a"),
        0.3,
        "streak",
        0.5,
    ),
    Turned([0.05, 0.25, 0.42, 0.5, 0.52, 0.5, 0.42, 0.25, 0.04], rgb("d9b82a", "f0d64a", "f4e27a"), 0.35, "peel", 0.27),
    Turned([0.08, 0.32, 0.45, 0.5, 0.5, 0.46, 0.36, 0.2, 0.03], rgb("3a1f42", "5c2f5a", "8a4a7a"), 0.55, "plain", 0.25),
]
VESSELS = [
    Turned(
        [0.16, 0.2, 0.27, 0.32, 0.33, 0.3, 0.22, 0.13, 0.1, 0.1, 0.14],
        rgb("1f4a7c", "2f6aa0", "dfe6ea"),
        0.9,
        "bands",
        1.0,
        True,
    ),
    Turned(
        [0.13, 0.16, 0.2, 0.22, 0.22, 0.2, 0.13, 0.07, 0.055, 0.055, 0.065],
        rgb("1d3f2a", "2f5c3a", "4a7c4a"),
        1.2,
        "plain",
        1.05,
        True,
    ),
    Turned(
        [0.22, 0.3, 0.37, 0.4, 0.39, 0.33, 0.25, 0.22, 0.25],
        rgb("a85a34", "c9764a", "8a4428"),
        0.25,
        "glaze",
        0.7,
        True,
    ),
    Turned([0.3, 0.34, 0.36, 0.37, 0.38, 0.385, 0.39], rgb("e8e2d4", "f4efe4", "2a4a7c"), 0.8, "bands", 0.5, True),
    Turned(
        [0.2, 0.22, 0.24, 0.3, 0.34, 0.33, 0.24, 0.16, 0.15, 0.2],
        rgb("d9d2c0", "eee6d4", "5a7c7a"),
        0.7,
        "glaze",
        0.85,
        True,
    ),
    Turned([0.25, 0.42, 0.55, 0.64, 0.7, 0.74], rgb("c9a23a", "d8b44c", "7c5a1c"), 1.1, "plain", 0.36, True),
]


def _turn(
    rng: Rng, image: Array, body: Turned, foot: tuple[float, float], height: float, light: Array, bounce: Array
) -> None:
    """Draws a turned body seen slightly from above, lit by a window: diffuse, bounce from the table, highlights."""
    n = len(image)
    cx, cy = foot
    widest = max(body.outline) * height
    part, x, y = window(n, cx - widest - 0.01, cy - height * 1.06, cx + widest + 0.01, cy + widest * 0.4)
    side = x - cx
    ends = np.linspace(0, 1, len(body.outline))
    fine = np.linspace(0, 1, 256)
    outline = np.interp(fine, ends, body.outline)
    for _ in range(2):  # round off the control points
        outline = np.convolve(np.pad(outline, 8, mode="edge"), np.ones(17) / 17, mode="valid")
    outline = outline * height
    slope = np.gradient(outline, height / 255)
    t = np.clip((cy - y) / height, 0, 1) + 0 * side
    for _ in range(4):  # the camera looks down: the front of a ring appears lower than its axis
        radius = outline[(t * 255).astype(int)]
        front = np.sqrt(np.clip(radius**2 - side**2, 0, None))
        t = np.clip((cy - y + 0.28 * front) / height, 0, 1)
    index = (t * 255).astype(int)
    radius = outline[index]
    inside = (cy - y + 0.28 * front) / height
    mask = np.clip((radius - np.abs(side)) * n + 0.5, 0, 1) * (inside > 0.0) * np.clip((1 - inside) * height * n, 0, 1)
    normal_x, normal_y = np.clip(side / np.maximum(radius, 1e-4), -1, 1), -slope[index]
    normal_z = np.sqrt(np.clip(1 - normal_x**2, 0.0, 1))
    norm = np.sqrt(1 + normal_y**2)
    normal_x, normal_y, normal_z = normal_x / norm, normal_y / norm, normal_z / norm

    around = np.arcsin(np.clip(side / np.maximum(radius, 1e-4), -1, 1)) / np.pi
    grain = sample(fractal(rng, 256, 5, gain=0.6), around + 0 * t, t * 0.8)
    dark, main, accent = body.colors
    albedo = dark + (main - dark) * np.clip(0.35 + 1.3 * grain, 0, 1.2)[..., None]
    if body.pattern == "streak":
        streaks = sample(fractal(rng, 256, 16, tall=5.0), around + 0 * t, t * 0.3 + 0.1)
        over(albedo, accent, np.clip(2.6 * (streaks - 0.5) + 0.9 * (t - 0.55) + 0.4 * normal_x, 0, 0.9))
    elif body.pattern == "bands":
        where = rng.uniform(0.3, 0.7)
        over(albedo, accent, (np.abs(t - where) < 0.06))
        zigzag = np.abs(((around * rng.integers(8, 16)) % 1) - 0.5) * 0.16
        over(albedo, accent, (np.abs(t - where - 0.12 - zigzag + 0.04) < 0.012))
        over(albedo, dark, (np.abs(np.abs(t - where) - 0.07) < 0.008))
    elif body.pattern == "glaze":
        over(albedo, accent, smoothstep(-0.01, 0.01, t - rng.uniform(0.4, 0.65) + 0.25 * (grain - 0.5)))
    bump = (
        0.12 * (sample(fractal(rng, 256, 48, gain=0.8), around * 1.5 + 0 * t, t) - 0.5) if body.pattern == "peel" else 0
    )
    diffuse = np.clip(normal_x * light[0] + normal_y * light[1] + normal_z * light[2] + bump, 0, 1)
    under = np.clip(-normal_y, 0, 1) * 0.35 + np.clip(-normal_x * light[0], 0, 1) * 0.1
    color = albedo * (0.2 + 0.95 * diffuse)[..., None] + albedo * bounce * under[..., None]
    # Mirror direction for a camera looking along -z.
    mirror = 2 * normal_z * normal_x, 2 * normal_z * normal_y, 2 * normal_z**2 - 1
    facing = np.clip(mirror[0] * light[0] + mirror[1] * light[1] + mirror[2] * light[2], 0, 1)
    rim = (1 - normal_z) ** 4 * 0.25
    color += (body.gloss * (0.75 * smoothstep(0.93, 0.985, facing) + 0.18 * facing**6) + rim * body.gloss)[..., None]
    color *= (1 - 0.45 * np.exp(-t * 14))[..., None]  # contact shade at the foot
    over(image[part], color, mask)
    if body.open:
        _mouth(image, cx, cy - height, float(outline[-1]), body, light)
    else:
        lean = rng.uniform(-0.05, 0.05)
        stem: Points = [(-0.012, 0.05), (0.02, 0.05), (0.03 + lean, -0.11), (lean, -0.11)]
        over(image, rgb("3f2c1a"), _shape(n, cx, cy - height, height, stem))


def _mouth(image: Array, cx: float, cy: float, radius: float, body: Turned, light: Array) -> None:
    """The opening of a vessel: a lip and the shaded inside."""
    part, x, y = window(len(image), cx - radius * 1.2, cy - radius, cx + radius * 1.2, cy + radius)
    distance = np.hypot((x - cx) / radius, (y - cy) / (radius * 0.28))
    edge = len(image) * radius * 0.3
    over(image[part], np.clip(body.colors[1] * 1.15 + 0.12, 0, 1), np.clip((1.06 - distance) * edge, 0, 1))
    inside = body.colors[0] * (0.3 + 0.35 * np.clip((x - cx) / radius * -light[0], -1, 1) + 0 * y)[..., None]
    over(image[part], inside, np.clip((0.9 - distance) * edge, 0, 1))


def still_life(rng: Rng, n: int) -> Array:
    """Fruit and vessels on a wooden table or a cloth in front of a wall or a curtain."""
    x, y = grid(n)
    table = rng.uniform(0.52, 0.64)
    side = float(rng.choice([-1, 1]))  # a NumPy scalar would turn everything into float64
    light = unit(0.62 * side, 0.6, 0.55)
    wall = rgb("3a4a4c", "6a5a48", "8a9a9a", "2a2a30", "7c3a34", "b8a888", "46546a", "c9c4b8")[rng.integers(8)]
    mottled = fractal(rng, n, 3, gain=0.55)
    beam = np.exp(-(((x - 0.5) * side - (y - 0.4) * 0.6 - 0.25) ** 2) * 5)
    image: Array = wall * (0.35 + 0.75 * beam + 0.5 * (mottled - 0.5))[..., None]
    if rng.random() < 0.45:
        _curtain(rng, image, side)

    # The table top in perspective.
    far = 0.2 / np.maximum(y - table + 0.13, 1e-3)
    u, v = (x - 0.5) * far * 1.4 + 0.5, far
    kind = rng.integers(3)
    if kind == 0:  # planks
        wood = rgb("4a2f1c", "8a5a34", "b8834f", "6a4226", "c9a27a", "3a281e")[rng.permutation(3) + 3 * rng.integers(2)]
        rings = sample(fractal(rng, 512, 24, gain=0.7, tall=9.0), u * 0.5, v * 0.5 + np.floor(u * 4) * 0.37)
        color = ramp(wood, rings) * (1 - 0.6 * np.exp(-(((u * 4 + 0.5) % 1 - 0.5) ** 2) * 2500))[..., None]
    elif kind == 1:  # chequered cloth
        a, b = rgb("e8e0d0", "a8322c", "f0ead8", "2f5a8a", "ece4d0", "4a7a4a").reshape(3, 2, 3)[rng.integers(3)]
        fold = 0.05 * sample(mottled, u * 0.5, v * 0.5)
        checks = 0.5 * ((u * 9 + fold * 20) % 1 > 0.5) + 0.5 * ((v * 9 + fold * 20) % 1 > 0.5)
        color = (b + (a - b) * (1 - checks)[..., None]) * (0.75 + 0.5 * sample(fractal(rng, 256, 3), u, v))[..., None]
    else:  # stone or linen
        stone = rgb("b8ae9c", "8a8078", "d8d0c0", "5a4a40")[rng.integers(4)]
        color = stone * (0.55 + 0.9 * sample(fractal(rng, 256, 6, gain=0.75), u * 0.7, v * 0.7))[..., None]
    color = color * (0.45 + 0.65 * np.exp(-(((x - 0.5) * side - 0.1) ** 2) * 3) * (0.7 + 0.5 * (y - table)))[..., None]
    bounce = color[-n // 4 :].mean((0, 1))
    over(image, color, np.clip((y - table) * n, 0, 1) + 0 * x)
    over(image, image * 0.55, np.exp(-np.abs(y - table) * 45) * 0.5 + 0 * x)

    # Place things from back to front, the tall ones behind.
    scale = rng.uniform(0.44, 0.58)
    things = [VESSELS[i] for i in rng.permutation(len(VESSELS))[: rng.integers(1, 4)]]
    fruit = [FRUIT[i] for i in rng.integers(0, len(FRUIT), rng.integers(3, 7))]
    slots = [
        (0.5 + 0.3 * (i - (len(things) - 1) / 2) + rng.uniform(-0.06, 0.06), rng.uniform(0.06, 0.16))
        for i in range(len(things))
    ]
    slots += [
        (0.5 + 0.78 * ((i + 0.5) / len(fruit) - 0.5) + rng.uniform(-0.05, 0.05), rng.uniform(0.16, 0.3))
        for i in range(len(fruit))
    ]
    placed = sorted(zip(slots, things + fruit, strict=True), key=lambda item: item[0][1])
    for (px, depth), body in placed:
        height = scale * body.ratio * (0.85 + 0.7 * depth)
        py, width = table + depth, max(body.outline) * height
        cast_x, cast_y = px - side * width * 1.3, py - height * 0.02
        # Only the part that the shadows reach; both fade to nothing within twice their size.
        part, sx, sy = window(n, cast_x - 4 * width, max(table, py - 1.1 * width), cast_x + 4 * width, py + 1.1 * width)
        shadow = np.exp(-((((sx - cast_x) / (width * 1.9)) ** 2 + ((sy - cast_y) / (width * 0.5)) ** 2) ** 1.5))
        contact = np.exp(-((((sx - px) / (width * 0.95)) ** 2 + ((sy - py) / (width * 0.33)) ** 2) ** 2))
        over(image[part], image[part] * rgb("2a2420") * 1.6, np.maximum(0.85 * shadow, 0.9 * contact))
        _turn(rng, image, body, (px, py), height, light, bounce)
    return image


def _curtain(rng: Rng, image: Array, side: float) -> None:
    """Heavy folds hanging over part of the wall."""
    n = len(image)
    x, y = grid(n)
    cloth = rgb("7c2428", "2f4a3a", "b8863a", "3a3a6a", "c9bca4")[rng.integers(5)]
    sway = 0.05 * np.sin(y * 5 + rng.uniform(0, 6)) + 0.25 * (1 - y) ** 3
    phase = (x * side + sway) * rng.uniform(24, 40)
    folds = 0.5 + 0.5 * np.sin(phase + 1.3 * np.sin(phase * 0.37))
    edge = (0.5 - x) * -side + 0.12 - 0.22 * (1 - y) ** 2 + rng.uniform(-0.1, 0.1)
    over(image, cloth * (0.2 + 0.95 * folds**1.5)[..., None], smoothstep(0, 0.008, -edge))


def blossoms(rng: Rng, n: int) -> Array:
    """Flowers close up before a blurred garden."""
    x, y = grid(n)
    garden = (
        rgb("16301a", "2f5a2a", "6a9a3f", "b8cc6a")
        if rng.random() < 0.7
        else rgb("1c2433", "3a4a6a", "8a7a9a", "e0b8a8")
    )
    image = ramp(garden, 0.15 + 0.7 * fractal(rng, n, 3, gain=0.35) + 0.15 * (1 - y))
    for _ in range(int(rng.integers(15, 40))):  # discs of light out of focus
        cx, cy, r = rng.random(), rng.random(), rng.uniform(0.02, 0.08)
        part, px, py = window(n, cx - r, cy - r, cx + r, cy + r)
        disc = smoothstep(1.0, 0.85, np.hypot(px - cx, py - cy) / r)
        over(image[part], garden[rng.integers(1, 4)] * 1.15, disc * rng.uniform(0.15, 0.5))
    petals = [
        rgb("8f1420", "d9303a", "ff8a7a"),
        rgb("c9862a", "f7c92f", "fff0a0"),
        rgb("d8d4dc", "f6f3f2", "ffffff"),
        rgb("6a2a8a", "a45ac9", "e0b0f0"),
        rgb("b83a7c", "ee7ab0", "ffd0e0"),
        rgb("2a3fa0", "5a7ae0", "b8ccff"),
        rgb("c9481a", "f4802a", "ffc47a"),
    ]
    colors = petals[rng.integers(len(petals))]
    count = int(rng.choice([1, 3, 4, 5], p=[0.35, 0.25, 0.2, 0.2]))
    sizes = np.sort(rng.uniform(0.13, 0.24, count)) if count > 1 else np.array([rng.uniform(0.3, 0.42)])
    heads = [
        (
            0.5 + 0.3 * np.cos(2.4 * i + 1) * (count > 1) + rng.uniform(-0.06, 0.06),
            0.45 + 0.22 * np.sin(2.4 * i + 1) * (count > 1),
        )
        for i in range(count)
    ]
    grain = fractal(rng, n, 24, gain=0.8)
    for (cx, cy), size in zip(heads, sizes, strict=True):  # stems and leaves
        bend = rng.uniform(-0.15, 0.15)
        stem = cx + bend * (y - cy) ** 2
        mask = np.clip((size * 0.055 - np.abs(x - stem)) * n, 0, 1) * (y > cy)
        over(image, rgb("4a7a2f") * (0.7 + 8 * np.clip(stem - x, -0.05, 0.05) + 0.6 * (grain - 0.5))[..., None], mask)
        for leaf_side in (-1, 1):
            _leaf(rng, image, (cx + bend * 0.05, cy + size * 1.4), size * rng.uniform(0.9, 1.4), leaf_side, grain)
    kind = (int(rng.choice([5, 6, 8, 13, 21])), int(rng.integers(1, 4)), rng.uniform(0.5, 1.6))
    for (cx, cy), size in zip(heads, sizes, strict=True):
        _flower(rng, image, (cx, cy), size, colors, kind, grain)
    return image


def _leaf(rng: Rng, image: Array, root: tuple[float, float], length: float, side: int, grain: Array) -> None:
    """Draws a leaf with veins."""
    n = len(image)
    part, x, y = window(n, root[0] - length, root[1] - length, root[0] + length, root[1] + length)
    angle = rng.uniform(0.2, 0.9)
    along = ((x - root[0]) * side * np.cos(angle) - (y - root[1]) * np.sin(angle)) / length
    across = ((x - root[0]) * side * np.sin(angle) + (y - root[1]) * np.cos(angle)) / length - 0.12 * along**2
    width = 0.24 * np.sqrt(np.clip(along * (1 - along), 0, 1)) * (1.3 - along)
    veins = np.abs(((along * 9 - np.abs(across) * 14) % 1) - 0.5) < 0.08
    tone = 0.75 + 0.5 * (across > 0) - 0.25 * veins + 0.9 * (grain[part] - 0.5) + 0.5 * np.exp(-((across / 0.012) ** 2))
    over(
        image[part],
        rgb("3f7030") * tone[..., None],
        (np.clip((width - np.abs(across)) * n * length, 0, 1) * (along > 0)),
    )


def _flower(
    rng: Rng,
    image: Array,
    center: tuple[float, float],
    size: float,
    colors: Array,
    kind: tuple[int, int, float],
    grain: Array,
) -> None:
    """Rings of petals from the outside in, each shading the one below, around a disc of florets."""
    n = len(image)
    cx, cy = center
    petals, rings, pointed = kind
    part, x, y = window(n, cx - size * 1.15, cy - size * 1.15, cx + size * 1.15, cy + size * 1.15)
    squash = rng.uniform(0.72, 1.0)
    px, py = (x - cx) / size, (y - cy) / size / squash
    angle, distance = np.arctan2(py, px), np.hypot(px, py)
    over(image[part], image[part] * 0.45, smoothstep(1.15, 0.6, np.hypot(px - 0.08, py - 0.12)) * 0.7)
    heart = 0.34 if petals > 6 else 0.2
    for ring in range(rings + 1):
        reach = 1.0 - 0.62 * (1 - heart) * ring / (rings + 1)
        turn = angle + (ring * np.pi / petals) + rng.uniform(0, 0.3)
        which = turn * petals / (2 * np.pi)
        local = (which % 1 - 0.5) * 2  # -1..1 across one petal
        jitter = rng.uniform(0.85, 1.08, petals + 1)[np.floor(which).astype(int) % petals]
        outline = (
            reach * jitter * np.clip(1 - np.abs(local) ** (2.6 * pointed), 0, 1) ** 0.45 * (0.99 + 0.05 * grain[part])
        )
        rise = distance / np.maximum(outline, 1e-3)
        tone = np.clip(0.2 + 0.75 * rise + 0.9 * (grain[part] - 0.5) * 0.5 + 0.1 * np.cos(local * 26) * rise, 0, 1)
        color = (
            ramp(colors, tone)
            * (
                0.8
                + 0.22 * local * np.cos(turn)
                + 0.25 * np.clip(-py * 0.6 - px * 0.3, -1, 1)
                - 0.3 * np.exp(-((1 - np.abs(local)) ** 2) * 30)
            )[..., None]
        )
        shadow = smoothstep(1.25, 0.85, np.hypot(px - 0.03, py - 0.05) / np.maximum(reach, 1e-3)) * (
            0.35 if ring else 0
        )
        over(image[part], image[part] * 0.6, shadow)
        over(image[part], color, np.clip((outline - distance) * size * n, 0, 1))
    # Florets stand on Fermat's spiral; drawn as the ripple of two families of arms.
    inner = distance / heart
    spiral = np.cos(angle * 13 - 9 * np.sqrt(inner) * 3) * np.cos(angle * 8 + 9 * np.sqrt(inner) * 3)
    core = rgb("3a1f10", "8a5a1c", "e8b83a") if petals > 6 else rgb("6a7a1c", "d9c23a", "fff0a0")
    tone = np.clip(0.45 + 0.4 * spiral + 0.3 * (inner - 0.5) + 0.35 * (-py - px), 0, 1)
    over(image[part], ramp(core, tone), np.clip((heart * (0.97 + 0.1 * spiral) - distance) * size * n, 0, 1))


def portrait(rng: Rng, n: int) -> Array:
    """A head and shoulders as a relief under studio light: of marble, bronze or clay, or of flesh and cloth."""
    x, y = grid(n)
    side = float(rng.choice([-1, 1]))  # a NumPy scalar would turn everything into float64
    mottled = fractal(rng, n, 3, gain=0.5)
    wall = rgb("4a5a5c", "7a6a54", "2a2d33", "8a3f36", "b8a888", "3f4f6f", "6f7f5a")[rng.integers(7)]
    image: Array = (
        wall
        * (0.45 + 0.6 * np.exp(-((x - 0.5 - 0.2 * side) ** 2 + (y - 0.35) ** 2) * 4) + 0.45 * (mottled - 0.5))[
            ..., None
        ]
    )
    scale, lean = rng.uniform(0.82, 1.0), rng.uniform(-0.12, 0.12)
    py = (y - 0.44) / scale
    px = (x - 0.5 - rng.uniform(-0.06, 0.06)) / scale + lean * np.clip(py, -1, 0.3)
    turn = rng.uniform(-0.07, 0.07)
    slim = rng.uniform(0.9, 1.08)
    living = rng.random() < 0.6

    def ball(cx: float, cy: float, rx: float, ry: float) -> Array:
        return np.asarray(1 - ((px - cx) / rx) ** 2 - ((py - cy) / ry) ** 2, np.float32)

    def bump(cx: float, cy: float, rx: float, ry: float) -> Array:
        return np.asarray(np.exp(-(((px - cx) / rx) ** 2) - ((py - cy) / ry) ** 2), np.float32)

    # Depth of each part towards the viewer, negative where it is not.
    jaw = 1 + 0.25 * np.clip(py, 0, 1)
    skull = 1 - (px * jaw / (0.225 * slim)) ** 2 - ((py + 0.02) / 0.31) ** 2
    face = 0.26 * np.sqrt(np.clip(skull, 0, 1)) + 0 * py
    eyes = [(turn + eye * 0.088 * slim, -0.045) for eye in (-1, 1)]
    face = face + 0.075 * bump(turn * 1.3, 0.055, 0.03, 0.04) + 0.045 * bump(turn * 1.15, -0.01, 0.02, 0.075)
    for cx, cy in eyes:
        face = face - 0.035 * bump(cx, cy - 0.005, 0.055, 0.035) + 0.016 * bump(cx, cy, 0.03, 0.018)
        face = face + 0.018 * bump(cx, cy - 0.055, 0.06, 0.018) + 0.012 * bump(cx * 1.15, 0.08, 0.06, 0.05)
    lips = bump(turn, 0.138, 0.055, 0.011) + bump(turn, 0.162, 0.045, 0.012)
    face = face + 0.02 * lips + 0.02 * bump(turn, 0.235, 0.05, 0.035) - 0.012 * bump(turn, 0.2, 0.05, 0.018)
    collar = 0.098 + 1.6 * np.clip(py - 0.27, 0, 1) ** 1.7  # the neck widens into the shoulders
    neck = 0.15 * np.sqrt(np.clip(1 - (px / collar) ** 2, 0, 1)) * (py > 0) - 0.03
    wide = rng.uniform(0.4, 0.48)
    trunk = 0.24 * np.clip(ball(0, 0.8, wide, 0.45), 0, 1) ** 0.6 - 0.01
    style, long = int(rng.integers(3)), rng.random() < 0.5
    strands = fractal(rng, n, 20, gain=0.6, tall=2.5)
    parting = 0.08 * side * (style > 0)
    locks = 0.5 + 0.5 * np.sin(34 * np.arctan2(px - parting, np.abs(py + 0.46) + 0.1) + 14 * strands + 3 * style * py)
    cap = ball(0.0, -0.085, 0.25 * slim, 0.275)
    fringe = py < -0.175 + 0.5 * (px - turn - 0.04 * side) ** 2 * (8 if style else 4) + 0.02 * (strands - 0.5)
    temples = np.abs(px - turn * 0.6) > 0.185 * slim + 0.03 * (strands - 0.5)
    hair = (cap > 0) & (fringe | (temples & (py < 0.1)))
    if long:
        fall = 1 - (px / (0.29 + 0.05 * np.sin(py * 9))) ** 2 + 0 * py
        behind = (np.abs(px) > collar) & (skull < 0) | temples
        hair = hair | ((fall > 0) & behind & (py > -0.1) & (py < 0.36 + 0.06 * locks))
    coat = (trunk > neck) & (trunk > 0) & (py > 0.26 + 0.9 * np.clip(0.12 - np.abs(px), 0, 1) * rng.uniform(0.4, 1.2))

    on_head = skull > 0
    depth = np.where(on_head, face, np.maximum(np.maximum(neck, trunk), 0))
    depth = np.where(hair, np.maximum(depth, 0.2 * np.sqrt(np.clip(cap, 0, 1)) + 0.085) + 0.007 * locks, depth)
    folds = fractal(rng, n, 4, gain=0.5, tall=2.5, ridged=True)
    depth = np.where(coat, depth + 0.035 * folds, depth)
    seen = on_head | hair | (neck > 0) & (py < 0.6) & (py > 0) | (trunk > 0)

    smooth = 0.6 * blur(depth, 0.006) + 0.4 * depth
    dy, dx = np.gradient(smooth * n * scale)
    light = unit(0.5 * side, 0.42, 0.75)
    facing = (-dx * light[0] + dy * light[1] + light[2]) / np.sqrt(dx**2 + dy**2 + 1)
    hollow = np.clip(1 - 5 * (blur(depth, 0.06) - depth), 0.55, 1.1)
    upward = 1 / np.sqrt(dx**2 + dy**2 + 1)
    grain = fractal(rng, n, 40, gain=0.8)
    if living:
        skin = rgb("e0b08a", "c98f66", "8a5a3c", "f0cbb0", "a8704a", "5f3d2a")[rng.integers(6)]
        color = skin * (0.94 + 0.12 * grain)[..., None]
        over(
            color,
            skin * rgb("f08070"),
            0.35 * (bump(turn - 0.11, 0.07, 0.05, 0.04) + bump(turn + 0.11, 0.07, 0.05, 0.04)),
        )
        over(color, skin * 0.4 + rgb("a8323a") * 0.45, np.clip(1.5 * lips - 0.35, 0, 0.85))
        iris = rgb("3a2a1c", "3f6a7a", "4f6a3a")[rng.integers(3)]
        for cx, cy in eyes:
            white = np.clip(ball(cx, cy, 0.042, 0.02) * 4, 0, 1)
            over(color, rgb("d8cfc4"), white)
            over(color, iris, np.clip(ball(cx + 0.1 * turn, cy - 0.002, 0.0195, 0.0205) * 4, 0, 1) * white)
            over(color, rgb("080808"), np.clip(ball(cx + 0.1 * turn, cy - 0.002, 0.009, 0.0095) * 4, 0, 1) * white)
            over(color, rgb("2a1a14"), np.clip(bump(cx, cy - 0.019, 0.042, 0.006) * 1.3, 0, 0.85))
            over(color, rgb("2a1c14"), np.clip(bump(cx * 1.03, cy - 0.052, 0.045, 0.009) * 1.1 - 0.15, 0, 0.75))
        tresses = rgb("1c1512", "4a2f1c", "8a5a2a", "c9a05a", "7a3018", "b8b0a8")[rng.integers(6)]
        over(color, tresses * (0.72 + 0.3 * locks + 0.8 * (strands - 0.5))[..., None], hair)
        cloth = rgb("7c2028", "24406a", "e6dfd0", "2f5a42", "c99a3a", "26262c", "8a5a7a")[rng.integers(7)]
        over(color, cloth * (0.8 + 0.4 * folds)[..., None], coat)
        gloss, ambient = 0.08, 0.4
    else:
        material = rgb("e8e4da", "7a5a34", "b8694a", "8f9a94")[rng.integers(4)]
        veins = smoothstep(0.46, 0.5, fractal(rng, n, 3, gain=0.65)) * smoothstep(
            0.54, 0.5, fractal(rng, n, 3, gain=0.65)
        )
        color = material * (0.92 + 0.16 * grain - 0.2 * veins)[..., None]
        gloss, ambient = 0.22, 0.32
    shaded = color * ((ambient + 0.85 * np.clip(facing, 0, 1)) * hollow)[..., None]
    shaded += (gloss * smoothstep(0.93, 1.0, facing) + 0.25 * (1 - upward) ** 2 * np.clip(-dx * -side, 0, 1) * 0.5)[
        ..., None
    ]
    over(image, image * 0.6, 0.8 * blur(np.roll(seen, int(-0.05 * side * n), 1), 0.08))
    over(image, shaded, np.clip(seen, 0, 1))
    return image


FAMILIES: dict[str, Callable[[Rng, int], Array]] = {
    scene.__name__: scene
    for scene in (mountains, still_life, street, portrait, seascape, blossoms, hills, skyline, misty_ridges, dunes)
}


def render(rng: Rng, n: int, family: str | None = None) -> Array:
    """Renders a scene without the camera's tone curve and noise, as the motif of paintings.

    Args:
        rng: Random generator.
        n: Side of the image in pixels.
        family: A key of `FAMILIES`; by default it is random.

    Returns:
        RGB, (n, n, 3), in [0, 1.2].
    """
    chosen = family or list(FAMILIES)[rng.integers(len(FAMILIES))]
    return np.clip(FAMILIES[chosen](rng, n), 0, 1.2).astype(np.float32)


def develop(rng: Rng, image: Array) -> Image.Image:
    """Applies a camera model: exposure to the full tonal range, a film curve, vignette and sensor noise.

    Args:
        rng: Random generator.
        image: A rendered scene, (n, n, 3).

    Returns:
        An RGB image of n x n pixels.
    """
    low, high = np.percentile(luminance(image), [0.5, 99.5])
    image = np.clip((image - low) / max(high - low, 0.2) * 0.97 + 0.015, 0, 1.1)
    image = image + 0.25 * (np.clip(image, 0, 1) ** 2 * (3 - 2 * np.clip(image, 0, 1)) - image)
    gray = luminance(image)[..., None]
    image = gray + rng.uniform(0.66, 0.86) * (image - gray)  # film is never as colorful as paint
    x, y = grid(len(image))
    image = image * (1 - rng.uniform(0.1, 0.45) * ((x - 0.5) ** 2 + (y - 0.5) ** 2))[..., None]
    image = image + rng.normal(0, 0.008, image.shape).astype(np.float32) * (1.3 - image)
    return Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))


def draw_photo(seed: int, size: int = 256, family: str | None = None) -> Image.Image:
    """Draws a procedural photo.

    The same seed gives the same pixels on every run, and the same scene at another size.

    Args:
        seed: Any integer >= 0.
        size: Side of the square image in pixels.
        family: A key of `FAMILIES`; by default it depends on the seed.

    Returns:
        An RGB image of size x size.
    """
    rng = np.random.default_rng(seed)
    image = render(rng, max(2 * size, 192), family)  # twice the size, for smooth edges
    return develop(rng, resize(image, size, size, Image.Resampling.LANCZOS))
