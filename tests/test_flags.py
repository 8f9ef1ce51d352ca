"""The flags that users know, with their defaults: a change here breaks their commands."""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import draw_images
from launch import ENVIRONMENT, SCRIPTS

REQUIRED = {
    "1A": [],
    "2A": [],
    "3A": ["--data-dir", "d"],
    "3B": ["--vae-checkpoint", "v.pt", "--image-dir", "d"],
    "3C": ["--diffusion-checkpoint", "d.pt", "--vae-checkpoint", "v.pt"],
    "3D": ["--train-dir", "t", "--heldout-dir", "h", "--generated", "g"],
    "3E": ["--diffusion-checkpoint", "d.pt", "--vae-checkpoint", "v.pt"],
    "comparison": [],
}
DEFAULTS = {  # all of them; a name that is new here belongs into README.md too
    "1A": {"output_dir": "data/corel", "per_class": 60, "image_size": 400, "base_dir": ".", "seed": 42, "config": None},
    "2A": {
        "data_dir": "data/corel",
        "output_dir": "training_data",
        "figs_dir": "figs",
        "holdout": 0.0,
        "strict": False,
        "no_visualize": False,
        "base_dir": ".",
        "seed": 42,
        "num_workers": 4,
        "config": None,
    },
    "3A": {
        "image_size": 128,
        "augment": "balanced",
        "val_split": 0.1,
        "latent": "grid",
        "latent_dim": None,
        "latent_channels": None,  # with a grid latent: 12 at --downsample 8
        "downsample": 8,
        "base_channels": 32,
        "perceptual_net": "auto",
        "perceptual_weights": None,
        "adversarial_weight": 0.3,
        "adversarial_start": 0.5,
        "max_minutes": None,
        "grad_accum": 1,
        "lr_scheduler": "cosine",
        "optimizer": "muon",  # with a vector latent: adamw
        "ema_decay": 0.995,
        "no_mixed_precision": False,
        "compile": "auto",
        "overwrite": False,
        "keep_checkpoints": 3,
        "config": None,
        "device": "auto",
        "output_dir": "vae_models",
        "base_dir": ".",
        "epochs": 300,
        "batch_size": 16,
        "learning_rate": 1e-3,  # of the grid latent; 1e-4 with --latent vector
        "kl_weight": 1.0,
        "kl_warmup": 150,
        "kl_target": 30.0,
        "no_perceptual": False,
        "perceptual_weight": 0.03,
        "resume": None,
        "seed": 42,
        "num_workers": 4,
    },
    "3B": {
        "augment": "light",
        "augment_variants": 16,
        "latent_cache": None,
        "val_split": 0.1,
        "class_conditional": False,
        "label_dropout": 0.0,  # 0.1 with --class-conditional
        "prediction": "v",
        "min_snr_gamma": 5.0,
        "timesteps": 1000,
        "base_channels": None,  # grid 96, vector 512
        "layers": 2,
        "dropout": 0.1,
        "max_minutes": None,
        "guide_at": 0.1,
        "compile": "auto",
        "overwrite": False,
        "keep_checkpoints": 3,
        "config": None,
        "seed": 42,
        "device": "auto",
        "output_dir": "diffusion_models",
        "base_dir": ".",
        "epochs": 500,
        "batch_size": 16,
        "grad_accum": 1,
        "lr": None,  # by the latent's kind: grid 5e-4, vector 1e-4
        "image_size": None,  # the VAE's, which 3A trains at 128
        "no_ema": False,
        "ema_decay": 0.995,
        "schedule": "linear",
        "no_mixed_precision": False,
        "lr_scheduler": "cosine_warm_restarts",
        "lr_min": 1e-5,
        "early_stopping_patience": 30,
        "early_stopping_delta": 1e-5,
        "oscillation_window": 10,
        "oscillation_threshold": 0.0005,
        "num_workers": 4,
        "resume": None,
    },
    "3C": {
        "individual": "auto",
        "class_name": None,
        "sampler": "ddpm",
        "steps": None,
        "eta": 0.0,
        "guidance_by": None,
        "guidance": None,
        "guidance_interval": None,
        "config": None,
        "output": "generated_images.png",
        "base_dir": ".",
        "num_images": None,  # 16, or a row for each class
        "ddim_steps": None,
        "batch_size": 16,
        "nrow": 4,
        "device": "auto",
    },
    "3D": {
        "output_dir": "evaluation",
        "base_dir": ".",
        "vae_checkpoint": None,  # that of a checkpoint among --generated
        "title": "How good are the generated images?",
        "image_size": None,  # that of the smallest set
        "features": "auto",
        "inception_weights": None,
        "cas_steps": 500,
        "cas_seeds": 3,
        "num_images": 300,
        "guidance": None,  # that of 3C
        "steps": None,  # 25, or all if fewer
        "seed": 42,
        "device": "auto",
        "config": None,
    },
    "3E": {"output_dir": "exported", "format": "diffusers", "base_dir": ".", "config": None},
    "comparison": {
        "regimes": ["per-class", "unified", "class-conditional"],
        "config": None,
        "data_dir": "data/corel",
        "output_dir": "comparison",
        "base_dir": ".",
        "minutes": 80.0,
        "holdout": 0.2,
        "image_size": 64,
        "num_images": 300,
        "vae_config": None,
        "diffusion_config": None,
        "inception_weights": None,
        "seed": 42,
        "num_workers": 4,
        "device": "auto",
    },
}
CHOICES = {
    "3A": {"augment": ["none", "light", "balanced"], "latent": ["grid", "vector"]},
    "3B": {
        "schedule": ["linear", "cosine"],
        "lr_scheduler": ["cosine", "cosine_warm_restarts", "plateau", "none"],
        "prediction": ["eps", "v"],
    },
    "3C": {"sampler": ["ddpm", "ddim", "dpmpp"], "device": ["cuda", "cpu"], "individual": ["auto", "always", "never"]},
    "3D": {"features": ["auto", "inception", "cas"], "device": ["cuda", "cpu"]},
}


