"""3D and the comparison on tiny data: the files that they write, what they remark, what they refuse."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import runpy
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_images
from launch import OFFLINE, SCRIPTS, Process, Server, failed, forked
from PIL import Image

from stepwise.foundation.errors import UserError

QUICK = ("--cas-steps", 5, "--cas-seeds", 1, "--device", "cpu")
DISTANCES = {"kid", "fid", "precision", "recall", "density", "coverage", "swd"}
COPYING = {f"{name}_{space}" for name in ("memorized", "authpct", "ct") for space in ("pixel", "latent")}


@pytest.fixture(scope="module")
def real(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of twelve images by 2A: six of each in corel_all, six in corel_heldout."""
    base = tmp_path_factory.mktemp("real")
    draw_images(base / "data", each=12)
    (base / "data/classes.txt").write_text("1 0001\n2 0002\n")
    flags = ("--data-dir", base / "data", "--output-dir", base, "--holdout", 0.5, "--num-workers", 0, "--no-visualize")
    done = server.run("2A", *flags)
    assert done.code == 0, done.err
    return base / "corel"


@pytest.fixture(scope="module")
def generated(server: Server, vae: Path, denoiser: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of 3C with a grid and ten single images of two classes."""
    folder = tmp_path_factory.mktemp("generated")
    done = server.run(
        *("3C", "--vae-checkpoint", vae / "best_model.pt", "--diffusion-checkpoint", denoiser / "best_model.pt"),
        *("--individual", "always", "--num-images", 10, "--steps", 2, "--sampler", "dpmpp", "--device", "cpu"),
        *("--output", folder / "grid.png", "--seed", 1),
    )
    assert done.code == 0, done.err
    return folder


def evaluate(server: Server, real: Path, output: Path, *flags: object, quick: tuple = QUICK) -> Process:
    """3D without network; the flags come last and win."""
    folders = ("--train-dir", real / "corel_all", "--heldout-dir", real / "corel_heldout", "--output-dir", output)
    return server.run("3D", *folders, *quick, *flags, before=OFFLINE)


def report(done: Process, output: Path) -> dict:
    """What metrics.json holds, after a look at the whole report."""
    assert done.code == 0, done.out + done.err
    assert "Traceback" not in done.err
    html = (output / "report.html").read_text(encoding="utf-8")
    assert html.rstrip().endswith("</html>") and "<script" not in html
    assert not re.search(r"(?:src|href)=\"(?!data:)", html)
    document = json.loads((output / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert document["conclusion"] in done.out
    for note in document["notes"]:
        assert f"Note: {note}\n" in done.out
    return document


def notes(document: dict) -> str:
    return "\n".join(document["notes"])


@pytest.fixture(scope="module")
def whole(server: Server, real: Path, generated: Path, denoiser: Path, vae: Path) -> tuple[Process, Path]:
    """A folder of 3C, a checkpoint to draw from and a folder of copies, with the autoencoder."""
    output = generated / "report"
    copies = generated / "copies"
    shutil.copytree(real / "corel_all", copies)
    done = evaluate(
        *(
            server,
            real,
            output,
            "--generated",
            f"drawn={denoiser / 'best_model.pt'}",
            f"folder={generated / 'grid_individual'}",
        ),
        *(f"copies={copies}", "--vae-checkpoint", vae / "best_model.pt", "--num-images", 9, "--steps", 4),
        *("--title", "Copies & <others>"),
    )
    return done, output


def test_report_has_every_figure(whole: tuple[Process, Path]) -> None:
    document = report(*whole)
    assert [(one["name"], one["images"]) for one in document["sets"]] == [("drawn", 9), ("folder", 10), ("copies", 12)]
    assert document["real"] == {"train": 12, "held_out": 12} and document["classes"] == ["0001", "0002"]
    for one in document["sets"]:
        assert set(one["measures"]) == {"cas", "cas_both", "cas_gain"} | DISTANCES | COPYING
        for measured in one["measures"].values():
            assert measured["low"] <= measured["high"]
    assert set(document["floor"]) == {"cas"} | DISTANCES | COPYING
    for control in ("copies", "augmented", "through_autoencoder"):
        assert set(document[f"control_{control}"]) == COPYING
    assert {"psnr", "ssim"} <= set(document["reconstruction"]) == set(document["reconstruction_floor"])
    assert "not comparable with published figures" in document["features"], "no network: not Inception"


def test_copies_are_found_and_models_known(whole: tuple[Process, Path]) -> None:
    drawn, folder, copies = report(*whole)["sets"]
    assert copies["measures"]["memorized_pixel"]["value"] == copies["measures"]["memorized_latent"]["value"] == 1
    assert copies["measures"]["authpct_pixel"]["value"] == 0 and copies["measures"]["ct_pixel"]["value"] < -3
    assert folder["measures"]["memorized_pixel"]["value"] < 0.5
    assert (drawn["models"], folder["models"], copies["models"]) == (1, 1, 0)
    assert drawn["parameters"] == folder["parameters"] > 1000 and drawn["minutes"] >= 0
    assert copies["parameters"] is None


def test_held_out_images_that_a_model_has_seen_are_noted(whole: tuple[Process, Path], real: Path) -> None:
    """The models of `vae` and `denoiser` were trained on images 1 to 6 of each class, wherever these lie here."""
    document = report(*whole)
    said = notes(document)
    seen = sum(int(path.stem[-4:]) <= 6 for path in (real / "corel_heldout").glob("*.png"))
    assert seen > 0
    for name in ("drawn", "folder", "autoencoder"):
        assert f"{name} has seen {seen} of the 12 held-out images" in said, said
    known = {one["name"]: one["held_out_seen"] for one in document["sets"]}
    assert known == {"drawn": seen, "folder": seen, "copies": None} and "Caution: " in document["conclusion"]
    assert "copies: 12 of its 12 images are among the training images, pixel by pixel." in said
    assert "copies: its images name no model" in said and "not in --train-dir" not in said


def test_files_beside_the_report(whole: tuple[Process, Path]) -> None:
    document, output = report(*whole), whole[1]
    assert {path.name for path in output.iterdir()} == {
        *("report.html", "metrics.json", "metrics.csv", "figures", "generated"),
    }
    names = {f"{kind}_{name}.png" for kind in ("samples", "suspects") for name in ("drawn", "folder", "copies")}
    names |= {"comparison.png", "samples_real.png", "memorization_pixel.png", "memorization_latent.png"}
    assert {path.name for path in (output / "figures").iterdir()} == names | {"reconstructions.png"}
    assert all(Image.open(path).width > 200 for path in (output / "figures").iterdir())
    assert (output / "report.html").read_text(encoding="utf-8").count("data:image/png;base64,") == len(names) + 1
    with (output / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = {(row["set"], row["measure"]): row for row in rows}
    assert len(table) == len(rows)
    for one in document["sets"]:
        for name, measured in one["measures"].items():
            assert float(table[one["name"], name]["value"]) == measured["value"]
    assert float(table["copies", "kid"]["floor"]) == document["floor"]["kid"]["value"]
    assert float(table["autoencoder", "psnr"]["floor"]) == document["reconstruction_floor"]["psnr"]["value"]
    assert float(table["training images as 3B augments them", "memorized_pixel"]["value"]) > 0.5


def test_title_is_text(whole: tuple[Process, Path]) -> None:
    report(*whole)
    html = (whole[1] / "report.html").read_text(encoding="utf-8")
    assert "<h1>Copies &amp; &lt;others&gt;</h1>" in html and "<others>" not in html


def test_drawn_images_say_their_class_and_model(whole: tuple[Process, Path], denoiser: Path) -> None:
    report(*whole)
    folder = whole[1] / "generated/drawn"
    captions = json.loads((folder / "captions.json").read_text())
    assert list(captions.values()) == ["a photo of a 0001"] * 5 + ["a photo of a 0002"] * 4
    used = json.loads(Image.open(folder / "image_0001.png").text["flags"])
    assert used["diffusion_checkpoint"] == str((denoiser / "best_model.pt").resolve())
    assert used["guidance"] == 3.0 and used["guidance_by"] == "guide", "as 3C"


def test_same_seed_same_figures(
    server: Server, real: Path, generated: Path, vae: Path, whole: tuple[Process, Path], tmp_path: Path
) -> None:
    """Also without the other sets: none has a say in the figures of another."""
    flags = ("--generated", f"folder={generated / 'grid_individual'}", "--vae-checkpoint", vae / "best_model.pt")
    again = report(evaluate(server, real, tmp_path, *flags), tmp_path)
    assert again["sets"][0]["measures"] == report(*whole)["sets"][1]["measures"]


@pytest.fixture
def own(generated: Path, tmp_path: Path) -> Path:
    """A folder of generated images to spoil."""
    return Path(shutil.copytree(generated / "grid_individual", tmp_path / "own"))


def test_an_unreadable_image_is_noted(server: Server, real: Path, own: Path, tmp_path: Path) -> None:
    (own / "image_0001.png").write_bytes(b"no picture")
    (own / "image_0002.png").write_bytes((own / "image_0003.png").read_bytes()[:200])
    document = report(evaluate(server, real, tmp_path / "out", "--generated", f"own={own}"), tmp_path / "out")
    assert "own: 2 files were left out (image_0001.png: not an image; image_0002.png: truncated)" in notes(document)
    assert document["sets"][0]["images"] == 8
    assert "Without --vae-checkpoint" in notes(document) and document["reconstruction"] is None


def test_unreadable_real_images_are_noted(server: Server, real: Path, own: Path, tmp_path: Path) -> None:
    """One of each kind; the report is made of the others, which are too few held-out ones for density."""
    folders = [Path(shutil.copytree(real / name, tmp_path / name)) for name in ("corel_all", "corel_heldout")]
    spoilt = [sorted(folder.glob("*.png"))[0] for folder in folders]
    spoilt[0].write_bytes(b"no picture")
    spoilt[1].write_bytes(spoilt[1].read_bytes()[:200])
    document = report(evaluate(server, tmp_path, tmp_path / "out", "--generated", f"own={own}"), tmp_path / "out")
    said = notes(document)
    assert f"the training images: 1 files were left out ({spoilt[0].name}: not an image)." in said
    assert f"the held-out images: 1 files were left out ({spoilt[1].name}: truncated)." in said
    assert document["real"] == {"train": 11, "held_out": 11}
    assert "own: Density and coverage need 12 held-out images" in said and "there are 11." in said
    (one,) = document["sets"]
    assert DISTANCES - one["measures"].keys() == {"density", "coverage"} == DISTANCES - document["floor"].keys()


def test_a_missing_and_an_unknown_class_are_noted(server: Server, real: Path, own: Path, tmp_path: Path) -> None:
    """None of the first class was generated, and one image is of a class without real photos."""
    captions = {f"image_{number:04d}.png": "a photo of a 0002" for number in range(1, 11)}
    (own / "captions.json").write_text(json.dumps(captions | {"image_0001.png": "a photo of a ghost"}))
    heldout = shutil.copytree(real / "corel_heldout", tmp_path / "heldout")
    held = sorted(heldout.glob("*.png"))
    labels = {path.name: "0001" for path in held[:11]} | {held[11].name: "ghost"}
    (heldout / "captions.json").write_text(json.dumps(labels))
    flags = ("--generated", f"own={own}", "--heldout-dir", heldout)
    document = report(evaluate(server, real, tmp_path / "out", *flags), tmp_path / "out")
    said = notes(document)
    assert "own: CAS sees only the classes that were generated: 1 have no image." in said
    assert "own: 1 images of classes without real ones are left out of CAS." in said
    assert "1 held-out images belong to classes without training images" in said
    assert "No held-out images of 0002" in said
    assert document["real"]["held_out"] == 11


def test_images_without_class_names_are_named_by_the_cnn(server: Server, real: Path, own: Path, tmp_path: Path) -> None:
    (own / "captions.json").unlink()
    document = report(evaluate(server, real, tmp_path / "out", "--generated", own), tmp_path / "out")
    assert "own: its images name no class" in notes(document)
    assert "the CNN of the real photos named the classes of own" in document["conclusion"]
    assert document["sets"][0]["name"] == "own" and "cas" in document["sets"][0]["measures"]


def test_different_sizes_are_noted(server: Server, real: Path, own: Path, tmp_path: Path) -> None:
    for number in range(1, 6):
        path = own / f"image_{number:04d}.png"
        Image.fromarray(np.asarray(Image.open(path)).repeat(2, 0).repeat(2, 1)).save(path)
    flags = ("--generated", f"own={own}", "--image-size", 24)
    document = report(evaluate(server, real, tmp_path / "out", *flags), tmp_path / "out")
    assert "sides of 32, 64 pixels; all images were compared at 24" in notes(document)
    assert "at 24 px" in document["made"]


def test_too_few_images_for_distances_are_noted(server: Server, real: Path, own: Path, tmp_path: Path) -> None:
    for number in range(4, 11):
        (own / f"image_{number:04d}.png").unlink()
    document = report(evaluate(server, real, tmp_path / "out", "--generated", f"own={own}"), tmp_path / "out")
    assert "own: Distances between sets need 8 images of each kind; there are 3, 12 to train and 12 held out." in notes(
        document
    )
    assert "sets of own 3 images, the real ones of 12: FID" in notes(document)
    measures = set(document["sets"][0]["measures"])
    assert not measures & DISTANCES and {"cas", "memorized_pixel"} <= measures
    assert set(document["floor"]) >= DISTANCES


@pytest.mark.parametrize("count", [2, 7])
def test_few_training_images_make_a_report_too(
    server: Server, real: Path, own: Path, tmp_path: Path, count: int
) -> None:
    """Distances draw sets no larger than the training set, which can be too small itself."""
    (tmp_path / "train").mkdir()
    every = sorted((real / "corel_all").glob("*.png"))
    for path in (every[0], every[-1], *every[1 : count - 1]):
        shutil.copy(path, tmp_path / "train")
    flags = ("--generated", f"own={own}", "--train-dir", tmp_path / "train")
    document = report(evaluate(server, real, tmp_path / "out", *flags), tmp_path / "out")
    assert document["real"]["train"] == count
    assert "Distances between sets need 8" in notes(document)


def test_models_of_two_autoencoders_draw_each_with_its_own(
    server: Server, real: Path, denoiser: Path, images: Path, tmp_path: Path
) -> None:
    small = ("--num-workers", 0, "--device", "cpu", "--epochs", 1, "--batch-size", 4)
    other = ("--base-channels", 8, "--image-size", 32, "--latent-channels", 2, "--no-perceptual", "--seed", 7)
    done = server.run("3A", "--data-dir", images, "--output-dir", tmp_path / "vae", *other, *small)
    assert done.code == 0, done.err
    files = ("--vae-checkpoint", tmp_path / "vae/best_model.pt", "--image-dir", images, "--class-conditional")
    done = server.run("3B", *files, "--output-dir", tmp_path / "model", "--base-channels", 32, "--layers", 1, *small)
    assert done.code == 0, done.err
    models = (f"first={denoiser / 'best_model.pt'}", f"second={tmp_path / 'model/best_model.pt'}")
    done = evaluate(server, real, tmp_path / "out", "--generated", *models, "--num-images", 8, "--steps", 2)
    assert [one["images"] for one in report(done, tmp_path / "out")["sets"]] == [8, 8]


def test_drawing_anew_leaves_nothing_of_before(
    server: Server, real: Path, vae: Path, images: Path, tmp_path: Path
) -> None:
    """The folder still holds more images, of a model that knew classes; this one says no class at all."""
    folder = tmp_path / "out/generated/drawn"
    folder.mkdir(parents=True)
    shutil.copy(next((real / "corel_all").glob("*.png")), folder / "image_0099.png")
    captions = {f"image_{number:04d}.png": "a photo of a 0001" for number in (*range(1, 4), 99)}
    (folder / "captions.json").write_text(json.dumps(captions))
    train = ("--vae-checkpoint", vae / "best_model.pt", "--image-dir", images, "--output-dir", tmp_path / "run")
    small = ("--base-channels", 16, "--layers", 1, "--augment-variants", 2, "--epochs", 1, "--timesteps", 20)
    done = server.run("3B", *train, *small, "--num-workers", 0, "--device", "cpu")
    assert done.code == 0, done.err
    flags = ("--generated", f"drawn={tmp_path / 'run/best_model.pt'}", "--num-images", 3, "--steps", 2)
    document = report(evaluate(server, real, tmp_path / "out", *flags), tmp_path / "out")
    assert document["sets"][0]["images"] == 3
    assert "drawn: its images name no class" in notes(document)


def test_a_set_that_cannot_be_judged_is_left_out(server: Server, real: Path, own: Path, tmp_path: Path) -> None:
    """The others are reported, without the autoencoder that cannot be read either; a name that is no text is shown."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable/a.png").touch()
    (tmp_path / "file.pt").write_text("no checkpoint")
    (own / "captions.json").write_text(json.dumps({f"image_{n:04d}.png": "a photo of a ghost" for n in range(1, 11)}))
    (own / os.fsdecode(b"\xff.png")).write_text("no picture")
    sets = (f"\udcffmine={own}", *(f"{name}={tmp_path / name}" for name in ("empty", "unreadable")))
    flags = ("--generated", *sets, "--vae-checkpoint", tmp_path / "file.pt")
    document = report(evaluate(server, real, tmp_path / "out", *flags), tmp_path / "out")
    (one,) = document["sets"]
    assert one["name"] == "\\udcffmine" and one["images"] == 10 and document["reconstruction"] is None
    said = notes(document)
    assert "empty was left out: No images found in" in said and "unreadable was left out: No image in" in said
    assert "autoencoder was left out: " in said and "Without an autoencoder that can be read" in said
    assert "1 files were left out (\\udcff.png: not an image)" in said
    assert "its images name only classes without real ones (ghost)" in said
    flags = ("--generated", f"own={own}", f"file={tmp_path / 'file.pt'}")
    document = report(evaluate(server, real, tmp_path / "out", *flags), tmp_path / "out")
    assert "file was left out: " in notes(document) and document["sets"][0]["name"] == "own"


