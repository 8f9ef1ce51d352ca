"""Noise schedules: how much of the image is left at each step t."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stepwise.foundation.errors import WrongFlag

CHOICES = ("linear", "cosine")


@dataclass(frozen=True)
class Schedule:
    """A variance-preserving schedule: xt = sqrt(alpha_bar[t]) x0 + sqrt(1 - alpha_bar[t]) eps.

    alpha_bar: float64 [T] on the CPU, falling from almost 1 to almost 0.
    """

    kind: str
    alpha_bar: Tensor
    _on: dict[torch.device, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def timesteps(self) -> int:
        return len(self.alpha_bar)

    def noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """xt for x0, eps: [B, ...] and t: [B] (Ho et al. 2020, equation 4)."""
        signal, sigma = self.coefficients(t, x0)
        return signal * x0 + sigma * eps

    def velocity(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 (Salimans and Ho 2022, appendix D)."""
        signal, sigma = self.coefficients(t, x0)
        return signal * eps - sigma * x0

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar[t]) and sqrt(1 - alpha_bar[t]) in float32, shaped to multiply `like`."""
        kept = self._kept(t.device)[t]
        kept = kept.reshape(-1, *[1] * (like.ndim - 1))
        return kept.sqrt().float(), (1 - kept).sqrt().float()

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) at t: [B] -> float32 [B]."""
        kept = self._kept(t.device)[t]
        return (kept / (1 - kept)).float()

    def sigma(self, t: int) -> float:
        """The noise level at t, sqrt((1 - alpha_bar) / alpha_bar) (Karras et al. 2022, table 1)."""
        kept = float(self.alpha_bar[t])
        return math.sqrt((1 - kept) / kept)

    def _kept(self, device: torch.device) -> Tensor:
        """alpha_bar on the device, copied there once: each copy would wait for a GPU."""
        if device not in self._on:
            self._on[device] = self.alpha_bar.to(device, torch.float64 if device.type != "mps" else torch.float32)
        return self._on[device]

    def spread(self, part: Tensor, place: Tensor) -> Tensor:
        """N timesteps, one from each of N equal parts of 0 ... T-1: int64 [N] (Kingma et al. 2021, appendix I.1).

        part: [N], a permutation of 0 ... N-1; place: [N] in [0, 1), where in its part. With both drawn at
        random each timestep alone is uniform, but the mean over them varies less than of independent ones.
        """
        times = (part.double() + place.double()) * (self.timesteps / len(part))
        return times.long().clamp(0, self.timesteps - 1)

    def sampling_steps(self, count: int) -> list[int]:
        """`count` timesteps from T-1 down, evenly spaced from the noisy end ("trailing", Lin et al. 2024).

        Raises WrongFlag unless 1 <= count <= T.
        """
        total = self.timesteps
        if not 1 <= count <= total:
            raise WrongFlag(
                f"{count} sampling steps: choose from 1 to the {total} steps that the model was trained on."
            )
        return [round(total - i * total / count) - 1 for i in range(count)]


def build(kind: str, timesteps: int) -> Schedule:
    """linear: beta from 1e-4 to 0.02 (Ho et al. 2020, section 4), stretched to other lengths as in

    Dhariwal and Nichol 2021; cosine: Nichol and Dhariwal 2021, equation 17, beta at most 0.999.
    """
    if kind == "linear":
        scale = 1000 / timesteps
        beta = torch.linspace(1e-4 * scale, min(0.02 * scale, 0.999), timesteps, dtype=torch.float64)
        return Schedule(kind, torch.cumprod(1 - beta, dim=0))

    def kept(t: float) -> float:
        return math.cos((t / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    beta = [min(1 - kept(i + 1) / kept(i), 0.999) for i in range(timesteps)]
    return Schedule(kind, torch.cumprod(1 - torch.tensor(beta, dtype=torch.float64), dim=0))
