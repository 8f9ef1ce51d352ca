"""The pictures that 3A draws while it trains show what they say."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from stepwise.foundation.devices import choose
from stepwise.foundation.images import grid
from stepwise.training.vae import VAEMonitor, to_device

SIDE = 16


class Halves(nn.Module):
    """An autoencoder that keeps half the contrast: its pictures are neither the images nor black."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x / 2, torch.zeros_like(x)

    def decode(self, z: Tensor) -> Tensor:
        return z


@pytest.fixture
def images() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, SIDE, SIDE), dtype=np.uint8))


def test_images_stand_above_their_reconstructions(images: Tensor, tmp_path: Path) -> None:
    args = Namespace(batch_size=2, seed=0, adversarial_weight=0.0, kl_target=30.0)
    learner = SimpleNamespace(best_net=Halves(), device=choose("cpu"))
    monitor = VAEMonitor(args, SimpleNamespace(path=tmp_path), learner, images, images, None)
    monitor.preview(1, [{"epoch": 1, "loss": 1.0, "val_loss": 1.0}])

    shown = np.asarray(Image.open(tmp_path / "reconstructions" / "reconstruction_epoch_0001.png")).astype(int)
    above = images.permute(0, 2, 3, 1).numpy()
    below = np.round((above / 255 - 0.5) / 2 * 255 + 127.5)
    wanted = grid(np.concatenate([above, below]).astype(np.uint8), len(images)).astype(int)
    assert shown.shape == wanted.shape and np.abs(shown - wanted).max() <= 1


def test_only_uint8_is_converted(images: Tensor) -> None:
    x = to_device(images, choose("cpu"))
    assert x.min() >= -1 and x.max() <= 1
    with pytest.raises(TypeError, match="float32"):
        to_device(x, choose("cpu"))
