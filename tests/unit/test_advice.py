"""What 3A and 3B remark before a run that would disappoint."""

from argparse import Namespace

import numpy as np
import pytest

from stepwise.models import presets
from stepwise.training import advice


def length(per_epoch: int, epochs: int | None = 300, max_minutes: float | None = None) -> str:
    return advice.on_length(Namespace(epochs=epochs, max_minutes=max_minutes), 300, per_epoch)


def test_few_steps_are_remarked_with_what_to_type() -> None:
    assert "300 steps" in length(1) and "--epochs 3000" in length(1)
    assert "--epochs 1000" in length(3)


def test_no_remark_on_enough_steps_or_a_length_of_the_users_own() -> None:
    assert not length(12)
    assert not length(1, epochs=20)
    assert not length(1, epochs=300, max_minutes=5.0)


@pytest.mark.parametrize(("size", "better"), [(136, "128 or 160"), (72, "64 or 80"), (144, "128 or 160")])
def test_grids_that_cannot_be_halved_are_remarked(size: int, better: str) -> None:
    assert better in advice.on_grid(size, 8)


@pytest.mark.parametrize("size", [32, 48, 64, 96, 128, 160, 192, 256, 512])
def test_grids_that_can_be_halved_are_not(size: int) -> None:
    assert advice.on_grid(size, 8) == ""
    shape = (12, size // 8, size // 8)
    assert len(presets.unet(shape, 32, 1, 0.0, 0)["widths"]) == presets.wanted_levels(size // 8)


def test_small_images_are_counted() -> None:
    images = [np.zeros((32, 90, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)]
    assert "1 of 2 images are smaller" in advice.on_sizes(images, 64)
    assert advice.on_sizes(images, 32) == ""


def test_only_what_there_is_to_say_is_printed(capsys: pytest.CaptureFixture) -> None:
    advice.give("", "one", "")
    assert capsys.readouterr().out == "Note: one\n"
