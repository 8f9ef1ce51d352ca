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
    title = {"cpu": "CPU", "cpu-float32": "CPU without bfloat16"}[device]
    assert text.endswith(BY_HAND) and "An older table" not in text
    assert f"### {title}: b. Training step of the U-Net (3B)" in text
    assert f"### {title}: e. Preparation (2A)" in text
    assert "| stepwise | " in text and "| diffusers (contiguous) | 1.00 | " in text
    assert "`python benchmarks/speed.py --quick --no-compile --device cpu --output speed.md --only b,e`" in text
    assert str(tmp_path) not in text
    precision = measured["b"]["machine"]["precision"]
    assert precision == ("float32" if device == "cpu-float32" else "bfloat16") and f"; {precision}; " in text
    found = measured["b"]["found"][0]
    speeds = {row["contender"]: row["median"] for row in found["rows"]}
    assert speeds.keys() == {"stepwise", "diffusers"} and min(speeds.values()) > 0
    assert found["flops"] > 1e6 and found["difference"] < 1e-4


@pytest.mark.slow
def test_epochs_with_a_flat_latent_beside_a_plain_loop(tmp_path: Path) -> None:
    output = tmp_path / "speed.md"
    flags = ("--quick", "--no-compile", "--device", "cpu", "--output", output, "--only", "d")
    assert "There are: 3A; 3B; 3B, --latent vector" in benchmark(*flags, "--cases", "nothing").stdout
    done = benchmark(*flags, "--cases", "vector")
    assert done.returncode == 0, done.stdout + done.stderr
    found = only(json.loads(output.with_suffix(".json").read_text()))[1]["d"]["found"]
    assert [row["contender"] for row in found][-1] == "plain loop" and len(found) == 3
    assert all(repeat["later"] > 0 for row in found for repeat in row["repeats"])
    bar = next(line for line in output.read_text().splitlines() if "flat latent" in line)
    ratios = [row["repeats"][0]["later"] / found[-1]["repeats"][0]["later"] for row in found[:2]]
    assert f"| {max(ratios):.1f} x |" in bar


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed_report

    return speed_report


def step(name: str, ours: list[float], theirs: list[float]) -> dict:
    """A case of part a to c in which we are measured beside two settings of diffusers, the second twice as fast."""
    rows = [("stepwise", "", ours), ("diffusers", "contiguous", [speed / 2 for speed in theirs])]
    rows.append(("diffusers", "channels last", theirs))
    shared = {"peak_mib": 10.0, "first_step": 2.0, "steps": 3}
    rows = [
        {"contender": who, "setting": how, "images_per_second": speeds, "median": speeds[1], **shared}
        for who, how, speeds in rows
    ]
    about = {"batch": 4, "flops": 1e9, "peak_flops": 1e12, "parameters": 1_000_000, "difference": 1e-6}
    return {"name": name, **about, "rows": [*rows, {"contender": "stepwise compiled", "setting": "", "error": "none"}]}


def part(found: object, device: str = "cpu") -> dict:
    machine = {"device": device, "cpu": "CPU", "cores": 2, "threads": 1, "gpu": "none", "precision": "float32"}
    return {"machine": {**machine, "versions": {"torch": "2"}}, "date": "2026-01-01", "command": "x", "found": found}


def epoch(script: str, contender: str, later: float) -> dict:
    return {"script": script, "contender": contender, "repeats": [{"first": 1.0, "later": later}] * 2}


def test_bars_and_tables(report, tmp_path: Path) -> None:
    epochs = [epoch("3A", "stepwise", 40.0), epoch("3A", "plain loop", 10.0)]
    epochs += [epoch("3B", "stepwise, warm latent cache", 100.0), epoch("3B", "plain loop", 10.0)]
    kept = {"resident_mib": 500.0, "files_mib": 100.0}  # which the system drops: no loss of ours
    dropped = {"resident_mib": 420.0, "files_mib": 20.0}
    samples = [{"step": n, "seconds": n / 10, **(kept if n < 5000 else dropped)} for n in range(1000, 11000, 1000)]
    for number, sample in enumerate(samples, start=1):
        sample["resident_mib"] += number
    sizes = {"encoding_ms": 2.0, "training_ms": 3.0, "warm_first_step": 1.0, "peak_resident_mib": 900.0}
    parts = {
        "a": part([step("small", [20.0, 30.0, 25.0], [10.0, 10.0, 10.0])]),
        "b": part([step("good", [14.0] * 3, [10.0] * 3), step("bad", [12.0] * 3, [10.0] * 3)]),
        "d": part(epochs),
        "f": part({"steps": 10_000, "first_step": 3.0, "samples": samples}),
        "g": part([{"images": 1000, **sizes}, {"images": 100_000, **sizes}]),
        "h": part({"3A --help": [0.1, 0.3, 0.2], "3A, first step": [20.0], "3B, first step": [2.0]}),
    }
    path = tmp_path / "speed.md"
    slow = {"a": part([step("slow", [10.0] * 3, [10.0] * 3)]), "d": part(epochs[:2])}
    gpu = {"f": part(parts["f"]["found"], "cuda")}
    report.write(path, {"cpu-float32": slow, "cpu": parts, "cuda": gpu})
    text = path.read_text()
    assert "| VAE step at least 1.3 x diffusers | 2.50 x (2.00 to 3.00), eager, small | reached |" in text
    assert "| U-Net step at least 1.3 x diffusers | 1.20 x (1.20 to 1.20), eager, bad | **missed** |" in text
    assert "| U-Net step never slower than diffusers compiled |  | not measured |" in text
    assert "| epoch of 3B (latents cached) at least 20 x a plain loop | 10.0 x | **missed** |" in text
    assert "| 2,000 steps of 3B with its defaults in 60 s, start-up included | 200 s | **missed** |" in text
    assert "| stepwise | 2.50 (2.00 to 3.00) | 30 | 10 | 2 | 3.0% |" in text
    assert "| diffusers (channels last) | 1.00 (1.00 to 1.00) |" in text and "(contiguous)" not in text
    assert "| stepwise compiled | none |" in text
    assert "From step 3,000 to step 10,000: +7.0 MiB without the files." in text
    assert "| no growth of memory over 10,000 steps of 3B (less than 1 %) | +7.0 MiB | **missed** |" in text
    assert "| an image of 100,000 costs at most 1.1 times one of 1,000 | 1.25 x | **missed** |" in text
    assert "An image of 100,000 costs 1.25 times one of 1,000." in text
    assert "| 3A --help | 0.20 |" in text
    places = [text.index(title) for title in ("## GPU", "## CPU\n", "## CPU without bfloat16", report.BY_HAND)]
    assert places == sorted(places)
    assert "| VAE step at least 1.3 x diffusers | 1.00 x (1.00 to 1.00), eager, slow | **missed** |" in text
    assert text.count("| epoch of 3A at least 3 x a plain loop | 4.0 x | reached |") == 2
    assert "| --help of every script under 0.5 s | 0.2 s (3A) | reached |" in text
    assert "| first training step within 15 s, without compilation | 20 s (3A) | **missed** |" in text
    path.write_text(text.replace("(This section is written by hand and kept.)", "Mine."))
    report.write(path, {"cpu": parts})
    assert path.read_text().endswith(f"{report.BY_HAND}\n\nMine.\n")
