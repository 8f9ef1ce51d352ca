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

    There resampling finds no spread; the interval is that of Clopper and Pearson (1934) instead.
    """
    found, reach = of_mean(values, rng), 1 - (LOW / 100) ** (1 / len(values))
    if found.low == found.high == 0:
        return Measured(0.0, 0.0, reach)
    if found.low == found.high == 1:
        return Measured(1.0, 1 - reach, 1.0)
    return found


def of_difference(values: np.ndarray, rng: np.random.Generator) -> Measured:
    """`of_mean` of paired differences; with fewer than FEWEST that are not 0 the interval always holds 0.

    Even if all of them point the same way, that is chance in more than 5 % of the cases (sign test).
    """
    found = of_mean(values, rng)
    if np.count_nonzero(values) >= FEWEST:
        return found
    return Measured(found.value, min(found.low, 0.0), max(found.high, 0.0))


def of_distance(
    measure: Callable[[np.ndarray, np.ndarray], float],
    first: np.ndarray,
    second: np.ndarray,
    rng: np.random.Generator,
    rounds: int = HALVES,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Measured:
    """`measure` of two sets [N, ...] and [M, ...] with a delete-half jackknife interval.

    The spread of a statistic over random halves, drawn without replacement, is to first order that
    of the statistic over whole samples (Shao and Wu 1989). An ordinary bootstrap would put copies
    of an image into a set, which nearest neighbours and unbiased KID mistake for structure. Only
    their spread is used, since most of these measures grow as sets shrink; Student's t allows for the
    few rounds. `bounds`: the range that the measure has by definition.
    """
    value = float(measure(first, second))
    from scipy.stats import t

    halves = np.array([measure(_half(first, rng), _half(second, rng)) for _ in range(rounds)])
    reach = float(t.ppf(HIGH / 100, rounds - 1) * halves.std(ddof=1))
    return Measured(value, max(value - reach, bounds[0]), min(value + reach, bounds[1]))


def _half(items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return items[rng.permutation(len(items))[: max(2, len(items) // 2)]]
