"""The job files of cloud/, as far as they can be tried without the services: the jobs themselves run for real."""

from __future__ import annotations

import json
import os
import re
import shlex
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
DONE = "Stopped: all 1 epochs done."
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
    environment |= SCHEDULERS[scheduler] | {"BASE_DIR": str(base), "PYTHON": sys.executable, "DEVICE": "cpu"} | more
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


@pytest.fixture
def standin(tmp_path: Path) -> Path:
    """An interpreter that notes its words in the file `notes` beside it."""
    path = tmp_path / "standin"
    path.write_text(f'#!/bin/bash\necho "$@" >> "{tmp_path}/notes"\n')
    path.chmod(0o755)
    return path


def stage(base: Path, *words: str, **more: str) -> subprocess.CompletedProcess:
    """job.sh alone, with a base folder that is named relative to where it runs."""
    command = ["bash", "-c", f'. "{CLOUD}/job.sh"; stage "$@"', "stage", *words]
    own = {name: value for name, value in ENVIRONMENT.items() if name not in ("GPUS", "DEVICE")}
    environment = {**own, "BASE_DIR": base.name, **more}
    return subprocess.run(command, cwd=base.parent, env=environment, capture_output=True, text=True, timeout=60)


def test_an_array_task_trains_its_class_and_a_finished_one_ends_at_once(trained: Path) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "76", "SLURM_ARRAY_TASK_ID": "2"}
    end(start(trained, "slurm", "diffusion", *DENOISER_FLAGS, "--epochs", 1, **array), trained)
    folder = trained / "diffusion_models/class_0002"
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 1
    assert not checkpoints.load(folder / "best_model.pt")["classes"]
    assert "class_0002" in checkpoints.load(folder / "best_model.pt")["args"]["image_dir"]
    said = end(start(trained, "slurm", "diffusion", *DENOISER_FLAGS, "--epochs", 1, **array), trained)
    assert "Resuming after 1 epochs" in said and DONE in said
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 1
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
    """Flags that would go past the settings are refused."""
    for words in (("--output-dir", "vae_models/two"), (f"--output-dir={trained}/vae_models/three",)):
        said = end(start(trained, "slurm", "vae", *GRID_FLAGS, "--epochs", 1, *words), trained)
        assert "Resuming" not in said and DONE in said
    assert all((trained / "vae_models" / name / "best_model.pt").exists() for name in ("two", "three"))
    words = ("diffusion", "--output-dir", "all")
    assert "--output-dir" in end(start(trained, "slurm", *words, SLURM_ARRAY_TASK_ID="2"), trained, 2)
    for word in ("--base-dir=x", "--overwrite", "--resume"):
        assert "BASE_DIR" in end(start(trained, "lsf", "vae", word), trained, 2)


def test_a_finished_run_can_be_lengthened_and_is_not_done_until_it_has_ended_again(
    server: Server, trained: Path
) -> None:
    longer = (*GRID_FLAGS, "--output-dir", "vae_models/longer", "--epochs")
    folder = trained / "vae_models/longer"
    stop_it = (
        "import os, signal\nimport stepwise.training.learner as learner\nupdate = learner.Learner.update\n"
        "def stopped(self, loss):\n    os.kill(os.getpid(), signal.SIGUSR1)\n    return update(self, loss)\n"
        "learner.Learner.update = stopped\n"
    )
    run = ("--data-dir", "training_data/corel/corel_all", "--base-dir", trained, "--resume", "auto")
    for epochs, before, done in ((1, "", True), (1, stop_it, True), (2, stop_it, False)):
        process = server.run("3A", *run, *longer, epochs, before=before)
        assert process.code == 0, process.err
        assert (folder / "summary.json").exists() is done, process.out
    end(start(trained, "slurm", "vae", *longer, 2), trained)
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 2


def test_a_stop_before_a_lengthened_run_goes_on_is_no_end(tmp_path: Path, standin: Path) -> None:
    """The summary.json that it finds is of the end before."""
    summary = tmp_path / "vae_models/summary.json"
    summary.parent.mkdir()
    summary.write_text("{}")
    stop = "#!/bin/bash\ntrap '' USR1\nkill -USR1 $PPID\nsleep 0.3\n"
    for script, code in ((stop, 99), (f"{stop}echo new > '{summary}'\n", 0), ("#!/bin/bash\nexit 2\n", 2)):
        standin.write_text(script)
        assert stage(tmp_path, "vae", PYTHON=str(standin)).returncode == code


