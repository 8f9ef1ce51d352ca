"""Networks made ready to sample with."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stepwise.foundation.devices import Device
from stepwise.models import autoencoder, denoiser, presets
from stepwise.models.unet import UNet
from stepwise.training.pretrained import for_sampling

NETS = {
    "unet": lambda: denoiser.build(presets.unet((4, 8, 8), 32, 1, 0.1, 3)),
    "autoencoder": lambda: autoencoder.build(presets.grid_autoencoder(32, 4, 4, 8)),
}


def outputs(net: nn.Module, device: Device) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad(), device.autocast():
        if isinstance(net, UNet):
            x = torch.randn(2, 4, 8, 8, generator=rng)
            return [net(x, torch.tensor([3, 700]), torch.tensor([0, 2]))]
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
    kinds = {type(module).__name__: p.dtype for module in ready.modules() for p in module.parameters(recurse=False)}
    assert kinds["Conv2d"] == kinds["Linear"] == torch.bfloat16
    assert kinds["GroupNorm"] == torch.float32
    assert not any(p.requires_grad for p in ready.parameters()) and not ready.training


def test_without_lower_precision_nothing_is_rounded() -> None:
    device = Device(torch.device("cpu"), None)
    ready = for_sampling(NETS["autoencoder"](), device, None)
    assert {p.dtype for p in ready.parameters()} == {torch.float32}
