"""Sets of images to compare: real folders, and generated ones as 3C writes them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path

import numpy as np
from PIL import Image

from stepwise.data.classes import by_name
from stepwise.data.folders import CAPTION_START, CLASS_PREFIX, list_entries, load_image, no_images, read_captions
from stepwise.foundation.errors import UserError
from stepwise.foundation.images import IMAGES, BadImage, decode, fit_square, is_image_name, square_at
from stepwise.foundation.paths import printable

FOLDER_SUFFIX = "_individual"
# what every report has beside the generated sets, under these names
TRAIN, HELD_OUT, COPIES = "real training images", "held-out real images", "noisy copies of training images"
AUGMENTED = "training images as 3B augments them"
AUTOENCODER, DECODED = "autoencoder", "training images through the autoencoder"
RESERVED = (TRAIN, HELD_OUT, COPIES, AUGMENTED, AUTOENCODER, DECODED)


@dataclass
class ImageSet:
    """uint8 [N, S, S, 3] and the class of each image as a position in the table of classes; -1 is none of them.

    `sizes`: the sides that the files had. `bad`: what could not be read, as lines for the user. `oblong`: some of the
    files are no squares, of which `images` has the centre.
    """

    name: str
    paths: list[Path]
    images: np.ndarray
    label: np.ndarray
    sizes: set[int]
    bad: list[str] = field(default_factory=list)
    oblong: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labelled(self) -> bool:
        return bool((self.label >= 0).any())

    def picked(self, index: np.ndarray) -> ImageSet:
        """The images at `index` only."""
        chosen = [self.paths[i] for i in index]
        return replace(self, paths=chosen, images=self.images[index], label=self.label[index])

    def off_centre(self, share: float) -> np.ndarray:
        """The squares at `share`, 0 to 1, of what the longer side has too much, read from the files; as `images`."""
        size = self.images.shape[1]
        return np.stack([fit_square(square_at(load_image(path, None), share), size) for path in self.paths])


def split_name(text: str) -> tuple[str, str]:
    """NAME=PATH -> (NAME, PATH); without a name, the last part of the path."""
    name, mark, path = text.partition("=")
    if mark and name and path:
        return name, path
    if mark:
        raise UserError(f"--generated takes NAME=FOLDER or NAME=CHECKPOINT, found '{text}'.\nGive a name and a path.")
    return Path(text).stem, text


def list_generated(folder: Path) -> tuple[list[Path], list[str]]:
    """All generated images below `folder` and the class name of each; "" where nothing tells.

    A folder's captions.json names the classes, else the name of the folder (class_0001 or the class).
    A grid of 3C's does not count, nor does `x.png` with its single images in `x_individual` beside it. Raises
    UserError when there is no image.
    """
    paths, names = _listed(folder, depth=3)
    if not paths:
        raise no_images(folder)
    single = [not _is_grid(path) for path in paths]
    if not any(single):
        raise UserError(f"{folder} holds grids, but no single images.\nDraw them with 3C --individual always.")
    return list(compress(paths, single)), list(compress(names, single))


def _is_grid(path: Path) -> bool:
    """Whether 3C noted in the PNG file that it shows several images."""
    if path.suffix.lower() != ".png":
        return False
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(IMAGES, "1") != "1"
    except (OSError, ValueError, Image.DecompressionBombError):  # whoever reads it says so
        return False


def _listed(folder: Path, depth: int) -> tuple[list[Path], list[str]]:
    entries = list_entries(folder)
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    split_up = {inner.name.removesuffix(FOLDER_SUFFIX) for inner in folders if inner.name.endswith(FOLDER_SUFFIX)}
    images = [entry for entry in entries if is_image_name(entry.name) and entry.is_file()]
    images = [image for image in images if image.stem not in split_up]
    captions = read_captions(folder)
    inherited = folder.parent.name if folder.name.endswith(FOLDER_SUFFIX) else folder.name
    names = [captions.get(image.name, inherited).removeprefix(CAPTION_START) for image in images]
    for inner in folders if depth else ():
        more, their_names = _listed(inner, depth - 1)
        images, names = images + more, names + their_names
    return images, names


def load_set(name: str, paths: list[Path], labels: list[int], size: int) -> ImageSet:
    """Read the images as squares of `size`; one that cannot be read is left out and named in `bad`.

    Raises UserError when none can be read.
    """
    images, kept, sizes, bad, oblong = [], [], set(), [], False
    for position, path in enumerate(paths):
        try:
            image = np.array(decode(path))
        except BadImage as error:
            bad.append(printable(f"{path.name}: {error.reason}"))
            continue
        sizes.add(min(image.shape[:2]))
        oblong |= image.shape[0] != image.shape[1]
        images.append(fit_square(image, size))
        kept.append(position)
    if not images:
        raise UserError(f"None of the {len(paths)} images of {name} can be read ({bad[0]}).\nCheck that folder.")
    label = np.array([labels[i] for i in kept])
    return ImageSet(name, [paths[i] for i in kept], np.stack(images), label, sizes, bad, oblong)


def positions(names: list[str], classes: list[dict]) -> list[int]:
    """Each name's place in the table of `classes`: by name, in any case, or by number (class_0001, 0001); else -1."""
    find = by_name([entry["name"] for entry in classes])
    numbered = {f"{entry['number']:04d}": i for i, entry in enumerate(classes)}

    def place(name: str) -> int:
        named = find(name)
        return numbered.get(name.lower().removeprefix(CLASS_PREFIX), -1) if named is None else named

    return [place(name) for name in names]
