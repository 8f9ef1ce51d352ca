"""Sunsets and night skies: the two scenes that live from the sky."""

from __future__ import annotations

import cv2
import numpy as np

from stepwise.data.scenes import paint

# Top of the sky, middle, and the band above the horizon.
SUNSET_PALETTES = (
    ((0.22, 0.16, 0.38), (0.86, 0.36, 0.26), (1.00, 0.74, 0.32)),
    ((0.42, 0.20, 0.36), (0.92, 0.40, 0.20), (1.00, 0.66, 0.20)),
    ((0.30, 0.14, 0.34), (0.80, 0.22, 0.26), (1.00, 0.50, 0.22)),
    ((0.48, 0.28, 0.48), (0.94, 0.48, 0.42), (1.00, 0.80, 0.50)),
    ((0.62, 0.26, 0.10), (0.94, 0.50, 0.12), (1.00, 0.82, 0.36)),
    ((0.28, 0.22, 0.48), (0.82, 0.36, 0.46), (1.00, 0.64, 0.42)),
)
NIGHT_PALETTES = (
    ((0.008, 0.014, 0.050), (0.030, 0.065, 0.180)),
    ((0.010, 0.020, 0.075), (0.060, 0.110, 0.260)),
    ((0.014, 0.012, 0.060), (0.100, 0.070, 0.210)),
    ((0.006, 0.022, 0.055), (0.035, 0.110, 0.200)),
)


def draw_sunset(rng: np.random.Generator, size: int) -> np.ndarray:
    """A low sun over the sea, a lake or dark land. Returns uint8 [size, size, 3]."""
    top, middle, low = (paint.vary(rng, color, 0.06) for color in paint.choose(rng, SUNSET_PALETTES))
    horizon = rng.uniform(0.55, 0.8)
    sun = (rng.uniform(0.22, 0.78), horizon - rng.uniform(-0.02, 0.24))
    radius = rng.uniform(0.045, 0.1)
    bend = rng.uniform(0.4, 0.62)
    picture = paint.gradient(size, [(0, top), (horizon * bend, middle), (horizon, low), (1, low)])
    paint.add_light(picture, (1.0, 0.62, 0.25), paint.glow(size, sun, rng.uniform(0.16, 0.3), 1.5) * 0.9)
    _sunlit_clouds(rng, picture, sun, top, low)
    paint.add_light(picture, (1.0, 0.8, 0.45), paint.glow(size, sun, radius * 0.9))
    paint.blend(picture, (1.0, 0.93, 0.68), paint.disc(size, sun, radius, 0.003))
    if rng.random() < 0.55:
        _far_hills(rng, picture, horizon, mix_to=low)
    if rng.random() < 0.7:
        _sunlit_water(rng, picture, horizon, sun, top)
        ground = rng.uniform(0.9, 1.04)
    else:
        ground = horizon + rng.uniform(-0.02, 0.05)
    _dark_foreground(rng, picture, ground, np.multiply(top, 0.2))
    _birds(rng, picture, horizon)
    return paint.finish(rng, picture, vignette=0.4)


def _sunlit_clouds(rng: np.random.Generator, picture: np.ndarray, sun: tuple, dark: np.ndarray, lit: np.ndarray):
    """Clouds that are warm near the sun and below, dusky far from it."""
    size = picture.shape[0]
    density, shade = paint.clouds(rng, size, rng.uniform(0.15, 0.7), rng.uniform(1.5, 3.5), rng.uniform(2.5, 5))
    near = paint.glow(size, sun, rng.uniform(0.35, 0.7), 1.6)
    warmth = np.clip(near * 0.9 + (shade - 0.5) * 1.3, 0, 1)[..., None]
    color = paint.mix(paint.mix(dark, lit, 0.25) * 0.85, paint.mix(lit, (1, 0.55, 0.35), 0.4), warmth)
    paint.blend(picture, color, density * rng.uniform(0.6, 0.92))


def _far_hills(rng: np.random.Generator, picture: np.ndarray, horizon: float, mix_to: np.ndarray) -> None:
    size = picture.shape[0]
    for layer in range(int(rng.integers(1, 4))):
        height = rng.uniform(0.05, 0.16) * (1 - 0.25 * layer)
        outline = horizon - height * paint.ridge_line(rng, size, rng.uniform(1.5, 4), 6, 0.45)
        color = paint.mix(mix_to, (0.16, 0.07, 0.14), 0.55 + 0.15 * layer)
        paint.blend(picture, color, paint.below(size, outline))


