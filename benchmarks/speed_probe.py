"""Run a script of codes/ as a user does, and note when it did what, and how much memory it held.

    python speed_probe.py '{"script": ..., "flags": [...], "record": FILE, "started": TIME, "every": N,
        "stop_after": N}'

The record is JSON; its times are seconds since `started`: when the device was chosen, the first step done, each
epoch ended. `every` steps (0: never) the memory is noted, after `stop_after` steps (0: never) the run is stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

from speed_contenders import resident_peak

STATUS = Path("/proc/self/status")


class Probe:
    """Notes of one run, taken by functions put around those of the package."""

    def __init__(self, spec: dict[str, Any]):
        self.spec, self.steps = spec, 0
        self.record: dict[str, Any] = {"epochs": [], "steps": [], "samples": []}

    def install(self) -> None:
        from stepwise.foundation import devices
        from stepwise.training.learner import Learner
        from stepwise.training.state import RunState

        def then(owner: Any, name: str, note: Any) -> None:
            """Call `note` after each call of owner.name."""
            original = getattr(owner, name)

            def noted(*args: Any, **options: Any) -> Any:
                result = original(*args, **options)
                note()
                return result

            setattr(owner, name, noted)

        then(devices, "choose", lambda: self.record.setdefault("chosen", self.now()))
        then(Learner, "update", self.stepped)
        then(RunState, "end_epoch", self.epoch_ended)

    def now(self) -> float:
        return time.time() - self.spec["started"]

    def stepped(self) -> None:
        self.steps += 1
        if self.steps == 1:
            _finish_on_gpu()
            self.record["first_step"] = self.now()
        if self.spec["every"] and self.steps % self.spec["every"] == 0:
            _finish_on_gpu()
            self.record["samples"].append({"step": self.steps, "seconds": self.now(), **memory()})
        if self.steps == self.spec["stop_after"]:
            os.kill(os.getpid(), signal.SIGTERM)

    def epoch_ended(self) -> None:
        self.record["epochs"].append(self.now())
        self.record["steps"].append(self.steps)


def _finish_on_gpu() -> None:
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def memory() -> dict[str, float]:
    """MiB that this process holds in memory now; where the system does not tell, the most it has held.

    On Linux also the part of it that is mapped files (libraries, latents), and what malloc has handed out:
    tensors above all. The rest is what malloc keeps of freed memory, and Python's own small objects.
    """
    if not STATUS.exists():
        return {"resident_mib": resident_peak() / 2**20}
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    parts = {"resident_mib": "VmRSS", "files_mib": "RssFile"}
    return {name: int(lines[key].split()[0]) / 2**10 for name, key in parts.items()} | allocated()


class _Mallinfo2(ctypes.Structure):
    """glibc's struct mallinfo2 (mallinfo(3), since 2.33)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def allocated() -> dict[str, float]:
    """What malloc has handed out and not got back, {} where this C library does not say."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return {}
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return {"allocated_mib": (info.uordblks + info.hblkhd) / 2**20}


def main() -> None:
    spec = json.loads(sys.argv[1])
    probe = Probe(spec)
    probe.install()
    sys.argv = [spec["script"], *spec["flags"]]
    code = 0
    try:
        runpy.run_path(spec["script"], run_name="__main__")
    except SystemExit as ended:
        code = ended.code or 0
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    probe.record |= {"code": code, "peak_resident_mib": resident_peak() / 2**20, "seconds": probe.now()}
    Path(spec["record"]).write_text(json.dumps(probe.record))


if __name__ == "__main__":
    main()
