"""How sure a figure is: 95 % intervals by resampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ROUNDS = 1000
HALVES = 30
LOW, HIGH = 2.5, 97.5
FEWEST = 6  # 2 / 2**6 is the first below 5 %


@dataclass(frozen=True)
class Measured:
    """A figure with its 95 % interval; `low` and `high` are equal to `value` where there is none."""

    value: float
    low: float
    high: float


def of_mean(values: np.ndarray, rng: np.random.Generator) -> Measured:
    """The mean of `values` [N] with its percentile bootstrap interval (Efron 1979)."""
    values = np.asarray(values, dtype=np.float64)
    draws = values[rng.integers(len(values), size=(ROUNDS, len(values)))].mean(axis=1)
    low, high = np.percentile(draws, [LOW, HIGH])
    return Measured(float(values.mean()), float(low), float(high))


def of_share(values: np.ndarray, rng: np.random.Generator) -> Measured:
    """`of_mean` of shares in [0, 1], which is certain of nothing where all of them are 0, or all 1.

    There resampling finds no spread; see `of_saturated`.
    """
    found = of_mean(values, rng)
    return of_saturated(found, len(values)) if found.value in (0, 1) else found


def of_saturated(found: Measured, count: int) -> Measured:
    """`found`, a share of `count` things, with at least the interval of Clopper and Pearson (1934).

    If the whole share were at one of its ends, as few (or many) of `count` would come up in 1 of 40 cases.
    """
    from scipy.stats import beta

    hits = found.value * count
    low = beta.ppf(LOW / 100, hits, count - hits + 1) if hits > 0 else 0.0
    high = beta.ppf(HIGH / 100, hits + 1, count - hits) if hits < count else 1.0
    return Measured(found.value, min(found.low, float(low)), max(found.high, float(high)))


def of_difference(values: np.ndarray, rng: np.random.Generator) -> Measured:
    """`of_mean` of paired differences; with fewer than FEWEST that are not 0 the interval always holds 0.

    Even if all of them point the same way, that is chance in more than 5 % of the cases (sign test).
    """
    found = of_mean(values, rng)
    if np.count_nonzero(values) >= FEWEST:
        return found
    return Measured(found.value, min(found.low, 0.0), max(found.high, 0.0))


def of_pairs(
    measure: Callable[[np.ndarray, np.ndarray], float], first: np.ndarray, second: np.ndarray, rng: np.random.Generator
) -> Measured:
    """`measure`, a share of the pairs of two samples [N] and [M], with its percentile bootstrap interval.

    Both samples are drawn anew. Where all pairs agree that finds no spread; see `of_saturated`, of as many
    as the smaller sample.
    """

    def again(sample: np.ndarray) -> np.ndarray:
        return sample[rng.integers(len(sample), size=len(sample))]

    low, high = np.percentile([measure(again(first), again(second)) for _ in range(ROUNDS)], [LOW, HIGH])
    found = Measured(float(measure(first, second)), float(low), float(high))
    return of_saturated(found, min(len(first), len(second))) if found.value in (0, 1) else found


def of_distance(
    measure: Callable[[np.ndarray, np.ndarray], float],
    first: np.ndarray,
    second: np.ndarray,
    rng: np.random.Generator,
    rounds: int = HALVES,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    share: bool = False,
) -> Measured:
    """`measure` of two sets [N, ...] and [M, ...] with a delete-half jackknife interval.

    The spread of a statistic over random halves, drawn without replacement, is to first order that
    of the statistic over whole samples (Shao and Wu 1989). An ordinary bootstrap would put copies
    of an image into a set, which nearest neighbours and unbiased KID mistake for structure. Only
    their spread is used, since most of these measures grow as sets shrink; Student's t allows for the
    few rounds. `bounds`: the range that the measure has by definition. A `share` of the images may be at
    its bound, or the same, in every half: no spread is no certainty (`of_saturated`, of as many as the smaller set).
    """
    value = float(measure(first, second))
    from scipy.stats import t

    halves = np.array([measure(_half(first, rng), _half(second, rng)) for _ in range(rounds)])
    reach = float(t.ppf(HIGH / 100, rounds - 1) * halves.std(ddof=1))
    found = Measured(value, max(value - reach, bounds[0]), min(value + reach, bounds[1]))
    saturated = share and value <= 1 and (value in bounds or reach < 1e-9)
    return of_saturated(found, min(len(first), len(second))) if saturated else found


def _half(items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return items[rng.permutation(len(items))[: max(2, len(items) // 2)]]