def parse(script: str, *flags: str) -> argparse.Namespace:
    return runpy.run_path(str(SCRIPTS[script]))["parse_args"]([*REQUIRED[script], *flags])


@pytest.mark.parametrize("script", DEFAULTS)
def test_defaults(script: str) -> None:
    args, required = vars(parse(script)), {flag[2:].replace("-", "_") for flag in REQUIRED[script][::2]}
    drawn = {"seed"} if script == "3C" else set()
    assert {name: args[name] for name in args.keys() - required - drawn} == DEFAULTS[script]


@pytest.mark.parametrize("script", DEFAULTS)
def test_every_flag_takes_its_default_as_text(script: str) -> None:
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is False else f"={value}")
        for name, value in DEFAULTS[script].items()
        if value is not None and not isinstance(value, list) and name != "eta"  # of ddim alone
    ]
    args = vars(parse(script, *flags))
    for name, value in DEFAULTS[script].items():
        assert args[name] == (True if value is False else value)


@pytest.mark.parametrize("script", [script for script, flags in REQUIRED.items() if flags])
def test_required_flags(script: str, capsys: pytest.CaptureFixture) -> None:
    parse_args = runpy.run_path(str(SCRIPTS[script]))["parse_args"]
    with pytest.raises(SystemExit) as ended:
        parse_args([])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    for flag in REQUIRED[script][::2]:
        assert flag in message


@pytest.mark.parametrize(
    ("script", "flag", "value"),
    [(script, flag, value) for script, flags in CHOICES.items() for flag, values in flags.items() for value in values],
)
def test_choices(script: str, flag: str, value: str) -> None:
    assert getattr(parse(script, f"--{flag.replace('_', '-')}", value), flag) == value


def test_latent_dim_selects_the_vector_latent() -> None:
    assert parse("3A").latent == "grid"
    assert parse("3A").latent_dim is None
    assert (parse("3A", "--latent", "vector").latent, parse("3A", "--latent", "vector").latent_dim) == ("vector", 128)
    assert (parse("3A", "--latent-dim", "256").latent, parse("3A", "--latent-dim", "256").latent_dim) == ("vector", 256)


