"""Blocks that the autoencoder and the U-Net share.

Their mathematics and parameter names are those of AutoencoderKL and UNet2DModel of the diffusers
library, so weights can be carried over without loss. The blocks themselves go back to Ho et al.
2020 (DDPM) and Rombach et al. 2022 (latent diffusion).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepwise.models.normalisation import GroupNorm

PLAIN_ATTENTION = 512**2  # numbers in a matrix of attention weights up to which it is computed as a whole


class Dropout(nn.Module):
    """Dropout whose mask is drawn for the whole batch, of which several processes may hold a part each.

    So the masks of a batch do not depend on how many processes share it. x: [B, ...] -> the same,
    B items being part number `part` of `parts`.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p, self.part, self.parts = p, 0, 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or self.parts == 1:
            return F.dropout(x, self.p, self.training)
        whole = torch.cat([torch.ones_like(x)] * self.parts)
        return x * F.dropout(whole, self.p).chunk(self.parts)[self.part].clone()  # alone, or backward keeps the whole


class ResnetBlock2D(nn.Module):
    """GroupNorm-SiLU-conv twice, with a shortcut; a time embedding scales and shifts in between.

    x: [B, in_channels, H, W], emb: [B, emb_dim] or None -> [B, out_channels, H, W].
    Scale and shift as in Dhariwal and Nichol 2021 (adaptive group normalisation).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        eps: float,
        emb_dim: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(emb_dim, 2 * out_channels) if emb_dim else None
        self.norm2 = GroupNorm(groups, out_channels, eps)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        adaptive = () if self.time_emb_proj is None else self.time_emb_proj(F.silu(emb)).chunk(2, dim=1)
        h = self.norm2(h, *adaptive)
        h = self.conv2(self.dropout(F.silu(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Self-attention over positions with a shortcut. x: [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, channels: int, *, head_dim: int, groups: int, eps: float):
        super().__init__()
        self.heads = channels // head_dim
        self.group_norm = GroupNorm(groups, channels, eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # [B, H*W, C]
        q, k, v = (
            project(h).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, heads, H*W, C/heads]
            for project in (self.to_q, self.to_k, self.to_v)
        )
        h = attend(q, k, v).transpose(1, 2).flatten(2)
        h = self.to_out[0](h).transpose(1, 2).reshape(batch, channels, height, width)
        return x + h


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, equation 1). q, k, v: [B, heads, N, D] -> the same.

    For short rows in bfloat16 on a CPU by plain products: there torch's fused kernel takes several times
    as long, forward and backward (benchmarks/speed.md).
    """
    short = q.shape[-2] * k.shape[-2] <= PLAIN_ATTENTION
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and short:
        return plain_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` with its matrix of weights computed as a whole."""
    return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1) @ v


class Downsample2D(nn.Module):
    """Halve height and width by a strided convolution. [B, C, H, W] -> [B, C, H/2, W/2].

    `symmetric` pads one pixel on every side (U-Net), otherwise only right and below (autoencoder).
    """

    def __init__(self, channels: int, *, symmetric: bool):
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))


class Upsample2D(nn.Module):
    """Double height and width: nearest neighbour, then a convolution. [B, C, H, W] -> [B, C, 2H, 2W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class TimestepEmbedding(nn.Module):
    """A two-layer perceptron over sinusoidal features. t: [B] in 0 ... T-1 -> [B, emb_dim]."""

    def __init__(self, channels: int, emb_dim: int):
        super().__init__()
        self.channels = channels
        self.linear_1 = nn.Linear(channels, emb_dim)
        self.linear_2 = nn.Linear(emb_dim, emb_dim)

    def forward(self, t: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoid(t, self.channels))))


def conditioning(net: nn.Module, t: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
    """What a denoiser is told beside its input, as one embedding [B, emb_dim], from `net`'s own layers.

    t: [B] in 0 ... T-1, label: [B], augment: [B, A]; what the network has no layer for is left out.
    """
    emb = net.time_embedding(t)
    if net.class_embedding is not None:
        emb = emb + net.class_embedding(label)
    if net.augment_embedding is not None and augment is not None:
        emb = emb + net.augment_embedding(augment)
    return emb


def sinusoid(t: Tensor, channels: int) -> Tensor:
    """Cosines, then sines, of t at `channels`/2 frequencies from 1 down to 1/10000. t: [B] -> [B, channels].

    Vaswani et al. 2017, section 3.5, in the order that diffusers calls flip_sin_to_cos.
    """
    half = channels // 2
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-9.210340371976184 / half))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)
