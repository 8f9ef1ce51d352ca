"""`fit`: the one training loop. It owns epochs, cadence, checkpoints, resume, signals and stopping.

It never calls backward: the script's `step` does, through its Learner. All randomness is derived
from (seed, step) or (seed, epoch), so a run that was killed anywhere and resumed from last.pt ends
in the same bits as one that was not (on a CPU with the same number of threads).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from stepwise.foundation import checkpoints
from stepwise.foundation.errors import Interrupted
from stepwise.foundation.runs import RunFolder
from stepwise.foundation.seeds import derive
from stepwise.training.cli import stop_signal
from stepwise.training.learner import Learner
from stepwise.training.resume import best_is_intact
from stepwise.training.stopping import Stopper

SAVE_EVERY_S = 120.0


@dataclass
class Clock:
    """Where the run stands: whole epochs, batches into this one, steps in all, share of the run done."""

    epochs: int
    batches_per_epoch: int
    max_seconds: float | None
    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds_before: float = 0.0
    started: float = 0.0

    @property
    def seconds(self) -> float:
        """Time spent on this run, earlier sessions included."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """0 ... 1, by steps or, with --max-minutes, by time, whichever is further."""
        by_steps = self.step / (self.epochs * self.batches_per_epoch)
        by_time = self.seconds / self.max_seconds if self.max_seconds else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def out_of_time(self) -> bool:
        return self.max_seconds is not None and self.seconds >= self.max_seconds


@dataclass
class Plan:
    """What differs between families: data, names, cadence, and the callbacks of the script.

    batches(epoch, batch) yields batches from that position on, epoch after epoch.
    validate() returns named values, `monitor` among them (lower is better).
    preview(epoch, rows) writes pictures and plots; document() gives what a checkpoint must hold
    beside the learners. `show` names further columns for the progress bar.
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


class Fit:
    """The state of a running `fit`, and how it is saved and restored."""

    def __init__(self, plan: Plan, folder: RunFolder, learners: dict[str, Learner], args: argparse.Namespace):
        self.plan, self.folder, self.learners, self.args = plan, folder, learners, args
        limit = plan.max_minutes * 60 if plan.max_minutes else None
        self.clock = Clock(plan.epochs, plan.batches_per_epoch, limit, started=folder.started)
        self.rows: list[dict[str, Any]] = []
        self.sums: dict[str, Tensor] = {}
        self.best: dict[str, Any] = {"value": math.inf, "epoch": 0}
        self.stop_reason: str | None = None
        self._best_weights: dict[str, Any] | None = None
        self._last_save = time.monotonic()

    def restore(self, document: dict[str, Any]) -> None:
        progress = document["progress"]
        for name, learner in self.learners.items():
            learner.load(document["nets"][name])
        self.clock.epoch, self.clock.batch, self.clock.step = progress["epoch"], progress["batch"], progress["step"]
        self.clock.seconds_before = progress["seconds"]
        self.rows, self.best = list(document["history"]), dict(document["best"])
        self.sums = dict(document["sums"])
        self.plan.stopper.load(document["stopper"])
        self.stop_reason = document["stop_reason"]
        if self.best["epoch"] and not best_is_intact(self.folder.path / "best_model.pt"):
            self.best = {"value": math.inf, "epoch": 0}
        self.folder.write_metrics(self.rows)
        print(f"Resuming after {self.clock.epoch} epochs and {self.clock.step} steps.")

    def save(self) -> None:
        """Write best_model.pt if it changed, then last.pt; the last.pt before becomes previous.pt."""
        base = {"script": self.plan.script, "args": _plain(self.args), **self.plan.document()}
        if self._best_weights is not None:
            nets = {
                name: {"config": self.learners[name].config, "weights": w} for name, w in self._best_weights.items()
            }
            checkpoints.save(self.folder.path / "best_model.pt", {**base, "nets": nets, "best": self.best})
            self._best_weights = None
        clock = self.clock
        progress = {"epoch": clock.epoch, "batch": clock.batch, "step": clock.step, "seconds": clock.seconds}
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
                "history": self.rows,
                "stopper": self.plan.stopper.state(),
                "stop_reason": self.stop_reason,
            },
        )
        if last.exists():
            last.replace(previous)
        fresh.replace(last)
        self._last_save = time.monotonic()

    def save_numbered(self) -> None:
        """A further name for last.pt, and the oldest numbered checkpoints beyond `keep` removed."""
        target = self.folder.path / self.plan.checkpoint_name.format(epoch=self.clock.epoch)
        link_or_copy(self.folder.path / "last.pt", target)
        pattern = self.plan.checkpoint_name.split("{")[0] + "*.pt"
        numbered = sorted(self.folder.path.glob(pattern), key=lambda p: int("".join(filter(str.isdigit, p.stem))))
        for old in numbered[: max(0, len(numbered) - self.plan.keep_checkpoints)]:
            old.unlink()

    def add(self, losses: dict[str, Tensor]) -> None:
        """Sum the losses of a step on their device; read out once an epoch."""
        for name, value in losses.items():
            total, count = self.sums.get(name, torch.zeros(2)).unbind()
            self.sums[name] = torch.stack([total.to(value.device) + value.detach().float(), count.to(value.device) + 1])

    def end_epoch(self, lr: float) -> float:
        """Validate, record the epoch, keep the best. Returns the monitored value."""
        measured = self.plan.validate()
        means = {name: float(total / count) for name, (total, count) in self.sums.items()}
        self.sums = {}
        self.clock.epoch, self.clock.batch = self.clock.epoch + 1, 0
        row = {"epoch": self.clock.epoch, "step": self.clock.step, "lr": lr, **means, **measured}
        self.rows.append(row)
        self.folder.log_scalars(row, self.clock.step)
        value = measured[self.plan.monitor]
        if value < self.best["value"]:
            self.best = {"value": value, **row}
            self._best_weights = {name: learner.best_weights() for name, learner in self.learners.items()}
        self.plan.on_validation(value)
        self.stop_reason = self.plan.stopper.observe(value)
        return value

    @property
    def save_is_due(self) -> bool:
        return time.monotonic() - self._last_save > SAVE_EVERY_S


