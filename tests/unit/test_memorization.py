"""The search for copies finds copies, also mirrored and shifted ones, and nothing in fresh images."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from stepwise.data.scenes import SCENES, draw_scene
from stepwise.evaluation import memorization
from stepwise.evaluation.memorization import Neighbours, neighbours, variants
from stepwise.foundation.images import fit_square

SIZE = 32


def scenes(first, count):
    return np.stack([draw_scene(name, 0, index, SIZE) for name in SCENES for index in range(first, first + count)])


def flat(images):
    return images.reshape(*images.shape[:-3], -1).astype(np.float32)


@pytest.fixture(scope="module")
def train():
    return scenes(0, 12)


@pytest.fixture(scope="module")
def unseen():
    return scenes(100, 10)


@pytest.fixture(scope="module")
def reference(train):
    return flat(np.stack(list(variants(train))))


@pytest.fixture(scope="module")
def among(reference):
    return neighbours(reference[0], reference, leave_out_self=True)


def shifted(images, dy, dx):
    """By (dy, dx) pixels; the border is repeated."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return padded[:, 1 - dy : 1 - dy + SIZE, 1 - dx : 1 - dx + SIZE]


COPIES = {
    "as they are": lambda x: x,
    "mirrored": lambda x: x[:, :, ::-1],
    "down": lambda x: shifted(x, 1, 0),
    "up": lambda x: shifted(x, -1, 0),
    "right": lambda x: shifted(x, 0, 1),
    "left": lambda x: shifted(x, 0, -1),
    "mirrored, left": lambda x: shifted(x[:, :, ::-1], 0, -1),
    "noisy": lambda x: memorization.noisy_copies(x, np.random.default_rng(0)),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_copies_are_found(train, reference, among, unseen, make):
    found = neighbours(flat(make(train)), reference)
    assert found.memorized.mean() > 0.95
    assert (found.nearest == np.arange(len(train))).mean() > 0.95
    assert memorization.authentic(found, among).mean() < 0.05
    c_t = memorization.data_copying(found, neighbours(flat(unseen), reference), np.random.default_rng(0))
    assert c_t.value <= c_t.high < -3


def test_fresh_images_are_no_copies(reference, among, unseen):
    found = neighbours(flat(unseen), reference)
    assert found.memorized.mean() < 0.02
    assert memorization.authentic(found, among).mean() > 0.2
    others = neighbours(flat(scenes(200, 10)), reference)
    c_t = memorization.data_copying(others, found, np.random.default_rng(0))
    assert abs(c_t.value) < 3 and c_t.low < 0 < c_t.high


def test_a_few_copies_among_fresh_images_are_counted(train, reference, unseen):
    mixed = np.concatenate([unseen[:45], train[:5, :, ::-1]])
    assert neighbours(flat(mixed), reference).memorized.tolist() == [False] * 45 + [True] * 5


def test_unlike_images_lie_further_away(reference, unseen):
    noise = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)
    found = neighbours(flat(noise), reference)
    c_t = memorization.data_copying(found, neighbours(flat(unseen), reference), np.random.default_rng(0))
    assert c_t.low > 3
    assert not found.memorized.any()


def test_without_variants_a_mirrored_copy_hides(train):
    """What the variants are for."""
    plain = flat(train)[None]
    assert neighbours(flat(train[:, :, ::-1]), plain).memorized.mean() < 0.6
    assert neighbours(flat(train), plain).memorized.all()


def test_variants_are_46_different_pictures(train):
    found = np.stack(list(variants(train)))
    assert found.shape == (46, *train.shape) and found.dtype == np.uint8
    assert np.array_equal(found[0], train) and np.array_equal(found[1::2], found[::2, :, :, ::-1])
    assert len({part.tobytes() for part in found}) == 46
    assert np.array_equal(found[2], shifted(train, 1, 0)) and np.array_equal(found[8], shifted(train, 0, -1))
    large = np.zeros((1, 128, 128, 3), np.uint8)
    large[0, 60, 60] = 255
    places = {tuple(np.argwhere(part[0, :, :, 0])[0]) for part in list(variants(large))[:10:2]}
    assert places == {(60, 60), (64, 60), (56, 60), (60, 64), (60, 56)}, "1/32 of the side"


def test_few_variants_are_some_of_all(train):
    every, few = ([part.tobytes() for part in variants(train[:2], few=few)] for few in (False, True))
    assert len(few) == 22 and set(few) < set(every) and few[0] == every[0]


def test_crops_are_what_resizing_them_makes():
    """Of 100 px a crop of 92 % has whole pixels: at the edges and in the middle, enlarged like any image."""
    rng = np.random.default_rng(0)
    images = np.stack([cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (100, 100)) for _ in range(3)])
    crops = list(variants(images))[28::2]
    for found, (top, left) in zip(crops, product((0, 4, 8), repeat=2), strict=True):
        wanted = np.stack([fit_square(image[top : top + 92, left : left + 92], 100) for image in images])
        assert np.abs(found[:, 2:-2, 2:-2].astype(int) - wanted[:, 2:-2, 2:-2]).max() <= 3
    assert np.abs(crops[0].astype(int) - crops[1]).max() > 10


