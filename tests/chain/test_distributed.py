"""Several processes on the CPU (gloo): the same run as with one, whoever starts them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DENOISER_FLAGS, GRID_FLAGS
from launch import (
    ENVIRONMENT,
    REPOSITORY,
    SCRIPTS,
    Process,
    Server,
    curve,
    failed,
    fine,
    run_together,
    start_together,
    wait_for,
)
from PIL import Image

from stepwise.foundation import checkpoints

FLOAT32 = ("--no-mixed-precision",)
# Names on the error output every file below {folder} that is opened to be written, comes by its name or is removed.
NAME_WRITES = """
import os, sys
def note(event, arguments):
    if event in ("os.rename", "os.link"):
        path = str(arguments[1])
    elif event == "os.remove" or (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
        path = str(arguments[0])
    else:
        return
    if path.startswith({folder!r}):
        os.write(2, f"writes {{path}}\\n".encode())
sys.addaudithook(note)
"""


def written(process: Process, folder: Path) -> set[str]:
    """What `process` wrote below `folder`, if it ran with NAME_WRITES."""
    return {line.removeprefix(f"writes {folder}/") for line in process.err.splitlines() if line.startswith("writes ")}


def assert_same_curve(found: Path, wanted: Path) -> None:
    """Float32 sums in another order: relative differences of 5e-5 at most. Found, by the CPU: below 1e-5, 2e-5.

    The adversarial loss is a mean of logits around 0, so it is compared to an absolute 5e-5.
    """
    found_rows, wanted_rows = curve(found), curve(wanted)
    assert len(found_rows) == len(wanted_rows) > 0
    for one, other in zip(found_rows, wanted_rows, strict=True):
        assert one.pop("adversarial", 0) == pytest.approx(other.pop("adversarial", 0), abs=5e-5)
        assert one == pytest.approx(other, rel=5e-5, abs=1e-6)


def assert_same_weights(found: Path, wanted: Path, net: str) -> None:
    one, other = (checkpoints.load(path / "last.pt")["nets"][net]["weights"] for path in (found, wanted))
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def flags_of(script: str, images: Path, vae: Path, output: Path, epochs: int) -> list[object]:
    run = ["--output-dir", output, "--epochs", epochs, *FLOAT32]
    if script == "3A":
        # a budget that the KL of one half may be above and of the other below
        judged = ["--adversarial-weight", 0.5, "--adversarial-start", 0.25]
        return ["--data-dir", images, *GRID_FLAGS, *run, "--kl-target", 8.3, "--kl-warmup", 0, *judged]
    files = ["--vae-checkpoint", vae / "best_model.pt", "--image-dir", images]
    return [*files, *DENOISER_FLAGS, "--class-conditional", *run]  # its dropout of 0.1 included


@pytest.mark.parametrize("script", ["3A", "3B"])
def test_two_processes_train_as_one_and_each_goes_on_where_the_other_stopped(
    server: Server, images: Path, vae: Path, tmp_path: Path, script: str
) -> None:
    nets = {"3A": ("vae", "discriminator"), "3B": ("denoiser",)}[script]
    alone = server.run(script, *flags_of(script, images, vae, tmp_path / "one", 4))
    assert alone.code == 0, alone.err
    note = NAME_WRITES.format(folder=str(tmp_path / "two"))
    flags = flags_of(script, images, vae, tmp_path / "two", 4)
    first, second = fine(run_together(server, 2, script, *flags, before=note, whole=True))
    assert_same_curve(tmp_path / "two", tmp_path / "one")
    for net in nets:
        assert_same_weights(tmp_path / "two", tmp_path / "one", net)
    assert "Stopped: all 4 epochs done" in first.out
    assert second.out == "", "process 0 alone speaks"
    pictures = {"3A": "reconstructions/reconstruction_epoch_0004.png", "3B": "samples/epoch_0004.png"}[script]
    files = {"args.yaml", "metrics.csv", "best_model.pt", "last.pt", "summary.json", pictures}
    assert files <= written(first, tmp_path / "two")
    assert written(second, tmp_path / "two") == set(), "process 0 alone writes"

    # two processes stop in the middle of an epoch, one finishes
    stop = 2 if script == "3A" else 3
    signal_at = (
        "import os, signal\nimport stepwise.training.learner as learner\nupdate, calls = learner.Learner.update, [0]\n"
        "def interrupted(self, loss):\n"
        "    calls[0] += 1\n"
        f"    if calls[0] == {stop} and os.environ.get('RANK', '1') == '1':\n"  # one gets the signal, both stop
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return update(self, loss)\n"
        "learner.Learner.update = interrupted\n"
    )
    flags = flags_of(script, images, vae, tmp_path / "shrunk", 4)
    for process in run_together(server, 2, script, *flags, before=signal_at, whole=True):
        assert process.code == 143, process.out + process.err
    assert checkpoints.load(tmp_path / "shrunk/last.pt")["progress"]["step"] == stop
    resumed = server.run(script, *flags, "--resume", "auto")
    assert resumed.code == 0, resumed.err
    assert f"{stop} steps" in resumed.out
    assert_same_curve(tmp_path / "shrunk", tmp_path / "one")

    if script == "3A":  # whose sums of many pixels end a little further apart
        return
    # and the other way round
    flags = flags_of(script, images, vae, tmp_path / "grown", 4)
    assert server.run(script, *flags, before=signal_at).code == 143
    assert checkpoints.load(tmp_path / "grown/last.pt")["progress"]["step"] == stop
    first, _ = fine(run_together(server, 2, script, *flags, "--resume", "auto"))
    assert f"{stop} steps" in first.out
    assert_same_curve(tmp_path / "grown", tmp_path / "one")


def test_accumulated_gradients_are_shared_too(server: Server, images: Path, vae: Path, tmp_path: Path) -> None:
    for name, count in (("one", 1), ("two", 2)):
        flags = (*flags_of("3B", images, vae, tmp_path / name, 2), "--grad-accum", 2)
        fine(run_together(server, count, "3B", *flags) if count > 1 else [server.run("3B", *flags)])
    assert_same_curve(tmp_path / "two", tmp_path / "one")


def test_a_bad_step_of_one_is_left_out_by_both(server: Server, images: Path, vae: Path, tmp_path: Path) -> None:
    poison = (
        "import os\nimport stepwise.training.learner as learner\nupdate, calls = learner.Learner.update, [0]\n"
        "def poisoned(self, loss):\n"
        "    calls[0] += 1\n"
        "    bad = calls[0] == 2 and os.environ['RANK'] == '1'\n"
        "    return update(self, loss * float('nan') if bad else loss)\n"
        "learner.Learner.update = poisoned\n"
    )
    flags = flags_of("3B", images, vae, tmp_path / "run", 2)
    fine(run_together(server, 2, "3B", *flags, before=poison))
    state = checkpoints.load(tmp_path / "run/last.pt")
    assert state["nets"]["denoiser"]["counters"][0] == state["progress"]["step"] - 1
    assert all(torch.isfinite(tensor).all() for tensor in state["nets"]["denoiser"]["weights"].values())


def hurry(of: str, rank: int, seconds: float) -> str:
    """A process hangs after 12 seconds of waiting, and the `rank`-th sleeps before its first call `of` something."""
    module, name = of.split(":")
    return (
        f"import os, time\nfrom datetime import timedelta\nimport stepwise.training.{module} as module\n"
        "from stepwise.training import distributed\ndistributed.HANGS_AFTER = timedelta(seconds=12)\n"
        f"call, calls = module.{name}, [0]\n"
        "def slow(*args):\n"
        "    calls[0] += 1\n"
        f"    if calls[0] == 1 and os.environ['RANK'] == '{rank}':\n"
        f"        time.sleep({seconds})\n"
        "    return call(*args)\n"
        f"module.{name} = slow\n"
    )


@pytest.mark.slow
def test_process_0_may_save_for_longer_than_gradients_are_waited_for(
    server: Server, images: Path, vae: Path, tmp_path: Path
) -> None:
    flags = flags_of("3B", images, vae, tmp_path / "run", 11)  # pictures after ten
    fine(run_together(server, 2, "3B", *flags, before=hurry("denoising:DenoiserMonitor.preview", 0, 20)))


@pytest.mark.slow
@pytest.mark.parametrize("of", ["learner:Learner.update", "denoising:DenoiserMonitor.validate"])
def test_a_process_that_hangs_is_not_waited_for_for_days(
    server: Server, images: Path, vae: Path, tmp_path: Path, of: str
) -> None:
    flags = flags_of("3B", images, vae, tmp_path / "run", 3)
    waiting, hanging = start_together(server, 2, "3B", *flags, before=hurry(of, 1, 120))
    try:
        assert waiting.wait(100) not in (0, 143)
    finally:
        hanging.send(signal.SIGKILL)
    assert "imed out" in waiting.err, waiting.err


def test_a_batch_that_cannot_be_shared_is_refused(server: Server, images: Path, tmp_path: Path) -> None:
    flags = flags_of("3A", images, tmp_path, tmp_path / "run", 1)
    processes = run_together(server, 2, "3A", *flags, "--batch-size", 5)
    failed(processes[0], "batch of 5 images", "2 processes")


@pytest.mark.parametrize("count", [1, 7])
def test_sampling_is_shared_out(server: Server, vae: Path, denoiser: Path, tmp_path: Path, count: int) -> None:
    """As one process makes them, but for rounding to 8 bits: other batch sizes change the last bits of a float."""
    found = []
    for name, processes in (("one", 1), ("two", 2)):
        flags = [
            *("--diffusion-checkpoint", denoiser / "best_model.pt", "--vae-checkpoint", vae / "best_model.pt"),
            *("--num-images", count, "--ddim-steps", 4, "--seed", 3, "--device", "cpu"),
            *("--output", tmp_path / f"{name}.png"),
        ]
        note = NAME_WRITES.format(folder=str(tmp_path))
        drawn = fine(run_together(server, processes, "3C", *flags, before=note))
        assert [bool(written(process, tmp_path)) for process in drawn] == [True, False][:processes]
        files = sorted((tmp_path / f"{name}_individual").glob("*.png"))
        assert len(files) == count
        found.append(np.stack([np.asarray(Image.open(file)) for file in files]).astype(int))
    assert np.abs(found[0] - found[1]).max() <= 1


@pytest.fixture
def torchrun(images: Path, vae: Path, tmp_path: Path) -> list[str]:
    """A long run of 3B on two processes under torchrun, with a flag that would delete it when it starts again."""
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    flags = flags_of("3B", images, vae, tmp_path / "run", 10_000)
    hurried = ["--early-stopping-patience", "0", "--oscillation-window", "0", "--overwrite"]
    return [*agent, "--max-restarts", "1", str(SCRIPTS["3B"]), *map(str, flags), *hurried]


def workers_of(parent: int) -> list[int]:
    """The process numbers of torchrun's workers."""
    found = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True, check=False
    )
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "3B-" in line]


