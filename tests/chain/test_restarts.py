"""Processes of torchrun that end before the training, and those that it starts again: what they go on with and say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import DENOISER_FLAGS, GRID_FLAGS
from launch import Process, Server, failed, run_together

from stepwise.foundation import checkpoints

DIES_BEFORE_TRAINING = """
import os, signal
import stepwise.training.encoding as encoding
encoding.encode_folder = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
DIES_IN_TRAINING = """
import os, signal
import stepwise.training.learner as learner, stepwise.training.state as state
update, calls, state.SAVE_EVERY_S = learner.Learner.update, [0], 0.0
def deadly(self, loss):
    calls[0] += 1
    if calls[0] == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, loss)
learner.Learner.update = deadly
"""
GOES_ON = "Restarted by torchrun: the run that this job began in"


@pytest.fixture
def attempt(server: Server, images: Path, vae: Path, tmp_path: Path):
    """Starts 3B on tmp_path / "run", six epochs of two steps, as torchrun does for the `number`-th time."""

    def started(number: int, *flags: object, before: str = "", job: str = "one") -> Process:
        files = ("--vae-checkpoint", vae / "best_model.pt", "--image-dir", images, "--output-dir", tmp_path / "run")
        torchrun = {"TORCHELASTIC_RUN_ID": job, "TORCHELASTIC_RESTART_COUNT": str(number)}
        own = (*DENOISER_FLAGS, "--class-conditional", "--epochs", 6, *flags)
        return server.run("3B", *files, *own, before=f"import os\nos.environ.update({torchrun})\n{before}")

    return started


def steps(folder: Path) -> int:
    return checkpoints.load(folder / "last.pt")["progress"]["step"]


@pytest.mark.parametrize("how", ["", "--overwrite", "--resume"])
def test_a_restart_goes_on_with_what_its_job_began(attempt, denoiser: Path, tmp_path: Path, how: str) -> None:
    """Not deleted by --overwrite, not refused, not gone back on to the FILE that --resume named."""
    flags = [how] if how else []
    if how:
        shutil.copytree(denoiser, tmp_path / "run")
    if how == "--resume":
        flags.append((tmp_path / "run/last.pt").rename(tmp_path / "run/checkpoint_epoch_2.pt"))
    before = 4 if how == "--resume" else 0
    assert attempt(0, *flags, before=DIES_IN_TRAINING.format(at=4)).code == -9
    assert steps(tmp_path / "run") == before + 3
    if how == "--resume":
        flags[1].unlink()  # as do newer numbered checkpoints
    for number, at in ((1, 3), (2, 99)):
        done = attempt(number, *flags, before=DIES_IN_TRAINING.format(at=at))
        assert GOES_ON in done.out and f"and {before + 3 + 2 * (number - 1)} steps." in done.out, done.out + done.err
    assert done.code == 0 and steps(tmp_path / "run") == 12


@pytest.mark.parametrize("how", ["", "--overwrite", "--resume"])
def test_a_restart_does_as_it_is_told_where_its_job_had_not_begun(
    attempt, denoiser: Path, tmp_path: Path, how: str
) -> None:
    """The run in the folder is an earlier one; its own died before it wrote anything."""
    shutil.copytree(denoiser, tmp_path / "run")
    flags = {"": [], "--overwrite": [how], "--resume": [how, tmp_path / "run/previous.pt"]}[how]
    if how == "--resume":
        earlier = checkpoints.load(tmp_path / "run/last.pt")
        checkpoints.save(flags[1], {**earlier, "progress": {**earlier["progress"], "seconds": 1e6}})
    (tmp_path / "run/.run.job").write_text("one")  # of a job long ago that was given the same name
    assert attempt(0, *flags, before=DIES_BEFORE_TRAINING if how else "").code == (-9 if how else 2)
    assert steps(tmp_path / "run") == 4, "nothing is deleted before the training starts"
    done = attempt(1, *flags)
    assert GOES_ON not in done.out
    if not how:
        failed(done, "already holds a training run")
    elif how == "--overwrite":
        assert done.code == 0 and "Resuming" not in done.out
    else:
        assert done.code == 0 and checkpoints.load(tmp_path / "run/last.pt")["progress"]["seconds"] > 1e6


def test_a_job_that_died_before_its_first_checkpoint_begins_again(attempt, denoiser: Path, tmp_path: Path) -> None:
    shutil.copytree(denoiser, tmp_path / "run")
    assert attempt(0, "--overwrite", before=DIES_IN_TRAINING.format(at=1)).code == -9
    assert not (tmp_path / "run/last.pt").exists()
    done = attempt(1, "--overwrite")
    assert done.code == 0 and "starting from the beginning" in done.out, done.out + done.err
    assert steps(tmp_path / "run") == 12


def test_the_restart_of_another_job_touches_nothing(attempt, tmp_path: Path) -> None:
    assert attempt(0, before=DIES_IN_TRAINING.format(at=4)).code == -9
    failed(attempt(1, job="two"), "already holds a training run")
    assert steps(tmp_path / "run") == 3


# What process 0 alone meets before the training, by script: what to do beforehand, and its message.
FULL = 'UserError("The disk is full: latents.\\nFree some space.")'
ONLY_FIRST = {
    "3A": ("", "already holds a training run"),
    "3B": (
        "import stepwise.training.encoding as module\nfrom stepwise.foundation.errors import UserError\n"
        f"def full(*_):\n    raise {FULL}\nmodule._encode = full\n",
        "The disk is full",
    ),
    "3C": (
        "import os\nimport stepwise.training.generate as module\nfrom stepwise.foundation.errors import UserError\n"
        f"def full(*_):\n    raise {FULL}\nif os.environ['RANK'] == '0':\n    module.generate = full\n",
        "The disk is full",
    ),
}


@pytest.mark.parametrize("script", list(ONLY_FIRST))
def test_the_others_do_not_bury_an_error_of_the_first(
    server: Server, images: Path, vae: Path, denoiser: Path, tmp_path: Path, script: str
) -> None:
    (tmp_path / "run").mkdir()
    if script == "3A":
        (tmp_path / "run/last.pt").touch()
    files = ("--vae-checkpoint", vae / "best_model.pt")
    flags = {
        "3A": ("--data-dir", images, *GRID_FLAGS, "--output-dir", tmp_path / "run"),
        "3B": (*files, "--image-dir", images, *DENOISER_FLAGS, "--output-dir", tmp_path / "run"),
        "3C": (*files, "--diffusion-checkpoint", denoiser / "best_model.pt", "--device", "cpu", "--steps", 2),
    }[script]
    output = ("--output", tmp_path / "images.png") if script == "3C" else ()
    before, message = ONLY_FIRST[script]
    first, second = run_together(server, 2, script, *flags, *output, before=before, whole=True)
    failed(first, message)
    failed(second, "Another process of this run has ended.", "Its own error says why.")
