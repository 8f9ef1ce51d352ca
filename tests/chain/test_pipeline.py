"""2A -> 3A -> 3B -> 3C on tiny data: as a user runs them, every file that they write, every error."""

from __future__ import annotations

import csv
import json
import math
import shlex
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DENOISER_FLAGS, GRID_FLAGS, VAE_FLAGS, draw_images
from launch import CODES, REPOSITORY, SCRIPTS, Server, cold, failed
from PIL import Image

from stepwise.data.folders import read_labels
from stepwise.foundation import checkpoints


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith((".", "events.out.tfevents."))}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def weights(folder: Path, name: str = "last.pt") -> list[torch.Tensor]:
    nets = checkpoints.load(folder / name)["nets"]
    return [tensor for net in nets.values() for tensor in net["weights"].values()]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A --base-dir with a space in it, through the whole chain by its own interpreters, from two folders."""
    base = tmp_path_factory.mktemp("base dir")
    draw_images(base / "data/corel")
    (base / "data/corel/classes.txt").write_text("1 steam train\n2 cake\n")
    trained = ("--vae-checkpoint", "vae_models/best_model.pt")
    steps = [
        ("2A", REPOSITORY, ("--num-workers", 0)),
        ("3A", REPOSITORY, ("--data-dir", "training_data/corel/corel_all", *GRID_FLAGS, "--epochs", 20)),
        (
            *("3B", CODES),
            (
                *(*trained, "--image-dir", "training_data/corel/corel_all", *DENOISER_FLAGS, "--class-conditional"),
                *("--epochs", 20, "--keep-checkpoints", 1, "--early-stopping-patience", 0),
            ),
        ),
        (
            *("3C", CODES),
            (*trained, "--diffusion-checkpoint", "diffusion_models/best_model.pt", "--ddim-steps", 4, "--seed", 3),
        ),
    ]
    for script, cwd, flags in steps:
        typed = SCRIPTS[script].relative_to(cwd)
        done = cold(typed, *flags, "--base-dir", base, cwd=cwd)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
    return base


def test_chain_3a_writes(base: Path) -> None:
    folder = base / "vae_models"
    wanted = {"best_model.pt", "last.pt", "checkpoint_0020.pt", "training_losses.png", "metrics.csv", "args.yaml"}
    assert names(folder) >= wanted | {"samples", "reconstructions", "summary.json"}
    assert names(folder / "samples") == {"samples_epoch_0010.png", "samples_epoch_0020.png"}
    assert names(folder / "reconstructions") == {"reconstruction_epoch_0010.png", "reconstruction_epoch_0020.png"}
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert Image.open(folder / "training_losses.png").size[0] > 200
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 21))
    assert float(rows[-1]["val_loss"]) < float(rows[0]["val_loss"])
    assert {"loss", "l1", "kl", "val_psnr", "val_ssim", "lr"} <= set(rows[0])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stop_reason"] == "all 20 epochs done"
    assert checkpoints.load(folder / "best_model.pt")["image_size"] == 32


def test_chain_3b_writes(base: Path) -> None:
    folder = base / "diffusion_models"
    wanted = {"best_model.pt", "last.pt", "checkpoint_epoch_20.pt", "loss_history.png", "metrics.csv", "args.yaml"}
    assert names(folder) >= wanted | {"samples", "summary.json"}
    assert "checkpoint_epoch_10.pt" not in names(folder), "--keep-checkpoints 1 keeps the newest"
    assert names(folder / "samples") == {"epoch_0010.png", "epoch_0020.png"}
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    document = checkpoints.load(folder / "checkpoint_epoch_20.pt")
    assert document["progress"]["epoch"] == 20
    assert [entry["name"] for entry in document["classes"]] == ["steam train", "cake"]
    vae = checkpoints.load(base / "vae_models/best_model.pt")
    assert document["parents"]["vae"]["sha256"] == checkpoints.fingerprint(vae["nets"]["vae"]["weights"])
    best = checkpoints.load(folder / "best_model.pt")
    guide, weights = best["guide"]["weights"], best["nets"]["denoiser"]["weights"]
    assert guide.keys() == weights.keys() and checkpoints.fingerprint(guide) != checkpoints.fingerprint(weights)
    assert checkpoints.fingerprint(guide) == checkpoints.fingerprint(document["guide"]["weights"])


def test_chain_3c_writes(base: Path) -> None:
    folder = base / "generated_images_individual"
    images = [f"image_{number:04d}.png" for number in range(1, 9)]
    assert names(folder) == {*images, "captions.json"}
    wanted = ["a photo of a steam train"] * 4 + ["a photo of a cake"] * 4
    assert json.loads((folder / "captions.json").read_text()) == dict(zip(images, wanted, strict=True))
    assert read_labels(folder)[1] == ["steam train"] * 4 + ["cake"] * 4, "it can be trained on as it is"
    grid = Image.open(base / "generated_images.png")
    assert grid.size[0] >= 4 * 32
    assert grid.size[1] >= 2 * 32
    assert grid.text["seed"] == "3"
    flags = json.loads(grid.text["flags"])
    assert (flags["sampler"], flags["steps"], flags["num_images"]) == ("ddim", 4, 8)
    assert (flags["guidance_by"], flags["guidance"], flags["guidance_interval"]) == ("guide", 3.0, ["0.3", "2.0"])
    one = Image.open(base / "generated_images_individual/image_0001.png")
    assert one.size == (32, 32)
    assert (one.text["seed"], one.text["class"]) == ("3", "steam train")


def test_nothing_names_this_machine_or_lands_elsewhere(base: Path) -> None:
    assert names(base) == {
        *("data", "training_data", "figs", "vae_models", "diffusion_models"),
        *("generated_images.png", "generated_images_individual"),
    }


@pytest.fixture(scope="module")
def generate(server: Server, base: Path):
    """generate(name, *flags): 3C with the chain's models; the path of its grid, or the failed process."""

    def run(name: str, *flags: object, fails: bool = False):
        files = ("--vae-checkpoint", "vae_models/best_model.pt", "--output", f"out/{name}.png", "--base-dir", base)
        if "--diffusion-checkpoint" not in flags:
            files += ("--diffusion-checkpoint", "diffusion_models/best_model.pt")
        seed = () if "--seed" in flags else ("--seed", 1)
        few = () if {"--steps", "--ddim-steps"} & set(flags) else ("--steps", 3)
        done = server.run("3C", *files, *flags, *seed, *few)
        if fails:
            return done
        assert done.code == 0, done.err
        return base / f"out/{name}.png"

    return run


