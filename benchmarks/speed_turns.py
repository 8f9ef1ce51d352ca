"""Parts a to c of benchmarks/speed.py: contenders in processes of their own, who take turns.

A process keeps its network between turns, so what one repeat compares was measured within the same seconds.
Nothing here imports torch: a process starts with the peak memory of the one that started it.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speed_cases import Case, Contender, as_spec, contenders

HERE = Path(__file__).resolve().parent
TURN_SECONDS = 2.0
MOST_STEPS = 400  # of a turn


@dataclass(frozen=True)
class Settings:
    """What all parts are measured with. `env` is that of every process; `work` a folder for what they write."""

    device: str
    repeats: int
    quick: bool
    compiled: bool
    work: Path
    env: dict[str, str]


class Failed(Exception):
    """A process ended or answered with an error."""


class Worker:
    """A process of speed_contenders.py. Its compiler finds nothing that another process has compiled."""

    count = 0

    def __init__(self, settings: Settings, **spec: Any):
        Worker.count += 1
        self.log = settings.work / f"worker-{Worker.count}.log"
        env = {**settings.env, "TORCHINDUCTOR_CACHE_DIR": str(settings.work / f"compiled-{Worker.count}")}
        spec = {**spec, "device": settings.device, "quick": settings.quick, "started": time.time()}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "speed_contenders.py"), json.dumps(spec)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def answer(self) -> dict[str, Any]:
        """The next answer. Raises Failed with the reason where there is none."""
        line = self.process.stdout.readline()
        if not line:
            tail = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise Failed(" ".join([f"ended with code {self.process.wait()}", *tail]))
        found = json.loads(line)
        if "error" in found:
            raise Failed(found["error"])
        return found

    def ask(self, steps: int) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # `answer` tells why it ended
            print(json.dumps({"steps": steps}), file=self.process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def once(settings: Settings, **spec: Any) -> dict[str, Any]:
    """The one answer of a process that has only one."""
    worker = Worker(settings, **spec)
    try:
        return worker.answer()
    finally:
        worker.close()


def measure_case(case: Case, settings: Settings) -> dict[str, Any]:
    """What is to be known of the case, and a row for each contender in each of its settings."""
    print(f"== {case.name}", flush=True)
    folder = settings.work / f"nets-{len(list(settings.work.glob('nets-*')))}"
    facts = once(settings, task="facts", folder=str(folder), **as_spec(case))
    with contextlib.ExitStack() as processes:

        def started(contender: Contender) -> Row:
            row = Row(contender, case)
            processes.callback(row.close)
            row.start(settings, str(folder))
            row.calibrate(settings.quick)
            return row

        rows = [started(contender) for contender in contenders(case.kind, settings.quick)]
        medians: dict[str, float] = {}
        if settings.compiled:
            chosen, medians = to_compile(rows, settings.repeats)
            rows += [started(contender) for contender in chosen]
        counts = {row.parameters for row in rows if not row.error}
        assert len(counts) <= 1, f"networks of {sorted(counts)} parameters are no comparison"
        take_turns(rows, settings.repeats)
        for row in rows:
            row.end()
    found = [row.found() for row in rows]
    about = {"name": case.name, "batch": case.batch, **facts, "parameters": max(counts, default=0)}
    return {**about, **({"chosen_by": medians} if medians else {}), "rows": found}


def take_turns(rows: list[Row], repeats: int) -> None:
    for _ in range(repeats):
        for row in rows:
            row.turn()


def to_compile(rows: list[Row], repeats: int) -> tuple[list[Contender], dict[str, float]]:
    """Ours, and diffusers in every memory layout, with what else it was fastest with in that layout.

    Where there is something to choose, all take turns for it. Only the medians of those turns are kept: who is
    compared takes turns together, so the eager ones have theirs once more beside the compiled ones.
    """
    layouts: dict[tuple[str, bool], list[Row]] = defaultdict(list)
    for row in rows:
        layouts[row.contender.library, row.contender.channels_last].append(row)
    medians: dict[str, float] = {}
    if any(len(alike) > 1 for alike in layouts.values()):
        take_turns(rows, repeats)
        medians = {row.contender.setting or row.contender.name: row.median() for row in rows}
    fastest = [max(alike, key=Row.median) for alike in layouts.values()]
    for row in rows:
        row.images_per_second.clear()
    return [replace(row.contender, compiled=True) for row in fastest], medians


class Row:
    """A contender and what has been measured of it; after an error it takes no more turns."""

    def __init__(self, contender: Contender, case: Case):
        self.contender, self.case = contender, case
        self.worker: Worker | None = None
        self.error = ""
        self.parameters, self.steps = 0, 1
        self.first_step: float | None = None
        self.peak_mib: float | None = None
        self.images_per_second: list[float] = []

    def start(self, settings: Settings, folder: str) -> None:
        self.worker = Worker(settings, task="serve", folder=folder, **as_spec(self.case, self.contender))
        answer = self._try(self.worker.answer)
        self.parameters, self.first_step = answer.get("parameters", 0), answer.get("first_step")
        said = self.error or f"first step after {self.first_step:.1f} s"
        print(" ".join([self.contender.name, self.contender.setting]).strip() + f": {said}", flush=True)

    def calibrate(self, quick: bool) -> None:
        """As many steps a turn as take TURN_SECONDS; at least three, or one whole round of sampling."""
        answer = self._ask(1)
        if answer and not quick:
            least = 1 if self.case.kind == "sampling" else 3
            self.steps = min(MOST_STEPS, max(least, round(TURN_SECONDS / answer["seconds"])))

    def turn(self) -> None:
        answer = self._ask(self.steps)
        if answer:
            self.images_per_second.append(self.steps * self.case.batch / answer["seconds"])

    def median(self) -> float:
        """Images a second; 0 without a turn and after an error."""
        return statistics.median(self.images_per_second) if self.images_per_second and not self.error else 0.0

    def end(self) -> None:
        self.peak_mib = self._ask(0).get("peak_mib")

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()

    def found(self) -> dict[str, Any]:
        about = {"contender": self.contender.name, "setting": self.contender.setting}
        if self.error:
            return {**about, "error": self.error}
        return {
            **about,
            "first_step": self.first_step,
            "peak_mib": self.peak_mib,
            "steps": self.steps,
            "images_per_second": self.images_per_second,
            "median": self.median(),
        }

    def _ask(self, steps: int) -> dict[str, Any]:
        return {} if self.error else self._try(lambda: self.worker.ask(steps))

    def _try(self, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return ask()
        except Failed as failure:
            self.error = str(failure)
            return {}