def _sunlit_water(rng: np.random.Generator, picture: np.ndarray, horizon: float, sun: tuple, deep: np.ndarray):
    """Water that mirrors the sky, with a path of glitter under the sun."""
    size = picture.shape[0]
    x, y = paint.grid(size)
    waves = paint.ripples(rng, size, horizon, rng.uniform(0.6, 1.4))
    water = paint.mirror(picture, horizon, waves, rng.uniform(0.02, 0.07)) * rng.uniform(0.68, 0.85)
    near = np.clip((y - horizon) / (1 - horizon), 0, 1)
    water = paint.mix(water, np.multiply(deep, 0.45), (0.1 + 0.45 * near)[..., None])
    water *= paint.spread(1 + 0.35 * waves)
    path = np.exp(-(((x - sun[0]) / (0.05 + 0.09 * near)) ** 2))
    sparkle = paint.smoothstep(-0.1, 0.55, waves + 0.25 * path) * path
    paint.add_light(water, (1.0, 0.74, 0.38), sparkle * rng.uniform(0.7, 1.0))
    paint.blend(picture, water, paint.below(size, horizon))


def _dark_foreground(rng: np.random.Generator, picture: np.ndarray, ground: float, color: np.ndarray) -> None:
    """A dark bank at the bottom, at times with trees, palms or reeds that stand against the light."""
    size = picture.shape[0]
    outline = ground - 0.06 * paint.ridge_line(rng, size, 3, 7, 0.55)
    paint.blend(picture, color, paint.below(size, outline))
    kind = paint.choose(rng, ("none", "tree", "palm", "wood"))
    if kind == "wood":
        treeline(rng, picture, min(ground, 0.97), color, rng.uniform(0.04, 0.12))
    if kind in ("tree", "palm"):
        draw = _tree if kind == "tree" else _palm
        for _ in range(int(rng.integers(1, 4))):
            side = rng.uniform(0.04, 0.34) if rng.random() < 0.5 else rng.uniform(0.66, 0.96)
            draw(rng, picture, (side, min(ground, 0.99)), rng.uniform(0.3, 0.55), color)


def _tree(rng: np.random.Generator, picture: np.ndarray, foot: tuple, height: float, color: np.ndarray) -> None:
    """A broad ragged crown on a forked trunk; the sky shows through its gaps."""
    size = picture.shape[0]
    crown = (foot[0], foot[1] - height * 0.7)
    wide, high = rng.uniform(0.3, 0.5) * height, rng.uniform(0.17, 0.28) * height
    paint.line(picture, foot, (foot[0], crown[1] + 0.6 * high), 0.045 * height, color)
    for across in np.linspace(-0.7, 0.7, 6) + rng.normal(0, 0.06, 6):
        fork = (foot[0], foot[1] - height * rng.uniform(0.34, 0.5))
        paint.line(picture, fork, (crown[0] + float(across) * wide, crown[1]), 0.02 * height, color)
    x, y = paint.grid(size)
    ragged = paint.fractal_noise(rng, (size, size), 3 / height, 5, 0.75) - 0.5
    distance = ((x - crown[0]) / wide) ** 2 + ((y - crown[1]) / high) ** 2
    sag = np.clip((y - crown[1]) / high, 0, 2) * 0.5  # flatter below than above
    paint.blend(picture, color, paint.smoothstep(1.04, 0.96, distance + sag + 1.7 * ragged))


def _palm(rng: np.random.Generator, picture: np.ndarray, foot: tuple, height: float, color: np.ndarray) -> None:
    """A leaning trunk with drooping fronds."""
    lean = rng.normal(0, 0.12) * height
    t = np.linspace(0, 1, 12)
    trunk = np.stack([foot[0] + lean * t**2, foot[1] - height * t], -1)
    width = 0.02 * height * (1.3 - 0.6 * t)
    paint.fill(picture, [*(trunk - np.stack([width, 0 * t], -1)), *(trunk + np.stack([width, 0 * t], -1))[::-1]], color)
    for angle in np.linspace(-0.25, np.pi + 0.25, int(rng.integers(8, 12))) + rng.normal(0, 0.08):
        reach = height * rng.uniform(0.3, 0.42)
        s = np.linspace(0, 1, 10)
        spine_x = trunk[-1, 0] + reach * s * np.cos(angle)
        spine_y = trunk[-1, 1] - reach * (s * np.sin(angle) * 0.7 - 0.55 * s**2)
        thick = 0.09 * reach * np.sin(np.pi * np.clip(s * 0.92 + 0.06, 0, 1))
        upper, lower = np.stack([spine_x, spine_y - thick * 0.4], -1), np.stack([spine_x, spine_y + thick], -1)
        paint.fill(picture, [*upper, *lower[::-1]], color)


