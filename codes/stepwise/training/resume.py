"""Finding and reading the checkpoint that a run continues from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stepwise.foundation import torchrun
from stepwise.foundation.checkpoints import BadCheckpoint, load
from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import write_atomically
from stepwise.foundation.runs import RunFolder
from stepwise.training import inputs
from stepwise.training.distributed import World

JOB_FILE = ".run.job"


def find_state(
    args: argparse.Namespace, folder: RunFolder, script: str, fixed: tuple[str, ...], world: World
) -> dict | None:
    """The checkpoint to continue from as --resume says, or None for a fresh start.

    Deletes nothing: where an earlier run is to be replaced, `fit` clears the folder once every
    other mistake has had its chance to show. `fixed` names the flags that must be as they were.
    Where torchrun has restarted a job, the run that the job itself began goes on, whatever these flags say.
    Raises UserError when the folder holds a run and neither --resume nor --overwrite was given, or
    when no intact checkpoint is left. Process 0 looks, the others are told.
    """
    restarted = world.largest(torchrun.restarts())[0] > 0  # one machine of several may not count it
    return world.from_main(_find_state(args, folder, script, fixed, restarted) if world.is_main else None)


def claim(folder: RunFolder) -> None:
    """Note that from now on the run in the folder is that of this job of torchrun, to go on when that restarts it."""
    if folder.writes and torchrun.job() and not _is_own(folder):
        write_atomically(folder.path / JOB_FILE, [torchrun.job().encode()])


def _settle_restart(args: argparse.Namespace, folder: RunFolder, restarted: bool) -> None:
    if not restarted:
        (folder.path / JOB_FILE).unlink(missing_ok=True)  # of an earlier job that was given the same name
    elif args.resume != "auto" and _is_own(folder):
        print(f"Restarted by torchrun: the run that this job began in {folder.path} goes on, as with --resume auto.")
        args.resume, args.overwrite = "auto", False


def _is_own(folder: RunFolder) -> bool:
    path = folder.path / JOB_FILE
    return path.exists() and path.read_text() == torchrun.job()


def _find_state(
    args: argparse.Namespace, folder: RunFolder, script: str, fixed: tuple[str, ...], restarted: bool
) -> dict | None:
    _settle_restart(args, folder, restarted)
    if args.resume is None:
        if folder.has_run and not args.overwrite:
            raise UserError(
                f"{folder.path} already holds a training run.\n"
                "Continue it with --resume auto, replace it with --overwrite, or choose another --output-dir."
            )
        folder.to_clear = True
        return None
    if args.resume == "auto":
        document = _newest(folder)
        if document is None:
            print(f"--resume auto: no checkpoint in {folder.path} yet, starting from the beginning.")
            folder.set_best_aside()
            return None
    else:
        document = _from_path(inputs.checkpoint_to_resume(args), args, folder)
    if document["script"] != script or "progress" not in document:
        raise UserError(
            f"The checkpoint to resume is not a resumable one of {script}.\n"
            "Give last.pt or a numbered checkpoint of the same script, or --resume auto."
        )
    _require_same_flags(document["args"], args, fixed)
    return document


def require_same_images(state: dict[str, Any] | None, sha256: str) -> None:
    """Raises UserError when a resumed run was trained on other images or classes than these."""
    if state is not None and state["images"] != sha256:
        raise UserError(
            "The images or their classes differ from those that the run to resume was trained on "
            "(or it was started by a version that reads them otherwise).\n"
            "Restore them, or start a new run in another --output-dir."
        )


def _from_path(path: Path, args: argparse.Namespace, folder: RunFolder) -> dict[str, Any]:
    if path.resolve().parent != folder.path.resolve():
        if folder.has_run and not args.overwrite:
            raise UserError(
                f"{folder.path} holds another run than the one to resume.\n"
                "Choose another --output-dir, or replace that run with --overwrite."
            )
        folder.to_clear = True
    return load(path)


def _newest(folder: RunFolder) -> dict[str, Any] | None:
    """The newest intact checkpoint; damaged ones are named and passed over."""
    numbered = sorted(folder.path.glob("checkpoint_*.pt"), key=lambda path: path.stat().st_mtime, reverse=True)
    candidates = [*(folder.path / name for name in ("next.pt", "last.pt", "previous.pt")), *numbered]
    damaged: list[tuple[Path, BadCheckpoint]] = []
    for path in candidates:
        if not path.exists():
            continue
        try:
            document = load(path)
        except BadCheckpoint as error:
            damaged.append((path, error))
            continue
        for bad, error in damaged:
            print(f"Warning: {bad} cannot be used ({error.args[0].splitlines()[0]}); falling back to {path}.")
        return document
    if damaged:
        names = ", ".join(bad.name for bad, _ in damaged)
        raise UserError(
            f"No intact checkpoint in {folder.path}: {names} are damaged.\nStart again with --overwrite, "
            "or copy a good one there."
        )
    return None


def best_of(folder: RunFolder, best: dict[str, Any], later_than: float) -> dict[str, Any] | None:
    """What best_model.pt is the best of, if it is intact and of this run: `best`, or of an epoch `later_than` this one.

    Later, because a kill can come between best_model.pt and last.pt. Otherwise None, and the user is told that the
    next validation writes it anew; what is intact is set aside.
    """
    path = folder.path / "best_model.pt"
    try:
        found = load(path)["best"]
        if found == best or found["epoch"] > later_than:
            return found
        print(f"Warning: {path} is not of the checkpoint to resume; the next validation writes it anew.")
        folder.set_best_aside()
    except FileNotFoundError:
        print(f"Warning: {path} is gone; the next validation writes it anew.")
    except BadCheckpoint as error:
        print(f"Warning: {error.args[0].splitlines()[0]} The next validation writes it anew.")
    return None


def _require_same_flags(before: dict[str, Any], args: argparse.Namespace, fixed: tuple[str, ...]) -> None:
    now = vars(args)
    # None is a default that was settled later; whether two of them are the same, the network's config tells
    differ = [name for name in fixed if None not in (before.get(name), now[name]) and before[name] != now[name]]
    if differ:
        flags = ", ".join(f"--{name.replace('_', '-')} {before[name]} (now {now[name]})" for name in differ)
        raise UserError(
            f"The run to resume was started with other flags: {flags}.\n"
            "Repeat them, or start a new run in another --output-dir."
        )
