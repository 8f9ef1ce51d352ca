"""What a checkpoint says of the images that it has seen, and what 3D makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stepwise.data.folders import load_images
from stepwise.foundation import checkpoints
from stepwise.training import provenance
from stepwise.training.provenance import ModelFile, Provenance


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return paths


def weights(number: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2,), float(number))}


def model(path: Path, photos: list[Path] | None, limit: int | None = 32) -> ModelFile:
    """A checkpoint of a model that read `photos` at some size; None: of a version that did not note them."""
    seen = {} if photos is None else {"seen": provenance.record(load_images(photos, limit)[1])}
    nets = {"denoiser": {"weights": weights(0), "ema": weights(1)}}
    checkpoints.save(path, {"script": "3B", "nets": nets, **seen})
    return ModelFile(path, checkpoints.fingerprint(weights(1)))


def test_the_right_folders_need_no_remark(photos: list[Path], tmp_path: Path) -> None:
    assert Provenance(photos[:4], photos[4:]).of("m", [model(tmp_path / "m.pt", photos[:4])]) == (0, [])


def test_held_out_images_that_were_trained_on_are_counted(photos: list[Path], tmp_path: Path) -> None:
    held_out, (found,) = Provenance(photos[:3], photos[3:]).of("m", [model(tmp_path / "m.pt", photos[:5])])
    assert held_out == 2
    assert "m has seen 2 of the 3 held-out images" in found and "--holdout" in found


def test_held_out_images_in_the_training_folder_are_noted(photos: list[Path]) -> None:
    assert Provenance(photos[:4], photos[4:]).held_out_in_training() == []
    (note,) = Provenance(photos[:4], photos[3:]).held_out_in_training()
    assert note.startswith(f"1 of the {len(photos) - 3} held-out images are in --train-dir as well")


def test_training_images_from_elsewhere_are_counted(photos: list[Path], tmp_path: Path) -> None:
    (found,) = Provenance(photos[:2], photos[4:]).of("m", [model(tmp_path / "m.pt", photos[:4])]).notes
    assert "trained on 2 images that are not in --train-dir" in found
    (found,) = Provenance(photos[:2], photos[4:]).of("m", [model(tmp_path / "m.pt", photos[2:4])]).notes
    assert "trained on none of the images in --train-dir" in found


def test_models_of_single_classes_and_other_sizes_count_together(photos: list[Path], tmp_path: Path) -> None:
    models = [model(tmp_path / "a.pt", photos[:3]), model(tmp_path / "b.pt", photos[1:4], limit=None)]
    assert Provenance(photos[:4], photos[4:]).of("m", models) == (0, [])
    (found,) = Provenance(photos[:2], photos[4:]).of("m", models).notes
    assert "trained on 2 images" in found


def test_a_renamed_copy_is_the_same_image(photos: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.bmp"
    Image.open(photos[0]).save(copy)
    (found,) = Provenance(photos[:3], [copy]).of("m", [model(tmp_path / "m.pt", photos[:3])]).notes
    assert "1 of the 1 held-out" in found


def test_what_the_autoencoder_has_seen_counts(photos: list[Path]) -> None:
    own, before = (provenance.record(load_images(part)[1]) for part in (photos[:3], photos[1:5]))
    assert provenance.together(own, before).shape == (5, provenance.DIGEST)
    assert provenance.together(own, None) is None


@pytest.mark.parametrize("order", [1, -1])
def test_what_cannot_be_known_is_said_and_hides_nothing(photos: list[Path], tmp_path: Path, order: int) -> None:
    leaking = model(tmp_path / "leaking.pt", photos)
    damaged = model(tmp_path / "damaged.pt", photos)
    damaged.path.write_bytes(damaged.path.read_bytes()[:-100])
    other = ModelFile(model(tmp_path / "other.pt", photos).path, checkpoints.fingerprint(weights(2)))
    unknown = [model(tmp_path / "old.pt", None), damaged, ModelFile(tmp_path / "gone.pt", None), other]
    held_out, notes = Provenance(photos[:3], photos[3:]).of("m", [leaking, *unknown][::order])
    assert held_out == 3
    assert "has seen 3 of the 3 held-out images" in notes[-1]
    reasons = ("old.pt does not say it", "damaged.pt cannot be", "gone.pt cannot be", "other.pt holds another model")
    assert all(reason in note for reason, note in zip(reasons[::order], notes[:-1], strict=True)), notes


def test_images_without_a_model_are_said_to_be_so(photos: list[Path]) -> None:
    assert "name no model" in Provenance(photos[:3], photos[3:]).of("folder", []).notes[0]


def test_an_unreadable_held_out_image_is_nobodys(photos: list[Path], tmp_path: Path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes(photos[0].read_bytes()[:200])
    assert Provenance(photos[:3], [torn]).of("m", [model(tmp_path / "m.pt", photos[:3])]) == (0, [])


def test_looking_at_the_images_can_be_stopped(photos: list[Path], tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Provenance(photos[:3], photos[3:], stop).of("m", [model(tmp_path / "m.pt", photos)])
