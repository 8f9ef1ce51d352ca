"""A figure of a dataset: one row a class, its name and size beside it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from stepwise.foundation.images import decode, fit_square, grid

COLUMNS = 8
MAX_ROWS = 20
_TILE = 128  # pixels
_PAD = 4
_DPI = 120


def samples_figure(rows: list[tuple[str, list[Path]]]) -> bytes:
    """The PNG of a figure with up to COLUMNS images, spread evenly, of each (class name, image files)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = rows[:MAX_ROWS]
    label_width, title_height, row_height = 1.9, 0.6, (_TILE + _PAD) / _DPI
    size = (label_width + COLUMNS * row_height + 0.2, title_height + len(shown) * row_height + 0.15)
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
    left, strip_width = label_width / size[0], COLUMNS * row_height / size[0]
    for index, (name, files) in enumerate(shown):
        bottom = 1 - (title_height + (index + 1) * row_height) / size[1]
        axes = figure.add_axes((left, bottom, strip_width, row_height / size[1]))
        axes.imshow(_strip(files), aspect="auto")
        axes.set_axis_off()
        middle = bottom + row_height / size[1] / 2
        style = {"ha": "right", "parse_math": False}
        figure.text(left - 0.012, middle, _short(name), va="bottom", size=11, weight="bold", color="#222222", **style)
        figure.text(left - 0.012, middle, _count(len(files)), va="top", size=9, color="#777777", **style)
    total = sum(len(files) for _, files in rows)
    title = f"{total} images in {len(rows)} {'class' if len(rows) == 1 else 'classes'}"
    title += f"; the first {MAX_ROWS} classes" if len(rows) > MAX_ROWS else ""
    figure.text(left, 1 - 0.8 * title_height / size[1], title, ha="left", va="baseline", size=14, color="#222222")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _strip(files: list[Path]) -> np.ndarray:
    """uint8 [H, W, 3]: COLUMNS tiles in a row, margins right and below, white where files are lacking."""
    chosen = np.linspace(0, len(files) - 1, min(COLUMNS, len(files))).round().astype(int)
    tiles = np.full((COLUMNS, _TILE, _TILE, 3), 255, dtype=np.uint8)
    for tile, index in zip(tiles, chosen, strict=False):
        tile[:] = fit_square(np.asarray(decode(files[index])), _TILE)
    return grid(tiles, COLUMNS, _PAD)[_PAD:, _PAD:]


def _short(name: str, limit: int = 18) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _count(number: int) -> str:
    return f"{number} image" + ("" if number == 1 else "s")
