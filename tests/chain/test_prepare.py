"""2A on tiny folders, run as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stepwise.data.corel import examine, survey
from stepwise.data.folders import read_labels
from stepwise.data.prepared import write_folders

CODES = Path(__file__).parents[2] / "codes"
SCRIPT = "2A-prepare_corel_dataset.py"


def prepare(base: Path, *flags: str, fails: bool = False, figure: bool = False) -> str:
    """What 2A prints with `base` as --base-dir; with `fails`, its error of one to three lines."""
    command = [sys.executable, str(CODES / SCRIPT), "--base-dir", str(base), *flags]
    done = subprocess.run(
        command + ([] if figure else ["--no-visualize"]), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == (2 if fails else 0), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) in ((1, 2, 3) if fails else (0,)), done.stderr
    return done.stderr if fails else done.stdout


def draw(path: Path, seed: int, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Two numbered classes, ten and five images, with names."""
    for number, size in ((1, 10), (2, 5)):
        for image in range(size):
            draw(tmp_path / f"data/corel/{number:04d}_{image:04d}.png", seed=100 * number + image)
    (tmp_path / "data/corel/classes.txt").write_text("1 steam train\n2 cake\n")
    return tmp_path


def prepared(base: Path) -> Path:
    return base / "training_data" / "corel"


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and date of every file below `folder`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != "captions.json"}


def captions(folder: Path) -> dict[str, str]:
    return json.loads((folder / "captions.json").read_text())


