"""What 3D is given to judge: folders of generated images, or checkpoints to draw them from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stepwise.data.image_sets import ImageSet, list_generated, load_set, positions
from stepwise.foundation.errors import UserError
from stepwise.foundation.images import BadImage, decode
from stepwise.foundation.paths import make_folder, resolve
from stepwise.training.generate import choose_options, generate, made_by, write_images
from stepwise.training.pretrained import FrozenVAE, load_denoiser
from stepwise.training.provenance import ModelFile

BATCH = 32


@dataclass
class Candidate:
    """A set under its name with what is known of its models: checkpoints, training minutes, parameters."""

    name: str
    images: ImageSet
    models: list[ModelFile]
    minutes: float | None
    parameters: int | None

    @property
    def about(self) -> str:
        parts = [f"{len(self.images)} images"]
        if self.models:
            parts.append(f"{len(self.models)} model{'s' if len(self.models) > 1 else ''}")
        if self.minutes is not None:
            parts.append(f"{self.minutes:.0f} min")
        if self.parameters is not None:
            parts.append(f"{self.parameters / 1e6:.1f} M parameters")
        return ", ".join(parts)


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
    models = _models_named_in(images.paths)
    return Candidate(name, images, models, *_training_of([model.path for model in models]))


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
    images = []
    for batch in generate(model, vae, labels, range(count), BATCH, seed, options):
        images.append(batch)
        progress(len(batch))
    metadata = {"seed": str(seed), "flags": json.dumps(made_by(checkpoint, model, options))}
    write_images(make_folder(folder), np.concatenate(images), model.class_names(labels, count), metadata)


def _models_named_in(paths: list[Path]) -> list[ModelFile]:
    """The diffusion models that 3C noted in its PNG files, each once."""
    found: dict[ModelFile, None] = {}
    for path in paths:
        try:
            with Image.open(path, formats=["PNG"]) as image:
                flags = json.loads(image.info.get("flags", "{}"))
            checkpoint = flags.get("diffusion_checkpoint")
            if isinstance(checkpoint, str):
                path = resolve(flags.get("base_dir", "."), checkpoint).resolve()
                found[ModelFile(path, flags.get("diffusion_weights"))] = None
        except (OSError, ValueError, AttributeError, TypeError):
            continue
    return list(found)


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


def remarks(candidates: list[Candidate], real: tuple[ImageSet, ...], size: int) -> list[str]:
    """What the reader must know about the files: missing labels, differing sizes, unreadable images.

    `real`: the training images, then the others.
    """
    notes = [
        f"{candidate.name}: its images name no class; for CAS, the CNN trained on the real images named them. "
        "That favours it over sets that had to get the class right."
        for candidate in candidates
        if not candidate.images.labelled and len(np.unique(real[0].label)) > 1
    ]
    counts = {candidate.name: min(len(candidate.images), len(real[0])) for candidate in candidates}
    if min(counts.values()) < len(real[0]):
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        notes.append(
            f"Compared as sets of {listed} images, the real ones of {len(real[0])}: FID, SWD, recall, coverage and CAS "
            "favour the larger set. KID does not: compare by that, or draw more images."
        )
    sizes = sorted(set().union(*(candidate.images.sizes for candidate in candidates)))
    if sizes != [size]:
        listed = ", ".join(map(str, sizes))
        notes.append(f"Generated images have sides of {listed} pixels; all images were compared at {size}.")
    for part in (*real, *(candidate.images for candidate in candidates)):
        if part.bad:
            notes.append(f"{part.name}: {len(part.bad)} files were left out ({'; '.join(part.bad[:3])}).")
    return notes
