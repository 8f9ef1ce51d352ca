"""The sample dataset: the same for the same seed, varied otherwise, and never mixed with other images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from stepwise.data.scenes import SCENES, draw_scene

SCRIPT = Path(__file__).parents[2] / "codes" / "1A-make-sample-dataset.py"
CLASSES_TXT = "1 sunsets\n2 mountains\n3 flowers\n4 buildings\n5 ships\n6 night skies\n"


def run_script(base_dir: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        str(SCRIPT),
        "--base-dir",
        str(base_dir),
        "--per-class",
        "2",
        "--image-size",
        "96",
        *flags,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base_dir = tmp_path_factory.mktemp("sample")
    result = run_script(base_dir)
    assert result.returncode == 0, result.stderr
    return base_dir / "data" / "corel"


@pytest.mark.parametrize("class_name", SCENES)
def test_a_picture_depends_on_seed_and_index_only(class_name: str) -> None:
    picture = draw_scene(class_name, 42, 1, 64)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, draw_scene(class_name, 42, 1, 64))
    for seed, index in ((42, 2), (43, 1)):
        other = draw_scene(class_name, seed, index, 64)
        assert np.abs(picture.astype(int) - other.astype(int)).mean() > 3


@pytest.mark.parametrize("class_name", SCENES)
@pytest.mark.parametrize("size", [33, 64])
def test_pictures_have_contrast_at_any_size(class_name: str, size: int) -> None:
    for index in range(1, 7):
        picture = draw_scene(class_name, 7, index, size)
        assert picture.shape == (size, size, 3)
        assert picture.std() > 8


def test_classes_differ_in_mean_colour_by_region() -> None:
    """Six colours tell a class apart: the mean of the upper and of the lower half."""
    means = {}
    for class_name in SCENES:
        pictures = np.stack([draw_scene(class_name, 42, index, 48) for index in range(1, 9)]).astype(float)
        means[class_name] = np.concatenate([pictures[:, :24].mean((0, 1, 2)), pictures[:, 24:].mean((0, 1, 2))])
    names = list(SCENES)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert np.linalg.norm(means[one] - means[other]) > 25, (one, other)
    sunset, night = means["sunsets"], means["night skies"]
    assert sunset[0] > sunset[2] + 30
    assert night.max() < 70


def test_script_writes_numbered_images_and_classes(dataset: Path) -> None:
    names = {f"{label:04d}_{number:04d}.png" for label in range(1, 7) for number in (1, 2)}
    assert {path.name for path in dataset.iterdir()} == names | {"classes.txt"}
    assert (dataset / "classes.txt").read_text() == CLASSES_TXT
    picture = cv2.imread(str(dataset / "0003_0002.png"))[..., ::-1]
    assert np.array_equal(picture, draw_scene("flowers", 42, 2, 96))


def test_running_twice_leaves_identical_bytes(dataset: Path) -> None:
    before = contents(dataset)
    result = run_script(dataset.parents[1])
    assert result.returncode == 0, result.stderr
    assert contents(dataset) == before


def test_other_images_are_not_mixed_in(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "corel"
    folder.mkdir(parents=True)
    (folder / "holiday.JPG").write_bytes(b"not ours")
    result = run_script(tmp_path)
    assert result.returncode == 2
    assert "holiday.JPG" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 3
    assert [path.name for path in folder.iterdir()] == ["holiday.JPG"]


@pytest.mark.parametrize(
    "files", [("0001_0001.png",), ("0001_0001.png", "classes.txt"), ("cats/1.png",), ("classes.txt",)]
)
def test_a_dataset_of_the_same_names_is_not_overwritten(tmp_path: Path, files: tuple[str, ...]) -> None:
    """Own photos named as 2A wants them, in the folder that is 1A's default."""
    folder = tmp_path / "data/corel"
    (folder / "cats").mkdir(parents=True)
    for name in files:
        (folder / name).write_bytes(b"1 cats\n")
    result = run_script(tmp_path)
    assert result.returncode == 2 and files[0] in result.stderr, result.stderr
    assert len(result.stderr.strip().splitlines()) <= 3
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert len(left) == len(files) and all(path.read_bytes() == b"1 cats\n" for path in left)


@pytest.mark.parametrize("cut_short", [True, False])
def test_what_is_missing_is_drawn(tmp_path: Path, cut_short: bool) -> None:
    assert run_script(tmp_path).returncode == 0
    folder = tmp_path / "data/corel"
    before = contents(folder)
    (folder / "0002_0001.png").unlink()
    if cut_short:
        (folder / "classes.txt").unlink()
        (folder / ".drawing-by-1A").touch()
    assert run_script(tmp_path).returncode == 0
    assert contents(folder) == before


def test_fewer_images_than_there_are_is_refused(dataset: Path) -> None:
    result = run_script(dataset.parents[1], "--per-class", "1")
    assert result.returncode == 2
    assert "0001_0002.png" in result.stderr


@pytest.mark.parametrize("flags", [("--per-class", "0"), ("--per-class", "10000"), ("--image-size", "8")])
def test_flags_out_of_range_are_sentences(tmp_path: Path, flags: tuple[str, str]) -> None:
    result = run_script(tmp_path, *flags)
    assert result.returncode == 2
    assert flags[0] in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
