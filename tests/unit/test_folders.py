"""Image folders: listing, captions that cannot lead elsewhere, labels, and a split that names decide."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from stepwise.data import folders
from stepwise.foundation.errors import UserError


def put(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (12, 8), "teal").save(folder / name)


def fails(call, *words):
    with pytest.raises(UserError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_images_are_sorted_and_others_ignored(tmp_path):
    put(tmp_path, "b.PNG", "a.jpeg", ".hidden.png")
    (tmp_path / "c.txt").touch()
    (tmp_path / "d.png").mkdir()
    assert [path.name for path in folders.read_labels(tmp_path)[0]] == ["a.jpeg", "b.PNG"]


def test_no_images_says_what_to_check(tmp_path):
    fails(lambda: folders.read_labels(tmp_path), "No images found in", "--base-dir", "2A")
    fails(lambda: folders.read_labels(tmp_path / "no"), "does not exist", "--base-dir")


def test_a_folder_of_a_phone_says_how_to_get_images(tmp_path):
    for name in ("cats/IMG_1.HEIC", "a.gif", ".heic", ".thumbs/b.gif", "c.gif/readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    words = ("2 files in", "are of kinds that are not read (.gif, .heic)", "JPEG", "iPhone", "--base-dir")
    fails(lambda: folders.read_labels(tmp_path), "No images found in", *words)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a\0.png", "sub/a.png", "sub\\a.png", "C:a.png", "..", ""])
def test_captions_may_not_lead_elsewhere(tmp_path, name):
    (tmp_path / "captions.json").write_text(json.dumps({name: "a photo of a cat"}))
    fails(lambda: folders.read_captions(tmp_path), "captions.json", "outside")


@pytest.mark.parametrize("text", ["{", '["a"]', '{"a.png": 3}', "\xff", "[" * 10**5])
def test_captions_that_are_no_captions(tmp_path, text):
    (tmp_path / "captions.json").write_bytes(text.encode("latin-1"))
    fails(lambda: folders.read_captions(tmp_path), "captions.json", "2A")


def test_labels_from_captions(tmp_path):
    put(tmp_path, "0001_1.png", "0002_1.png")
    captions = {"0001_1.png": "a photo of a steam train", "0002_1.png": "a photo of a cake"}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    paths, labels = folders.read_labels(tmp_path)
    assert [path.name for path in paths] == ["0001_1.png", "0002_1.png"] and labels == ["steam train", "cake"]
    put(tmp_path, "0003_1.png")
    fails(lambda: folders.read_labels(tmp_path), "0003_1.png")


def test_labels_from_numbers_subfolders_or_the_folder(tmp_path):
    put(tmp_path / "flat", "0001_1.png", "0002_1.png")
    put(tmp_path / "nested" / "cats", "1.png", "2.png")
    put(tmp_path / "nested" / "dogs", "1.png")
    put(tmp_path / "mine", "IMG_1234.JPG")
    assert folders.read_labels(tmp_path / "flat")[1] == ["0001", "0002"]
    assert folders.read_labels(tmp_path / "nested")[1] == ["cats", "cats", "dogs"]
    assert folders.read_labels(tmp_path / "mine")[1] == ["mine"]
    put(tmp_path / "flat", "other.png")
    fails(lambda: folders.read_labels(tmp_path / "flat"), "other.png", "class number")


def test_the_folder_above_what_2a_writes_is_not_taken_for_classes(tmp_path):
    put(tmp_path / "corel_all", "0001_1.png")
    put(tmp_path / "class_0001", "0001_1.png")
    fails(lambda: folders.read_labels(tmp_path), "corel_all", "2A writes")


def test_load_images_limits_the_shorter_side(tmp_path):
    Image.new("RGB", (120, 80), "teal").save(tmp_path / "large.png")
    Image.new("RGB", (12, 8), "teal").save(tmp_path / "small.png")
    paths = [tmp_path / "large.png", tmp_path / "small.png"]
    small, _ = folders.load_images(paths, 32)
    assert [image.shape for image in small] == [(32, 48, 3), (8, 12, 3)]
    assert [image.shape for image in folders.load_images(paths, None)[0]] == [(80, 120, 3), (8, 12, 3)]
    assert all(image.dtype == np.uint8 and image.flags.writeable for image in small)
    (tmp_path / "bad.png").touch()
    fails(lambda: folders.load_images([tmp_path / "bad.png"], 32), "bad.png", "zero bytes")


def test_images_without_room_stay_files_and_are_the_same(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)).save(path)
    held, digests = folders.load_images(paths, 8, room=3 * 8 * 8 * 3)
    assert isinstance(held, list) and digests != list(map(folders.content_digest, held))
    assert digests == list(map(folders.content_digest, folders.load_images(paths)[0])), (
        "of the files, whatever the limit"
    )
    files, same_digests = folders.load_images(paths, 8, num_workers=2, room=3 * 8 * 8 * 3 - 1)
    assert isinstance(files, folders.ImageFiles) and same_digests == digests and len(files) == 3
    assert all(np.array_equal(a, b) for a, b in zip(files, held, strict=True))


def test_threads_do_not_run_far_ahead():
    started = []
    results = folders.in_threads(lambda n: started.append(n) or n, range(500), 2, lambda: None, "")
    taken = []
    for result in results:
        taken.append(result)
        assert len(started) - len(taken) <= 4
    assert taken == list(range(500)) and sorted(started) == taken


def names(tmp_path, count, classes=("a", "b")):
    return [tmp_path / f"{i:03d}.png" for i in range(count)], [classes[i % len(classes)] for i in range(count)]


def test_split_is_stratified_and_complete(tmp_path):
    paths, labels = names(tmp_path, 40)
    train, held = folders.split(paths, labels, 0.2, seed=1)
    assert sorted(train + held) == list(range(40))
    assert [sum(labels[i] == name for i in held) for name in "ab"] == [4, 4]
    assert folders.split(paths, labels, 0.2, seed=2)[1] != held


def test_many_small_classes_are_held_out_in_turn(tmp_path):
    """A tenth of four is none: one image of every second class or so makes a tenth of all."""
    paths, labels = names(tmp_path, 200, classes=tuple(f"class {i}" for i in range(50)))
    train, held = folders.split(paths, labels, 0.1, seed=1)
    assert len(held) == 20 == len({labels[i] for i in held}) and sorted(train + held) == list(range(200))
    alone, single = names(tmp_path, 50, classes=tuple(f"class {i}" for i in range(50)))
    assert folders.split(alone, single, 0.1, seed=1)[1] == []


def test_split_depends_on_names_and_not_on_order(tmp_path):
    paths, labels = names(tmp_path, 30)
    held = {paths[i] for i in folders.split(paths, labels, 0.3, seed=5)[1]}
    order = random.Random(0).sample(range(30), 30)
    shuffled = [paths[i] for i in order]
    again = folders.split(shuffled, [labels[i] for i in order], 0.3, seed=5)[1]
    assert {shuffled[i] for i in again} == held
    moved = [tmp_path / "elsewhere" / path.name for path in paths]
    assert {moved[i].name for i in folders.split(moved, labels, 0.3, seed=5)[1]} == {path.name for path in held}


@pytest.mark.parametrize(("count", "fraction", "held"), [(2, 0.01, 1), (1, 0.5, 0), (4, 0.0, 0), (3, 0.99, 2)])
def test_split_edges(tmp_path, count, fraction, held):
    paths, labels = names(tmp_path, count, classes=("a",))
    assert len(folders.split(paths, labels, fraction, seed=0)[1]) == held


def test_split_takes_names_that_are_not_utf8(tmp_path):
    paths, labels = [tmp_path / "a\udcff.png", tmp_path / "b.png"], ["a", "a"]
    assert len(folders.split(paths, labels, 0.5, seed=0)[1]) == 1