def bad_images(base: Path) -> dict[str, str]:
    with (prepared(base) / "bad_images.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "reason"]
    return dict(rows[1:])


def test_prepares_all_and_each_class_with_links(base: Path) -> None:
    said = prepare(base, figure=True)
    root = prepared(base)
    sources = {path.name for path in (base / "data/corel").glob("*.png")}
    assert names_in(root / "corel_all") == set(captions(root / "corel_all")) == sources
    assert len(names_in(root / "class_0001")) == 10 and len(names_in(root / "class_0002")) == 5
    assert captions(root / "class_0001")["0001_0003.png"] == "a photo of a steam train"
    for folder in ("corel_all", "class_0001"):
        assert (root / folder / "0001_0003.png").samefile(base / "data/corel/0001_0003.png")
    assert bad_images(base) == {} and not (root / "corel_heldout").exists()
    assert "steam train" in said and "3A-train-vae-corel.py" in said and "corel_all" in said
    with Image.open(base / "figs/corel_dataset_samples.png") as figure:
        assert figure.width > 800
    assert set(read_labels(root / "corel_all")[1]) == {"steam train", "cake"}


def test_a_second_run_changes_nothing_whatever_the_workers(base: Path) -> None:
    draw(base / "data/corel/0002_0100.tif", 7, compression="tiff_lzw")
    Image.new("L", (9, 9), 80).save(base / "data/corel/0002_0101.png")
    prepare(base, "--holdout", "0.2", "--num-workers", "4", figure=True)
    before = state(prepared(base)), state(base / "figs")
    prepare(base, "--holdout", "0.2", "--num-workers", "0", figure=True)
    assert (state(prepared(base)), state(base / "figs")) == before
    prepare(base, "--holdout", "0.2", "--num-workers", "0", "--output-dir", "other")
    assert contents(base / "other/corel") == contents(prepared(base))


def test_holdout_is_stratified_disjoint_and_cleaned_up(base: Path) -> None:
    root = prepared(base)
    prepare(base, "--holdout", "0.2")
    held = names_in(root / "corel_heldout")
    assert sorted(name[:4] for name in held) == ["0001", "0001", "0002"]
    assert set(captions(root / "corel_heldout")) == held
    training = names_in(root / "corel_all") | names_in(root / "class_0001") | names_in(root / "class_0002")
    assert not held & training and len(held | training) == 15
    prepare(base, "--holdout", "0.4")
    assert held < names_in(root / "corel_heldout")
    assert not names_in(root / "corel_heldout") & names_in(root / "corel_all")
    (root / "corel_all" / "notes.txt").write_text("mine")
    assert "corel_heldout is gone" in prepare(base)
    assert not (root / "corel_heldout").exists()
    assert len(names_in(root / "corel_all")) == 16 and (root / "corel_all" / "notes.txt").exists()


def test_removed_images_and_classes_leave_no_trace(base: Path) -> None:
    prepare(base)
    for path in (base / "data/corel").glob("0002_*"):
        path.unlink()
    (base / "data/corel/0001_0000.png").unlink()
    root = prepared(base)
    (root / "corel_all" / ".0001_0001.png.tmp").write_bytes(b"torn")
    prepare(base)
    assert not (root / "class_0002").exists()
    assert names_in(root / "corel_all") == {f"0001_{image:04d}.png" for image in range(1, 10)}


def test_replaced_images_are_counted(base: Path) -> None:
    """Those of another dataset; what only moves between the folders is still there."""
    assert "Replaced" not in prepare(base)
    assert "Replaced" not in prepare(base, "--holdout", "0.2")
    assert "Replaced" not in prepare(base, "--holdout", "0.4")
    for image in range(4):
        draw(base / f"data/other/0001_{image + 8:04d}.png", seed=500 + image)  # two names are those of before
    assert "Replaced:    13 images" in prepare(base, "--data-dir", "data/other")
    assert len(names_in(prepared(base) / "corel_all")) == 4
    assert "Replaced" not in prepare(base, "--data-dir", "data/other")
    assert "Replaced:    2 images" in prepare(base), "back again: two of the four names are those of before"


def test_images_that_were_not_prepared_are_never_deleted(base: Path) -> None:
    """A photo that was put into the prepared folder by mistake may be the only copy."""
    prepare(base)
    draw(prepared(base) / "corel_all/0001_new.png", 7)
    draw(prepared(base) / "class_0002/mine.jpg", 8)
    before = contents(base)
    said = prepare(base, "--holdout", "0.2", fails=True)
    assert "class_0002 holds 1 images that were not prepared here, such as mine.jpg" in said and "--data-dir" in said
    assert contents(base) == before
    shutil.move(prepared(base) / "corel_all/0001_new.png", base / "data/corel")
    shutil.move(prepared(base) / "class_0002/mine.jpg", base / "data/corel/0002_mine.jpg")
    prepare(base)
    assert {"0001_new.png", "0002_mine.jpg"} < names_in(prepared(base) / "corel_all")
    (prepared(base) / "class_0002/captions.json").write_text("{")
    assert f"remove {prepared(base) / 'class_0002'}" in prepare(base, fails=True)
    shutil.rmtree(prepared(base) / "class_0002")
    prepare(base)
    own = base / "own/corel/class_0001"
    draw(own / "0001_0000.png", 9)
    draw(own / "photo.png", 9)
    assert "class_0001 holds 2 images" in prepare(base, "--output-dir", "own", fails=True)
    assert names_in(own) == {"0001_0000.png", "photo.png"}


def test_a_preparation_that_was_cut_short_is_completed(base: Path) -> None:
    """Captions come first, so that what is there is known to be ours, whatever is wished for next."""
    found = survey(base / "data/corel")
    pictures, _ = examine(found)
    placed = []

    def stop() -> None:
        placed.append(1)
        if len(placed) == 4:
            raise KeyboardInterrupt

    prepared(base).mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        write_folders(prepared(base), pictures, set(), found.class_names, check=stop)
    assert 0 < len(names_in(prepared(base) / "corel_all")) < 15
    (base / "data/corel/0001_0001.png").unlink()
    prepare(base)
    assert len(names_in(prepared(base) / "corel_all")) == 14 and len(names_in(prepared(base) / "class_0002")) == 5


def test_most_images_in_another_order_than_a_few_are_refused(tmp_path: Path) -> None:
    for number in range(9):
        draw(tmp_path / f"data/corel/IMG_{number}.png", number)
    draw(tmp_path / "data/corel/2019_beach.png", 10)
    assert "IMG_0.png (no class number in the name)" in prepare(tmp_path, fails=True)
    for number in range(9):
        (tmp_path / f"data/corel/cats/{number}.png").parent.mkdir(exist_ok=True)
        (tmp_path / f"data/corel/IMG_{number}.png").rename(tmp_path / f"data/corel/cats/{number}.png")
    assert "cats/0.png (in a sub-folder of a flat folder)" in prepare(tmp_path, fails=True)
    (tmp_path / "data/corel/2019_beach.png").rename(tmp_path / "data/corel/cats/b..png")
    prepare(tmp_path)
    assert "0001_b_.png" in names_in(prepared(tmp_path) / "corel_all")
    assert "give the folder right above the classes" in prepare(tmp_path, "--data-dir", "data", fails=True)


def test_images_that_lie_too_deep_are_named(tmp_path: Path) -> None:
    data = tmp_path / "data/corel"
    shallow = {f"0001_{number}.png" for number in "abcd"}
    for number in "abcd":
        draw(data / f"boats/{number}.png", ord(number))
    draw(data / "boats/2019/2.png", 2)
    draw(data / "boats/2019/summer/3.png", 3)
    draw(data / "cars/old/4.png", 4)
    draw(data / "boats/2019/notes.txt.png", 5)
    prepare(tmp_path)
    deep = ("boats/2019/2.png", "boats/2019/summer/3.png", "boats/2019/notes.txt.png", "cars/old/4.png")
    assert bad_images(tmp_path) == dict.fromkeys(deep, "deeper than one sub-folder")
    assert names_in(prepared(tmp_path) / "corel_all") == shallow


def test_a_folder_above_the_classes_with_a_stray_image_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "data/corel/sample.png", 0)
    for number in range(3):
        draw(tmp_path / f"data/corel/train/cats/{number}.png", number)
        draw(tmp_path / f"data/corel/train/dogs/{number}.png", 9 + number)
    said = prepare(tmp_path, fails=True)
    assert "6 deeper down" in said and str(Path("corel") / "train") + "." in said
    (tmp_path / "data/corel/sample.png").rename(tmp_path / "data/corel/train/sample.png")
    assert "6 deeper down" in prepare(tmp_path, fails=True)
    prepare(tmp_path, "--data-dir", "data/corel/train")


