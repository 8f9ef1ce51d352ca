"""Runs that are killed, stopped, damaged, poisoned or started twice."""

from __future__ import annotations

import shutil
import signal
import textwrap
import time
from pathlib import Path

import kill_storm
import pytest
import torch
from conftest import DENOISER_FLAGS, GRID_FLAGS
from kill_storm import SAVE_ALWAYS, differences
from launch import Server, failed

from stepwise.foundation import checkpoints

EPOCHS = 4  # of two steps each
# Sends this process a signal in the middle of training step `at`.
SIGNAL_AT_STEP = """
import os, signal
import stepwise.training.learner as learner
update = learner.Learner.update
calls = 0
def interrupted(self, loss):
    global calls
    calls += 1
    if calls == {at}:
        os.kill(os.getpid(), signal.{name})
    return update(self, loss)
learner.Learner.update = interrupted
"""
POISON = """
import stepwise.training.learner as learner
update = learner.Learner.update
calls = 0
def poisoned(self, loss):
    global calls
    calls += 1
    return update(self, loss * float("nan") if {when} else loss)
learner.Learner.update = poisoned
"""


def flags_of(script: str, images: Path, vae: Path, output: Path) -> list[object]:
    if script == "3A":
        return ["--data-dir", images, *GRID_FLAGS, "--output-dir", output, "--epochs", EPOCHS]
    files = ["--vae-checkpoint", vae / "best_model.pt", "--image-dir", images, "--output-dir", output]
    return [*files, *DENOISER_FLAGS, "--epochs", EPOCHS]


@pytest.fixture(scope="module")
def calm(server: Server, images: Path, vae: Path) -> dict[str, Path]:
    """Runs of 3A and 3B that nothing happened to."""
    folders = {script: images.parent / f"calm-{script}" for script in ("3A", "3B")}
    for script, folder in folders.items():
        done = server.run(script, *flags_of(script, images, vae, folder))
        assert done.code == 0, done.err
    return folders


@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_kill_storm(server: Server, tmp_path: Path, rounds: int) -> None:
    good, kills = kill_storm.rounds(rounds, 0, tmp_path, server)
    assert good == rounds
    assert kills >= rounds


@pytest.mark.parametrize(
    ("script", "name", "code"),
    [
        ("3A", "SIGTERM", 143),
        ("3A", "SIGUSR1", 0),
        ("3B", "SIGINT", 130),
        ("3B", "SIGTERM", 143),
        ("3B", "SIGHUP", 129),
    ],
)
def test_stop_signal_saves_and_resumes_alike(
    server: Server, images: Path, vae: Path, calm: dict[str, Path], tmp_path: Path, script: str, name: str, code: int
) -> None:
    flags = flags_of(script, images, vae, tmp_path / "run")
    heard = f"import signal\nsignal.signal(signal.{name}, signal.SIG_DFL)\n"  # also where nohup started the tests
    stopped = server.run(script, *flags, before=heard + SIGNAL_AT_STEP.format(at=5, name=name))
    assert stopped.code == code, stopped.out + stopped.err
    assert "Traceback" not in stopped.err
    assert checkpoints.load(tmp_path / "run/last.pt")["progress"]["step"] == 5
    line = stopped.out.splitlines()[-1]
    assert name in line
    assert "--resume auto" in line
    assert "last.pt" in line
    resumed = server.run(script, *flags, "--resume", "auto")
    assert resumed.code == 0, resumed.err
    assert "5 steps" in resumed.out
    assert differences(calm[script], tmp_path / "run") == []


def test_what_nohup_started_goes_on_when_the_terminal_is_gone(
    server: Server, images: Path, vae: Path, tmp_path: Path
) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    flags = flags_of("3B", images, vae, tmp_path / "run")
    done = server.run("3B", *flags, before=deaf + SIGNAL_AT_STEP.format(at=5, name="SIGHUP"))
    assert done.code == 0 and (tmp_path / "run/summary.json").exists(), done.err


def test_a_stop_signal_saves_where_nobody_reads_the_output_any_more(
    server: Server, images: Path, vae: Path, tmp_path: Path
) -> None:
    """Ctrl-C ends `| tee log` too: from then on every write to the screen fails."""
    nobody = """
import os
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
os.dup2(writer, 2)
"""
    before = SIGNAL_AT_STEP.format(at=5, name="SIGINT")
    before = before.replace("        os.kill", textwrap.indent(nobody, "        ") + "        os.kill")
    flags = flags_of("3B", images, vae, tmp_path / "run")
    assert server.run("3B", *flags, before=before).code == 130
    assert checkpoints.load(tmp_path / "run/last.pt")["progress"]["step"] == 5


def test_a_run_without_time_to_train_says_so(server: Server, images: Path, vae: Path, tmp_path: Path) -> None:
    slow = """
import time
import stepwise.training.encoding as encoding
encode = encoding.encode_folder
def slowly(*given):
    time.sleep(3)
    return encode(*given)
encoding.encode_folder = slowly
"""
    flags = [*flags_of("3B", images, vae, tmp_path / "run")[:-2], "--max-minutes", 0.04]
    done = server.run("3B", *flags, before=slow)
    assert done.code == 0 and "minutes went into reading" in done.out and "--max-minutes" in done.out, done.out


