"""The controls of 3D: what must be found as copies, and how it is put together of parts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stepwise.data.image_sets import ImageSet
from stepwise.data.scenes import SCENES, draw_scene
from stepwise.evaluation import memorization
from stepwise.foundation import devices
from stepwise.training.pretrained import FrozenVAE
from stepwise.training.quality import Judge, Settings


def scenes(name, first, count):
    images = np.stack([draw_scene(scene, 0, first + i, 32) for scene in list(SCENES)[:2] for i in range(count)])
    return ImageSet(name, [Path(f"{i}.png") for i in range(len(images))], images, np.repeat([0, 1], count), {32})


def settings(vae):
    def nothing() -> None:
        pass

    return Settings(2, 0, devices.choose("cpu"), 1, 1, "cas", None, vae, nothing, nothing)


@pytest.fixture
def autoencoder():
    """One that keeps everything, and counts how many images it is given together."""
    given = []

    def encode(x):
        given.append(len(x))
        return x, torch.zeros_like(x)

    device = SimpleNamespace(device=torch.device("cpu"))
    vae = SimpleNamespace(image_size=32, device=device, encode=encode, decode=lambda z: z, given=given)
    vae.parts = partial(FrozenVAE.parts, vae)
    return vae


def test_training_images_through_the_autoencoder_are_found(monkeypatch, autoencoder):
    train, held_out = scenes("train", 0, 10), scenes("held out", 100, 8)
    judge = Judge(train, held_out, settings(autoencoder))
    monkeypatch.setattr(memorization, "AT_ONCE", 7)
    del autoencoder.given[:]
    found = judge.through_autoencoder()
    assert found.figures["memorized_pixel"].value == found.figures["memorized_latent"].value == 1
    assert len(found.neighbours["pixel"].first) == len(train) and max(autoencoder.given) == 7, "in parts"
    assert judge.on_cnn and Judge(train, held_out, settings(None)).through_autoencoder() is None


def test_no_share_is_certain():
    """Images far from all others are in no neighbourhood, in no half: 16 rule out no more than 21 %."""
    judge = Judge(scenes("train", 0, 10), scenes("held out", 100, 8), settings(None))
    judge.features = lambda images: np.random.default_rng(0).normal(1000, 1, (len(images), 256))
    figures = judge.judge(scenes("far", 200, 10)).figures
    for name in ("precision", "recall", "density", "coverage"):
        assert figures[name].value == figures[name].low == 0 and figures[name].high > 0.2
