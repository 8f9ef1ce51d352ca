"""Prepared image folders: writing them so that a second run changes nothing, and a changed wish leaves no trace.

Files are hard links to the source where the source is fit to be trained on as it is.
"""

from __future__ import annotations

import csv
import filecmp
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stepwise.data.corel import Picture, pixel_digest
from stepwise.data.folders import ALL, CAPTION_START, CAPTIONS, CLASS_PREFIX, read_captions
from stepwise.data.threads import in_threads
from stepwise.foundation import paths
from stepwise.foundation.errors import UserError
from stepwise.foundation.images import BadImage, decode, is_image_name, save_png
from stepwise.foundation.paths import make_folder, write_atomically

HELD_OUT = "corel_heldout"
_CLASS_FOLDER = re.compile(CLASS_PREFIX + "[0-9]{4}")


def write_folders(
    root: Path,
    pictures: list[Picture],
    held: set[str],
    class_names: dict[int, str],
    num_workers: int = 0,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Make `root` hold corel_all, one class_XXXX a class, and corel_heldout if any name is in `held`.

    Images of an earlier preparation that are no longer wanted are removed from these folders, and nothing else;
    returns how many went that are in no folder now. Captions come before the images they name: they say which
    images were written here. Raises UserError for images there that were not.
    """
    wanted: dict[str, list[Picture]] = {ALL: []}
    for picture in pictures:
        folders = (HELD_OUT,) if picture.name in held else (ALL, f"{CLASS_PREFIX}{picture.number:04d}")
        for folder in folders:
            wanted.setdefault(folder, []).append(picture)
    _refuse_foreign(root)
    removed = _remove_unwanted(
        root, {folder: {picture.name for picture in members} for folder, members in wanted.items()}
    )
    for folder in wanted:
        make_folder(root / folder)
    # corel_all and corel_heldout take every picture once; the class folders then link to corel_all.
    for folder in sorted(wanted, key=lambda name: name not in (ALL, HELD_OUT)):
        captions = {picture.name: CAPTION_START + class_names[picture.number] for picture in wanted[folder]}
        text = json.dumps(dict(sorted(captions.items())), indent=2)
        write_if_changed(root / folder / CAPTIONS, text.encode() + b"\n")
        source = root / ALL if folder not in (ALL, HELD_OUT) else None
        for _ in in_threads(_placing(root / folder, source), wanted[folder], num_workers, check, f"Writing {folder}"):
            pass
    return len(removed - {picture.name for picture in pictures})


def _placing(folder: Path, linked_from: Path | None) -> Callable[[Picture], None]:
    def place(picture: Picture) -> None:
        target = folder / picture.name
        if target.is_dir():
            raise UserError(f"The folder {target} is in the way of an image.\nRemove it and run this again.")
        if linked_from is not None:
            take_over(linked_from / picture.name, target)
        elif picture.plain:
            take_over(picture.path.resolve(), target)
        elif not _holds(target, picture.digest):
            save_png(target, np.asarray(decode(picture.path)))

    return place


def take_over(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it where links cannot be made."""
    kept = target.is_file() and not target.is_symlink()
    if kept and (target.samefile(source) or filecmp.cmp(source, target, shallow=False)):
        return
    paths.link_or_copy(source, target)


def _holds(target: Path, digest: str) -> bool:
    try:
        return not target.is_symlink() and target.is_file() and pixel_digest(decode(target)) == digest
    except BadImage:
        return False


def _prepared_folders(root: Path) -> list[Path]:
    """The folders below `root` that have the names of those written here."""
    return [
        folder
        for folder in sorted(root.iterdir())
        if (folder.name in (ALL, HELD_OUT) or _CLASS_FOLDER.fullmatch(folder.name))
        and not folder.is_symlink()
        and folder.is_dir()
    ]


def _refuse_foreign(root: Path) -> None:
    """Raise UserError for images that no preparation wrote, which may be the only copies: those without a caption."""
    for folder in _prepared_folders(root):
        try:
            known = read_captions(folder).keys()
        except UserError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{reason}\nWhat is prepared there cannot be told from other images: remove {folder}.")
        foreign = sorted(
            path.name
            for path in folder.iterdir()
            if is_image_name(path.name) and path.name not in known and not path.is_dir() and not _torn(path)
        )
        if foreign:
            raise UserError(
                f"{folder} holds {len(foreign)} images that were not prepared here, such as {foreign[0]}.\n"
                "New images belong into --data-dir: move them there, or choose another --output-dir."
            )


def _torn(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _remove_unwanted(root: Path, wanted: dict[str, set[str]]) -> set[str]:
    """Remove images, captions and torn temporary files that do not belong, and folders left empty by that.

    Returns the names of the images.
    """
    removed = set()
    for folder in _prepared_folders(root):
        keep = wanted.get(folder.name, set()) | ({CAPTIONS} if folder.name in wanted else set())
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CAPTIONS):  # last, as it knows the images
            written_here = _torn(path) or is_image_name(path.name) or path.name == CAPTIONS
            if written_here and path.name not in keep and not path.is_dir():
                path.unlink()
                removed |= {path.name} if is_image_name(path.name) else set()
        if folder.name not in wanted and not any(folder.iterdir()):
            folder.rmdir()
    return removed


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Write `rows` as CSV below `header`, unless the file holds just that."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_if_changed(path, text.getvalue().encode())


def write_if_changed(path: Path, content: bytes) -> None:
    """Write `content` whole or not at all; a file that holds it already keeps its date."""
    if not (path.is_file() and path.read_bytes() == content):
        write_atomically(path, [content])