def test_wrong_paths_are_refused(server: Server, real: Path, own: Path, tmp_path: Path) -> None:
    def refused(*flags: object, words: tuple[str, ...]) -> None:
        failed(evaluate(server, real, tmp_path / "out", *flags), *words)

    refused("--generated", "a=nowhere", words=("nowhere does not exist", "3C"))
    refused("--generated", f"a={own}", f"a={real / 'corel_all'}", words=("'a'", "stands twice", "OTHER_NAME="))
    (tmp_path / "empty").mkdir()
    refused("--generated", own, "--heldout-dir", tmp_path / "empty", words=("No images found in", "empty"))
    (tmp_path / "empty/image.png").touch()
    refused("--generated", tmp_path / "empty", words=("No image in", "can be read"))
    (tmp_path / "file.pt").write_text("no checkpoint")
    refused("--generated", tmp_path / "file.pt", words=("file.pt",))
    refused("--generated", tmp_path / "file.pt", tmp_path / "empty", words=("file.pt",))
    bad = ("--generated", tmp_path / "empty", "--vae-checkpoint", tmp_path / "file.pt")
    refused(*bad, words=("No image in", "can be read"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/best_model.pt").write_text("a run")
    refused("--generated", f"a={tmp_path / 'run'}", words=("training run", "run/best_model.pt"))
    refused("--generated", own, "--output-dir", own / "out", words=("lies in the images of own", "Choose one outside"))
    assert not (own / "out").exists()
    assert not (tmp_path / "out/report.html").exists()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a/b={}"], "'a/b' cannot name a set"),
        (["..={}"], "cannot name a set"),
        ([".hidden={}"], "cannot name a set"),
        (["={}"], "NAME=FOLDER"),
        (["a="], "NAME=FOLDER"),
        (["{}", "{}"], "stands twice"),
    ],
)
def test_names_that_name_nothing_are_refused(tmp_path: Path, texts: list[str], words: str) -> None:
    named_paths = runpy.run_path(str(SCRIPTS["3D"]))["named_paths"]
    given = argparse.Namespace(base_dir=".", generated=[text.format(tmp_path) for text in texts])
    with pytest.raises(UserError, match=words) as caught:
        named_paths(given)
    assert len(str(caught.value).splitlines()) == 2


