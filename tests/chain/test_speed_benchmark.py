"""benchmarks/speed.py measures, keeps what it is not asked to measure, and keeps what is written by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from launch import ENVIRONMENT, REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
BY_HAND = "## What did not pay\n\nTwo left shoes | and a table's worth of them.\n"


def benchmark(*flags: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / "speed.py"), *map(str, flags)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


def only(results: dict) -> tuple[str, dict]:
    """(device, its parts) of results that hold one."""
    ((device, parts),) = results.items()
    return device, parts


def test_parts_are_measured_and_words_are_kept(tmp_path: Path) -> None:
    output = tmp_path / "speed.md"
    output.write_text(f"# An older table\n\n{BY_HAND}")
    quick = ("--quick", "--no-compile", "--device", "cpu", "--output", output)
    done = benchmark(*quick, "--only", "b,e")
    assert done.returncode == 0, done.stdout + done.stderr
    text, (device, measured) = output.read_text(), only(json.loads(output.with_suffix(".json").read_text()))
    title = {"cpu, threads: 1": "CPU, 1 thread", "cpu-float32, threads: 1": "CPU without bfloat16, 1 thread"}[device]
    assert text.endswith(BY_HAND) and "An older table" not in text
    assert f"### {title}: b. Training step of the U-Net (3B)" in text
    assert f"### {title}: e. Preparation (2A)" in text
    assert "| stepwise | " in text and "| diffusers (contiguous) | 1.00 | " in text
    assert "`python benchmarks/speed.py --quick --no-compile --device cpu --output speed.md --only b,e`" in text
    assert str(tmp_path) not in text
    precision = measured["b"]["machine"]["precision"]
    assert precision == ("float32" if "float32" in device else "bfloat16") and f"; {precision}; " in text
    found = measured["b"]["found"][0]
    speeds = {row["contender"]: row["median"] for row in found["rows"]}
    assert speeds.keys() == {"stepwise", "diffusers"} and min(speeds.values()) > 0
    assert found["flops"] > 1e6 and found["difference"] < 1e-4
    assert all(10 < row["peak_resident_mib"][0] < 2000 for row in measured["e"]["found"])


@pytest.mark.slow
def test_epochs_with_a_flat_latent_beside_a_plain_loop(tmp_path: Path) -> None:
    output = tmp_path / "speed.md"
    flags = ("--quick", "--no-compile", "--device", "cpu", "--output", output, "--only", "d")
    assert "There are: 3A; 3B; 3B, --latent vector" in benchmark(*flags, "--cases", "nothing").stdout
    done = benchmark(*flags, "--cases", "vector")
    assert done.returncode == 0, done.stdout + done.stderr
    found = only(json.loads(output.with_suffix(".json").read_text()))[1]["d"]["found"]
    assert [row["contender"] for row in found][-1] == "plain loop" and len(found) == 3
    repeats = [repeat for row in found for repeat in row["repeats"]]
    assert all(repeat["later"] > 0 and repeat["first_step"] > 0 for repeat in repeats)
    assert all(100 < repeat["peak_resident_mib"] < 10_000 for repeat in repeats)
    bar = next(line for line in output.read_text().splitlines() if "flat latent" in line)
    ratios = [row["repeats"][0]["later"] / found[-1]["repeats"][0]["later"] for row in found[:2]]
    assert f"| {max(ratios):.2f} x (" in bar
