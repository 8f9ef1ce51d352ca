"""What the denoiser is trained to say, and how its answer is read."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stepwise.diffusion.schedule import Schedule


def denoising_loss(
    net: nn.Module,
    schedule: Schedule,
    x0: Tensor,
    eps: Tensor,
    t: Tensor,
    label: Tensor | None,
    *,
    prediction: str,
    min_snr_gamma: float,
    augment: Tensor | None = None,
) -> Tensor:
    """Weighted squared error of each item: x0, eps: [B, ...], t: [B], augment: [B, A] or None -> [B].

    The target is eps (Ho et al. 2020, equation 14) or v (Salimans and Ho 2022, appendix D). The
    weight min(SNR, gamma), in units of the x0 error, is that of Hang et al. 2023, section 3.4;
    gamma 0 leaves the target's own weight.
    """
    told = () if augment is None else (augment,)
    output = net(schedule.noise(x0, eps, t), t, label, *told).float()
    target = eps if prediction == "eps" else schedule.velocity(x0, eps, t)
    error = (output - target).square().flatten(1).mean(dim=1)
    if min_snr_gamma:
        snr = schedule.snr(t)
        error = error * snr.clamp(max=min_snr_gamma) / (snr if prediction == "eps" else snr + 1)
    return error


def read(output: Tensor, xt: Tensor, alpha_bar: float, prediction: str) -> tuple[Tensor, Tensor]:
    """(x0_hat, eps_hat) that a prediction stands for at `alpha_bar`."""
    signal, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    if prediction == "eps":
        return (xt - sigma * output) / signal, output
    return signal * xt - sigma * output, signal * output + sigma * xt


def predictor(
    net: nn.Module,
    schedule: Schedule,
    prediction: str,
    label: Tensor | None,
    null_label: int,
    guidance: float,
    interval: tuple[float, float] = (0.0, math.inf),
    guide: nn.Module | None = None,
) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """A function (xt, t) -> (x0_hat, eps_hat) for the samplers, guided away from a weaker prediction.

    output = weaker + guidance * (output - weaker). The weaker prediction is that without the label:
    classifier-free guidance, Ho and Salimans 2022, equation 6 with guidance = 1 + w. With `guide` it is that
    of this worse network, told the same label: autoguidance, Karras et al. 2024, equation 4. At guidance 1
    (or with neither label nor guide) the network runs once a step, and so it does where the noise level
    sigma = sqrt((1 - alpha_bar) / alpha_bar) lies outside of `interval` (Kynkäänniemi et al. 2024).
    """

    def predict(xt: Tensor, t: int) -> tuple[Tensor, Tensor]:
        steps = torch.full((len(xt),), t, device=xt.device)
        alpha_bar = float(schedule.alpha_bar[t])
        inside = interval[0] <= schedule.sigma(t) <= interval[1]
        if (label is None and guide is None) or guidance == 1 or not inside:
            output = net(xt, steps, label).float()
        elif guide is not None:
            weaker = guide(xt, steps, label).float()
            output = weaker + guidance * (net(xt, steps, label).float() - weaker)
        else:
            both = torch.cat([label, torch.full_like(label, null_label)])
            cond, uncond = net(torch.cat([xt, xt]), torch.cat([steps, steps]), both).float().chunk(2)
            output = uncond + guidance * (cond - uncond)
        return read(output, xt, alpha_bar, prediction)

    return predict
