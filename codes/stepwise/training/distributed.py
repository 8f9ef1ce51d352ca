"""Several processes that train one network: started by torchrun, one GPU each (or one share of the cores).

    torchrun --standalone --nproc-per-node 4 codes/3B-train-diffusion-from-scratch-corel.py ...

Every process draws the random numbers of the whole batch and works on its rows of it; gradients are
averaged by DistributedDataParallel. So the batch, and up to the order of additions the loss curve,
are those of one process. Process 0 alone writes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from stepwise.foundation import torchrun
from stepwise.foundation.devices import Device
from stepwise.foundation.errors import UserError

T = TypeVar("T")
# A process that dies is noticed by torchrun, at once. One that hangs in a step or in validating (a GPU's error) is
# noticed when the others have waited so long for its gradients, or to meet it:
HANGS_AFTER = timedelta(minutes=30)
# Where process 0 may be at long work of its own, such as encoding or saving, they wait in a group of their own:
PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class World:
    """This process's place among those of the run. With `size` 1 every method is a no-op.

    `patient`: the group (gloo, on the CPU) for all that waits for one process's own work; None: the default group,
    which is for what all do at the same time, gradients and means.
    """

    rank: int = 0
    size: int = 1
    patient: distributed.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Which rows of a batch of `count` are this process's. Raises UserError if they cannot be shared evenly."""
        if count % self.size:
            raise UserError(
                f"A batch of {count} images cannot be shared evenly by {self.size} processes.\n"
                f"Choose a --batch-size that is a multiple of {self.size} (and not above the number of images), "
                "or fewer processes."
            )
        mine = self.part(count)
        return slice(mine.start, mine.stop)

    def part(self, count: int) -> range:
        """Which of `count` things are this process's, when they need not be shared evenly."""
        return range(count)[count * self.rank // self.size : count * (self.rank + 1) // self.size]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of `value` over the processes, without gradient."""
        if self.size == 1:
            return value.detach()
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.size

    def largest(self, *values: float) -> list[float]:
        """The largest of each value over the processes: how they agree on the time and on a stop signal.

        They do so after process 0 has saved or made pictures, and wait here for it, not among the gradients.
        """
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX, self.patient)
        return shared.tolist()

    def from_main(self, value: T) -> T:
        """Process 0's `value` (plain data and tensors on the CPU) in every process."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self.patient)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order, in every process."""
        if self.size == 1:
            return [value]
        found: list = [None] * self.size
        distributed.all_gather_object(found, value, self.patient)
        return found

    def meet(self) -> None:
        """Until every process is here, none having had more to do than the others: for HANGS_AFTER at most."""
        if self.size > 1:
            distributed.all_reduce(torch.zeros(1))  # on the CPU; a barrier would be one of the GPUs

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            distributed.barrier(self.patient)

    def leave(self) -> None:
        """Part from the others, at the end of a script that went well: first when all are here."""
        if self.size > 1:
            distributed.barrier(self.patient)
            distributed.destroy_process_group()


ALONE = World()


def join(device: Device) -> World:
    """Meet the other processes that torchrun started. All but process 0 then print nothing but errors."""
    if not torchrun.several():
        return ALONE
    if device.type == "cuda":
        if device.device.index >= torch.cuda.device_count():
            raise UserError(
                f"More processes than the {torch.cuda.device_count()} GPUs of this machine.\n"
                "Lower torchrun's --nproc-per-node."
            )
        torch.cuda.set_device(device.device)
    elif device.type != "cpu":
        raise UserError(f"Several processes cannot share the device {device.type}.\nUse --device cpu, or one process.")
    store, rank, size = next(rendezvous("env://", timeout=HANGS_AFTER))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun on one machine keeps its store when it restarts a run: without a shelf of its own, the new run
        # would find the addresses of the dead one there
        store = distributed.PrefixStore(f"restart {torchrun.restarts()}", store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=HANGS_AFTER)
    world = World(rank, size, distributed.new_group(backend="gloo", timeout=PATIENCE))
    if not world.is_main:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  (for the rest of the process)
    return world
