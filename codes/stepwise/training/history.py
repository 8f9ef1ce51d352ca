"""The rows of metrics.csv as a checkpoint holds them: a tensor a column, however many epochs there are.

As a list of dicts they would be pickled number by number, and a checkpoint of half a million epochs refused as too
large a pickle.
"""

from __future__ import annotations

from typing import Any

import torch

Columns = dict[str, dict[str, torch.Tensor]]


def to_columns(rows: list[dict[str, Any]]) -> Columns:
    """{column: {"rows": which rows have it, int64 [n]; "values": int64 or float64 [n]}} of numbers."""
    found: dict[str, tuple[list[int], list[Any]]] = {}
    for place, row in enumerate(rows):
        for name, value in row.items():
            places, values = found.setdefault(name, ([], []))
            places.append(place)
            values.append(value)
    columns = {}
    for name, (places, values) in found.items():
        whole = all(type(value) is int for value in values)
        kept = torch.tensor(values, dtype=torch.int64 if whole else torch.float64)
        columns[name] = {"rows": torch.tensor(places, dtype=torch.int64), "values": kept}
    return columns


def from_columns(history: Columns | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows again; earlier versions wrote them as they are."""
    if isinstance(history, list):
        return list(history)
    count = max((int(column["rows"].max()) + 1 for column in history.values()), default=0)
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, column in history.items():
        for place, value in zip(column["rows"].tolist(), column["values"].tolist(), strict=True):
            rows[place][name] = value
    return rows
