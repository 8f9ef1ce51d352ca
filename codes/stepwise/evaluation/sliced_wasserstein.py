"""Sliced Wasserstein distance between the patches of two sets of images, over a Laplacian pyramid."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepwise.foundation.images import to_tensor
from stepwise.foundation.seeds import numpy_rng, torch_rng

PATCH = 7
PATCHES_AN_IMAGE = 64
DIRECTIONS = 256
SMALLEST = 16
SCALE = 1e3


def patches(images: np.ndarray, seed: int) -> list[Tensor]:
    """Random 7 x 7 patches of each level, finest first, uint8 [N, S, S, 3] -> [N, 64, 147] each.

    Which places are looked at depends on `seed` and the level alone.
    """
    found = []
    for level, picture in enumerate(_laplacian_pyramid(to_tensor(images))):
        rng = numpy_rng(seed, "patches", level)
        side = picture.shape[-1] - PATCH + 1
        windows = picture.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # a view: [N, 3, side, side, 7, 7]
        top, left = rng.integers(side, size=(2, PATCHES_AN_IMAGE))
        found.append(windows[:, :, top, left].transpose(1, 2).flatten(2))
    return found


def sliced_wasserstein(first: list[Tensor], second: list[Tensor], seed: int = 0) -> float:
    """Mean over the levels of the sliced Wasserstein distance of their patches, times 1000.

    The measure of Karras et al. 2018 (section 5), with both sets scaled by the standard deviation of
    `second` for each channel, so that differences in colour and contrast count as well. The sets may
    differ in size: their quantiles are compared.
    """
    distances = [_level(a.flatten(0, 1), b.flatten(0, 1), seed) for a, b in zip(first, second, strict=True)]
    return SCALE * float(np.mean(distances))


def _level(a: Tensor, b: Tensor, seed: int) -> float:
    mean, std = _channel_statistics(b)
    directions = torch.randn(DIRECTIONS, a.shape[1], generator=torch_rng(seed, "directions"))
    directions = F.normalize(directions, dim=1).T
    first, second = (((part - mean) / std) @ directions for part in (a, b))  # [patches, directions]
    count = min(len(first), len(second))
    return float((_quantiles(first, count) - _quantiles(second, count)).abs().mean())


def _channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each colour channel, spread over the 147 numbers of a patch."""
    colours = x.unflatten(1, (3, PATCH * PATCH))
    mean, std = colours.mean(dim=(0, 2)), colours.std(dim=(0, 2)).clamp_min(1e-6)
    return mean.repeat_interleave(PATCH * PATCH), std.repeat_interleave(PATCH * PATCH)


def _quantiles(x: Tensor, count: int) -> Tensor:
    """`count` evenly spaced quantiles of each column."""
    ordered = x.sort(dim=0).values
    at = (torch.arange(count) + 0.5) * (len(ordered) / count)
    return ordered[at.long()]


def _laplacian_pyramid(x: Tensor) -> list[Tensor]:
    """Differences to the next coarser level, and the coarsest as it is, down to SMALLEST pixels a side."""
    levels = []
    while x.shape[-1] >= 2 * SMALLEST:
        coarse = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
        levels.append(x - F.interpolate(coarse, size=x.shape[-2:], mode="bilinear"))
        x = coarse
    return [*levels, x]
