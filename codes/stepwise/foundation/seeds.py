"""Randomness without state: every draw is named by (seed, stream, index, ...).

A generator is made anew from its name each time it is needed, so the number of workers, the
batch size or a restart in the middle changes nothing that is drawn. The same idea stands in
NVlabs/edm2, where the seed of each batch is derived from the number of images seen.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit integer that depends on `seed` and every name, and on nothing else."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_rng(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the stream named by (seed, *names)."""
    return np.random.default_rng(derive(seed, *names))


def torch_rng(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device` for the stream named by (seed, *names)."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def noise_like(shape: tuple[int, ...], seed: int, *names: str | int) -> torch.Tensor:
    """Standard normal noise of `shape`, drawn on the CPU: the same on every device."""
    import torch

    return torch.randn(shape, generator=torch_rng(seed, *names))


def seed_weights(seed: int) -> None:
    """Seed torch's global generator, from which new networks draw their weights."""
    import torch

    torch.manual_seed(derive(seed, "weights"))
