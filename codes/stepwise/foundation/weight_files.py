"""Files of published network weights: the one given, the one in torch's cache, or a download."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepwise.foundation.errors import UserError

STALLED_S = 30.0  # a download of which nothing has come for so long is given up


def find(url: str, what: str, remedies: str) -> tuple[Path, str]:
    """The weights of `url` as a local file, and where they came from, in words.

    Looks into torch's cache, then downloads into it. Raises UserError (with `remedies`) where neither
    helps or the file is damaged: file names end in the first digits of their SHA-256.
    """
    import torch

    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if cached.exists():
        check_name_hash(cached, what, remedies)
        return cached, "the cache"
    if not reachable(url):
        raise UserError(f"{what} weights are neither cached nor reachable for download.\n{remedies}")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with _patience(STALLED_S):
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=_name_hash(cached))
    except (OSError, RuntimeError) as error:
        raise UserError(f"The download of the {what} weights failed ({error}).\n{remedies}")
    return cached, url


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """New connections fail when nothing comes for so long (torch.hub opens them without any limit)."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def check_name_hash(file: Path, what: str, remedies: str) -> None:
    """Raises UserError unless the SHA-256 of `file` begins as its name ends."""
    if not hashlib.sha256(file.read_bytes()).hexdigest().startswith(_name_hash(file)):
        raise UserError(f"The cached {what} weights {file} are damaged.\nDelete that file. {remedies}")


def _name_hash(file: Path) -> str:
    return file.stem.rsplit("-", 1)[1]


def reachable(url: str, seconds: float = 4.0) -> bool:
    """Whether the server answers within `seconds`; a name lookup that hangs counts as no."""
    from urllib.request import Request, urlopen

    answers: list[bool] = []

    def ask() -> None:
        try:
            with urlopen(Request(url, method="HEAD"), timeout=seconds):
                answers.append(True)
        except (OSError, ValueError):
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)
