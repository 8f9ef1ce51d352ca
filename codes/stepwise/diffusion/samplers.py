"""Samplers: free functions from noise to a latent.

Each takes `predict(xt, t) -> (x0_hat, eps_hat)`, the starting noise x: [B, ...], the schedule, the
number of steps, and `noise(i)`, which gives the fresh noise of step i where the sampler needs any.
Each step goes exactly from one timestep of the list to the next; the last one goes to x0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from stepwise.diffusion.schedule import Schedule

Predict = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Noise = Callable[[int], Tensor]
CHOICES = ("ddpm", "ddim", "dpmpp")


def _walk(schedule: Schedule, steps: int) -> Iterator[tuple[int, int, float, float]]:
    """(number, t, alpha_bar at t, alpha_bar at the next t) of each step; the last goes to alpha_bar 1."""
    times = schedule.sampling_steps(steps)
    kept = [float(schedule.alpha_bar[t]) for t in times] + [1.0]
    for i, t in enumerate(times):
        yield i, t, kept[i], kept[i + 1]


@torch.no_grad()
def ddpm(predict: Predict, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Tensor:
    """Ancestral sampling with the posterior variance (Ho et al. 2020, equations 6 and 7)."""
    for i, t, a, a_next in _walk(schedule, steps):
        x0_hat, _ = predict(x, t)
        step_alpha = a / a_next
        beta = 1 - step_alpha
        mean = (math.sqrt(a_next) * beta * x0_hat + math.sqrt(step_alpha) * (1 - a_next) * x) / (1 - a)
        x = mean if a_next == 1 else mean + math.sqrt(beta * (1 - a_next) / (1 - a)) * noise(i)
    return x


@torch.no_grad()
def ddim(predict: Predict, x: Tensor, schedule: Schedule, steps: int, noise: Noise, eta: float = 0.0) -> Tensor:
    """Song et al. 2021 (DDIM), equations 12 and 16: eta 0 is deterministic, eta 1 is ddpm."""
    for i, t, a, a_next in _walk(schedule, steps):
        x0_hat, eps_hat = predict(x, t)
        sigma = eta * math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
        x = math.sqrt(a_next) * x0_hat + math.sqrt(max(0.0, 1 - a_next - sigma**2)) * eps_hat
        if sigma:
            x = x + sigma * noise(i)
    return x


@torch.no_grad()
def dpmpp(predict: Predict, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Tensor:
    """DPM-Solver++ 2M (Lu et al. 2022, algorithm 2), first order at the start and at the end."""
    previous, previous_h = None, 0.0
    for _, t, a, a_next in _walk(schedule, steps):
        x0_hat, _ = predict(x, t)
        if a_next == 1:
            return x0_hat
        h = 0.5 * (math.log(a_next / (1 - a_next)) - math.log(a / (1 - a)))  # difference of log(alpha / sigma)
        slope = x0_hat
        if previous is not None:
            slope = x0_hat + (x0_hat - previous) * (0.5 * h / previous_h)
        x = math.sqrt((1 - a_next) / (1 - a)) * x - math.sqrt(a_next) * math.expm1(-h) * slope
        previous, previous_h = x0_hat, h
    return x


def sample(kind: str, predict: Predict, x: Tensor, schedule: Schedule, steps: int, noise: Noise, eta: float) -> Tensor:
    """The sampler called `kind`."""
    if kind == "ddim":
        return ddim(predict, x, schedule, steps, noise, eta)
    return {"ddpm": ddpm, "dpmpp": dpmpp}[kind](predict, x, schedule, steps, noise)
