"""What benchmarks/speed.py found, as Markdown: bars, then a table for each part, then what is written by hand."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import speed_bars
from speed_bars import COMPILED, best, in_one_layout, ratios
from speed_cases import REFERENCE

PEAK = "peak resident memory, MiB"
BY_HAND = "## What did not pay"
CPU_FLOAT32 = "cpu-float32"  # a CPU without bfloat16 products, as most laptops have
DEVICES = {"cuda": "GPU", "cpu": "CPU", CPU_FLOAT32: "CPU without bfloat16", "mps": "Apple GPU"}
THREADS = ", threads: "  # between the device and the number in the name of a CPU's section
TITLES = {
    "a": "Training step of the autoencoder (3A)",
    "b": "Training step of the U-Net (3B)",
    "c": "Sampling and decoding (3C)",
    "d": "Epochs from files on disk (3A, 3B)",
    "e": "Preparation (2A)",
    "f": "Memory over many steps of 3B",
    "g": "Many small images",
    "h": "Start-up",
}
INTRODUCTION = """# Speed

Measured by `benchmarks/speed.py`, whose `--help` names the parts. Contenders take turns: A B C A B C ...,
each in a process of its own; ratios are medians over the repeats of what was measured one after the other, the
lowest and the highest in brackets. Both libraries have the same architecture, the same weights at the start and
the same number of parameters (checked), the same precision, AdamW (fused), clipping at 1 and EMA of the weights
(foreach). diffusers is tried with both memory layouts, for sampling also with its weights in half precision and with
query, key and value of its attention from one product ("fused projections"), and compiled with both layouts too, with
what else was fastest without compiling. The tables show its fastest setting; the line below each lists all that were
measured, in older figures fewer. Peak memory in parts a to c is that of the process beyond what it held after its
imports (of a compiled contender with its compiler), on a GPU what torch has allocated at most. The time to the first
step counts from the start of the process, with compiling. On a CPU the ratios are the claim; images/s, seconds and
MiB are those of this run on this machine, and each number of threads has a section of its own.
"""


def section(machine: dict[str, Any]) -> str:
    """The section of the results that a machine's figures belong to: on a CPU also by its threads."""
    if machine["device"] != "cpu":
        return machine["device"]
    return f"{CPU_FLOAT32 if machine['precision'] == 'float32' else 'cpu'}{THREADS}{machine['threads']}"


