"""Class names and their numbers: what --class NAME|NUMBER is looked up in."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from stepwise.foundation.errors import UserError


def class_table(paths: list[Path], labels: list[str]) -> tuple[list[dict[str, Any]], list[int]]:
    """The classes, [{"name", "number"}, ...] by number, and the position in that list of each image.

    The number is the XXXX of the file names XXXX_YYYY.EXT where every class has one of its own, else
    its position.
    """
    prefixes: dict[str, set[str]] = {}
    for path, label in zip(paths, labels, strict=True):
        match = re.match(r"(\d{4})_", path.name)
        prefixes.setdefault(label, set()).add(match[1] if match else "")
    numbered = all(len(found) == 1 and "" not in found for found in prefixes.values())
    numbered = numbered and len(set().union(*prefixes.values())) == len(prefixes)
    if numbered:
        classes = sorted(({"name": name, "number": int(min(found))} for name, found in prefixes.items()), key=_number)
    else:
        classes = [{"name": name, "number": i + 1} for i, name in enumerate(sorted(prefixes))]
    position = {entry["name"]: i for i, entry in enumerate(classes)}
    return classes, [position[label] for label in labels]


def find_class(classes: list[dict[str, Any]], wanted: str) -> int:
    """The position of the class called or numbered `wanted`. Raises UserError that lists them all."""
    names = [entry["name"] for entry in classes]
    position = by_name(names)(wanted)
    if position is not None:  # first, as a class may be called by the number of another
        return position
    for position, entry in enumerate(classes):
        if wanted.isdecimal() and int(wanted) == entry["number"]:
            return position
    near = difflib.get_close_matches(_folded(wanted), list(map(_folded, names)), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    known = ", ".join(f"{entry['number']} {entry['name']}" for entry in classes)
    raise UserError(f"Unknown class '{wanted}'.{hint}\nThe model knows: {known}; or use --class all.")


def by_name(names: list[str]) -> Callable[[str], int | None]:
    """Finds the place of a name among `names`: of the very same one, else of the first that is written otherwise."""
    exact, alike = _first_places(names), _first_places(map(_folded, names))
    return lambda name: exact.get(name, alike.get(_folded(name)))


def _first_places(names: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for position, name in enumerate(names):
        found.setdefault(name, position)
    return found


def _folded(name: str) -> str:
    """`name` as it is compared: in any case, and in any of Unicode's ways to write it."""
    return unicodedata.normalize("NFC", name).casefold()


def _number(entry: dict[str, Any]) -> int:
    return entry["number"]
