"""Adversarial losses: a discriminator learns to tell pictures from photos, the autoencoder to pass for one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 1e4
EPS = 1e-4
SCALE = 2.0**12  # gradients of single pixels are too small for float16


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the logits of real and of generated images (Lim and Ye 2017, equation 3). Any shape -> scalar."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """What the autoencoder lowers: minus the logits of its images (the same, equation 4)."""
    return -fake.float().mean()


def pull(loss: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `loss` with respect to `weight`, in float32; the graph stays."""
    return torch.autograd.grad(SCALE * loss, weight, retain_graph=True)[0].float() / SCALE


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor) -> Tensor:
    """|reconstruction| / |adversarial| of the two `pull`s on the decoder's last layer.

    So both losses pull equally hard on the picture, whatever their scales (Esser et al. 2021, equation 7).
    """
    return (reconstruction.norm() / (adversarial.norm() + EPS)).clamp(max=LARGEST)
