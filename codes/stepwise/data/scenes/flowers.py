"""Flowers: large heads of layered petals before a soft green background."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stepwise.data.scenes import paint

PETAL_COLORS = (  # base near the heart, tip
    ((0.98, 0.80, 0.86), (0.93, 0.34, 0.58)),
    ((0.62, 0.02, 0.06), (0.90, 0.10, 0.10)),
    ((0.96, 0.62, 0.06), (1.00, 0.86, 0.12)),
    ((0.96, 0.95, 0.86), (0.99, 0.99, 0.99)),
    ((0.46, 0.16, 0.60), (0.70, 0.46, 0.88)),
    ((0.92, 0.26, 0.06), (1.00, 0.56, 0.14)),
    ((0.98, 0.88, 0.72), (0.98, 0.60, 0.52)),
    ((0.70, 0.04, 0.34), (0.94, 0.24, 0.62)),
    ((0.30, 0.32, 0.78), (0.56, 0.62, 0.96)),
)


@dataclass
class Kind:
    """A species: petals in a ring, rings, their slimness (1 broad, 3 slim), and the heart's radius."""

    petals: tuple[int, int]
    rings: tuple[int, int]
    slim: float
    heart: tuple[float, float]
    notch: float
    shrink: float


KINDS = {
    "daisy": Kind((15, 22), (2, 3), 1.1, (0.22, 0.30), 0.05, 0.96),
    "cosmos": Kind((7, 9), (1, 2), 1.0, (0.13, 0.18), 0.08, 0.92),
    "anemone": Kind((5, 7), (2, 3), 0.75, (0.16, 0.22), 0.03, 0.86),
    "dahlia": Kind((11, 15), (5, 7), 0.9, (0.07, 0.11), 0.0, 0.80),
    "rose": Kind((5, 6), (5, 7), 0.6, (0.04, 0.06), 0.0, 0.78),
    "sunflower": Kind((17, 23), (2, 3), 1.3, (0.36, 0.46), -0.1, 0.97),
}


def draw_flowers(rng: np.random.Generator, size: int) -> np.ndarray:
    """One great flower, a few, or a meadow, with bokeh behind. Returns uint8 [size, size, 3]."""
    picture = _bokeh(rng, size)
    name = str(rng.choice(list(KINDS)))
    colors = PETAL_COLORS[2] if name == "sunflower" else paint.choose(rng, PETAL_COLORS)
    count = int(rng.choice([1, 2, 3, 5], p=[0.5, 0.2, 0.2, 0.1]))
    reach = {1: (0.30, 0.43), 2: (0.21, 0.29), 3: (0.18, 0.25), 5: (0.14, 0.19)}[count]
    behind = rng.uniform(0.05, 0.11, int(rng.integers(0, 6)))
    sun = rng.uniform(0, 2 * np.pi)
    heads = [(rng.uniform(0, 1), rng.uniform(0.1, 0.9), radius, 0.012) for radius in behind]
    heads += [(x, y, rng.uniform(*reach), 0.0) for x, y in _places(rng, count)]
    _leaves(rng, picture, heads)
    for x, y, radius, soft in heads:
        _stem(rng, picture, (x, y), radius, soft)
    for x, y, radius, soft in heads:
        head = _flower_head(rng, KINDS[name], colors, max(24, int(2.3 * radius * size)), sun)
        _paste(rng, picture, head, (x, y), radius, soft)
    return paint.finish(rng, picture, vignette=0.45)


def _bokeh(rng: np.random.Generator, size: int) -> np.ndarray:
    """A garden far out of focus: [S, S, 3] of soft greens with discs of light."""
    dark = paint.vary(rng, paint.choose(rng, ((0.05, 0.16, 0.06), (0.08, 0.20, 0.10), (0.14, 0.22, 0.06))), 0.08)
    light = paint.vary(rng, paint.choose(rng, ((0.42, 0.62, 0.22), (0.56, 0.70, 0.34), (0.36, 0.58, 0.36))), 0.08)
    blobs = paint.fractal_noise(rng, (size, size), rng.uniform(2, 4), 3, 0.5)
    picture = paint.mix(dark, light, blobs[..., None] * rng.uniform(0.65, 1.0))
    accent = paint.choose(rng, PETAL_COLORS)[1]
    spots = paint.smoothstep(0.62, 0.9, paint.fractal_noise(rng, (size, size), 4, 2))
    paint.blend(picture, accent, spots * rng.uniform(0, 0.4))
    spots = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(0, 18))):
        center = [int(16 * size * place) for place in rng.random(2)]
        radius, bright = 16 * size * rng.uniform(0.02, 0.07), rng.uniform(0.1, 0.35)
        cv2.circle(spots, center, int(radius), bright, -1, cv2.LINE_AA, shift=4)
        cv2.circle(spots, center, int(0.85 * radius), 0.7 * bright, -1, cv2.LINE_AA, shift=4)
    paint.add_light(picture, paint.mix(light, (1, 1, 0.8), 0.4), paint.blur(spots, 0.006))
    return picture


