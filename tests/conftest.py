"""Tiny data and tiny trained networks that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from launch import Server
from PIL import Image

VAE_FLAGS = (
    *("--image-size", 32, "--base-channels", 8, "--batch-size", 4, "--no-perceptual"),
    *("--adversarial-weight", 0),
    *("--num-workers", 0, "--device", "cpu"),
)
GRID_FLAGS = (*VAE_FLAGS, "--latent-channels", 4)
DENOISER_FLAGS = (
    *("--base-channels", 32, "--layers", 1, "--augment-variants", 2, "--batch-size", 4),
    *("--num-workers", 0, "--device", "cpu"),
)


def draw_images(folder: Path, classes: int = 2, each: int = 6, size: int = 32) -> Path:
    """0001_0001.png ...: two smooth colours with a little noise, so that there is something to learn."""
    folder.mkdir(parents=True, exist_ok=True)
    for label in range(1, classes + 1):
        for number in range(1, each + 1):
            rng = np.random.default_rng(1000 * label + number)
            ramp = np.linspace(0, 1, size)[:, None, None] * rng.uniform(60, 200, 3) + 40 * (label % 2)
            pixels = np.broadcast_to(ramp, (size, size, 3)) + rng.normal(0, 4, (size, size, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{label:04d}_{number:04d}.png")
    return folder


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and an empty cache of published weights; the folder where they would be."""
    import torch

    from stepwise.foundation import weight_files

    monkeypatch.setattr(weight_files, "reachable", lambda url: False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of six images, 32 px."""
    return draw_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="session")
def vae(server: Server, images: Path) -> Path:
    """A run folder of 3A with a grid latent, two epochs."""
    folder = images.parent / "vae"
    done = server.run("3A", "--data-dir", images, "--output-dir", folder, *GRID_FLAGS, "--epochs", 2)
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="session")
def denoiser(server: Server, images: Path, vae: Path) -> Path:
    """A class-conditional run folder of 3B on `vae`, two epochs."""
    folder = images.parent / "denoiser"
    files = ("--vae-checkpoint", vae / "best_model.pt", "--image-dir", images, "--output-dir", folder)
    done = server.run("3B", *files, *DENOISER_FLAGS, "--class-conditional", "--epochs", 2)
    assert done.code == 0, done.err
    return folder
