"""Build the denoiser that a checkpoint's config describes."""

from __future__ import annotations

from typing import Any

from torch import nn

from stepwise.models.unet import UNet
from stepwise.models.vector_net import VectorNet


def build(config: dict[str, Any]) -> nn.Module:
    """{"kind": "unet" | "vector_net", ...options} -> the network, freshly initialised."""
    kinds = {"unet": UNet, "vector_net": VectorNet}
    options = dict(config)
    return kinds[options.pop("kind")](**options)