def _birds(rng: np.random.Generator, picture: np.ndarray, horizon: float) -> None:
    if rng.random() < 0.6:
        return
    for _ in range(int(rng.integers(2, 7))):
        x, y, span = rng.uniform(0.1, 0.9), rng.uniform(0.12, horizon - 0.15), rng.uniform(0.012, 0.028)
        for side in (-1, 1):
            paint.fill(
                picture,
                [
                    (x, y),
                    (x + side * span * 0.5, y - span * 0.5),
                    (x + side * span, y - span * 0.25),
                    (x + side * span * 0.5, y - span * 0.3),
                ],
                (0.1, 0.05, 0.08),
            )


def treeline(rng: np.random.Generator, picture: np.ndarray, ground: float, color: np.ndarray, height: float) -> None:
    """A row of fir silhouettes along `ground`, up to `height` tall, in place."""
    size = picture.shape[0]
    x, _ = paint.grid(size)
    rise = 0.7 * height * paint.ridge_line(rng, size, 2.5, 4)
    outline = ground - rise
    for _ in range(int(rng.integers(28, 60))):
        center, tall = rng.uniform(-0.02, 1.02), height * rng.uniform(0.5, 1.3)
        half = tall * rng.uniform(0.16, 0.26)
        distance = np.abs(x - center) / half
        jag = 0.14 * np.abs(np.sin(distance * 14 + rng.uniform(0, 3))) * (distance < 1)
        base = np.interp(center, x[0], outline[0])
        outline = np.minimum(outline, np.where(distance < 1, base - tall * np.clip(1 - distance - jag, 0, 1), 9))
    paint.blend(picture, color, paint.below(size, outline))


def draw_night_sky(rng: np.random.Generator, size: int) -> np.ndarray:
    """Stars, with a Milky Way, a moon or an aurora, over a dark skyline. Returns uint8 [size, size, 3]."""
    top, low = (paint.vary(rng, color, 0.05) * rng.uniform(0.8, 1.25) for color in paint.choose(rng, NIGHT_PALETTES))
    skyline = rng.uniform(0.78, 0.96)
    picture = paint.gradient(size, [(0, top), (skyline * 0.5, paint.mix(top, low, 0.35)), (skyline, low), (1, low)])
    kind = rng.choice(["galaxy", "moon", "both", "aurora"], p=[0.38, 0.4, 0.14, 0.08])
    if kind in ("galaxy", "both"):
        _milky_way(rng, picture, rng.uniform(0.55, 0.95) * (0.6 if kind == "both" else 1))
    if kind == "aurora":
        _aurora(rng, picture, skyline)
    _stars(rng, picture, int(rng.uniform(150, 380)) if kind == "moon" else int(rng.uniform(380, 800)))
    if kind in ("moon", "both"):
        _moon(rng, picture)
    if rng.random() < 0.35:
        paint.add_light(picture, (0.85, 0.5, 0.25), paint.glow(size, (rng.uniform(0, 1), skyline), 0.09, 5) * 0.4)
    _night_ground(rng, picture, skyline)
    return paint.finish(rng, np.maximum(picture, 0), vignette=0.35, grain=0.008)


def _milky_way(rng: np.random.Generator, picture: np.ndarray, strength: float) -> None:
    """A tilted band of light, brightest at its core, cut by lanes of dust."""
    size = picture.shape[0]
    x, y = paint.grid(size)
    tilt = paint.choose(rng, (-1, 1)) * rng.uniform(0.5, 1.45)
    u, v = x - rng.uniform(0.35, 0.65), y - rng.uniform(0.3, 0.5)
    along, across = u * np.cos(tilt) + v * np.sin(tilt), v * np.cos(tilt) - u * np.sin(tilt)
    cloud = paint.fractal_noise(rng, (size, size), 4, 7, 0.55)
    across = across + 0.12 * (paint.fractal_noise(rng, (size, size), 3, 4) - 0.5)
    width = rng.uniform(0.1, 0.17)
    core = 0.55 + 0.45 * np.exp(-(((along - rng.uniform(-0.25, 0.25)) / 0.35) ** 2))
    band = np.exp(-((across / width) ** 2)) * core * (0.35 + 0.9 * cloud)
    dust = np.exp(-(((across + 0.02) / (width * 0.4)) ** 2)) * paint.smoothstep(0.4, 0.7, 1 - cloud)
    paint.add_light(picture, (0.42, 0.48, 0.72), np.clip(band, 0, 1) * strength * 0.8)
    paint.add_light(picture, (0.95, 0.72, 0.62), np.clip(band, 0, 1) ** 2.2 * strength * 0.7)
    picture *= paint.spread(1 - 0.6 * strength * np.clip(dust, 0, 1))
    dense = rng.random((size, size), dtype=np.float32) ** 40 * np.clip(band, 0, 1)
    picture += paint.spread(dense * strength * 0.8)


