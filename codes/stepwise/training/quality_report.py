"""3D's files out of its figures: metrics.json, metrics.csv, PNG figures and report.html."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from stepwise.data.image_sets import AUGMENTED, AUTOENCODER, COPIES, DECODED, HELD_OUT, TRAIN
from stepwise.evaluation import figures, report
from stepwise.evaluation.intervals import Measured
from stepwise.evaluation.measures import IN_TABLE, MEMORIZATION, ON_FEATURES
from stepwise.foundation.paths import make_folder, write_atomically
from stepwise.training.conclusion import COSTS, Findings, conclude
from stepwise.training.quality import SPACES, Result

IN_FIGURE = ("cas", "cas_both", "kid", "swd", "coverage", "memorized_pixel")  # and COSTS that all sets have
COLUMNS = 8
SUSPECTS = 8


def write_all(folder: Path, found: Findings, title: str, made: str, seed: int) -> dict[str, Any]:
    """Write every file into `folder`; returns what metrics.json holds."""
    conclusion = conclude(found, seed)
    _remove_figures_of_before(folder)
    document = _document(found, title, made, conclusion)
    write_atomically(folder / "metrics.json", [(json.dumps(document, indent=2) + "\n").encode()])
    _write_csv(folder / "metrics.csv", found)
    keys = [key for key in IN_TABLE if any(key in result.figures for result in found.results.values())]
    costs = [key for key in COSTS if any(key in known for known in found.costs.values())]
    copying = [key for key in MEMORIZATION if key in found.floors.figures]
    named, shown = found.measures, _with_costs(found)
    columns = [report.column(one.name, one.counts, shown[one.name], named) for one in found.candidates]
    columns.append(report.column("real images", _about_real(found), found.floors.figures, named, floor=True))
    fid = found.floors.figures.get("fid")
    content = {
        "title": title,
        "made": made,
        "conclusion": conclusion,
        "tables": [keys + costs, copying],
        "columns": columns,
        "defined": keys + costs + copying + list(found.reconstruction.figures if found.reconstruction else []),
        "fid_warning": fid
        and f"FID at this number of images is mostly the number of images: real training images themselves score "
        f"{fid.value:.1f} against the held-out ones. Compare sets by KID; features: {found.features}.",
        "figures": _figures(make_folder(folder / "figures"), found),
        "controls": _controls(found),
        "reconstruction": _reconstruction_line(found),
        "notes": found.notes,
        "settings": found.settings,
        "measures": named,
    }
    report.write(folder / "report.html", content)
    return document


def _remove_figures_of_before(folder: Path) -> None:
    """Those of the report that is replaced, whose sets may be gone."""
    try:
        names = [one["name"] for one in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["sets"]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    of_sets = [f"{kind}_{name}" for name in _file_names(names).values() for kind in ("samples", "suspects")]
    for name in (*of_sets, *(f"memorization_{space}" for space in SPACES), "reconstructions"):
        (folder / "figures" / f"{name}.png").unlink(missing_ok=True)


def _with_costs(found: Findings) -> dict[str, dict[str, Measured]]:
    """For each set its measures and what its models took, as far as that is known."""
    return {name: result.figures | found.costs[name] for name, result in found.results.items()}


def _about_real(found: Findings) -> str:
    return f"{len(found.train)} to train, {len(found.held_out)} held out"


def _document(found: Findings, title: str, made: str, conclusion: str) -> dict[str, Any]:
    sets = [
        {
            "name": candidate.name,
            "images": len(candidate.images),
            "models": len(candidate.models),
            "minutes": candidate.minutes,
            "parameters": candidate.parameters,
            "held_out_seen": found.seen.get(candidate.name),
            "measures": found.results[candidate.name].plain(),
        }
        for candidate in found.candidates
    ]
    return {
        "title": title,
        "made": made,
        "conclusion": conclusion,
        "features": found.features,
        "settings": dict(found.settings),
        "classes": found.class_names,
        "real": {"train": len(found.train), "held_out": len(found.held_out)},
        "sets": sets,
        "floor": found.floors.plain(),
        "control_copies": found.copies.plain(),
        "control_augmented": found.augmented.plain(),
        "control_through_autoencoder": found.through_autoencoder.plain() if found.through_autoencoder else None,
        "reconstruction": found.reconstruction.plain() if found.reconstruction else None,
        "reconstruction_floor": found.reconstruction_floor.plain() if found.reconstruction_floor else None,
        "notes": found.notes,
    }


def _write_csv(path: Path, found: Findings) -> None:
    """One line a figure: set, measure, value, its interval, the floor, and the network whose features it is on.

    `parameters` are counted one by one here, as in metrics.json.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "measure", "value", "low", "high", "floor", "features"])
    groups = {name: result.figures for name, result in found.results.items()}
    groups |= {TRAIN: found.floors.figures, COPIES: found.copies.figures, AUGMENTED: found.augmented.figures}
    if found.through_autoencoder:
        groups[DECODED] = found.through_autoencoder.figures
    if found.reconstruction:
        groups[AUTOENCODER] = found.reconstruction.figures
    floors = found.floors.figures | (found.reconstruction_floor.figures if found.reconstruction_floor else {})
    for name, measured in groups.items():
        for key, value in measured.items():
            floor = floors.get(key)
            net = ("CNN" if found.cnn_features else "Inception") if key in ON_FEATURES else ""
            writer.writerow([name, key, value.value, value.low, value.high, floor.value if floor else "", net])
    for one in found.candidates:
        costs = {"parameters": one.parameters, "minutes": one.minutes}
        writer.writerows([one.name, key, *[cost] * 3, "", ""] for key, cost in costs.items() if cost is not None)
    write_atomically(path, [text.getvalue().encode()])


