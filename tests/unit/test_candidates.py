"""What 3D is given: how much of it is drawn at once, and what its report has to say of the files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stepwise.data.image_sets import ImageSet
from stepwise.foundation.errors import UserError, WrongFlag
from stepwise.foundation.images import at_once, save_png
from stepwise.training import candidates
from stepwise.training.candidates import Candidate, read_folder, remarks, usable

CLASSES = [{"name": "train", "number": 1}, {"name": "cake", "number": 2}]


def images(name, count, seed=0, label=None):
    pictures = np.random.default_rng([seed, count]).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    label = np.arange(count) % 2 if label is None else np.full(count, label)
    return ImageSet(name, [Path(f"{i}.png") for i in range(count)], pictures, label, {16})


def candidate(name, count, **more):
    return Candidate(name, images(name, count, len(name)), [], None, None, **more)


def said(*sets, train=20):
    return "\n".join(remarks(list(sets), (images("the training images", train, 8), images("held out", 9, 9)), 16))


def test_what_cannot_be_used_is_left_out_until_nothing_is_left():
    left_out = {}

    def task(name, number):
        if number < 0:
            raise UserError(f"{name} is below 0.\nTake another.")
        return 2 * number

    assert usable({"a": 1, "b": -1, "c": 3}, task, left_out) == {"a": 2, "c": 6} and set(left_out) == {"b"}
    with pytest.raises(UserError, match="d is below"):
        usable({"d": -1}, task, {})


def test_a_flag_that_cannot_be_meant_is_not_passed_over():
    def task(name, number):
        if number < 0:
            raise WrongFlag("--steps: too many.\nTake fewer.")
        return number

    with pytest.raises(WrongFlag):
        usable({"a": 1, "b": -1}, task, {})


def test_the_size_of_sets_is_told_for_the_measures_it_matters_for():
    assert said(candidate("a", 20), candidate("b", 20)) == said(candidate("a", 30)) == ""
    assert "CAS takes all images of a set (a 30, b 500; 20 real ones)" in said(candidate("a", 30), candidate("b", 500))
    assert "FID" not in said(candidate("a", 30), candidate("b", 500))
    few = said(candidate("a", 10))
    assert "sets of a 10 images, the real ones of 20: FID" in few and "CAS takes all images of a set (a 10" in few


def test_different_guidance_is_told():
    first, second = candidate("a", 20, guidance=("3 by the guide",)), candidate("b", 20, guidance=("none",))
    assert "drawn with different guidance (a: 3 by the guide; b: none)" in said(first, second)
    assert said(first, candidate("b", 20)) == "", "of the other it is not known"


def test_guidance_and_unknown_classes_are_read_from_the_files(tmp_path):
    for number, guidance in enumerate((3.0, 1)):
        flags = {"guidance": guidance, "guidance_by": "guide"}
        save_png(tmp_path / f"{number}.png", np.zeros((16, 16, 3), np.uint8), {"flags": json.dumps(flags)})
    assert read_folder("a", tmp_path, CLASSES, 16).unknown == ()
    (tmp_path / "captions.json").write_text(json.dumps({"0.png": "a photo of a ghost", "1.png": "dog"}))
    found = read_folder("a", tmp_path, CLASSES, 16)
    assert found.guidance == ("3 by the guide", "none") and found.unknown == ("dog", "ghost")
    assert "a: its images name only classes without real ones (dog, ghost); for CAS" in said(found)
    unnamed = Candidate("a", images("a", 20, label=-1), [], None, None)
    assert "a: its images name no class; for CAS" in said(unnamed)


def test_images_that_are_real_ones_are_counted():
    copied = candidate("a", 20)
    real = images("the training images", 20, 8), images("held out", 9, 9)
    copied.images.images[3:5] = real[0].images[:2]
    notes = remarks([copied], real, 16)
    assert notes == ["a: 2 of its 20 images are among the training images, pixel by pixel."]


@pytest.mark.parametrize(("size", "most"), [(64, 128), (128, 32), (512, 2), (2048, 1)])
def test_large_images_are_drawn_few_at_a_time(monkeypatch, tmp_path, size, most):
    asked = []

    def generate(model, vae, labels, numbers, batch_size, seed, options):
        asked.append(batch_size)
        yield np.zeros((len(numbers), 8, 8, 3), np.uint8)

    model = SimpleNamespace(classes=[], class_names=lambda labels, count: None)
    monkeypatch.setattr(candidates, "load_denoiser", lambda *given: model)
    monkeypatch.setattr(candidates, "choose_options", lambda *given: None)
    monkeypatch.setattr(candidates, "made_by", lambda *given: {})
    monkeypatch.setattr(candidates, "generate", generate)
    vae = SimpleNamespace(device=None, image_size=size)
    candidates.draw(tmp_path / "model.pt", vae, tmp_path / "out", 3, 0, None, None, lambda count: None)
    assert asked == [most] == [at_once(size)] and len(list((tmp_path / "out").glob("*.png"))) == 3
