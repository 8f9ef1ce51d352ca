"""The state of a running `fit`: where it stands, what it keeps, how it is saved and restored."""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepwise.foundation import checkpoints
from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import link_or_copy
from stepwise.foundation.runs import RunFolder
from stepwise.training.cli import stop_signal
from stepwise.training.distributed import ALONE, World
from stepwise.training.history import from_columns, to_columns
from stepwise.training.learner import Learner
from stepwise.training.resume import best_of, claim
from stepwise.training.stopping import Stopper

SAVE_EVERY_S = 120.0
OUTPUTS_SHARE, OUTPUTS_FREE_S = 0.05, 10.0  # of the time of a run, for pictures and numbered checkpoints
METRICS_SHARE = 0.02  # of it for metrics.csv, which is written whole


@dataclass
class Clock:
    """Where the run stands: whole epochs, batches into this one, steps in all, share of the run done.

    `seconds`: time spent on this run when the processes last agreed on it, earlier parts of it included. `idle`:
    what of it was not training but reading, encoding and compiling, up to the end of a process's first step.
    """

    epochs: int
    batches_per_epoch: int
    max_seconds: float | None
    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds_before: float = 0.0
    started: float = 0.0
    seconds: float = 0.0
    idle: float = 0.0
    trains: bool = False

    def now(self) -> float:
        """Time spent on this run by this process's clock."""
        return self.seconds_before + time.monotonic() - self.started

    def begin(self) -> None:
        """To be called when this process has done a step, and has agreed on the time."""
        self.idle, self.trains = self.idle_at(self.seconds), True

    def idle_at(self, seconds: float) -> float:
        return self.idle if self.trains else self.idle + seconds - self.seconds_before

    @property
    def progress(self) -> float:
        """0 ... 1, by steps or, with --max-minutes, by the time there is to train, whichever is further."""
        by_steps, by_time = self.step / (self.epochs * self.batches_per_epoch), 0.0
        if self.max_seconds:
            idle = self.idle_at(self.seconds)
            left = self.max_seconds - idle
            by_time = (self.seconds - idle) / left if left > 0 else 1.0
        return min(1.0, max(by_steps, by_time))

    @property
    def out_of_time(self) -> bool:
        """Never before the first step: the shortest run still gives a checkpoint."""
        return self.max_seconds is not None and self.step > 0 and self.seconds >= self.max_seconds


@dataclass
class Plan:
    """What differs between families: data, names, cadence, and the callbacks of the script.

    batches(epoch, batch) yields batches from that position on, epoch after epoch.
    validate() returns named values, `monitor` among them (lower is better).
    preview(epoch, rows) writes pictures and plots; document() gives what a checkpoint must hold
    beside the learners. has_settled(progress), is_low(progress): see Stopper. newest_is_best(progress): `monitor` does
    not tell any more what is best, and the newest weights are kept. `show` names further columns for the
    progress bar; `next_command` is what a user types after this.
    """

    script: str
    epochs: int
    batches_per_epoch: int
    batches: Callable[[int, int], Generator[Any, None, None]]
    validate: Callable[[], dict[str, float]]
    preview: Callable[[int, list[dict[str, Any]]], None]
    document: Callable[[], dict[str, Any]]
    monitor: str
    show: tuple[str, ...]
    checkpoint_name: str
    checkpoint_every: int
    preview_every: int
    keep_checkpoints: int
    max_minutes: float | None
    stopper: Stopper
    on_validation: Callable[[float], None] = lambda value: None
    has_settled: Callable[[float], bool] = lambda progress: True
    is_low: Callable[[float], bool] = lambda progress: True
    newest_is_best: Callable[[float], bool] = lambda progress: False
    next_command: str = ""
    world: World = ALONE