def fit(
    plan: Plan,
    step: Callable[[Any, Clock], dict[str, Tensor]],
    learners: dict[str, Learner],
    folder: RunFolder,
    args: argparse.Namespace,
    state: dict[str, Any] | None,
) -> int:
    """Train until the epochs or minutes are used up or the stopper says so. Returns the exit code.

    `step(batch, clock)` updates the learners and returns its named losses; a loss that is not
    finite is left out of the means. With `state` (a checkpoint) the run continues from there.
    """
    run = Fit(plan, folder, learners, args)
    if state is not None:
        run.restore(state)
    bar = _bar(plan, run.clock)
    try:
        _train(run, plan, step, bar)
    except Interrupted as stop:
        bar.close()
        run.save()
        folder.write_metrics(run.rows)
        print(f"{stop.signal_name}: saved {folder.path / 'last.pt'}. Continue with the same command and --resume auto.")
        return stop.exit_code
    bar.close()
    _finish(run, plan)
    return 0


def _train(run: Fit, plan: Plan, step: Callable, bar: tqdm) -> None:
    clock = run.clock
    if clock.epoch >= plan.epochs or run.stop_reason:
        return
    with closing(plan.batches(clock.epoch, clock.batch)) as batches:
        _train_on(batches, run, plan, step, bar)


def _train_on(batches: Iterator[Any], run: Fit, plan: Plan, step: Callable, bar: tqdm) -> None:
    clock = run.clock
    while clock.epoch < plan.epochs and not run.stop_reason and not clock.out_of_time:
        for learner in run.learners.values():
            learner.net.train()
        while clock.batch < plan.batches_per_epoch and not clock.out_of_time:
            batch = next(batches)
            torch.manual_seed(derive(run.args.seed, "step", clock.step))  # dropout draws from the global generator
            losses = step(batch, clock)
            run.add(losses)
            clock.batch, clock.step = clock.batch + 1, clock.step + 1
            bar.update()
            if run.save_is_due:
                run.save()
            stop_signal.check()
        lr = next(iter(run.learners.values())).optimizer.param_groups[0]["lr"]
        value = run.end_epoch(lr)
        shown = "".join(f", {name} {run.rows[-1][name]:.4g}" for name in plan.show if name in run.rows[-1])
        bar.set_postfix_str(f"epoch {clock.epoch}, {plan.monitor} {value:.4f} (best {run.best['value']:.4f}){shown}")
        _after_epoch(run, plan)


def _after_epoch(run: Fit, plan: Plan) -> None:
    clock = run.clock
    numbered = clock.epoch % plan.checkpoint_every == 0
    if numbered or run.save_is_due:
        run.save()
        if numbered:
            run.save_numbered()
    if clock.epoch % plan.preview_every == 0:
        run.folder.write_metrics(run.rows)
        plan.preview(clock.epoch, run.rows)
    stop_signal.check()


def _finish(run: Fit, plan: Plan) -> None:
    all_done = run.clock.epoch >= plan.epochs
    reason = run.stop_reason or (
        f"all {plan.epochs} epochs done" if all_done else f"{plan.max_minutes:g} minutes used up"
    )
    run.save()
    run.folder.write_metrics(run.rows)
    if run.clock.epoch % plan.preview_every:
        plan.preview(run.clock.epoch, run.rows)
    minutes = run.clock.seconds / 60
    summary = {"stop_reason": reason, "minutes": round(minutes, 2), "epochs": run.clock.epoch, "best": run.best}
    run.folder.write_summary({**summary, "peak_memory_mib": peak_memory_mib()})
    print(f"Stopped: {reason}. {run.clock.epoch} epochs, {minutes:.1f} minutes, peak memory {peak_memory_mib()} MiB.")
    best = run.folder.path / "best_model.pt"
    print(f"Best: {plan.monitor} {run.best['value']:.4f} in epoch {run.best['epoch']}: {best}")


def _bar(plan: Plan, clock: Clock) -> tqdm:
    interval = 0.5 if sys.stderr.isatty() else 20
    total = plan.epochs * plan.batches_per_epoch
    return tqdm(total=total, initial=clock.step, desc="training", unit="step", mininterval=interval)


def _plain(args: argparse.Namespace) -> dict[str, Any]:
    return dict(vars(args))


def link_or_copy(source: Any, target: Any) -> None:
    """Give `source` a second name; where the file system has no hard links, a copy."""
    import os
    import shutil

    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def peak_memory_mib() -> int:
    """Peak memory so far: of the GPU where one is used, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() // 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 2**20 if sys.platform == "darwin" else peak // 2**10
