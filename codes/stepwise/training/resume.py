"""Finding and reading the checkpoint that a run continues from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stepwise.foundation.checkpoints import BadCheckpoint, load
from stepwise.foundation.errors import UserError
from stepwise.foundation.runs import RunFolder
from stepwise.training import inputs
from stepwise.training.distributed import World


def find_state(
    args: argparse.Namespace, folder: RunFolder, script: str, fixed: tuple[str, ...], world: World
) -> dict | None:
    """The checkpoint to continue from as --resume says, or None for a fresh start.

    Deletes nothing: where an earlier run is to be replaced, `fit` clears the folder once every
    other mistake has had its chance to show. `fixed` names the flags that must be as they were.
    Raises UserError when the folder holds a run and neither --resume nor --overwrite was given, or
    when no intact checkpoint is left. Process 0 looks, the others are told.
    """
    return world.from_main(_find_state(args, folder, script, fixed) if world.is_main else None)


def _find_state(args: argparse.Namespace, folder: RunFolder, script: str, fixed: tuple[str, ...]) -> dict | None:
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
