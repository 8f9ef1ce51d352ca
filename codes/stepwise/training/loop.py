"""`fit`: the one training loop. It owns epochs, cadence, checkpoints, resume, signals and stopping.

It never calls backward: the script's `step` does, through its Learner. All randomness is derived
from (seed, step) or (seed, epoch), so a run that was killed anywhere and resumed from last.pt ends
in the same bits as one that was not (on a CPU with the same number of threads; with --max-minutes
the clock takes part, and no two runs are alike).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from stepwise.foundation.devices import hand_back_freed_memory, peak_memory_mib
from stepwise.foundation.errors import Interrupted, UserError
from stepwise.foundation.runs import RunFolder
from stepwise.foundation.seeds import derive
from stepwise.training.cli import bar_interval, stop_signal
from stepwise.training.learner import Learner
from stepwise.training.resume import claim
from stepwise.training.state import Clock, Plan, RunState

NO_LIMIT = 10**9  # epochs of a run that only its time ends


def fit(
    plan: Plan,
    step: Callable[[Any, Clock], dict[str, Tensor]],
    learners: dict[str, Learner],
    folder: RunFolder,
    args: argparse.Namespace,
    state: dict[str, Any] | None,
) -> int:
    """Train until the epochs or minutes are used up or the stopper says so. Returns the exit code.

    `step(batch, clock)` updates the learners and returns its named losses, of this process's rows of
    the batch; a loss that is not finite is left out of the means. With `state` (a checkpoint) the
    run continues from there.
    """
    batches, added_up = plan.epochs * plan.batches_per_epoch, max(one.grad_accum for one in learners.values())
    if batches < added_up:
        raise UserError(
            f"--grad-accum {added_up} adds up more batches than the {batches} of this run: nothing would be learned.\n"
            "Lower it, or train for more --epochs."
        )
    if folder.to_clear:
        folder.clear()
    if state is None:
        claim(folder)
    stop_signal.together = plan.world.size > 1  # from here on there is something to save, and all must stop at once
    run = RunState(plan, folder, learners, args)
    if state is not None:
        run.restore(state)
        if _goes_on(run, plan):
            folder.remove_summary()  # of an end that is none any more, as with more --epochs
    try:
        if run.rows and run.clock.batch == 0:  # a kill may have come between a checkpoint and the epoch's pictures
            run.save()
            _write_outputs(run, plan)
        with _bar(plan, run.clock) as bar:
            _train(run, plan, step, bar)
        _finish(run, plan)
        plan.world.leave()
        return 0
    except Interrupted as stop:
        run.save()
        folder.write_metrics(run.rows)
        plan.world.leave()  # when process 0 has saved: torchrun ends all when one ends
        with suppress(OSError):
            said = "Continue with the same command and --resume auto."
            print(f"{stop.signal_name}: saved {folder.path / 'last.pt'}. {said}", flush=True)
        return stop.exit_code
    finally:
        folder.close()


def _train(run: RunState, plan: Plan, step: Callable, bar: tqdm) -> None:
    clock = run.clock
    if clock.epoch >= plan.epochs or run.stop_reason:
        return
    with closing(plan.batches(clock.epoch, clock.batch)) as batches:
        _train_on(batches, run, plan, step, bar)


def _train_on(batches: Iterator[Any], run: RunState, plan: Plan, step: Callable, bar: tqdm) -> None:
    clock = run.clock
    run.agree()
    while _goes_on(run, plan):
        for learner in run.learners.values():
            learner.net.train()
        while clock.batch < plan.batches_per_epoch and not clock.out_of_time:
            batch = next(batches)
            torch.manual_seed(derive(run.args.seed, "step", clock.step))  # dropout draws from the global generator
            losses = step(batch, clock)
            run.add(losses)
            clock.batch, clock.step = clock.batch + 1, clock.step + 1
            _advance(bar, clock)
            if run.save_is_due:
                run.save()
            run.agree()
            if not clock.trains:
                clock.begin()
        lr = next(iter(run.learners.values())).optimizer.param_groups[0]["lr"]
        value = run.end_epoch(lr)
        shown = "".join(f", {name} {run.rows[-1][name]:.4g}" for name in plan.show if name in run.rows[-1])
        bar.set_postfix_str(f"epoch {clock.epoch}, {plan.monitor} {value:.4f} (best {run.best['value']:.4f}){shown}")
        _after_epoch(run, plan)


def _goes_on(run: RunState, plan: Plan) -> bool:
    clock = run.clock
    out_of_time = clock.out_of_time and run.rows and clock.batch == 0
    return clock.epoch < plan.epochs and not run.stop_reason and not out_of_time


def _after_epoch(run: RunState, plan: Plan) -> None:
    run.refresh_metrics()
    began, affordable = time.monotonic(), run.outputs_are_affordable
    if run.save_is_due or (affordable and run.clock.epoch % plan.checkpoint_every == 0):
        run.save()
    if affordable:
        _write_outputs(run, plan)
    run.output_seconds += time.monotonic() - began
    run.agree()


def _write_outputs(run: RunState, plan: Plan) -> None:
    """What an epoch leaves beside last.pt, when it is its turn."""
    if not plan.world.is_main:
        return
    if run.clock.epoch % plan.checkpoint_every == 0:
        run.save_numbered()
    if run.clock.epoch % plan.preview_every == 0:
        plan.preview(run.clock.epoch, run.rows)
        run.previewed = run.clock.epoch
        hand_back_freed_memory()


def _finish(run: RunState, plan: Plan) -> None:
    all_done = run.clock.epoch >= plan.epochs
    reason = run.stop_reason or (
        f"all {plan.epochs} epochs done" if all_done else f"{plan.max_minutes:g} minutes used up"
    )
    run.replace_lost_best()
    run.save()
    run.folder.write_metrics(run.rows)
    if run.previewed != run.clock.epoch and plan.world.is_main:
        plan.preview(run.clock.epoch, run.rows)
    if not run.best["epoch"]:
        raise UserError(
            f"No validation gave a finite {plan.monitor}, so there is no best_model.pt.\n"
            "Lower the learning rate (a tenth of it) and start again with --overwrite."
        )
    minutes = run.clock.seconds / 60
    summary = {"stop_reason": reason, "minutes": round(minutes, 2), "epochs": run.clock.epoch, "best": run.best}
    parameters = sum(p.numel() for learner in run.learners.values() for p in learner.net.parameters())
    run.folder.write_summary({**summary, "peak_memory_mib": peak_memory_mib(), "parameters": parameters})
    if run.clock.max_seconds and run.clock.idle > run.clock.max_seconds / 2:
        print(
            f"Warning: {run.clock.idle / 60:.1f} of the {plan.max_minutes:g} minutes went into reading, encoding and "
            "compiling. Give --resume auto and more --max-minutes: what was encoded is kept."
        )
    print(f"Stopped: {reason}. {run.clock.epoch} epochs, {minutes:.1f} minutes, peak memory {peak_memory_mib()} MiB.")
    best = run.folder.path / "best_model.pt"
    kept = "Newest, as a discriminator trains beside it" if plan.newest_is_best(run.clock.progress) else "Best"
    print(f"{kept}: {plan.monitor} {run.best['value']:.4f} in epoch {run.best['epoch']}: {best}")
    if plan.next_command:
        print(f"\nNext: {plan.next_command}")


class _Bar(tqdm):
    """Goes on where nobody reads any more: a run whose terminal is gone is still to be saved."""

    def display(self, *args: Any, **kwargs: Any) -> Any:
        with suppress(OSError):
            return super().display(*args, **kwargs)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def _bar(plan: Plan, clock: Clock) -> tqdm:
    """Counts steps or, with --max-minutes, seconds: whichever tells when the run will end."""
    interval = bar_interval()
    shared = {"desc": "training", "mininterval": interval, "disable": not plan.world.is_main}
    if clock.max_seconds:
        shown = "{l_bar}{bar}| {n_fmt} of {total_fmt} s{postfix}"  # what is left can be read off
        return _Bar(total=round(clock.max_seconds), initial=_seconds(clock), bar_format=shown, **shared)
    return _Bar(total=plan.epochs * plan.batches_per_epoch, initial=clock.step, unit="step", **shared)


def _advance(bar: tqdm, clock: Clock) -> None:
    bar.update((_seconds(clock) if clock.max_seconds else clock.step) - bar.n)


def _seconds(clock: Clock) -> int:
    return min(round(clock.max_seconds), int(clock.seconds))
