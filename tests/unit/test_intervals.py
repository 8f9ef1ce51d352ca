"""Intervals: they hold the truth about as often as they say, are in order, and come out the same again."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from stepwise.evaluation.intervals import of_difference, of_distance, of_mean, of_pairs, of_share


def rng(*seed):
    return np.random.default_rng(seed)


def coverage(measure, truth, count=200):
    """The share of `count` simulations whose interval holds `truth`."""
    found = [measure(number) for number in range(count)]
    return np.mean([one.low <= truth <= one.high for one in found])


@pytest.mark.parametrize("size", [20, 100])
def test_the_interval_of_a_mean_holds_it_95_times_in_100(size):
    assert 0.88 <= coverage(lambda i: of_mean(rng(0, i).normal(5, 2, size), rng(1, i)), 5.0) <= 0.99


def test_the_interval_of_a_share_holds_it():
    assert 0.88 <= coverage(lambda i: of_mean(rng(0, i).random(60) < 0.3, rng(1, i)), 0.3) <= 0.99


@pytest.mark.parametrize("size", [1, 16, 300])
def test_none_of_a_few_is_not_none_at_all(size):
    """If the whole share were at the end of the interval, none (or all) of `size` would come up in 1 of 40 cases."""
    none, every = of_share(np.zeros(size), rng(0)), of_share(np.ones(size), rng(0))
    assert (none.value, none.low, every.value, every.high) == (0, 0, 1, 1)
    assert (1 - none.high) ** size == pytest.approx(0.025) == every.low**size


def test_a_share_between_is_that_of_the_mean():
    values = rng(1).random(50) < 0.4
    assert of_share(values, rng(2)) == of_mean(values, rng(2))


@pytest.mark.parametrize(("differ", "sure"), [(1, False), (5, False), (6, True)])
def test_a_few_differences_prove_nothing(differ, sure):
    for sign in (1, -1):
        found = of_difference(sign * np.ones(differ), rng(3))
        assert found.value == sign and (found.low > 0 or found.high < 0) == sure
    assert of_difference(np.zeros(40), rng(3)).low == 0


def gap(first, second):
    return first.mean() - second.mean()


def spread(first, second):
    return np.log(first.std() / second.std())


@pytest.mark.parametrize(("measure", "truth"), [(gap, 1.0), (spread, np.log(2))], ids=["gap", "spread"])
def test_the_interval_of_a_distance_holds_it(measure, truth):
    """30 halves: the percentiles of so few lie a little too far inside."""

    def simulate(number):
        draw = rng(2, number)
        return of_distance(measure, draw.normal(1, 2, 80), draw.normal(0, 1, 60), rng(3, number))

    assert 0.84 <= coverage(simulate, truth) <= 0.99


def test_intervals_narrow_with_the_square_root_of_the_size():
    wide, narrow = (
        np.mean(
            [np.ptp([one.low, one.high]) for one in (of_mean(rng(4, i).normal(size=n), rng(5, i)) for i in range(20))]
        )
        for n in (50, 200)
    )
    assert wide / narrow == pytest.approx(2, rel=0.15)


def test_the_value_is_that_of_the_whole_sets_and_lies_within():
    values, other = rng(6).gamma(2, size=40), rng(7).gamma(3, size=30)
    mean, distance = of_mean(values, rng(8)), of_distance(gap, values, other, rng(8))
    assert mean.value == pytest.approx(values.mean()) and distance.value == pytest.approx(gap(values, other))
    for found in (mean, distance):
        assert found.low < found.value < found.high


def test_same_generator_same_interval():
    values = rng(9).normal(size=30)
    assert of_mean(values, rng(1)) == of_mean(values, rng(1)) != of_mean(values, rng(2))
    assert of_distance(gap, values, values + 1, rng(1)) == of_distance(gap, values, values + 1, rng(1))
    assert of_distance(gap, values, values + 1, rng(1)) != of_distance(gap, values, values + 1, rng(2))


def test_equal_values_have_no_width():
    found = of_mean(np.ones(10), rng(0))
    assert found.low == found.value == found.high == 1


def test_bounds_cut_the_interval_and_not_the_value():
    """Nothing less than 0 or more than 1 is said about a share."""
    values = rng(1).normal(size=20)
    free, cut = (of_distance(gap, values, -values, rng(2), bounds=bounds) for bounds in ((-9.0, 9.0), (0.0, 0.1)))
    assert free.low < 0 < 0.1 < free.high
    assert (cut.low, cut.value, cut.high) == (0.0, free.value, 0.1)


def test_halves_are_drawn_without_copies():
    """A copy within a set has distance 0, which no measure of neighbours must ever see."""
    seen = []

    def record(first, second):
        seen.append((first, second))
        return 0.0

    of_distance(record, np.arange(21), np.arange(10), rng(3), rounds=5)
    assert [(len(first), len(second)) for first, second in seen] == [(21, 10)] + [(10, 5)] * 5
    assert all(len(set(part)) == len(part) for pair in seen for part in pair)
    assert len({tuple(first) for first, _ in seen}) == 6


@pytest.mark.parametrize("value", [0.0, 1.0, 0.8])
def test_a_share_that_every_half_has_is_not_certain(value):
    """Coverage of 0 in every half as well: 30 images, as the smaller set has, cannot rule out a few."""

    def always(first, second):
        return value

    found = of_distance(always, np.arange(40), np.arange(30), rng(3), bounds=(0, 1), share=True)
    wanted = binomtest(round(value * 30), 30).proportion_ci(0.95, "exact")
    assert (found.value, found.low, found.high) == (value, pytest.approx(wanted.low), pytest.approx(wanted.high))
    free = of_distance(always, np.arange(40), np.arange(30), rng(3))
    assert free.low == pytest.approx(value) == free.high


@pytest.mark.parametrize("value", [1.0, 1.4])
def test_density_above_0_keeps_its_interval(value):
    """It is a share at 0 only: 1 is nothing special, and it may be above."""
    values = iter(np.linspace(value, value + 0.3, 31))

    def measure(first, second):
        return next(values)

    found = of_distance(measure, np.arange(9), np.arange(9), rng(3), bounds=(0, np.inf), share=True)
    assert found.value == value and value - 0.3 < found.low < value < found.high < value + 0.3


def above(first, second):
    return (first[:, None] > second).mean()


def test_the_interval_of_pairs_holds_their_share():
    """Both samples are drawn anew; the truth is Phi(1 / sqrt(2)), the chance of one normal draw to be above another."""

    def simulate(number):
        return of_pairs(above, rng(2, number).normal(1, 1, 60), rng(3, number).normal(0, 1, 25), rng(4, number))

    assert 0.88 <= coverage(simulate, 0.7602, count=30) <= 1.0


def test_the_interval_of_pairs_narrows_with_both_samples():
    def width(n, m):
        found = [of_pairs(above, rng(2, i).normal(size=n), rng(3, i).normal(size=m), rng(4, i)) for i in range(2)]
        return np.mean([one.high - one.low for one in found])

    assert width(200, 200) < 0.7 * min(width(200, 20), width(20, 200))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pairs_that_all_agree_are_not_certain(value):
    """No resampling finds another order; as few as 20 images of the smaller sample cannot rule it out."""
    found = of_pairs(above, np.arange(50.0), np.arange(20) + (100 if value == 0 else -100), rng(0))
    wanted = binomtest(round(value * 20), 20).proportion_ci(0.95, "exact")
    assert (found.value, found.low, found.high) == (value, pytest.approx(wanted.low), pytest.approx(wanted.high))
    assert found == of_pairs(above, np.arange(50.0), np.arange(20) + (100 if value == 0 else -100), rng(0))
