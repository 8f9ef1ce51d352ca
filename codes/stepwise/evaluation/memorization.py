"""Are generated images copies? Distances to the nearest training images, in any space of vectors.

The reference holds every training image in several variants (mirrored, shifted a little), so that a
mirrored copy is a copy as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

AT_ONCE = 256  # images whose distances are in memory together
RATIO = 1 / 3
NOISE_LEVELS = 6.0
SHIFT = 1 / 32
UNMIRRORED = 5  # of the ten variants, which come first


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
        return np.zeros(len(self.nearest), bool) if self.variant is None else self.variant >= UNMIRRORED

    @property
    def ratio(self) -> np.ndarray:
        return self.first / np.maximum(self.second, 1e-12)

    @property
    def memorized(self) -> np.ndarray:
        """Much nearer to one training image than to any other: d1 / d2 < 1/3 (Yoon et al. 2023). Bools [N]."""
        return self.ratio < RATIO


def variants(images: np.ndarray) -> Iterator[np.ndarray]:
    """The images as they are, shifted by 1/32 of their side in four directions, and all that mirrored.

    uint8 [N, S, S, 3] -> ten times the same, one after another, as all of them may not fit into memory.
    """
    step = max(1, round(SHIFT * images.shape[1]))
    for picture in (images, images[:, :, ::-1]):
        yield picture
        for dy, dx in ((step, 0), (-step, 0), (0, step), (0, -step)):
            yield _shift(picture, dy, dx)


def neighbours(vectors: np.ndarray, reference: np.ndarray, *, leave_out_self: bool = False) -> Neighbours:
    """Of `vectors` [N, D] in `reference` [V, M, D]: V variants of M >= 2 training images.

    With `leave_out_self`, vector i is training image i and its own variants do not count.
    """
    references = [_tensor(part) for part in reference]
    found = []
    for start in range(0, len(vectors), AT_ONCE):  # [N, M] distances of a large set would not fit into memory
        queries = _tensor(vectors[start : start + AT_ONCE])
        distance = torch.full((len(queries), reference.shape[1]), torch.inf)
        variant = torch.zeros(distance.shape, dtype=torch.uint8)
        for number, part in enumerate(references):
            of_part = torch.cdist(queries, part, compute_mode="donot_use_mm_for_euclid_dist")
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

    `training`: the neighbours of the training images among themselves.
    """
    return found.first > training.first[found.nearest]


def data_copying(generated: Neighbours, held_out: Neighbours) -> float:
    """C_T of Meehan et al. 2020 with one cell: the z-score of the Mann-Whitney test of the two sets of distances.

    Below -3: generated images are nearer to the training images than unseen real ones are. It tells how certain
    that is and not how much nearer they are: for the same difference it grows with the square root of the numbers.
    """
    from scipy.stats import mannwhitneyu

    count, other = len(generated.first), len(held_out.first)
    u = mannwhitneyu(generated.first, held_out.first).statistic
    return float((u - count * other / 2) / np.sqrt(count * other * (count + other + 1) / 12))


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


def _tensor(part: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32))