def test_names_are_those_given_or_the_end_of_the_path(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    (tmp_path / "x" / "lr=1").mkdir(parents=True)
    named_paths = runpy.run_path(str(SCRIPTS["3D"]))["named_paths"]
    given = argparse.Namespace(base_dir=str(tmp_path), generated=["my set=a=b", str(tmp_path)])
    assert named_paths(given) == {"my set": tmp_path / "a=b", tmp_path.stem: tmp_path}
    given.generated = ["x/lr=1"]
    assert named_paths(given) == {"lr=1": tmp_path / "x/lr=1"}


def test_figures_of_two_sets_never_share_a_file() -> None:
    from stepwise.training.quality_report import _file_names

    names = _file_names(["real", "猫", "犬", "a b", "A_b", "a_b_2"])
    assert len({name.lower() for name in names.values()} | {"real"}) == 7
    assert _file_names(["mine"]) == {"mine": "mine"}


def test_one_class_is_judged_by_what_does_not_need_names(server: Server, real: Path, tmp_path: Path) -> None:
    """A CNN of one class names everything right: 100 % would be said of any images."""
    for part in ("corel_all", "corel_heldout"):
        (tmp_path / "one" / part).mkdir(parents=True)
        for number, path in enumerate(sorted((real / part).glob("*.png"))):
            shutil.copy(path, tmp_path / "one" / part / f"0001_{number:04d}.png")
    draw_images(tmp_path / "drawn", classes=1, each=12)
    done = evaluate(server, tmp_path / "one", tmp_path / "out", "--generated", tmp_path / "drawn")
    document = report(done, tmp_path / "out")
    assert "All images are of one class, so there is no CAS" in notes(document)
    assert "only one class" in document["features"] and "names no class" not in notes(document)
    (one,) = document["sets"]
    assert {"swd", "memorized_pixel"} <= one["measures"].keys() == document["floor"].keys()
    assert not {"cas", "kid", "recall"} & one["measures"].keys()
    assert document["conclusion"].startswith("CAS could not be measured") and "SWD to the" in document["conclusion"]


def test_other_classes_and_wrong_weights_are_refused(server: Server, real: Path, own: Path, tmp_path: Path) -> None:
    others = draw_images(tmp_path / "others", classes=3, each=2)
    for path in [*others.glob("0001_*"), *others.glob("0002_*")]:
        path.unlink()
    done = evaluate(server, real, tmp_path / "out", "--generated", own, "--heldout-dir", others)
    failed(done, "0 held-out images of the same classes", "2A --holdout")
    flags = ("--generated", own, "--inception-weights", tmp_path / "absent.pth")
    failed(evaluate(server, real, tmp_path / "out", *flags), "absent.pth does not exist", "--features cas")
    flags = ("--generated", own, "--features", "inception")
    failed(
        evaluate(server, real, tmp_path / "out", *flags), "Inception weights", "--inception-weights", "--features cas"
    )


@pytest.mark.parametrize("size", [4, 15])
def test_images_too_small_to_judge_are_refused(
    server: Server, real: Path, own: Path, tmp_path: Path, size: int
) -> None:
    """The CNN halves them four times."""
    done = evaluate(server, real, tmp_path / "out", "--generated", own, "--image-size", size)
    failed(done, "16")


def test_a_stop_signal_ends_the_measuring(server: Server, real: Path, own: Path, tmp_path: Path) -> None:
    folders = ("--train-dir", real / "corel_all", "--heldout-dir", real / "corel_heldout", "--generated", own)
    long = ("--cas-steps", 10**6, "--device", "cpu", "--output-dir", tmp_path / "out")
    running = server.start("3D", *folders, *long, before=OFFLINE)
    end = time.monotonic() + 60
    while not running.log.with_suffix(".err").exists() or "measuring" not in running.err:
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    running.send(signal.SIGTERM)
    assert running.wait(30) == 143, running.out + running.err
    assert "Traceback" not in running.err and not (tmp_path / "out/report.html").exists()


VAE_CONFIG = "base_channels: 8\nlatent_channels: 4\nbatch_size: 4\nno_perceptual: true\nepochs: 1\n"
DIFFUSION_CONFIG = "base_channels: 16\nlayers: 1\naugment_variants: 2\nbatch_size: 4\ntimesteps: 30\nepochs: 1\n"
SMALL_REPORT = ("--cas-steps", 5, "--cas-seeds", 1, "--features", "cas")


@pytest.fixture(scope="module")
def comparison(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple, Process]:
    """A --base-dir with data of two classes, the flags, and the first call."""
    base = tmp_path_factory.mktemp("comparison base")
    draw_images(base / "data/corel")
    (base / "vae.yaml").write_text(VAE_CONFIG)
    (base / "diffusion.yaml").write_text(DIFFUSION_CONFIG)
    flags = (
        *("--base-dir", base, "--image-size", 32, "--num-images", 6, "--holdout", 0.34, "--device", "cpu"),
        *("--num-workers", 0, "--vae-config", "vae.yaml", "--diffusion-config", "diffusion.yaml"),
    )
    return base, flags, server.run("comparison", *flags, "--minutes", 0.2, before=forked({"3D": SMALL_REPORT}))


@pytest.fixture
def compared(comparison: tuple[Path, tuple, Process]) -> tuple[Path, tuple]:
    """Its --base-dir and flags, of a first call that went well."""
    base, flags, first = comparison
    assert first.code == 0, first.err
    return base, flags


STEPS = [
    *("2A", "vae"),
    *("diffusion/per-class/class_0001", "generate diffusion/per-class/class_0001"),
    *("diffusion/per-class/class_0002", "generate diffusion/per-class/class_0002"),
    *("diffusion/unified", "generate diffusion/unified"),
    *("diffusion/class-conditional", "generate diffusion/class-conditional", "report"),
]


def test_comparison_goes_from_the_images_to_the_report(comparison: tuple[Path, tuple, Process]) -> None:
    base, _, done = comparison
    output = base / "comparison"
    document = report(done, output / "report")
    assert json.loads((output / "steps.json").read_text()) == STEPS
    assert [(one["name"], one["images"], one["models"]) for one in document["sets"]] == [
        *(("per-class", 6, 2), ("unified", 6, 1), ("class-conditional", 6, 1)),
    ]
    assert document["real"] == {"train": 8, "held_out": 4}
    assert "unified: its images name no class" in notes(document)
    assert "per-class: its images" not in notes(document) and "class-conditional: its images" not in notes(document)
    assert not re.search(r"has seen|not in --train-dir|not known", notes(document)), "trained on what it may be"
    for regime in ("per-class", "class-conditional"):
        assert f"{regime}: CAS sees only" not in notes(document), "it has images of both classes"
    assert document["reconstruction"] is not None and "minutes" in document["sets"][0]
    assert {path.name for path in base.iterdir()} == {"data", "vae.yaml", "diffusion.yaml", "comparison"}


def test_comparison_resumed_makes_the_report_alone(server: Server, compared: tuple[Path, tuple]) -> None:
    """The second call starts 3D as a process of its own."""
    base, flags = compared
    output = base / "comparison"
    files = [path for path in output.rglob("*") if path.is_file() and "report" not in path.parts]
    before = {path: path.stat().st_mtime_ns for path in files}
    (output / "report/report.html").unlink()
    before_run = OFFLINE + (
        "import subprocess\nreal = subprocess.Popen\n"
        f"subprocess.Popen = lambda command: real(command + {[str(flag) for flag in SMALL_REPORT]})\n"
    )
    done = server.run("comparison", *flags, "--minutes", 0.2, before=before_run)
    report(done, output / "report")
    for step in STEPS[:-1]:
        assert f"== {step}: done before.\n" in done.out
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path in before}
    changed = {path.name for path in before if after.get(path) != before[path]}
    assert changed <= {"plan.json"}


