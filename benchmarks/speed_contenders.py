"""A process of benchmarks/speed.py: one contender, doing its work whenever it is asked to.

It is started with a JSON description and answers on its standard output, a line each: first that it has done
its first step, then how long each turn took, at last its peak memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = 900  # of an error that are passed on


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    spec = json.loads(sys.argv[1])

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        if spec["task"] == "machine":
            say(machine(spec["device"]))
        elif spec["task"] == "facts":
            import speed_facts

            say(speed_facts.find(spec))
        else:
            serve(spec, say)
    except Exception as error:
        say({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:WORDS]})
        raise


def serve(spec: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    """Build the contender, do its first step, then turns as asked: {"steps": N}, at last {"steps": 0}."""
    import torch
    import torch._dynamo  # an optimizer imports it when it is made; diffusers does so at once
    from speed_cases import Case, Contender

    from stepwise.foundation import devices

    case, contender = Case(**spec["case"]), Contender(**spec["contender"])
    if contender.library == "stepwise":
        import speed_ours as library
    else:
        import speed_theirs as library

        devices._keep_freed_memory = lambda: None  # ours: who uses diffusers has glibc as it comes
    device = devices.choose(spec["device"])
    on_gpu = device.type == "cuda"
    imported = resident_peak(anew=True)
    step, parameters = library.build(case, contender, device, spec["folder"])
    step(0)
    wait(device)
    say({"first_step": time.time() - spec["started"], "parameters": parameters})
    done = 1
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        if not steps:
            break
        if case.kind != "sampling":
            step(done)  # memory given back between turns is fetched again outside of the measurement
        wait(device)
        start = time.perf_counter()
        for number in range(done + 1, done + 1 + steps):
            step(number)
        wait(device)
        seconds = time.perf_counter() - start
        done += 1 + steps
        if on_gpu:
            torch.cuda.empty_cache()  # for the other contenders, which are other processes
        say({"seconds": seconds})
    peak = torch.cuda.max_memory_allocated() if on_gpu else resident_peak() - imported
    say({"peak_mib": peak / 2**20})


def wait(device: Any) -> None:
    """Until the device has done all it was told to do."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def resident_peak(anew: bool = False) -> int:
    """The most memory that this process has held so far, in bytes; 0 where nobody counts it (Windows).

    `anew`: from now on, where the system can (Linux); what imports held for a moment does not count then.
    """
    if anew:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    try:
        import resource
    except ImportError:
        return 0
    return in_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def in_bytes(maxrss: int) -> int:
    """The system's ru_maxrss, which Linux counts in KiB."""
    return maxrss if sys.platform == "darwin" else maxrss * 1024


def processor() -> str:
    """The model of the CPU, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    return model or platform.processor() or platform.machine()


def machine(wanted: str) -> dict[str, Any]:
    """What the figures depend on: processor, GPU, threads, precision, versions."""
    from importlib import metadata

    import torch

    from stepwise.foundation import devices

    device = devices.choose(wanted)
    packages = ("torch", "diffusers", "torchvision", "numpy", "pillow", "opencv-python-headless", "albumentations")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "device": device.type,
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else "none",
        "precision": {None: "float32"}.get(device.dtype, str(device.dtype).removeprefix("torch.")),
        "versions": versions,
    }


if __name__ == "__main__":
    main()
