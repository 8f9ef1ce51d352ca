"""Augmentation pipelines on uint8 images, each draw named by (seed, stream, epoch, index)."""

from __future__ import annotations

import math
import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask a server for its version

import albumentations as A
import cv2
import numpy as np
import PIL

from stepwise.foundation.images import fit_square, square_at
from stepwise.foundation.seeds import derive, numpy_rng

cv2.setNumThreads(0)

CHOICES = ("none", "light", "balanced", "conditioned")
PARAMETERS = 8  # numbers that describe what "conditioned" did to an image; zeros: nothing
ROOM = 1.5  # times its size that a square has at least before it is cropped: what a crop enlarges falls into blocks
SHARE = 0.15  # how often each of its changes is made


def augment_versions() -> dict[str, str]:
    """The libraries whose releases may draw or decode otherwise, and the number of these pipelines."""
    return {"pipelines": "2", "albumentations": A.__version__, "opencv": cv2.__version__, "pillow": PIL.__version__}


class Augment:
    """A pipeline from a decoded image [H, W, 3] to a square [size, size, 3], both uint8.

    none: the centre square. light: a square somewhere along the longer side, small shifts and zooms
    (80 to 100 % of the area), mirrored half of the time. balanced: crops
    of 60 to 100 % of the area, mirroring, small rotations and perspective, a touch of brightness
    and contrast. conditioned: mirrored half of the time; scale, angle, position, brightness, contrast
    and saturation each changed in 15 % of the draws, and told by `parameters`, so that the denoiser
    can tell the changes from the image (Karras et al. 2022, appendix F.2). With `plain_first`,
    epoch 0 is the image as it is.
    """

    def __init__(self, kind: str, size: int, seed: int, stream: str, *, plain_first: bool = False):
        self.size, self.seed, self.stream, self.plain_first = size, seed, stream, plain_first
        self.pipeline = {"none": _nothing, "light": _light, "balanced": _balanced, "conditioned": _nothing}[kind](size)
        self.conditioned = kind == "conditioned"

    def __call__(self, image: np.ndarray, epoch: int, index: int) -> np.ndarray:
        if self.plain_first and epoch == 0:
            return fit_square(image, self.size)
        if self.conditioned:
            mirrored = numpy_rng(self.seed, self.stream, "mirrored", epoch, index).random() < 0.5
            square = self._square(image, epoch, index)
            return _altered(square, self.size, self.parameters(epoch, index), mirrored)
        if self.pipeline is None:
            return fit_square(image, self.size)
        self.pipeline.set_random_seed(derive(self.seed, self.stream, epoch, index) % 2**32)
        square = self._square(image, epoch, index)
        if len(square) < ROOM * self.size:
            square = fit_square(square, math.ceil(ROOM * self.size))
        return self.pipeline(image=square)["image"]

    def parameters(self, epoch: int, index: int) -> np.ndarray:
        """What "conditioned" does to the image in this draw, float32 [PARAMETERS]; the other kinds tell nothing.

        log2 of the scale, cosine - 1 and sine of the angle, shift right and down as shares of the side,
        brightness, log2 of contrast and of saturation.
        """
        told = np.zeros(PARAMETERS, dtype=np.float32)
        if not self.conditioned or (self.plain_first and epoch == 0):
            return told
        rng = numpy_rng(self.seed, self.stream, "parameters", epoch, index)
        made, (scale, angle, right, down, *colour) = rng.random(6) < SHARE, rng.standard_normal(7)
        angle = np.deg2rad(12) * angle if made[1] else 0.0
        told[0] = 0.25 * scale * made[0]
        told[1:3] = np.cos(angle) - 1, np.sin(angle)
        told[3:5] = 0.1 * right * made[2], 0.1 * down * made[2]
        told[5:] = np.array([0.1, 0.3, 0.4]) * colour * made[3:]
        return told

    def _square(self, image: np.ndarray, epoch: int, index: int) -> np.ndarray:
        """A square as large as the image allows, somewhere in the middle half of the longer side's slack."""
        return square_at(image, 0.25 + 0.5 * numpy_rng(self.seed, self.stream, "square", epoch, index).random())


def _nothing(size: int) -> None:
    return None


def _altered(square: np.ndarray, size: int, told: np.ndarray, mirrored: bool) -> np.ndarray:
    """`square` changed as `told` says, uint8 [size, size, 3]; its border is mirrored outwards."""
    square = np.ascontiguousarray(square[:, ::-1]) if mirrored else square
    if told[:5].any():
        side = len(square)
        turn = 2.0 ** told[0] * np.array([[1 + told[1], -told[2]], [told[2], 1 + told[1]]])
        centre = np.full(2, (side - 1) / 2)
        offset = centre - turn @ centre + side * told[3:5]
        matrix = np.column_stack([turn, offset])
        square = cv2.warpAffine(square, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    square = fit_square(square, size)
    if not told[5:].any():
        return square
    pixels = square.astype(np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    pixels = grey[..., None] + 2.0 ** told[7] * (pixels - grey[..., None])
    pixels = 127.5 + 2.0 ** told[6] * (pixels - 127.5) + 255 * told[5]
    return pixels.round().clip(0, 255).astype(np.uint8)


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