def test_a_run_with_a_discriminator_resumes_alike(server: Server, images: Path, vae: Path, tmp_path: Path) -> None:
    judged = ("--adversarial-weight", 0.5, "--adversarial-start", 0.25)
    for name in ("calm", "run"):
        flags = (*flags_of("3A", images, vae, tmp_path / name), *judged)
        before = SIGNAL_AT_STEP.format(at=6, name="SIGTERM") if name == "run" else ""
        assert server.run("3A", *flags, before=before).code == (143 if before else 0)
    assert checkpoints.load(tmp_path / "run/last.pt")["nets"]["discriminator"]["counters"][0] > 0
    assert server.run("3A", *flags, "--resume", "auto").code == 0
    assert differences(tmp_path / "calm", tmp_path / "run") == []


def test_stop_in_the_last_preview(
    server: Server, images: Path, vae: Path, calm: dict[str, Path], tmp_path: Path
) -> None:
    before = """
import os, signal
from stepwise.training.denoising import DenoiserMonitor
preview = DenoiserMonitor.preview
def interrupted(*given):
    os.kill(os.getpid(), signal.SIGTERM)
    preview(*given)
DenoiserMonitor.preview = interrupted
"""
    flags = flags_of("3B", images, vae, tmp_path / "run")
    stopped = server.run("3B", *flags, before=before)
    assert stopped.code == 143 and "saved" in stopped.out and "--resume auto" in stopped.out, stopped.out
    assert not (tmp_path / "run/summary.json").exists()
    assert server.run("3B", *flags, "--resume", "auto").code == 0
    assert differences(calm["3B"], tmp_path / "run") == []


def test_another_course_from_an_older_checkpoint_has_a_best_of_its_own(
    server: Server, images: Path, vae: Path, tmp_path: Path
) -> None:
    """What the first course reached after that checkpoint is set aside: the second one never had those weights."""
    flags = flags_of("3A", images, vae, tmp_path / "run")
    assert server.run("3A", *flags, before=SIGNAL_AT_STEP.format(at=3, name="SIGTERM")).code == 143
    older = shutil.copy(tmp_path / "run/last.pt", tmp_path / "run/older.pt")
    assert server.run("3A", *flags, "--resume", "auto").code == 0
    first = checkpoints.load(tmp_path / "run/best_model.pt")["best"]
    assert first["epoch"] > 1, "or this shows nothing"
    done = server.run("3A", *flags, "--resume", older, "--learning-rate", 0.2)
    assert done.code == 0, done.err
    best, last = (checkpoints.load(tmp_path / "run" / name)["best"] for name in ("best_model.pt", "last.pt"))
    assert best == last != first
    assert checkpoints.load(tmp_path / "run/best_model.before.pt")["best"] == first


def test_stop_from_outside_within_ten_seconds(server: Server, images: Path, vae: Path, tmp_path: Path) -> None:
    flags = [*flags_of("3A", images, vae, tmp_path / "run")[:-1], 100000]
    process = server.start("3A", *flags, before=SAVE_ALWAYS)
    end = time.monotonic() + 60
    while not (tmp_path / "run/previous.pt").exists():
        assert process.poll() is None, process.err
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send(signal.SIGTERM)
    assert process.wait(10) == 143
    assert (tmp_path / "run/last.pt").exists()


@pytest.mark.parametrize("script", ["3A", "3B"])
def test_stop_before_training_begins(server: Server, images: Path, vae: Path, tmp_path: Path, script: str) -> None:
    before = """
import os, signal, sys
sent = []
def when_the_first_image_is_opened(event, arguments):
    if event == "open" and str(arguments[0]).endswith("0001_0001.png") and not sent:
        sent.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
sys.addaudithook(when_the_first_image_is_opened)
"""
    flags = flags_of(script, images, vae, tmp_path / "run")
    stopped = server.run(script, *flags, before=before)
    assert stopped.code == 143, stopped.out + stopped.err
    assert "Traceback" not in stopped.err
    assert "SIGTERM" in stopped.out
    assert server.run(script, *flags, "--resume", "auto").code == 0


def copy_run(source: Path, target: Path, *names: str) -> None:
    target.mkdir()
    for name in names:
        (target / name).write_bytes((source / "last.pt").read_bytes())


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("other", ["previous.pt", "checkpoint_0020.pt"])
def test_resume_falls_back(
    server: Server, images: Path, vae: Path, calm: dict[str, Path], tmp_path: Path, other: str
) -> None:
    copy_run(calm["3A"], tmp_path / "run", "last.pt", other)
    damage(tmp_path / "run/last.pt")
    done = server.run("3A", *flags_of("3A", images, vae, tmp_path / "run"), "--resume", "auto")
    assert done.code == 0, done.err
    warning = next(line for line in done.out.splitlines() if line.startswith("Warning: "))
    assert str(tmp_path / "run/last.pt") in warning
    assert str(tmp_path / "run" / other) in warning
    assert checkpoints.load(tmp_path / "run/last.pt")["progress"]["step"] == 2 * EPOCHS


