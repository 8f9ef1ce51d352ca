"""Mountains: a fractal landscape that is lit, given snow and woods, and seen in true perspective."""

from __future__ import annotations

import cv2
import numpy as np

from stepwise.data.scenes import paint

MAP = 320  # cells along one side of the height map
SKIES = (
    ((0.16, 0.38, 0.72), (0.62, 0.78, 0.92)),
    ((0.26, 0.48, 0.80), (0.78, 0.88, 0.95)),
    ((0.10, 0.28, 0.60), (0.48, 0.68, 0.88)),
    ((0.42, 0.56, 0.70), (0.80, 0.86, 0.90)),
    ((0.30, 0.44, 0.66), (0.90, 0.86, 0.82)),
)


def draw_mountains(rng: np.random.Generator, size: int) -> np.ndarray:
    """Snowy ridges over green foothills by day, at times above a lake. Returns uint8 [size, size, 3]."""
    top, low = (paint.vary(rng, color, 0.04) for color in paint.choose(rng, SKIES))
    horizon = rng.uniform(0.56, 0.7)
    picture = paint.gradient(size, [(0, top), (horizon, low), (1, low)])
    density, shade = paint.clouds(rng, size, rng.uniform(0.02, 0.5), rng.uniform(2, 4), rng.uniform(1.6, 3.5))
    cloud = paint.mix((0.98, 0.98, 0.98), paint.mix(low, (0.6, 0.65, 0.75), 0.6), 1 - shade[..., None])
    paint.blend(picture, cloud, density * rng.uniform(0.6, 0.95))
    heights = _heights(rng)
    colors = _ground_colors(rng, heights)
    lake = rng.random() < 0.4
    shore = horizon + rng.uniform(0.1, 0.2) if lake else 1.0
    land, mask = _look_across(rng, heights, colors, size, horizon, low)
    # Grass, scree and needles, finer than the height map.
    texture = paint.fractal_noise(rng, (size, size), 40, 3, 0.8, 1.6)
    paint.blend(picture, land * paint.spread(0.78 + 0.44 * texture), mask)
    if lake:
        _lake(rng, picture, shore)
    if rng.random() < 0.55:
        _near_slope(rng, picture)
    return paint.finish(rng, picture)


def _heights(rng: np.random.Generator) -> np.ndarray:
    """Ground height [MAP, MAP]; row 0 lies at the viewer's feet, the far rows carry the peaks."""
    ridged = np.zeros((MAP, MAP), np.float32)
    weight = np.float32(1)
    for octave in range(6):
        noise = paint.fractal_noise(rng, (MAP, MAP), rng.uniform(2.4, 4.2) * 2**octave, 1)
        sharp = (1 - np.abs(2 * noise - 1)) ** 1.6
        ridged += 0.52**octave * sharp * weight
        weight = np.clip(sharp * 1.6, 0.15, 1)
    ridged = (ridged - ridged.min()) / np.ptp(ridged)
    x, z = paint.grid(MAP)
    summit = rng.uniform(0.25, 0.75)
    rise = paint.smoothstep(0.12, rng.uniform(0.5, 0.75), z)
    massif = 0.72 + rng.uniform(0.2, 0.5) * np.exp(-(((x - summit) / 0.16) ** 2) - ((z - 0.62) / 0.2) ** 2)
    rolling = paint.fractal_noise(rng, (MAP, MAP), 5, 5)
    return (0.035 * rolling + rise * massif * (0.06 + 0.4 * ridged)).astype(np.float32)


def _ground_colors(rng: np.random.Generator, heights: np.ndarray) -> np.ndarray:
    """Sunlit colours [MAP, MAP, 3]: woods and meadows below, rock, then snow where it can lie."""
    slope_z, slope_x = np.gradient(heights * MAP)
    steep = np.hypot(slope_x, slope_z)
    noise = paint.fractal_noise(rng, (MAP, MAP), 10, 6, 0.6)
    meadow = paint.mix(paint.vary(rng, (0.38, 0.48, 0.22), 0.05), (0.56, 0.54, 0.32), rng.uniform(0, 0.8))
    wood, rock = paint.vary(rng, (0.13, 0.24, 0.13), 0.04), paint.vary(rng, (0.47, 0.44, 0.41), 0.04)
    color = paint.mix(meadow, wood, paint.smoothstep(0.42, 0.56, noise + heights * 0.7)[..., None])
    tree_limit, snow_limit = rng.uniform(0.10, 0.17), rng.uniform(0.15, 0.25)
    bare = paint.smoothstep(tree_limit, tree_limit + 0.06, heights + 0.08 * (noise - 0.5))
    color = paint.mix(color, rock * (0.7 + 0.6 * noise[..., None]), bare[..., None])
    lies = paint.smoothstep(snow_limit, snow_limit + 0.05, heights + 0.14 * (noise - 0.5) - 0.02 * steep)
    color = paint.mix(color, (0.97, 0.98, 1.0), lies[..., None])
    side, elevation = paint.choose(rng, (-1, 1)), rng.uniform(0.5, 1.0)
    normal_length = np.sqrt(1 + (1.6 * steep) ** 2)
    light = (side * slope_x * 1.6 * 0.8 + slope_z * 1.6 * 0.35 + elevation) / normal_length / np.hypot(0.9, elevation)
    light = np.clip(light, 0, 1.2) * (1 - 0.6 * _cast_shadow(heights * MAP, side, elevation * 0.9))
    sun, sky = np.float32([1.12, 1.05, 0.94]), np.float32([0.44, 0.48, 0.54])
    return color * (sky + sun * light[..., None])


