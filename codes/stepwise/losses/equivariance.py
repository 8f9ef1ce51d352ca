"""Equivariance of an autoencoder: what is done to the latent should be done to the picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def turn_and_shrink(rng: np.random.Generator, cells: int) -> Callable[[Tensor], Tensor]:
    """A random change for latents of `cells` cells a side and, alike, for their pictures.

    Quarter turns, and a side of 1/4 ... 1 in whole cells. The decoder is to make the changed picture out
    of the changed latent (Kouzelis et al. 2025, EQ-VAE, equation 5), which gives latents that a denoiser
    learns more easily. The function takes z: [B, C, s, s] or x: [B, 3, S, S] and gives fewer cells or pixels.
    """
    small = int(rng.integers(-(-cells // 4), cells + 1))
    turns = int(rng.integers(4))

    def change(z: Tensor) -> Tensor:
        if small < cells:
            z = F.interpolate(z.float(), size=small * z.shape[-1] // cells, mode="bilinear", antialias=True)
        return torch.rot90(z, turns, (2, 3))

    return change