def test_comparison_continues_where_it_stopped(server: Server, compared: tuple[Path, tuple], tmp_path: Path) -> None:
    """The last generation is lost: it is made again, and nothing before it."""
    base, flags = compared
    copy = Path(shutil.copytree(base / "comparison", tmp_path / "copy", symlinks=True))
    (copy / "steps.json").write_text(json.dumps(STEPS[:-2]))
    shutil.rmtree(copy / "generated/class-conditional")
    more = (*flags, "--minutes", 0.2, "--output-dir", copy)
    done = server.run("comparison", *more, before=forked({"3D": SMALL_REPORT}))
    report(done, copy / "report")
    assert done.out.count("done before.") == len(STEPS) - 2
    assert json.loads((copy / "steps.json").read_text()) == STEPS
    assert len(list((copy / "generated/class-conditional").rglob("image_*.png"))) == 6


def test_comparison_refuses_other_flags(server: Server, compared: tuple[Path, tuple]) -> None:
    base, flags = compared
    before = (base / "comparison/plan.json").read_bytes()
    done = server.run("comparison", *flags, "--minutes", 9, before=OFFLINE)
    failed(done, "--minutes (was 0.2)", "--output-dir")
    more = ("--minutes", 0.2, "--regimes", "unified", "--seed", 5)
    failed(server.run("comparison", *flags, *more, before=OFFLINE), "--regimes (was", "--seed (was 42)")
    assert (base / "comparison/plan.json").read_bytes() == before


