"""Corel-like image folders: finding the images and their classes, checking every file, holding some out.

Two forms are read: a flat folder of XXXX_YYYY.EXT (XXXX the class number) with a classes.txt, and
one sub-folder a class. A flat folder without any class number is one class.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from stepwise.data.folders import (
    CAPTION_START,
    CLASS_NUMBER,
    class_in,
    list_entries,
    no_images,
    prepared_twice,
    read_captions,
    split,
)
from stepwise.data.threads import in_threads
from stepwise.foundation.errors import UserError
from stepwise.foundation.images import BadImage, decode_with_form, is_image_name, is_unread_name
from stepwise.foundation.paths import printable

CLASSES = "classes.txt"
MAX_CLASSES = 9999
DARK = 31  # of 255
MAX_NAME_BYTES = 200  # room below the file systems' 255 for a temporary file's name
_CLASS_LINE = re.compile(r"([0-9]{1,4})\s+(\S.*)")
_NUMBERED_FOLDER = re.compile(r"(?:class_)?([0-9]{1,4})")
_NOT_PORTABLE = re.compile(r'[\x00-\x1f\x7f\\/:*?"<>|\ud800-\udfff]|\.\.|\.$')


@dataclass(frozen=True)
class Picture:
    """One image file: where it is, and after `examine` what it holds and what it will be called."""

    path: Path
    file: str  # relative to the data folder, with "/" and readable in any encoding
    number: int  # its class
    plain: bool = False  # the file itself holds upright 8-bit RGB
    digest: str = ""  # SHA-256 of the decoded pixels and their size
    name: str = ""  # XXXX_YYYY.EXT
    dark: bool = False  # no number above DARK, in a file that had to be converted


@dataclass
class Survey:
    """What lies in a data folder, before any file is opened."""

    folder: Path
    pictures: list[Picture]
    class_names: dict[int, str]
    bad: list[tuple[str, str]]  # (file, reason)
    needs_classes_file: bool = False


def survey(folder: Path) -> Survey:
    """The images of `folder` by class. Raises UserError if there is none, or for a bad classes.txt."""
    entries = list_entries(folder)
    loose = [entry for entry in entries if is_image_name(entry.name) and not entry.is_dir()]
    inside = {
        entry: [path for path in list_entries(entry) if is_image_name(path.name)]
        for entry in entries
        if entry.is_dir() and not entry.name.startswith(".")
    }
    nested = [path for images in inside.values() for path in images]
    if any(CLASS_NUMBER.fullmatch(path.name) for path in loose) or (loose and not nested):
        found = _survey_flat(folder, [entry for entry in entries if is_image_name(entry.name)])
        found.bad += [(_relative(path, folder), "in a sub-folder of a flat folder") for path in nested]
    elif nested:
        found = _survey_subfolders(folder, {entry: images for entry, images in inside.items() if images})
        found.bad += [(_relative(path, folder), "not in a class folder") for path in loose]
    else:
        raise no_images(folder)
    deep = [
        (_relative(path, folder), "deeper than one sub-folder")
        for entry in inside
        for deeper in list_entries(entry)
        if deeper.is_dir() and not deeper.is_symlink() and not deeper.name.startswith(".")
        for path in sorted(deeper.rglob("*"))
        if is_image_name(path.name) and path.is_file()
    ]
    own, below = len({path.parent for path in nested}), len({tuple(file.split("/")[:2]) for file, _ in deep})
    if len(deep) > len(found.pictures) and below > own:  # not thumbnails or edits below the photos
        raise UserError(
            f"{folder} has {len(found.pictures)} images such as {found.pictures[0].file}, and {len(deep)} deeper down, "
            f"such as {deep[0][0]}.\nGive the folder right above the classes, "
            f"such as {(folder / deep[0][0]).parent.parent}."
        )
    if len(found.bad) > len(found.pictures):
        raise UserError(
            f"{folder} has images in two orders: {len(found.pictures)} such as {found.pictures[0].file} and "
            f"{len(found.bad)} such as {found.bad[0][0]} ({found.bad[0][1]}).\n"
            "Name all of them XXXX_YYYY (class and image number), or none; or make one sub-folder a class."
        )
    found.bad += deep
    for path in [*entries, *(path for entry in inside for path in list_entries(entry))]:
        if is_unread_name(path.name):
            found.bad.append((_relative(path, folder), f"{path.suffix} files are not read: save it as PNG or JPEG"))
    return found


def _survey_flat(folder: Path, images: list[Path]) -> Survey:
    class_names = read_classes(folder / CLASSES)
    if class_names is None:
        class_names = _names_in_captions(folder)
    numbers = [CLASS_NUMBER.fullmatch(path.name) for path in images]
    if not any(numbers):
        if len(class_names or {}) > 1:
            raise UserError(
                f"{folder / CLASSES} names {len(class_names)} classes, but no file name starts with a class's number.\n"
                f"Name the files like 0001_{images[0].name}, or make one sub-folder a class."
            )
        pictures = [Picture(path, _relative(path, folder), 1) for path in images]
        return Survey(folder, pictures, {1: readable(folder.resolve().name), **(class_names or {})}, [])
    found = Survey(folder, [], class_names or {}, [], needs_classes_file=class_names is None)
    for path, number in zip(images, numbers, strict=True):
        if number:
            found.pictures.append(Picture(path, _relative(path, folder), int(number[1])))
        else:
            found.bad.append((_relative(path, folder), "no class number in the name"))
    for number in {picture.number for picture in found.pictures}:
        found.class_names.setdefault(number, f"class_{number:04d}")
    return found


def _names_in_captions(folder: Path) -> dict[int, str] | None:
    """Class number -> name of a folder that 2A wrote, as corel_all; None if it did not."""
    try:
        captions = read_captions(folder)
    except UserError:  # somebody's own file of that name
        return None
    named = {(number[1], text) for file, text in captions.items() if (number := CLASS_NUMBER.fullmatch(file))}
    numbers, texts = {int(number) for number, _ in named}, {text for _, text in named}
    ours = all(text.startswith(CAPTION_START) and text != CAPTION_START for text in texts)
    if not ours or not len(named) == len(numbers) == len(texts):  # one caption a class, and none of two classes
        return None
    return {int(number): class_in(text) for number, text in named} or None


def _survey_subfolders(folder: Path, inside: dict[Path, list[Path]]) -> Survey:
    if len(inside) > MAX_CLASSES:
        raise UserError(f"{folder} holds {len(inside)} sub-folders with images.\nAt most {MAX_CLASSES} classes work.")
    if prepared_twice({entry.name for entry in inside}):
        raise UserError(f"{folder} is what 2A writes, not what it reads.\nGive the photos it was prepared from.")
    own_numbers = [_NUMBERED_FOLDER.fullmatch(entry.name) for entry in inside]
    numbered = len({int(match[1]) for match in own_numbers if match}) == len(inside)
    given_names = (read_classes(folder / CLASSES) or {}) if numbered else {}
    found = Survey(folder, [], {}, [])
    for position, (entry, match) in enumerate(zip(inside, own_numbers, strict=True), start=1):
        number = int(match[1]) if numbered and match else position
        found.class_names[number] = given_names.get(number, readable(entry.name))
        found.pictures += [Picture(path, _relative(path, folder), number) for path in inside[entry]]
    return found


def _relative(path: Path, folder: Path) -> str:
    return readable(path.relative_to(folder).as_posix())


def readable(text: str) -> str:
    """`text` with what no encoding can write, or what would break a line, as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in printable(text))


