"""The parts of a step that have a way of their own on a CPU, beside torch's: attention, group norm, packing, memory.

    OMP_NUM_THREADS=1 python benchmarks/kernels.py [attention] [group_norm] [packing] [memory]

Prints Markdown tables: milliseconds forward and backward (of packed weights forward only, of the whole U-Net), medians
of turns taken one after the other, and for the memory of freed tensors seconds of a step of 3A with and without what
`devices.choose` asks of glibc. Without names: all of them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from speed_contenders import processor

REPEATS = 21
MEMORY_TURNS = 3
ATTENTION = ((16, 3, 64, 32), (16, 6, 16, 32), (256, 3, 64, 32), (16, 4, 256, 32), (16, 1, 64, 128), (16, 8, 1024, 32))
NORMS = (
    (16, 32, 64, 64, 4),
    (16, 32, 32, 32, 4),
    (16, 64, 32, 32, 4),
    (16, 96, 8, 8, 12),
    (64, 96, 8, 8, 12),
    (16, 96, 16, 16, 12),
)
WAYS = {"glibc as it comes": {}, "huge pages": {"THP_MEM_ALLOC_ENABLE": "1"}, "freed memory kept": {}}


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in WAYS:
        print(json.dumps(autoencoder_step(sys.argv[1])))
        return
    parts = {"attention": attention, "group_norm": group_norm, "packing": packing, "memory": memory}
    if unknown := set(sys.argv[1:]) - set(parts):
        sys.exit(f"No part is called {', '.join(sorted(unknown))}. There are: {', '.join(parts)}.")
    import torch

    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    for name in sys.argv[1:] or parts:
        parts[name]()


def attention() -> None:
    import torch
    import torch.nn.functional as F

    from stepwise.models.blocks import plain_attention

    print("| attention: batch, heads, tokens, width | dtype | torch's fused kernel | plain products | gain |")
    print("|---|---|---|---|---|")
    for dtype in (torch.bfloat16, torch.float32):
        for shape in ATTENTION:
            qkv = [torch.randn(shape).to(dtype).requires_grad_() for _ in range(3)]
            fused, own = turns([(F.scaled_dot_product_attention, qkv), (plain_attention, qkv)])
            print(f"| {shape} | {str(dtype)[6:]} | {fused:.2f} | {own:.2f} | {fused / own:.1f} x |")
    print()


def group_norm() -> None:
    import torch
    from torch import nn

    from stepwise.models.normalisation import GroupNorm

    print("| group norm, channels last: batch, channels, height, width, groups | dtype | torch | own | gain |")
    print("|---|---|---|---|---|")
    for dtype in (torch.bfloat16, torch.float32):
        for *shape, groups in NORMS:
            x = torch.randn(shape).to(dtype, memory_format=torch.channels_last).requires_grad_()
            theirs, own = turns([(norm(groups, shape[1]), [x]) for norm in (nn.GroupNorm, GroupNorm)])
            print(f"| {(*shape, groups)} | {str(dtype)[6:]} | {theirs:.2f} | {own:.2f} | {theirs / own:.1f} x |")
    print()


def packing() -> None:
    """A pass of 3C through 3B's default network at 64 px, in this processor's precision."""
    import torch

    from stepwise.foundation import devices
    from stepwise.models import denoiser, presets
    from stepwise.training.pretrained import for_sampling

    device = devices.choose("cpu")
    config = presets.unet((12, 8, 8), 96, 2, 0.1, 6)
    plain, packed = (for_sampling(denoiser.build(config), device, device.dtype) for _ in range(2))
    for layer in plain.modules():
        if isinstance(layer, torch.nn.Conv2d):
            del layer._conv_forward  # which packs the weights: without it torch's own is called
    print("| pass of the U-Net without gradients, latents | dtype | weights laid out in each | packed once | gain |")
    print("|---|---|---|---|---|")
    for batch in (16, 64):
        inputs = [torch.randn(batch, 12, 8, 8), torch.full((batch,), 500), torch.zeros(batch, dtype=torch.long)]
        with torch.inference_mode(), device.autocast():
            theirs, own = turns([(plain, inputs), (packed, inputs)], backward=False)
        dtype = str(device.dtype or torch.float32)[6:]
        print(f"| {batch} | {dtype} | {theirs:.1f} | {own:.1f} | {theirs / own:.2f} x |")
    print()


def turns(ways: list[tuple[Callable, list]], backward: bool = True) -> list[float]:
    """Median milliseconds of each function of its tensors, forward and backward."""
    import torch

    times: list[list[float]] = [[] for _ in ways]
    for _ in range(REPEATS):
        for (way, tensors), found in zip(ways, times, strict=True):
            started = time.perf_counter()
            y = way(*tensors)
            if backward:
                y.backward(torch.ones_like(y))
            found.append(1000 * (time.perf_counter() - started))
    return [statistics.median(found) for found in times]


def memory() -> None:
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(MEMORY_TURNS):
        for name, variables in WAYS.items():
            run = [sys.executable, __file__, name]
            done = subprocess.run(run, env={**os.environ, **variables}, stdout=subprocess.PIPE, check=True)
            found[name].append(json.loads(done.stdout))
    print("| memory of freed tensors | seconds a step of 3A, median of each run |")
    print("|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {', '.join(f'{s:.3f}' for s in seconds)} |")


def autoencoder_step(way: str) -> float:
    """Median seconds of a step of 3A at 64 px, batch 16, in this process."""
    import speed_ours
    from speed_cases import Case, Contender

    from stepwise.foundation import devices

    if way != "freed memory kept":
        devices._keep_freed_memory = lambda: None
    contender = Contender("stepwise", False)
    step, _ = speed_ours.build(Case("vae", "", image_size=64), contender, devices.choose("cpu"), "")
    times = []
    for number in range(15):
        started = time.perf_counter()
        step(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times[3:])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "codes"))
    main()
