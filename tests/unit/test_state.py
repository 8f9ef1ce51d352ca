"""What a run keeps as its best."""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepwise.foundation.errors import UserError
from stepwise.training import state
from stepwise.training.distributed import ALONE
from stepwise.training.state import METRICS_SHARE, OUTPUTS_FREE_S, OUTPUTS_SHARE, Clock, RunState


def test_reading_encoding_and_compiling_are_no_training() -> None:
    """However long they take, a run with a limited time begins at 0 and ends at 1, also when it is resumed."""
    clock = Clock(epochs=10**9, batches_per_epoch=1, max_seconds=100.0)
    clock.seconds = 30.0  # images are encoded
    assert clock.progress == 0
    assert clock.idle_at(35.0) == 35.0, "what a checkpoint says that is saved before the first step"
    clock.step, clock.seconds = 1, 40.0  # the first step compiles
    clock.begin()
    assert clock.idle == 40.0 and clock.progress == pytest.approx(0, abs=1e-6)
    for seconds, share in ((70.0, 0.5), (100.0, 1.0)):
        clock.seconds = seconds
        assert clock.progress == pytest.approx(share)

    again = Clock(10**9, 1, 100.0, step=5, seconds_before=70.0, seconds=70.0, idle=40.0)
    assert again.progress == 0.5
    again.seconds = 80.0  # the caches are gone
    assert again.progress == pytest.approx(30 / 50)
    again.begin()
    assert (again.idle, again.progress) == (50.0, 0.6)
    again.seconds = 100.0
    assert again.progress == 1.0 and again.out_of_time


def test_a_time_that_was_over_before_training_is_over() -> None:
    clock = Clock(10**9, 1, 10.0, seconds=12.0)
    assert clock.progress == 1.0 and not clock.out_of_time, "one step is done all the same"


def test_pictures_and_numbered_checkpoints_take_a_small_share_of_a_run() -> None:
    run = run_of(False)
    run.clock.started = time.monotonic()
    run.output_seconds = OUTPUTS_FREE_S
    assert run.outputs_are_affordable
    run.output_seconds += 3
    assert not run.outputs_are_affordable
    run.clock.started -= 3 / OUTPUTS_SHARE
    assert run.outputs_are_affordable


def test_metrics_are_not_written_anew_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    run, now = run_of(False), [100.0]
    written = []

    def write(rows: list) -> None:
        now[0] += 1.0  # so long it takes
        written.append(now[0])

    run.folder.write_metrics = write
    monkeypatch.setattr(state, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for _ in range(100):
        run.refresh_metrics()
        now[0] += 1.0
    assert len(written) == 2 and written[1] - written[0] == pytest.approx(1 / METRICS_SHARE, abs=3)


def run_of(newest_is_best: bool, documents: list[dict] | None = None) -> RunState:
    plan: Any = SimpleNamespace(
        world=ALONE,
        max_minutes=None,
        epochs=10,
        batches_per_epoch=1,
        newest_is_best=lambda progress: newest_is_best,
        document=lambda: documents[-1] if documents else {},
    )
    learner: Any = SimpleNamespace(best_weights=lambda into=None: {"w": len(run.rows)})
    run = RunState(plan, SimpleNamespace(started=0.0), {"net": learner}, argparse.Namespace())
    return run


def best_epoch(run: RunState, *values: float) -> int:
    for epoch, value in enumerate(values, start=1):
        run.rows.append({"epoch": epoch})
        run._keep_if_best(value)
    assert run._best_weights == {"net": {"w": run.best["epoch"]}}
    return run.best["epoch"]


@pytest.mark.parametrize(("newest", "wanted"), [(False, 2), (True, 3)])
def test_the_lowest_or_the_newest_is_kept(newest: bool, wanted: int) -> None:
    assert best_epoch(run_of(newest), 0.5, 0.4, 0.6) == wanted


@pytest.mark.parametrize("newest", [False, True])
def test_what_is_not_finite_is_never_the_best(newest: bool) -> None:
    assert best_epoch(run_of(newest), 0.5, math.nan, math.inf) == 1


def test_the_best_keeps_what_belongs_to_it() -> None:
    """A guide that is kept later is not that of these weights."""
    documents = [{"guide": None}]
    run = run_of(False, documents)
    best_epoch(run, 0.5)
    documents.append({"guide": "later"})
    best_epoch(run, 0.6)
    assert run._best_document == {"guide": None}
    run.rows.append({"epoch": 3})
    run._keep_if_best(0.4)
    assert run._best_document == {"guide": "later"}


@pytest.mark.parametrize("where", ["end_epoch", "replace_lost_best"])
def test_all_meet_after_validating_before_process_0_is_waited_for(where: str) -> None:
    """For its word they wait as long as it may take to save."""
    run, calls = run_of(False), []
    run.world = SimpleNamespace(
        is_main=True,
        meet=lambda: calls.append("meet"),
        from_main=lambda value: calls.append("from_main") or value,
    )
    run.plan.monitor, run.plan.validate = "val_loss", lambda: calls.append("validate") or {"val_loss": 0.5}
    run.plan.on_validation, run.plan.stopper = lambda value: None, SimpleNamespace(observe=lambda *_: None)
    run.plan.has_settled = run.plan.is_low = lambda progress: True
    run.folder.log_scalars = lambda row, step: None
    if where == "end_epoch":
        assert run.end_epoch(lr=0.1) == 0.5
    else:
        run.rows.append({"epoch": 1})
        run.replace_lost_best()
    assert calls == ["validate", "meet", "from_main"] and run.best["value"] == 0.5


def test_a_checkpoint_of_other_networks_is_refused() -> None:
    document = {"progress": {}, "nets": {"net": {}, "discriminator": {}}}
    with pytest.raises(UserError, match="trains discriminator, net, not net"):
        run_of(False).restore(document)


def test_after_going_back_the_newest_numbered_checkpoints_are_kept(tmp_path: Path) -> None:
    """The numbers of the course that was left are higher."""
    run = run_of(False)
    run.folder.path = tmp_path
    run.plan.checkpoint_name, run.plan.keep_checkpoints = "checkpoint_{epoch:04d}.pt", 3
    (tmp_path / "best_model.pt").write_text("not one of them")
    for number, epoch in enumerate((4310, 8650, 12000, 4320, 4330)):
        (tmp_path / "last.pt").unlink(missing_ok=True)
        (tmp_path / "last.pt").write_text(str(epoch))
        os.utime(tmp_path / "last.pt", (number, number))
        run.clock.epoch = epoch
        run.save_numbered()
    kept = {path.name for path in tmp_path.glob("checkpoint_*")}
    assert kept == {"checkpoint_12000.pt", "checkpoint_4320.pt", "checkpoint_4330.pt"}
    assert (tmp_path / "best_model.pt").exists()
