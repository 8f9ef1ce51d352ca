"""Our contenders for benchmarks/speed.py: the steps of 3A and 3B and the sampling of 3C, on data in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from speed_cases import Case, Contender
from speed_data import IMAGES, KL_TARGET, PERCEPTUAL_WEIGHT, Step, parameters, pixels, posteriors
from torch import nn

from stepwise.data.batches import Order
from stepwise.data.latents import Latents, LatentStatistics
from stepwise.diffusion import schedule as schedules
from stepwise.diffusion.objective import denoising_loss
from stepwise.foundation import seeds
from stepwise.foundation.devices import Device
from stepwise.losses.perceptual import LaplacianPyramid
from stepwise.losses.vae import vae_loss
from stepwise.models import autoencoder, denoiser, presets
from stepwise.training.generate import SamplerOptions, generate
from stepwise.training.learner import Learner
from stepwise.training.pretrained import FrozenVAE, TrainedDenoiser, for_sampling
from stepwise.training.vae import to_device


def build(case: Case, contender: Contender, device: Device, folder: str) -> tuple[Step, int]:
    """(the work as a function of the step's number, the trainable parameters of its networks)."""
    return {"vae": _vae, "unet": _unet, "sampling": _sampling}[case.kind](case, contender, device)


def nets(case: Case) -> tuple[nn.Module, nn.Module]:
    """The autoencoder and the denoiser, the same weights in every process."""
    seeds.seed_weights(0)
    return autoencoder.build(vae_config(case)), denoiser.build(unet_config(case))


def vae_config(case: Case) -> dict:
    return presets.grid_autoencoder(case.image_size, 8, case.latent_channels, case.vae_base)


def unet_config(case: Case) -> dict:
    return presets.unet(case.latent_shape, case.unet_base, case.layers, case.dropout, case.classes)


def trained_pair(case: Case, device: Device, vae: nn.Module, unet: nn.Module) -> tuple[FrozenVAE, TrainedDenoiser]:
    """The two networks as checkpoints of 3A and 3B would hold them."""
    zero = torch.zeros(1, case.latent_channels, 1, 1)
    model = TrainedDenoiser(
        net=unet,
        config=unet_config(case),
        schedule=schedules.build("linear", 1000),
        prediction="v",
        statistics=LatentStatistics(zero, zero + 1),
        latent_shape=case.latent_shape,
        classes=[{"number": number, "name": f"class {number}"} for number in range(case.classes)],
        image_classes=[],
        label_dropout=0.1,
        sha256="none",
    )
    return FrozenVAE(vae, vae_config(case), device, case.image_size, Path("none"), "none"), model


def _vae(case: Case, contender: Contender, device: Device) -> tuple[Step, int]:
    net, config = nets(case)[0], vae_config(case)
    learner = Learner(net, config, device, lr=1e-3, ema_decay=0.995, compile=contender.compiled)
    perceptual_net = LaplacianPyramid().to(device.device)
    images, order = pixels(case), Order(IMAGES, case.batch, 0)
    learner.net.train()

    def step(number: int) -> None:
        x = to_device(images[torch.from_numpy(order.batch(*divmod(number, order.per_epoch)))], device)
        torch.manual_seed(seeds.derive(0, "step", number))
        learner.set_lr(1e-3)
        eps = device.send(seeds.noise_like((len(x), *case.latent_shape), 0, "posterior", number))
        with device.autocast():
            x_hat, mu, logvar = learner.train_net(x, eps)
        losses = vae_loss(x_hat, x, mu, logvar, 1.0, KL_TARGET)
        with device.autocast():
            losses["perceptual"] = perceptual_net(x_hat, x)
        learner.update(losses["loss"] + PERCEPTUAL_WEIGHT * losses["perceptual"])

    return step, parameters(net)


def _unet(case: Case, contender: Contender, device: Device) -> tuple[Step, int]:
    net, config = nets(case)[1], unet_config(case)
    learner = Learner(net, config, device, lr=5e-4, ema_decay=0.995, compile=contender.compiled)
    schedule, order = schedules.build("linear", 1000), Order(IMAGES, case.batch, 0)
    told = torch.zeros(IMAGES, 1, 0)
    data = Latents(posteriors(case)[:, None].to(device.device), told, np.arange(IMAGES), device.device)
    statistics = LatentStatistics(torch.zeros(1, case.latent_channels, 1, 1), torch.ones(1, case.latent_channels, 1, 1))
    labels = torch.arange(IMAGES) % case.classes
    learner.net.train()

    def step(number: int) -> None:
        index = order.batch(*divmod(number, order.per_epoch))
        torch.manual_seed(seeds.derive(0, "step", number))
        learner.set_lr(5e-4)
        z, _ = data.draw(index, slice(0, len(index)), 0, number)
        x0 = statistics.standardise(z)
        rng = seeds.torch_rng(0, "noise", number)
        t = device.send(torch.randint(1000, (len(index),), generator=rng))
        eps = device.send(torch.randn(x0.shape, generator=rng))
        hidden = torch.rand(len(index), generator=rng) < 0.1
        label = device.send(labels[torch.from_numpy(index)].masked_fill(hidden, case.classes))
        with device.autocast():
            error = denoising_loss(
                learner.train_net, schedule, x0, eps, t, label, prediction="v", min_snr_gamma=5.0
            )  # fmt: skip
        learner.update(error.mean())

    return step, parameters(net)


def _sampling(case: Case, contender: Contender, device: Device) -> tuple[Step, int]:
    precisions = device.without_fp16().dtype, device.dtype
    both = [for_sampling(net, device, precision) for net, precision in zip(nets(case), precisions, strict=True)]
    vae, model = trained_pair(case, device, *both)
    if contender.compiled:
        model.net = torch.compile(model.net)
        vae.net.decode = torch.compile(vae.net.decode)
    labels = [number % case.classes for number in range(case.batch)]
    options = SamplerOptions("ddim", case.steps, 0.0, 1.0)

    def step(number: int) -> np.ndarray:
        return np.concatenate(list(generate(model, vae, labels, range(case.batch), case.batch, number, options)))

    return step, sum(map(parameters, both))