def singles(grid: Path) -> list[np.ndarray]:
    folder = grid.with_name(grid.stem + "_individual")
    return [pixels(path) for path in sorted(folder.glob("*.png"))] if folder.exists() else []


def test_individual_files(generate) -> None:
    assert len(singles(generate("sixteen", "--num-images", 16))) == 16
    assert len(singles(generate("seventeen", "--num-images", 17))) == 0
    assert len(singles(generate("always", "--num-images", 17, "--individual", "always"))) == 17
    assert len(singles(generate("never", "--num-images", 2, "--individual", "never"))) == 0
    assert len(singles(generate("sixteen", "--num-images", 3))) == 3, "files of an earlier run are removed"


def test_a_folder_of_an_earlier_run_is_noted(server: Server, vae: Path, denoiser: Path, tmp_path: Path) -> None:
    """The single images beside a grid are taken for those of the grid."""
    files = ("--vae-checkpoint", vae / "best_model.pt", "--diffusion-checkpoint", denoiser / "best_model.pt")
    flags = (*files, "--output", tmp_path / "x.png", "--steps", 4, "--sampler", "ddim", "--num-images", 2)
    assert "Note:" not in server.run("3C", *flags, "--individual", "never").out
    assert "Note:" not in server.run("3C", *flags).out
    before = (tmp_path / "x_individual/image_0001.png").read_bytes()
    said = server.run("3C", *flags, "--individual", "never").out
    assert f"Note: {tmp_path / 'x_individual'} holds the images of an earlier run" in said
    assert (tmp_path / "x_individual/image_0001.png").read_bytes() == before
    assert "in the place of 2 of an earlier run" in server.run("3C", *flags).out


