"""The job files of cloud/, as far as they can be tried without the services: the jobs themselves run for real."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import DENOISER_FLAGS, GRID_FLAGS, draw_images
from launch import ENVIRONMENT, REPOSITORY, Server, wait_for

from stepwise.foundation import checkpoints

CLOUD = REPOSITORY / "cloud"
SCHEDULERS = {
    "slurm": {"SLURM_SUBMIT_DIR": str(REPOSITORY), "SLURM_JOB_ID": "77"},
    "lsf": {"LS_SUBCWD": str(REPOSITORY), "LSB_JOBINDEX": "0", "LSB_JOBID": "77"},
}
LSF_LOG = "stepwise-77-0.log"
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
    (base / LSF_LOG).unlink(missing_ok=True)
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def end(job: subprocess.Popen, base: Path, code: int = 0) -> str:
    """What the job said, on its output or in the log that lsf.sh keeps."""
    said, _ = job.communicate(timeout=200)
    log = base / LSF_LOG
    said += log.read_text() if log.exists() else ""
    assert job.returncode == code, said
    return said


@pytest.fixture(scope="module")
def trained(base: Path) -> Path:
    end(start(base, "slurm", "vae", *GRID_FLAGS, "--epochs", 1), base)
    return base


def test_an_array_task_trains_its_class_and_a_finished_one_ends_at_once(trained: Path) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "76", "SLURM_ARRAY_TASK_ID": "2"}
    end(start(trained, "slurm", "diffusion", *DENOISER_FLAGS, "--epochs", 1, **array), trained)
    folder = trained / "diffusion_models/class_0002"
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 1
    assert not checkpoints.load(folder / "best_model.pt")["classes"]
    assert "class_0002" in checkpoints.load(folder / "best_model.pt")["args"]["image_dir"]
    assert "done before" in end(start(trained, "slurm", "diffusion", *DENOISER_FLAGS, "--epochs", 1, **array), trained)
    assert not (trained / "requeued").exists()


@pytest.mark.parametrize(
    ("scheduler", "gpus"), [("slurm", "1"), ("lsf", "1"), pytest.param("slurm", "2", marks=pytest.mark.slow)]
)
def test_a_warning_saves_and_puts_the_job_back_and_it_goes_on(trained: Path, scheduler: str, gpus: str) -> None:
    folder = trained / "diffusion_models/corel_all"
    shutil.rmtree(folder, ignore_errors=True)
    (trained / "requeued").unlink(missing_ok=True)
    words = ("diffusion", *DENOISER_FLAGS, "--no-mixed-precision", "--early-stopping-patience", 0, "--epochs")
    job = start(trained, scheduler, *words, 100_000, GPUS=gpus)
    wait_for((folder / "last.pt").exists, 150, job)
    if scheduler == "slurm":
        job.send_signal(signal.SIGUSR1)  # to the batch shell alone
        end(job, trained)
        assert (trained / "requeued").read_text().split() == ["requeue", "77"]
    else:
        os.killpg(job.pid, signal.SIGUSR1)  # to all processes of the job
        end(job, trained, 99)
    step = checkpoints.load(folder / "last.pt")["progress"]["step"]
    assert step > 0 and not (folder / "summary.json").exists()
    epochs = checkpoints.load(folder / "last.pt")["progress"]["epoch"] + 1
    said = end(start(trained, scheduler, *words, epochs), trained)
    assert f"{step} steps" in said
    assert json.loads((folder / "summary.json").read_text())["epochs"] == epochs


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_a_cancelled_job_stays_out_of_the_queue(trained: Path, scheduler: str) -> None:
    """With a stand-in for the interpreter, that saves and ends with 143 as the scripts do."""
    (trained / "requeued").unlink(missing_ok=True)
    standin = trained / "bin/standin"
    standin.write_text(f"#!/bin/bash\ntrap 'exit 143' TERM\ntouch '{trained}/ready'\nsleep 60 &\nwait\n")
    standin.chmod(0o755)
    array = {"SLURM_ARRAY_JOB_ID": "76", "SLURM_ARRAY_TASK_ID": "1", "LSB_JOBINDEX": "1"}
    job = start(trained, scheduler, "diffusion", PYTHON=str(standin), **array)
    wait_for((trained / "ready").exists, 20, job)
    (trained / "ready").unlink()
    os.killpg(job.pid, signal.SIGTERM)
    job.communicate(timeout=20)
    assert job.returncode == 143
    assert not (trained / "requeued").exists()


def test_mistakes_are_named(base: Path) -> None:
    assert "no class number 9" in end(start(base, "slurm", "diffusion", SLURM_ARRAY_TASK_ID="9"), base, 2)
    assert "'everything'" in end(start(base, "lsf", STAGE="everything"), base, 2)


def test_another_output_folder_is_another_run(trained: Path) -> None:
    """What is done is looked for where it will be written; flags that would go past that are refused."""
    for words in (("--output-dir", "vae_models/two"), (f"--output-dir={trained}/vae_models/three",)):
        said = end(start(trained, "slurm", "vae", *GRID_FLAGS, "--epochs", 1, *words), trained)
        assert "done before" not in said
        assert "done before" in end(start(trained, "slurm", "vae", *GRID_FLAGS, "--epochs", 1, *words), trained)
    assert all((trained / "vae_models" / name / "best_model.pt").exists() for name in ("two", "three"))
    words = ("diffusion", "--output-dir", "all")
    assert "--output-dir" in end(start(trained, "slurm", *words, SLURM_ARRAY_TASK_ID="2"), trained, 2)
    for word in ("--base-dir=x", "--overwrite", "--resume"):
        assert "BASE_DIR" in end(start(trained, "lsf", "vae", word), trained, 2)


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
    """Keys of docs.skypilot.co/en/latest/reference/yaml-spec.html and .../storage.html."""
    task = yaml.safe_load((CLOUD / "sky.yaml").read_text())
    top = "name workdir num_nodes resources envs secrets volumes file_mounts setup run config"
    hardware = "infra accelerators accelerator_args cpus memory instance_type use_spot disk_size disk_tier network_tier"
    more = "max_hourly_cost image_id ports labels autostop any_of ordered job_recovery"
    assert set(task) <= set(top.split())
    for resources in (task["resources"], *task["resources"]["any_of"]):
        assert set(resources) <= {*hardware.split(), *more.split()}
    assert set(task["resources"]["job_recovery"]) <= {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}
    assert task["resources"]["use_spot"] is True
    assert all(re.fullmatch(r"\w+:\d+", one["accelerators"]) for one in task["resources"]["any_of"])
    bucket = task["file_mounts"]["/base"]
    assert set(bucket) <= {"name", "source", "store", "mode", "persistent"}
    assert bucket["mode"] == "MOUNT_CACHED" and bucket["name"] == "${BUCKET}" and "BUCKET" in task["envs"]
    for text in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_sky_task_trains(server: Server, tmp_path: Path) -> None:
    """Its `run` with paths of the test, and an interpreter that takes notes: the scripts accept the flags."""
    notes = tmp_path / "notes"
    for name in ("python", "torchrun"):
        (tmp_path / name).write_text(f'#!/bin/bash\necho "$@" >> "{notes}"\n')
        (tmp_path / name).chmod(0o755)
    text = yaml.safe_load((CLOUD / "sky.yaml").read_text())["run"].replace(". ~/venv/bin/activate", "")
    environment = {**ENVIRONMENT, "PATH": f"{tmp_path}:{ENVIRONMENT['PATH']}", "HOME": str(tmp_path)}
    for gpus in ("1", "4"):
        done = subprocess.run(["bash"], input=text, text=True, env={**environment, "SKYPILOT_NUM_GPUS_PER_NODE": gpus})
        assert done.returncode == 0
    lines = notes.read_text().splitlines()
    assert [line.startswith("--standalone --nproc-per-node 4") for line in lines] == [False] * 4 + [True] * 2
    for line in lines[:3]:
        script, *flags = line.split()
        answer = server.run(Path(script).name[:2], *flags, "--base-dir", tmp_path)
        assert "does not exist" in answer.err or "not found" in answer.err, answer.err


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
