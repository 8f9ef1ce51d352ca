"""How near a reconstruction is to its image: PSNR and SSIM."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image. x, x_hat: [B, 3, S, S] in [-1, 1] -> [B]."""
    error = (x_hat.clamp(-1, 1).float() - x.float()).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004). x, x_hat: [B, 3, S, S] in [-1, 1] -> [B]."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(
        x_hat.clamp(-1, 1).float(), x.float(), data_range=2.0, reduction="none"
    )
    return values.reshape(-1)
