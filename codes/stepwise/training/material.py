"""All that 3D judges: sets, the real images beside them, the autoencoder, and what a reader must know of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepwise.data.classes import class_table
from stepwise.data.image_sets import AUTOENCODER, ImageSet, load_set, positions
from stepwise.foundation.devices import Device
from stepwise.foundation.errors import UserError
from stepwise.training.candidates import Candidate, nearest_size, read_folder, remarks, require_enough, usable
from stepwise.training.pretrained import FrozenVAE, load_vae, parent_vae
from stepwise.training.provenance import ModelFile, Provenance

Draw = Callable[[str, Path, FrozenVAE], Path]  # (name of the set, 3B's checkpoint, its autoencoder) -> the folder


@dataclass
class Real:
    """The files of a folder of real images and the names of their classes."""

    paths: list[Path]
    names: list[str]


@dataclass
class Material:
    """What was found to judge, and what to judge it by.

    `size`: the side at which images are compared. `seen`: how many held-out images the models of each set have seen,
    None where that is not known. `overlap`: held-out images lie among the training images.
    """

    sets: list[Candidate]
    train: ImageSet
    held_out: ImageSet
    classes: list[dict[str, Any]]
    size: int
    vae: FrozenVAE | None
    notes: list[str]
    seen: dict[str, int | None]
    overlap: bool


@dataclass
class Autoencoders:
    """The autoencoder to measure: the one given, else that of the first checkpoint that images were drawn from."""

    given: Path | None
    device: Device
    first: FrozenVAE | None = field(default=None, init=False)
    error: UserError | None = field(default=None, init=False)

    def open_given(self, draws: bool) -> None:
        """Read the one given. If it cannot be read and nothing has to be drawn with it, go on without."""
        if self.given is None:
            return
        try:
            self.first = load_vae(self.given, self.device)
        except UserError as error:
            if draws:
                raise
            self.error = error

    def of(self, checkpoint: Path) -> FrozenVAE:
        """What images of 3B's `checkpoint` are decoded with."""
        return load_vae(parent_vae(checkpoint), self.device) if self.given is None else self.first


def gather(
    train: Real,
    held_out: Real,
    given: dict[str, Path],
    vaes: Autoencoders,
    draw: Draw,
    check: Callable[[], None],
    *,
    image_size: int | None,
    at_least: int,
) -> Material:
    """Draw and read the sets `given` (folders, or checkpoints of 3B), and the real images.

    Without `image_size` they are compared at that of the smallest set, `at_least` so large. A set that cannot
    be used is left out with a note; raises UserError where nothing is left to judge. `check` may raise to stop.
    """
    left_out: dict[str, UserError] = {}
    vaes.open_given(draws=any(path.is_file() for path in given.values()))

    def folder_of(name: str, path: Path) -> Path:
        if path.is_dir():
            return path
        vae = vaes.of(path)
        folder = draw(name, path, vae)
        vaes.first = vaes.first or vae  # only now: that of a model which cannot draw measures nothing
        return folder

    folders = usable(given, folder_of, left_out)
    sides = usable(folders, lambda name, folder: nearest_size(folder), left_out)
    size = image_size or max(at_least, min(sides.values()))
    classes, real, notes = read_real(train, held_out, size)
    readable = {name: folders[name] for name in sides}
    sets = list(usable(readable, lambda *named: read_folder(*named, classes, size), left_out).values())
    refused = ({} if vaes.error is None else {AUTOENCODER: vaes.error}) | left_out
    notes = [f"{name} was left out: {' '.join(str(error).split())}" for name, error in refused.items()] + notes
    notes += remarks(sets, real, size)
    provenance = Provenance(real[0].paths, real[1].paths, check)
    overlap = provenance.held_out_in_training()
    known = {candidate.name: provenance.of(candidate.name, candidate.models) for candidate in sets}
    notes = overlap + notes + [note for knowledge in known.values() for note in knowledge.notes]
    if vaes.first is None:
        lacking = "an autoencoder that can be read" if vaes.error else "--vae-checkpoint"
        notes.append(f"Without {lacking} there is no reconstruction and no search for copies in latent space.")
    else:
        notes += provenance.of(AUTOENCODER, [ModelFile(vaes.first.path, vaes.first.sha256)]).notes
    seen = {name: knowledge.held_out for name, knowledge in known.items()}
    return Material(sets, *real, classes, size, vaes.first, notes, seen, bool(overlap))


def read_real(train: Real, held_out: Real, size: int) -> tuple[list[dict[str, Any]], tuple[ImageSet, ImageSet], list]:
    """(the classes, the training and the held-out images, what the reader must know of them)."""
    classes, label = class_table(train.paths, train.names)
    one_class_each = len(set(train.names)) == len(set(held_out.names)) == 1  # called after its folder, maybe
    heldout_label = [0] * len(held_out.names) if one_class_each else positions(held_out.names, classes)
    training = load_set("the training images", train.paths, label, size)
    unseen = load_set("the held-out images", held_out.paths, heldout_label, size)
    unseen, notes = require_enough(training, unseen, classes)
    if train.names[0] != held_out.names[0] and one_class_each:
        notes.append(f"The one held-out class ({held_out.names[0]}) is taken for the one to train ({train.names[0]}).")
    return classes, (training, unseen), notes