def test_the_device_is_a_gpu_unless_said_otherwise_and_several_processes_get_a_second_try(
    tmp_path: Path, standin: Path
) -> None:
    for more in ({}, {"DEVICE": "cpu", "GPUS": "2"}):
        assert stage(tmp_path, "vae", PYTHON=str(standin), **more).returncode == 0
    alone, several = (tmp_path / "notes").read_text().splitlines()
    assert "--device cuda" in alone and "--max-restarts" not in alone
    assert "--device cpu" in several and "--nproc-per-node 2 --max-restarts 1 codes/3A" in several


def test_an_exported_cdpath_says_nothing_into_the_name_of_a_class(tmp_path: Path, standin: Path) -> None:
    (tmp_path / "training_data/corel/class_0001").mkdir(parents=True)
    done = stage(tmp_path, "diffusion", "1", PYTHON=str(standin), CDPATH=str(tmp_path.parent))
    assert done.returncode == 0, done.stderr
    assert "--image-dir training_data/corel/class_0001" in (tmp_path / "notes").read_text()


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


def sky_task(folder: Path, python: str, gpus: str) -> subprocess.Popen:
    """Its `run` in a home of the test, with `python` (lines of bash) for the interpreter."""
    (folder / "python").write_text(f"#!/bin/bash\n{python}\n")
    (folder / "python").chmod(0o755)
    text = yaml.safe_load((CLOUD / "sky.yaml").read_text())["run"].replace(". ~/venv/bin/activate", "")
    environment = {**ENVIRONMENT, "PATH": f"{folder}:{ENVIRONMENT['PATH']}", "HOME": str(folder)}
    return subprocess.Popen(
        ["bash", "-c", text], env={**environment, "SKYPILOT_NUM_GPUS_PER_NODE": gpus}, cwd=REPOSITORY
    )


def test_sky_task_trains(server: Server, tmp_path: Path) -> None:
    """With an interpreter that takes notes: the scripts accept the flags."""
    for gpus in ("1", "4"):
        assert sky_task(tmp_path, f'echo "$@" >> "{tmp_path}/notes"', gpus).wait(20) == 0
    lines = (tmp_path / "notes").read_text().splitlines()
    assert ["--standalone --nproc-per-node 4" in line for line in lines] == [False] * 4 + [True] * 2
    for line in lines[:3]:
        script, *flags = line.removeprefix("-u ").split()
        answer = server.run(Path(script).name[:2], *flags, "--base-dir", tmp_path)
        assert "does not exist" in answer.err or "not found" in answer.err, answer.err
    assert all("--device cuda" in line and "--base-dir /base" in line for line in lines[1:3])


@pytest.mark.parametrize("gpus", ["1", "4"])
def test_sky_task_that_is_stopped_says_so(tmp_path: Path, gpus: str) -> None:
    """With 143, for which job_recovery waits, though torchrun ends with 1; and nothing is trained after that."""
    training = f"trap 'exit 1' TERM; echo \"$@\" >> '{tmp_path}/notes'; touch '{tmp_path}/ready'; sleep 20 & wait"
    task = sky_task(tmp_path, f"case $* in *2A*) ;; *) {training} ;; esac", gpus)
    wait_for((tmp_path / "ready").exists, 20)
    task.terminate()
    assert task.wait(10) == 143
    assert len((tmp_path / "notes").read_text().splitlines()) == 1


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


@pytest.mark.parametrize(("cuda", "code"), [("13.2", 0), ("14.0", 1), (None, 1)])
def test_the_image_is_not_built_with_a_torch_of_another_cuda(tmp_path: Path, cuda: str | None, code: int) -> None:
    text = re.sub(r"\\\n", " ", (CLOUD / "Dockerfile").read_text())
    check = next(line for line in text.splitlines() if line.startswith("RUN ") and "import os, sys, torch" in line)
    image = re.search(r"^FROM nvidia/cuda:([\d.]+)", text, re.MULTILINE)[1]
    (tmp_path / "torch.py").write_text(f"class version:\n    cuda = {cuda!r}\n")
    command = check.removeprefix("RUN ").replace("/opt/venv/bin/python", shlex.quote(sys.executable))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VERSION": image}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert (cuda or "none") in done.stderr or not code
