"""--compile on: the same run, but for float noise, and the same checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import DENOISER_FLAGS, GRID_FLAGS
from launch import Server, curve, fine, run_together

from stepwise.foundation import checkpoints

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler"),
]


def test_compiled_training_gives_the_same_curve_and_names(
    server: Server, images: Path, vae: Path, tmp_path: Path
) -> None:
    curves, documents = [], []
    for how in ("off", "on"):
        folder = tmp_path / how
        files = ("--vae-checkpoint", vae / "best_model.pt", "--image-dir", images, "--output-dir", folder)
        run = ("--epochs", 3, "--no-mixed-precision", "--dropout", 0.1, "--compile", how)
        process = server.start("3B", *files, *DENOISER_FLAGS, *run)
        assert process.wait(600) == 0, process.err
        curves.append(curve(folder))
        documents.append(checkpoints.load(folder / "best_model.pt")["nets"]["denoiser"]["weights"])
        assert checkpoints.load(folder / "last.pt")["args"]["compile"] == how
    for one, other in zip(*curves, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert list(documents[0]) == list(documents[1])


BFLOAT16 = """
import stepwise.foundation.devices as devices
devices._cpu_has_bf16 = lambda: True
"""


@pytest.mark.parametrize(("weight", "before"), [(0, ""), (0.5, ""), (0.5, BFLOAT16)])
def test_a_compiled_autoencoder_too(server: Server, images: Path, tmp_path: Path, weight: float, before: str) -> None:
    """A discriminator's adaptive weight differentiates the last layer by itself, twice, before the whole."""
    curves = []
    for how in ("off", "on"):
        flags = ("--data-dir", images, "--output-dir", tmp_path / how, *GRID_FLAGS, "--epochs", 4)
        flags = (*flags, "--adversarial-weight", weight, "--adversarial-start", 0.25)
        precision = () if before else ("--no-mixed-precision",)
        process = server.start("3A", *flags, *precision, "--compile", how, before=before)
        assert process.wait(900) == 0, process.err
        curves.append(curve(tmp_path / how))
    for one, other in zip(*curves, strict=True):
        assert one == (pytest.approx(other, rel=0.1, abs=0.02) if before else pytest.approx(other, rel=1e-3, abs=1e-5))


@pytest.mark.parametrize("script", ["3A", "3B"])
def test_two_compiled_processes_too(server: Server, images: Path, vae: Path, tmp_path: Path, script: str) -> None:
    """What is compiled is then DistributedDataParallel, and dropout draws the masks of the whole batch."""
    files = ("--vae-checkpoint", vae / "best_model.pt", "--image-dir", images)
    own = {
        "3A": ("--data-dir", images, *GRID_FLAGS, "--adversarial-weight", 0.5, "--adversarial-start", 0.25),
        "3B": (*files, *DENOISER_FLAGS, "--class-conditional", "--dropout", 0.1),
    }[script]
    curves = []
    for how in ("off", "on"):
        run = ("--output-dir", tmp_path / how, "--epochs", 4, "--no-mixed-precision", "--compile", how)
        fine(run_together(server, 2, script, *own, *run, seconds=1500))
        curves.append(curve(tmp_path / how))
    for one, other in zip(*curves, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
