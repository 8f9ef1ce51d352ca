"""When 3B keeps the weights that later guide 3C."""

from __future__ import annotations

import pytest
import torch

from stepwise.training.guide import Guide

KEPT = {"weights": {"w": torch.tensor(7.0)}}


class Counting:
    """Stands for a learner whose weights say how often they were asked for."""

    asked = 0

    def best_weights(self) -> dict[str, torch.Tensor]:
        self.asked += 1
        return {"w": torch.tensor(float(self.asked))}


def weights_after(guide: Guide, *shares: float) -> dict | None:
    learner = Counting()
    for progress in shares:
        guide.observe(progress, learner)
    assert learner.asked <= 1
    state = guide.state()
    return state and state["weights"]


def test_the_weights_are_kept_once_when_their_time_has_come() -> None:
    guide = Guide(0.1, None)
    assert weights_after(guide, 0.0, 0.05, 0.099) is None
    assert weights_after(guide, 0.1, 0.2, 0.9) == {"w": torch.tensor(1.0)}


@pytest.mark.parametrize(
    ("at", "state", "wanted"),
    [(0.0, None, None), (0.1, {}, None), (0.1, {"guide": KEPT}, KEPT["weights"])],
    ids=["not wanted", "a run of an earlier version", "kept before"],
)
def test_no_weights_are_kept_late(at: float, state: dict | None, wanted: dict | None) -> None:
    guide = Guide(at, state)
    assert weights_after(guide, 0.0, 0.5) == wanted
    assert weights_after(Guide(at, {"guide": guide.state()}), 0.6) == wanted, "resumed once more"


def test_a_run_that_was_stopped_before_goes_on_waiting() -> None:
    first = Guide(0.1, None)
    assert weights_after(first, 0.0, 0.05) is None
    second = Guide(0.1, {"guide": first.state()})
    assert weights_after(second, 0.09) is None
    assert weights_after(second, 0.11) is not None
