"""Augmentation pipelines on uint8 images, each draw named by (seed, stream, epoch, index)."""

from __future__ import annotations

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask a server for its version

import albumentations as A
import cv2
import numpy as np

from stepwise.foundation.images import fit_square
from stepwise.foundation.seeds import derive, numpy_rng

cv2.setNumThreads(0)

CHOICES = ("none", "light", "balanced")


class Augment:
    """A pipeline from a decoded image [H, W, 3] to a square [size, size, 3], both uint8.

    none: the centre square. light: a square somewhere along the longer side, small shifts and zooms
    (80 to 100 % of the area), mirrored half of the time. balanced: crops
    of 60 to 100 % of the area, mirroring, small rotations and perspective, a touch of brightness
    and contrast. With `plain_first`, epoch 0 is the image as it is.
    """

    def __init__(self, kind: str, size: int, seed: int, stream: str, *, plain_first: bool = False):
        self.size, self.seed, self.stream, self.plain_first = size, seed, stream, plain_first
        self.pipeline = {"none": lambda size: None, "light": _light, "balanced": _balanced}[kind](size)

    def __call__(self, image: np.ndarray, epoch: int, index: int) -> np.ndarray:
        if self.pipeline is None or (self.plain_first and epoch == 0):
            return fit_square(image, self.size)
        self.pipeline.set_random_seed(derive(self.seed, self.stream, epoch, index) % 2**32)
        return self.pipeline(image=self._square(image, epoch, index))["image"]

    def _square(self, image: np.ndarray, epoch: int, index: int) -> np.ndarray:
        """A square as large as the image allows, somewhere in the middle half of the longer side's slack."""
        height, width = image.shape[:2]
        side = min(height, width)
        share = 0.25 + 0.5 * numpy_rng(self.seed, self.stream, "square", epoch, index).random()
        top, left = round((height - side) * share), round((width - side) * share)
        return image[top : top + side, left : left + side]


def _light(size: int) -> A.Compose:
    crop = A.RandomResizedCrop((size, size), scale=(0.8, 1.0), ratio=(0.95, 1.05), interpolation=cv2.INTER_AREA)
    return A.Compose([crop, A.HorizontalFlip(p=0.5)])


def _balanced(size: int) -> A.Compose:
    return A.Compose(
        [
            A.Affine(rotate=(-7, 7), border_mode=cv2.BORDER_REFLECT_101, p=0.4),
            A.Perspective(scale=(0.02, 0.06), border_mode=cv2.BORDER_REFLECT_101, p=0.3),
            A.RandomResizedCrop((size, size), scale=(0.6, 1.0), ratio=(0.9, 1.1), interpolation=cv2.INTER_AREA),
            A.HorizontalFlip(p=0.5),
            A.RandomBrightnessContrast(brightness_limit=0.06, contrast_limit=0.06, p=0.3),
        ]
    )
