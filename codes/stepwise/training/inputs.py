"""What a script reads, looked for before torch is imported: a mistyped path is answered at once."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from stepwise.foundation import torchrun
from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import resolve


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint: the script that writes it, its name in messages, the flag that takes it."""

    script: str
    what: str
    flag: str
    advice: str

    def require(self, path: Path) -> Path:
        """`path`. Raises UserError if there is no such file."""
        inside = path / "best_model.pt"
        if inside.exists():
            raise UserError(f"{path} is a folder, but {self.flag} needs a file.\nGive {inside}.")
        if not path.is_file():
            raise UserError(f"{self.what} not found: {path}\n{self.advice}, or check {self.flag} and --base-dir.")
        return path


VAE = Kind("3A", "VAE checkpoint", "--vae-checkpoint", "Train the VAE first with 3A-train-vae-corel.py")
DENOISER = Kind(
    *("3B", "Diffusion checkpoint", "--diffusion-checkpoint"),
    "Train the diffusion model first with 3B-train-diffusion-from-scratch-corel.py",
)


def vae_checkpoint(args: argparse.Namespace) -> Path:
    """The path of --vae-checkpoint. Raises UserError if there is no such file."""
    return VAE.require(resolve(args.base_dir, args.vae_checkpoint))


def diffusion_checkpoint(args: argparse.Namespace) -> Path:
    """The path of --diffusion-checkpoint. Raises UserError if there is no such file."""
    return DENOISER.require(resolve(args.base_dir, args.diffusion_checkpoint))


def given_file(args: argparse.Namespace, flag: str, advice: str = "") -> Path | None:
    """The path that `flag` gives, None where it gives none. Raises UserError if there is no such file."""
    given = vars(args)[flag.removeprefix("--").replace("-", "_")]
    if given is None:
        return None
    path = resolve(args.base_dir, given)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"{flag}: {path} {what}.\nCheck the path and --base-dir{advice}.")
    return path


def checkpoint_to_resume(args: argparse.Namespace) -> Path | None:
    """The path of --resume, None without one or with auto. Raises UserError if there is no such file."""
    return None if args.resume == "auto" else given_file(args, "--resume", ", or use --resume auto")


def look_for_checkpoint(args: argparse.Namespace) -> None:
    """Raises UserError if --resume names no file; under torchrun later, as a run that it restarts may outlive it."""
    if not torchrun.job():
        checkpoint_to_resume(args)
