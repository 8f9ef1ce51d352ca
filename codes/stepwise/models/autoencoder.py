"""Variational autoencoders: image to latent and back.

`GridAutoencoder` keeps a spatial latent and is AutoencoderKL of diffusers, block for block
(Rombach et al. 2022). `VectorAutoencoder` is the flat latent of the coursework (Kingma and
Welling 2014): the same convolutions with linear layers in the middle.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepwise.models.blocks import Attention, Downsample2D, ResnetBlock2D, Upsample2D
from stepwise.models.normalisation import GroupNorm

EPS = 1e-6
LOGVAR_RANGE = (-30.0, 20.0)
FIRST_LOGVAR = -5.0  # a new encoder starts almost without noise: from sigma 1 it would first have to outgrow it


class Stage(nn.Module):
    """Resnets at one resolution, then an optional change of resolution."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, resample: str | None):
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock2D(in_channels if i == 0 else out_channels, out_channels, groups=groups, eps=EPS)
            for i in range(layers)
        )
        if resample == "down":
            self.downsamplers = nn.ModuleList([Downsample2D(out_channels, symmetric=False)])
        if resample == "up":
            self.upsamplers = nn.ModuleList([Upsample2D(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        for resample in getattr(self, "downsamplers", getattr(self, "upsamplers", ())):
            x = resample(x)
        return x


class MidBlock(nn.Module):
    """Resnet, attention (optional), resnet at the lowest resolution."""

    def __init__(self, channels: int, groups: int, attention: bool):
        super().__init__()
        self.attentions = nn.ModuleList(
            [Attention(channels, head_dim=channels, groups=groups, eps=EPS)] if attention else []
        )
        self.resnets = nn.ModuleList(ResnetBlock2D(channels, channels, groups=groups, eps=EPS) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Encoder(nn.Module):
    """x: [B, 3, S, S] in [-1, 1] -> [B, out_channels, S/f, S/f], f = 2^(len(widths) - 1)."""

    def __init__(self, out_channels: int, widths: list[int], layers: int, groups: int, attention: bool):
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        last = len(widths) - 1
        self.down_blocks = nn.ModuleList(
            Stage(widths[max(i - 1, 0)], width, layers, groups, "down" if i < last else None)
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], groups, attention)
        self.conv_norm_out = GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


def _call(layer: nn.Module, z: Tensor) -> Tensor:
    return layer(z)


class Decoder(nn.Module):
    """z: [B, in_channels, S/f, S/f] -> [B, 3, S, S], about [-1, 1] but not clamped."""

    def __init__(self, in_channels: int, widths: list[int], layers: int, groups: int, attention: bool):
        super().__init__()
        reverse = widths[::-1]
        self.conv_in = nn.Conv2d(in_channels, reverse[0], 3, padding=1)
        self.mid_block = MidBlock(reverse[0], groups, attention)
        last = len(widths) - 1
        self.up_blocks = nn.ModuleList(
            Stage(reverse[max(i - 1, 0)], width, layers + 1, groups, "up" if i < last else None)
            for i, width in enumerate(reverse)
        )
        self.conv_norm_out = GroupNorm(groups, reverse[-1], EPS)
        self.conv_out = nn.Conv2d(reverse[-1], 3, 3, padding=1)
        self.draw = _call

    def forward(self, z: Tensor) -> Tensor:
        z = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            z = block(z)
        return self.draw(self.conv_out, F.silu(self.conv_norm_out(z)))

    def keep_last_layer_out(self) -> None:
        """Of the compiled graph, which is differentiated once only: losses/adversarial.py needs this layer apart."""
        self.draw = torch.compiler.disable(_call)


class GridAutoencoder(nn.Module):
    """Latents [B, latent_channels, S/f, S/f]; each grid cell is one latent vector."""

    kind = "grid"

    def __init__(
        self, *, latent_channels: int, widths: list[int], layers: int = 1, groups: int = 32, attention: bool = True
    ):
        super().__init__()
        self.latent_channels = latent_channels
        self.downsample = 2 ** (len(widths) - 1)
        self.encoder = Encoder(2 * latent_channels, widths, layers, groups, attention)
        self.decoder = Decoder(latent_channels, widths, layers, groups, attention)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        nn.init.constant_(self.quant_conv.bias[latent_channels:], FIRST_LOGVAR)

    def latent_shape(self, image_size: int) -> tuple[int, ...]:
        side = image_size // self.downsample
        return (self.latent_channels, side, side)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, 3, S, S] in [-1, 1] -> mu and logvar of the posterior, each [B, C, S/f, S/f]."""
        mu, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mu, logvar.clamp(*LOGVAR_RANGE)

    def decode(self, z: Tensor) -> Tensor:
        """z: [B, C, S/f, S/f] -> x: [B, 3, S, S]."""
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct x through the posterior sample mu + sigma * eps: (x_hat, mu, logvar)."""
        mu, logvar = self.encode(x)
        return self.decode(reparameterize(mu, logvar, eps)), mu, logvar


class VectorAutoencoder(nn.Module):
    """Latents [B, latent_dim]: one flat vector an image."""

    kind = "vector"

    def __init__(
        self,
        *,
        latent_dim: int,
        image_size: int,
        widths: list[int],
        layers: int = 1,
        groups: int = 32,
        hidden: int = 16,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.side = image_size // 2 ** (len(widths) - 1)
        self.hidden = hidden
        flat = hidden * self.side**2
        self.encoder = Encoder(hidden, widths, layers, groups, attention=False)
        self.to_posterior = nn.Linear(flat, 2 * latent_dim)
        self.from_latent = nn.Linear(latent_dim, flat)
        self.decoder = Decoder(hidden, widths, layers, groups, attention=False)
        nn.init.constant_(self.to_posterior.bias[latent_dim:], FIRST_LOGVAR)

    def latent_shape(self, image_size: int) -> tuple[int, ...]:
        return (self.latent_dim,)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, 3, S, S] in [-1, 1] -> mu and logvar of the posterior, each [B, latent_dim]."""
        mu, logvar = self.to_posterior(self.encoder(x).flatten(1)).chunk(2, dim=1)
        return mu, logvar.clamp(*LOGVAR_RANGE)

    def decode(self, z: Tensor) -> Tensor:
        """z: [B, latent_dim] -> x: [B, 3, S, S]."""
        return self.decoder(self.from_latent(z).unflatten(1, (self.hidden, self.side, self.side)))

    forward = GridAutoencoder.forward


def reparameterize(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """A sample of N(mu, exp(logvar)) from standard normal eps (Kingma and Welling 2014, section 2.4)."""
    return mu + torch.exp(0.5 * logvar) * eps


def build(config: dict[str, Any]) -> GridAutoencoder | VectorAutoencoder:
    """The autoencoder that a checkpoint's config describes: {"kind": "grid" | "vector", ...}."""
    kinds = {"grid": GridAutoencoder, "vector": VectorAutoencoder}
    options = dict(config)
    return kinds[options.pop("kind")](**options)
