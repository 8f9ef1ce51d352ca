"""The autoencoder's loss: reconstruction, and a KL term with a budget."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def kl_nats(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) in nats per latent vector, averaged over vectors and batch.

    mu, logvar: [B, D] (the image is one vector) or [B, C, H, W] (each grid cell is one).
    Kingma and Welling 2014, appendix B.
    """
    per_number = 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar)
    return per_number.float().sum(dim=1).mean()


def vae_loss(
    x_hat: Tensor,
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    kl_weight: float,
    kl_target: float,
    mean: Callable[[Tensor], Tensor] = Tensor.detach,
) -> dict[str, Tensor]:
    """L1 plus `kl_weight` times the overshoot of the KL over `kl_target` nats per latent vector.

    The overshoot is relative, max(0, KL - target) / max(target, 1), so that a gradient in nats does
    not drown that of the pixels; with target 0 it is the KL itself. Below the budget the KL costs
    nothing, and the posterior has no reason to collapse onto the prior (free bits, Kingma et al.
    2016, appendix C.8, over whole vectors). x, x_hat: [B, 3, S, S] in [-1, 1]. Returns l1, kl and loss.
    `mean` gives the mean over the parts of a batch that several processes share: whether its KL is
    above the budget is a question to the whole batch.
    """
    l1 = F.l1_loss(x_hat.float(), x)
    kl = kl_nats(mu.float(), logvar.float())
    of_batch = kl + (mean(kl) - kl.detach())  # the whole batch's value, this part's gradient
    overshoot = F.relu(of_batch - kl_target) / max(kl_target, 1.0)
    return {"l1": l1, "kl": kl, "loss": l1 + kl_weight * overshoot}