def write(path: Path, results: dict[str, Any]) -> None:
    """results: section -> part -> {"machine", "date", "command", "found"}. Keeps what is written by hand."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    start = old.find(BY_HAND)
    by_hand = old[start:] if start >= 0 else f"{BY_HAND}\n\n(This section is written by hand and kept.)\n"
    sections = [INTRODUCTION]
    for name in sorted(results, key=_parsed):
        sections += _section(name, results[name])
    path.write_text("\n".join([*sections, by_hand]), encoding="utf-8")


def _parsed(section: str) -> tuple[int, int]:
    """(the device's place among DEVICES, threads: 0 if the section is not by threads)."""
    device, _, threads = section.partition(THREADS)
    return list(DEVICES).index(device), int(threads or 0)


def _section(section: str, parts: dict[str, Any]) -> list[str]:
    place, threads = _parsed(section)
    device, name = list(DEVICES.items())[place]
    name += f", {threads} thread{'s' * (threads > 1)}" if threads else ""
    sections = [f"## {name}\n", _machines(parts), f"### {name}: bars\n", speed_bars.table(device, parts)]
    shown = {"a": _turns, "b": _turns, "c": _turns, "d": _epochs, "e": _preparation}
    shown |= {"f": _growth, "g": _many, "h": _start_up}
    for letter in sorted(parts):
        sections += [f"### {name}: {letter}. {TITLES[letter]}\n", shown[letter](parts[letter]["found"])]
    return sections


def _machines(parts: dict[str, Any]) -> str:
    """Where, when and how the parts were measured; parts of one machine and command together."""
    alike: dict[str, list[str]] = defaultdict(list)
    for letter in sorted(parts):
        part = parts[letter]
        machine = part["machine"]
        versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
        alike[
            f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; GPU: {machine['gpu']}; "
            f"{machine['precision']}; {versions}; {part['date']}; `{part['command']}`"
        ].append(letter)
    return "\n".join(f"- {', '.join(letters)}: {text}" for text, letters in alike.items()) + "\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def number(value: float | None, digits: int = 3) -> str:
    """Three digits that count, without an exponent."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def times(values: list[float]) -> str:
    """A ratio measured several times."""
    if not values:
        return ""
    text = f"{median(values):.2f}"
    return text + (f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else "")


def _turns(found: list[dict[str, Any]]) -> str:
    sections = []
    for case in found:
        peak = case["peak_flops"]
        about = (
            f"**{case['name']}**: {case['parameters'] / 1e6:.2f} M parameters, {case['flops'] / 1e9:.3g} GFLOP an "
            f"image; the hardware's peak {peak / 1e12:.3g} TFLOP/s; outputs of both libraries equal to "
            f"{case['difference']:.0e}\n"
        )
        rows = []
        for row in best(case):
            name = " ".join([row["contender"], f"({row['setting']})" * bool(row["setting"])])
            if "error" in row:
                rows.append([name.strip(), row["error"], "", "", "", ""])
                continue
            share = f"{row['median'] * case['flops'] / peak:.1%}"
            speed = [times(ratios(case, row)), number(row["median"])]
            rows.append([name.strip(), *speed, number(row["peak_mib"]), number(row["first_step"]), share])
        header = ["contender", "x diffusers", "images/s", "peak memory, MiB", "first step, s", "share of peak"]
        sections += [about, table(header, rows), _settings(case)]
    return "\n".join(sections)


def _settings(case: dict[str, Any]) -> str:
    """How fast diffusers was in each setting that was measured."""
    said = []
    for name in (REFERENCE, COMPILED):
        rows = [row for row in case["rows"] if row["contender"] == name]
        speeds = [f"{row['setting']} {number(row['median']) if 'median' in row else 'failed'}" for row in rows]
        said += [f"{name}: {'; '.join(speeds)}"] if speeds else []
    text = f"In each setting, images/s: {'. '.join(said)}."
    if len(said) == 1:
        text += " None was measured compiled."
    elif case.get("chosen_by"):
        text += " What was compiled in each layout was chosen by as many turns before these."
    elif in_one_layout(case):
        text += " It was compiled in this layout only, the one that was faster in one single turn of each."
    return text + "\n"


def _epochs(found: list[dict[str, Any]]) -> str:
    rows = []
    for row in found:
        plain = speed_bars.plain_loop(found, row["script"])
        cells = [row["script"], row["contender"]]
        for key in ("first", "later"):
            mine = [repeat[key] for repeat in row["repeats"]]
            against = [a / b[key] for a, b in zip(mine, plain["repeats"], strict=True)]
            cells += [times(against), number(median(mine))]
        for key in ("first_step", "peak_resident_mib"):
            cells.append(_noted([repeat[key] for repeat in row["repeats"] if key in repeat]))
        rows.append(cells)
    note = (
        "The first epoch counts from the start of the process: imports, reading or encoding, compiling. The epochs "
        "after it hold validation, previews and checkpoints of ours; the plain loop only trains (float32, two loader "
        "processes that decode with Pillow; for 3B each batch goes through the frozen autoencoder). Peak memory is "
        "that of the whole process, without its loader processes.\n"
    )
    header = ["script", "contender", "first epoch, x plain", "images/s", "epochs after it, x plain", "images/s"]
    return note + "\n" + table([*header, "first step, s", PEAK], rows) + _empty(rows)


def _noted(values: list[float]) -> str:
    """Their median; an empty cell where nobody noted any."""
    return number(median(values)) if values else ""


def _empty(rows: list[list[str]]) -> str:
    """What stands below a table with empty cells."""
    return "" if all(all(row) for row in rows) else "\nWhere a cell is empty, it was not noted in that measurement.\n"


def _preparation(found: list[dict[str, Any]]) -> str:
    plain = next(row for row in found if row["contender"] == "plain loop")["images_per_second"]
    rows = []
    for row in found:
        speeds = row["images_per_second"]
        against = [a / b for a, b in zip(speeds, plain, strict=True)]
        peak = _noted(row.get("peak_resident_mib", []))
        rows.append([row["contender"], times(against), number(median(speeds)), peak])
    note = (
        f"{found[0]['images']} images, start-up included; 'once more': into a folder that is prepared already. The "
        "plain loop opens, turns and converts each image and writes it anew, without looking for bad ones or twins. "
        "Peak memory is that of the whole process.\n"
    )
    return note + "\n" + table(["contender", "x plain", "images/s", PEAK], rows) + _empty(rows)


def _growth(found: dict[str, Any]) -> str:
    samples = found["samples"]
    names = {"resident_mib": "resident, MiB", "files_mib": "of it files", "allocated_mib": "allocated by malloc"}
    keys = [key for key in names if key in samples[0]]
    rows = [[number(s["step"], 9), *(number(s[key], 6) for key in keys), number(s["seconds"])] for s in samples]
    start = samples[len(samples) // 5]["step"]
    growth = f"{speed_bars.grown(samples):+.1f} MiB without the files"
    note = f"From step {start:,} to step {samples[-1]['step']:,}: {growth}.\n"
    return table(["step", *(names[key] for key in keys), "seconds since the start"], rows) + "\n" + note


def _many(found: list[dict[str, Any]]) -> str:
    keys = ("training_ms", "warm_first_step", "peak_resident_mib")
    rows = [
        [f"{row['images']:,}", number(speed_bars.encoding_ms(row)), *(number(row[key]) for key in keys)]
        for row in found
    ]
    header = ["images", "reading and encoding, ms an image", "training, ms an image", "start on the cache, s"]
    few, many = found[0], found[-1]
    note = "Without augmentation: one variant an image. What a start on the cache takes is not in the first column. "
    note += f"An image of {many['images']:,} costs {speed_bars.cost(found):.2f} times one of {few['images']:,}.\n"
    return table([*header, PEAK], rows) + "\n" + note


def _start_up(found: dict[str, list[float]]) -> str:
    return table(["", "seconds"], [[name, f"{median(seconds):.2f}"] for name, seconds in found.items()])
