"""benchmarks/profile_steps.py looks at some steps of a run as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import GRID_FLAGS
from launch import REPOSITORY, SCRIPTS, cold

BENCHMARKS = REPOSITORY / "benchmarks"
PROFILE = BENCHMARKS / "profile_steps.py"


def test_steps_of_a_run_are_profiled(images: Path, tmp_path: Path) -> None:
    run = (SCRIPTS["3A"], "--data-dir", images, "--output-dir", tmp_path / "vae", *GRID_FLAGS, "--epochs", 3)
    done = cold(PROFILE, "--skip", 2, "--steps", 3, "--trace", tmp_path / "trace.json", *run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"3 steps, [\d.]+ ms each", done.stdout)
    rows = dict(re.findall(r"^\| ([\w:]+) \| ([\d.]+)% \|", done.stdout, re.MULTILINE))
    assert float(rows["aten::convolution_backward"]) > 0 and sum(map(float, rows.values())) <= 101
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


@pytest.mark.slow
def test_a_run_that_is_too_short(images: Path, tmp_path: Path) -> None:
    run = (SCRIPTS["3A"], "--data-dir", images, "--output-dir", tmp_path / "vae", *GRID_FLAGS, "--epochs", 3)
    done = cold(PROFILE, "--skip", 2, "--steps", 300, *run)
    assert done.returncode == 1 and "ended after 6 steps, before 302 were done" in done.stderr


def test_wrong_flags() -> None:
    assert "does not exist" in cold(PROFILE, "codes/nothing.py").stderr
    assert "must be 1 at least" in cold(PROFILE, "--skip", 0, SCRIPTS["3A"]).stderr


def test_what_ran_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.autograd import DeviceType

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from profile_steps import report

    def event(name: str, start: int, end: int, on_gpu: bool = True, named: bool = False) -> SimpleNamespace:
        return SimpleNamespace(
            key=name,
            device_type=DeviceType.CUDA if on_gpu else DeviceType.CPU,
            is_user_annotation=named,
            self_device_time_total=end - start,
            time_range=SimpleNamespace(start=start, end=end),
            count=2,
        )

    events = [event("sgemm", 0, 400_000), event("copy", 300_000, 500_000)]
    others = [event("aten::mm", 0, 900_000, on_gpu=False), event("Optimizer.step", 0, 1_000_000, named=True)]
    profiler = SimpleNamespace(key_averages=lambda: others + events, events=lambda: others + events)
    text = report(profiler, 1.0, 2, "cuda")
    assert "| sgemm | 40.0% | 200.00 | 1 |" in text and "| copy | 20.0% |" in text
    assert "aten::mm" not in text and "Optimizer" not in text
    assert "The GPU waited 50.0% of the time." in text


def test_time_that_intervals_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from profile_steps import covered

    assert covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.5), (6.0, 7.0)]) == 5.0
    assert covered([]) == 0.0
