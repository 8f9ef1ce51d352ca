"""Latents computed once: the posterior of every image and of its augmented variants."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from stepwise.data.augment import Augment
from stepwise.data.batches import AugmentedImages, ignore_stop_signals, useful_workers
from stepwise.foundation.seeds import noise_like, numpy_rng

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass
class LatentStatistics:
    """Mean and standard deviation of each latent channel, [1, C, 1, 1] (grid) or [1, D] (vector)."""

    mean: Tensor
    std: Tensor

    def standardise(self, z: Tensor) -> Tensor:
        return (z - self.mean.to(z.device)) / self.std.to(z.device)

    def restore(self, z: Tensor) -> Tensor:
        return z * self.std.to(z.device) + self.mean.to(z.device)

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean.cpu(), "std": self.std.cpu()}


@dataclass
class Latents:
    """Posteriors of N images in V variants: mu, sigma: [N, V, ...] on the training device.

    `augment`: [N, V, A], what the augmentation tells of each variant.
    """

    mu: Tensor
    sigma: Tensor
    augment: Tensor

    def __len__(self) -> int:
        return len(self.mu)

    def statistics(self) -> LatentStatistics:
        """Over every posterior sample that training can draw: Var[z] = Var[mu] + E[sigma^2]."""
        others = [d for d in range(self.mu.ndim - 1) if d != 1]  # of one image: [V, C, ...]

        def mean_of(images: Iterable[Tensor]) -> Tensor:
            return sum(image.mean(dim=others, keepdim=True) for image in images) / len(self)

        # image by image on the CPU: in float64, which not every device has, without a copy of the whole
        mean = mean_of(mu.cpu().double() for mu in self.mu)
        spread = mean_of((mu.cpu().double() - mean).square() for mu in self.mu)
        spread = spread + mean_of(sigma.cpu().double().square() for sigma in self.sigma)
        return LatentStatistics(mean.float(), spread.sqrt().clamp_min(1e-6).float())

    def draw(self, index: np.ndarray, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """A fresh posterior sample of a random variant of each image, and its augmentation: [B] -> [B, ...], [B, A]."""
        variant = numpy_rng(seed, "variant", step).integers(0, self.mu.shape[1], len(index))
        at = (torch.from_numpy(index), torch.from_numpy(variant))
        mu, sigma = self.mu[at], self.sigma[at]
        eps = noise_like(tuple(mu.shape), seed, "posterior", step).to(mu.device)
        return mu + sigma * eps, self.augment[at]


@torch.no_grad()
def encode_variants(
    encode: Encode,
    images: list[np.ndarray],
    augment: Augment,
    variants: int,
    *,
    batch_size: int,
    num_workers: int,
    device: torch.device,
    check: Callable[[], None],
) -> Latents:
    """Encode `variants` augmentations of each image. encode: [B, 3, S, S] in [-1, 1] -> (mu, logvar).

    `check` is called before each batch and may raise to stop.
    """
    keys = [(variant, index) for index in range(len(images)) for variant in range(variants)]
    squares = DataLoader(
        AugmentedImages(images, augment),
        batch_size,
        sampler=keys,
        num_workers=useful_workers(num_workers),
        worker_init_fn=ignore_stop_signals,
    )
    mus, sigmas = [], []
    for batch in tqdm(squares, desc="encoding", unit="batch", leave=False):
        check()
        mu, logvar = encode(batch.to(device).float() / 127.5 - 1)
        mus.append(mu.float())
        sigmas.append((0.5 * logvar.float()).exp())
    shape = (len(images), variants, *mus[0].shape[1:])
    told = np.stack([augment.parameters(variant, index) for variant, index in keys])
    return Latents(
        torch.cat(mus).reshape(shape).contiguous(),
        torch.cat(sigmas).reshape(shape).contiguous(),
        torch.from_numpy(told).reshape(*shape[:2], -1).to(device),
    )
