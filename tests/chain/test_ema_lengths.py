"""benchmarks/ema_lengths.py keeps averages of several lengths in one training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import DENOISER_FLAGS
from launch import REPOSITORY, SCRIPTS, cold

from stepwise.foundation import checkpoints

LENGTHS = REPOSITORY / "benchmarks" / "ema_lengths.py"


@pytest.mark.slow
def test_lengths_of_one_run(images: Path, vae: Path, tmp_path: Path) -> None:
    files = ("--vae-checkpoint", vae / "best_model.pt", "--image-dir", images, *DENOISER_FLAGS, "--epochs", 4)
    flags = ("--decays", 0, 0.5, 0.9, "--output-dir", tmp_path)
    done = cold(LENGTHS, *flags, SCRIPTS["3B"], *files, "--ema-decay", 0.5)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| ([\d.]+) \| ([\d,]+) \| ([\d.]+) \| (\d) of 4 \|$", done.stdout, re.MULTILINE)
    assert [row[:2] for row in rows] == [("0", "0"), ("0.5", "4"), ("0.9", "26")]

    def weights(name: str) -> dict[str, torch.Tensor]:
        return checkpoints.load(tmp_path / name)["nets"]["denoiser"]["weights"]

    own, same, shorter = (weights(name) for name in ("best_model.pt", "ema_0.5.pt", "ema_0.pt"))
    assert all(torch.equal(own[name], same[name]) for name in own)
    assert any(not torch.equal(own[name], shorter[name]) for name in own)
    if rows[0][3] == "4":
        last = checkpoints.load(tmp_path / "last.pt")["nets"]["denoiser"]["weights"]
        assert all(torch.equal(last[name], shorter[name]) for name in last)

    again = cold(LENGTHS, *flags, SCRIPTS["3B"], *files)
    assert again.returncode == 2 and "holds a run" in again.stderr


def test_wrong_lengths(tmp_path: Path) -> None:
    assert "between 0" in cold(LENGTHS, "--decays", 1.5, "--output-dir", tmp_path, SCRIPTS["3B"]).stderr
    assert "does not exist" in cold(LENGTHS, "--output-dir", tmp_path, "nothing.py").stderr
