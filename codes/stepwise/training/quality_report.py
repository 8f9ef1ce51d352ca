"""3D's files out of its figures: metrics.json, metrics.csv, PNG figures and report.html."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stepwise.data.image_sets import AUTOENCODER, COPIES, HELD_OUT, TRAIN, ImageSet
from stepwise.evaluation import figures, report
from stepwise.evaluation.intervals import of_difference
from stepwise.evaluation.measures import IN_TABLE, MEASURES, MEMORIZATION
from stepwise.foundation.paths import make_folder, write_atomically
from stepwise.foundation.seeds import numpy_rng
from stepwise.training.candidates import Candidate
from stepwise.training.quality import SPACES, Result

COLUMNS = 8
SUSPECTS = 8
SURE_CONTROL = 0.9  # share of the noisy copies that the test must find before its word is taken


@dataclass
class Findings:
    """Everything that the report tells.

    `reference`: the training images that neighbours are counted in; `seen`: of how many held-out images a set's
    model has seen, if that is known.
    """

    candidates: list[Candidate]
    results: dict[str, Result]
    floors: Result
    copies: Result
    train: ImageSet
    reference: ImageSet
    held_out: ImageSet
    class_names: list[str]
    settings: list[tuple[str, str]]
    features: str
    notes: list[str] = field(default_factory=list)
    seen: dict[str, int | None] = field(default_factory=dict)
    overlap: bool = False  # held-out images lie in the training folder too
    reconstruction: Result | None = None
    reconstructed: np.ndarray | None = None


def conclude(found: Findings, seed: int) -> str:
    """The sentence that the figures allow: which set is best by CAS, and whether that is certain."""
    ranked = sorted(
        (name for name, result in found.results.items() if "cas" in result.figures),
        key=lambda name: -found.results[name].figures["cas"].value,
    )
    if not ranked:
        return _without_cas(found)
    best = found.results[ranked[0]]
    cas, real = best.figures["cas"], found.floors.figures["cas"]
    text = (
        f"A CNN trained only on the images of {ranked[0]} names {cas.value:.0%} of {len(found.held_out)} held-out "
        f"photos right ({cas.low:.0%} to {cas.high:.0%}); trained on real photos, {real.value:.0%}."
    )
    for other in ranked[1:]:
        assert best.right is not None and found.results[other].right is not None
        gap = of_difference(best.right - found.results[other].right, numpy_rng(seed, "gap", other))
        word = "which is more than chance" if gap.low > 0 else "which these photos are too few to tell from chance"
        text += f" {other} has {found.results[other].figures['cas'].value:.0%}, {gap.value:.0%} less, {word}."
    gain = best.figures["cas_gain"]
    verdict = "helps" if gain.low > 0 else "harms" if gain.high < 0 else "neither clearly helps nor harms"
    text += f" Adding the images of {ranked[0]} to the real ones {verdict} ({gain.value:+.1%})."
    return text + _copied(found, ranked[0]) + _caution(found)


def _without_cas(found: Findings) -> str:
    """The same where no CAS could be measured: nearest by the first of KID and SWD that there is."""
    text = "CAS could not be measured; see the notes."
    for key in ("kid", "swd"):
        values = {name: result.figures[key] for name, result in found.results.items() if key in result.figures}
        if values:
            measure, floor = MEASURES[key], MEASURES[key].text(found.floors.figures[key])
            ranked = sorted(values, key=lambda name: values[name].value)
            each = (f"{name} {measure.text(values[name])} ({measure.interval(values[name])})" for name in ranked)
            text += f" {measure.title} to the {len(found.held_out)} held-out photos, lower is nearer: {', '.join(each)}"
            text += f"; real training photos {floor}." + _copied(found, ranked[0])
            break
    return text + _caution(found)


def _copied(found: Findings, name: str) -> str:
    """How many images of a set are copies, if the test finds those that are known to be copies."""
    control = found.copies.figures["memorized_pixel"].value
    if control < SURE_CONTROL:
        return (
            f" Whether images of {name} are copies cannot be told here: of noisy copies of training images the pixel "
            f"test finds only {control:.0%}, as where each photo has near twins."
        )
    share = found.results[name].figures["memorized_pixel"].value
    return f" {share:.1%} of the images of {name} are copies of training images by the pixel test."


def _caution(found: Findings) -> str:
    """What flatters, so that nobody reads the sentence without it."""
    flattered = [name for name in found.results if found.seen.get(name)]
    judged = [one for one in found.candidates if "cas" in found.results[one.name].figures]
    unnamed = [one.name for one in judged if not one.images.labelled]
    reasons = []
    if found.overlap:
        reasons.append("held-out photos lie in the training folder, so no figure above is worth much")
    if flattered:
        reasons.append(f"{' and '.join(flattered)} had seen held-out photos in training, which flatters")
    if unnamed:
        reasons.append(f"the CNN of the real photos named the classes of {' and '.join(unnamed)}, which favours them")
    return f" Caution: {'; '.join(reasons)}; see the notes." if reasons else ""


def write_all(folder: Path, found: Findings, title: str, made: str, seed: int) -> dict[str, Any]:
    """Write every file into `folder`; returns what metrics.json holds."""
    conclusion = conclude(found, seed)
    _remove_figures_of_before(folder)
    document = _document(found, title, made, conclusion)
    write_atomically(folder / "metrics.json", [(json.dumps(document, indent=2) + "\n").encode()])
    _write_csv(folder / "metrics.csv", found)
    keys = [key for key in IN_TABLE if any(key in result.figures for result in found.results.values())]
    copying = [key for key in MEMORIZATION if key in found.floors.figures]
    columns = [report.column(one.name, one.about, found.results[one.name].figures) for one in found.candidates]
    columns.append(report.column("real images", _about_real(found), found.floors.figures, floor=True))
    fid = found.floors.figures.get("fid")
    content = {
        "title": title,
        "made": made,
        "conclusion": conclusion,
        "tables": [keys, copying],
        "columns": columns,
        "defined": keys + copying + list(found.reconstruction.figures if found.reconstruction else []),
        "fid_warning": fid
        and f"FID at this number of images is mostly the number of images: real training images themselves score "
        f"{fid.value:.1f} against the held-out ones. Compare sets by KID; features: {found.features}.",
        "figures": _figures(make_folder(folder / "figures"), found),
        "calibration": _calibration(found),
        "reconstruction": _reconstruction_line(found),
        "notes": found.notes,
        "settings": found.settings,
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
        "reconstruction": found.reconstruction.plain() if found.reconstruction else None,
        "notes": found.notes,
    }


def _write_csv(path: Path, found: Findings) -> None:
    """One line a figure: set, measure, value, its interval, and the floor."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "measure", "value", "low", "high", "floor"])
    groups = {name: result.figures for name, result in found.results.items()}
    groups |= {TRAIN: found.floors.figures, COPIES: found.copies.figures}
    if found.reconstruction:
        groups[AUTOENCODER] = found.reconstruction.figures
    for name, measured in groups.items():
        for key, value in measured.items():
            floor = found.floors.figures.get(key)
            writer.writerow([name, key, value.value, value.low, value.high, floor.value if floor else ""])
    write_atomically(path, [text.getvalue().encode()])


