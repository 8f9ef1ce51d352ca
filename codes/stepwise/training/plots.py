"""Curves of a run, redrawn while it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def curves(path: Path, rows: list[dict[str, Any]], panels: dict[str, list[str]], marks: dict[str, float] | None = None):
    """Draw metrics over epochs into the PNG `path`.

    panels: title -> names of columns drawn together; marks: title -> a horizontal line, such as
    the KL budget. A title that ends in "(log)" has a logarithmic axis.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), squeeze=False, layout="constrained")
    for axis, (title, columns) in zip(axes[0], panels.items(), strict=True):
        for column in columns:
            points = [(row["epoch"], row[column]) for row in rows if column in row]
            axis.plot(*zip(*points, strict=True), label=column, linewidth=1.4) if points else None
        if marks and title in marks:
            axis.axhline(marks[title], color="0.4", linestyle="--", linewidth=1, label=f"{marks[title]:g}")
        if title.endswith("(log)"):
            axis.set_yscale("log")
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:  # what has not begun yet has no curve
            axis.legend(frameon=False, fontsize=8)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    temporary.replace(path)