def _figures(folder: Path, found: Findings) -> dict[str, list[dict[str, str]]]:
    shown: dict[str, list[dict[str, str]]] = {"overview": [], "samples": [], "memorization": [], "reconstruction": []}
    files = _file_names([candidate.name for candidate in found.candidates])
    rows = _with_costs(found)
    path = folder / "comparison.png"
    known = [key for key in COSTS if all(key in figures for figures in rows.values())]
    panels = {key: found.measures[key] for key in (*IN_FIGURE, *known)}
    figures.bars(path, panels, rows, found.floors.figures)
    shown["overview"].append(report.figure(path, "The sets side by side; thin lines are 95 % intervals."))
    for candidate in found.candidates:
        path = folder / f"samples_{files[candidate.name]}.png"
        figures.sample_rows(path, candidate.images.images, candidate.images.label, found.class_names, COLUMNS)
        which = "the first of each class" if candidate.images.labelled else "the first of them"
        shown["samples"].append(report.figure(path, f"{candidate.name}: {candidate.about}; {which}."))
    path = folder / "samples_real.png"
    figures.sample_rows(path, found.held_out.images, found.held_out.label, found.class_names, COLUMNS)
    shown["samples"].append(report.figure(path, "For comparison: held-out real images."))
    for space in found.floors.neighbours:
        path = folder / f"memorization_{space}.png"
        sets = {name: result.neighbours[space] for name, result in found.results.items()}
        controls = {name: result.neighbours[space] for name, result in _controlled(found).items()}
        figures.ratios(path, sets, controls, SPACES[space])
        caption = f"Nearest over second-nearest distance {SPACES[space]}; left of the line an image counts as a copy."
        shown["memorization"].append(report.figure(path, caption))
    for candidate in found.candidates:
        path = folder / f"suspects_{files[candidate.name]}.png"
        nearest = found.results[candidate.name].neighbours["pixel"]
        worst = np.argsort(nearest.ratio)[:SUSPECTS]
        above, below = candidate.images.images[worst], found.reference.images[nearest.nearest[worst]]
        figures.pairs(path, above, below, ("generated", "training"))
        told = zip(nearest.ratio[worst], nearest.mirrored[worst], strict=True)
        ratios = ", ".join(f"{value:.2f}{' mirrored' if mirrored else ''}" for value, mirrored in told)
        caption = f"{candidate.name}: the most suspicious images above their nearest training images (d1/d2: {ratios})."
        shown["memorization"].append(report.figure(path, caption))
    if found.reconstructed is not None:
        path = folder / "reconstructions.png"
        some = np.linspace(0, len(found.held_out) - 1, min(COLUMNS, len(found.held_out))).round().astype(int)
        figures.pairs(path, found.held_out.images[some], found.reconstructed[some], ("held out", "decoded"))
        shown["reconstruction"].append(report.figure(path, "Held-out images and what the autoencoder makes of them."))
    return shown


MEANING = {
    HELD_OUT: "no copies: they should hardly count as any; a set is suspicious above this",
    COPIES: "copies with a little noise, half of them mirrored: about all should be found, or the test is blind here",
    AUGMENTED: "crops of 80 to 100 % of the area, half of them mirrored, as --augment light shows training images to a "
    "model: what is not found of them, a model that copies could draw unnoticed",
    DECODED: "what a model that copies perfectly could draw: about all should be found, or real copies may escape",
}


def _controlled(found: Findings) -> dict[str, Result]:
    """The sets of which it is known whether they are copies."""
    controls = {HELD_OUT: found.floors, COPIES: found.copies, AUGMENTED: found.augmented}
    return controls | ({DECODED: found.through_autoencoder} if found.through_autoencoder else {})


def _controls(found: Findings) -> dict[str, Any]:
    """The table of what the controls score: without that, a low share of copies means nothing."""
    keys = [f"memorized_{space}" for space in SPACES if f"memorized_{space}" in found.floors.figures]
    rows = [
        (name, [found.measures[key].with_interval(result.figures[key]) for key in keys], MEANING[name])
        for name, result in _controlled(found).items()
    ]
    return {"titles": [found.measures[key].title for key in keys], "rows": rows}


def _reconstruction_line(found: Findings) -> str:
    if found.reconstruction is None:
        return ""
    named = found.measures

    def told(result: Result) -> str:
        return ", ".join(f"{named[key].title} {named[key].with_interval(one)}" for key, one in result.figures.items())

    text = f"On held-out images: {told(found.reconstruction)}."
    if found.reconstruction_floor is None:
        return text
    return f"{text} For comparison, on training images: {told(found.reconstruction_floor)}."


def _file_names(names: list[str]) -> dict[str, str]:
    """For each set a part of file names that no other set has, in any case of letters."""
    taken, found = {"real"}, {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name) or "set"
        found[name] = next(
            word for word in (plain, *(f"{plain}_{i}" for i in range(2, len(names) + 2))) if word.lower() not in taken
        )
        taken.add(found[name].lower())
    return found
