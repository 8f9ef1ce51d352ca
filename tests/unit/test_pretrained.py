"""Networks made ready to sample with."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stepwise.foundation.devices import Device
from stepwise.models import autoencoder, denoiser, packing, presets
from stepwise.models.unet import UNet
from stepwise.training.pretrained import for_sampling

NETS = {
    "unet": lambda: denoiser.build(presets.unet((4, 8, 8), 32, 1, 0.1, 3)),
    "told unet": lambda: denoiser.build(presets.unet((4, 8, 8), 32, 1, 0.1, 3, 6)),
    "vector net": lambda: denoiser.build(presets.vector_net(16, 32, 0.1, 3, 6)),
    "autoencoder": lambda: autoencoder.build(presets.grid_autoencoder(32, 4, 4, 8)),
    "vector autoencoder": lambda: autoencoder.build(presets.vector_autoencoder(32, 16, 8)),
}


def outputs(net: nn.Module, device: Device) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad(), device.autocast():
        if hasattr(net, "time_embedding"):
            x = torch.randn(2, *((4, 8, 8) if isinstance(net, UNet) else (16,)), generator=rng)
            told = () if net.augment_embedding is None else (torch.rand(2, 6, generator=rng),)
            return [net(x, torch.tensor([3, 700]), torch.tensor([0, 2]), *told)]
        x = torch.rand(2, 3, 32, 32, generator=rng)
        return [*net.encode(x), net.decode(net.encode(x)[0])]


@pytest.mark.parametrize("kind", NETS)
def test_weights_rounded_once_give_what_autocast_gives(kind: str) -> None:
    device = Device(torch.device("cpu"), torch.bfloat16)
    torch.manual_seed(0)
    net = NETS[kind]()
    ready = for_sampling(copy.deepcopy(net), device, torch.bfloat16)
    rounded_each_time = for_sampling(net, device, None)
    for expected, found in zip(outputs(rounded_each_time, device), outputs(ready, device), strict=True):
        assert torch.equal(expected, found)
    for module in ready.modules():
        rounded = isinstance(module, nn.Conv2d | nn.Linear)
        for parameter in module.parameters(recurse=False):
            assert parameter.dtype == (torch.bfloat16 if rounded else torch.float32), module
    assert not any(p.requires_grad for p in ready.parameters()) and not ready.training


def test_without_lower_precision_nothing_is_rounded() -> None:
    device = Device(torch.device("cpu"), None)
    ready = for_sampling(NETS["autoencoder"](), device, None)
    assert {p.dtype for p in ready.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_convolutions_are_packed_on_a_cpu_and_only_in_the_precision_it_computes_in(dtype: torch.dtype | None) -> None:
    for precision in (None, torch.bfloat16):
        ready = for_sampling(NETS["unet"](), Device(torch.device("cpu"), dtype), precision)
        packed = [isinstance(layer._conv_forward, packing._Packed) for layer in convolutions(ready)]
        able = precision == dtype and packing.can_pack(dtype or torch.float32)
        assert packed == [able] * len(packed)


def test_packing_changes_nothing_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    device, found = Device(torch.device("cpu"), None), []
    for pack in (packing.pack, lambda layer: None):
        monkeypatch.setattr(packing, "pack", pack)
        for kind in NETS:
            torch.manual_seed(0)
            found.append(outputs(for_sampling(NETS[kind](), device, None), device))
    for packed, plain in zip(found[: len(NETS)], found[len(NETS) :], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(packed, plain, strict=True))


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
