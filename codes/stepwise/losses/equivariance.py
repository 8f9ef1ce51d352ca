"""Equivariance of an autoencoder: what is done to the latent should be done to the picture."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def turned_and_shrunk(z: Tensor, x: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A latent and its picture, both turned by quarter turns and shrunk to 1/4 ... 1 of the side.

    The decoder is then to make the new picture out of the new latent (Kouzelis et al. 2025, EQ-VAE,
    equation 5), which gives latents that a denoiser learns more easily. z: [B, C, s, s],
    x: [B, 3, S, S] -> the same with fewer cells; sizes stay whole cells.
    """
    side, cell = z.shape[-1], x.shape[-1] // z.shape[-1]
    small = int(rng.integers(-(-side // 4), side + 1))
    turns = int(rng.integers(4))
    if small < side:
        z = F.interpolate(z.float(), size=small, mode="bilinear", antialias=True)
        x = F.interpolate(x, size=small * cell, mode="bilinear", antialias=True)
    return torch.rot90(z, turns, (2, 3)), torch.rot90(x, turns, (2, 3))
