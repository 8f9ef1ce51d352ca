"""The figures of the report, as PNG files at print quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stepwise.evaluation.intervals import Measured
from stepwise.evaluation.measures import Measure
from stepwise.evaluation.memorization import RATIO, Neighbours
from stepwise.foundation.images import fit_square, labelled_grid, save_png

DPI = 300
WIDTH = 7.0
SHOWN_SIZE = 128
COLOURS = ("#1f6f8b", "#e07a2f", "#5a8f3d", "#8a5aa8", "#b0413e", "#7a6a4f", "#3d6fb5", "#c2a21d")
REAL = "#8d99a6"


def bars(
    path: Path, panels: dict[str, Measure], rows: dict[str, dict[str, Measured]], floor: dict[str, Measured]
) -> None:
    """One panel a measure: a bar with its interval for each set, and a line where real images are."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {key: measure for key, measure in panels.items() if any(key in figures for figures in rows.values())}
    height = 0.7 + 0.32 * len(rows)
    figure, axes = plt.subplots(
        -(-len(panels) // 2), min(2, len(panels)), figsize=(WIDTH, height * -(-len(panels) // 2)), squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (key, measure) in zip(axes.flat, panels.items(), strict=False):
        for place, figures in enumerate(rows.values()):
            if key not in figures:
                axis.text(0, place, " not measured", va="center", fontsize=7, color=REAL)
                continue
            value = figures[key]
            axis.barh(place, value.value, color=COLOURS[place % len(COLOURS)], height=0.62)
            if value.low < value.high:
                axis.plot([value.low, value.high], [place, place], color="#222222", linewidth=1.2)
        if key in floor:
            axis.axvline(floor[key].value, color="#222222", linestyle="--", linewidth=1)
        dashed = "  (dashed: real images)" if key in floor else ""
        axis.set_title(f"{measure.title} {measure.arrow}{dashed}", fontsize=8, loc="left")
        axis.set_yticks(range(len(rows)), [_plain(name) for name in rows], fontsize=7)
        axis.tick_params(axis="x", labelsize=7)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def ratios(path: Path, sets: dict[str, Neighbours], controls: dict[str, Neighbours], where: str) -> None:
    """Cumulative share of images by d1 / d2, with the controls in grey and the threshold; below it what is what."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = 2 if max(map(len, (*sets, *controls))) < 45 else 1  # so many letters fill half of the width
    legend = 0.15 * -(-len({*sets, *controls}) // columns)  # inches
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0 + legend))
    for place, (name, found) in enumerate(controls.items()):
        style = ("--", ":", (0, (5, 1, 1, 1, 1, 1)), "-.")[place % 4]
        axis.plot(*_steps(found.ratio), color=REAL, linestyle=style, linewidth=1.6, label=_plain(name))
    for place, (name, found) in enumerate(sets.items()):
        axis.plot(*_steps(found.ratio), color=COLOURS[place % len(COLOURS)], linewidth=1.8, label=_plain(name))
    axis.axvline(RATIO, color="#b0413e", linewidth=1)
    axis.text(RATIO, 1.02, "1/3", color="#b0413e", fontsize=7, ha="center")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xlabel(f"distance to the nearest training image / to the second nearest, {where}", fontsize=8)
    axis.set_ylabel("share of the images below", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=7, frameon=False, loc="lower center", ncols=columns, handlelength=4)
    figure.tight_layout(rect=(0, legend / (3.0 + legend), 1, 1))
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def sample_rows(path: Path, images: np.ndarray, label: np.ndarray, names: list[str], columns: int) -> None:
    """A row of up to `columns` images a class, uint8 [N, S, S, 3]; label -1 (unknown) is one row of its own."""
    rows = []
    for position, name in [*enumerate(names), (-1, "")]:
        own = images[label == position][:columns]
        if len(own):
            rows.append((name, _enlarged(own, SHOWN_SIZE)))
    save_png(path, labelled_grid(rows), dpi=DPI)


def pairs(path: Path, above: np.ndarray, below: np.ndarray, names: tuple[str, str]) -> None:
    """Two rows that belong together column by column, uint8 [N, S, S, 3], each of its own size S."""
    size = max(SHOWN_SIZE, above.shape[1], below.shape[1])
    save_png(path, labelled_grid([(names[0], _enlarged(above, size)), (names[1], _enlarged(below, size))]), dpi=DPI)


def _enlarged(images: np.ndarray, least: int) -> np.ndarray:
    size = max(least, images.shape[1])
    return np.stack([fit_square(image, size) for image in images])


def _steps(ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ordered = np.sort(ratio)
    share = np.arange(1, len(ordered) + 1) / len(ordered)
    return np.concatenate([[0], ordered, [1]]), np.concatenate([[0], share, [1]])


def _plain(name: str) -> str:
    """matplotlib takes $...$ for formulas, and leaves names that begin with _ out of a legend."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")
