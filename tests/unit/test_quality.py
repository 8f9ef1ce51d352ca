"""The controls of 3D: what must be found as copies, and how it is put together of parts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from stepwise.data.augment import Augment
from stepwise.data.image_sets import ImageSet, load_set
from stepwise.data.scenes import SCENES, draw_scene
from stepwise.evaluation import memorization
from stepwise.foundation import devices
from stepwise.foundation.images import save_png
from stepwise.training.pretrained import FrozenVAE
from stepwise.training.quality import Judge, Settings, _pixels
from stepwise.training.reconstruction import reconstruction


def scenes(name, first, count, size=32):
    images = np.stack([draw_scene(scene, 0, first + i, size) for scene in list(SCENES)[:2] for i in range(count)])
    return ImageSet(name, [Path(f"{i}.png") for i in range(len(images))], images, np.repeat([0, 1], count), {size})


def settings(vae, steps=1):
    def nothing() -> None:
        pass

    return Settings(2, 0, devices.choose("cpu"), steps, 1, "cas", None, vae, nothing, nothing)


def saved(real, folder):
    """The set with its files, as some measures read them again."""
    folder.mkdir()
    real.paths = [folder / path.name for path in real.paths]
    for path, image in zip(real.paths, real.images, strict=True):
        save_png(path, image)
    return real


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


def shares(result):
    """The share of copies in both spaces."""
    return [result.figures[f"memorized_{space}"].value for space in ("pixel", "latent")]


def test_what_is_known_of_the_controls_is_what_they_score(tmp_path, autoencoder):
    """Copies are found in both spaces, also of crops; held-out images and fresh ones of 1A's generator are none."""
    judge = Judge(saved(scenes("train", 0, 12), tmp_path / "train"), scenes("held out", 100, 8), settings(autoencoder))
    assert min(shares(judge.copies())) > 0.95
    assert min(shares(judge.augmented())) > 0.8
    assert max(shares(judge.floors())) < 0.05
    assert max(shares(judge.judge(scenes("fresh", 200, 12)))) < 0.05


def test_the_augmented_control_is_what_3b_trains_on(monkeypatch, tmp_path):
    """Each image of the control is another picture than its original, drawn by the seed, and read from its file."""
    train = saved(scenes("train", 0, 10), tmp_path / "train")
    judge = Judge(train, scenes("held out", 100, 8), settings(None))
    seen = []
    neighbours = judge._neighbours
    monkeypatch.setattr(judge, "_neighbours", lambda images: (seen.append(images), neighbours(images))[1])
    monkeypatch.setattr(memorization, "AT_ONCE", 7)
    first, again = judge.augmented(), judge.augmented()
    assert [len(part) for part in seen] == [7, 7, 6] * 2 and first.figures == again.figures
    augment = Augment("light", 32, 0, "control-augment")
    wanted = np.stack([augment(image, 1, number) for number, image in enumerate(train.images)])
    assert np.array_equal(np.concatenate(seen[:3]), wanted)
    assert not (wanted == train.images).all(axis=(1, 2, 3)).any()


def test_copies_of_oblong_photos_are_found_wherever_the_square_was_taken(tmp_path):
    """3B takes a square somewhere in the middle half of the longer side's slack, 3D that in the centre."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(8)]
    photos = [cv2.resize(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8), (96, 64)) for _ in paths]
    photos[0] = photos[0].transpose(1, 0, 2)
    for path, photo in zip(paths, photos, strict=True):
        save_png(path, photo)
    train = load_set("train", paths, [0, 1] * 4, 64)
    judge = Judge(train, scenes("held out", 100, 4, 64), settings(None))
    assert train.oblong and len(judge.references["pixel"]) == 46 + 4 * 22
    for share in (0.25, 0.4, 0.6, 0.75):
        squares = train.off_centre(share)
        assert memorization.neighbours(_pixels(squares), judge.references["pixel"]).memorized.all()
    tops = [train.off_centre(share)[0] for share in (0, 1)]
    assert np.array_equal(tops[0], photos[0][:64]) and np.array_equal(tops[1], photos[0][32:])


def test_cas_by_good_labels_and_by_labels_that_say_nothing():
    """Half of each class is called the other: from that a network can learn nothing."""
    judge = Judge(scenes("train", 0, 20), scenes("held out", 100, 30), settings(None, steps=40))
    mixed = scenes("mixed", 200, 20)
    mixed.label[::2] = 1 - mixed.label[::2]
    real = judge.floors().figures["cas"].value
    good, bad = (judge.judge(one).figures for one in (scenes("good", 200, 20), mixed))
    assert min(real, good["cas"].value, good["cas_both"].value) > 0.9
    assert 0.25 < bad["cas"].value < 0.75
    for figures in (good, bad):
        assert figures["cas_gain"].value == pytest.approx(figures["cas_both"].value - real)


def test_density_needs_enough_held_out_images():
    """The halves of its interval must have five neighbours as well."""
    train, drawn = scenes("train", 0, 10), scenes("drawn", 200, 10)
    few, enough = (Judge(train, scenes("held out", 100, each), settings(None)).judge(drawn) for each in (5, 6))
    assert few.skipped == [
        "Density and coverage need 12 held-out images, so that one has 5 neighbours in each half of them; there are 10."
    ]
    assert enough.skipped == [] and enough.figures.keys() - few.figures.keys() == {"density", "coverage"}


def test_reconstruction_of_training_images_stands_beside(tmp_path, autoencoder, empty_cache):
    """As many as are held out, at the autoencoder's size; here it dims what is bright, as all training images are."""
    train, held_out = scenes("train", 0, 10), scenes("held out", 100, 4)
    train.images |= 128
    held_out.images &= 127
    autoencoder.decode = lambda z: torch.where(z > 0, 0.8 * z, z)
    real = saved(train, tmp_path / "train"), saved(held_out, tmp_path / "held_out")
    unseen, known, pictures = reconstruction(*real, autoencoder, 0)
    assert np.array_equal(pictures, held_out.images) and unseen.figures["psnr"].value > 80
    assert 10 < known.figures["psnr"].value < 40 and {"psnr", "ssim"} <= known.figures.keys() == unseen.figures.keys()
    assert sum(autoencoder.given) == 2 * len(held_out)
