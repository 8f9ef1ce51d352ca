from __future__ import annotations

import math
from pathlib import Path

from stepwise.foundation import checkpoints
from stepwise.training.history import from_columns, to_columns

ROWS = [
    {"epoch": 1, "step": 10, "lr": 1e-3, "loss": 0.1 + 0.2},
    {"epoch": 2, "step": 20, "lr": 1e-3},  # all of its losses were not finite
    {"epoch": 3, "step": 30, "lr": 5e-4, "loss": math.inf, "psnr": 20.5},
]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "last.pt", {"history": to_columns(ROWS)})
    rows = from_columns(checkpoints.load(tmp_path / "last.pt")["history"])
    assert rows == ROWS and [list(row) for row in rows] == [list(row) for row in ROWS]
    assert type(rows[0]["epoch"]) is int
    assert from_columns(to_columns([])) == [] and from_columns(ROWS) == ROWS, "none yet; an earlier version's"


def test_half_a_million_epochs_can_be_loaded_again(tmp_path: Path, monkeypatch) -> None:
    """By numbers a thousand times as small: 500 rows under a limit of 64 KiB."""
    monkeypatch.setattr(checkpoints, "_MAX_PICKLE_BYTES", 2**16)
    rows = [{f"loss_{column}": row / 7 + column for column in range(14)} for row in range(500)]
    checkpoints.save(tmp_path / "last.pt", {"history": to_columns(rows)})
    assert from_columns(checkpoints.load(tmp_path / "last.pt")["history"]) == rows
