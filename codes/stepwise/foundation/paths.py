"""Paths as flags give them: relative ones hang below --base-dir, absolute ones stay."""

from __future__ import annotations

from pathlib import Path

from stepwise.foundation.errors import UserError


def resolve(base_dir: str | Path, path: str | Path) -> Path:
    """`path` below `base_dir`, unless it is absolute (then `base_dir` plays no part)."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else Path(base_dir).expanduser() / path


def make_folder(path: Path) -> Path:
    """Create `path` and its parents. Raises UserError where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path} is needed as a folder, but a file is in the way.\nRemove it or choose another path.")
    except OSError as error:
        raise UserError(f"Cannot create the folder {path}: {error.strerror}.\nChoose another path or --base-dir.")
    return path
