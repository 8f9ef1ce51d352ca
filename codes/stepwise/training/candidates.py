"""What 3D is given to judge: folders of generated images, or checkpoints to draw them from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from stepwise.data.folders import CLASS_PREFIX, content_digest
from stepwise.data.image_sets import FOLDER_SUFFIX, ImageSet, list_generated, load_set, positions
from stepwise.foundation.errors import UserError, WrongFlag
from stepwise.foundation.images import BadImage, at_once, decode
from stepwise.foundation.paths import make_folder, printable, resolve
from stepwise.training.generate import choose_options, generate, made_by, write_images
from stepwise.training.pretrained import FrozenVAE, load_denoiser
from stepwise.training.provenance import ModelFile

Given, Made = TypeVar("Given"), TypeVar("Made")
LISTED = 3  # unknown classes that a note names


@dataclass
class Candidate:
    """A set under its name with what is known of its models: checkpoints, training minutes, parameters.

    `guidance`: how its images were guided, as 3C noted it. `unknown`: the classes that it names and no photo has.
    """

    name: str
    images: ImageSet
    models: list[ModelFile]
    minutes: float | None
    parameters: int | None
    guidance: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def counts(self) -> str:
        """How many images, and of how many models if that is known."""
        models = f", {len(self.models)} model{'s' if len(self.models) > 1 else ''}" if self.models else ""
        return f"{len(self.images)} images{models}"

    @property
    def about(self) -> str:
        parts = [self.counts]
        known = [f"{self.minutes:.0f} min"] if self.minutes is not None else []
        if self.parameters is not None:
            known.append(f"{self.parameters / 1e6:.1f} M parameters")
        if known:
            parts.append(" and ".join(known) + " without the autoencoder")
        return ", ".join(parts)


def usable(
    items: dict[str, Given], task: Callable[[str, Given], Made], left_out: dict[str, UserError]
) -> dict[str, Made]:
    """What `task` makes of each of the named `items`; those that it refuses go into `left_out` with the error.

    Raises the first of all these errors where nothing is left to go on with, and WrongFlag at once.
    """
    made: dict[str, Made] = {}
    for name, item in items.items():
        try:
            made[name] = task(name, item)
        except WrongFlag:
            raise
        except UserError as error:
            left_out[name] = error
    if not made:
        raise next(iter(left_out.values()))
    return made


def nearest_size(folder: Path) -> int:
    """The side of the first readable image of a generated folder."""
    for path in list_generated(folder)[0]:
        try:
            return min(decode(path).size)
        except BadImage:  # load_set names it later
            continue
    raise UserError(f"No image in {folder} can be read.\nCheck that folder.")


def read_folder(name: str, folder: Path, classes: list[dict[str, Any]], size: int) -> Candidate:
    """A folder of 3C, with subfolders or without."""
    paths, names = list_generated(folder)
    images = load_set(name, paths, positions(names, classes), size)
    models, guidance = _noted_in(images.paths)
    told = sorted({one for one, path in zip(names, paths, strict=True) if _names_a_class(one, path)})
    unknown = [printable(one) for one, place in zip(told, positions(told, classes), strict=True) if place < 0]
    return Candidate(name, images, models, *_training_of([model.path for model in models]), guidance, tuple(unknown))


def _names_a_class(name: str, path: Path) -> bool:
    """Whether `name` was meant as the class of the image: any folder has a name."""
    folder = path.parent.parent if path.parent.name.endswith(FOLDER_SUFFIX) else path.parent
    return name.startswith(CLASS_PREFIX) or name not in ("", folder.name)


def draw(
    checkpoint: Path,
    vae: FrozenVAE,
    folder: Path,
    count: int,
    seed: int,
    guidance: float | None,
    steps: int | None,
    progress: Callable[[int], Any],
) -> None:
    """Draw `count` images, equally of each class, into `folder` as 3C would."""
    model = load_denoiser(checkpoint, vae.device, vae)
    options = choose_options(model, "dpmpp", steps, 0.0, guidance)
    labels = sorted(i % len(model.classes) for i in range(count)) if model.classes else None
    make_folder(folder)
    images = []
    for batch in generate(model, vae, labels, range(count), at_once(vae.image_size), seed, options):
        images.append(batch)
        progress(len(batch))
    metadata = {"seed": str(seed), "flags": json.dumps(made_by(checkpoint, model, options))}
    write_images(folder, np.concatenate(images), model.class_names(labels, count), metadata)


def _noted_in(paths: list[Path]) -> tuple[list[ModelFile], tuple[str, ...]]:
    """The diffusion models that 3C noted in its PNG files, each once, and the ways in which it guided them."""
    found: dict[ModelFile, None] = {}
    guidance: set[str] = set()
    for path in paths:
        try:
            with Image.open(path, formats=["PNG"]) as image:
                flags = json.loads(image.info.get("flags", "{}"))
            if isinstance(strength := flags.get("guidance"), int | float):
                by = flags.get("guidance_by", "label")
                guidance.add("none" if strength == 1 else f"{strength:g} by the {by}")
            checkpoint = flags.get("diffusion_checkpoint")
            if isinstance(checkpoint, str):
                path = resolve(flags.get("base_dir", "."), checkpoint).resolve()
                found[ModelFile(path, flags.get("diffusion_weights"))] = None
        except (OSError, ValueError, AttributeError, TypeError):
            continue
    return list(found), tuple(sorted(guidance))


def _training_of(checkpoints: list[Path]) -> tuple[float | None, int | None]:
    """Minutes and parameters over all checkpoints, from the summary.json beside each; None where one has none."""
    minutes, parameters = [], []
    for checkpoint in checkpoints:
        try:
            summary = json.loads((checkpoint.parent / "summary.json").read_text())
            minutes.append(float(summary["minutes"]))
            parameters.append(int(summary["parameters"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None, None
    return (sum(minutes), sum(parameters)) if checkpoints else (None, None)


def require_enough(train: ImageSet, held_out: ImageSet, classes: list[dict[str, Any]]) -> tuple[ImageSet, list[str]]:
    """The held-out images of known classes, and notes on what is missing.

    Raises UserError where nothing can be measured.
    """
    notes = []
    unknown = held_out.label < 0
    if unknown.any():
        notes.append(f"{int(unknown.sum())} held-out images belong to classes without training images: left out.")
        held_out = held_out.picked(np.flatnonzero(~unknown))
    if len(train) < 2 or not len(held_out):
        raise UserError(
            f"There are {len(train)} training and {len(held_out)} held-out images of the same classes.\n"
            "At least 2 and 1 are needed: prepare the images with 2A --holdout 0.2."
        )
    if len(classes) < 2:
        notes.append(
            "All images are of one class, so there is no CAS; KID, FID, precision, recall, density and coverage "
            "need Inception's weights (--inception-weights)."
        )
    absent = [entry["name"] for i, entry in enumerate(classes) if i not in set(held_out.label.tolist())]
    if absent:
        notes.append(f"No held-out images of {', '.join(absent)}: CAS says nothing about these classes.")
    if len(held_out) < 30:
        notes.append(f"With {len(held_out)} held-out images every figure is rough; look at the intervals.")
    return held_out, notes


def remarks(candidates: list[Candidate], real: tuple[ImageSet, ...], size: int) -> list[str]:
    """What the reader must know about the files: missing labels, differing sizes, unreadable images.

    `real`: the training images, then the held-out ones.
    """
    has_cas = len(np.unique(real[0].label)) > 1
    notes = [_without_classes(one) for one in candidates] if has_cas else []
    notes += _about_counts({one.name: len(one.images) for one in candidates}, len(real[0]), has_cas)
    sizes = sorted(set().union(*(candidate.images.sizes for candidate in candidates)))
    if sizes != [size]:
        listed = ", ".join(map(str, sizes))
        notes.append(f"Generated images have sides of {listed} pixels; all images were compared at {size}.")
    guided = {one.name: " and ".join(one.guidance) for one in candidates if one.guidance}
    if len(set(guided.values())) > 1:
        listed = "; ".join(f"{name}: {how}" for name, how in guided.items())
        notes.append(f"The sets were drawn with different guidance ({listed}): that is part of their difference.")
    notes += _identical(candidates, real)
    for part in (*real, *(candidate.images for candidate in candidates)):
        if part.bad:
            notes.append(f"{part.name}: {len(part.bad)} files were left out ({'; '.join(part.bad[:3])}).")
    return list(filter(None, notes))


def _without_classes(candidate: Candidate) -> str:
    """A note on a set of which no image is of a known class; empty for others."""
    if candidate.images.labelled:
        return ""
    says = "name no class"
    if candidate.unknown:
        more = ", ..." if len(candidate.unknown) > LISTED else ""
        says = f"name only classes without real ones ({', '.join(candidate.unknown[:LISTED])}{more})"
    return (
        f"{candidate.name}: its images {says}; for CAS, the CNN trained on the real images named them. "
        "That favours it over sets that had to get the class right."
    )


def _about_counts(counts: dict[str, int], real: int, has_cas: bool) -> list[str]:
    """Notes on the measures that a larger set does better by: CAS takes all images, the others no more than `real`."""
    notes = []
    capped = {name: min(count, real) for name, count in counts.items()}
    if min(capped.values()) < real:
        listed = ", ".join(f"{name} {count}" for name, count in capped.items())
        notes.append(
            f"Compared as sets of {listed} images, the real ones of {real}: FID, SWD, recall and coverage "
            "favour the larger set. KID does not: compare by that, or draw more images."
        )
    if has_cas and len({*counts.values(), max(real, min(counts.values()))}) > 1:  # all have more than the real: none
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        notes.append(f"CAS takes all images of a set ({listed}; {real} real ones): it favours the larger set.")
    return notes


def _identical(candidates: list[Candidate], real: tuple[ImageSet, ...]) -> list[str]:
    """Notes on generated images that are real ones pixel by pixel, at the size of the comparison."""
    known = {one.name: set(map(content_digest, one.images)) for one in real}
    notes = []
    for candidate in candidates:
        own = list(map(content_digest, candidate.images.images))
        for name, digests in known.items():
            if same := sum(digest in digests for digest in own):
                notes.append(f"{candidate.name}: {same} of its {len(own)} images are among {name}, pixel by pixel.")
    return notes