def test_all_damaged(server: Server, images: Path, vae: Path, calm: dict[str, Path], tmp_path: Path) -> None:
    names = ("last.pt", "previous.pt", "checkpoint_0020.pt")
    copy_run(calm["3A"], tmp_path / "run", *names)
    for name in names:
        damage(tmp_path / "run" / name)
    done = server.run("3A", *flags_of("3A", images, vae, tmp_path / "run"), "--resume", "auto")
    failed(done, *names, "--overwrite")


def test_resume_needs_the_same_script_flags_and_file(
    server: Server, images: Path, vae: Path, calm: dict[str, Path], tmp_path: Path
) -> None:
    flags = flags_of("3A", images, vae, tmp_path / "run")
    failed(server.run("3A", *flags, "--resume", tmp_path / "absent.pt"), "absent.pt does not exist")
    failed(server.run("3A", *flags, "--resume", calm["3B"] / "last.pt"), "not a resumable one of 3A")
    failed(server.run("3A", *flags, "--resume", calm["3A"] / "best_model.pt"), "not a resumable one of 3A")
    failed(server.run("3A", *flags, "--seed", 7, "--resume", calm["3A"] / "last.pt"), "--seed 42 (now 7)")


def test_finished_run_resumes_to_itself(
    server: Server, images: Path, vae: Path, calm: dict[str, Path], tmp_path: Path
) -> None:
    before = (calm["3A"] / "metrics.csv").read_bytes(), (calm["3A"] / "best_model.pt").read_bytes()
    done = server.run("3A", *flags_of("3A", images, vae, calm["3A"]), "--resume", "auto")
    assert done.code == 0, done.err
    assert ((calm["3A"] / "metrics.csv").read_bytes(), (calm["3A"] / "best_model.pt").read_bytes()) == before


def test_folder_with_a_run_is_not_overwritten(
    server: Server, images: Path, vae: Path, calm: dict[str, Path], tmp_path: Path
) -> None:
    for script, folder in calm.items():
        before = {path: path.read_bytes() for path in folder.glob("*.pt")}
        done = server.run(script, *flags_of(script, images, vae, folder))
        failed(done, str(folder), "--resume auto", "--overwrite", "--output-dir")
        assert {path: path.read_bytes() for path in folder.glob("*.pt")} == before


def test_two_runs_in_one_folder(server: Server, images: Path, vae: Path, tmp_path: Path) -> None:
    flags = [*flags_of("3A", images, vae, tmp_path / "run")[:-1], 100000]
    first = server.start("3A", *flags)
    end = time.monotonic() + 60
    while not (tmp_path / "run/.run.owner").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    second = server.run("3A", *flags, "--overwrite")
    first.send(signal.SIGKILL)
    first.wait()
    failed(second, "Another run is writing into", "--output-dir")


@pytest.mark.parametrize("script", ["3A", "3B"])
def test_bad_steps_leave_the_weights_finite(
    server: Server, images: Path, vae: Path, tmp_path: Path, script: str
) -> None:
    flags = flags_of(script, images, vae, tmp_path / "run")
    done = server.run(script, *flags, before=POISON.format(when="calls in (1, 4, 5)"))
    assert done.code == 0, done.err
    document = checkpoints.load(tmp_path / "run/last.pt")
    for tensor in checkpoints.tensors_in(document["nets"]):
        assert torch.isfinite(tensor.float()).all()
    assert next(iter(document["nets"].values()))["counters"][0] == 2 * EPOCHS - 3


def test_bad_steps_in_a_row_end_the_run_and_its_advice_works(
    server: Server, images: Path, vae: Path, tmp_path: Path
) -> None:
    flags = [*flags_of("3B", images, vae, tmp_path / "run")[:-1], 12]
    done = server.run("3B", *flags, before=SAVE_ALWAYS + POISON.format(when="calls > 5"))
    message = failed(done, "10 steps in a row", "learning rate", "--resume auto")
    document = checkpoints.load(tmp_path / "run/last.pt")
    assert all(torch.isfinite(tensor.float()).all() for tensor in checkpoints.tensors_in(document["nets"]))
    assert "--no-mixed-precision" in message
    again = server.run("3B", *flags, "--lr", "1e-5", "--no-mixed-precision", "--resume", "auto")
    assert again.code == 0, f"the advice is refused: {again.err}"


def test_disk_full_while_training(server: Server, images: Path, vae: Path, tmp_path: Path) -> None:
    before = SAVE_ALWAYS + (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
    )
    done = server.run("3A", *flags_of("3A", images, vae, tmp_path / "run"), before=before)
    failed(done, "The disk is full", "bytes", "--resume auto")
    assert list((tmp_path / "run").glob(".*.tmp")) == []
