"""What benchmarks/speed.py must know of a case beside its speed: FLOPs, the hardware's peak, equal networks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import speed_ours
import torch
from diffusers import AutoencoderKL, UNet2DModel
from speed_cases import Case
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stepwise.foundation import devices
from stepwise.foundation.devices import Device
from stepwise.training.export import to_diffusers

PEAK_SECONDS = 1.5
AGREE_TO = 1e-3


def find(spec: dict[str, Any]) -> dict[str, Any]:
    """Export the case's networks to `spec["folder"]` for diffusers, and tell what is to be known of them."""
    case, device = Case(**spec["case"]), devices.choose(spec["device"])
    vae, unet = speed_ours.nets(case)
    to_diffusers(Path(spec["folder"]), *speed_ours.trained_pair(case, device, vae, unet))
    return {
        "difference": difference(case, spec["folder"], vae, unet),
        "flops": flops(case, vae, unet),
        "peak_flops": peak_flops(device, spec["quick"]),
    }


def difference(case: Case, folder: str, vae: nn.Module, unet: nn.Module) -> float:
    """The largest relative difference between our outputs and those of diffusers, in float32."""
    their_vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
    their_unet = UNet2DModel.from_pretrained(folder, subfolder="unet").eval()
    x, t = torch.randn(2, *case.latent_shape), torch.tensor([10, 900])
    label = torch.tensor([0, case.classes])
    with torch.no_grad():
        pairs = [
            (unet.eval()(x, t, label), their_unet(x, t, class_labels=label).sample),
            (vae.eval().decode(x), their_vae.decode(x).sample),
        ]
    largest = max(float((ours - theirs).abs().max() / ours.abs().max()) for ours, theirs in pairs)
    assert largest < AGREE_TO, f"the networks of the two libraries differ by {largest:.2g}"
    return largest


def flops(case: Case, vae: nn.Module, unet: nn.Module) -> float:
    """FLOPs an image: of forward and backward of a training step, or of sampling and decoding."""
    z, t, label = torch.randn(1, *case.latent_shape), torch.tensor([10]), torch.tensor([0])
    x = torch.randn(1, 3, case.image_size, case.image_size)
    if case.kind == "vae":
        return _counted(lambda: vae(x, z)[0].mean().backward())
    if case.kind == "unet":
        return _counted(lambda: unet(z, t, label).mean().backward())
    with torch.no_grad():
        return case.steps * _counted(lambda: unet(z, t, label)) + _counted(lambda: vae.decode(z))


def _counted(work: Any) -> float:
    # attention as plain products: the fused kernels' formulas count what their backward computes twice
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def peak_flops(device: Device, quick: bool) -> float:
    """FLOP/s of a large matrix product in the run's precision, the best of several."""
    size = 256 if quick else 8192 if device.type == "cuda" else 3072
    a, b = (torch.randn(size, size, device=device.device, dtype=device.dtype or torch.float32) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + (0.05 if quick else PEAK_SECONDS)
    while time.perf_counter() < end or best == float("inf"):
        best = min(best, _seconds(device, a, b))
    return 2 * size**3 / best


def _seconds(device: Device, a: Tensor, b: Tensor) -> float:
    from speed_contenders import wait

    wait(device)
    start = time.perf_counter()
    torch.mm(a, b)
    wait(device)
    return time.perf_counter() - start
