"""The job files of cloud/, as far as they can be tried without the services: the jobs themselves run for real."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import DENOISER_FLAGS, GRID_FLAGS, draw_images
from launch import ENVIRONMENT, REPOSITORY, Server

from stepwise.foundation import checkpoints

CLOUD = REPOSITORY / "cloud"
SCHEDULERS = {
    "slurm": {"SLURM_SUBMIT_DIR": str(REPOSITORY), "SLURM_JOB_ID": "77"},
    "lsf": {"LS_SUBCWD": str(REPOSITORY), "LSB_JOBINDEX": "0"},
}
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture(scope="module")
def base(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder with prepared images of two classes, and in bin/ a scontrol that takes notes."""
    base = tmp_path_factory.mktemp("base folder")
    done = server.run("2A", "--data-dir", draw_images(base / "data"), "--base-dir", base, "--no-visualize")
    assert done.code == 0, done.err
    (base / "bin").mkdir()
    scontrol = base / "bin/scontrol"
    scontrol.write_text(f'#!/bin/bash\necho "$@" >> "{base}/requeued"\n')
    scontrol.chmod(0o755)
    return base


def start(base: Path, scheduler: str, *words: object, **more: str) -> subprocess.Popen:
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "PYTHONPATH"}
    environment |= SCHEDULERS[scheduler] | {"BASE_DIR": str(base), "PYTHON": sys.executable} | more
    environment["PATH"] = f"{base}/bin:{environment['PATH']}"
    command = ["bash", str(CLOUD / f"{scheduler}.sh"), *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(job: subprocess.Popen) -> str:
    said, _ = job.communicate(timeout=200)
    assert job.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def trained(base: Path) -> Path:
    finish(start(base, "slurm", "vae", *GRID_FLAGS, "--epochs", 1))
    return base


def test_an_array_task_trains_its_class_and_a_finished_one_ends_at_once(trained: Path) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "76", "SLURM_ARRAY_TASK_ID": "2"}
    finish(start(trained, "slurm", "diffusion", *DENOISER_FLAGS, "--epochs", 1, **array))
    folder = trained / "diffusion_models/class_0002"
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 1
    assert not checkpoints.load(folder / "best_model.pt")["classes"]
    assert "class_0002" in checkpoints.load(folder / "best_model.pt")["args"]["image_dir"]
    assert "done before" in finish(start(trained, "slurm", "diffusion", *DENOISER_FLAGS, "--epochs", 1, **array))
    assert not (trained / "requeued").exists()


@pytest.mark.parametrize(("scheduler", "gpus"), [("slurm", "1"), ("lsf", "1"), ("slurm", "2")])
def test_a_warning_saves_and_puts_the_job_back_and_it_goes_on(trained: Path, scheduler: str, gpus: str) -> None:
    folder = trained / "diffusion_models/corel_all"
    shutil.rmtree(folder, ignore_errors=True)
    (trained / "requeued").unlink(missing_ok=True)
    words = ("diffusion", *DENOISER_FLAGS, "--no-mixed-precision", "--early-stopping-patience", 0, "--epochs")
    job = start(trained, scheduler, *words, 100_000, GPUS=gpus)
    end = time.monotonic() + 150
    while not (folder / "last.pt").exists():
        assert job.poll() is None and time.monotonic() < end, job.communicate()[0]
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)  # to the batch shell alone, as Slurm does
    said, _ = job.communicate(timeout=100)
    if scheduler == "slurm":
        assert job.returncode == 0, said
        assert (trained / "requeued").read_text().split() == ["requeue", "77"]
    else:
        assert job.returncode == 99, said
    step = checkpoints.load(folder / "last.pt")["progress"]["step"]
    assert step > 0 and not (folder / "summary.json").exists()
    epochs = checkpoints.load(folder / "last.pt")["progress"]["epoch"] + 1
    said = finish(start(trained, scheduler, *words, epochs))
    assert f"{step} steps" in said
    assert json.loads((folder / "summary.json").read_text())["epochs"] == epochs


def test_mistakes_are_named(base: Path) -> None:
    said, _ = (job := start(base, "slurm", "diffusion", SLURM_ARRAY_TASK_ID="9")).communicate()
    assert job.returncode == 2 and "no class number 9" in said
    said, _ = (job := start(base, "lsf", "everything")).communicate()
    assert job.returncode == 2 and "'everything'" in said


@pytest.mark.parametrize("name", ["job.sh", "slurm.sh", "lsf.sh"])
def test_shell_syntax(name: str) -> None:
    subprocess.run(["bash", "-n", CLOUD / name], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-x", "-e", "SC1091,SC2034", "-s", "bash", CLOUD / name], check=True)


def test_directives() -> None:
    slurm = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", (CLOUD / "slurm.sh").read_text(), re.MULTILINE))
    assert slurm["signal"] == "B:USR1@120" and "requeue" in slurm and slurm["open-mode"] == "append"
    lsf = dict(re.findall(r"^#BSUB -([A-Za-z]+)(?: (.+))?$", (CLOUD / "lsf.sh").read_text(), re.MULTILINE))
    assert lsf["wa"] == "USR1" and lsf["wt"] == "2" and lsf["Q"] == "99" and "r" in lsf


def test_sky_task_has_known_keys_only() -> None:
    """The keys of SkyPilot's task format that are used here."""
    task = yaml.safe_load((CLOUD / "sky.yaml").read_text())
    assert set(task) <= {"name", "resources", "workdir", "envs", "file_mounts", "setup", "run"}
    assert set(task["resources"]) <= {"any_of", "cpus", "use_spot", "disk_size", "job_recovery"}
    assert task["resources"]["use_spot"] is True
    assert all(set(choice) == {"accelerators"} for choice in task["resources"]["any_of"])
    (place, bucket), *others = ((k, v) for k, v in task["file_mounts"].items() if isinstance(v, dict))
    assert not others and set(bucket) <= {"name", "store", "mode"} and bucket["mode"] == "MOUNT_CACHED"
    training = [line for line in task["run"].splitlines() if line.startswith("  $train") or line.startswith("$train")]
    assert len(training) == 2
    for line in training:
        assert "--resume auto" in line and f"--base-dir {place}" in line
        assert (REPOSITORY / line.split()[1]).exists()
    for text in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_dockerfile_copies_what_exists_and_runs_as_nobody_special() -> None:
    lines = re.sub(r"\\\n", " ", (CLOUD / "Dockerfile").read_text()).splitlines()
    steps = [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]
    assert steps[0][0] == "FROM" and ":" in steps[0][1] and not steps[0][1].endswith(":latest")
    users = [value for key, value in steps if key == "USER"]
    assert users and users[-1] not in ("root", "0")
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    for source in (word for key, value in steps if key == "COPY" for word in value.split()[:-1]):
        assert (REPOSITORY / source).exists() and f"!{source}" in ignored
    assert json.loads(dict(steps)["ENTRYPOINT"]) == ["python"]
    assert (REPOSITORY / json.loads(dict(steps)["CMD"])[0]).exists()
    assert "/cuda:" in steps[0][1]