def _figures(folder: Path, found: Findings) -> dict[str, list[dict[str, str]]]:
    shown: dict[str, list[dict[str, str]]] = {"overview": [], "samples": [], "memorization": [], "reconstruction": []}
    files = _file_names([candidate.name for candidate in found.candidates])
    rows = {name: result.figures for name, result in found.results.items()}
    path = folder / "comparison.png"
    figures.bars(path, ["cas", "cas_both", "kid", "swd", "coverage", "memorized_pixel"], rows, found.floors.figures)
    shown["overview"].append(report.figure(path, "The sets side by side; thin lines are 95 % intervals."))
    for candidate in found.candidates:
        path = folder / f"samples_{files[candidate.name]}.png"
        figures.sample_rows(path, candidate.images.images, candidate.images.label, found.class_names, COLUMNS)
        shown["samples"].append(report.figure(path, f"{candidate.name}: {candidate.about}; the first of each class."))
    path = folder / "samples_real.png"
    figures.sample_rows(path, found.held_out.images, found.held_out.label, found.class_names, COLUMNS)
    shown["samples"].append(report.figure(path, "For comparison: held-out real images."))
    for space in found.floors.neighbours:
        path = folder / f"memorization_{space}.png"
        sets = {name: result.neighbours[space] for name, result in found.results.items()}
        controls = {HELD_OUT: found.floors.neighbours[space], COPIES: found.copies.neighbours[space]}
        figures.ratios(path, sets, controls, SPACES[space])
        caption = f"Nearest over second-nearest distance {SPACES[space]}; left of the line an image counts as a copy."
        shown["memorization"].append(report.figure(path, caption))
    for candidate in found.candidates:
        path = folder / f"suspects_{files[candidate.name]}.png"
        nearest = found.results[candidate.name].neighbours["pixel"]
        worst = np.argsort(nearest.ratio)[:SUSPECTS]
        above, below = candidate.images.images[worst], found.reference.images[nearest.nearest[worst]]
        figures.pairs(path, above, below, ("generated", "training"))
        ratios = ", ".join(f"{value:.2f}" for value in nearest.ratio[worst])
        caption = f"{candidate.name}: the most suspicious images above their nearest training images (d1/d2: {ratios})."
        shown["memorization"].append(report.figure(path, caption))
    if found.reconstructed is not None:
        path = folder / "reconstructions.png"
        some = np.linspace(0, len(found.held_out) - 1, min(COLUMNS, len(found.held_out))).round().astype(int)
        figures.pairs(path, found.held_out.images[some], found.reconstructed[some], ("held out", "decoded"))
        shown["reconstruction"].append(report.figure(path, "Held-out images and what the autoencoder makes of them."))
    return shown


def _calibration(found: Findings) -> str:
    """What the controls score: without that, a low share of copies means nothing."""
    parts = []
    for space, where in SPACES.items():
        key = f"memorized_{space}"
        if key in found.floors.figures:
            unseen, copies = found.floors.figures[key].value, found.copies.figures[key].value
            parts.append(f"{where}, {unseen:.0%} of the held-out images and {copies:.0%} of the noisy copies")
    return "The test was calibrated on two controls: " + "; ".join(parts) + " count as copies."


def _reconstruction_line(found: Findings) -> str:
    if found.reconstruction is None:
        return ""
    parts = []
    for key, value in found.reconstruction.figures.items():
        measure = MEASURES[key]
        parts.append(f"{measure.title} {measure.text(value)} ({measure.interval(value)})")
    return "On held-out images: " + ", ".join(parts) + "."


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