class RunState:
    """The state of a running `fit`, and how it is saved and restored."""

    def __init__(self, plan: Plan, folder: RunFolder, learners: dict[str, Learner], args: argparse.Namespace):
        self.plan, self.folder, self.learners, self.args, self.world = plan, folder, learners, args, plan.world
        limit = plan.max_minutes * 60 if plan.max_minutes else None
        self.clock = Clock(plan.epochs, plan.batches_per_epoch, limit, started=folder.started)
        self.rows: list[dict[str, Any]] = []
        self.sums: dict[str, Tensor] = {}
        self.best: dict[str, Any] = {"value": math.inf, "epoch": 0}
        self.stop_reason: str | None = None
        # {learner: weights} of the best epoch, later written over by those of a better one
        self._best_weights: dict[str, dict[str, Tensor]] = {}
        # what best_model.pt is to hold beside them, until it is saved
        self._best_document: dict[str, Any] | None = None
        self._last_save = time.monotonic()
        self.output_seconds, self.previewed = 0.0, -1
        self._metrics_wait_until = 0.0

    @property
    def outputs_are_affordable(self) -> bool:
        """Whether pictures and numbered checkpoints have cost little so far. With a handful of images an epoch is over
        in no time, and what is due every ten epochs took half of the run."""
        return self.output_seconds <= OUTPUTS_FREE_S + OUTPUTS_SHARE * self.clock.now()

    def refresh_metrics(self) -> None:
        """Write metrics.csv, unless that was done a moment ago."""
        began = time.monotonic()
        if began >= self._metrics_wait_until:
            self.folder.write_metrics(self.rows)
            self._metrics_wait_until = time.monotonic() + (time.monotonic() - began) / METRICS_SHARE

    def restore(self, document: dict[str, Any]) -> None:
        progress = document["progress"]
        if document["nets"].keys() != self.learners.keys():
            found, wanted = (", ".join(sorted(names)) for names in (document["nets"], self.learners))
            raise UserError(f"The run to resume trains {found}, not {wanted}.\nRepeat its flags (see args.yaml there).")
        for name, learner in self.learners.items():
            learner.load(document["nets"][name])
        self.clock.epoch, self.clock.batch, self.clock.step = progress["epoch"], progress["batch"], progress["step"]
        self.clock.seconds_before = self.clock.seconds = progress["seconds"]
        self.clock.idle = progress.get("idle", 0.0)  # earlier versions counted everything as training
        self.rows, self.best = from_columns(document["history"]), dict(document["best"])
        self.sums = dict(document["sums"])
        same_rules = self.plan.stopper.load(document["stopper"])
        self.stop_reason = document["stop_reason"] if same_rules else None
        if self.world.is_main and self.best["epoch"]:
            # from an older checkpoint the run takes another course: what came after it does not belong to this one
            later_than = self.clock.epoch if self.args.resume == "auto" else math.inf
            self.best = best_of(self.folder, self.best, later_than) or {"value": math.inf, "epoch": 0}
        self.best = self.world.from_main(self.best)
        self.folder.write_metrics(self.rows)
        print(f"Resuming after {self.clock.epoch} epochs and {self.clock.step} steps.")
        if any(document["args"][name] != getattr(self.args, name) for name in ("epochs", "max_minutes")):
            share = f"{self.clock.progress:.0%}"
            print(f"The run has another length now, and its schedules with it: {share} of it are done.")

    def agree(self) -> None:
        """Set the clock, and stop if a signal asks for it: in all processes alike, at the same step."""
        self.clock.seconds, number = self.world.largest(self.clock.now(), stop_signal.number)
        stop_signal.stop_on(int(number))

    def save(self) -> None:
        """Write best_model.pt if it changed, then last.pt; the last.pt before becomes previous.pt."""
        if not self.world.is_main:
            return
        base = {"script": self.plan.script, "args": dict(vars(self.args)), **self.plan.document()}
        if self._best_document is not None:
            nets = {
                name: {"config": self.learners[name].config, "weights": w} for name, w in self._best_weights.items()
            }
            document = {**base, **self._best_document, "nets": nets, "best": self.best}
            checkpoints.save(self.folder.path / "best_model.pt", document)
            self._best_document = None
        clock = self.clock
        position, seconds = {"epoch": clock.epoch, "batch": clock.batch, "step": clock.step}, clock.now()
        progress = {**position, "seconds": seconds, "idle": clock.idle_at(seconds)}
        last, previous = self.folder.path / "last.pt", self.folder.path / "previous.pt"
        fresh = self.folder.path / "next.pt"
        checkpoints.save(
            fresh,
            {
                **base,
                "nets": {name: learner.state() for name, learner in self.learners.items()},
                "progress": progress,
                "best": self.best,
                "sums": self.sums,
                "history": to_columns(self.rows),
                "stopper": self.plan.stopper.state(),
                "stop_reason": self.stop_reason,
            },
        )
        if last.exists():
            last.replace(previous)
        fresh.replace(last)
        claim(self.folder)  # not before: a restart is to find what this job made of the checkpoint it was given
        self._last_save = time.monotonic()

    def save_numbered(self) -> None:
        """A further name for last.pt, and the oldest numbered checkpoints beyond `keep` removed."""
        target = self.folder.path / self.plan.checkpoint_name.format(epoch=self.clock.epoch)
        link_or_copy(self.folder.path / "last.pt", target)
        before, after = map(re.escape, re.split(r"{.*}", self.plan.checkpoint_name))
        found = ((re.fullmatch(rf"{before}(\d+){after}", path.name), path) for path in self.folder.path.iterdir())
        # the oldest first, and not the lowest number: the run may have gone back to an earlier epoch
        aged = sorted((path == target, path.stat().st_mtime_ns, int(match[1]), path) for match, path in found if match)
        numbered = [path for *_, path in aged]
        for old in numbered[: max(0, len(numbered) - self.plan.keep_checkpoints)]:
            old.unlink()

    def add(self, losses: dict[str, Tensor]) -> None:
        """Sum the losses of a step on their device; read out once an epoch. What is not finite is left out."""
        for name, value in losses.items():
            mean = self.world.mean(value.float())
            fine = torch.isfinite(mean)
            sums = self.sums.get(name, torch.zeros(2)).to(mean.device)
            self.sums[name] = sums + torch.stack([torch.where(fine, mean, 0.0), fine.float()])

    def end_epoch(self, lr: float) -> float:
        """Validate, record the epoch, keep the best. Returns the monitored value."""
        measured = self._validate()
        means = {name: float(total / count) for name, (total, count) in self.sums.items() if count}
        self.sums = {}
        self.clock.epoch, self.clock.batch = self.clock.epoch + 1, 0
        row = {"epoch": self.clock.epoch, "step": self.clock.step, "lr": lr, **means, **measured}
        self.rows.append(row)
        self.folder.log_scalars(row, self.clock.step)
        value = measured[self.plan.monitor]
        self._keep_if_best(value)
        self.plan.on_validation(value)
        progress = self.clock.progress
        self.stop_reason = self.plan.stopper.observe(value, self.plan.has_settled(progress), self.plan.is_low(progress))
        return value

    def _validate(self) -> dict[str, float]:
        """What process 0 measures. All do so, and meet then: where the next signal is agreed on, they wait for days."""
        measured = self.plan.validate()
        self.world.meet()
        return self.world.from_main(measured)

    def _keep_if_best(self, value: float) -> None:
        if value < self.best["value"] or (self.plan.newest_is_best(self.clock.progress) and math.isfinite(value)):
            self.best = {"value": value, **self.rows[-1]}
            if self.world.is_main:
                for name, learner in self.learners.items():
                    self._best_weights[name] = learner.best_weights(into=self._best_weights.get(name))
                self._best_document = self.plan.document()

    def replace_lost_best(self) -> None:
        """At the end of a run whose best_model.pt was lost: the last weights, if they validate."""
        if not self.best["epoch"] and self.rows:
            self._keep_if_best(self._validate()[self.plan.monitor])

    @property
    def save_is_due(self) -> bool:
        return time.monotonic() - self._last_save > SAVE_EVERY_S
