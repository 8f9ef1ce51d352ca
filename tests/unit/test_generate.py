"""How images are drawn unless told otherwise."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from stepwise.diffusion import schedule
from stepwise.diffusion.guidance import GUIDANCE, INTERVAL
from stepwise.training.generate import SamplerOptions, choose_options


def options(*, classes: int = 3, guide: bool = True, timesteps: int = 1000, **asked: Any) -> SamplerOptions:
    model: Any = SimpleNamespace(
        classes=[{}] * classes,
        guide=object() if guide else None,
        label_dropout=0.1,
        schedule=schedule.build("linear", timesteps),
    )
    wanted = {"kind": "dpmpp", "steps": None, "eta": 0.0, "guidance": None, **asked}
    return choose_options(model, **wanted)


def test_the_guide_guides_where_there_are_classes() -> None:
    assert options() == SamplerOptions("dpmpp", 25, 0.0, GUIDANCE, INTERVAL, "guide")
    assert options(guide=False).by == "label"
    assert options(classes=0).guidance == 1
    assert options(classes=0, guidance=2.0) == SamplerOptions("dpmpp", 25, 0.0, 2.0, INTERVAL, "guide")
    assert options(timesteps=20).steps == 20


def test_below_1_the_label_counts_less_everywhere() -> None:
    """Not the guide, which is told the label as well."""
    assert options(guidance=0.0) == SamplerOptions("dpmpp", 25, 0.0, 0.0, (0.0, math.inf), "label")
    assert options(guidance=0.5, interval=(0.3, 2.0)).interval == (0.3, 2.0)
    assert options(guidance=0.5, by="guide").by == "guide"
    assert options(guidance=0.5, classes=0).by == "guide"


@pytest.mark.parametrize("asked", [{}, {"guidance": 7.0}])
def test_guidance_without_a_step_in_its_interval_is_none(asked: dict, capsys: pytest.CaptureFixture) -> None:
    assert options(steps=2, **asked).guidance == 1
    said = capsys.readouterr().out
    assert "no sampling step of 2" in said and "--guidance-interval" in said
    assert options(steps=2, interval=(0.0, math.inf), **asked).guidance == asked.get("guidance", GUIDANCE)
    assert options(steps=4, **asked).guidance != 1
    assert options(steps=2, guidance=1.0).guidance == 1 and not capsys.readouterr().out
