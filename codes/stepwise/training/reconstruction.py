"""How well an autoencoder gives images back: those that it has not seen, beside those it was trained on."""

from __future__ import annotations

import numpy as np

from stepwise.data.image_sets import ImageSet, load_set
from stepwise.evaluation.intervals import of_mean
from stepwise.evaluation.reconstruction import lpips, psnr, ssim
from stepwise.foundation.errors import UserError
from stepwise.foundation.images import to_tensor, to_uint8
from stepwise.foundation.seeds import numpy_rng
from stepwise.training.decoding import through
from stepwise.training.pretrained import FrozenVAE
from stepwise.training.quality import Result


def reconstruction(train: ImageSet, held_out: ImageSet, vae: FrozenVAE, seed: int) -> tuple[Result, Result, np.ndarray]:
    """PSNR, SSIM and (where its weights can be had) LPIPS of `vae`; files are read anew, at its size.

    (Of the held-out images; of as many training images; its pictures of the held-out ones, uint8 [M, S, S, 3].)
    """
    unseen, pictures = _measured(held_out, vae, seed)
    some = np.sort(numpy_rng(seed, "quality", "reconstructed").permutation(len(train))[: len(held_out)])
    return unseen, _measured(train.picked(some), vae, seed)[0], pictures


def _measured(real: ImageSet, vae: FrozenVAE, seed: int) -> tuple[Result, np.ndarray]:
    x = to_tensor(load_set(real.name, real.paths, real.label.tolist(), vae.image_size).images)
    x_hat = through(x, vae)
    result = Result()
    for name, measure in (("psnr", psnr), ("ssim", ssim), ("lpips", lpips)):
        try:
            result.figures[name] = of_mean(measure(x_hat, x).numpy(), numpy_rng(seed, "quality", name))
        except UserError as error:
            result.skipped.append(f"{name.upper()} was left out. {' '.join(str(error).split())}")
    return result, to_uint8(x_hat)