def test_same_seed_same_images_at_every_batch_size(generate) -> None:
    flags = ("--sampler", "ddpm", "--num-images", 6)
    one, three, many = (singles(generate(f"b{size}", *flags, "--batch-size", size)) for size in (1, 3, 16))
    for a, b, c in zip(one, three, many, strict=True):
        assert np.abs(a - b).max() <= 1
        assert np.abs(a - c).max() <= 1
    assert not np.array_equal(one[0], one[1])
    other = singles(generate("other", *flags, "--seed", 2))
    assert np.abs(other[0] - one[0]).max() > 1
    assert np.array_equal(singles(generate("again", *flags, "--seed", 2))[5], other[5])


def test_samplers(generate) -> None:
    flags = ("--num-images", 2)
    grids = [singles(generate(kind, *flags, "--sampler", kind)) for kind in ("ddpm", "ddim", "dpmpp")]
    grids.append(singles(generate("eta", *flags, "--sampler", "ddim", "--eta", 0.8)))
    grids.append(singles(generate("guided", *flags, "--sampler", "ddim", "--guidance", 5)))
    grids.append(singles(generate("by_label", *flags, "--sampler", "ddim", "--guidance-by", "label")))
    grids.append(singles(generate("unguided", *flags, "--sampler", "ddim", "--guidance", 1)))
    for i, first in enumerate(grids):
        assert all(not np.array_equal(first[0], second[0]) for second in grids[:i])
    short, long = (generate(n, *flags, *f) for n, f in (("s", ("--ddim-steps", 3)), ("l", ("--sampler", "ddim"))))
    assert np.array_equal(pixels(short), pixels(long))


def test_classes(generate) -> None:
    named = singles(generate("named", "--class", "Cake", "--num-images", 2))
    numbered = singles(generate("numbered", "--class", "2", "--num-images", 2))
    padded = singles(generate("padded", "--class", "0002", "--num-images", 2))
    other = singles(generate("train", "--class", "steam train", "--num-images", 2))
    assert np.array_equal(named, numbered)
    assert np.array_equal(named, padded)
    assert not np.array_equal(named, other)
    everything = generate("all", "--class", "all", "--nrow", 3)
    assert len(singles(everything)) == 6
    failed(generate("x", "--class", "kake", fails=True), "Unknown class 'kake'", "Did you mean cake?", "1 steam train")
    failed(generate("x", "--class", "9", fails=True), "Unknown class '9'")
    failed(generate("x", "--class", "²", fails=True), "Unknown class")


def test_output_names(generate, base: Path) -> None:
    generate("x", "--output", "folder/", "--num-images", 1)
    assert (base / "folder/generated_images.png").exists()
    failed(generate("x", "--output", "grid.jpg", fails=True), "ends in .png")
    failed(generate("x", "--steps", 2000, fails=True), "2000")


@pytest.fixture(scope="module")
def vector(server: Server, images: Path) -> Path:
    """A folder with a vector VAE ("vae") and an unconditional denoiser on it ("denoiser")."""
    folder = images.parent / "vector"
    data = ("--data-dir", images, "--output-dir", folder / "vae", "--epochs", 2)
    done = server.run("3A", *data, *VAE_FLAGS, "--latent-dim", 8)
    assert done.code == 0, done.err
    files = ("--vae-checkpoint", folder / "vae/best_model.pt", "--image-dir", images)
    done = server.run("3B", *files, "--output-dir", folder / "denoiser", *DENOISER_FLAGS, "--epochs", 2)
    assert done.code == 0, done.err
    assert "--layers 1 has no effect" in done.out
    return folder