def test_losses_follow_the_latent() -> None:
    """A flat latent is trained as the coursework does; a picture that is smaller than a patch is not judged."""
    defaults = {flags: parse("3A", *flags) for flags in ((), ("--latent", "vector"), ("--image-size", "8"))}
    assert [(one.kl_target, one.adversarial_weight) for one in defaults.values()] == [(30, 0.3), (25, 0), (30, 0)]
    given = parse("3A", "--latent", "vector", "--kl-target", "3", "--adversarial-weight", "0.5")
    assert (given.kl_target, given.adversarial_weight) == (3, 0.5)


def test_learning_rate_follows_the_latent() -> None:
    assert parse("3A", "--latent-dim", "128").learning_rate == 1e-4
    assert parse("3A", "--latent-dim", "128", "--learning-rate", "3e-4").learning_rate == 3e-4
    assert parse("3A", "--lr", "3e-4").learning_rate == parse("3B", "--learning-rate", "3e-4").lr == 3e-4
    assert runpy.run_path(str(SCRIPTS["3B"]))["PEAK_LR"] == {"grid": 5e-4, "vector": 1e-4}


def test_ddim_steps_selects_ddim() -> None:
    assert (parse("3C").sampler, parse("3C").steps) == ("ddpm", None)
    assert (parse("3C", "--ddim-steps", "50").sampler, parse("3C", "--ddim-steps", "50").steps) == ("ddim", 50)


def test_many_sets_and_regimes() -> None:
    assert parse("3D", "--generated", "a=x", "b=y", "z").generated == ["a=x", "b=y", "z"]
    assert parse("comparison").regimes == ["per-class", "unified", "class-conditional"]
    assert parse("comparison", "--regimes", "unified", "per-class").regimes == ["unified", "per-class"]


@pytest.mark.parametrize(("script", "epochs"), [("3A", 300), ("3B", 500)])
def test_minutes_alone_leave_the_epochs_open(script: str, epochs: int) -> None:
    assert parse(script).epochs == epochs
    assert parse(script, "--max-minutes", "5").epochs is None
    assert parse(script, "--max-minutes", "5", "--epochs", "7").epochs == 7


