"""KID, FID, precision, recall, density and coverage against torchmetrics and formulas written out anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from stepwise.evaluation import distances
from stepwise.evaluation.intervals import of_distance
from stepwise.evaluation.measures import MEASURES
from stepwise.foundation.errors import UserError


def points(count, width=8, seed=0, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(shift, scale, (count, width))


def norms(a, b):
    """Every distance, [len(a), len(b)], by the plain definition."""
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))


def balls(centres, k):
    """The distance of each centre to its k-th nearest other one."""
    return np.array([np.sort(np.delete(row, i))[k - 1] for i, row in enumerate(norms(centres, centres))])


PAIRS = [
    pytest.param(points(60, seed=1), points(60, seed=2), id="equal"),
    pytest.param(points(60, seed=1, shift=0.6), points(60, seed=2), id="shifted"),
    pytest.param(points(60, seed=1, scale=0.3), points(60, seed=2), id="narrow"),
    pytest.param(points(60, seed=1, scale=3.0), points(60, seed=2), id="wide"),
]


@pytest.mark.parametrize(("generated", "real"), PAIRS)
def test_kid_is_that_of_torchmetrics_and_of_the_formula(generated, real):
    found = distances.kid(generated, real)
    assert found == pytest.approx(float(poly_mmd(torch.from_numpy(real), torch.from_numpy(generated))), abs=1e-3)

    def mean_kernel(a, b, without_self):
        kernel = (a @ b.T / a.shape[1] + 1) ** 3
        return kernel[~np.eye(len(a), dtype=bool)].mean() if without_self else kernel.mean()

    within = mean_kernel(generated, generated, True) + mean_kernel(real, real, True)
    assert found == pytest.approx(within - 2 * mean_kernel(generated, real, False), abs=1e-9)


def test_kid_is_about_0_for_two_halves_and_above_for_a_shift():
    everything = points(120, seed=3)
    order = np.random.default_rng(0)
    half = of_distance(distances.kid, everything[:60], everything[60:], order)
    assert half.low < 0 < half.high
    shifted = of_distance(distances.kid, everything[:60] + 0.5, everything[60:], order)
    assert shifted.low > 0 and shifted.value > 5 * abs(half.value)


def test_kid_has_no_bias():
    """The mean over many draws is 0, however small the sets; FID's is not."""
    draws = [(points(12, seed=2 * i), points(12, seed=2 * i + 1)) for i in range(200)]
    found = np.array([distances.kid(*pair) for pair in draws])
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(len(found))
    assert (found < 0).mean() > 0.3
    assert min(distances.fid(*pair) for pair in draws[:20]) > 0


def test_kid_of_sets_of_different_sizes():
    large, small = points(300, seed=4), points(40, seed=5)
    assert abs(distances.kid(large, small)) < 0.3 < distances.kid(large + 0.6, small)
    assert distances.kid(large, small) == distances.kid(large, small)


def torchmetrics_fid(a, b):
    (mu1, sigma1), (mu2, sigma2) = ((torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x.T))) for x in (a, b))
    return float(_compute_fid(mu1, sigma1, mu2, sigma2))


def formula_fid(a, b):
    """Through the symmetric product of the roots, where no complex numbers come up."""

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    first, second = np.cov(a.T), np.cov(b.T)
    middle = root(root(first) @ second @ root(first))
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * middle)


@pytest.mark.parametrize(("generated", "real"), PAIRS)
def test_fid_is_that_of_torchmetrics_and_of_the_formula(generated, real):
    found = distances.fid(generated, real)
    assert found == pytest.approx(torchmetrics_fid(generated, real), abs=1e-3)
    assert found == pytest.approx(formula_fid(generated, real), abs=1e-3)