def test_vector_latents_without_classes(server: Server, vector: Path) -> None:
    config = checkpoints.load(vector / "vae/best_model.pt")["args"]
    assert (config["latent"], config["latent_dim"]) == ("vector", 8)
    files = ("--vae-checkpoint", vector / "vae/best_model.pt")
    files += ("--diffusion-checkpoint", vector / "denoiser/best_model.pt", "--output", vector / "grid.png")
    done = server.run("3C", *files, "--ddim-steps", 2, "--num-images", 5, "--nrow", 5)
    assert done.code == 0, done.err
    width, height = Image.open(vector / "grid.png").size
    assert 5 * 32 <= width < 6 * 32
    assert 32 <= height < 2 * 32
    failed(server.run("3C", *files, "--class", "cake"), "without classes", "--class-conditional")
    assert "guidance" not in done.err, "without classes none unless it is asked for"
    failed(server.run("3C", *files, "--guidance-by", "label"), "cannot do that", "--class-conditional")
    guided = server.run("3C", *files, "--guidance-by", "guide", "--guidance", 3, "--ddim-steps", 9)
    assert guided.code == 0 and "guidance 3 by the guide" in guided.err, guided.err
    in_vain = server.run("3C", *files, "--guidance-by", "guide", "--guidance", 3, "--ddim-steps", 1)
    assert "Note: no sampling step of 1" in in_vain.out and "guidance 3" not in in_vain.err, in_vain.out


def test_a_loss_that_bounces_ends_a_run_only_once_the_learning_rate_has_come_down(
    server: Server, vector: Path, images: Path, tmp_path: Path
) -> None:
    """So large a rate that the loss bounces from the start, and rules under which no bounce is progress."""
    files = ("--vae-checkpoint", vector / "vae/best_model.pt", "--image-dir", images)
    rules = ("--oscillation-window", 4, "--oscillation-threshold", 1e9, "--early-stopping-delta", 1e9)
    run = (*rules, "--early-stopping-patience", 0, "--no-ema", "--lr", 0.05, "--epochs", 40)
    epochs = {}
    for kind in ("none", "plateau", "cosine"):
        folder = tmp_path / kind
        done = server.run("3B", *files, *DENOISER_FLAGS, *run, "--lr-scheduler", kind, "--output-dir", folder)
        assert done.code == 0, done.err
        epochs[kind] = json.loads((folder / "summary.json").read_text())["epochs"]
    assert 4 < epochs["none"] < 11  # of a window of 4 and one epoch before it, and some that happen not to bounce
    assert epochs["plateau"] > 11  # it halves after 10 epochs without a gain
    assert epochs["cosine"] >= 35  # a tenth of the rate is left at 0.8 of 40 epochs


def test_without_classes_there_are_no_captions(server: Server, vector: Path, tmp_path: Path) -> None:
    """A model of two classes, not told which: nothing says what an image shows. Captions of before go."""
    files = ("--vae-checkpoint", vector / "vae/best_model.pt", "--diffusion-checkpoint")
    (tmp_path / "x_individual").mkdir()
    (tmp_path / "x_individual/captions.json").write_text("{}")
    done = server.run(
        *("3C", *files, vector / "denoiser/best_model.pt", "--output", tmp_path / "x.png"),
        *("--ddim-steps", 2, "--num-images", 2),
    )
    assert done.code == 0, done.err
    assert names(tmp_path / "x_individual") == {"image_0001.png", "image_0002.png"}


def test_a_model_of_one_class_writes_captions(server: Server, vae: Path, tmp_path: Path) -> None:
    draw_images(tmp_path / "old cars", classes=1, each=4)
    for path in (tmp_path / "old cars").glob("0001_*"):
        path.rename(path.with_name(path.name.removeprefix("0001_")))
    files = ("--vae-checkpoint", vae / "best_model.pt")
    run = ("--image-dir", tmp_path / "old cars", "--output-dir", tmp_path / "run")
    done = server.run("3B", *files, *run, *DENOISER_FLAGS, "--epochs", 1)
    assert done.code == 0, done.err
    flags = ("--diffusion-checkpoint", tmp_path / "run/best_model.pt", "--output", tmp_path / "x.png")
    done = server.run("3C", *files, *flags, "--ddim-steps", 2, "--num-images", 3)
    assert done.code == 0, done.err
    captions = json.loads((tmp_path / "x_individual/captions.json").read_text())
    assert captions == {f"image_{number:04d}.png": "a photo of a old cars" for number in (1, 2, 3)}


