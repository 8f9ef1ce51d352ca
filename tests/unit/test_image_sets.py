"""Folders of generated images: which files count, which class each has, and what cannot be read."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from stepwise.data.image_sets import IMAGES, ImageSet, list_generated, load_set, positions
from stepwise.foundation.errors import UserError
from stepwise.foundation.images import save_png
from stepwise.foundation.paths import printable

CLASSES = [{"name": "steam train", "number": 1}, {"name": "Cake", "number": 7}]


def put(folder, *names, size=(16, 16)):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", size, "teal").save(folder / name)


def listed(folder):
    """{path below `folder`: class name}"""
    paths, names = list_generated(folder)
    return dict(zip((path.relative_to(folder).as_posix() for path in paths), names, strict=True))


def test_captions_name_the_classes(tmp_path):
    put(tmp_path / "out", "a.png", "b.png", "c.png")
    captions = {"a.png": "a photo of a steam train", "b.png": "Cake", "gone.png": "a photo of a ghost"}
    (tmp_path / "out/captions.json").write_text(json.dumps(captions))
    assert listed(tmp_path / "out") == {"a.png": "steam train", "b.png": "Cake", "c.png": "out"}


def test_class_folders_name_the_classes(tmp_path):
    put(tmp_path / "class_0001", "a.png")
    put(tmp_path / "Cake", "a.png")
    put(tmp_path / "Cake/grid_individual", "image_0001.png")
    assert listed(tmp_path) == {
        "class_0001/a.png": "class_0001",
        "Cake/a.png": "Cake",
        "Cake/grid_individual/image_0001.png": "Cake",
    }


def test_captions_win_over_the_folder(tmp_path):
    put(tmp_path / "class_0007/x_individual", "image_0001.png")
    (tmp_path / "class_0007/x_individual/captions.json").write_text('{"image_0001.png": "a photo of a steam train"}')
    assert list(listed(tmp_path).values()) == ["steam train"]


def test_a_grid_beside_its_single_images_does_not_count(tmp_path):
    put(tmp_path, "x.png", "alone.png", "x2.png")
    put(tmp_path / "x_individual", "image_0001.png", "image_0002.png")
    put(tmp_path / "deep", "y.png")
    put(tmp_path / "deep/y_individual", "image_0001.png")
    assert set(listed(tmp_path)) == {
        *("alone.png", "x2.png", "x_individual/image_0001.png", "x_individual/image_0002.png"),
        "deep/y_individual/image_0001.png",
    }


def test_a_grid_that_says_so_does_not_count(tmp_path):
    """3C's without single images beside it: one picture of 48 scaled-down images is not a generated image."""
    put(tmp_path, "alone.png", "alone.jpg")
    save_png(tmp_path / "grid.png", np.zeros((16, 64, 3), np.uint8), {IMAGES: "4"})
    save_png(tmp_path / "one.png", np.zeros((16, 16, 3), np.uint8), {IMAGES: "1"})
    assert set(listed(tmp_path)) == {"alone.png", "alone.jpg", "one.png"}
    (tmp_path / "only").mkdir()
    save_png(tmp_path / "only/grid.png", np.zeros((16, 64, 3), np.uint8), {IMAGES: "4"})
    with pytest.raises(UserError, match=r"only holds grids.*\n.*--individual always"):
        list_generated(tmp_path / "only")


def test_three_levels_of_folders_are_read(tmp_path):
    for depth, folder in enumerate(["", "a", "a/b", "a/b/c", "a/b/c/d"]):
        put(tmp_path / folder, f"{depth}.png")
    assert [path.rsplit("/")[-1] for path in listed(tmp_path)] == ["0.png", "1.png", "2.png", "3.png"]


def test_hidden_and_other_files_do_not_count(tmp_path):
    put(tmp_path, "a.PNG", ".b.png")
    put(tmp_path / ".cache", "c.png")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    assert set(listed(tmp_path)) == {"a.PNG"}


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: None], ids=["empty", "absent"])
def test_no_images_is_an_error(tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(UserError) as caught:
        list_generated(tmp_path / "out")
    assert str(tmp_path / "out") in str(caught.value) and len(str(caught.value).splitlines()) <= 3


def test_positions_by_name_in_any_case_and_by_number():
    names = ["steam train", "STEAM TRAIN", "cake", "class_0001", "Class_0007", "class_0002", "generated", ""]
    assert positions(names, CLASSES) == [0, 0, 1, 0, 1, -1, -1, -1]


def test_a_name_comes_before_a_number():
    """A class may be called as another one is numbered."""
    classes = [{"name": "class_0002", "number": 1}, {"name": "other", "number": 2}]
    assert positions(["class_0002", "class_0001"], classes) == [0, 0]


def test_classes_that_differ_in_case_only_are_told_apart():
    classes = [{"name": "Rose", "number": 1}, {"name": "rose", "number": 2}]
    assert positions(["Rose", "rose", "ROSE"], classes) == [0, 1, 0]


def test_images_are_read_as_squares_of_one_size(tmp_path):
    put(tmp_path, "small.png")
    put(tmp_path, "wide.png", size=(60, 40))
    found = load_set("set", [tmp_path / "small.png", tmp_path / "wide.png"], [1, -1], 24)
    assert found.images.shape == (2, 24, 24, 3) and found.images.dtype == np.uint8
    assert (found.label.tolist(), found.sizes, found.bad, len(found)) == ([1, -1], {16, 40}, [], 2)
    assert found.labelled


def test_an_unreadable_file_is_named_and_left_out(tmp_path):
    put(tmp_path, "a.png", "c.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "d.png").touch()
    found = load_set("set", [tmp_path / f"{name}.png" for name in "abcd"], [0, 1, 2, 3], 16)
    assert [path.name for path in found.paths] == ["a.png", "c.png"] and found.label.tolist() == [0, 2]
    assert [line.split(":")[0] for line in found.bad] == ["b.png", "d.png"] and "zero bytes" in found.bad[1]


def test_a_name_that_is_no_text_is_written_out(tmp_path):
    """Linux allows any bytes; a report and a terminal take UTF-8."""
    assert printable("日本 \udcff") == "日本 \\udcff" and printable("日本").encode()
    put(tmp_path, "a.png")
    (tmp_path / os.fsdecode(b"\xff.png")).touch()
    found = load_set("set", [tmp_path / "a.png", tmp_path / os.fsdecode(b"\xff.png")], [0, 1], 16)
    assert found.bad == ["\\udcff.png: zero bytes"]


def test_only_unreadable_files_are_an_error(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError) as caught:
        load_set("my set", [tmp_path / "a.png"], [0], 16)
    assert "my set" in str(caught.value) and "zero bytes" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_picked_keeps_images_labels_and_paths_together(tmp_path):
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((4, 8, 8, 3), np.uint8)
    everything = ImageSet("set", [tmp_path / str(i) for i in range(4)], images, np.array([3, -1, 5, 6]), {8}, ["bad"])
    some = everything.picked(np.array([3, 1]))
    assert [path.name for path in some.paths] == ["3", "1"] and some.label.tolist() == [6, -1]
    assert some.images[:, 0, 0, 0].tolist() == [3, 1]
    assert (some.name, some.sizes, some.bad, len(some)) == ("set", {8}, ["bad"], 2)


def test_a_set_without_any_known_class_is_not_labelled(tmp_path):
    images = np.zeros((2, 8, 8, 3), np.uint8)
    assert not ImageSet("set", [tmp_path] * 2, images, np.array([-1, -1]), {8}).labelled
    assert ImageSet("set", [tmp_path] * 2, images, np.array([-1, 0]), {8}).labelled