def test_thumbnails_below_the_photos_are_left_out(tmp_path: Path) -> None:
    for name in "abcd":
        draw(tmp_path / f"data/corel/cats/@eaDir/{name}.png", ord(name))
    draw(tmp_path / "data/corel/cats/a.png", 0)
    prepare(tmp_path)
    assert names_in(prepared(tmp_path) / "corel_all") == {"0001_a.png"}


def test_class_names_that_no_file_bears_are_refused(tmp_path: Path) -> None:
    draw(tmp_path / "data/corel/1_0.png", 0)
    draw(tmp_path / "data/corel/2_0.png", 1)
    (tmp_path / "data/corel/classes.txt").write_text("1 cats\n2 dogs\n")
    assert "0001_1_0.png" in prepare(tmp_path, fails=True)
    (tmp_path / "data/corel/classes.txt").write_text("1 cats\n")
    prepare(tmp_path)
    assert set(captions(prepared(tmp_path) / "corel_all").values()) == {"a photo of a cats"}


def test_images_too_deep_below_a_flat_folder_are_named(base: Path) -> None:
    draw(base / "data/corel/more/0001_0099.png", 1)
    draw(base / "data/corel/more/deep/0001_0098.png", 2)
    prepare(base)
    assert bad_images(base) == {
        "more/0001_0099.png": "in a sub-folder of a flat folder",
        "more/deep/0001_0098.png": "deeper than one sub-folder",
    }


def test_broken_images_are_left_out_and_named(base: Path, tmp_path: Path) -> None:
    data = base / "data/corel"
    draw(data / "0001_cut.png", 1)
    (data / "0001_cut.png").write_bytes((data / "0001_cut.png").read_bytes()[:300])
    (data / "0001_zero.jpg").touch()
    (data / "0001_text.png").write_text("not an image, whatever its name says")
    draw(data / "0001_wrong.png", 2, format="JPEG")
    (data / "0001_dir.png").mkdir()
    draw(data / "lost.png", 3)
    draw(tmp_path / "outside.png", 4)
    (data / "0001_link.png").symlink_to(tmp_path / "outside.png")
    (data / "0001_a.heic").touch()
    said = prepare(base)
    assert bad_images(base) == {
        "0001_a.heic": ".heic files are not read: save it as PNG or JPEG",
        "0001_cut.png": "truncated",
        "0001_dir.png": "a directory",
        "0001_link.png": "link leaves the folder",
        "0001_text.png": "not an image",
        "0001_wrong.png": "wrong extension: holds JPEG",
        "0001_zero.jpg": "zero bytes",
        "lost.png": "no class number in the name",
    }
    assert "8, left out" in said and "0001_cut.png: truncated" in said
    assert len(names_in(prepared(base) / "corel_all")) == 15
    error = prepare(base, "--strict", fails=True)
    assert "8 bad image(s)" in error and "0001_cut.png: truncated" in error


def test_strict_is_content_with_good_images(base: Path) -> None:
    prepare(base, "--strict")


