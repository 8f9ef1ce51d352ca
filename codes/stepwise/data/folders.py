"""Folders of images: listing, captions, class names, loading, and a stable split."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from stepwise.data.threads import in_threads
from stepwise.foundation.errors import UserError
from stepwise.foundation.images import BadImage, decode, is_image_name, is_unread_name
from stepwise.foundation.paths import printable
from stepwise.foundation.seeds import derive

CAPTIONS = "captions.json"
CAPTION_START = "a photo of a "
CLASS_NUMBER = re.compile(r"([0-9]{4})_.+", re.DOTALL)
FORMATS = "PNG, JPEG, WebP, BMP or TIFF"
LOOKED_AT = 10_000  # files, at most, to say where images are if not where they should be
ROOM = 2 * 2**30  # bytes of decoded images that load_images keeps
ALL = "corel_all"  # the folder of all classes that 2A writes beside one folder a class
CLASS_PREFIX = "class_"  # of the names of those
REMEDY = "Check the path and --base-dir. 1A draws sample images, 2A prepares your own."


def read_captions(folder: Path) -> dict[str, str]:
    """File name -> caption from `captions.json`; empty if `folder` has none.

    Raises UserError for what is not JSON, not text for each name, or a name that leads elsewhere.
    """
    path = folder / CAPTIONS
    try:
        captions = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {' '.join(str(error).split())}.\nRun 2A again to write it anew.")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.\nMake it readable or run 2A again.")
    if not isinstance(captions, dict) or not all(isinstance(text, str) for text in captions.values()):
        raise UserError(f'{path} must hold {{"file name": "caption", ...}}.\nRun 2A again to write it anew.')
    for name in captions:
        if not is_plain_name(name):
            raise UserError(f"{path} names a file outside its folder: {name!r}.\nUse plain file names only.")
    return captions


def is_plain_name(name: str) -> bool:
    """True if `name` cannot lead out of the folder it is looked up in, on any system."""
    drive = name[1:2] == ":"
    return bool(name) and name != "." and ".." not in name and not drive and not set(name) & set("/\\\0")


def read_labels(folder: Path) -> tuple[list[Path], list[str]]:
    """All images of `folder` and the class name of each, in the same order.

    Classes come from `captions.json` ("a photo of a NAME"), else from names XXXX_YYYY.EXT (then
    the class is its number, "0001"), else from one sub-folder a class. A flat folder without any
    of these is one class, named after the folder. Raises UserError if there is no image.
    """
    captions = read_captions(folder)
    images = _images_in(folder)
    if not images:
        return _labels_from_subfolders(folder)
    if captions:
        return images, _labels_from_captions(folder, images, captions)
    numbers = [CLASS_NUMBER.fullmatch(path.name) for path in images]
    if any(numbers):
        unnumbered = next((path for path, number in zip(images, numbers, strict=True) if number is None), None)
        if unnumbered is not None:
            raise UserError(f"No class number in the name of {unnumbered}.\nName it like 0001_{unnumbered.name}.")
        return images, [number[1] for number in numbers if number]
    try:
        nested, _ = _labels_from_subfolders(folder)
    except UserError:  # no sub-folder holds an image
        nested = []
    if nested:
        raise UserError(
            f"{folder} has images both beside and inside class folders ({images[0].name}, {nested[0].parent.name}/).\n"
            "Run 2A first: it names what it leaves out. Or move the loose images into a class folder."
        )
    return images, [folder.resolve().name] * len(images)


def _labels_from_captions(folder: Path, images: list[Path], captions: dict[str, str]) -> list[str]:
    missing = next((path.name for path in images if path.name not in captions), None)
    if missing is not None:
        raise UserError(
            f"{folder / CAPTIONS} has no caption for {missing}.\nMove the image into 2A's --data-dir and run 2A again."
        )
    return [class_in(captions[path.name]) for path in images]


def class_in(caption: str) -> str:
    """The class that a caption of 2A names."""
    return caption.removeprefix(CAPTION_START).strip()


def _labels_from_subfolders(folder: Path) -> tuple[list[Path], list[str]]:
    images: list[Path] = []
    labels: list[str] = []
    for entry in list_entries(folder):
        if entry.is_dir() and not entry.name.startswith("."):
            inside = _images_in(entry)
            images += inside
            labels += [entry.name] * len(inside)
    if not images:
        raise no_images(folder)
    if prepared_twice(set(labels)):
        raise UserError(
            f"{folder} is what 2A writes: every image lies both in {ALL} and in the folder of its class.\n"
            f"Give {folder / ALL} for all classes, or one of the class folders."
        )
    return images, labels


def prepared_twice(folders: set[str]) -> bool:
    """Whether these are the folders that 2A writes, in which every image lies twice."""
    return ALL in folders and any(folder.startswith(CLASS_PREFIX) for folder in folders)


def _images_in(folder: Path) -> list[Path]:
    return [entry for entry in list_entries(folder) if is_image_name(entry.name) and entry.is_file()]


def list_entries(folder: Path) -> list[Path]:
    """Everything right in `folder`, sorted by name. Raises UserError if it does not exist or cannot be read."""
    try:
        return sorted(folder.iterdir(), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"The folder {folder} does not exist.\n{REMEDY}")
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}.\nCheck the path and its permissions.")


def no_images(folder: Path) -> UserError:
    """The error for a `folder` without any image."""
    unread = unread_images(folder)
    deeper = next((path for path in islice(folder.glob("[!.]*/*/**/*"), LOOKED_AT) if is_image_name(path.name)), None)
    if deeper is not None and not unread:
        return UserError(
            f"No images found in {folder} or its sub-folders.\n"
            f"There are some deeper, in {deeper.parent}: give the folder right above the classes."
        )
    lines = (f"No images found in {folder} (wanted: {FORMATS}).", unread, REMEDY)
    return UserError("\n".join(filter(None, lines)))


def unread_images(folder: Path) -> str:
    """A line about the images in `folder` and its sub-folders that are of kinds that are not read; empty if none."""
    visible = (*folder.glob("*"), *folder.glob("[!.]*/*"))
    unread = [path for path in visible if is_unread_name(path.name) and path.is_file()]
    if not unread:
        return ""
    kinds = ", ".join(sorted({path.suffix.lower() for path in unread}))
    phone = "; an iPhone takes JPEG under Settings, Camera, Formats, Most Compatible" if ".heic" in kinds else ""
    return f"{len(unread)} files in {folder} are of kinds that are not read ({kinds}): save them as PNG or JPEG{phone}."


@dataclass(frozen=True)
class ImageFiles(Sequence):
    """Images that are decoded whenever they are asked for: item i as `load_image` gives it.

    Raises UserError for a file that was there when the run began and is not any more.
    """

    paths: list[Path]
    size_limit: int | None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> np.ndarray:
        try:
            return load_image(self.paths[number], self.size_limit)
        except UserError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{reason}\nIt could be read before: restore it and continue with --resume auto.")


def load_images(
    paths: list[Path],
    size_limit: int | None = None,
    num_workers: int = 0,
    check: Callable[[], None] = lambda: None,
    room: int = ROOM,
) -> tuple[Sequence[np.ndarray], list[str]]:
    """Each file as uint8 [H, W, 3], its shorter side reduced to at most `size_limit`, and the digests of their pixels.

    All are read here, once. Up to `room` bytes of pixels stay in memory; of more, none do, and an image
    is decoded when it is used. `num_workers` threads decode (Pillow and OpenCV release the interpreter's
    lock). `check` is called after each image and may raise to stop. Raises UserError that names the
    first file which cannot be decoded.
    """

    held: list[np.ndarray] = []
    digests: list[str] = []
    for image, digest in in_threads(
        lambda path: read_image(path, size_limit), paths, num_workers, check, "loading images"
    ):
        digests.append(digest)
        room -= image.nbytes
        if room >= 0:
            held.append(image)
        else:
            held.clear()
    return held if room >= 0 else ImageFiles(paths, size_limit), digests


def reading_size(image_size: int) -> int:
    """The shorter side to which files are reduced for a model of `image_size`: twice that, so that crops stay sharp."""
    return 2 * image_size


def load_image(path: Path, size_limit: int | None) -> np.ndarray:
    """uint8 [H, W, 3], the shorter side reduced to at most `size_limit`. Raises UserError if it cannot be decoded."""
    return _reduced(_decoded(path), size_limit)


def read_image(path: Path, size_limit: int | None) -> tuple[np.ndarray, str]:
    """`load_image`, and the digest of the pixels that the file holds, before they are reduced."""
    image = _decoded(path)
    return _reduced(image, size_limit), content_digest(image)


def _decoded(path: Path) -> np.ndarray:
    try:
        return np.array(decode(path))
    except BadImage as bad:
        raise UserError(f"Cannot use the image {path}: {bad.reason}.\nRemove it, or run 2A to leave bad images out.")


def _reduced(image: np.ndarray, size_limit: int | None) -> np.ndarray:
    import cv2

    height, width = image.shape[:2]
    if size_limit is None or min(height, width) <= size_limit:
        return image
    scale = size_limit / min(height, width)
    size = max(size_limit, round(width * scale)), max(size_limit, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def split(paths: list[Path], labels: list[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on and to hold out: about `fraction` of each class, drawn by file name and seed.

    The draw does not depend on the order of `paths`. No class is held out whole; where classes are so small
    that `fraction` of each is none, one image of as many classes as make up about `fraction` of all.
    """
    by_class: dict[str, list[int]] = defaultdict(list)
    draws = [derive(seed, "split", printable(path.name)) for path in paths]
    for index in sorted(range(len(paths)), key=lambda i: (draws[i], paths[i].as_posix())):
        by_class[labels[index]].append(index)
    held = {
        i for members in by_class.values() for i in members[: min(round(fraction * len(members)), len(members) - 1)]
    }
    wanted = max(1, round(fraction * len(paths))) if fraction > 0 else 0
    if len(held) < wanted / 2:  # of many small classes each alone rounds to none: one of some of them
        first = [members[0] for members in by_class.values() if len(members) > 1 and members[0] not in held]
        held |= set(sorted(first, key=lambda i: (draws[i], paths[i].as_posix()))[: wanted - len(held)])
    train = [index for index in range(len(paths)) if index not in held]
    return train, sorted(held)


def content_digest(image: np.ndarray) -> str:
    """SHA-256 of the pixels of an image, uint8 [H, W, 3]."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def split_by_content(
    paths: list[Path], labels: list[str], digests: list[str], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """`split`, with the copies of an image on one side: what is trained on never validates."""
    train, held = split(paths, labels, fraction, seed)
    trained = {digests[i] for i in train}
    held = [i for i in held if digests[i] not in trained]
    return sorted(set(range(len(paths))) - set(held)), held


def fingerprint(paths: list[Path], labels: list[str], digests: list[str]) -> str:
    """SHA-256 of all names, classes and pixels: the identity of a set of images, wherever it lies."""
    lines = sorted(
        f"{path.name!r} {label!r} {digest}" for path, label, digest in zip(paths, labels, digests, strict=True)
    )
    return hashlib.sha256("\n".join(lines).encode("utf-8", "backslashreplace")).hexdigest()