def by_hand(queries, reference, leave_out_self):
    rows = []
    for i, query in enumerate(queries):
        distance = [min(np.linalg.norm(query - part[j]) for part in reference) for j in range(reference.shape[1])]
        if leave_out_self:
            distance[i] = np.inf
        nearest, second = np.argsort(distance)[:2]
        rows.append((nearest, distance[nearest], distance[second]))
    return rows


@pytest.mark.parametrize("leave_out_self", [False, True])
def test_neighbours_are_those_of_a_loop(monkeypatch, leave_out_self):
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(3, 9, 4))
    queries = reference[0] if leave_out_self else rng.normal(size=(7, 4))
    monkeypatch.setattr(memorization, "AT_ONCE", 4)  # several parts, and a rest
    found = neighbours(queries, reference, leave_out_self=leave_out_self)
    wanted = by_hand(queries, reference, leave_out_self)
    assert found.nearest.tolist() == [row[0] for row in wanted]
    np.testing.assert_allclose(np.stack([found.first, found.second], 1), [row[1:] for row in wanted], rtol=1e-4)


def test_leave_out_self_leaves_out_the_own_variants_too(train, reference, among):
    assert (among.nearest != np.arange(len(train))).all() and among.first.min() > 0
    itself = neighbours(reference[0], reference)
    assert (itself.nearest == np.arange(len(train))).all()
    assert itself.first.max() < 0.01 * among.first.min(), "0, but for the rounding of float32"


def test_ratio_and_its_threshold():
    found = Neighbours(np.zeros(4, int), np.array([1.0, 1.0, 0.0, 0.0]), np.array([2.9, 3.1, 5.0, 0.0]))
    assert found.memorized.tolist() == [False, True, True, True]
    assert found.ratio[:3].tolist() == pytest.approx([1 / 2.9, 1 / 3.1, 0])


def test_authentic_compares_with_the_gap_around_the_training_image():
    training = Neighbours(np.array([1, 0, 1]), np.array([1.0, 1.0, 4.0]), np.array([5.0, 4.0, 5.0]))
    found = Neighbours(np.array([0, 2, 2]), np.array([1.5, 1.5, 4.5]), np.array([9.0, 9.0, 9.0]))
    assert memorization.authentic(found, training).tolist() == [True, False, True]


def at(distances, times=1):
    """Images at these distances from their nearest training images, each so many times."""
    distances = np.tile(distances, times)
    return Neighbours(np.zeros(len(distances), int), distances, distances + 1)


def c_t(generated, held_out):
    return memorization.data_copying(generated, held_out, np.random.default_rng(0))


def test_c_t_is_the_z_score_of_the_ranks():
    rng = np.random.default_rng(2)
    near, far = rng.random(12).round(1), rng.random(9).round(1) + 0.3
    u = (near[:, None] > far[None]).sum() + (near[:, None] == far[None]).sum() / 2
    assert (near[:, None] == far[None]).any() and u == mannwhitneyu(near, far).statistic
    assert c_t(at(near), at(far)).value == pytest.approx((u - 54) / np.sqrt(12 * 9 * 22 / 12))
    assert c_t(at(near), at(far)).value == pytest.approx(-c_t(at(far), at(near)).value)


def test_the_interval_of_c_t():
    """The same again for the same generator; about the 2 standard errors of a z-score where there is no difference."""
    same, other = np.random.default_rng(3).random((2, 80))
    found = c_t(at(same), at(other))
    assert found == c_t(at(same), at(other)) and found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(4, rel=0.25)


def test_noisy_copies_are_near_and_every_other_one_is_mirrored(train):
    found = memorization.noisy_copies(train, np.random.default_rng(0)).astype(int)
    assert 3 < np.abs(found[1::2] - train[1::2]).mean() < 6
    assert np.abs(found[::2] - train[::2, :, ::-1]).mean() < 6 < np.abs(found[::2] - train[::2]).mean()


def test_the_test_of_distances_grows_with_the_number_of_images():
    """What its definition says: twice as sure with four times as many, at the same difference."""
    near, far = np.random.default_rng(0).random((2, 20)) + np.array([[0.0], [0.3]])
    once, four = (c_t(at(near, times), at(far, times)).value for times in (1, 4))
    assert four / once == pytest.approx(2, rel=0.03)


def test_mirrored_copies_are_known_as_such(train, reference):
    found = neighbours(flat(train[:, :, ::-1]), reference)
    assert found.mirrored.mean() > 0.9 and neighbours(flat(train), reference).mirrored.mean() < 0.1
    both = memorization.joined([found, neighbours(flat(train), reference)])
    assert both.mirrored.tolist()[: len(train)] == found.mirrored.tolist() and len(both.first) == 2 * len(train)
