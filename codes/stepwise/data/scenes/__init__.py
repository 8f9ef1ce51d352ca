"""A photo-like picture dataset drawn with NumPy and OpenCV: six classes that differ at a glance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stepwise.data.scenes.buildings import draw_buildings
from stepwise.data.scenes.flowers import draw_flowers
from stepwise.data.scenes.mountains import draw_mountains
from stepwise.data.scenes.ships import draw_ship
from stepwise.data.scenes.skies import draw_night_sky, draw_sunset
from stepwise.foundation.seeds import numpy_rng

SCENES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "sunsets": draw_sunset,
    "mountains": draw_mountains,
    "flowers": draw_flowers,
    "buildings": draw_buildings,
    "ships": draw_ship,
    "night skies": draw_night_sky,
}


def draw_scene(class_name: str, seed: int, index: int, size: int) -> np.ndarray:
    """Picture `index` of a class: uint8 RGB [size, size, 3], the same for the same arguments."""
    return SCENES[class_name](numpy_rng(seed, class_name, index), size)