def test_generation_seed_is_drawn_anew() -> None:
    first, second = parse("3C").seed, parse("3C").seed
    assert first != second
    assert parse("3C", "--seed", "5").seed == 5


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("3C", ["--guidance-interval", "5", "0.3"]),
        ("3A", ["--latent", "grid", "--latent-dim", "64"]),
        ("3A", ["--resume", "auto", "--overwrite"]),
        ("3B", ["--oscillation-window", "2"]),
        ("3A", ["--latent-dim", "64", "--downsample", "8"]),
        ("3A", ["--latent", "vector", "--latent-channels", "4"]),
        ("3A", ["--no-perceptual", "--perceptual-weights", "vgg.pth"]),
        ("3B", ["--lr", "1e-6"]),
        ("3B", ["--timesteps", "1"]),
        ("3B", ["--augment-variants", "1"]),
        ("3B", ["--prediction", "eps", "--timesteps", "20"]),
        ("3B", ["--prediction", "eps", "--schedule", "cosine"]),
        ("3C", ["--ddim-steps", "5", "--steps", "5"]),
        ("3C", ["--ddim-steps", "5", "--sampler", "ddpm"]),
        ("3C", ["--eta", "0.5"]),
        ("3C", ["--sampler", "ddim", "--eta", "1.5"]),
        ("3D", ["--features", "cas", "--inception-weights", "w.pth"]),
        ("comparison", ["--holdout", "0"]),
        ("comparison", ["--regimes", "everything"]),
    ],
)
def test_contradictions_are_refused(script: str, flags: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(script, *flags)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert len(message.splitlines()) <= 3


@pytest.mark.parametrize(
    ("script", "flags", "unused"),
    [
        ("3A", ["--no-perceptual", "--perceptual-net", "vgg16"], "--perceptual-net vgg16"),
        ("3A", ["--no-perceptual", "--perceptual-weight", "0.1"], "--perceptual-weight 0.1"),
        ("3A", ["--adversarial-weight", "0", "--adversarial-start", "0.2"], "--adversarial-start 0.2"),
        ("3A", ["--latent", "vector", "--adversarial-start", "0.2"], "--adversarial-start 0.2"),
        ("3B", ["--label-dropout", "0.2"], "--label-dropout 0.2"),
        ("3B", ["--no-ema", "--ema-decay", "0.9"], "--ema-decay 0.9"),
        ("3B", ["--augment", "none", "--augment-variants", "8"], "--augment-variants 8"),
        ("3A", ["--adversarial-start", "0.2"], None),
        ("3B", ["--class-conditional", "--label-dropout", "0.2"], None),
        ("3B", ["--no-ema"], None),
    ],
)
def test_what_has_no_effect_is_said(
    script: str, flags: list[str], unused: str | None, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = parse(script, *flags)
    said = capsys.readouterr().out
    assert said.startswith(f"Note: {unused} has no effect with") if unused else said == ""
    if unused:  # and does not count, as when a run is resumed
        name = flags[-2][2:].replace("-", "_")
        assert getattr(args, name) in (getattr(parse(script), name), 0.0)
    monkeypatch.setenv("RANK", "1")
    parse(script, *flags)
    assert capsys.readouterr().out == ""


PROBE = """
import runpy, sys
sys.argv = [{script!r}, *{flags!r}]
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as ended:
    heavy = [name for name in ("torch", "numpy", "cv2", "albumentations", "matplotlib") if name in sys.modules]
    print("ended", ended.code, *heavy)
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_short_of_torch_and_shows_an_example(script: str) -> None:
    command = [sys.executable, "-c", PROBE.format(script=str(SCRIPTS[script]), flags=["--help"])]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "ended 0"
    example = done.stdout.partition("example:\n")[2].splitlines()[0]
    assert SCRIPTS[script].name in example
    assert "--config" in done.stdout
    assert done.stderr == ""
    assert str(Path.home()) not in done.stdout


OPTIONAL_PATHS = [
    *[("3D", "--vae-checkpoint"), ("3D", "--inception-weights"), ("3A", "--perceptual-weights")],
    *[("3A", "--resume"), ("3B", "--resume")],
]
PATHS = [(script, flag) for script, flags in REQUIRED.items() for flag in flags[::2]]


@pytest.mark.parametrize(("script", "mistyped"), [*PATHS, *OPTIONAL_PATHS])
def test_a_mistyped_path_is_answered_before_torch_is_imported(script: str, mistyped: str, tmp_path: Path) -> None:
    flags = dict(zip(REQUIRED[script][::2], REQUIRED[script][1::2], strict=True))
    for flag, name in flags.items():
        if flag.endswith("checkpoint") and flag != mistyped:
            (tmp_path / name).touch()
        elif flag != mistyped:
            draw_images(tmp_path / name, each=1)
    before = sorted(tmp_path.rglob("*"))
    given = [word for pair in (flags | {mistyped: "absent"}).items() for word in pair]
    flags = [*given, "--base-dir", str(tmp_path)]
    command = [sys.executable, "-c", PROBE.format(script=str(SCRIPTS[script]), flags=flags)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True)
    ended, code, *heavy = done.stdout.splitlines()[-1].split()
    assert (ended, code) == ("ended", "2") and "torch" not in heavy
    assert "absent" in done.stderr and len(done.stderr.splitlines()) <= 3
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("script", REQUIRED)
def test_examples_are_valid(script: str) -> None:
    """The command at the end of --help is one that parses."""
    import shlex

    command = [sys.executable, str(SCRIPTS[script]), "--help"]
    text = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True).stdout
    words = shlex.split(text.partition("example:\n")[2].splitlines()[0])
    assert words[0] == "python"
    runpy.run_path(str(SCRIPTS[script]))["parse_args"](words[2:])
