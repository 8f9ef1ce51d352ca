"""Paths as flags give them, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from stepwise.foundation.errors import UserError


def resolve(base_dir: str | Path, path: str | Path) -> Path:
    """`path` below `base_dir`, unless it is absolute (then `base_dir` plays no part)."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else Path(base_dir).expanduser() / path


def printable(text: str) -> str:
    """`text` with what is not Unicode in it, as file names may hold on Linux, written out: b"\\xff" as \\udcff."""
    return text.encode("utf-8", "backslashreplace").decode()


def make_folder(path: Path) -> Path:
    """Create `path` and its parents. Raises UserError where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path} is needed as a folder, but a file is in the way.\nRemove it or choose another path.")
    except OSError as error:
        raise UserError(f"Cannot create the folder {path}: {error.strerror}.\nChoose another path or --base-dir.")
    return path


def writable_folder(path: Path) -> Path:
    """Create `path`. Raises UserError if that, or writing into it, is not possible."""
    if not os.access(make_folder(path), os.W_OK):
        raise UserError(f"Cannot write into the folder {path}.\nChange its permissions or choose another one.")
    return path


def write_atomically(path: Path, chunks: list[bytes | memoryview], *, advice: str = "Free some space, then run again."):
    """Replace `path` by the joined `chunks`, synced to the disk, or leave it as it was.

    Raises UserError with the path, the bytes needed and `advice` when the disk is full.
    """
    needed = sum(len(chunk) for chunk in chunks)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if shutil.disk_usage(path.parent).free < needed:
            raise OSError(errno.ENOSPC, "No space left on device")
        with temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"Cannot write {path}: {error.strerror}.\nChange its permissions or choose another path.")
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(f"The disk is full: {path} needs {needed:,} bytes ({error.strerror}).\n{advice}")


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder; its rename is journalled
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # shared folders that know no fsync of a folder
            raise
    finally:
        os.close(handle)


def link_or_copy(source: Path, target: Path) -> None:
    """Give `source` a second name, replacing `target`; where there are no hard links, a copy."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # renaming one hard link onto another of the same file leaves both