def test_comparison_refuses_photos_that_were_added_since(
    server: Server, compared: tuple[Path, tuple], tmp_path: Path
) -> None:
    """2A was done before: they would be in no model and no report. Weights for the report may come later."""
    base, flags = compared
    added = base / "data/corel/0001_0099.png"
    shutil.copy(next((base / "data/corel").glob("*.png")), added)
    try:
        done = server.run("comparison", *flags, "--minutes", 0.2, before=OFFLINE)
    finally:
        added.unlink()
    failed(done, "12 then, 13 now", "--output-dir")
    (tmp_path / "weights.pth").write_text("none")
    more = ("--minutes", 0.2, "--inception-weights", tmp_path / "weights.pth")
    done = server.run("comparison", *flags, *more, before=forked({}))
    assert done.code == 2 and f"Inception weights: {tmp_path / 'weights.pth'} cannot be used" in done.err


def test_comparison_of_one_class_or_of_nothing_is_refused(server: Server, tmp_path: Path) -> None:
    draw_images(tmp_path / "data/corel", classes=1, each=3)
    flags = ("--base-dir", tmp_path, "--num-workers", 0)
    failed(server.run("comparison", *flags, before=forked({})), "at least two classes, found 1")
    before = sorted((tmp_path / "comparison").rglob("*"))
    for flag in ("--vae-config", "--diffusion-config"):
        failed(server.run("comparison", *flags, flag, "absent.yaml", before=forked({})), flag, "absent.yaml")
    assert sorted((tmp_path / "comparison").rglob("*")) == before
    more = ("--data-dir", "absent", "--output-dir", "other")
    done = server.run("comparison", *flags, *more, before=forked({}))
    failed(done, "absent does not exist", "Stopped in 2A")
    done = server.run("comparison", *flags, "--output-dir", "other", before=forked({}))
    failed(done, "at least two classes")  # not the flags of the mistyped start
    assert (tmp_path / "other/steps.json").exists()
    shutil.rmtree(tmp_path / "other")
    assert json.loads((tmp_path / "comparison/steps.json").read_text()) == ["2A"]
    assert not os.path.lexists(tmp_path / "other/steps.json")


