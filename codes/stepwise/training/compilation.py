"""Whether a training run compiles its network: --compile {auto, on, off}."""

from __future__ import annotations

import os
import platform
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch

from stepwise.foundation.devices import Device
from stepwise.foundation.errors import UserError

# From this length on a run on a GPU wins back the time that compiling takes. On a CPU it takes minutes and wins
# nothing worth them: benchmarks/speed.md.
PAYS_FROM_MINUTES = 5.0
PAYS_FROM_STEPS = 3_000


def choose(wanted: str, state: dict[str, Any] | None, device: Device, steps: int, minutes: float | None) -> bool:
    """Whether to compile. auto: as the run to resume did, else on a GPU for a run of many `steps` or `minutes`.

    The answer depends on nothing measured, so that a run and its repetition compute alike. Raises
    UserError where "on" is asked for and this machine cannot compile.
    """
    lack = _lack(device)
    if wanted == "on" and lack:
        raise UserError(f"--compile on: {lack}.\nInstall it, or use --compile off.")
    if wanted != "auto":
        return wanted == "on"
    if state is not None:
        before = state["args"].get("compile", "off") == "on"
        if before and lack:
            print(f"Note: the run so far was compiled, but {lack}: it goes on without, the same up to rounding.")
        return before and not lack
    if device.type != "cuda" or lack:
        return False
    long = steps >= PAYS_FROM_STEPS if minutes is None else minutes >= PAYS_FROM_MINUTES
    if long:
        print("The network is compiled first, which takes a minute or more (--compile off: start at once, run slower).")
    return long


def _lack(device: Device) -> str | None:
    """What this machine lacks to compile for `device`; None if nothing."""
    compilers = [os.environ.get("CXX", ""), *({"Windows": ["cl"]}.get(platform.system(), ["g++", "clang++"]))]
    if not any(name and shutil.which(name) for name in compilers):
        return "there is no C++ compiler (g++ or clang++, on Windows cl) on this machine"
    return _lack_for_gpu(device) if device.type == "cuda" else None


def _lack_for_gpu(device: Device) -> str | None:
    if torch.cuda.get_device_capability(device.device) < (7, 0):
        return "this GPU is older than those that triton compiles for (compute capability 7.0)"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "the package triton, which compiles for GPUs, is not installed"
    if not any(name and shutil.which(name) for name in (os.environ.get("CC", ""), "gcc", "clang")):
        return "there is no C compiler (gcc or clang), which triton needs, on this machine"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "the headers of Python (python3-dev), which triton needs, are not installed"
    return None