def test_each_script_says_the_next_command(server: Server, tmp_path: Path) -> None:
    """From 2A to 3C by the last line that each printed, typed in another folder than --base-dir."""
    draw_images(tmp_path / "base dir/data/corel")
    (tmp_path / "here").mkdir()
    small = {
        "3A": (*GRID_FLAGS, "--epochs", 1),
        "3B": (*DENOISER_FLAGS, "--epochs", 1, "--timesteps", 30),
        "3C": ("--num-images", 2, "--steps", 2),
    }
    done = server.run("2A", "--base-dir", "../base dir", "--num-workers", 0, "--no-visualize", cwd=tmp_path / "here")
    for script, flags in small.items():
        assert done.code == 0, done.err
        line = done.out.strip().splitlines()[-1]
        assert line.startswith("Next: python ")
        typed = shlex.split(line.removeprefix("Next: python "))
        assert Path(typed[0]) == SCRIPTS[script]
        assert typed[typed.index("--base-dir") + 1] == "../base dir"
        done = server.run(script, *typed[1:], *flags, cwd=tmp_path / "here")
    assert done.code == 0, done.err
    assert "Next:" not in done.out
    assert Image.open(tmp_path / "base dir/generated_images.png").size[0] >= 2 * 32
    assert not list((tmp_path / "here").iterdir())


def test_other_vae_is_refused(server: Server, vector: Path, vae: Path, denoiser: Path) -> None:
    files = ("--vae-checkpoint", vector / "vae/best_model.pt", "--diffusion-checkpoint", denoiser / "best_model.pt")
    failed(server.run("3C", *files, "--output", vector / "x.png"), "is not the VAE", "--vae-checkpoint")
    swapped = ("--vae-checkpoint", denoiser / "best_model.pt", "--diffusion-checkpoint", vae / "best_model.pt")
    failed(server.run("3C", *swapped), "is a checkpoint of 3B", "needs one of 3A")


def test_a_discriminator_acts_in_the_second_half_and_the_newest_is_the_best(
    server: Server, images: Path, tmp_path: Path
) -> None:
    """What it asks for raises the reconstruction error, so that this cannot choose the best any more."""
    flags = ("--data-dir", images, "--output-dir", tmp_path / "run", *GRID_FLAGS, "--adversarial-weight", 0.5)
    done = server.run("3A", *flags, "--epochs", 4)
    assert done.code == 0, done.err
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["adversarial"]) for row in rows] == [bool(row["discriminator"]) for row in rows]
    assert [bool(row["adversarial"]) for row in rows] == [False, False, True, True]
    assert all(math.isfinite(float(row[name])) for row in rows[2:] for name in ("adversarial", "discriminator"))
    best = checkpoints.load(tmp_path / "run/best_model.pt")
    assert best["best"]["epoch"] == 4 and set(best["nets"]) == {"vae", "discriminator"}
    failed(
        server.run("3A", *flags, "--epochs", 4, "--resume", "auto", "--adversarial-start", 0.1), "--adversarial-start"
    )