def test_copies_of_an_image_that_is_there_twice_are_found(
    server: Server, real: Path, own: Path, tmp_path: Path
) -> None:
    """Its twin is as near as itself; only distinct training images are neighbours."""
    shutil.copytree(real / "corel_all", tmp_path / "train")
    first = sorted((tmp_path / "train").glob("*.png"))[0]
    twin = first.with_name(first.name.replace(first.stem, f"{first.stem}_twin"))
    shutil.copy(first, twin)
    captions = json.loads((tmp_path / "train/captions.json").read_text())
    (tmp_path / "train/captions.json").write_text(json.dumps({**captions, twin.name: captions[first.name]}))
    copies = tmp_path / "copies"
    copies.mkdir()
    for number in range(8):
        shutil.copy(first, copies / f"image_{number}.png")
    flags = ("--generated", f"copies={copies}", "--train-dir", tmp_path / "train")
    document = report(evaluate(server, real, tmp_path / "out", *flags), tmp_path / "out")
    assert document["sets"][0]["measures"]["memorized_pixel"]["value"] == 1
    assert document["sets"][0]["measures"]["authpct_pixel"]["value"] == 0


def test_guidance_is_refused_where_the_model_cannot_do_it(
    server: Server, real: Path, vae: Path, images: Path, tmp_path: Path
) -> None:
    train = ("--vae-checkpoint", vae / "best_model.pt", "--image-dir", images, "--output-dir", tmp_path / "run")
    small = ("--base-channels", 16, "--layers", 1, "--augment-variants", 2, "--epochs", 1, "--timesteps", 20)
    done = server.run(
        *(
            "3B",
            *train,
            *small,
            "--class-conditional",
            "--label-dropout",
            0,
            "--guide-at",
            0,
            "--num-workers",
            0,
            "--device",
            "cpu",
        )
    )
    assert done.code == 0, done.err
    model = tmp_path / "run/best_model.pt"
    done = evaluate(server, real, tmp_path / "out", "--generated", f"drawn={model}", "--guidance", 3, "--steps", 2)
    failed(done, "--guidance needs")
    files = ("--diffusion-checkpoint", model, "--vae-checkpoint", vae / "best_model.pt", "--output", tmp_path / "a.png")
    failed(server.run("3C", *files, "--guidance-interval", 0.3, 5, "--device", "cpu"), "--guidance needs")
    assert server.run("3C", *files, "--ddim-steps", 2, "--num-images", 2, "--device", "cpu").code == 0


def test_a_config_that_decides_the_regime_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "3b.yaml").write_text("class-conditional: true\n")
    done = server.run("comparison", "--data-dir", tmp_path, "--diffusion-config", tmp_path / "3b.yaml")
    failed(done, "class-conditional", "take it out")
