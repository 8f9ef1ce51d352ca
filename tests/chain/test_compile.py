"""--compile on: the same run, but for float noise, and the same checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import DENOISER_FLAGS, GRID_FLAGS
from launch import Server, curve

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
        run = ("--epochs", 3, "--no-mixed-precision", "--dropout", 0, "--compile", how)
        process = server.start("3B", *files, *DENOISER_FLAGS, *run)
        assert process.wait(600) == 0, process.err
        curves.append(curve(folder))
        documents.append(checkpoints.load(folder / "best_model.pt")["nets"]["denoiser"]["weights"])
        assert checkpoints.load(folder / "last.pt")["args"]["compile"] == how
    for one, other in zip(*curves, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert list(documents[0]) == list(documents[1])


def test_a_compiled_autoencoder_too(server: Server, images: Path, tmp_path: Path) -> None:
    """Without a discriminator: with one, the compiled network gave another adaptive weight, and 3A refuses."""
    curves = []
    for how in ("off", "on"):
        flags = ("--data-dir", images, "--output-dir", tmp_path / how, *GRID_FLAGS, "--epochs", 4)
        process = server.start("3A", *flags, "--no-mixed-precision", "--compile", how)
        assert process.wait(900) == 0, process.err
        curves.append(curve(tmp_path / how))
    for one, other in zip(*curves, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
