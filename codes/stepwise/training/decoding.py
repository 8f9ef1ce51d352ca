"""Images through an autoencoder, uint8 [N, S, S, 3] of any side: their latents, and what it makes of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stepwise.foundation.images import fit_square, to_tensor, to_uint8
from stepwise.training.pretrained import FrozenVAE


def latents(images: np.ndarray, vae: FrozenVAE) -> np.ndarray:
    """The means of the posteriors, [N, D]."""
    parts = vae.parts(to_tensor(resized(images, vae.image_size)))
    return np.concatenate([vae.encode(part)[0].flatten(1).cpu().numpy() for part in parts])


def decoded(images: np.ndarray, vae: FrozenVAE) -> np.ndarray:
    """What `vae` makes of the images, at its own size."""
    return to_uint8(through(to_tensor(resized(images, vae.image_size)), vae))


def through(x: Tensor, vae: FrozenVAE) -> Tensor:
    """`x` through the autoencoder, [N, 3, S, S] in [-1, 1], S its own, in parts that fit into memory."""
    return torch.cat([vae.decode(vae.encode(part)[0]).cpu() for part in vae.parts(x)])


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """-> [N, size, size, 3]."""
    return images if images.shape[1] == size else np.stack([fit_square(image, size) for image in images])
