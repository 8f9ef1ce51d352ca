"""Where the time of a training step goes: run 3A or 3B as a user does, with torch.profiler for some of its steps.

    python benchmarks/profile_steps.py codes/3A-train-vae-corel.py --data-dir training_data/corel/corel_all

--skip steps are let pass, --steps are profiled, then the run is stopped. Without --output-dir it is written into a
temporary folder. What a run does at the end of an epoch, validation and pictures, counts where the steps hold one, and
3A's discriminator from --adversarial-start on. Prints Markdown: the operators (on a GPU: the kernels) by their own
time, the rest of the wall time, and on a GPU the share of it in which no kernel and no copy ran. With --trace FILE also
the timeline, for chrome://tracing.
"""

from __future__ import annotations

import argparse
import contextlib
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from speed_contenders import wait

CODES = Path(__file__).resolve().parents[1] / "codes"
SHOWN = 20


def main() -> None:
    args, flags = parse_args()
    sys.path.insert(0, str(CODES))
    watcher = Watcher(args)
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = any(flag.split("=")[0] == "--output-dir" for flag in flags)
        sys.argv = [str(args.script), *flags, *(() if elsewhere else ("--output-dir", folder))]
        try:
            with contextlib.suppress(SystemExit):
                runpy.run_path(str(args.script), run_name="__main__")
        finally:
            watcher.stop()
    if watcher.report is None:
        sys.exit(f"The run ended after {watcher.seen} steps, before {args.skip + args.steps} were done.")
    print(watcher.report)
    if args.trace:
        watcher.profiler.export_chrome_trace(str(args.trace))


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--skip", type=int, default=30, help="steps that are let pass")
    parser.add_argument("--steps", type=int, default=20, help="steps that are profiled")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="where to write the timeline")
    parser.add_argument("script", type=Path, help="3A or 3B; its flags follow")
    args, flags = parser.parse_known_args()
    if args.skip < 1 or args.steps < 1:
        parser.error("--skip and --steps must be 1 at least")
    if not args.script.is_file():
        parser.error(f"{args.script} does not exist")
    return args, flags


class Watcher:
    """Counts the steps of a run and profiles some of them.

    A step is an update of the first `Learner` seen; those of a discriminator belong to the same step.
    """

    def __init__(self, args: argparse.Namespace):
        from stepwise.training.learner import Learner

        self.args, self.seen, self.report = args, 0, None
        self.profiler: Any = None
        self.profiles = False
        self.began, self.first = 0.0, None
        original = Learner.update

        def update(learner: Learner, loss: Any) -> None:
            original(learner, loss)
            self.first = self.first or learner
            if learner is self.first and self.report is None:
                self.stepped(learner.device)

        Learner.update = update

    def stepped(self, device: Any) -> None:
        from torch import profiler

        self.seen += 1
        if self.seen == self.args.skip:
            wait(device)
            kinds = [profiler.ProfilerActivity.CPU] + [profiler.ProfilerActivity.CUDA] * (device.type == "cuda")
            self.profiler = profiler.profile(activities=kinds)
            self.profiler.start()
            self.profiles = True
            self.began = time.perf_counter()
        elif self.seen == self.args.skip + self.args.steps:
            wait(device)
            wall = time.perf_counter() - self.began
            self.stop()
            self.report = report(self.profiler, wall, self.args.steps, device.type)
            signal.raise_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End the profile, if one is under way: torch does not survive its exit otherwise."""
        if self.profiles:
            self.profiler.stop()
            self.profiles = False


def report(profiler: Any, wall: float, steps: int, device: str) -> str:
    """`wall` seconds for `steps` steps, as Markdown."""
    on_gpu = device == "cuda"
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = [event for event in profiler.key_averages() if not on_gpu or ran_on_gpu(event)]
    found.sort(key=lambda event: -getattr(event, key))
    rows = [(event.key, getattr(event, key) / 1e6, event.count) for event in found if getattr(event, key) > 0]
    lines = [
        f"{steps} steps, {wall / steps * 1000:.1f} ms each (the profiler's own work included).\n",
        f"| {'kernel' if on_gpu else 'operator'} | share of the time | ms a step | calls a step |",
        "|---|---|---|---|",
    ]
    for name, seconds, count in rows[:SHOWN]:
        name = name[:80].replace("|", "\\|")
        lines.append(f"| {name} | {seconds / wall:.1%} | {seconds / steps * 1000:.2f} | {count / steps:.3g} |")
    rest = sum(seconds for _, seconds, _ in rows[SHOWN:])
    lines.append(f"| {len(rows[SHOWN:])} others | {rest / wall:.1%} | {rest / steps * 1000:.2f} | |")
    if on_gpu:
        ran = [event.time_range for event in profiler.events() if ran_on_gpu(event)]
        busy = covered((span.start, span.end) for span in ran) / 1e6
        lines.append(f"\nThe GPU waited {1 - busy / wall:.1%} of the time.")
    else:
        outside = wall - sum(seconds for _, seconds, _ in rows)
        lines.append(f"| outside of torch's operators: Python, waiting | {outside / wall:.1%} | | |")
    return "\n".join(lines)


def ran_on_gpu(event: Any) -> bool:
    """Whether this is a kernel or a copy, and not the operator that asked for it or a range that somebody named."""
    from torch.autograd import DeviceType

    return event.device_type == DeviceType.CUDA and not event.is_user_annotation


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length that intervals (start, end) cover together, however they overlap."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


if __name__ == "__main__":
    main()
