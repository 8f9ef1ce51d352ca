"""Ships: sailing boats, tall ships, liners and freighters on a blue sea."""

from __future__ import annotations

import numpy as np

from stepwise.data.scenes import paint

SKIES = (
    ((0.24, 0.50, 0.82), (0.74, 0.86, 0.95)),
    ((0.34, 0.58, 0.84), (0.86, 0.92, 0.95)),
    ((0.52, 0.64, 0.74), (0.82, 0.86, 0.88)),
    ((0.30, 0.52, 0.76), (0.94, 0.90, 0.84)),
)
SEAS = ((0.03, 0.22, 0.42), (0.02, 0.28, 0.48), (0.05, 0.33, 0.46), (0.08, 0.24, 0.36), (0.03, 0.18, 0.36))
HULLS = ((0.93, 0.93, 0.92), (0.93, 0.93, 0.92), (0.10, 0.16, 0.30), (0.55, 0.10, 0.09), (0.16, 0.17, 0.19))


def draw_ship(rng: np.random.Generator, size: int) -> np.ndarray:
    """A ship amid the picture, on the sea by day. Returns uint8 [size, size, 3]."""
    top, low = (paint.vary(rng, color, 0.04) for color in paint.choose(rng, SKIES))
    horizon = rng.uniform(0.48, 0.64)
    picture = paint.gradient(size, [(0, top), (horizon, low), (1, low)])
    density, shade = paint.clouds(rng, size, rng.uniform(0.05, 0.6), rng.uniform(2, 4), rng.uniform(1.8, 4))
    cloud = paint.mix((0.70, 0.75, 0.82), (1.0, 1.0, 0.99), shade[..., None])
    paint.blend(picture, cloud, density * rng.uniform(0.5, 0.9))
    if rng.random() < 0.4:
        _coast(rng, picture, horizon, low)
    kind = str(rng.choice(["sloop", "tall ship", "liner", "freighter"], p=[0.4, 0.2, 0.22, 0.18]))
    waterline = horizon + rng.uniform(0.03, 0.15)
    center = rng.uniform(0.4, 0.6)
    scale = min(rng.uniform(0.72, 1.12), 1.38 * waterline)
    painters = {"sloop": _sloop, "tall ship": _tall_ship, "liner": _liner, "freighter": _freighter}
    facing = paint.choose(rng, (-1, 1))
    ship = Pen(picture, center, waterline, scale, facing)
    waves = paint.ripples(rng, size, horizon, rng.uniform(0.7, 1.6))
    sea = paint.vary(rng, paint.choose(rng, SEAS), 0.06)
    _sea(rng, picture, horizon, sea, waves)
    if rng.random() < 0.25:
        _distant_sail(rng, picture, horizon)
    painters[kind](rng, ship)
    _reflection(rng, picture, waterline, center, scale, waves)
    _foam(rng, picture, waterline, center, 0.36 * scale, waves)
    return paint.finish(rng, picture)


