"""SWD: 0 for equal sets, growing with what differs, the same whatever the sets' sizes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from stepwise.data.scenes import draw_scene
from stepwise.evaluation import sliced_wasserstein as swd
from stepwise.foundation.images import to_tensor
from stepwise.foundation.seeds import numpy_rng


@pytest.fixture(scope="module")
def pictures():
    return np.stack([draw_scene("flowers", 0, index, 32) for index in range(48)])


def distance(first, second, seed=0):
    return swd.sliced_wasserstein(swd.patches(first, seed), swd.patches(second, seed))


def blurred(images, sigma):
    return np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images])


def test_patches_are_cut_out_where_they_lie(pictures):
    """A view instead of every window of every image: the memory needed does not grow 49-fold."""
    found = swd.patches(pictures, 3)[0]
    picture = swd._laplacian_pyramid(to_tensor(pictures))[0]
    windows = torch.nn.functional.unfold(picture, 7).unflatten(2, (26, 26))
    top, left = numpy_rng(3, "patches", 0).integers(26, size=(2, 64))
    assert torch.equal(found, windows[:, :, top, left].transpose(1, 2))


def test_equal_sets_are_0_apart(pictures):
    assert distance(pictures, pictures) == 0
    assert distance(pictures[::-1], pictures) == pytest.approx(0, abs=1e-3), "the order of the images says nothing"


def test_grows_with_blur(pictures):
    found = [distance(blurred(pictures, sigma), pictures) for sigma in (0.4, 0.8, 1.6)]
    assert 0 < found[0] < found[1] < found[2]
    assert found[1] > 3 * 10, "well above what rounding makes"


def test_grows_with_a_shift_of_colour(pictures):
    """All three channels, and one alone: a green cast is seen although brightness hardly changes."""
    for channels in ([0, 1, 2], [1]):
        shifted = []
        for levels in (10, 30, 60):
            other = pictures.astype(int)
            other[..., channels] += levels
            shifted.append(distance(other.clip(0, 255).astype(np.uint8), pictures))
        assert 0 < shifted[0] < shifted[1] < shifted[2]


def test_other_photos_of_the_class_are_nearer_than_another_class(pictures):
    ships = np.stack([draw_scene("ships", 0, index, 32) for index in range(24)])
    floor = distance(pictures[:24], pictures[24:])
    assert 0 < floor < 0.5 * distance(ships, pictures[24:])


def test_nearly_symmetric(pictures):
    """Both directions scale by one of the two sets, which is not the same one."""
    first, second = pictures[:24], blurred(pictures[24:], 0.6)
    assert distance(first, second) == pytest.approx(distance(second, first), rel=0.35)


@pytest.mark.parametrize("count", [6, 17, 45])
def test_sets_of_different_sizes(pictures, count):
    """A set doubled is the same distribution; a smaller set is only a rougher one."""
    few = pictures[:count]
    twice = np.concatenate([few, few])
    assert distance(twice, few) == pytest.approx(0, abs=15)
    assert 0 < distance(few, pictures) < distance(blurred(few, 2.0), pictures)
    assert distance(few, pictures) > 0 and np.isfinite(distance(pictures, few))


def test_seed_decides_the_patches(pictures):
    one, again, other = (swd.patches(pictures[:4], seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])
    assert distance(pictures[:24], pictures[24:], seed=1) == pytest.approx(
        distance(pictures[:24], pictures[24:]), rel=0.3
    )


@pytest.mark.parametrize(("size", "sides"), [(16, [16]), (32, [32, 16]), (64, [64, 32, 16]), (48, [48, 24])])
def test_levels_of_the_pyramid(size, sides):
    images = np.stack([draw_scene("ships", 0, index, size) for index in range(3)])
    levels = swd._laplacian_pyramid(to_tensor(images))
    assert [level.shape[-1] for level in levels] == sides
    assert [part.shape for part in swd.patches(images, 0)] == [(3, 64, 147)] * len(sides)


def test_a_patch_is_a_window_of_the_picture():
    """At 16 px there is one level: the picture itself."""
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    found = swd.patches(images, 0)[0]
    windows = torch.nn.functional.unfold(to_tensor(images), 7)  # [2, 147, 100]
    for picture in range(2):
        near = (found[picture][:, :, None] - windows[picture][None]).abs().amax(dim=1)  # [64, 100]
        assert near.amin(dim=1).max() == 0
        assert len(set(near.argmin(dim=1).tolist())) > 30


def test_one_dimensional_distances_are_those_of_scipy(pictures):
    """The mean over the directions of W1, for sets of equal size."""
    from scipy.stats import wasserstein_distance

    a, b = (swd.patches(part, 0)[-1].flatten(0, 1)[:200] for part in (pictures[:24], pictures[24:]))
    rng = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(147, generator=rng), dim=0)
    x, y = (a @ direction)[:, None], (b @ direction)[:, None]
    found = (swd._quantiles(x, 200) - swd._quantiles(y, 200)).abs().mean()
    assert float(found) == pytest.approx(wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy()), rel=1e-5)