def read_classes(path: Path) -> dict[int, str] | None:
    """Class number -> name from lines `1 name`; None if there is no file. A bad line is a UserError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text.\nSave it as UTF-8, one `number name` a line.")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.\nMake it a readable file of `number name` lines.")
    names: dict[int, str] = {}
    for position, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = _CLASS_LINE.fullmatch(line.strip())
        if match is None:
            fault = "is not `number name`"
        elif int(match[1]) in names:
            fault = f"gives class {int(match[1])} a second name"
        elif match[2] in names.values():
            fault = "gives a name that another class has"
        else:
            names[int(match[1])] = match[2]
            continue
        raise UserError(f"{path}, line {position} {fault}: {line.strip()!r}.\nWrite lines such as: 1 steam train")
    return names


def write_neutral_classes(found: Survey) -> str:
    """Write the missing classes.txt with neutral names; returns what to tell the user."""
    path = found.folder / CLASSES
    lines = [f"{number} {found.class_names[number]}\n" for number in sorted(found.class_names)]
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write("".join(lines))
    except OSError as error:
        return (
            f"No {CLASSES}, and none can be written to {found.folder} ({error.strerror}): classes have neutral names."
        )
    return f"Wrote {path} with neutral class names. Edit the names there and run this again."


def examine(
    found: Survey, num_workers: int = 0, check: Callable[[], None] = lambda: None
) -> tuple[list[Picture], list[tuple[str, str]]]:
    """Decode every picture in full: the good ones with digest and name, and (file, reason) of the bad ones.

    `check` is called between files and may raise to stop. The result does not depend on `num_workers`.
    """
    root = found.folder.resolve()
    results = list(in_threads(lambda picture: _examine(picture, root), found.pictures, num_workers, check, "Checking"))
    pairs = list(zip(found.pictures, results, strict=True))
    bad = [(picture.file, result) for picture, result in pairs if isinstance(result, str)]
    return _named([result for result in results if isinstance(result, Picture)]), sorted(found.bad + bad)


def _examine(picture: Picture, root: Path) -> Picture | str:
    """The picture with its digest, or the reason why it cannot be used."""
    try:
        if not picture.path.resolve().is_relative_to(root):
            return "link leaves the folder"
        image, plain = decode_with_form(picture.path)
    except BadImage as bad:
        return bad.reason
    except (OSError, RuntimeError) as error:  # links that lead in a circle
        return f"unreadable: {getattr(error, 'strerror', None) or error}"
    dark = not plain and max(high for _, high in image.getextrema()) <= DARK
    return replace(picture, plain=plain, digest=pixel_digest(image), dark=dark)


def pixel_digest(image: Any) -> str:
    """SHA-256 of a PIL image's size and pixels."""
    return hashlib.sha256(f"{image.width} x {image.height} {image.mode} ".encode() + image.tobytes()).hexdigest()