def _cast_shadow(heights: np.ndarray, side: int, slope: float) -> np.ndarray:
    """Soft shadow [MAP, MAP] of a sun to the left (side 1) or the right (-1): a running maximum along each row."""
    tilted = heights[:, ::side] + slope * np.arange(heights.shape[1], dtype=np.float32)
    above = np.maximum.accumulate(tilted, axis=1) - tilted
    return paint.blur(paint.smoothstep(0.0, 2.5, above)[:, ::side].copy(), 0.004)


def _look_across(
    rng: np.random.Generator, heights: np.ndarray, colors: np.ndarray, size: int, horizon: float, haze: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The landscape as seen from its front edge: picture [S, S, 3] and mask [S, S].

    Every column looks along a fan of depths. A pixel shows the first depth whose ground rises above it,
    found by counting the depths that stay below (a cumulative histogram, so there is no loop over depths).
    """
    side = 3 * size // 2
    depths = np.linspace(0.16**0.5, 1, 260, dtype=np.float32)[:, None] ** 2
    x = (np.arange(side, dtype=np.float32)[None] + 0.5) / side - 0.5
    across = (0.5 + x * depths * 0.98) * (MAP - 1)
    along = np.broadcast_to((depths - 0.16) / 0.84 * (MAP - 1), across.shape).astype(np.float32)
    ground = cv2.remap(heights, across, along, cv2.INTER_CUBIC, None, cv2.BORDER_REFLECT)
    eye = rng.uniform(0.07, 0.13)
    rows = (horizon + (eye - ground) * rng.uniform(0.85, 1.1) / depths) * side
    highest = np.minimum.accumulate(rows, axis=0)
    first = np.clip(np.ceil(highest), 0, side).astype(np.int64)
    counts = np.bincount((first * side + np.arange(side)).ravel(), minlength=(side + 1) * side)
    # Row r shows depth number (how many depths have their top below r), counted from the bottom up.
    counted = counts.reshape(side + 1, side)[::-1].astype(np.int32).cumsum(0, dtype=np.int32)[::-1][1:]
    index = np.minimum(counted, len(depths) - 1).astype(np.float32)
    columns = np.broadcast_to(np.arange(side, dtype=np.float32), index.shape)
    seen = cv2.remap(colors, across, along, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT)
    thickness = 1 - np.exp(-np.maximum(depths - 0.2, 0) / rng.uniform(0.9, 3.0))
    seen = paint.mix(seen, np.multiply(haze, (0.88, 0.94, 1.0)), thickness[..., None] * 0.75)
    land = cv2.remap(seen, columns, index, cv2.INTER_LINEAR)
    mask = (counted < len(depths)).astype(np.float32)
    shrink = (size, size)
    return cv2.resize(land, shrink, interpolation=cv2.INTER_AREA), cv2.resize(
        mask, shrink, interpolation=cv2.INTER_AREA
    )


def _lake(rng: np.random.Generator, picture: np.ndarray, shore: float) -> None:
    """Cold water from `shore` down, which mirrors the peaks."""
    size = picture.shape[0]
    _, y = paint.grid(size)
    waves = paint.ripples(rng, size, shore, rng.uniform(0.6, 1.2))
    water = paint.mirror(picture, shore, waves, rng.uniform(0.01, 0.05))
    deep = paint.vary(rng, paint.choose(rng, ((0.14, 0.36, 0.46), (0.16, 0.44, 0.46), (0.18, 0.32, 0.44))))
    near = np.clip((y - shore) / (1 - shore), 0, 1)
    water = paint.mix(water * 0.95, deep, (0.1 + 0.4 * near)[..., None]) * paint.spread(1 + 0.12 * waves)
    outline = shore + 0.012 * (paint.ridge_line(rng, size, 4, 5) - 0.5)
    paint.blend(picture, water, paint.below(size, outline, 0.001))


def _near_slope(rng: np.random.Generator, picture: np.ndarray) -> None:
    """Firs in the foreground that frame the view."""
    size = picture.shape[0]
    texture = 0.6 + 0.8 * paint.fractal_noise(rng, (size, size), 20, 4, 0.7)[..., None]
    greens = [texture * paint.vary(rng, (0.08, 0.17, 0.09), 0.04) for _ in range(3)]
    for _ in range(int(rng.integers(3, 14))):
        side = rng.beta(0.5, 0.5)
        foot, tall = rng.uniform(0.93, 1.06), rng.uniform(0.14, 0.36)
        _fir(rng, picture, (side, foot), tall, paint.choose(rng, greens))


def _fir(rng: np.random.Generator, picture: np.ndarray, foot: tuple, tall: float, color: np.ndarray) -> None:
    tiers = 13
    half = tall * rng.uniform(0.15, 0.22)
    left, right = [], []
    for tier in range(tiers):
        drop = (tier + 1) / tiers
        for reach, level in ((1.0, drop), (0.5, drop - 0.02)):
            wide = half * drop**0.85 * reach
            left.append((foot[0] - wide * rng.uniform(0.8, 1.15), foot[1] - tall * (1 - level)))
            right.append((foot[0] + wide * rng.uniform(0.8, 1.15), foot[1] - tall * (1 - level)))
    paint.fill(picture, [(foot[0], foot[1] - tall), *right, *left[::-1]], color)
