"""Which images a model has seen. Checkpoints say it; 3D asks them, for what a model has seen flatters it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stepwise.data.folders import read_image
from stepwise.data.threads import in_threads
from stepwise.foundation import checkpoints
from stepwise.foundation.errors import UserError

DIGEST = 8  # bytes kept of the SHA-256 of an image
THREADS = 4
NETS = {"3A": "vae", "3B": "denoiser"}


def record(digests: list[str]) -> Tensor:
    """What a checkpoint holds of the digests of all images that it was trained or validated on: uint8 [N, DIGEST]."""
    joined = bytearray.fromhex("".join(digest[: 2 * DIGEST] for digest in digests))
    return torch.frombuffer(joined, dtype=torch.uint8).reshape(-1, DIGEST)


def noted(document: dict[str, Any]) -> Tensor | None:
    """What `record` or `together` put into a checkpoint; None where an earlier version wrote it, or it is not known."""
    seen = document.get("seen")
    return seen if isinstance(seen, Tensor) else None


def together(seen: Tensor, before: Tensor | None) -> Tensor | None:
    """What a model has seen whose autoencoder has seen `before`; None where that is not known."""
    return None if before is None else torch.unique(torch.cat([seen, before]), dim=0)


def sampling_weights(saved: dict[str, Any]) -> dict[str, Tensor]:
    """Of a network in a checkpoint the weights to sample with: the EMA where there is one."""
    return saved["weights"] if saved.get("ema") is None else saved["ema"]


@dataclass(frozen=True)
class ModelFile:
    """A checkpoint, and the fingerprint of the weights that did the work; None where nobody noted it."""

    path: Path
    weights: str | None

    def seen(self) -> set[bytes] | str:
        """The digests of all images that it has seen, or why they are not known."""
        try:
            document = checkpoints.load(self.path)
        except (OSError, UserError):
            return f"{self.path} cannot be read"
        saved = document["nets"][NETS[document["script"]]]
        if self.weights and checkpoints.fingerprint(sampling_weights(saved)) != self.weights:
            return f"{self.path} holds another model by now"
        seen = noted(document)
        if seen is None:
            return f"{self.path} does not say it (an earlier version wrote it, or its autoencoder)"
        return _rows(seen)


class Knowledge(NamedTuple):
    """What models knew before they were judged: how many of the held-out images, and what the report has to say.

    `held_out` is None where it is not known, and at least so many where it is known of some of the models only.
    """

    held_out: int | None
    notes: list[str]


class Provenance:
    """Compares what models have seen with the two real folders of a report."""

    def __init__(self, train: list[Path], held_out: list[Path], check: Callable[[], None] = lambda: None):
        self._paths, self._check = {"train": train, "held_out": held_out}, check

    @cached_property
    def _digests(self) -> dict[str, list[bytes | None]]:
        def digest(path: Path) -> bytes | None:
            try:
                return bytes(record([read_image(path, None)[1]])[0].tolist())
            except UserError:  # the report names it
                return None

        title = "who has seen them"
        return {
            name: list(in_threads(digest, paths, THREADS, self._check, title)) for name, paths in self._paths.items()
        }

    def held_out_in_training(self) -> list[str]:
        """A note if held-out images lie in the folder of training images too."""
        train, held_out = set(self._digests["train"]), self._digests["held_out"]
        both = sum(digest is not None and digest in train for digest in held_out)
        if not both:
            return []
        return [
            f"{both} of the {len(held_out)} held-out images are in --train-dir as well: what real photos score and the "
            "calibration of the search for copies are worth nothing. Give the two folders that one 2A --holdout wrote."
        ]

    def of(self, name: str, models: list[ModelFile]) -> Knowledge:
        """That of the set or model called `name`, made by `models`."""
        if not models:
            unknown = "so it is not known whether that has seen the held-out images."
            return Knowledge(None, [f"{name}: its images name no model, {unknown}"])
        found = [model.seen() for model in models]
        notes = [f"{name}: which images it has seen is not known: {text}." for text in found if isinstance(text, str)]
        known = set().union(*(digests for digests in found if isinstance(digests, set)))
        if not known:
            return Knowledge(None, notes)
        held_out, train = self._digests["held_out"], set(self._digests["train"])
        leaked = sum(digest in known for digest in held_out)
        elsewhere = len(known - train - set(held_out))
        if leaked:
            notes.append(
                f"{name} has seen {leaked} of the {len(held_out)} held-out images in its training, which flatters it: "
                "train on 2A --holdout's corel_all, or hold out others."
            )
        if elsewhere and elsewhere == len(known):
            notes.append(
                f"{name} was trained on none of the images in --train-dir: copies are looked for among images that it "
                "does not know, and held-out images that it knows cannot be told."
            )
        elif elsewhere:
            notes.append(
                f"{name} was trained on {elsewhere} images that are not in --train-dir: copies of those are not found."
            )
        complete = all(isinstance(digests, set) for digests in found)
        return Knowledge(leaked if leaked or complete else None, notes)


def _rows(seen: Tensor) -> set[bytes]:
    joined = seen.contiguous().numpy().tobytes()
    return {joined[i : i + DIGEST] for i in range(0, len(joined), DIGEST)}