def _named(pictures: list[Picture]) -> list[Picture]:
    """Each picture with a name of its own. Files that keep their suffix are named first."""
    taken: set[str] = set()
    names: dict[Path, str] = {}
    for picture in sorted(pictures, key=lambda picture: not picture.plain):
        stem, own = _NOT_PORTABLE.sub("_", picture.path.stem), picture.path.suffix
        suffix = own if picture.plain else ".png"
        prefix = f"{picture.number:04d}_"
        stem = stem if stem.startswith(prefix) and stem != prefix else prefix + stem
        if len(os.fsencode(stem + suffix)) > MAX_NAME_BYTES:
            stem = f"{stem[:40]}_{hashlib.sha256(picture.file.encode()).hexdigest()[:12]}"
        others = (f"{stem}_{own[1:].lower()}{extra}{suffix}" for extra in chain([""], count(2)))
        # Not every file system tells "A.png" from "a.png".
        names[picture.path] = next(name for name in chain([stem + suffix], others) if name.casefold() not in taken)
        taken.add(names[picture.path].casefold())
    return [replace(picture, name=names[picture.path]) for picture in pictures]


def duplicates(pictures: list[Picture]) -> list[tuple[str, str]]:
    """(file, the earlier file with the same pixels), sorted."""
    return sorted((twin.file, group[0].file) for group in _by_pixels(pictures) for twin in group[1:])


def _by_pixels(pictures: list[Picture]) -> list[list[Picture]]:
    groups: dict[str, list[Picture]] = defaultdict(list)
    for picture in sorted(pictures, key=lambda picture: picture.file):
        groups[picture.digest].append(picture)
    return list(groups.values())


def hold_out(pictures: list[Picture], fraction: float, seed: int) -> set[str]:
    """Names of the pictures to hold out: about `fraction` of each class, drawn by name and seed.

    Pictures with the same pixels stay on one side, or the held-out ones would be known already.
    """
    groups = [group for group in _by_pixels(pictures) if len({picture.number for picture in group}) == 1]
    first = [group[0] for group in groups]
    labels = [str(picture.number) for picture in first]
    _, held = split([Path(picture.name) for picture in first], labels, fraction, seed)
    return {picture.name for index in held for picture in groups[index]}