@pytest.mark.skipif(os.name != "posix", reason="kills processes by their number")
def test_torchrun_restarts_a_run_whose_process_died_and_then_gives_up(torchrun: list[str], tmp_path: Path) -> None:
    log = (tmp_path / "log").open("w+")
    job = subprocess.Popen(torchrun, cwd=REPOSITORY, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)
    last = tmp_path / "run/last.pt"
    try:
        for kill in range(2):
            wait_for(lambda: len(workers_of(job.pid)) == 2)  # of the second attempt, as the first one's are gone
            workers = workers_of(job.pid)
            before = last.stat().st_mtime_ns if last.exists() else 0
            wait_for(lambda before=before: last.exists() and last.stat().st_mtime_ns > before)
            killed = time.monotonic()
            os.kill(workers[kill], signal.SIGKILL)
            wait_for(lambda workers=workers: not set(workers) & set(workers_of(job.pid)))
        job.wait(60)
        assert time.monotonic() - killed < 60
    except AssertionError as error:
        raise AssertionError((tmp_path / "log").read_text()) from error
    finally:
        if job.poll() is None:
            os.kill(job.pid, signal.SIGSTOP)  # or it would start others meanwhile
        for worker in workers_of(job.pid):
            os.kill(worker, signal.SIGKILL)
        job.kill()
        job.wait()
    log.seek(0)
    said = log.read()
    assert job.returncode != 0, said
    resumed = re.search(r"Resuming after (\d+) epochs", said)
    assert resumed and int(resumed[1]) > 0, said
    assert "SIGKILL" in said or "-9" in said
    wait_for(lambda: not workers_of(job.pid))
