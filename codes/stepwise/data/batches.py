"""Batches for the loop: which images, in which order, and the loader that prepares them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from stepwise.data.augment import Augment
from stepwise.data.folders import ROOM
from stepwise.foundation.errors import STOP_SIGNALS, UserError
from stepwise.foundation.seeds import numpy_rng
from stepwise.foundation.torchrun import processes_here


@dataclass(frozen=True)
class Order:
    """The order of `count` items, anew each epoch, in batches of one size.

    The remainder of an epoch is left out (every item comes in other epochs), so that all batches
    have one shape; a set smaller than a batch is one batch.
    """

    count: int
    batch_size: int
    seed: int

    @property
    def size(self) -> int:
        return min(self.batch_size, self.count)

    @property
    def per_epoch(self) -> int:
        return self.count // self.size

    def batch(self, epoch: int, batch: int) -> np.ndarray:
        """The item numbers of one batch, [size]."""
        shuffled = _shuffled(self.count, self.seed, epoch)
        return shuffled[batch * self.size : (batch + 1) * self.size]

    def positions(self, epoch: int, batch: int) -> Iterator[tuple[int, int]]:
        """(epoch, batch) from the given position on, without end."""
        while True:
            while batch < self.per_epoch:
                yield epoch, batch
                batch += 1
            epoch, batch = epoch + 1, 0


@lru_cache(maxsize=2)  # of 100,000 items an epoch takes thousands of batches, a permutation milliseconds
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return numpy_rng(seed, "order", epoch).permutation(count)


class AugmentedImages(Dataset):
    """The `chosen` of the images and their augmentation; an item is named by (epoch, place in `chosen`)."""

    def __init__(self, images: Sequence[np.ndarray], chosen: list[int], augment: Augment):
        self.images, self.chosen, self.augment = images, chosen, augment

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor | UserError:
        """uint8 [3, S, S], or the error of a file that cannot be read any more."""
        epoch, index = key
        try:
            image = self.images[self.chosen[index]]
        except UserError as error:
            return error
        square = self.augment(image, epoch, index)
        return torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)))


def loader(
    dataset: Dataset, order: Order, epoch: int, batch: int, num_workers: int, pin: bool, rows: slice = slice(None)
) -> Generator:
    """The `rows` of uint8 batches [B, 3, S, S] from (epoch, batch) on; the number of workers changes nothing in them.

    Close the generator when done: the workers end with it. Raises the dataset's UserError.
    """
    keys = ([(e, int(i)) for i in order.batch(e, b)[rows]] for e, b in order.positions(epoch, batch))
    batches = DataLoader(
        dataset,
        batch_sampler=keys,
        num_workers=useful_workers(num_workers, processes_here()),
        pin_memory=pin,
        worker_init_fn=ignore_stop_signals,
        collate_fn=_stacked,
    )
    for found in batches:
        if isinstance(found, UserError):
            raise found
        yield found


def _stacked(items: list[torch.Tensor | UserError]) -> torch.Tensor | UserError:
    """A batch of the images, or the first error: raised in a worker it would come with a traceback."""
    return next((item for item in items if isinstance(item, UserError)), None) or torch.stack(items)


def useful_workers(wanted: int, processes: int = 1) -> int:
    """More workers than cores only wait for each other; a job on a cluster may use some of the machine's.

    `processes`: of the run on this machine that want workers at the same time; they share the cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(wanted, max(1, cores // processes))


def room_for_images(num_workers: int) -> int:
    """Bytes of decoded images that this process may hold: those of a machine have ROOM together.

    Its forked workers share them; others get a copy each, packed in one more.
    """
    processes = processes_here()
    workers = useful_workers(num_workers, processes)
    copies = 0 if multiprocessing.get_start_method() == "fork" or not workers else 1 + workers
    return ROOM // processes // (1 + copies)


def ignore_stop_signals(worker: int) -> None:
    """A Ctrl-C reaches the whole process group; the workers leave the stopping to the main process."""
    for name in STOP_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
