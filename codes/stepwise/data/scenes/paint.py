"""Brushes that the scenes share: noise, gradients, soft shapes, water, and the photo finish.

Pictures are float32 RGB arrays [S, S, 3], about [0, 1]. Places and lengths are fractions of the side S,
with x to the right and y down, so a scene looks the same at any size. Masks are [S, S] in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

Color = Sequence[float]


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: x as [1, S] and y as [S, 1], ready to broadcast."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    return axis[None, :], axis[:, None]


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """0 at `low`, 1 at `high`, smooth between; `low` may be the greater of the two."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Color | np.ndarray, b: Color | np.ndarray, amount: float | np.ndarray) -> np.ndarray:
    """`a` where amount is 0, `b` where it is 1."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return a + (b - a) * np.asarray(amount, np.float32)


def vary(rng: np.random.Generator, color: Color, amount: float = 0.04) -> np.ndarray:
    """A colour near `color`: its brightness and each channel moved by about `amount`."""
    moved = np.asarray(color) * (1 + rng.normal(0, amount)) + rng.normal(0, amount / 2, 3)
    return np.clip(moved, 0, 1).astype(np.float32)


def choose(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    """One of `options`."""
    return options[int(rng.integers(len(options)))]


def fractal_noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cells: float = 4,
    octaves: int = 6,
    gain: float = 0.5,
    stretch: float = 1.0,
) -> np.ndarray:
    """Sum of smoothly enlarged random grids, [H, W] spread over exactly [0, 1].

    `cells` is the number of blobs across in the first octave; `stretch` above 1 draws them wide and flat.
    """
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        columns = cells * 2**octave
        rows = columns * stretch * height / width
        if max(columns, rows) > max(shape):
            break
        small = rng.random((max(2, round(rows)) + 1, max(2, round(columns)) + 1), dtype=np.float32)
        total += gain**octave * cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return (total - total.min()) / (np.ptp(total) + 1e-6)


def ridge_line(
    rng: np.random.Generator, size: int, cells: float = 3, octaves: int = 6, gain: float = 0.5
) -> np.ndarray:
    """A one-dimensional fractal, [1, S] in [0, 1]: the outline of hills or of a wood."""
    return fractal_noise(rng, (2, size), cells, octaves, gain)[:1]


def gradient(size: int, stops: Sequence[tuple[float, Color]]) -> np.ndarray:
    """A vertical gradient [S, S, 3] through `stops`, pairs of (y, colour) from top to bottom."""
    _, y = grid(size)
    places = [place for place, _ in stops]
    column = np.stack([np.interp(y[:, 0], places, [color[c] for _, color in stops]) for c in range(3)], -1)
    return np.repeat(column[:, None].astype(np.float32), size, axis=1)


def spread(mask: np.ndarray) -> np.ndarray:
    """A mask for each channel, [H, W, 3]: whole rows of numbers are several times faster than broadcasting."""
    return cv2.cvtColor(np.ascontiguousarray(mask, np.float32), cv2.COLOR_GRAY2RGB)


def blend(picture: np.ndarray, color: Color | np.ndarray, mask: np.ndarray) -> None:
    """Lay `color` ([3] or [H, W, 3]) over `picture` [H, W, 3], in place, as far as `mask` [H, W] says."""
    color = np.asarray(color, np.float32)
    change = (np.tile(color, (1, picture.shape[1], 1)) if color.ndim == 1 else color) - picture
    change *= spread(mask)
    picture += change


def add_light(picture: np.ndarray, color: Color, mask: np.ndarray) -> None:
    """Screen light of `color` [3] over `picture` [H, W, 3], in place: brightens without burning out."""
    light = 1 - np.clip(picture, 0, 1)
    light *= spread(mask)
    light *= np.tile(np.asarray(color, np.float32), (1, picture.shape[1], 1))
    picture += light


def below(size: int, line: np.ndarray | float, soft: float = 0.0) -> np.ndarray:
    """Mask of what lies below `line` ([1, S] of y), with an edge of one pixel plus `soft`."""
    _, y = grid(size)
    edge = 0.5 / size + soft
    return np.broadcast_to(np.clip((y - line) / (2 * edge) + 0.5, 0, 1), (size, size))


def disc(size: int, center: tuple[float, float], radius: float, soft: float = 0.0) -> np.ndarray:
    """Mask of a disc, with an edge of one pixel plus `soft`."""
    x, y = grid(size)
    distance = np.sqrt((x - center[0]) ** 2 + (y - center[1]) ** 2)
    return np.clip((radius - distance) / (1 / size + 2 * soft) + 0.5, 0, 1)


def glow(size: int, center: tuple[float, float], radius: float, flat: float = 1.0) -> np.ndarray:
    """A halo in (0, 1] that falls by a factor e at `radius`; `flat` above 1 widens it sideways."""
    x, y = grid(size)
    distance = np.sqrt(((x - center[0]) / flat) ** 2 + (y - center[1]) ** 2)
    return np.exp(-distance / radius)


def blur(array: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; `sigma` is a fraction of the side. Wide ones are done on a smaller copy."""
    pixels = sigma * array.shape[0]
    if pixels < 0.3:
        return array
    step = max(1, int(pixels / 3))
    height, width = array.shape[:2]
    small = cv2.resize(array, (max(2, width // step), max(2, height // step)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), pixels / step, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) if step > 1 else small


def fill(
    picture: np.ndarray,
    points: Sequence[tuple[float, float]],
    color: Color | np.ndarray,
    opacity: float = 1.0,
    shift: int = 0,
) -> None:
    """Paint a polygon, in place, with smooth edges.

    `color` is [3], or a picture [S, W, 3] to cut it from that begins `shift` pixels from the left.
    """
    size = picture.shape[0]
    pixels = np.asarray(points, np.float64) * size
    left, top = np.maximum(np.floor(pixels.min(0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(pixels.max(0)).astype(int) + 2, size)
    color = np.asarray(color, np.float32)
    if color.ndim == 3:
        left, right = max(left, shift), min(right, shift + color.shape[1])
    if right <= left or bottom <= top:
        return
    mask = np.zeros((bottom - top, right - left), np.uint8)
    fixed = np.round((pixels - (left, top) - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, shift=4)
    if color.ndim == 3:
        color = color[top:bottom, left - shift : right - shift]
    blend(picture[top:bottom, left:right], color, mask.astype(np.float32) * (opacity / 255))


def line(picture: np.ndarray, start: tuple[float, float], end: tuple[float, float], width: float, color: Color) -> None:
    """Paint a straight stroke of `width`, in place."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    across = np.array([a[1] - b[1], b[0] - a[0]])
    across *= 0.5 * width / (np.hypot(*across) + 1e-9)
    fill(picture, [a + across, b + across, b - across, a - across], color)


def clouds(
    rng: np.random.Generator, size: int, cover: float = 0.5, cells: float = 3, stretch: float = 2.5
) -> tuple[np.ndarray, np.ndarray]:
    """Density and self-shade of a cloud field, both [S, S] in [0, 1]; `cover` is the part of sky hidden."""
    noise = fractal_noise(rng, (size, size), cells, 7, 0.52, stretch)
    edge = float(np.quantile(noise[::4, ::4], 1 - cover))
    density = smoothstep(edge - 0.06, edge + 0.28, noise)
    # A copy moved up stands for the light that the cloud above takes away.
    above = np.roll(blur(noise, 0.012), size // 30, axis=0)
    return density, np.clip(0.5 + (above - noise) * 2.2, 0, 1)


def ripples(rng: np.random.Generator, size: int, horizon: float, fineness: float = 1.0) -> np.ndarray:
    """Waves of a water plane seen in perspective, [S, S] in about [-1, 1]; 0 above the horizon."""
    x, y = grid(size)
    tile = fractal_noise(rng, (256, 256), 12, 5, 0.6) - 0.5
    depth = 1 / (np.maximum(y - horizon, 0) / (1 - horizon) + 0.045)
    across = np.float32(256) * ((x - 0.5) * depth * 0.28 * fineness + rng.random())
    along = np.float32(256) * (depth * 0.6 * fineness + 0 * x)
    waves = cv2.remap(
        tile, across.astype(np.float32), along.astype(np.float32), cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT_101
    )
    return waves * 3.2 * (y > horizon) / (1 + 0.1 * depth)


def mirror(picture: np.ndarray, horizon: float, waves: np.ndarray, shake: float = 0.05) -> np.ndarray:
    """What still water below `horizon` would show: the upper part upside down, shaken by `waves`."""
    size = picture.shape[0]
    x, y = grid(size)
    near = np.clip((y - horizon) / (1 - horizon), 0, 1)
    source_y = 2 * horizon - y - np.abs(waves) * shake * (0.3 + 2 * near)
    source_x = x + waves * shake * 0.25 * near
    limit = horizon - 1.5 / size
    rows = np.clip(source_y, 0, limit) * size - 0.5
    return cv2.remap(
        picture,
        (source_x * size - 0.5).astype(np.float32),
        rows.astype(np.float32),
        cv2.INTER_LINEAR,
        None,
        cv2.BORDER_REFLECT,
    )


def finish(rng: np.random.Generator, picture: np.ndarray, vignette: float = 0.25, grain: float = 0.012) -> np.ndarray:
    """Lens and film: vignette, a gentle tone curve, grain. Returns uint8 [S, S, 3]."""
    size = picture.shape[0]
    x, y = grid(size)
    shade = rng.uniform(0.94, 1.06) * (1 - vignette * rng.uniform(0.8, 1.9) * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
    picture = np.clip(picture * spread(shade), 0, 1)
    contrast = rng.uniform(0.1, 0.35)
    picture *= 1 - contrast + contrast * picture * (3 - 2 * picture)
    picture += spread(rng.standard_normal((size, size), dtype=np.float32) * (grain * rng.uniform(0.5, 1.2)))
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
