"""Speed: training steps, sampling, epochs and preparation beside what one would otherwise use.

    python benchmarks/speed.py
    python benchmarks/speed.py --only b,c --device cuda

Measures the parts asked for and writes them into speed.md, and what was measured into speed.json beside it,
where the other parts stay as they are, and so do those of another kind of device and, on a CPU, of another number
of threads. In the Markdown everything from the heading "What did not pay" on is written by hand and kept.

    a  training step of 3A              e  2A
    b  training step of 3B              f  memory over many steps of 3B
    c  DDIM sampling and decoding       g  an epoch of 3B on many images
    d  epochs of 3A and 3B from files   h  start-up
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import speed_report
import speed_runs
from speed_cases import cases
from speed_report import section
from speed_turns import Settings, measure_case, once

PARTS = "abcdefgh"


def main() -> None:
    args = parse_args()
    env = {**os.environ, "PYTHONPATH": str(speed_runs.CODES)}
    if args.threads:
        env |= {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
    store = args.output.with_suffix(".json")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(args.device, args.repeats, args.quick, args.compile, Path(folder), env)
        machine = once(settings, task="machine")
        settings = Settings(machine["device"], args.repeats, args.quick, args.compile, Path(folder), env)
        runs = speed_runs.Runs(settings, args.data_dir)
        about = {"machine": machine, "date": date.today().isoformat(), "command": command()}
        for part in args.only:
            print(f"\n=== {part}: {speed_report.TITLES[part]}", flush=True)
            if part in "abc":
                measure_cases(part, settings, args, store, about)
            elif part == "d":
                measure_epochs(runs, args, store, about)
            else:
                keep(args.output, store, part, {**about, "found": measured(part, runs, args)})
    if args.output.exists():
        print(f"\n{args.output.read_text(encoding='utf-8').partition(speed_report.BY_HAND)[0]}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=parts, default=PARTS, metavar="a,b,...", help="the parts to measure")
    parser.add_argument("--cases", default="", metavar="TEXT", help="of a to d only cases whose name holds this")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contender")
    parser.add_argument("--quick", action="store_true", help="tiny networks, one repeat: whether it works at all")
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "mps", "cpu"])
    parser.add_argument("--threads", type=int, help="of each process (default: as many as torch takes)")
    parser.add_argument("--output", type=Path, help="default: speed.md beside this file")
    parser.add_argument("--data-dir", type=Path, help="images as 2A writes them (default: drawn by 1A)")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="compiled contenders too"
    )
    parser.add_argument("--steps", type=int, help="of part f (default: 10000)")
    parser.add_argument("--images", type=int, help="of part g (default: 100000)")
    args = parser.parse_args()
    if args.quick and not args.output:
        parser.error("--quick needs --output: its figures are not to be kept")
    args.output = (args.output or Path(__file__).with_suffix(".md")).resolve()
    args.data_dir = args.data_dir.resolve() if args.data_dir else None
    args.repeats = 1 if args.quick else args.repeats
    args.steps = args.steps or (50 if args.quick else 10_000)
    args.images = args.images or (80 if args.quick else 100_000)
    return args


def parts(text: str) -> str:
    letters = "".join(sorted(set(text.replace(",", ""))))
    if not letters or set(letters) - set(PARTS):
        raise argparse.ArgumentTypeError(f"takes letters from {PARTS[0]} to {PARTS[-1]}, found '{text}'")
    return letters


def measure_cases(part: str, settings: Settings, args: argparse.Namespace, store: Path, about: dict) -> None:
    """Part a, b or c, kept case by case. With --cases the others stay, if they are of the same machine."""
    every = cases(part, settings.device, settings.quick)
    about, before = resumed(about, read(store).get(section(about["machine"]), {}).get(part), args.cases)
    found = {case["name"]: case for case in before}
    for case in every:
        if args.cases in case.name:
            found[case.name] = measure_case(case, settings)
            ordered = [found[other.name] for other in every if other.name in found]
            keep(args.output, store, part, {**about, "found": ordered})
    if not any(args.cases in case.name for case in every):
        print(f"No case of part {part} holds '{args.cases}'. There are: {'; '.join(case.name for case in every)}")


def measure_epochs(runs: speed_runs.Runs, args: argparse.Namespace, store: Path, about: dict) -> None:
    """Part d, kept script by script."""
    about, before = resumed(about, read(store).get(section(about["machine"]), {}).get("d"), args.cases)
    scripts = [script for script in speed_runs.EPOCHS if args.cases in script]
    if not scripts:
        print(f"No case of part d holds '{args.cases}'. There are: {'; '.join(speed_runs.EPOCHS)}")
        return
    found = before
    for script in scripts:
        found = [row for row in found if row["script"] != script] + speed_runs.epochs(runs, script)
        found.sort(key=lambda row: speed_runs.EPOCHS.index(row["script"]))
        keep(args.output, store, "d", {**about, "found": found})


def resumed(about: dict, before: dict | None, cases: str) -> tuple[dict, list[dict]]:
    """With --cases: what stays of an earlier run on the same machine, and both commands."""
    if not cases or before is None or before["machine"] != about["machine"]:
        return about, []
    if about["command"] not in before["command"]:
        about = {**about, "command": f"{before['command']}; {about['command']}"}
    return about, before["found"]


def measured(part: str, runs: speed_runs.Runs, args: argparse.Namespace) -> Any:
    """What one of the parts e to h finds."""
    if part == "f":
        return speed_runs.memory_growth(runs, args.steps)
    if part == "g":
        return speed_runs.many_images(runs, args.images)
    return {"e": speed_runs.preparation, "h": speed_runs.start_up}[part](runs)


def keep(output: Path, store: Path, part: str, measured: dict[str, Any]) -> None:
    """Put a part into the JSON file and write the Markdown anew."""
    results = read(store)
    results.setdefault(section(measured["machine"]), {})[part] = measured
    store.write_text(json.dumps(results, indent=1) + "\n")
    speed_report.write(output, results)


def read(store: Path) -> dict[str, Any]:
    return json.loads(store.read_text()) if store.exists() else {}


def command() -> str:
    """As it was typed, without the folders of this machine."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", "benchmarks/speed.py", *words])


if __name__ == "__main__":
    main()