@pytest.mark.parametrize("sizes", [(20, 20), (30, 12)])
def test_fid_in_the_space_that_few_images_span_is_the_same(sizes):
    """D > N + M: the sets are turned into fewer dimensions, which changes nothing."""
    a, b = points(sizes[0], 200, seed=6, shift=0.3), points(sizes[1], 200, seed=7)
    found = distances.fid(a, b)
    assert found == pytest.approx(formula_fid(a, b), rel=1e-5)
    padded = [np.concatenate([x, np.zeros((len(x), 50))], axis=1) for x in (a, b)]
    assert distances.fid(*padded) == pytest.approx(found, rel=1e-5)
    turn = np.linalg.qr(points(200, 200, seed=8))[0]
    assert distances.fid(a @ turn, b @ turn) == pytest.approx(found, rel=1e-5)


def test_fid_of_a_known_shift():
    real = points(50, seed=9)
    assert distances.fid(real + 2.0, real) == pytest.approx(8 * 4.0, abs=1e-6)
    assert distances.fid(real, real) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("generated", "real"), PAIRS)
def test_precision_and_recall_are_those_of_the_formula(generated, real):
    precision, recall = distances.precision_recall(generated, real)
    between = norms(generated, real)
    assert precision == pytest.approx((between <= balls(real, 3)[None]).any(axis=1).mean(), abs=1e-6)
    assert recall == pytest.approx((between <= balls(generated, 3)[:, None]).any(axis=0).mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("generated", "real"), [*PAIRS, pytest.param(points(90, seed=1), points(35, seed=2), id="sizes")]
)
def test_density_and_coverage_are_those_of_the_formula(generated, real):
    density, coverage = distances.density_coverage(generated, real)
    inside = norms(generated, real) < balls(real, 5)[None]
    assert density == pytest.approx(inside.sum() / (5 * len(generated)), abs=1e-9)
    assert coverage == pytest.approx(inside.any(axis=0).mean(), abs=1e-9)


def test_what_each_of_the_four_sees():
    real = points(80, seed=10)
    collapsed = real[:1] + points(80, seed=11, scale=0.05)
    precision, recall = distances.precision_recall(collapsed, real)
    assert precision > 0.9 and recall < 0.1, "good images without variety"
    assert distances.density_coverage(collapsed, real)[1] < 0.3
    far = distances.precision_recall(real + 100, real), distances.density_coverage(real + 100, real)
    assert far == ((0, 0), (0, 0))
    assert distances.density_coverage(real, real)[1] == 1
    noisy = distances.density_coverage(points(80, seed=12, scale=4.0), real)
    assert noisy[0] < 0.2, "images all over the place lie in few neighbourhoods"


def test_float32_features_do():
    a, b = points(20, seed=1).astype(np.float32), points(25, 8, seed=2).astype(np.float32)
    for measure in (distances.kid, distances.fid, distances.precision_recall, distances.density_coverage):
        assert np.isfinite(measure(a, b)).all()
        np.testing.assert_allclose(measure(a, b), measure(a.astype(np.float64), b.astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize("size", [4, 5, 6])
def test_the_fewest_images(size):
    for measure in (distances.kid, distances.fid, distances.precision_recall):
        assert np.isfinite(measure(points(size, seed=1), points(size, seed=2))).all()


@pytest.mark.parametrize("size", [2, 5])
def test_density_and_coverage_never_take_fewer_neighbours(size):
    """Of 5 real images each has 4 others; by the fourth instead of the fifth density would mean another thing."""
    with pytest.raises(UserError, match=f"5 neighbours of each real image; there are {size} images.\nGive 6"):
        distances.density_coverage(points(40, seed=1), points(size, seed=2))
    density, coverage = distances.density_coverage(points(3, seed=1), points(6, seed=2))
    inside = norms(points(3, seed=1), points(6, seed=2)) < balls(points(6, seed=2), 5)[None]
    assert (density, coverage) == (pytest.approx(inside.sum() / 15), pytest.approx(inside.any(axis=0).mean()))


def test_kid_of_a_set_with_itself_is_below_0():
    """The images that both sets share are compared with themselves between the sets, and not within one."""
    both = points(60, seed=3)
    found = of_distance(distances.kid, both, both, np.random.default_rng(0))
    assert found.value < 0 and found.low < 0
    assert "push it below 0" in MEASURES["kid"].meaning
