"""report.html: one file that opens from a disk, with every picture inside."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from stepwise.evaluation.intervals import Measured
from stepwise.evaluation.measures import Measure
from stepwise.foundation.paths import write_atomically


def figure(path: Path, caption: str) -> dict[str, str]:
    """A PNG file as a data URL with its caption."""
    return {"data": "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(), "caption": caption}


def column(
    name: str, about: str, figures: dict[str, Measured], measures: dict[str, Measure], floor: bool = False
) -> dict[str, Any]:
    """One column of the tables."""
    shown = {
        key: {"text": measures[key].text(value), "interval": measures[key].interval(value)}
        for key, value in figures.items()
    }
    return {"name": name, "about": about, "figures": shown, "floor": floor}


def write(path: Path, content: dict[str, Any]) -> None:
    """Fill the template; every text is escaped, nothing is fetched from outside."""
    from jinja2 import Environment, StrictUndefined

    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = environment.from_string(template).render(**content)
    write_atomically(path, [text.encode("utf-8", "backslashreplace")])
