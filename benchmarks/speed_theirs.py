"""diffusers as a contender of benchmarks/speed.py: the same networks and the same work, as its own training
scripts do it, each setting chosen as its documentation advises."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, FusedAttnProcessor2_0
from diffusers.training_utils import EMAModel, compute_snr
from speed_cases import Case, Contender
from speed_data import IMAGES, KL_TARGET, PERCEPTUAL_WEIGHT, Step, parameters, pixels, posteriors
from torch import Tensor, nn

from stepwise.foundation.devices import Device
from stepwise.losses.perceptual import LaplacianPyramid
from stepwise.losses.vae import vae_loss


def build(case: Case, contender: Contender, device: Device, folder: str) -> tuple[Step, int]:
    """(the work as a function of the step's number, the trainable parameters of its networks).

    `folder` holds the networks as 3E exports them.
    """
    return {"vae": _vae, "unet": _unet, "sampling": _sampling}[case.kind](case, contender, device, folder)


class Trainer:
    """AdamW, clipping and EMA around a network of diffusers, as in its example scripts."""

    def __init__(self, net: nn.Module, device: Device, lr: float):
        self.net = net
        fused = device.type != "mps"
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=fused)
        self.ema = EMAModel(net.parameters(), decay=0.995, foreach=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.needs_scaler)

    def update(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.net.parameters())


class Reconstruction(nn.Module):
    """Both halves of the autoencoder in one call, so that they can be compiled as one."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.vae.encode(x).latent_dist
        return self.vae.decode(posterior.sample()).sample, posterior.mean, posterior.logvar


def _prepared(net: nn.Module, contender: Contender, device: Device) -> nn.Module:
    attentions = [module for module in net.modules() if isinstance(module, Attention)]
    assert attentions and all(isinstance(module.processor, AttnProcessor2_0) for module in attentions)
    return net.to(device.device, memory_format=_memory(contender))


def fuse_projections(net: nn.Module) -> None:
    """Query, key and value in one product: AutoencoderKL.fuse_qkv_projections, which UNet2DModel does not have.

    The attention of both is of one class, so that what the method does can be done to either.
    """
    for module in list(net.modules()):
        if isinstance(module, Attention):
            module.fuse_projections()
            module.set_processor(FusedAttnProcessor2_0())


def _memory(contender: Contender) -> torch.memory_format:
    return torch.channels_last if contender.channels_last else torch.contiguous_format


def _vae(case: Case, contender: Contender, device: Device, folder: str) -> tuple[Step, int]:
    vae = _prepared(AutoencoderKL.from_pretrained(folder, subfolder="vae"), contender, device).train()
    trainer = Trainer(vae, device, lr=1e-3)
    reconstruct = Reconstruction(vae)
    if contender.compiled:
        reconstruct = torch.compile(reconstruct)
    perceptual_net = LaplacianPyramid().to(device.device)
    images = pixels(case)

    def step(number: int) -> None:
        x = images[torch.randint(IMAGES, (case.batch,))].to(device.device, non_blocking=True).float() / 127.5 - 1
        x = x.contiguous(memory_format=_memory(contender))
        with device.autocast():
            x_hat, mu, logvar = reconstruct(x)
        loss = vae_loss(x_hat, x, mu, logvar, 1.0, KL_TARGET)["loss"]
        with device.autocast():
            loss = loss + PERCEPTUAL_WEIGHT * perceptual_net(x_hat, x)
        trainer.update(loss)

    return step, parameters(vae)


def _unet(case: Case, contender: Contender, device: Device, folder: str) -> tuple[Step, int]:
    net = UNet2DModel.from_pretrained(folder, subfolder="unet", dropout=case.dropout)
    net = _prepared(net, contender, device).train()
    assert net.down_blocks[0].resnets[0].dropout.p == case.dropout
    trainer = Trainer(net, device, lr=5e-4)
    predict = torch.compile(net) if contender.compiled else net
    scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    mu, sigma = posteriors(case).to(device.device).unbind(dim=1)
    labels = (torch.arange(IMAGES) % case.classes).to(device.device)

    def step(number: int) -> None:
        index = torch.randint(IMAGES, (case.batch,), device=device.device)
        x0 = mu[index] + sigma[index] * torch.randn(case.batch, *case.latent_shape, device=device.device)
        x0 = x0.contiguous(memory_format=_memory(contender))
        hidden = torch.rand(case.batch, device=device.device) < 0.1
        label = labels[index].masked_fill(hidden, case.classes)
        with device.autocast():
            loss = v_loss(predict, scheduler, x0, label)
        trainer.update(loss)

    return step, parameters(net)


def v_loss(net: nn.Module, scheduler: DDPMScheduler, x0: Tensor, label: Tensor) -> Tensor:
    """v-prediction with min-SNR weights of gamma 5, as diffusers' text-to-image example computes it."""
    eps = torch.randn_like(x0)
    t = torch.randint(1000, (len(x0),), device=x0.device)
    xt = scheduler.add_noise(x0, eps, t)
    output = net(xt, t, class_labels=label).sample
    target = scheduler.get_velocity(x0, eps, t)
    snr = compute_snr(scheduler, t)
    weight = snr.clamp(max=5.0) / (snr + 1)
    error = nn.functional.mse_loss(output.float(), target.float(), reduction="none")
    return (error.mean(dim=(1, 2, 3)) * weight).mean()


def _sampling(case: Case, contender: Contender, device: Device, folder: str) -> tuple[Step, int]:
    dtype = device.dtype if contender.half_weights and device.dtype else torch.float32
    vae = _prepared(AutoencoderKL.from_pretrained(folder, subfolder="vae"), contender, device).eval().to(dtype)
    unet = _prepared(UNet2DModel.from_pretrained(folder, subfolder="unet"), contender, device).eval().to(dtype)
    count = parameters(vae) + parameters(unet)
    if contender.fused:
        fuse_projections(vae)
        fuse_projections(unet)
    if contender.compiled:
        unet, vae.decode = torch.compile(unet), torch.compile(vae.decode)
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    labels = (torch.arange(case.batch) % case.classes).to(device.device)

    @torch.no_grad()
    def step(number: int) -> np.ndarray:
        torch.manual_seed(number)
        scheduler.set_timesteps(case.steps)
        x = torch.randn(case.batch, *case.latent_shape, device=device.device, dtype=dtype)
        with nullcontext() if dtype != torch.float32 else device.autocast():
            for t in scheduler.timesteps:
                output = unet(x, t, class_labels=labels).sample
                x = scheduler.step(output, t, x).prev_sample
            images = vae.decode(x).sample
        images = (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        return images.permute(0, 2, 3, 1).cpu().numpy()

    return step, count