def test_missing_and_damaged_checkpoints(server: Server, images: Path, vae: Path, tmp_path: Path) -> None:
    output = ("--image-dir", images, "--output-dir", tmp_path / "run")
    failed(server.run("3B", "--vae-checkpoint", "absent.pt", *output), "VAE checkpoint not found", "3A")
    shutil.copy(vae / "best_model.pt", tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((vae / "best_model.pt").read_bytes()[:100_000])
    failed(server.run("3B", "--vae-checkpoint", tmp_path / "cut.pt", *output), "cut.pt")
    absent = ("--vae-checkpoint", vae / "best_model.pt", "--diffusion-checkpoint", "absent.pt")
    failed(server.run("3C", *absent), "not found", "3B")
    assert not (tmp_path / "run").exists()


def test_data_errors(server: Server, images: Path, vae: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run = ("--output-dir", tmp_path / "run")
    failed(server.run("3A", "--data-dir", tmp_path / "empty", *run), "No images found", "2A")
    failed(server.run("3A", "--data-dir", tmp_path / "absent", *run), "does not exist", "2A")
    files = ("--vae-checkpoint", vae / "best_model.pt", *run)
    failed(server.run("3B", "--image-dir", tmp_path / "empty", *files), "No images found")
    failed(
        server.run("3B", "--image-dir", images, "--image-size", 64, *files),
        *("Image size mismatch", "--image-size 64", "32"),
    )
    draw_images(tmp_path / "one class", classes=1, each=4)
    one = ("--image-dir", tmp_path / "one class", *files, *DENOISER_FLAGS)
    failed(server.run("3B", *one, "--class-conditional"), "--class-conditional needs at least two classes")
    draw_images(tmp_path / "bad", classes=1, each=3)
    (tmp_path / "bad/0001_0002.png").write_bytes(b"no picture")
    failed(server.run("3A", "--data-dir", tmp_path / "bad", *run), "0001_0002.png", "2A")


def test_one_image_trains(server: Server, tmp_path: Path) -> None:
    draw_images(tmp_path / "one", classes=1, each=1)
    done = server.run(
        "3A", "--data-dir", tmp_path / "one", "--output-dir", tmp_path / "run", *GRID_FLAGS, "--epochs", 1
    )
    assert done.code == 0, done.err


def test_workers_change_nothing(server: Server, images: Path, vae: Path, tmp_path: Path) -> None:
    flags = ("--data-dir", images, "--output-dir", tmp_path / "run", *GRID_FLAGS, "--epochs", 2, "--num-workers", 2)
    done = server.run("3A", *flags)
    assert done.code == 0, done.err
    for a, b in zip(weights(tmp_path / "run"), weights(vae), strict=True):
        assert torch.equal(a, b)
    assert (tmp_path / "run/metrics.csv").read_bytes() == (vae / "metrics.csv").read_bytes()


def test_batches_that_are_never_added_up_are_refused(server: Server, images: Path, tmp_path: Path) -> None:
    """Without a step, best_model.pt would hold the weights that the dice gave."""
    flags = ("--data-dir", images, "--output-dir", tmp_path / "run", *GRID_FLAGS, "--epochs", 2)
    failed(server.run("3A", *flags, "--grad-accum", 100), "--grad-accum 100", "--epochs")
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.mark.parametrize("minutes", [0.0001, 0.1])
def test_max_minutes_ends_cleanly(server: Server, images: Path, tmp_path: Path, minutes: float) -> None:
    flags = ("--data-dir", images, "--output-dir", tmp_path / "run", *GRID_FLAGS, "--epochs", 100000)
    started = time.monotonic()
    done = server.run("3A", *flags, "--max-minutes", minutes)
    assert done.code == 0, done.err
    assert time.monotonic() - started < 60 * minutes + 30
    assert f"{minutes:g} minutes used up" in done.out
    assert checkpoints.load(tmp_path / "run/best_model.pt")["best"]["epoch"] >= 1
    assert {"last.pt", "metrics.csv", "training_losses.png"} <= names(tmp_path / "run")
    json.loads((tmp_path / "run/summary.json").read_text(), parse_constant=pytest.fail)


def test_numbered_checkpoints_and_own_files(server: Server, images: Path, tmp_path: Path) -> None:
    """Every 20 epochs, the newest kept; a user's file with a similar name is left alone.

    However long writing takes here: on a busy machine some would be left out to save time.
    """
    patient = "import stepwise.training.state as state\nstate.OUTPUTS_FREE_S = float('inf')\n"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoint_of_march.pt").write_text("mine")
    flags = ("--data-dir", images, "--output-dir", tmp_path / "run", *GRID_FLAGS, "--augment", "none")
    done = server.run("3A", *flags, "--batch-size", 12, "--epochs", 60, "--keep-checkpoints", 2, before=patient)
    assert done.code == 0, done.err
    kept = {name for name in names(tmp_path / "run") if name.startswith("checkpoint_")}
    assert kept == {"checkpoint_0040.pt", "checkpoint_0060.pt", "checkpoint_of_march.pt"}
    assert checkpoints.load(tmp_path / "run/checkpoint_0040.pt")["progress"]["epoch"] == 40


def test_config_repeats_a_run(server: Server, vae: Path, tmp_path: Path) -> None:
    done = server.run("3A", "--config", vae / "args.yaml", "--output-dir", tmp_path / "run")
    assert done.code == 0, done.err
    assert (tmp_path / "run/metrics.csv").read_bytes() == (vae / "metrics.csv").read_bytes()