def test_converted_images_become_png_and_never_collide(base: Path) -> None:
    data = base / "data/corel"
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(data / "0001_x.png", 1)
    draw(data / "0001_x.jpg", 2, exif=exif)
    Image.new("CMYK", (30, 20)).save(data / "0001_x.tif")
    draw(data / "0001_X.JPG", 3)
    prepare(base)
    folder = prepared(base) / "corel_all"
    assert {name for name in names_in(folder) if "_x" in name.lower()} == {
        *("0001_X.JPG", "0001_x.png", "0001_x_jpg.png", "0001_x_tif.png")
    }
    with Image.open(folder / "0001_x_jpg.png") as turned:
        assert turned.size == (20, 30) and turned.mode == "RGB"
    assert (folder / "0001_x.png").samefile(data / "0001_x.png")


def test_converted_images_that_come_out_almost_black_are_named(base: Path) -> None:
    """Numbers of 12 bits in a file of 16 are darker than an eighth of what such a file can hold."""
    low = np.linspace(0, 4095, 48 * 48).reshape(48, 48).astype(np.uint16)
    assert "Dark:" not in prepare(base)
    Image.fromarray(low).save(base / "data/corel/0001_low.tif")
    Image.fromarray(low * 16).save(base / "data/corel/0001_high.tif")
    assert "Dark:        1 converted images are almost black, such as 0001_low.tif." in prepare(base)


def test_duplicates_are_reported_and_stay_on_one_side(base: Path) -> None:
    data = base / "data/corel"
    for image in range(10):
        shutil.copy(data / f"0001_{image:04d}.png", data / f"0001_{image:04d}_again.png")
    said = prepare(base, "--holdout", "0.3")
    lines = (prepared(base) / "duplicates.csv").read_text().splitlines()
    assert lines[:2] == ["file,same_as", "0001_0000_again.png,0001_0000.png"] and len(lines) == 11
    assert "Duplicates:  10" in said
    held = names_in(prepared(base) / "corel_heldout")
    first = [name for name in held if name.startswith("0001") and "again" not in name]
    assert len(first) == 3 and all(name.replace(".png", "_again.png") in held for name in first)


def test_classes_txt_in_its_variants(base: Path) -> None:
    classes = base / "data/corel/classes.txt"
    classes.write_bytes("\ufeff0001 Grüner  Zug \r\n\r\n2\tcake\r\n".encode())
    prepare(base)
    found = set(captions(prepared(base) / "corel_all").values())
    assert found == {"a photo of a Grüner  Zug", "a photo of a cake"}
    classes.write_text("1 train\ncake\n")
    error = prepare(base, fails=True)
    assert "classes.txt, line 2" in error and "'cake'" in error
    classes.write_text("1 train\n1 cake\n")
    assert "line 2" in prepare(base, fails=True)


def test_a_missing_classes_txt_is_written(base: Path) -> None:
    classes = base / "data/corel/classes.txt"
    classes.unlink()
    assert "Edit the names" in prepare(base)
    assert classes.read_text() == "1 class_0001\n2 class_0002\n"
    assert captions(prepared(base) / "class_0002")["0002_0000.png"] == "a photo of a class_0002"
    classes.write_text("1 train\n2 cake\n")
    assert "Edit" not in prepare(base)
    assert captions(prepared(base) / "class_0002")["0002_0000.png"] == "a photo of a cake"


def test_a_read_only_folder_is_no_obstacle(base: Path) -> None:
    (base / "data/corel/classes.txt").unlink()
    (base / "data/corel").chmod(0o555)
    try:
        if os.access(base / "data/corel", os.W_OK):
            pytest.skip("this user can write anywhere")
        assert "none can be written" in prepare(base)
    finally:
        (base / "data/corel").chmod(0o755)


def test_one_subfolder_a_class(tmp_path: Path) -> None:
    for image in range(3):
        draw(tmp_path / f"data/corel/old cars/IMG {image}.PNG", image)
        draw(tmp_path / f"data/corel/boats/IMG {image}.PNG", 10 + image)
    draw(tmp_path / "data/corel/cover.png", 20)
    prepare(tmp_path)
    assert names_in(prepared(tmp_path) / "class_0001") == {f"0001_IMG {image}.PNG" for image in range(3)}
    assert captions(prepared(tmp_path) / "class_0002")["0002_IMG 1.PNG"] == "a photo of a old cars"
    assert bad_images(tmp_path) == {"cover.png": "not in a class folder"}


def test_subfolders_with_numbers_keep_them(tmp_path: Path) -> None:
    draw(tmp_path / "data/corel/class_0003/0003_0001.png", 1)
    draw(tmp_path / "data/corel/class_0007/0007_0001.png", 2)
    (tmp_path / "data/corel/classes.txt").write_text("3 cake\n7 sunset\n")
    prepare(tmp_path)
    assert captions(prepared(tmp_path) / "corel_all") == {
        "0003_0001.png": "a photo of a cake",
        "0007_0001.png": "a photo of a sunset",
    }


