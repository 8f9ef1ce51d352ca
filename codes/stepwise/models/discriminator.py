"""The critic of adversarial losses: which patches of an image look real."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from stepwise.models.normalisation import GroupNorm

GROUPS = 8
EPS = 1e-6


class PatchDiscriminator(nn.Module):
    """Convolutions that judge overlapping patches (Isola et al. 2017, PatchGAN).

    x: [B, 3, S, S] in [-1, 1] -> logits [B, 1, H, W], one a patch; above 0 means real. `levels` halvings:
    with 2 a patch is 34 px wide, with 3 it is 70. Group norm in the place of batch norm: what is said of an
    image does not depend on the others of its batch.
    """

    def __init__(self, *, base_channels: int = 32, levels: int = 2):
        super().__init__()
        widths = [base_channels * 2 ** min(i, 3) for i in range(levels + 1)]
        self.first = nn.Conv2d(3, widths[0], 4, stride=2, padding=1)
        self.convs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 4, stride=2 if i + 1 < levels else 1, padding=1, bias=False)
            for i in range(levels)
        )
        self.norms = nn.ModuleList(GroupNorm(GROUPS, width, EPS) for width in widths[1:])
        self.last = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(x), 0.2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.leaky_relu(norm(conv(h)), 0.2)
        return self.last(h)


def build(config: dict[str, Any]) -> PatchDiscriminator:
    """The discriminator that a checkpoint's config describes: {"kind": "patch", ...}."""
    options = dict(config)
    return {"patch": PatchDiscriminator}[options.pop("kind")](**options)