class Pen:
    """Paints in ship lengths: x from -0.5 (stern) to 0.5 (bow), y upward from the waterline."""

    def __init__(self, picture: np.ndarray, center: float, waterline: float, scale: float, facing: int):
        self.picture, self.center, self.waterline = picture, center, waterline
        self.scale, self.facing = 0.68 * scale, facing
        size = picture.shape[0]
        x, y = paint.grid(size)
        # Light falls from one side and from above: hulls darken toward the water.
        self.light = (1.04 + 0.14 * (x - center) - 0.22 * np.clip((y - waterline + 0.16) / 0.16, 0, 1))[..., None]

    def place(self, x: float, y: float) -> tuple[float, float]:
        return self.center + self.facing * x * self.scale, self.waterline - y * self.scale

    def fill(self, points: list, color: np.ndarray, opacity: float = 1.0) -> None:
        """A polygon in ship lengths, lit."""
        paint.fill(self.picture, [self.place(*p) for p in points], np.asarray(color, np.float32) * self.light, opacity)

    def box(self, x0: float, x1: float, y0: float, y1: float, color: np.ndarray) -> None:
        """A small upright rectangle, of one light all over."""
        corners = [self.place(*p) for p in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        column, row = (min(len(self.light) - 1, max(0, int(place * len(self.light)))) for place in corners[0])
        paint.fill(self.picture, corners, np.asarray(color, np.float32) * self.light[row, column])

    def line(self, start: tuple, end: tuple, width: float, color: np.ndarray) -> None:
        """A straight stroke; `width` in ship lengths."""
        paint.line(self.picture, self.place(*start), self.place(*end), width * self.scale, color)


def _sea(rng: np.random.Generator, picture: np.ndarray, horizon: float, deep: np.ndarray, waves: np.ndarray) -> None:
    """Open water that takes the sky's colour far off and its own near by, with crests of light."""
    size = picture.shape[0]
    _, y = paint.grid(size)
    near = np.clip((y - horizon) / (1 - horizon), 0, 1)
    mirror = paint.mirror(picture, horizon, waves, 0.08)
    water = paint.mix(mirror * 0.8, deep, (0.5 + 0.42 * near**0.5)[..., None])
    water *= paint.spread(1 + rng.uniform(0.3, 0.55) * waves)
    paint.add_light(water, (0.8, 0.92, 1.0), paint.smoothstep(0.45, 1.1, waves) * rng.uniform(0.25, 0.6))
    paint.blend(picture, water, paint.below(size, horizon))


def _coast(rng: np.random.Generator, picture: np.ndarray, horizon: float, haze: np.ndarray) -> None:
    size = picture.shape[0]
    x, _ = paint.grid(size)
    rise = paint.ridge_line(rng, size, 2.5, 6) * np.clip(
        (x - rng.uniform(-0.3, 0.5)) * paint.choose(rng, (-3, 3)) + 0.5, 0, 1
    )
    color = paint.mix((0.26, 0.38, 0.34), haze, rng.uniform(0.35, 0.7))
    paint.blend(picture, color, paint.below(size, horizon - 0.11 * rise) * (rise > 0.01))


def _distant_sail(rng: np.random.Generator, picture: np.ndarray, horizon: float) -> None:
    far = Pen(picture, rng.uniform(0.06, 0.94), horizon + 0.008, rng.uniform(0.08, 0.16), 1)
    far.fill([(-0.3, 0.1), (0.3, 0.1), (0.25, 0), (-0.25, 0)], (0.9, 0.9, 0.9))
    far.fill([(0, 0.9), (0.02, 0.12), (-0.32, 0.12)], (0.95, 0.95, 0.93))
    far.fill([(0.03, 0.8), (0.3, 0.12), (0.05, 0.12)], (0.88, 0.9, 0.9))


def _curve(start: tuple, end: tuple, bulge: tuple, count: int = 12) -> list:
    """Points from `start` to `end` along an arc pushed out by `bulge` at its middle."""
    t = np.linspace(0, 1, count)[:, None]
    return [tuple(p) for p in np.add(start, t * np.subtract(end, start)) + np.sin(np.pi * t) * np.asarray(bulge)]


def _sail(pen: Pen, points: list, color: np.ndarray, seams: int = 5) -> None:
    """Cloth with a soft shade along its hind part and faint seams."""
    pen.fill(points, color)
    outline = np.asarray(points)
    low, high = outline[:, 1].min(), outline[:, 1].max()
    middle = outline.mean(0)
    for share, opacity in ((0.75, 0.25), (0.5, 0.35)):
        pen.fill([tuple(middle + (p - middle) * share + (0.01, 0)) for p in outline], np.multiply(color, 1.12), opacity)
    for level in np.linspace(low, high, seams + 2)[1:-1]:
        near = outline[np.abs(outline[:, 1] - level) < 0.09 * (high - low) + 0.01]
        if len(near) > 1:
            pen.line((near[:, 0].min(), level), (near[:, 0].max(), level), 0.0025, np.multiply(color, 0.84))


def _sloop(rng: np.random.Generator, pen: Pen) -> None:
    """A yacht with a mainsail and a jib."""
    hull = paint.vary(rng, paint.choose(rng, HULLS), 0.03)
    cloth = paint.vary(rng, paint.choose(rng, ((0.96, 0.96, 0.94), (0.96, 0.96, 0.94), (0.94, 0.90, 0.80))), 0.02)
    front = paint.choose(rng, (cloth, cloth * 0.97, np.float32([0.82, 0.16, 0.12]), np.float32([0.12, 0.28, 0.58])))
    mast, tall = 0.03 + rng.normal(0, 0.015), rng.uniform(0.78, 0.98)
    pen.fill(
        [
            *_curve((-0.36, 0.085), (0.42, 0.10), (0, -0.015)),
            *_curve((0.42, 0.10), (0.26, -0.01), (-0.01, -0.01)),
            (-0.31, -0.01),
        ],
        hull,
    )
    pen.fill(
        [(-0.35, 0.05), (0.385, 0.062), (0.375, 0.05), (-0.345, 0.036)],
        (0.75, 0.12, 0.1) if hull.mean() > 0.6 else (0.9, 0.9, 0.9),
    )
    pen.fill([(-0.16, 0.08), (0.14, 0.08), (0.09, 0.125), (-0.13, 0.125)], (0.9, 0.9, 0.88))
    pen.fill([(-0.12, 0.095), (0.08, 0.095), (0.065, 0.113), (-0.11, 0.113)], (0.15, 0.2, 0.28))
    pen.line((mast, 0.08), (mast, tall + 0.02), 0.012, (0.72, 0.70, 0.66))
    pen.line((mast, 0.17), (-0.34, 0.165), 0.012, (0.68, 0.62, 0.52))
    _sail(
        pen,
        [(mast - 0.008, tall), *_curve((mast - 0.008, tall), (-0.32, 0.18), (-0.05, 0.03)), (mast - 0.008, 0.18)],
        cloth,
    )
    _sail(
        pen,
        [
            (mast + 0.012, tall * 0.9),
            *_curve((mast + 0.012, tall * 0.9), (0.40, 0.115), (0.03, 0.01)),
            *_curve((0.40, 0.115), (mast - 0.02, 0.14), (0, -0.01)),
            *_curve((mast - 0.02, 0.14), (mast + 0.012, tall * 0.9), (0.05, 0)),
        ],
        front,
    )


def _tall_ship(rng: np.random.Generator, pen: Pen) -> None:
    """Square-rigged, with two or three masts."""
    wood = paint.vary(rng, paint.choose(rng, ((0.30, 0.18, 0.10), (0.14, 0.11, 0.10), (0.42, 0.28, 0.16))), 0.06)
    cloth = paint.vary(rng, paint.choose(rng, ((0.95, 0.93, 0.86), (0.90, 0.84, 0.70), (0.96, 0.96, 0.94))), 0.03)
    pen.fill(
        [
            (-0.46, 0.17),
            *_curve((-0.40, 0.12), (0.40, 0.13), (0, -0.03)),
            (0.46, 0.16),
            *_curve((0.44, 0.12), (0.33, -0.01), (-0.02, -0.02)),
            (-0.40, -0.01),
        ],
        wood,
    )
    pen.fill(
        [*_curve((-0.43, 0.10), (0.42, 0.11), (0, -0.03)), *_curve((0.415, 0.088), (-0.425, 0.078), (0, -0.03))],
        (0.90, 0.85, 0.70),
    )
    pen.line((0.42, 0.14), (0.62, 0.24), 0.013, wood)
    masts = (-0.26, 0.02, 0.27) if rng.random() < 0.65 else (-0.16, 0.18)
    for x in masts:
        tall = rng.uniform(0.72, 0.8) if abs(x) < 0.2 else rng.uniform(0.6, 0.68)
        pen.line((x, 0.08), (x, tall + 0.05), 0.014, wood * 0.8)
        edges = np.array([0.17, 0.36, 0.53, 0.67]) * tall / 0.7
        for low, high, half in zip(edges[:-1], edges[1:] - 0.012, (0.135, 0.115, 0.09), strict=True):
            top = half * 0.86
            _sail(
                pen,
                [
                    *_curve((x - top, high), (x + top, high), (0, 0.0)),
                    *_curve((x + top, high), (x + half + 0.02, low), (0.03, 0)),
                    *_curve((x + half + 0.02, low), (x - half + 0.02, low), (0, 0.022)),
                    *_curve((x - half + 0.02, low), (x - top, high), (0.03, 0)),
                ],
                cloth * rng.uniform(0.92, 1.03),
                2,
            )
    head = masts[-1]
    _sail(
        pen,
        [(head + 0.03, 0.58), *_curve((head + 0.03, 0.58), (0.60, 0.235), (0.0, -0.02)), (head + 0.12, 0.19)],
        cloth * 0.95,
        3,
    )


def _liner(rng: np.random.Generator, pen: Pen) -> None:
    """A passenger ship: white decks in tiers, rows of windows, a coloured funnel."""
    hull = paint.vary(rng, paint.choose(rng, ((0.94, 0.94, 0.93), (0.10, 0.15, 0.28), (0.94, 0.94, 0.93))), 0.03)
    white, glass = np.float32([0.93, 0.93, 0.91]), np.float32([0.20, 0.28, 0.38])
    decks = int(rng.integers(3, 6))
    for deck in range(decks):
        low = 0.11 + 0.045 * deck
        x0, x1 = -0.40 + 0.035 * deck, 0.30 - 0.035 * deck
        pen.fill([(x0, low), (x1 + 0.02, low), (x1 - 0.015, low + 0.045), (x0, low + 0.045)], white * (1 - 0.02 * deck))
        for x in np.arange(x0 + 0.012, x1 - 0.015, 0.028):
            pen.box(x, x + 0.018, low + 0.012, low + 0.032, glass)
        pen.box(x0 - 0.01, x1 + 0.01, low + 0.041, low + 0.047, white * 0.78)
    roof = 0.11 + 0.045 * decks
    funnel = paint.vary(rng, paint.choose(rng, ((0.82, 0.16, 0.10), (0.95, 0.72, 0.12), (0.10, 0.25, 0.55))), 0.04)
    for x in (-0.2, -0.04)[: int(rng.integers(1, 3))]:
        pen.fill([(x - 0.045, roof), (x + 0.045, roof), (x + 0.025, roof + 0.13), (x - 0.055, roof + 0.13)], funnel)
        pen.fill(
            [(x - 0.053, roof + 0.1), (x + 0.03, roof + 0.1), (x + 0.025, roof + 0.13), (x - 0.055, roof + 0.13)],
            (0.1, 0.1, 0.12),
        )
    pen.line((0.12, roof), (0.12, roof + 0.17), 0.008, (0.75, 0.75, 0.75))
    pen.fill(
        [
            (-0.48, 0.13),
            (0.30, 0.13),
            (0.52, 0.175),
            *_curve((0.52, 0.175), (0.40, -0.01), (-0.01, -0.01)),
            (-0.45, -0.01),
        ],
        hull,
    )
    pen.fill(
        [(-0.47, 0.025), (0.435, 0.025), (0.40, -0.01), (-0.45, -0.01)],
        paint.choose(rng, ((0.55, 0.12, 0.1), (0.1, 0.2, 0.45))),
    )
    for x in np.arange(-0.42, 0.38, 0.035):
        pen.box(x, x + 0.011, 0.085, 0.096, glass if hull.mean() > 0.5 else white)


def _freighter(rng: np.random.Generator, pen: Pen) -> None:
    """A container ship: a long hull, stacked boxes of many colours, a white bridge astern."""
    hull = paint.vary(
        rng, paint.choose(rng, ((0.12, 0.20, 0.36), (0.52, 0.12, 0.10), (0.12, 0.28, 0.22), (0.2, 0.2, 0.22))), 0.05
    )
    palette = ((0.70, 0.22, 0.14), (0.16, 0.36, 0.58), (0.85, 0.62, 0.18), (0.80, 0.80, 0.78), (0.20, 0.46, 0.36))
    for x in np.arange(-0.24, 0.36, 0.062):
        for level in range(int(rng.integers(2, 6))):
            box = paint.vary(rng, paint.choose(rng, palette), 0.06)
            pen.box(x, x + 0.058, 0.12 + 0.04 * level, 0.157 + 0.04 * level, box)
            pen.box(x, x + 0.058, 0.12 + 0.04 * level, 0.128 + 0.04 * level, box * 0.7)
    pen.box(-0.44, -0.27, 0.12, 0.40, np.float32([0.93, 0.93, 0.90]))
    for level in np.arange(0.17, 0.38, 0.045):
        pen.box(-0.425, -0.285, level, level + 0.018, np.float32([0.22, 0.28, 0.34]))
    pen.box(-0.46, -0.25, 0.375, 0.41, np.float32([0.86, 0.86, 0.84]))
    pen.box(-0.42, -0.36, 0.41, 0.50, hull * 1.1)
    pen.line((-0.3, 0.41), (-0.3, 0.54), 0.009, (0.7, 0.7, 0.7))
    pen.fill(
        [
            (-0.50, 0.14),
            (0.40, 0.13),
            (0.54, 0.18),
            *_curve((0.54, 0.18), (0.45, -0.01), (-0.01, -0.01)),
            (-0.47, -0.01),
        ],
        hull,
    )
    pen.fill([(-0.485, 0.03), (0.465, 0.03), (0.45, -0.01), (-0.47, -0.01)], (0.50, 0.13, 0.10))


def _reflection(
    rng: np.random.Generator, picture: np.ndarray, waterline: float, center: float, scale: float, waves: np.ndarray
) -> None:
    """The ship upside down in the water below it, broken up by waves and soon lost."""
    size = picture.shape[0]
    x, y = paint.grid(size)
    image = paint.mirror(picture, waterline, waves, 0.09) * 0.75
    fade = np.exp(-(y - waterline) / rng.uniform(0.06, 0.16)) * (y > waterline)
    across = np.clip((0.37 * scale - np.abs(x - center)) / 0.04, 0, 1)
    paint.blend(picture, image, np.clip(fade * across * (0.75 + 0.5 * waves), 0, 0.8))


def _foam(rng: np.random.Generator, picture: np.ndarray, waterline: float, center: float, half: float, waves) -> None:
    """A white line where the hull meets the water."""
    size = picture.shape[0]
    x, y = paint.grid(size)
    noise = paint.fractal_noise(rng, (size, size), 18, 4, 0.6, 2.5)
    strip = np.exp(-(((y - waterline - 0.004) / (0.005 + 0.009 * noise)) ** 2))
    along = paint.smoothstep(half * 1.25, half * 0.9, np.abs(x - center))
    paint.blend(picture, (0.93, 0.97, 0.99), strip * along * paint.smoothstep(0.25, 0.7, noise + 0.2 * waves))