def test_subfolders_that_are_numbers_keep_them(tmp_path: Path) -> None:
    """In the order of text, 10 would come before 2."""
    for number in (1, 2, 10):
        draw(tmp_path / f"data/corel/{number}/a.png", number)
    (tmp_path / "data/corel/classes.txt").write_text("2 cake\n")
    prepare(tmp_path)
    assert captions(prepared(tmp_path) / "corel_all") == {
        "0001_a.png": "a photo of a 1",
        "0002_a.png": "a photo of a cake",
        "0010_a.png": "a photo of a 10",
    }
    draw(tmp_path / "data/corel/02/a.png", 4)  # the number 2 twice: the order decides for all
    (tmp_path / "data/corel/classes.txt").unlink()
    prepare(tmp_path)
    assert captions(prepared(tmp_path) / "corel_all")["0001_a.png"] == "a photo of a 02"


def test_what_2a_wrote_is_read_with_its_names_or_refused(base: Path) -> None:
    prepare(base)
    said = prepare(base, "--data-dir", "training_data/corel", "--output-dir", "other", fails=True)
    assert "is what 2A writes" in said
    prepare(base, "--data-dir", "training_data/corel/corel_all", "--output-dir", "other")
    assert captions(base / "other/corel/corel_all") == captions(prepared(base) / "corel_all")
    assert not (prepared(base) / "corel_all/classes.txt").exists()
    (base / "data/corel/classes.txt").unlink()
    (base / "data/corel/captions.json").write_text('["somebody\'s own"]')
    prepare(base)
    assert "1 class_0001" in (base / "data/corel/classes.txt").read_text()


def test_nothing_to_hold_out_is_said(tmp_path: Path) -> None:
    for number in (1, 2):
        draw(tmp_path / f"data/corel/{number:04d}_0001.png", number)
    assert "--holdout 0.2 holds nothing out" in prepare(tmp_path, "--holdout", "0.2", fails=True)
    assert not (prepared(tmp_path) / "corel_all").exists()
    prepare(tmp_path)


def test_own_photos_are_one_class(tmp_path: Path) -> None:
    photos = tmp_path / "my photos"
    odd = "IMG_12\\34..5.JPG"
    draw(photos / "IMG_1234.JPG", 1)
    draw(photos / "12_3.jpeg", 2)
    draw(photos / odd, 3)
    draw(photos / ("x" * 230 + ".png"), 4)
    (photos / "12_3.jpeg").rename(photos / os.fsdecode(b"caf\xe9.jpeg"))
    prepare(tmp_path, "--data-dir", "my photos", "--holdout", "0.2", figure=True)
    names = names_in(prepared(tmp_path) / "corel_all") | names_in(prepared(tmp_path) / "corel_heldout")
    assert {"0001_IMG_1234.JPG", "0001_IMG_12_34_5.JPG", "0001_caf_.jpeg"} < names and len(names) == 4
    paths, labels = read_labels(prepared(tmp_path) / "corel_all")
    assert labels == ["my photos"] * len(paths) and len(paths) == 3
    assert not (photos / "classes.txt").exists()


def test_user_errors_name_the_remedy(base: Path) -> None:
    assert "does not exist" in prepare(base, "--data-dir", "nowhere", fails=True)
    (base / "empty").mkdir()
    assert "No images found" in prepare(base, "--data-dir", "empty", fails=True)
    assert "--output-dir" in prepare(base, "--output-dir", "data/corel/out", fails=True)
    assert "--output-dir" in prepare(base, "--output-dir", "data", fails=True)
    (base / "empty" / "a.png").touch()
    assert "No usable image" in prepare(base, "--data-dir", "empty", fails=True)
    assert "--holdout" in prepare(base, "--holdout", "1", fails=True)
    assert not (base / "data/corel/out").exists()


@pytest.mark.parametrize("start", [CODES.parent, CODES])
def test_runs_from_the_root_and_from_codes(base: Path, start: Path) -> None:
    script = str(Path("codes") / SCRIPT) if start == CODES.parent else SCRIPT
    command = [sys.executable, script, "--base-dir", str(base), "--no-visualize", "--num-workers", "0"]
    done = subprocess.run(command, cwd=start, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(names_in(prepared(base) / "corel_all")) == 15
