"""Buildings: boxes with rows of windows, projected as a camera at eye level would see them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stepwise.data.scenes import paint

SKIES = (
    ((0.26, 0.52, 0.84), (0.76, 0.87, 0.95)),
    ((0.40, 0.60, 0.82), (0.86, 0.91, 0.94)),
    ((0.60, 0.68, 0.76), (0.86, 0.88, 0.89)),
    ((0.34, 0.50, 0.76), (0.94, 0.87, 0.78)),
)
WALLS = (
    (0.66, 0.36, 0.27),
    (0.56, 0.29, 0.22),
    (0.82, 0.74, 0.60),
    (0.88, 0.84, 0.76),
    (0.70, 0.68, 0.65),
    (0.86, 0.66, 0.44),
    (0.76, 0.56, 0.48),
    (0.92, 0.90, 0.87),
)
GLASS = ((0.30, 0.46, 0.58), (0.22, 0.36, 0.50), (0.34, 0.52, 0.56))


@dataclass
class Box:
    """A building on the ground plane, lengths in metres: near corner (x, z), turned by `yaw` radians."""

    x: float
    z: float
    width: float
    depth: float
    height: float
    yaw: float


@dataclass
class Camera:
    """Looks along z from `eye` metres; the horizon stands at row `horizon`, `focal` is in picture sides."""

    horizon: float
    focal: float
    eye: float = 1.7

    def project(self, x: float, height: float, z: float) -> tuple[float, float]:
        return 0.5 + self.focal * x / z, self.horizon - self.focal * (height - self.eye) / z


def draw_buildings(rng: np.random.Generator, size: int) -> np.ndarray:
    """Facades by day: a corner house, a street, or towers. Returns uint8 [size, size, 3]."""
    top, low = (paint.vary(rng, color, 0.04) for color in paint.choose(rng, SKIES))
    layout = paint.choose(rng, (_corner, _street, _towers, _front))
    camera, boxes = layout(rng)
    picture = paint.gradient(size, [(0, top), (camera.horizon, low), (1, low)])
    density, shade = paint.clouds(rng, size, rng.uniform(0.02, 0.5), rng.uniform(1.5, 3.5), rng.uniform(1.5, 3.5))
    cloud = paint.mix((0.74, 0.78, 0.84), (1.0, 1.0, 1.0), shade[..., None])
    paint.blend(picture, cloud, density * rng.uniform(0.5, 0.9))
    _ground(rng, picture, camera)
    sun = rng.uniform(-1, 1)
    for box in sorted(boxes, key=lambda box: -box.z):
        _draw_box(rng, picture, camera, box, sun, low)
    if rng.random() < 0.55:
        _street_trees(rng, picture, camera)
    return paint.finish(rng, picture)


def _corner(rng: np.random.Generator) -> tuple[Camera, list[Box]]:
    """One house seen on its edge, with lower neighbours behind."""
    camera = Camera(rng.uniform(0.76, 0.88), rng.uniform(0.75, 0.95))
    yaw = rng.uniform(0.45, 1.1)
    z = rng.uniform(20, 26)
    main = Box(rng.uniform(-3, 3), z, rng.uniform(16, 26), rng.uniform(16, 26), rng.uniform(15, 26), yaw)
    others = [
        Box(rng.uniform(-40, 40), rng.uniform(55, 80), 24, 20, rng.uniform(14, 34), rng.uniform(0.1, 1.4))
        for _ in range(4)
    ]
    return camera, [main, *others]


def _street(rng: np.random.Generator) -> tuple[Camera, list[Box]]:
    """Houses along both sides of a road that runs away from the viewer."""
    camera = Camera(rng.uniform(0.66, 0.78), rng.uniform(0.7, 0.95))
    half, boxes = rng.uniform(5.5, 9), []
    shift = rng.uniform(-2.5, 2.5)
    for side in (-1, 1):
        z = rng.uniform(5, 9)
        while z < 110:
            length, height = rng.uniform(9, 20), rng.uniform(10, 27)
            x = shift + half if side > 0 else shift - half - 14
            boxes.append(Box(x, z, 14, length - 0.05, height, 0.0))
            z += length
    boxes.append(Box(shift - 20, 115, 40, 10, rng.uniform(12, 30), 0.0))
    return camera, boxes


def _towers(rng: np.random.Generator) -> tuple[Camera, list[Box]]:
    """High-rises in several rows."""
    camera = Camera(rng.uniform(0.86, 0.94), rng.uniform(0.8, 1.1), 3.0)
    boxes = []
    for z, count in ((95, 3), (150, 5), (220, 7)):
        reach = 0.55 * z / camera.focal
        for slot in range(count):
            x = -reach + 2 * reach * (slot + rng.uniform(0.0, 0.6)) / count - 10
            height = rng.uniform(0.28, 0.72) * z / camera.focal * (1.0 if z > 100 else 0.95)
            boxes.append(
                Box(
                    x,
                    z * rng.uniform(0.95, 1.1),
                    rng.uniform(16, 30),
                    rng.uniform(16, 28),
                    height,
                    rng.uniform(0.15, 1.4),
                )
            )
    return camera, boxes


def _front(rng: np.random.Generator) -> tuple[Camera, list[Box]]:
    """A row of townhouses seen from across the street, nearly square on."""
    camera = Camera(rng.uniform(0.78, 0.88), rng.uniform(0.9, 1.1))
    yaw, z, boxes = rng.uniform(-0.22, 0.22), rng.uniform(24, 30), []
    along = -26.0
    while along < 24:
        width = rng.uniform(7, 14)
        boxes.append(Box(along * np.cos(yaw), z + along * np.sin(yaw), width - 0.02, 10, rng.uniform(11, 20), yaw))
        along += width
    return camera, boxes


def _ground(rng: np.random.Generator, picture: np.ndarray, camera: Camera) -> None:
    """Paving that fades into the haze, with a verge or a strip of road."""
    size = picture.shape[0]
    x, y = paint.grid(size)
    near = np.clip((y - camera.horizon) / (1 - camera.horizon), 0.02, 1)
    grain = paint.fractal_noise(rng, (size, size), 20, 5, 0.7, 3)
    stone = paint.vary(
        rng, paint.choose(rng, ((0.46, 0.45, 0.44), (0.62, 0.58, 0.52), (0.36, 0.36, 0.38), (0.36, 0.46, 0.24))), 0.05
    )
    color = stone * (0.8 + 0.4 * grain[..., None]) * (0.85 + 0.25 * (1 - near))[..., None]
    paint.blend(picture, color, paint.below(size, camera.horizon))
    if rng.random() < 0.5:
        stripe = paint.smoothstep(0.02, 0.012, np.abs((x - 0.5) / near - rng.uniform(-0.3, 0.3)))
        paint.blend(picture, (0.86, 0.85, 0.80), stripe * paint.below(size, camera.horizon + 0.02) * 0.7)


def _draw_box(rng: np.random.Generator, picture: np.ndarray, camera: Camera, box: Box, sun: float, haze: np.ndarray):
    """Both faces that the camera sees, lit by their direction, the far ones paled by haze."""
    ahead = np.array([np.cos(box.yaw), np.sin(box.yaw)])
    aside = np.array([-np.sin(box.yaw), np.cos(box.yaw)])
    corner = np.array([box.x, box.z])
    ends = [
        corner,
        corner + ahead * box.width,
        corner + ahead * box.width + aside * box.depth,
        corner + aside * box.depth,
    ]
    style = _style(rng, box.height)
    amount = 0.7 * (1 - np.exp(-max(0.0, box.z - 30) / 200))
    for a, b in zip(ends, [*ends[1:], ends[0]], strict=True):
        normal = np.array([b[1] - a[1], a[0] - b[0]]) / np.hypot(*(b - a))
        if normal @ a >= 0:
            continue
        if min(a[1], b[1]) < 1.0:
            a, b = _cut(a, b)
        light = 0.68 + 0.42 * max(0.0, float(normal @ [sun, -0.75]))
        tall = camera.focal * box.height / max(1.0, min(a[1], b[1])) * picture.shape[0]
        wall = paint.mix(_facade(rng, style, float(np.hypot(*(b - a))), box.height, tall) * light, haze, amount)
        _hang(picture, wall, camera, a, b, box.height)


def _cut(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of a wall that lies at least a metre before the camera."""
    t = (1.0 - a[1]) / (b[1] - a[1])
    cut = a + t * (b - a)
    return (cut, b) if a[1] < 1.0 else (a, cut)


