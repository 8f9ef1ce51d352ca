import itertools
import math

import pytest

from stepwise.training.schedules import WARMUP_STEPS, Plateau, has_settled, is_low, learning_rate, ramp, warm_up

PEAK, LOWEST = 1e-3, 1e-5


def curve(kind, points=701):
    return [learning_rate(kind, i / (points - 1), PEAK, LOWEST) for i in range(points)]


@pytest.mark.parametrize("kind", ["none", "plateau"])
def test_flat(kind):
    assert set(curve(kind)) == {PEAK}


def test_cosine_is_one_half_wave():
    rates = curve("cosine")
    assert rates[0] == PEAK and rates[-1] == pytest.approx(LOWEST)
    assert rates[350] == pytest.approx((PEAK + LOWEST) / 2)
    assert rates[175] == pytest.approx(LOWEST + (PEAK - LOWEST) * (1 + math.sqrt(0.5)) / 2)
    assert all(a > b for a, b in itertools.pairwise(rates))


def test_warm_restarts_are_three_waves_of_one_two_and_four():
    rates = curve("cosine_warm_restarts")
    jumps = [i for i, (a, b) in enumerate(itertools.pairwise(rates)) if b > a]
    assert jumps == [100, 300]  # of 700: the waves end at 1/7 and 3/7
    for end in (100, 300, 700):
        assert rates[end] == pytest.approx(LOWEST)
    for start in (101, 301):
        assert rates[start] > 0.99 * PEAK
    assert rates[0] == PEAK
    for middle in (50, 200, 500):
        assert rates[middle] == pytest.approx((PEAK + LOWEST) / 2)


@pytest.mark.parametrize("kind", ["cosine", "cosine_warm_restarts"])
def test_progress_beyond_the_run_is_its_end(kind):
    assert learning_rate(kind, 1.3, PEAK, LOWEST) == pytest.approx(LOWEST)
    assert learning_rate(kind, -0.1, PEAK, LOWEST) == PEAK


@pytest.mark.parametrize("kind", ["cosine", "cosine_warm_restarts"])
def test_settled_is_the_end_of_the_last_wave(kind):
    settled = [has_settled(kind, i / 1000) for i in range(1001)]
    start = settled.index(True)
    assert all(settled[start:]) and not any(settled[:start])  # not at the ends of the waves before
    assert learning_rate(kind, start / 1000, PEAK, 0.0) == pytest.approx(PEAK / 10, rel=0.02)


def test_low_is_the_second_half_of_each_wave():
    low = [is_low("cosine_warm_restarts", i / 1400) for i in range(1401)]
    turns = [i for i in range(1, 1401) if low[i] != low[i - 1]]
    assert not low[0] and turns == pytest.approx([100, 201, 400, 601, 1000], abs=1)
    assert is_low("none", 0.0) and is_low("plateau", 0.0)


def test_a_rate_that_never_falls_has_settled():
    assert has_settled("none", 0.0)


def test_plateau_has_settled_when_it_has_come_down():
    plateau = Plateau(patience=2)
    for value in (1.0, 1.0, 1.0):
        plateau.observe(value)
        assert not plateau.has_settled
    plateau.observe(1.0)
    assert plateau.has_settled


def test_warm_up_is_linear_and_never_zero():
    factors = [warm_up(step) for step in range(WARMUP_STEPS + 20)]
    assert factors[0] == 1 / WARMUP_STEPS and factors[WARMUP_STEPS // 2 - 1] == 0.5
    assert factors[WARMUP_STEPS - 2] < 1 and set(factors[WARMUP_STEPS - 1 :]) == {1.0}


def test_ramp():
    assert [ramp(p, 0.4) for p in (0.0, 0.1, 0.2, 0.4, 0.9)] == pytest.approx([0, 0.25, 0.5, 1, 1])
    assert ramp(0.0, 0.0) == 1


def test_plateau_halves_after_patience():
    plateau, scales = Plateau(patience=2), []
    for value in (5.0, 4.0, 4.0, 4.5, 4.2, 4.1, 4.1, 4.1, 3.0, 3.5):
        plateau.observe(value)
        scales.append(plateau.scale)
    assert scales == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_plateau_resumes():
    values = [5.0, 4.0, 4.0, 4.5, 4.2, 4.1, 4.1, 4.1]
    whole, first, second = Plateau(patience=2), Plateau(patience=2), Plateau(patience=2)
    for value in values:
        whole.observe(value)
    for value in values[:3]:
        first.observe(value)
    second.load(first.state())
    for value in values[3:]:
        second.observe(value)
    assert second.state() == whole.state() and second.scale == 0.25


def test_plateau_does_not_take_a_missing_number_for_the_best():
    plateau = Plateau(patience=2)
    for value in (4.0, math.nan, math.nan, math.nan, 3.9):
        plateau.observe(value)
    assert (plateau.best, plateau.scale) == (3.9, 0.5)
