"""Latents computed once: the posterior of every image and of its augmented variants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from stepwise.data.augment import Augment
from stepwise.data.batches import ignore_stop_signals, useful_workers
from stepwise.data.folders import read_image
from stepwise.foundation.devices import send
from stepwise.foundation.errors import UserError
from stepwise.foundation.seeds import noise_like, numpy_rng

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
AT_A_TIME = 256  # images whose latents are summed up at once


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
    """The images numbered `index` out of a folder whose posteriors are known in V variants each.

    posterior: [N, V, 2, ...], mu and sigma of all images, on the training device or memory-mapped from
    disk. told: [N, V, A], what the augmentation tells of each variant.
    """

    posterior: Tensor
    told: Tensor
    index: np.ndarray
    device: torch.device

    def __len__(self) -> int:
        return len(self.index)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return tuple(self.posterior.shape[3:])

    def means(self) -> Tensor:
        """mu of the first variant of each image, [len(self), ...]."""
        return self.posterior[torch.from_numpy(self.index), 0, 0].to(self.device)

    def statistics(self) -> LatentStatistics:
        """Over every posterior sample that training can draw: Var[z] = Var[mu] + E[sigma^2]."""
        others = [0, 1, *range(3, self.posterior.ndim - 1)]  # of [images, V, C, ...] all but C

        def mean_of(numbers: Callable[[Tensor], Tensor]) -> Tensor:
            # in float64, which not every device has, and a part at a time
            parts = torch.from_numpy(self.index).split(AT_A_TIME)
            means = (numbers(self.posterior[part].cpu().double()).mean(others, keepdim=True) for part in parts)
            return (sum(len(part) * mean for part, mean in zip(parts, means, strict=True)) / len(self))[0]

        mean = mean_of(lambda p: p[:, :, 0])
        variance = mean_of(lambda p: (p[:, :, 0] - mean).square() + p[:, :, 1].square())
        mean, std = mean.float(), variance.sqrt().clamp_min(1e-6).float()
        return LatentStatistics(mean.to(self.device), std.to(self.device))

    def draw(self, index: np.ndarray, rows: slice, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """A fresh posterior sample of a random variant of each image, and its augmentation.

        `index`: [B], numbers of a whole batch, of which the `rows` are drawn -> [rows, ...], [rows, A].
        """
        variant = numpy_rng(seed, "variant", step).integers(0, self.posterior.shape[1], len(index))
        places = (torch.from_numpy(self.index[index[rows]]), torch.from_numpy(variant[rows]))
        at = tuple(send(place, self.posterior.device) for place in places)
        mu, sigma = send(self.posterior[at], self.device).unbind(dim=1)
        eps = noise_like((len(index), *self.latent_shape), seed, "posterior", step)[rows]
        return mu + sigma * send(eps, self.device), send(self.told[at], self.device)


class EncodedBatch(NamedTuple):
    """Some images in V variants: posterior [B, V, 2, ...] and told [B, V, A], float32; digests of the pixels, [B]."""

    posterior: np.ndarray
    told: np.ndarray
    digests: list[str]


class _Variants(Dataset):
    """Item n: all variants of image n, uint8 [V, 3, S, S], what they are told, and the digest of its pixels."""

    def __init__(self, paths: list[Path], size_limit: int, augment: Augment, variants: int):
        self.paths, self.size_limit, self.augment, self.variants = paths, size_limit, augment, variants

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray, str] | UserError:
        try:
            image, digest = read_image(self.paths[number], self.size_limit)
        except UserError as error:  # raised by the main process: a worker would wrap it into a traceback
            return error
        squares = np.stack([self.augment(image, variant, number) for variant in range(self.variants)])
        told = np.stack([self.augment.parameters(variant, number) for variant in range(self.variants)])
        return np.ascontiguousarray(squares.transpose(0, 3, 1, 2)), told, digest


@torch.no_grad()
def encode_files(
    encode: Encode,
    paths: list[Path],
    size_limit: int,
    augment: Augment,
    variants: int,
    *,
    batch_size: int,
    num_workers: int,
    device: torch.device,
    check: Callable[[], None],
) -> Iterator[EncodedBatch]:
    """Encode `variants` augmentations of each image file, in order; no more than a few images are held at a time.

    encode: [B, 3, S, S] in [-1, 1] -> (mu, logvar). `check` is called before each batch and may raise to
    stop. Raises UserError that names the first file which cannot be decoded.
    """
    images = DataLoader(
        _Variants(paths, size_limit, augment, variants),
        max(1, batch_size // variants),
        num_workers=useful_workers(num_workers),
        collate_fn=list,
        worker_init_fn=ignore_stop_signals,
    )
    for batch in tqdm(images, desc="encoding", unit="batch", leave=False, disable=None):
        check()
        for error in (item for item in batch if isinstance(item, UserError)):
            raise error
        squares, told, digests = zip(*batch, strict=True)
        pairs = []
        for part in torch.from_numpy(np.concatenate(squares)).split(batch_size):
            mu, logvar = encode(part.to(device).float() / 127.5 - 1)
            pairs.append(torch.stack([mu.float(), (0.5 * logvar.float()).exp()], dim=1).cpu())
        pair = torch.cat(pairs).numpy()
        yield EncodedBatch(pair.reshape(len(batch), variants, *pair.shape[1:]), np.stack(told), list(digests))
