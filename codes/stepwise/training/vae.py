"""What 3A watches while it trains: validation figures, reconstructions, samples, curves."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepwise.evaluation.reconstruction import psnr, ssim
from stepwise.foundation.devices import Device
from stepwise.foundation.images import fit_square, save_grid, to_uint8
from stepwise.foundation.paths import make_folder
from stepwise.foundation.runs import RunFolder
from stepwise.foundation.seeds import noise_like
from stepwise.losses import perceptual
from stepwise.losses.vae import vae_loss
from stepwise.training.cli import stop_signal
from stepwise.training.distributed import World
from stepwise.training.learner import Learner
from stepwise.training.plots import curves

PICTURES = 8


def to_device(batch: Tensor, device: Device) -> Tensor:
    """uint8 [B, 3, S, S] -> float32 in [-1, 1] on the device, laid out for its convolutions.

    Raises TypeError for anything but uint8: what is in [-1, 1] already would come out black.
    """
    if batch.dtype != torch.uint8:
        raise TypeError(f"to_device takes uint8 images, found {batch.dtype}")
    memory = torch.channels_last if device.channels_last else torch.contiguous_format
    return (batch.to(device.device, non_blocking=True).float() / 127.5 - 1).contiguous(memory_format=memory)


def choose_perceptual(
    wanted: str, file: Path | None, device: Device, folder: RunFolder, world: World
) -> tuple[nn.Module, str, str]:
    """What `perceptual.build` gives: process 0 chooses and downloads, the others build what it has.

    How long that takes is not counted as time of the run in `folder`.
    """
    net, line = None, ""
    with folder.time_apart():
        if world.is_main:
            net, wanted, line = perceptual.build(wanted, file, device.type == "cpu")
        wanted = world.from_main(wanted)
        if net is None:
            net = perceptual.build(wanted, file)[0]
    return net.to(device.device), wanted, line


def some_of(images: Sequence[np.ndarray], index: list[int], most: int, size: int) -> Tensor:
    """At most so many of the images [H, W, 3] at `index`, spread evenly, as squares: uint8 [N, 3, size, size]."""

    def square(place: int) -> np.ndarray:
        stop_signal.check()
        return fit_square(images[index[place]], size)

    places = np.linspace(0, len(index) - 1, min(len(index), most)).round().astype(int)
    return torch.from_numpy(np.stack([square(place) for place in places]).transpose(0, 3, 1, 2))


class VAEMonitor:
    """Validates on `val` and draws pictures; `train` is a spread of the training images.

    Both are uint8 [N, 3, S, S] on the CPU.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        folder: RunFolder,
        learner: Learner,
        train: Tensor,
        val: Tensor,
        perceptual_net: nn.Module | None,
    ):
        self.args, self.folder, self.learner = args, folder, learner
        self.train, self.val, self.perceptual_net = train, val, perceptual_net
        for name in ("reconstructions", "samples"):
            make_folder(folder.path / name)

    def _batches(self, images: Tensor):
        for chunk in images.split(self.args.batch_size):
            stop_signal.check()
            yield to_device(chunk, self.learner.device)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """PSNR, SSIM and loss of the images reconstructed through their posterior means.

        The loss carries the KL at its final weight, so that a checkpoint above the KL budget is
        not taken for the best while the weight is still warming up.
        """
        net, sums = self.learner.best_net, torch.zeros(5, dtype=torch.float64)
        for x in self._batches(self.val):
            with self.learner.device.autocast():
                mu, logvar = net.encode(x)
                x_hat = net.decode(mu)
            parts = vae_loss(x_hat, x, mu, logvar, self.args.kl_weight, self.args.kl_target)
            loss = parts["loss"]
            if self.perceptual_net is not None:
                loss = loss + self.args.perceptual_weight * self.perceptual_net(x_hat.float(), x)
            values = [loss, parts["l1"], parts["kl"], psnr(x_hat, x).mean(), ssim(x_hat, x).mean()]
            sums += len(x) * torch.stack([value.detach().cpu().double() for value in values])
        names = ("val_loss", "val_l1", "val_kl", "val_psnr", "val_ssim")
        return {name: float(value) for name, value in zip(names, sums / len(self.val), strict=True)}

    @torch.no_grad()
    def preview(self, epoch: int, rows: list[dict[str, Any]]) -> None:
        """reconstructions/ (images above their reconstructions), samples/ and training_losses.png."""
        spread = torch.linspace(0, len(self.val) - 1, min(PICTURES, len(self.val))).long()
        shown = self.val[spread]
        x_hat = self._decode(self._means(shown))
        pairs = to_uint8(torch.cat([to_device(shown, self.learner.device), x_hat]))
        save_grid(self.folder.path / "reconstructions" / f"reconstruction_epoch_{epoch:04d}.png", pairs, len(shown))
        samples = to_uint8(self._decode(self._gaussian_samples(2 * PICTURES)))
        save_grid(self.folder.path / "samples" / f"samples_epoch_{epoch:04d}.png", samples, PICTURES)
        curves(
            self.folder.path / "training_losses.png",
            rows,
            {
                "loss (log)": ["loss", "val_loss"],
                "reconstruction L1": ["l1", "val_l1"],
                "KL in nats per latent vector": ["kl", "val_kl"],
                "validation PSNR in dB": ["val_psnr"],
                "validation SSIM": ["val_ssim"],
                **({"adversarial": ["adversarial", "discriminator"]} if self.args.adversarial_weight else {}),
            },
            marks={"KL in nats per latent vector": self.args.kl_target},
        )

    def _means(self, images: Tensor) -> Tensor:
        """Posterior means of uint8 images [N, 3, S, S]; no more at once than a training step holds."""
        net = self.learner.best_net
        return torch.cat([net.encode(x)[0] for x in self._batches(images)])

    def _decode(self, z: Tensor) -> Tensor:
        net = self.learner.best_net
        return torch.cat([net.decode(part) for part in z.split(self.args.batch_size)])

    def _gaussian_samples(self, count: int) -> Tensor:
        """Draws from the Gaussian that has the mean and covariance of the training latents.

        A weighted sum of centred latents with standard normal weights over sqrt(N) has exactly
        their covariance, without ever forming it.
        """
        mu = self._means(self.train)
        centre = mu.mean(dim=0, keepdim=True)
        weights = noise_like((count, len(mu)), self.args.seed, "vae-samples").to(mu.device) / len(mu) ** 0.5
        return centre + torch.einsum("kn,n...->k...", weights, mu - centre)