def _stars(rng: np.random.Generator, picture: np.ndarray, count: int) -> None:
    """Stars of a power law of brightness and of slightly different colours; the greatest have a halo."""
    size = picture.shape[0]
    layer = np.zeros_like(picture)
    places = rng.random((count, 2))
    bright = np.minimum(0.16 * (1 - rng.random(count)) ** -0.55, 3)
    tint = rng.normal(0, 1, count)
    for (x, y), power, t in zip(places, bright, tint, strict=True):
        radius = (0.0011 + 0.0016 * min(power, 1.6)) * size
        # The smallest dot that can be drawn is about a pixel wide: a lesser star is dimmed instead.
        power *= min(1.0, (radius / 0.45) ** 2)
        color = np.clip((0.92 + 0.1 * t, 0.93, 0.98 - 0.1 * t), 0, 1.1) * min(power * 1.6, 1.2)
        cv2.circle(
            layer, (int(x * size * 16), int(y * size * 16)), max(4, int(radius * 16)), color.tolist(), -1, 16, shift=4
        )
    layer = paint.blur(layer, 0.0012)
    picture += layer + 1.6 * paint.blur(layer, 0.008)


def _moon(rng: np.random.Generator, picture: np.ndarray) -> None:
    """A moon with maria, full or in phase, in its own light and thin clouds."""
    size = picture.shape[0]
    radius = rng.uniform(0.07, 0.14)
    center = (rng.uniform(0.2, 0.8), rng.uniform(0.16, 0.45))
    paint.add_light(picture, (0.35, 0.45, 0.7), paint.glow(size, center, radius * 1.5) * rng.uniform(0.7, 1.1))
    if rng.random() < 0.6:
        density, _ = paint.clouds(rng, size, rng.uniform(0.3, 0.6), 2.5, 3)
        lit = paint.glow(size, center, 0.3) * 0.5 + 0.04
        paint.blend(picture, (0.62, 0.68, 0.82), density * lit)
    maria = paint.fractal_noise(rng, (size, size), 1.2 / radius, 4, 0.5)
    surface = 0.98 - 0.3 * paint.smoothstep(0.5, 0.68, maria) - 0.06 * maria
    phase = paint.choose(rng, (0.0, 0.0, 0.45, 0.8, -0.8, 1.15)) * radius
    shadow = (
        1 - paint.disc(size, (center[0] + 2.6 * radius - phase, center[1] - 0.1 * radius), radius * 1.35, 0.012)
        if phase
        else 1
    )
    shape = paint.disc(size, center, radius, 0.001)
    paint.blend(picture, surface[..., None] * np.float32([1.0, 0.97, 0.88]), shape * shadow)


def _aurora(rng: np.random.Generator, picture: np.ndarray, skyline: float) -> None:
    """Curtains of green light with a violet upper hem."""
    size = picture.shape[0]
    _, y = paint.grid(size)
    for _ in range(int(rng.integers(1, 4))):
        foot = skyline - rng.uniform(0.12, 0.4) + 0.3 * (paint.ridge_line(rng, size, 1.5, 3, 0.4) - 0.5)
        rays = 0.35 + 0.65 * paint.ridge_line(rng, size, 10, 4, 0.6)
        height = foot - y
        curtain = np.where(height > 0, np.exp(-height / (0.06 + 0.14 * rays)), np.exp(height / 0.015)) * rays
        paint.add_light(picture, (0.15, 0.95, 0.5), curtain * 0.7)
        paint.add_light(picture, (0.45, 0.2, 0.7), np.where(height > 0, curtain * np.clip(height * 4, 0, 1), 0) * 0.8)


def _night_ground(rng: np.random.Generator, picture: np.ndarray, skyline: float) -> None:
    """Dark hills, firs, or a lake under the sky."""
    size = picture.shape[0]
    dark = np.float32([0.008, 0.010, 0.018])
    if rng.random() < 0.4:
        outline = skyline - rng.uniform(0.06, 0.16) * paint.ridge_line(rng, size, rng.uniform(1.5, 3.5), 6, 0.48)
        paint.blend(picture, dark * 2.4, paint.below(size, outline))
    if rng.random() < 0.25 and skyline < 0.88:
        waves = paint.ripples(rng, size, skyline)
        paint.blend(picture, paint.mirror(picture, skyline, waves, 0.05) * 0.7, paint.below(size, skyline))
        return
    paint.blend(picture, dark, paint.below(size, skyline - 0.04 * paint.ridge_line(rng, size, 3, 6)))
    if rng.random() < 0.75:
        treeline(rng, picture, skyline, dark, rng.uniform(0.04, 0.11))
