"""The latent cache: the posteriors of an image folder on disk, encoded once and then memory-mapped.

Each way of making them has a sub-folder of its own: latents.npy holds [N, V, 2, ...] and told.npy [N, V, A],
both float32; cache.json, written last, says what they were made from and their SHA-256, and ends with its own.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from stepwise.data.latents import EncodedBatch
from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import make_folder, write_atomically

FORMAT = 2
_DESCRIPTION, _FILES, _LOCK = "cache.json", ("latents.npy", "told.npy"), ".lock"
_UNFINISHED = tuple(f".{name}.tmp" for name in _FILES)
ELSEWHERE = "Choose another place with --latent-cache."


def listing(folder: Path, paths: list[Path]) -> str:
    """SHA-256 of the names, sizes and dates of the files: when it is the same, they need not be read again."""
    lines = []
    for path in paths:
        found = path.stat()
        lines.append(f"{path.relative_to(folder)!r} {found.st_size} {found.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "backslashreplace")).hexdigest()


class LatentCache:
    """The cache below `folder` for latents made as `key` (plain data) says."""

    def __init__(self, folder: Path, key: dict[str, Any]):
        text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
        self.key = json.loads(text)
        self.folder = make_folder(folder / hashlib.sha256(text.encode()).hexdigest()[:16])

    def open(self) -> tuple[np.ndarray, np.ndarray, list[str]] | None:
        """(posterior, told, digests of the images), the arrays mapped from disk; None unless it is there and whole.

        Raises UserError where it is there and cannot be read.
        """
        try:
            text, _, sha256 = (self.folder / _DESCRIPTION).read_text().rpartition("\n")
            if hashlib.sha256(text.encode()).hexdigest() != sha256:
                return None
            description = json.loads(text)
            for name in _FILES:
                if _sha256(self.folder / name) != description["sha256"][name]:
                    print(f"Warning: {self.folder / name} is damaged; the images are encoded anew.")
                    return None
            posterior, told = (np.load(self.folder / name, mmap_mode="r", allow_pickle=False) for name in _FILES)
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        except OSError as error:
            raise UserError(f"The latents in {self.folder} cannot be read: {error.strerror}.\n{ELSEWHERE}")
        return posterior, told, description["digests"]

    def remove_others(self) -> None:
        """Delete the latents beside these: of another autoencoder, other images or flags, or half written."""
        for other in self.folder.parent.iterdir():
            if other != self.folder and other.is_dir() and _is_cache(other):
                shutil.rmtree(other, ignore_errors=True)

    def lock(self, check: Callable[[], None]) -> AbstractContextManager:
        """The lock for writing, taken; `check` is called while another run has it. Raises UserError."""
        lock, waiting = FileLock(self.folder / _LOCK), False
        while True:
            try:
                return lock.acquire(timeout=1)
            except Timeout:
                if not waiting:
                    print(f"Another run is writing {self.folder}: waiting for it.", flush=True)
                waiting = True
                check()
            except (OSError, NotImplementedError) as error:
                raise UserError(f"{self.folder} cannot be locked or written: {error}.\n{ELSEWHERE}")

    def write(self, batches: Iterable[EncodedBatch], count: int) -> None:
        """Replace the cache by `batches`, which hold `count` images together, without holding them in memory.

        Raises UserError when the disk is too full, at the first batch already.
        """
        (self.folder / _DESCRIPTION).unlink(missing_ok=True)
        digests: list[str] = []
        names = [self.folder / name for name in _UNFINISHED]
        try:
            with names[0].open("wb") as posterior, names[1].open("wb") as told:
                files = _Array(posterior, count), _Array(told, count)
                for batch in batches:
                    if not digests:
                        needed = sum(rows[0].nbytes for rows in (batch.posterior, batch.told)) * count
                        _require_room(self.folder, needed)
                    files[0].append(batch.posterior)
                    files[1].append(batch.told)
                    digests += batch.digests
            for temporary, name in zip(names, _FILES, strict=True):
                temporary.replace(self.folder / name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            _no_room(self.folder, error.strerror)
        finally:
            for temporary in names:
                temporary.unlink(missing_ok=True)
        sums = {name: array.sha256.hexdigest() for name, array in zip(_FILES, files, strict=True)}
        text = json.dumps({"key": self.key, "sha256": sums, "digests": digests}).encode()
        write_atomically(self.folder / _DESCRIPTION, [text, b"\n", hashlib.sha256(text).hexdigest().encode()])


def _is_cache(folder: Path) -> bool:
    """Whether it is a whole one, or what is left of one whose run was killed while it wrote."""
    names = {path.name for path in folder.iterdir()}
    return _DESCRIPTION in names or (_LOCK in names and names <= {_LOCK, *_FILES, *_UNFINISHED})


def _require_room(folder: Path, needed: int) -> None:
    if shutil.disk_usage(folder).free < needed:
        _no_room(folder, f"it needs {needed:,} bytes")


def _no_room(folder: Path, why: str | None) -> None:
    raise UserError(
        f"The disk is full: the latents in {folder} cannot be written ({why}).\n"
        f"Free some space, lower --augment-variants, or: {ELSEWHERE}"
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


class _Array:
    """A .npy file of `count` rows that is written a few rows at a time."""

    def __init__(self, file: BinaryIO, count: int):
        self.file, self.count, self.sha256, self.rows = file, count, hashlib.sha256(), 0

    def append(self, rows: np.ndarray) -> None:
        if self.rows == 0:
            header = io.BytesIO()
            shape = (self.count, *rows.shape[1:])
            np.lib.format.write_array_header_2_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
            self._write(header.getvalue())
        self._write(np.ascontiguousarray(rows, dtype="<f4").tobytes())
        self.rows += len(rows)

    def _write(self, content: bytes) -> None:
        self.file.write(content)
        self.sha256.update(content)
