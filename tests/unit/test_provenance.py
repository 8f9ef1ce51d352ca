"""What a checkpoint says of the images that it has seen, and what 3D makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stepwise.data.folders import load_images, reading_size
from stepwise.foundation import checkpoints
from stepwise.training import provenance
from stepwise.training.provenance import Provenance

SIZE = 16


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return paths


def model(path: Path, photos: list[Path], size: int = SIZE) -> Path:
    """A checkpoint of a model that was trained on `photos`."""
    _, digests = load_images(photos, reading_size(size))
    checkpoints.save(path, {"script": "3B", "image_size": size, "seen": provenance.record(digests)})
    return path


def test_the_right_folders_need_no_remark(photos: list[Path], tmp_path: Path) -> None:
    found = Provenance(photos[:4], photos[4:]).remarks("m", [model(tmp_path / "m.pt", photos[:4])])
    assert found == []
    assert Provenance(photos[:4], photos[4:]).remarks("folder without checkpoint", []) == []


def test_held_out_images_that_were_trained_on_are_counted(photos: list[Path], tmp_path: Path) -> None:
    (found,) = Provenance(photos[:3], photos[3:]).remarks("m", [model(tmp_path / "m.pt", photos[:5])])
    assert "m has seen 2 of the 3 held-out images" in found and "--holdout" in found


def test_training_images_from_elsewhere_are_counted(photos: list[Path], tmp_path: Path) -> None:
    (found,) = Provenance(photos[:2], photos[4:]).remarks("m", [model(tmp_path / "m.pt", photos[:4])])
    assert "trained on 2 images that are not in --train-dir" in found


def test_models_of_single_classes_and_other_sizes_count_together(photos: list[Path], tmp_path: Path) -> None:
    models = [model(tmp_path / "a.pt", photos[:2]), model(tmp_path / "b.pt", [photos[1], photos[5]], size=20)]
    found = Provenance(photos[:2], photos[4:]).remarks("m", models)
    assert len(found) == 1 and "1 of the 2 held-out" in found[0]


def test_a_renamed_copy_is_the_same_image(photos: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.bmp"
    Image.open(photos[0]).save(copy)
    (found,) = Provenance(photos[:3], [copy]).remarks("m", [model(tmp_path / "m.pt", photos[:3])])
    assert "1 of the 1 held-out" in found


def test_what_cannot_be_known_is_said(photos: list[Path], tmp_path: Path) -> None:
    old = tmp_path / "old.pt"
    checkpoints.save(old, {"script": "3B", "image_size": SIZE})
    damaged = model(tmp_path / "damaged.pt", photos)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    told = Provenance(photos[:3], photos[3:])
    assert "does not say" in told.remarks("m", [old])[0]
    assert "cannot be read" in told.remarks("m", [tmp_path / "gone.pt"])[0]
    assert "cannot be read" in told.remarks("m", [damaged])[0]


def test_an_unreadable_held_out_image_is_nobodys(photos: list[Path], tmp_path: Path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes(photos[0].read_bytes()[:200])
    assert Provenance(photos[:3], [torn]).remarks("m", [model(tmp_path / "m.pt", photos[:3])]) == []
