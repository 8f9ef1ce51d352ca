"""Are generated images copies? Distances to the nearest training images, in any space of vectors.

The reference holds every training image in several variants (mirrored, shifted a little, crops of it), so that
a copy of what augmentation makes of an image is a copy as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from stepwise.evaluation.intervals import Measured, of_pairs

AT_ONCE = 256  # images whose distances are in memory together
RATIO = 1 / 3
NOISE_LEVELS = 6.0
SHIFT = 1 / 32
CROPS = (0.96, 0.92)  # their sides: 92 and 85 % of the area, where 3B --augment light draws 80 to 100 %
PLACES = (0, 0.5, 1)  # of a crop, from one edge of the image to the other


@dataclass(frozen=True)
class Neighbours:
    """For each image [N]: the training image nearest to it, its distance, and that of the second nearest.

    `variant`: which of the training image's variants that is, if that is known.
    """

    nearest: np.ndarray
    first: np.ndarray
    second: np.ndarray
    variant: np.ndarray | None = None

    @property
    def mirrored(self) -> np.ndarray:
        """Whether the image is nearest to a mirrored variant. Bools [N]."""
        return np.zeros(len(self.nearest), bool) if self.variant is None else self.variant % 2 == 1

    @property
    def ratio(self) -> np.ndarray:
        return self.first / np.maximum(self.second, 1e-12)

    @property
    def memorized(self) -> np.ndarray:
        """Much nearer to one training image than to any other: d1 / d2 < 1/3 (Yoon et al. 2023). Bools [N]."""
        return self.ratio < RATIO


def variants(images: np.ndarray, *, few: bool = False) -> Iterator[np.ndarray]:
    """The images as they are, shifted by 1/32 of their side in four directions, and 18 crops, each mirrored as well.

    uint8 [N, S, S, 3] -> 46 times the same, one after another, as all of them may not fit into memory; every other
    one is the mirror image of the one before. With `few` no shifts and no crops at the corners: 22 times.
    """
    step = max(1, round(SHIFT * images.shape[1]))
    steps = () if few else ((step, 0), (-step, 0), (0, step), (0, -step))
    places = [(y, x) for y in PLACES for x in PLACES if not few or 0.5 in (y, x)]
    shifts = (_shift(images, dy, dx) for dy, dx in steps)
    crops = (_crop(images, side, y, x) for side in CROPS for y, x in places)
    for picture in chain([images], shifts, crops):
        yield picture
        yield picture[:, :, ::-1]


def neighbours(vectors: np.ndarray, reference: Sequence[np.ndarray], *, leave_out_self: bool = False) -> Neighbours:
    """Of `vectors` [N, D] in `reference`, V variants [M, D] of M >= 2 training images.

    With `leave_out_self`, vector i is training image i and its own variants do not count.
    """
    found = []
    for start in range(0, len(vectors), AT_ONCE):  # [N, M] distances of a large set would not fit into memory
        queries = _tensor(vectors[start : start + AT_ONCE])
        distance = torch.full((len(queries), len(reference[0])), torch.inf, dtype=torch.float64)
        variant = torch.zeros(distance.shape, dtype=torch.uint8)
        for number, part in enumerate(reference):
            of_part = torch.cdist(queries, _tensor(part), compute_mode="use_mm_for_euclid_dist")
            variant[of_part < distance] = number
            torch.minimum(distance, of_part, out=distance)
        if leave_out_self:
            distance[torch.arange(len(queries)), torch.arange(start, start + len(queries))] = torch.inf
        values, index = distance.topk(2, dim=1, largest=False)
        nearest = (index[:, 0], values[:, 0], values[:, 1], variant.gather(1, index[:, :1])[:, 0])
        found.append(Neighbours(*(column.numpy() for column in nearest)))
    return joined(found)


def joined(parts: list[Neighbours]) -> Neighbours:
    """Those of several parts of a set, one after another; the variants must be known."""
    columns = zip(*((part.nearest, part.first, part.second, part.variant) for part in parts), strict=True)
    return Neighbours(*(np.concatenate(column) for column in columns))


def authentic(found: Neighbours, training: Neighbours) -> np.ndarray:
    """Alaa et al. 2022 (section 3.3): a sample is a copy if it is nearer to its training image than any
    other training image is to that. Bools [N], true where it is not; their share is AuthPct.

    `training`: the neighbours of the training images among themselves. Both distances are those to the nearest of
    an image's variants, so that more variants favour neither.
    """
    return found.first > training.first[found.nearest]


def data_copying(generated: Neighbours, held_out: Neighbours, rng: np.random.Generator) -> Measured:
    """C_T of Meehan et al. 2020 with one cell: the z-score of the Mann-Whitney test of the two sets of distances.

    Below -3: generated images are nearer to the training images than unseen real ones are. It tells how certain
    that is and not how much nearer they are: for the same difference it grows with the square root of the numbers.
    """
    count, other = len(generated.first), len(held_out.first)
    share = of_pairs(further, generated.first, held_out.first, rng)
    scale = float(np.sqrt(12 * count * other / (count + other + 1)))
    return Measured(*(scale * (one - 0.5) for one in (share.value, share.low, share.high)))


def further(first: np.ndarray, second: np.ndarray) -> float:
    """The share of the pairs of [N] and [M] numbers whose first is larger, ties by half: Mann-Whitney's U / (N M)."""
    ordered = np.sort(second)
    smaller = np.searchsorted(ordered, first, side="left") + np.searchsorted(ordered, first, side="right")
    return float(smaller.mean() / (2 * len(second)))


def noisy_copies(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The control that must be found: each image with noise of 6 of 255 levels, every other one mirrored."""
    copies = np.empty_like(images)
    for start in range(0, len(images), AT_ONCE):
        part = images[start : start + AT_ONCE]
        noisy = part + rng.normal(0, NOISE_LEVELS, part.shape)
        copies[start : start + AT_ONCE] = noisy.round().clip(0, 255)
    copies[::2] = copies[::2, :, ::-1].copy()
    return copies


def _shift(images: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """Moved by (dy, dx) pixels; the border is repeated. [N, S, S, 3]"""
    side = images.shape[1]
    rows, columns = np.clip(np.arange(side) - dy, 0, side - 1), np.clip(np.arange(side) - dx, 0, side - 1)
    return images[:, rows][:, :, columns]


def _crop(images: np.ndarray, side: float, y: float, x: float) -> np.ndarray:
    """The square at (y, x), from 0 to 1, of `side` times the whole, enlarged to the whole. [N, S, S, 3]"""
    import cv2

    size = images.shape[1]
    top, left = ((1 - side) * size * at + (side - 1) / 2 for at in (y, x))  # pixel centres are half a pixel inside
    matrix = np.array([[side, 0, left], [0, side, top]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    cut = (
        cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE) for image in images
    )
    return np.stack(list(cut))


def _tensor(part: np.ndarray) -> torch.Tensor:
    """In float64, in which distances by matrix products, the fast ones, are exact enough."""
    return torch.from_numpy(np.ascontiguousarray(part, dtype=np.float64))
