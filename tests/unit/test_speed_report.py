"""speed.md: the verdicts on the bars, the tables, and the sections by device and threads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launch import REPOSITORY

VAE = ["64 px, f8, 12 channels, base 32, batch 16", "128 px, f8, 12 channels, base 32, batch 16"]
UNET = [*(f"base 96 on 12 x 8 x 8, batch {batch}" for batch in (16, 64, 256)), "base 128 on 4 x 16 x 16, batch 16"]
MISSED = "**missed**"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import speed_report

    return speed_report


@pytest.fixture
def bars(report):
    return report.speed_bars


def row(contender: str, setting: str, speeds: list[float]) -> dict:
    shared = {"peak_mib": 10.0, "first_step": 2.0, "steps": 3}
    median = sorted(speeds)[len(speeds) // 2]
    return {"contender": contender, "setting": setting, "images_per_second": speeds, "median": median, **shared}


def failed(contender: str, setting: str) -> dict:
    return {"contender": contender, "setting": setting, "error": "no"}


def step(name: str, ours: list[float], theirs: list[float], *more: dict) -> dict:
    """A case of part a to c in which we are measured beside two settings of diffusers, the second twice as fast."""
    rows = [row("stepwise", "", ours), row("diffusers", "contiguous", [speed / 2 for speed in theirs])]
    rows += [row("diffusers", "channels last", theirs), failed("stepwise compiled", "")]
    about = {"batch": 4, "flops": 1e9, "peak_flops": 1e12, "parameters": 1_000_000, "difference": 1e-6}
    return {"name": name, **about, "rows": [*rows, *more]}


def part(found: object, device: str = "cpu", **machine: object) -> dict:
    machine = {"cpu": "CPU", "cores": 2, "threads": 1, "gpu": "none", "precision": "bfloat16", **machine}
    machine |= {"device": device, "versions": {"torch": "2"}}
    return {"machine": machine, "date": "2026-01-01", "command": "x", "found": found}


def epoch(script: str, contender: str, *later: float, **noted: float) -> dict:
    return {"script": script, "contender": contender, "repeats": [{"first": 1.0, "later": x, **noted} for x in later]}


def verdicts(bars, parts: dict, device: str = "cpu") -> dict[str, tuple[str, str]]:
    lines = [line.strip("| ").split(" | ") for line in bars.table(device, parts).splitlines()]
    return {line[0]: (" | ".join(line[1:-1]), line[-1]) for line in lines if len(line) > 1}


def test_tables_of_every_part(report, tmp_path: Path) -> None:
    epochs = [epoch("3A", "stepwise", 40.0, 40.0), epoch("3A", "plain loop", 10.0, 10.0)]
    epochs += [epoch("3B", "stepwise, warm latent cache", 100.0), epoch("3B", "plain loop", 10.0)]
    kept = {"resident_mib": 500.0, "files_mib": 100.0}  # which the system drops: no loss of ours
    dropped = {"resident_mib": 420.0, "files_mib": 20.0}
    samples = [{"step": n, "seconds": n / 10, **(kept if n < 5000 else dropped)} for n in range(1000, 11000, 1000)]
    for number, sample in enumerate(samples, start=1):
        sample["resident_mib"] += number
    sizes = {"encoding_ms": 2.0, "training_ms": 3.0, "warm_first_step": 1.0, "peak_resident_mib": 900.0}
    parts = {
        "a": part([step(name, [20.0, 30.0, 25.0], [10.0, 10.0, 10.0]) for name in VAE]),
        "b": part([step(UNET[0], [14.0] * 3, [10.0] * 3), step(UNET[3], [12.0] * 3, [10.0] * 3)]),
        "d": part(epochs),
        "f": part({"steps": 10_000, "first_step": 3.0, "samples": samples}),
        "g": part([{"images": 1000, **sizes}, {"images": 100_000, **sizes}]),
        "h": part({"3A --help": [0.1, 0.3, 0.2], "3A, first step": [20.0], "3B, first step": [2.0]}),
    }
    path = tmp_path / "speed.md"
    slow = {"a": part([step(VAE[0], [10.0] * 3, [10.0] * 3)]), "d": part(epochs[:2])}
    gpu = {"f": part(parts["f"]["found"], "cuda")}
    report.write(path, {"cpu-float32, threads: 4": slow, "cpu, threads: 1": parts, "cuda": gpu})
    text = path.read_text()
    assert f"| 2.50 x (2.00 to 3.00 in 3 repeats), eager, {VAE[1]} | reached |" in text
    assert f"| 1.20 x (1.20 to 1.20 in 3 repeats), eager, {UNET[3]} | {MISSED} where measured (2 of 4 cases) |" in text
    assert "| U-Net step never slower than diffusers compiled |  | not measured |" in text
    assert f"at least 20 x a plain loop | 10.00 x (10.00 to 10.00 in 1 repeat) | {MISSED} |" in text
    assert f"| 2,000 steps of 3B with its defaults in 60 s, start-up included | 200 s | {MISSED} |" in text
    assert "| stepwise | 2.50 (2.00 to 3.00) | 25 | 10 | 2 | 2.5% |" in text
    assert "| diffusers (channels last) | 1.00 (1.00 to 1.00) |" in text and "| diffusers (contiguous)" not in text
    assert "| stepwise compiled | no |" in text
    assert "From step 3,000 to step 10,000: +7.0 MiB without the files." in text
    assert f"| no growth of memory over 10,000 steps of 3B (less than 1 %) | +7.0 MiB | {MISSED} |" in text
    assert f"| an image of 100,000 costs at most 1.1 times one of 1,000 | 1.25 x | {MISSED} |" in text
    assert "An image of 100,000 costs 1.25 times one of 1,000." in text
    assert "| 3A --help | 0.20 |" in text
    titles = ["## GPU\n", "## CPU, 1 thread\n", "## CPU without bfloat16, 4 threads\n", report.BY_HAND]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert text.count("| epoch of 3A at least 3 x a plain loop | 4.00 x (4.00 to 4.00 in 2 repeats) | reached |") == 2
    assert "| --help of every script under 0.5 s | 0.2 s (3A) | reached |" in text
    assert f"| first training step within 15 s, without compilation | 20 s (3A) | {MISSED} |" in text
    path.write_text(text.replace("(This section is written by hand and kept.)", "Mine."))
    report.write(path, {"cpu, threads: 1": parts})
    assert path.read_text().endswith(f"{report.BY_HAND}\n\nMine.\n")


@pytest.mark.parametrize(
    ("values", "bar", "said"),
    [
        ([1.43, 2.93, 0.64], 1.3, "inconclusive"),  # 1.43 in the middle, and once the other was faster
        ([1.43, 2.93, 0.64, 1.5, 1.5, 1.5, 1.5], 1.3, "inconclusive"),
        ([1.4, 1.2, 1.5], 1.3, "inconclusive"),  # on both sides, and few
        ([1.4, 1.2, 1.5, 1.4, 1.4], 1.3, "reached"),
        ([1.2, 1.4, 1.2, 1.2, 1.2], 1.3, MISSED),
        ([0.9, 0.8, 0.7], 1.3, MISSED),
        ([1.7, 1.6, 1.6], 1.3, "reached"),
        ([1.2, 0.9, 1.2, 1.2, 1.2], 1.0, "inconclusive"),  # "never slower" is contradicted by a slower one
    ],
)
def test_repeats_that_contradict_each_other_are_inconclusive(bars, values, bar, said) -> None:
    assert bars.verdict(values, bar) == said


def test_every_repeated_bar_can_be_inconclusive(bars) -> None:
    torn = [14.0, 29.0, 6.0]
    help_and_step = {"3A --help": [0.1, 0.6, 0.2], "3A, first step": [2.0, 20.0, 2.0]}
    epochs = [epoch("3A", "stepwise", *torn), epoch("3A", "plain loop", 4.0, 4.0, 4.0)]
    large = "base 128, 3 layers, on 4 x 32 x 32, batch 256"
    parts = {
        "a": part([step(VAE[0], torn, [10.0] * 3), step(VAE[1], [15.0] * 3, [10.0] * 3)]),
        "d": part(epochs),
        "h": part(help_and_step),
    }
    found = verdicts(bars, parts)
    names = ["VAE step at least 1.3 x diffusers", "epoch of 3A at least 3 x a plain loop"]
    names += ["--help of every script under 0.5 s", "first training step within 15 s, without compilation"]
    assert [found[name][1] for name in names] == ["inconclusive"] * 4
    assert found[names[0]][0].startswith("1.40 x (0.60 to 2.90 in 3 repeats), eager, 64 px")
    share = {"b": part([step(large, [200.0, 600.0, 300.0], [10.0] * 3)], "cuda")}
    assert verdicts(bars, share, "cuda")["the large U-Net at 25 % of the hardware's peak at least"][1] == "inconclusive"


def test_a_case_that_misses_counts_more_than_one_that_says_nothing(bars) -> None:
    parts = {"a": part([step(VAE[0], [14.0, 29.0, 6.0], [10.0] * 3), step(VAE[1], [12.0] * 3, [10.0] * 3)])}
    found, said = verdicts(bars, parts)["VAE step at least 1.3 x diffusers"]
    assert found.endswith(VAE[1]) and said == MISSED


def test_a_bar_counts_the_cases_that_were_not_measured(bars) -> None:
    faster = [step(name, [20.0] * 3, [10.0] * 3) for name in UNET]
    compiled = [row("diffusers compiled", how, [12.0] * 3) for how in ("contiguous", "channels last")]
    faster[0]["rows"] += compiled
    found = verdicts(bars, {"b": part(faster)})
    assert found["U-Net step at least 1.3 x diffusers"][1] == "reached"
    said = found["U-Net step never slower than diffusers compiled"]
    assert said == (f"1.67 x (1.67 to 1.67 in 3 repeats), eager, {UNET[0]}", "reached where measured (1 of 4 cases)")
    memory = "peak memory of a 3B step at most that of diffusers, eager against eager"
    assert verdicts(bars, {"b": part(faster[:3])})[memory][1] == "reached where measured (3 of 4 cases)"
    assert verdicts(bars, {"b": part([{**faster[0], "name": "smoke test"}])})[memory][1] == "not measured"


def test_each_setting_is_listed_and_so_is_how_it_was_compiled(report, bars, tmp_path: Path) -> None:
    def text(case: dict) -> str:
        report.write(tmp_path / "speed.md", {"cpu, threads: 1": {"b": part([case])}})
        return (tmp_path / "speed.md").read_text()

    last, contiguous = (row("diffusers compiled", how, [12.0] * 3) for how in ("channels last", "contiguous"))
    one = step(UNET[0], [20.0] * 3, [10.0] * 3, last)
    assert (
        "In each setting, images/s: diffusers: contiguous 5; channels last 10. diffusers compiled: channels last 12. "
        "It was compiled in this layout only, the one that was faster in one single turn of each.\n"
    ) in text(one)
    assert f"{UNET[0]}; diffusers compiled in one memory layout only | reached where" in text(one)
    both = step(UNET[0], [20.0] * 3, [10.0] * 3, last, contiguous)
    assert "compiled: channels last 12; contiguous 12.\n" in text(both) and "one memory layout only" not in text(both)
    assert "channels last 10. None was measured compiled.\n" in text(step(UNET[0], [20.0] * 3, [10.0] * 3))
    chosen = text({**both, "chosen_by": {"contiguous": 5.0}})
    assert "contiguous 12. What was compiled in each layout was chosen by as many turns before these.\n" in chosen
    broken = step(UNET[0], [20.0] * 3, [10.0] * 3, last, failed("diffusers compiled", "x"))
    assert "channels last 12; x failed.\n" in text(broken)


def test_peaks_and_first_steps_of_epochs_and_preparation(report, tmp_path: Path) -> None:
    old = [epoch("3A", "stepwise", 40.0), epoch("3A", "plain loop", 10.0)]
    noted = {"first_step": 4.5, "peak_resident_mib": 1234.0}
    new = [epoch("3B", "stepwise, warm latent cache", 40.0, **noted), epoch("3B", "plain loop", 10.0, **noted)]
    speeds = [
        {"contender": "stepwise", "images": 9, "images_per_second": [8.0, 8.0], "peak_resident_mib": [80.0, 90.0]},
        {"contender": "plain loop", "images": 9, "images_per_second": [4.0, 4.0]},
    ]
    said = "Where a cell is empty, it was not noted in that measurement."

    def text(epochs: list[dict], preparation: list[dict]) -> str:
        parts = {"d": part(epochs), "e": part(preparation)}
        report.write(tmp_path / "speed.md", {"cpu, threads: 1": parts})
        return (tmp_path / "speed.md").read_text()

    mixed = text(old + new, speeds)
    assert "| 3A | stepwise | 1.00 | 1 | 4.00 | 40 |  |  |" in mixed
    assert "| 3B | stepwise, warm latent cache | 1.00 | 1 | 4.00 | 40 | 4.5 | 1,234 |" in mixed
    assert "| stepwise | 2.00 (2.00 to 2.00) | 8 | 85 |\n| plain loop | 1.00 (1.00 to 1.00) | 4 |  |" in mixed
    assert mixed.count(said) == 2
    assert said not in text(new, [{**speed, "peak_resident_mib": [80.0]} for speed in speeds])


def test_another_number_of_threads_is_kept_beside_the_first(report, tmp_path: Path) -> None:
    import speed

    output, store = tmp_path / "speed.md", tmp_path / "speed.json"
    for threads in (1, 12, 2):
        speed.keep(output, store, "h", part({"3A --help": [0.1]}, threads=threads))
    speed.keep(output, store, "h", part({"3A --help": [0.3]}, threads=2))
    speed.keep(output, store, "h", part({"3A --help": [0.1]}, precision="float32"))
    speed.keep(output, store, "h", part({"3A --help": [0.1]}, "mps", threads=8))
    kept = json.loads(store.read_text())
    assert {*kept} == {*(f"cpu, threads: {count}" for count in (1, 2, 12)), "cpu-float32, threads: 1", "mps"}
    assert kept["cpu, threads: 2"]["h"]["found"] == {"3A --help": [0.3]}
    titles = ["CPU, 1 thread", "CPU, 2 threads", "CPU, 12 threads", "CPU without bfloat16, 1 thread", "Apple GPU"]
    found = [line.removeprefix("## ") for line in output.read_text().splitlines() if line.startswith("## ")]
    assert found == [*titles, report.BY_HAND.removeprefix("## ")]
