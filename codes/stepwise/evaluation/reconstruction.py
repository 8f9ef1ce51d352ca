"""How near a reconstruction is to its image: PSNR, SSIM and LPIPS."""

from __future__ import annotations

import torch
from torch import Tensor

from stepwise.foundation import weight_files
from stepwise.foundation.images import at_once

LPIPS_REMEDIES = "Put torchvision's vgg16 weights into torch's cache to have LPIPS in the report."


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image. x, x_hat: [B, 3, S, S] in [-1, 1] -> [B]."""
    error = (x_hat.clamp(-1, 1).float() - x.float()).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004). x, x_hat: [B, 3, S, S] in [-1, 1] -> [B].

    Computed on [0, 1]: its comparison of brightness needs black to be 0.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    x_hat, x = ((picture.float().clamp(-1, 1) + 1) / 2 for picture in (x_hat, x))
    pairs = zip(x_hat.split(at_once(x.shape[-1])), x.split(at_once(x.shape[-1])), strict=True)
    measured = (structural_similarity_index_measure(*pair, data_range=1.0, reduction="none") for pair in pairs)
    return torch.cat([values.reshape(-1) for values in measured])


def lpips(x_hat: Tensor, x: Tensor) -> Tensor:
    """LPIPS with VGG16 (Zhang et al. 2018). x, x_hat: [B, 3, S, S] in [-1, 1] -> [B].

    One image at a time, as VGG16 takes 45 MiB for one of 128 px. Raises UserError where the VGG16 weights are
    neither cached nor to be had.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import VGG16_Weights

    weight_files.find(VGG16_Weights.IMAGENET1K_V1.url, "vgg16", LPIPS_REMEDIES)
    net = LearnedPerceptualImagePatchSimilarity(net_type="vgg")
    pairs = zip(x_hat.clamp(-1, 1).float().split(1), x.float().split(1), strict=True)
    return torch.stack([net(*pair).detach() for pair in pairs])
