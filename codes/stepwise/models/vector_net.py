"""The denoiser for flat latents: a residual multilayer perceptron with long skips."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepwise.models.blocks import Dropout, TimestepEmbedding, conditioning


class ResidualLayer(nn.Module):
    """LayerNorm-scale-shift-SiLU-linear twice, with a shortcut. x: [B, D], emb: [B, E] -> [B, D]."""

    def __init__(self, width: int, emb_dim: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.emb_proj = nn.Linear(emb_dim, 2 * width)
        self.linear_1 = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.emb_proj(F.silu(emb)).chunk(2, dim=1)
        h = self.norm(x) * (1 + scale) + shift
        h = self.linear_2(self.dropout(F.silu(self.linear_1(F.silu(h)))))
        return x + h


class VectorNet(nn.Module):
    """xt: [B, D], t: [B] in 0 ... T-1, label: [B] in 0 ... num_classes -> prediction like xt; `augment` as in UNet.

    The second half of the layers each take the output of its mirror in the first half, as the
    levels of a U-Net do.
    """

    kind = "vector_net"

    def __init__(
        self,
        *,
        channels: int,
        width: int = 512,
        layers: int = 6,
        dropout: float = 0.0,
        num_classes: int = 0,
        augment_dim: int = 0,
    ):
        super().__init__()
        emb_dim = 256
        self.num_classes = num_classes
        self.time_embedding = TimestepEmbedding(128, emb_dim)
        self.class_embedding = nn.Embedding(num_classes + 1, emb_dim) if num_classes else None
        self.augment_embedding = nn.Linear(augment_dim, emb_dim, bias=False) if augment_dim else None
        self.linear_in = nn.Linear(channels, width)
        self.down = nn.ModuleList(ResidualLayer(width, emb_dim, dropout) for _ in range(layers // 2))
        self.joins = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers // 2))
        self.up = nn.ModuleList(ResidualLayer(width, emb_dim, dropout) for _ in range(layers // 2))
        self.norm_out = nn.LayerNorm(width)
        self.linear_out = nn.Linear(width, channels)

    def forward(self, xt: Tensor, t: Tensor, label: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        emb = conditioning(self, t, label, augment)
        x = self.linear_in(xt)
        skips = []
        for layer in self.down:
            x = layer(x, emb)
            skips.append(x)
        for join, layer in zip(self.joins, self.up, strict=True):
            x = layer(join(torch.cat([x, skips.pop()], dim=1)), emb)
        return self.linear_out(F.silu(self.norm_out(x)))
