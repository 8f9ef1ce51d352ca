"""The denoiser for grid latents: UNet2DModel of diffusers, block for block.

A U-Net with attention (Ho et al. 2020, Dhariwal and Nichol 2021). A class embedding is added to
the time embedding; the extra last class stands for "no class" (Ho and Salimans 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stepwise.models.blocks import Attention, Downsample2D, ResnetBlock2D, TimestepEmbedding, Upsample2D, conditioning
from stepwise.models.normalisation import GroupNorm

EPS = 1e-5


class DownBlock(nn.Module):
    """Resnets (each followed by attention where asked for) and an optional halving; keeps every output."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, attention: bool, down: bool, **options):
        super().__init__()
        head_dim = options.pop("head_dim")
        self.resnets = nn.ModuleList(
            ResnetBlock2D(in_channels if i == 0 else out_channels, out_channels, eps=EPS, **options)
            for i in range(layers)
        )
        self.attentions = nn.ModuleList(
            Attention(out_channels, head_dim=head_dim, groups=options["groups"], eps=EPS)
            for _ in range(layers if attention else 0)
        )
        self.downsamplers = nn.ModuleList([Downsample2D(out_channels, symmetric=True)] if down else [])

    def forward(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, emb)
            if self.attentions:
                x = self.attentions[i](x)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x, skips


class UpBlock(nn.Module):
    """Resnets that take a skip each (with attention where asked for) and an optional doubling."""

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        layers: int,
        attention: bool,
        up: bool,
        **options,
    ):
        super().__init__()
        head_dim = options.pop("head_dim")
        resnets = []
        for i in range(layers):
            main = in_channels if i == 0 else out_channels
            skip = skip_channels if i == layers - 1 else out_channels
            resnets.append(ResnetBlock2D(main + skip, out_channels, eps=EPS, **options))
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(
            Attention(out_channels, head_dim=head_dim, groups=options["groups"], eps=EPS)
            for _ in range(layers if attention else 0)
        )
        self.upsamplers = nn.ModuleList([Upsample2D(out_channels)] if up else [])

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), emb)
            if self.attentions:
                x = self.attentions[i](x)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class MidBlock(nn.Module):
    """Resnet, attention, resnet at the lowest resolution."""

    def __init__(self, channels: int, **options):
        super().__init__()
        head_dim = options.pop("head_dim")
        self.attentions = nn.ModuleList([Attention(channels, head_dim=head_dim, groups=options["groups"], eps=EPS)])
        self.resnets = nn.ModuleList(ResnetBlock2D(channels, channels, eps=EPS, **options) for _ in range(2))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, emb)), emb)


class UNet(nn.Module):
    """xt: [B, C, H, W], t: [B] in 0 ... T-1, label: [B] in 0 ... num_classes -> prediction like xt.

    `attention` says for each width whether its blocks attend; label `num_classes` means no class.
    `augment`: [B, augment_dim], how the image was altered (Karras et al. 2022, appendix F.2); none: not at all.
    """

    kind = "unet"

    def __init__(
        self,
        *,
        channels: int,
        widths: list[int],
        layers: int = 2,
        attention: list[bool],
        head_dim: int = 32,
        groups: int = 32,
        dropout: float = 0.0,
        num_classes: int = 0,
        augment_dim: int = 0,
    ):
        super().__init__()
        emb_dim = 4 * widths[0]
        options = {"groups": groups, "emb_dim": emb_dim, "dropout": dropout, "head_dim": head_dim}
        self.num_classes = num_classes
        self.time_embedding = TimestepEmbedding(widths[0], emb_dim)
        self.class_embedding = nn.Embedding(num_classes + 1, emb_dim) if num_classes else None
        self.augment_embedding = nn.Linear(augment_dim, emb_dim, bias=False) if augment_dim else None
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        last = len(widths) - 1
        self.down_blocks = nn.ModuleList(
            DownBlock(widths[max(i - 1, 0)], width, layers, attention[i], i < last, **options)
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], **options)
        self.up_blocks = nn.ModuleList(
            UpBlock(
                widths[min(i + 1, last)], widths[max(i - 1, 0)], widths[i], layers + 1, attention[i], i > 0, **options
            )
            for i in range(last, -1, -1)
        )
        self.conv_norm_out = GroupNorm(groups, widths[0], EPS)
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, xt: Tensor, t: Tensor, label: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        emb = conditioning(self, t, label, augment)
        x = self.conv_in(xt)
        skips = [x]
        for block in self.down_blocks:
            x, kept = block(x, emb)
            skips += kept
        x = self.mid_block(x, emb)
        for block in self.up_blocks:
            x = block(x, emb, skips)
        return self.conv_out(nn.functional.silu(self.conv_norm_out(x)))