def _style(rng: np.random.Generator, height: float) -> dict:
    """What all walls of one building share."""
    modern = rng.random() < (0.5 if height > 30 else 0.15)
    return {
        "wall": paint.vary(rng, (0.72, 0.75, 0.78) if modern else paint.choose(rng, WALLS), 0.05),
        "glass": paint.vary(rng, paint.choose(rng, GLASS), 0.05) * (1.0 if modern else 0.55),
        "storey": rng.uniform(3.0, 3.8),
        "bay": rng.uniform(1.8, 2.6) if modern else rng.uniform(2.2, 3.4),
        "open": (rng.uniform(0.8, 0.92), rng.uniform(0.62, 0.9))
        if modern
        else (rng.uniform(0.36, 0.5), rng.uniform(0.5, 0.66)),
        "balcony": rng.random() < 0.25 and not modern,
        "shop": rng.random() < 0.6,
    }


def _facade(rng: np.random.Generator, style: dict, length: float, height: float, tall: float) -> np.ndarray:
    """A flat wall [rows, columns, 3] with windows, sills, cornices and a ground floor; seen `tall` pixels high."""
    storeys, bays = max(2, round(height / style["storey"])), max(2, round(length / style["bay"]))
    cell = int(np.clip(1.3 * tall / storeys, 8, 24))
    rows, columns = storeys * cell, bays * cell
    u = (np.arange(columns, dtype=np.float32)[None] + 0.5) / cell
    v = (np.arange(rows, dtype=np.float32)[:, None] + 0.5) / cell
    s, t = u % 1 - 0.5, v % 1 - 0.5
    grime = paint.fractal_noise(rng, (rows, columns), 5, 6, 0.65)
    wall = style["wall"] * (0.86 + 0.24 * grime)[..., None] * (1.04 - 0.12 * v / storeys)[..., None]
    half_w, half_h = style["open"][0] / 2, style["open"][1] / 2
    edge = 0.6 / cell

    def inside(grow: float) -> np.ndarray:
        across, up = half_w + grow - np.abs(s), half_h + grow - np.abs(t)
        return np.clip(across / edge, 0, 1) * np.clip(up / edge, 0, 1)

    paint.blend(wall, np.minimum(style["wall"] * 1.2 + 0.06, 1), inside(0.05) * 0.9)
    panes = rng.normal(1, 0.22, (storeys, bays)).astype(np.float32)
    panes = cv2.resize(panes, (columns, rows), interpolation=cv2.INTER_NEAREST)
    sky = paint.smoothstep(0.5, -0.5, t + 0.35 * s) * 0.3
    glass = paint.mix(style["glass"] * panes[..., None], (0.80, 0.88, 0.95), np.clip(sky * panes, 0, 1)[..., None])
    paint.blend(wall, glass, inside(0.0))
    bars = np.maximum(np.abs(s) < 0.02, np.abs(t + 0.06) < 0.02) * inside(0.0)
    paint.blend(wall, np.minimum(style["wall"] * 1.1, 1), bars * 0.7)
    wall *= (1 - 0.4 * ((t < -half_h + 0.09) & (np.abs(s) < half_w) & (t > -half_h)))[..., None]
    if style["balcony"]:
        rail = ((t > 0.12) & (t < 0.40) & (np.abs(s) < half_w + 0.12)) * np.float32(0.55)
        paint.blend(wall, style["wall"] * 0.55, rail * (0.6 + 0.4 * (np.abs((u * 7) % 1 - 0.5) > 0.2)))
    wall *= (1 - 0.2 * (np.abs(t) > 0.475))[..., None]
    wall[: max(2, cell // 3)] = (
        np.minimum(style["wall"] * 1.1, 1) * (1 - 0.3 * (np.arange(max(2, cell // 3)) > cell // 4))[:, None, None]
    )
    if style["shop"]:
        _shopfront(rng, wall[-cell:], style, s)
    return wall


def _shopfront(rng: np.random.Generator, floor: np.ndarray, style: dict, s: np.ndarray) -> None:
    """Wide dark panes and an awning on the ground floor, in place."""
    cell = floor.shape[0]
    floor[:] = paint.vary(rng, (0.34, 0.28, 0.26), 0.15)
    pane = (np.abs(s) < 0.42) * np.ones((cell, 1), np.float32)
    pane[: cell // 4] = 0
    paint.blend(floor, (0.16, 0.20, 0.24), pane)
    awning = paint.choose(rng, ((0.70, 0.16, 0.14), (0.14, 0.36, 0.26), (0.88, 0.84, 0.74), (0.16, 0.26, 0.46)))
    floor[cell // 6 : cell // 3] = paint.vary(rng, awning, 0.05)


def _hang(picture: np.ndarray, wall: np.ndarray, camera: Camera, a: np.ndarray, b: np.ndarray, height: float) -> None:
    """Warp a flat wall onto the picture between ground points `a` and `b`."""
    size = picture.shape[0]
    if camera.project(a[0], 0, a[1])[0] > camera.project(b[0], 0, b[1])[0]:
        a, b = b, a
    corners = [camera.project(p[0], h, p[1]) for p, h in ((a, height), (b, height), (b, 0), (a, 0))]
    target = np.float32(corners) * size
    left, right = max(0, int(target[:, 0].min()) - 1), min(size, int(target[:, 0].max()) + 2)
    if right - left < 2:
        return
    rows, columns = wall.shape[:2]
    # Shrink first where the wall is seen small, else its windows would flicker into a moire.
    seen = max(1.0, float(np.ptp(target[:, 0]))), max(1.0, float(np.ptp(target[:, 1])))
    small = max(4, min(columns, int(seen[0] * 1.5))), max(4, min(rows, int(seen[1] * 1.5)))
    wall = cv2.resize(wall, small, interpolation=cv2.INTER_AREA)
    source = np.float32([(0, 0), (small[0], 0), (small[0], small[1]), (0, small[1])])
    matrix = cv2.getPerspectiveTransform(source, target - np.float32([left, 0]))
    warped = cv2.warpPerspective(
        wall, matrix, (right - left, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    paint.fill(picture, corners, warped, shift=left)


def _street_trees(rng: np.random.Generator, picture: np.ndarray, camera: Camera) -> None:
    """Round green crowns in front of the walls."""
    size = picture.shape[0]
    leaf = 0.55 + 0.9 * paint.fractal_noise(rng, (size, size), 24, 4, 0.8)
    edge = 0.35 * (paint.fractal_noise(rng, (size, size), 14, 4, 0.7) - 0.5)
    x, y = paint.grid(size)
    for _ in range(int(rng.integers(1, 5))):
        foot = camera.horizon + rng.uniform(0.01, 0.05)
        tall = rng.uniform(0.1, 0.2)
        center = (rng.beta(0.6, 0.6), foot - tall * 0.68)
        paint.line(picture, (center[0], foot), center, 0.06 * tall, (0.22, 0.17, 0.12))
        distance = np.hypot((x - center[0]) / (0.42 * tall), (y - center[1]) / (0.4 * tall)) + edge
        color = paint.vary(rng, (0.22, 0.38, 0.14), 0.1) * leaf[..., None]
        shade = 1.1 - 0.35 * (y - center[1]) / tall - 0.3 * (x - center[0]) / tall
        paint.blend(picture, color * shade[..., None], paint.smoothstep(1.05, 0.92, distance))