def _places(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Where the heads stand: well apart, a single one near the middle."""
    if count == 1:
        return [(rng.uniform(0.4, 0.6), rng.uniform(0.38, 0.58))]
    turn = rng.uniform(0, 2 * np.pi)
    angles = turn + np.arange(count) * 2 * np.pi / count + rng.normal(0, 0.15, count)
    reach = 0.25 if count < 5 else 0.32
    return [(0.5 + reach * np.cos(a) * rng.uniform(0.85, 1.15), 0.48 + reach * np.sin(a)) for a in angles]


def _stem(rng: np.random.Generator, picture: np.ndarray, top: tuple, radius: float, soft: float) -> None:
    t = np.linspace(0, 1, 14)
    bend = rng.normal(0, 0.09)
    x, y = top[0] + bend * t**2, top[1] + (1.05 - top[1]) * t
    width = 0.055 * radius + 0.004
    color = paint.vary(rng, (0.22, 0.42, 0.14), 0.08) * (0.8 if soft else 1)
    left, right = np.stack([x - width, y], -1), np.stack([x + width, y], -1)
    paint.fill(picture, [*left, *right[::-1]], color, 0.5 if soft else 1.0)
    paint.fill(picture, [*left, *np.stack([x - 0.2 * width, y], -1)[::-1]], color * 1.35, 0.2 if soft else 0.6)


def _leaves(rng: np.random.Generator, picture: np.ndarray, heads: list) -> None:
    """Broad leaves in the lower part, each with a lit and a shaded half."""
    for _ in range(int(rng.integers(2, 8))):
        x, y, radius, _ = heads[-1 - int(rng.integers(min(3, len(heads))))]
        base = np.array([x + rng.normal(0, 0.05), min(1.02, y + radius * rng.uniform(0.8, 1.9))])
        angle = rng.uniform(-0.3, 0.9) if rng.random() < 0.5 else np.pi - rng.uniform(-0.3, 0.9)
        length, s = rng.uniform(0.16, 0.4), np.linspace(0, 1, 14)
        ahead, across = np.array([np.cos(angle), -np.sin(angle)]), np.array([np.sin(angle), np.cos(angle)])
        spine = base + length * s[:, None] * ahead + (0.12 * length * s**2)[:, None] * np.array([0, 1])
        half = (0.2 * length * np.sin(np.pi * s**0.8))[:, None] * across
        color = paint.vary(rng, (0.16, 0.38, 0.13), 0.12)
        paint.fill(picture, [*(spine + half), *spine[::-1]], color)
        paint.fill(picture, [*(spine - half), *spine[::-1]], color * 1.3)


def _flower_head(rng: np.random.Generator, kind: Kind, colors: tuple, pixels: int, sun: float) -> np.ndarray:
    """A flower seen from the front: RGB and opacity, [pixels, pixels, 4], painted ring by ring inward."""
    axis = (np.arange(pixels, dtype=np.float32) + 0.5) / pixels * 2.3 - 1.15
    x, y = axis[None, :], axis[:, None]
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    base, tip = (paint.vary(rng, color, 0.05) for color in colors)
    head = np.zeros((pixels, pixels, 4), np.float32)
    petals, rings = int(rng.integers(*kind.petals)), int(rng.integers(*kind.rings))
    streaks = paint.fractal_noise(rng, (64, 512), 64, 3, 0.6, 0.15)
    for ring in range(2 * rings):
        reach = kind.shrink ** (ring / 2) * (1 if kind.shrink > 0.9 else 1 - 0.2 * ring / rings)
        turn = np.pi * ring / petals + rng.normal(0, 0.06)
        margin = max(0, int(pixels * (0.5 - 0.54 * reach)))
        inner = (slice(margin, pixels - margin),) * 2
        polar = radius[inner] / reach, angle[inner] + turn
        _petal_ring(rng, head[inner], kind, polar, petals, (base, tip), streaks, ring / (2 * rings), pixels)
    _heart(rng, head, kind, radius, x, y)
    shade = 1 + 0.16 * (x * np.cos(sun) + y * np.sin(sun))
    head[..., :3] *= shade[..., None]
    return head


def _petal_ring(
    rng: np.random.Generator, head: np.ndarray, kind: Kind, polar: tuple, petals: int, colors: tuple,
    streaks: np.ndarray, depth: float, pixels: int,
) -> None:  # fmt: skip
    """Every petal of one ring at once: each pixel belongs to the petal whose axis is nearest."""
    radius, angle = polar
    turns = angle * petals / (2 * np.pi)
    nearest = np.round(turns)
    aside = (turns - nearest) * 2  # -1 .. 1 across one petal
    number = nearest.astype(np.int32) % petals
    length = (1 + rng.normal(0, 0.05, petals)).astype(np.float32)[number]
    tone = (1 + rng.normal(0, 0.06, petals)).astype(np.float32)[number]
    r = radius / length
    # Half the width of a petal at r, as a share of its sector: narrow at both ends.
    width = np.sin(3.1415 * np.clip(r, 0, 1) ** (0.75 + 0.5 * kind.slim)) ** 0.55 * (1.05 - 0.12 * kind.slim)
    rounding = 1 - kind.notch * np.cos(aside * 9) * (r > 0.7) - 0.12 * aside**2
    softness = 2.3 * 2.5 / pixels
    side = np.clip((width - np.abs(aside)) * np.maximum(radius, 0.05) * np.pi / petals / softness + 0.5, 0, 1)
    mask = side * np.clip((rounding - r) / softness + 0.5, 0, 1)
    row = aside * 31 + 32
    column = np.clip(r * 40 + number.astype(np.float32) * 20, 0, 511)
    vein = cv2.remap(streaks, column, row, cv2.INTER_LINEAR)
    color = paint.mix(colors[0], colors[1], np.clip(r**0.9 - 0.15 + 0.25 * (vein - 0.5), 0, 1)[..., None])
    cup = 1.06 - 0.26 * aside**2 - 0.1 * np.exp(-((aside / 0.1) ** 2)) + 0.10 * (vein - 0.5)
    inner = 0.58 + 0.42 * paint.smoothstep(0.1, 0.75, r)
    shadow = paint.blur(mask, 0.016 * pixels / len(mask))
    head[..., :3] *= paint.spread(1 - 0.5 * shadow)
    shade = tone * cup * inner * (0.86 + 0.14 * depth)
    paint.blend(head[..., :3], color * paint.spread(shade), mask)
    head[..., 3] = np.maximum(head[..., 3], mask)


def _heart(rng: np.random.Generator, head: np.ndarray, kind: Kind, radius: np.ndarray, x, y) -> None:
    """The disc of florets in the middle, domed and grainy."""
    size = head.shape[0]
    reach = rng.uniform(*kind.heart)
    dark = kind.heart[1] > 0.4 or rng.random() < 0.25
    color = paint.vary(rng, (0.26, 0.14, 0.05) if dark else (0.93, 0.68, 0.10), 0.06)
    seeds = paint.fractal_noise(rng, (size, size), min(size / 3, 42 / reach * 0.32), 2, 0.6)
    dome = np.clip(1 - 0.55 * (radius / reach) ** 2 - 0.25 * (x + y) / reach * 0.6, 0.25, 1.2)
    mask = np.clip((reach * (0.94 + 0.12 * seeds) - radius) * size / 3.4 + 0.5, 0, 1)
    head[..., :3] *= (1 - 0.55 * np.exp(-np.maximum(radius - reach, 0) / 0.05))[..., None]
    paint.blend(head[..., :3], color * (dome * (0.6 + 0.75 * seeds))[..., None], mask)
    head[..., 3] = np.maximum(head[..., 3], mask)


def _paste(
    rng: np.random.Generator, picture: np.ndarray, head: np.ndarray, center: tuple, radius: float, soft: float
) -> None:
    """Turn and tilt a head, then lay it over the picture with its shadow, out of focus if `soft`."""
    size, pixels = picture.shape[0], head.shape[0]
    turn, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0.72, 1.0)
    lean = rng.uniform(-0.5, 0.5)
    scale = radius * size / (pixels / 2.3)
    reach = radius * size * 1.3 + 4 * soft * size + 8
    left, up = (max(0, int(place * size - reach)) for place in center)
    right, down = (min(size, int(place * size + reach)) for place in center)
    if right <= left or down <= up:
        return
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    squash = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]]) @ np.diag([1, tilt])
    matrix = scale * squash @ spin
    offset = np.multiply(center, size) - (left, up) - matrix @ [pixels / 2, pixels / 2]
    head[..., :3] *= head[..., 3:]
    placed = cv2.warpAffine(head, np.column_stack([matrix, offset]), (right - left, down - up), flags=cv2.INTER_LINEAR)
    if soft:
        placed = paint.blur(placed, soft * size / len(placed))
    shadow = np.roll(
        paint.blur(placed[..., 3].copy(), 0.03 * radius * 3 * size / len(placed)),
        (int(0.1 * radius * size), int(0.08 * radius * size)),
        (0, 1),
    )
    region = picture[up:down, left:right]
    region *= (1 - (0.2 if soft else 0.5) * shadow)[..., None]
    region *= 1 - placed[..., 3:]
    region += placed[..., :3]
