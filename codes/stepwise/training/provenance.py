"""Which images a model has seen. Checkpoints say it; 3D asks them, for what a model has seen flatters it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from stepwise.data.folders import content_digest, load_image, reading_size
from stepwise.foundation import checkpoints
from stepwise.foundation.errors import UserError

DIGEST = 16  # hexadecimal digits kept of the SHA-256 of an image


def record(digests: list[str]) -> str:
    """What a checkpoint holds of the digests of all images that it was trained on or validated on."""
    return "".join(digest[:DIGEST] for digest in digests)


def seen(document: dict[str, Any]) -> set[str] | None:
    """The shortened digests that `record` put into a checkpoint; None where an older version wrote it."""
    joined = document.get("seen")
    return None if joined is None else {joined[i : i + DIGEST] for i in range(0, len(joined), DIGEST)}


class Provenance:
    """Compares what models have seen with the two real folders of a report."""

    def __init__(self, train: list[Path], held_out: list[Path]):
        self.train, self.held_out = train, held_out
        self._digests = cache(_digests)  # models of one size share them

    def remarks(self, name: str, models: list[Path]) -> list[str]:
        """Notes on the set or model called `name`, made by the checkpoints `models`."""
        leaked: set[int] = set()
        elsewhere: set[str] = set()
        for path in models:
            try:
                document = checkpoints.load(path)
            except (OSError, UserError):
                return [f"{name}: {path} cannot be read, so it is not known which images it has seen."]
            known = seen(document)
            if known is None:
                return [f"{name}: {path} does not say which images it has seen (an earlier version wrote it)."]
            limit = reading_size(document["image_size"])
            held_out = self._digests(tuple(self.held_out), limit)
            leaked |= {place for place, digest in enumerate(held_out) if digest in known}
            elsewhere |= known - set(self._digests(tuple(self.train), limit)) - set(held_out)
        notes = []
        if leaked:
            notes.append(
                f"{name} has seen {len(leaked)} of the {len(self.held_out)} held-out images in its training, which "
                "flatters it: train on 2A --holdout's corel_all, or hold out others."
            )
        if elsewhere:
            notes.append(
                f"{name} was trained on {len(elsewhere)} images that are not in --train-dir: "
                "copies of those are not found."
            )
        return notes


def _digests(paths: tuple[Path, ...], limit: int) -> list[str | None]:
    """The shortened digest of each image as models read it; None for one that cannot be read."""
    found: list[str | None] = []
    for path in paths:
        try:
            found.append(content_digest(load_image(path, limit))[:DIGEST])
        except UserError:  # the report names it
            found.append(None)
    return found
