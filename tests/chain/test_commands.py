"""Every command line of the README, and of the coursework's guide, runs as it is written.

Flags that make the runs small are appended; nothing of the lines themselves is changed, except that
the cloud volume /workspace lies in the test's folder.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import launch
import numpy as np
import pytest
from PIL import Image

SMALL = {
    "1A": "--per-class 6 --image-size 48",
    "2A": "--num-workers 0",
    "3A": "--image-size 32 --base-channels 8 --epochs 1 --num-workers 0 --perceptual-net pyramid",
    "3B": "--base-channels 16 --layers 1 --augment-variants 2 --epochs 2 --num-workers 0 --timesteps 60",
    "3C": "--num-images 4",
    "3D": "--cas-steps 5 --cas-seeds 1 --num-images 8 --steps 4 --features cas",
    "3E": "",
    "comparison": "--regimes unified --minutes 0.01 --image-size 32 --num-images 4 --num-workers 0",
}
GUIDE = """
python 2A-prepare_corel_dataset.py --data-dir data/corel --base-dir .
python 3A-train-vae-corel.py --data-dir training_data/corel/corel_all --output-dir vae_models
python 3A-train-vae-corel.py --data-dir training_data/corel/class_0001 --output-dir vae_models/class_0001
python 3A-train-vae-corel.py --data-dir training_data/corel/corel_all --output-dir vae_models --epochs 400 \
  --latent-dim 256 --batch-size 32
python 3A-train-vae-corel.py --data-dir training_data/corel/corel_all --output-dir vae_models --epochs 300
python 3B-train-diffusion-from-scratch-corel.py --vae-checkpoint vae_models/best_model.pt \
  --image-dir training_data/corel/corel_all --output-dir diffusion_models
python 3B-train-diffusion-from-scratch-corel.py --vae-checkpoint vae_models/class_0001/best_model.pt \
  --image-dir training_data/corel/class_0001 --output-dir diffusion_models/class_0001
python 3B-train-diffusion-from-scratch-corel.py --vae-checkpoint vae_models/best_model.pt \
  --image-dir training_data/corel/corel_all --output-dir diffusion_models --epochs 600 --batch-size 8 --grad-accum 2
python 3B-train-diffusion-from-scratch-corel.py --vae-checkpoint vae_models/best_model.pt \
  --image-dir training_data/corel/corel_all --output-dir diffusion_models --epochs 500
python 3C-generate-samples-corel.py --diffusion-checkpoint diffusion_models/best_model.pt \
  --vae-checkpoint vae_models/best_model.pt --output generated_images.png
python 3C-generate-samples-corel.py --diffusion-checkpoint diffusion_models/best_model.pt \
  --vae-checkpoint vae_models/best_model.pt --num-images 32 --ddim-steps 50 --output generated_images.png
python 3C-generate-samples-corel.py --diffusion-checkpoint diffusion_models/best_model.pt \
  --vae-checkpoint vae_models/best_model.pt --num-images 64 --ddim-steps 50 --output corel_64_images.png --nrow 8
python 3C-generate-samples-corel.py --diffusion-checkpoint diffusion_models/best_model.pt \
  --vae-checkpoint vae_models/best_model.pt --num-images 16 --output corel_generated.png
python 3A-train-vae-corel.py --data-dir training_data/corel/corel_all --output-dir /workspace/vae_models \
  --base-dir /workspace
python 3B-train-diffusion-from-scratch-corel.py --vae-checkpoint /workspace/vae_models/best_model.pt \
  --image-dir /workspace/training_data/corel/corel_all --output-dir /workspace/diffusion_models --base-dir /workspace
python 3C-generate-samples-corel.py --diffusion-checkpoint /workspace/diffusion_models/best_model.pt \
  --vae-checkpoint /workspace/vae_models/best_model.pt --output /workspace/generated_images.png --base-dir /workspace
