"""What all contenders of benchmarks/speed.py have in common: the data in memory and the weights of the losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from speed_cases import Case
from torch import nn

from stepwise.foundation import seeds

IMAGES = 512  # in memory, more than the largest batch
KL_TARGET, PERCEPTUAL_WEIGHT = 25.0, 0.03

Step = Callable[[int], object]


def pixels(case: Case) -> torch.Tensor:
    """Images as a loader hands them over: uint8 [IMAGES, 3, S, S] on the CPU."""
    shape = (IMAGES, 3, case.image_size, case.image_size)
    return torch.randint(256, shape, dtype=torch.uint8, generator=seeds.torch_rng(0, "pixels"))


def posteriors(case: Case) -> torch.Tensor:
    """mu and sigma of encoded images: [IMAGES, 2, C, H, W]."""
    mu = seeds.noise_like((IMAGES, *case.latent_shape), 0, "mu")
    return torch.stack([mu, torch.full_like(mu, 0.1)], dim=1)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())
