import itertools
import math

import numpy as np
import pytest

from stepwise.training.stopping import Stopper


def stops_at(stopper, values):
    """(place, reason) of the first reason to stop, or None."""
    for i, value in enumerate(values):
        reason = stopper.observe(value)
        if reason:
            return i, reason
    return None


def test_patience_counts_epochs_without_gain():
    values = [5.0, 4.0, 4.0, 4.1, 4.2, 4.3]
    place, reason = stops_at(Stopper(patience=3), values)
    assert place == 4 and "early stopping" in reason and "3 epochs" in reason
    assert stops_at(Stopper(patience=5), values) is None


def test_a_gain_starts_the_count_anew():
    assert stops_at(Stopper(patience=2), [5.0, 5.1, 4.9, 5.0, 4.8, 4.9, 4.7]) is None
    assert stops_at(Stopper(patience=2), [5.0, 5.1, 4.9, 5.0, 5.0])[0] == 4


def test_delta_is_the_least_gain_that_counts():
    steady = [5 - 0.05 * i for i in range(30)]
    assert stops_at(Stopper(patience=2, delta=0.01), steady) is None
    assert stops_at(Stopper(patience=3, delta=0.11), steady) is None  # slow, but over three epochs it gains 0.15
    assert stops_at(Stopper(patience=3, delta=0.2), steady)[0] == 3


def test_all_off_never_stops():
    assert stops_at(Stopper(), [1.0] * 500) is None


def wave(count, height=0.01, around=1.0):
    return [around + height * (-1) ** i for i in range(count)]


def test_a_flat_loss_that_goes_up_and_down_stops():
    stopper = Stopper(window=10, threshold=0.05)
    place, reason = stops_at(stopper, [2.0, 1.5, *wave(40)])
    assert "oscillation" in reason and "10 epochs" in reason and "0.05" in reason
    assert 10 <= place <= 14


def test_going_up_and_down_is_no_reason_before_the_run_has_settled():
    stopper = Stopper(window=10, threshold=0.05)
    assert not any(stopper.observe(value, settled=False) for value in [2.0, 1.5, *wave(40)])
    place, reason = stops_at(stopper, wave(12))
    assert "oscillation" in reason and place == 9  # ten values of the settled run
    stopper = Stopper(window=10, threshold=0.05)
    assert not any(stopper.observe(value) for value in [2.0, *wave(9)])
    assert stopper.observe(0.99, settled=False) is None  # more minutes were given, and the rate is up again
    assert stops_at(stopper, wave(12))[0] == 9
    patient = Stopper(patience=3)
    assert any(patient.observe(value, settled=False) for value in [1.0, 2.0, 2.0, 2.0])


def test_patience_does_not_count_while_the_rate_is_high():
    """After a warm restart the loss is worse than at the end of the wave before."""
    stopper = Stopper(patience=3)
    assert not any(stopper.observe(value) for value in [1.0, 2.0, 2.0])
    assert not any(stopper.observe(2.0, low=False) for _ in range(10))
    assert [bool(stopper.observe(2.0)) for _ in range(3)] == [False, False, True]


def test_noise_around_a_level_stops():
    values = 1 + 0.01 * np.random.default_rng(0).standard_normal(200)
    assert "oscillation" in stops_at(Stopper(window=10, threshold=0.1), values.tolist())[1]


@pytest.mark.parametrize("delta", [0.0, 0.001])
def test_a_steadily_falling_loss_within_the_threshold_goes_on(delta):
    values = [1 - 0.001 * i for i in range(200)]
    assert stops_at(Stopper(window=10, threshold=0.5, delta=delta), values) is None


def test_a_noisy_loss_that_makes_progress_goes_on():
    values = [1 - 0.01 * i + 0.008 * (-1) ** i for i in range(60)]
    assert any(b > a for a, b in itertools.pairwise(values))  # it does go up and down
    assert stops_at(Stopper(window=10, threshold=1.0), values) is None


def test_large_swings_are_no_reason_to_stop():
    assert stops_at(Stopper(window=10, threshold=0.05), wave(60, height=0.5)) is None


def test_a_flat_or_rising_loss_does_not_oscillate():
    assert stops_at(Stopper(window=10, threshold=0.5), [1.0] * 60) is None
    assert stops_at(Stopper(window=10, threshold=0.5), [1 + 0.001 * i for i in range(60)]) is None


def test_window_off_or_not_yet_full():
    assert stops_at(Stopper(window=0, threshold=0.5), wave(100)) is None
    assert stops_at(Stopper(window=10, threshold=0.5), wave(10, height=-0.01)) is None
    assert stops_at(Stopper(window=10, threshold=0.5), wave(11, height=-0.01))[0] == 10


def test_delta_says_what_progress_is_in_a_window():
    values = [1.0 - 0.0002 * i + 0.01 * (-1) ** i for i in range(60)]
    assert stops_at(Stopper(window=10, threshold=0.05, delta=0.0), values) is None
    assert stops_at(Stopper(window=10, threshold=0.05, delta=0.01), values) is not None


def test_a_missing_number_is_no_gain_and_no_best():
    stopper = Stopper(patience=3)
    assert stops_at(stopper, [1.0, math.nan, math.nan, math.nan])[0] == 3
    assert stopper.best == 1.0


@pytest.mark.parametrize("options", [{"patience": 4}, {"window": 8, "threshold": 0.1}])
@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_resumed_run_stops_at_the_same_epoch(options, cut):
    values = [2.0, 1.5, *wave(30)]
    wanted = stops_at(Stopper(**options), values)
    first, second = Stopper(**options), Stopper(**options)
    assert cut <= wanted[0] or options.get("patience")
    cut = min(cut, wanted[0])
    assert stops_at(first, values[:cut]) is None
    second.load(first.state())
    place, reason = stops_at(second, values[cut:])
    assert (place + cut, reason) == wanted