"""


@pytest.fixture
def folder(tmp_path):
    """data/corel with two classes of six noise pictures, and a /workspace that was prepared before."""
    data = tmp_path / "data" / "corel"
    data.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for label in (1, 2):
        for number in range(6):
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(data / f"{label:04d}_{number:04d}.png")
    shutil.copytree(launch.CODES / "configs", tmp_path / "codes" / "configs")
    return tmp_path


def run_all(server, folder, lines):
    """Run command lines in `folder`, in order; a line that repeats an output folder replaces its run."""
    workspace = folder / "workspace"
    for line in lines:
        python, script, *flags = shlex.split(line.replace("/workspace", str(workspace)))
        assert python == "python"
        numbered = re.search(r"(\d[A-Z])-", script)
        name = numbered[1] if numbered else "comparison"
        if "--base-dir" in flags and name == "3A":
            server.run("2A", "--data-dir", folder / "data" / "corel", "--base-dir", workspace, "--num-workers", 0)
        flags += shlex.split(SMALL[name])
        if name in ("3A", "3B") and "--resume" not in flags:
            flags.append("--overwrite")
        steps = {step: shlex.split(SMALL[step]) for step in ("3A", "3B", "3D")}
        before = launch.OFFLINE if numbered else launch.forked(steps)
        done = server.run(name, *flags, cwd=folder, before=before)
        assert done.code == 0, f"{line}\n{done.out}{done.err}"


def test_commands_of_the_readme(server, folder):
    text = (launch.REPOSITORY / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    launcher = re.compile(r"torchrun --standalone --nproc-per-node \d --max-restarts \d ")
    commands = [launcher.sub("python ", line) for line in lines if not line.startswith("./")]  # here by one process
    assert len(commands) >= 8 and all(line.startswith("python codes/") for line in commands)
    drawn = commands.pop(next(i for i, line in enumerate(commands) if "1A" in line))
    assert server.run("1A", "--base-dir", folder / "drawn", *shlex.split(SMALL["1A"]), cwd=folder).code == 0, drawn
    run_all(server, folder, commands)


CONFIGS = sorted((launch.CODES / "configs").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_taken(config):
    """Every key is a flag, every value one that it takes."""
    script = launch.SCRIPTS["3A" if config.stem.endswith("vae") else "3B"]
    required = [] if script == launch.SCRIPTS["3A"] else ["--vae-checkpoint", "v.pt", "--image-dir", "d"]
    args = runpy.run_path(str(script))["parse_args"]([*required, "--config", str(config)])
    assert args.config == str(config)


NOTES_COMMANDS = """#!/bin/sh
case "$1" in
    -) exec "{python}" "$@" ;;
    -c) exec "{python}" "$@" ;;
esac
{{ printf '%s\\t' "$@"; echo; }} >>"$NOTED"
case "$1" in
    *2A-*) mkdir -p "$3/training_data/corel/class_0001" "$3/training_data/corel/class_0002" ;;
esac
"""


def test_demo_starts_each_script_with_flags_that_it_takes(tmp_path):
    """By a Python that notes what it is to run; the real thing takes ten minutes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "photos").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text(NOTES_COMMANDS.format(python=sys.executable))
    python.chmod(0o755)
    noted = tmp_path / "noted.txt"
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "NOTED": str(noted)}
    for own in ((), ("--data-dir", tmp_path / "photos", "--minutes=2")):
        noted.unlink(missing_ok=True)
        command = [launch.REPOSITORY / "demo.sh", "--output-dir", tmp_path / f"demo {len(own)}", *own]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "generated_images.png" in done.stdout, done.stdout + done.stderr
        lines = [line.split("\t")[:-1] for line in noted.read_text().splitlines()]
        names = [Path(words[0]).name[:2] for words in lines]
        assert names == (["2A", "3A", "3B", "3C"] if own else ["1A", "2A", "3A", "3B", "3C"])
        for name, line in zip(names, lines, strict=True):
            runpy.run_path(str(launch.SCRIPTS[name]))["parse_args"](line[1:])
            assert ("--max-minutes" in line) == (name in ("3A", "3B"))
        assert "--class-conditional" in lines[names.index("3B")]


def test_a_failed_installation_tells_the_room_it_needs(tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\ncase "$*" in *install*) echo "No space left on device" >&2; exit 1;; -\\ *) exit 1;; esac\n'
    )
    python.chmod(0o755)
    (tmp_path / "wanted.txt").write_text("torch>=1000\n")
    script = '. "$1"; ROOT=$2; choose_python "$2/wanted.txt"; echo went on'
    command = ["bash", "-euc", script, "bash", launch.REPOSITORY / "environment.sh", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "went on" not in done.stdout, done
    assert "No space left" in done.stderr and re.search(r"6 GB.*free are: \S+ and \S+\.", done.stderr, re.DOTALL), done


def test_commands_for_windows_are_taken():
    text = (launch.REPOSITORY / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\.venv\\Scripts\\python (.*)$", text, flags=re.MULTILINE)
    assert [line.split("\\")[1][:2] for line in lines] == ["1A", "2A", "3A", "3B", "3C"]
    for line in lines:
        script, *flags = line.replace("\\", "/").split()
        flags = [str(launch.REPOSITORY / flag) if flag.startswith("codes/") else flag for flag in flags]
        runpy.run_path(str(launch.REPOSITORY / script))["parse_args"](flags)


def test_commands_of_the_guide(server, folder):
    run_all(server, folder, [line for line in GUIDE.strip().splitlines() if line])


@pytest.mark.parametrize("place", [".", "codes"])
def test_scripts_start_from_the_root_and_from_codes(place):
    prefix = "codes/" if place == "." else ""
    for script in launch.SCRIPTS.values():
        done = launch.cold(prefix + script.name, "--help", cwd=launch.REPOSITORY / place)
        assert done.returncode == 0 and "example:" in done.stdout
