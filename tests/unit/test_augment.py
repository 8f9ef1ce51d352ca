import numpy as np
import pytest

from stepwise.data.augment import CHOICES, Augment
from stepwise.foundation.images import fit_square


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


RANDOM = [kind for kind in CHOICES if kind != "none"]


@pytest.mark.parametrize("kind", CHOICES)
@pytest.mark.parametrize("size", [(40, 40), (30, 90), (90, 31), (7, 9), (16, 16)])
def test_output_is_a_uint8_square(kind, size):
    square = Augment(kind, 16, 0, "train")(picture(*size), 0, 0)
    assert square.shape == (16, 16, 3) and square.dtype == np.uint8


@pytest.mark.parametrize("size", [(40, 40), (30, 90), (16, 20), (9, 7)])
def test_none_is_the_centre_square(size):
    image = picture(*size)
    augment = Augment("none", 16, 0, "train")
    np.testing.assert_array_equal(augment(image, 0, 0), fit_square(image, 16))
    np.testing.assert_array_equal(augment(image, 5, 9), fit_square(image, 16))


def draws(augment, image, count=20):
    return [augment(image, 0, index).tobytes() for index in range(count)]


@pytest.mark.parametrize("kind", RANDOM)
def test_each_draw_is_named_by_seed_stream_epoch_and_index(kind):
    image = picture(64, 64)
    augment = Augment(kind, 16, 3, "train")
    wanted = augment(image, 2, 5).copy()
    for epoch, index in ((0, 0), (2, 6), (3, 5)):  # what was drawn before changes nothing
        augment(image, epoch, index)
    np.testing.assert_array_equal(augment(image, 2, 5), wanted)
    np.testing.assert_array_equal(Augment(kind, 16, 3, "train")(image, 2, 5), wanted)

    assert len(set(draws(augment, image))) > 15
    assert len({augment(image, epoch, 5).tobytes() for epoch in range(20)}) > 15
    assert draws(Augment(kind, 16, 4, "train"), image) != draws(augment, image)
    assert draws(Augment(kind, 16, 3, "cache"), image) != draws(augment, image)


@pytest.mark.parametrize("kind", CHOICES)
def test_the_image_is_left_as_it_was(kind):
    image = picture(40, 50)
    before = image.copy()
    for index in range(10):
        Augment(kind, 16, 0, "train")(image, 0, index)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", RANDOM)
def test_half_are_mirrored_and_none_is_upside_down(kind):
    """Dark to bright from left to right, with a red sky: mirroring turns the first, never the second."""
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[..., 1] = np.linspace(0, 255, 64).astype(np.uint8)
    image[:32, :, 0] = 255
    squares = [Augment(kind, 16, 0, "train")(image, 0, index).astype(float) for index in range(100)]
    mirrored = sum(square[:, :8, 1].mean() > square[:, 8:, 1].mean() for square in squares)
    assert 30 <= mirrored <= 70
    assert all(square[:4, :, 0].mean() > square[-4:, :, 0].mean() for square in squares)


@pytest.mark.parametrize("kind", RANDOM)
def test_a_long_image_is_cropped_around_its_middle(kind):
    """Of a strip, squares come from the middle half of the places where one fits, and not from one place."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (40, 200, 3))
    middles = [Augment(kind, 16, 0, "train")(ramp, 0, index).mean() for index in range(30)]
    assert max(middles) - min(middles) > 40
    image = np.zeros((40, 200, 3), dtype=np.uint8)
    image[:, 39:161] = 200
    squares = [Augment(kind, 16, 0, "train")(image, 0, index) for index in range(30)]
    assert min(int(square.min()) for square in squares) > 150


def test_flat_images_keep_their_shade_under_light():
    image = np.full((40, 50, 3), 77, dtype=np.uint8)
    assert all((Augment("light", 16, 0, "train")(image, 0, index) == 77).all() for index in range(10))


def test_unknown_kind():
    with pytest.raises(KeyError):
        Augment("heavy", 16, 0, "train")
