"""Run folders: one run at a time, nothing foreign removed, flags and metrics written as they were."""

from __future__ import annotations

import argparse
import csv
import errno
import os
import runpy
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch import ENVIRONMENT, SCRIPTS

from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import write_atomically
from stepwise.foundation.runs import RunFolder

HOLD = """
import sys, time
from pathlib import Path
from stepwise.foundation.runs import RunFolder
folder = RunFolder(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""
TRY = """
import sys, time
from pathlib import Path
from stepwise.foundation.errors import UserError
from stepwise.foundation.runs import RunFolder
started = time.monotonic()
try:
    RunFolder(Path(sys.argv[1])).close()
    print("taken")
except UserError as error:
    assert time.monotonic() - started < 8, "it waited for the other"
    print(error)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds the lock of tmp_path / "run"."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def attempt(folder: Path) -> str:
    command = [sys.executable, "-c", TRY, str(folder)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True).stdout


def test_second_process_is_refused_at_once(tmp_path: Path, holder: subprocess.Popen) -> None:
    message = attempt(tmp_path / "run")
    assert f"Another run is writing into {tmp_path / 'run'}" in message
    assert "--output-dir" in message
    assert len(message.splitlines()) <= 3


def test_lock_of_a_killed_process_is_free(tmp_path: Path, holder: subprocess.Popen) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert attempt(tmp_path / "run") == "taken\n"
    RunFolder(tmp_path / "run").close()


def test_closed_folder_can_be_opened_again(tmp_path: Path) -> None:
    for _ in range(3):
        RunFolder(tmp_path).close()


def test_time_apart_is_not_counted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    before = folder.started
    with folder.time_apart():
        time.sleep(0.2)
    assert 0.2 <= folder.started - before < 5
    folder.close()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="a file is in the way"):
        RunFolder(tmp_path / "run")


def test_torn_files_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".last.pt.tmp").write_bytes(b"torn")
    (tmp_path / "notes.tmp").write_text("mine")
    RunFolder(tmp_path).close()
    assert not (tmp_path / ".last.pt.tmp").exists()
    assert (tmp_path / "notes.tmp").exists()


OURS = (
    *("best_model.pt", "last.pt", "previous.pt", "next.pt", "checkpoint_0020.pt", "checkpoint_epoch_10.pt"),
    *("metrics.csv", "summary.json", "events.out.tfevents.1.host.2.0", "training_losses.png", "loss_history.png"),
    *("samples/epoch_0010.png", "samples/samples_epoch_0010.png", "reconstructions/reconstruction_epoch_0010.png"),
)
FOREIGN = (
    *("notes.txt", "best_model.pt.bak", "my_last.pt", "checkpoint_of_march.pt", "photo.png", "samples/favourite.png"),
    *("samples/my_epoch_0010.png", "reconstructions/mine.png", "deeper/last.pt", "deeper/metrics.csv", "data.csv"),
)


def test_a_folder_that_knows_no_fsync_can_be_written(tmp_path: Path, monkeypatch) -> None:
    """Shared folders of virtual machines: the file is in its place by then."""
    fsync = os.fsync

    def refused(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refused)
    write_atomically(tmp_path / "file", [b"content"])
    assert (tmp_path / "file").read_bytes() == b"content"


def test_clear_removes_only_what_runs_write(tmp_path: Path) -> None:
    for name in OURS + FOREIGN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    folder = RunFolder(tmp_path)
    assert folder.has_run
    folder.clear()
    folder.close()
    assert not folder.has_run
    assert [name for name in OURS if (tmp_path / name).exists()] == []
    assert [name for name in FOREIGN if not (tmp_path / name).exists()] == []


def test_the_summary_is_removed_by_the_process_that_writes(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path, writes=False)
    first.write_summary({"epochs": 1})
    second.remove_summary()
    assert (tmp_path / "summary.json").exists()
    for _ in range(2):
        first.remove_summary()
        assert not (tmp_path / "summary.json").exists()
    first.close()


def test_metrics_round_trip(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    rows = [{"epoch": 1, "step": 2, "loss": 0.1 + 0.2}, {"epoch": 2, "step": 4, "loss": 1e-30, "val_loss": 2.5}]
    folder.write_metrics(rows)
    first = (tmp_path / "metrics.csv").read_bytes()
    folder.write_metrics(rows)
    folder.close()
    assert (tmp_path / "metrics.csv").read_bytes() == first
    with (tmp_path / "metrics.csv").open(newline="") as file:
        read = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    assert read == rows
    assert b"\r" not in first


def parse(script: str, *flags: str) -> argparse.Namespace:
    return runpy.run_path(str(SCRIPTS[script]))["parse_args"](list(flags))


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("3A", ["--data-dir", "my data", "--latent-dim", "64", "--no-perceptual", "--learning-rate", "3e-5"]),
        ("3A", ["--data-dir", "d", "--downsample", "4", "--seed", "7", "--max-minutes", "2.5", "--augment", "none"]),
        ("3B", ["--vae-checkpoint", "v.pt", "--image-dir", "x", "--class-conditional", "--min-snr-gamma", "0"]),
        ("3B", ["--vae-checkpoint", "v.pt", "--image-dir=-odd: name", "--no-ema", "--lr-min", "0"]),
    ],
)
def test_args_yaml_repeats_the_flags(tmp_path: Path, script: str, flags: list[str]) -> None:
    args = parse(script, *flags)
    folder = RunFolder(tmp_path)
    folder.write_args(args, ["a remark"])
    folder.close()
    assert (tmp_path / "args.yaml").read_text().startswith("# a remark\n")
    again = parse(script, "--config", str(tmp_path / "args.yaml"))
    assert {**vars(again), "config": None} == vars(args)


def test_args_yaml_leaves_resume_and_overwrite_out(tmp_path: Path) -> None:
    args = parse("3A", "--data-dir", "d", "--resume", "before.pt", "--overwrite")
    folder = RunFolder(tmp_path)
    folder.write_args(args, [])
    folder.close()
    again = parse("3A", "--config", str(tmp_path / "args.yaml"))
    assert again.resume is None
    assert again.overwrite is False
