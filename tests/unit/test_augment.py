import numpy as np
import pytest

from stepwise.data.augment import CHOICES, PARAMETERS, SHARE, Augment, _altered
from stepwise.foundation.images import fit_square


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


RANDOM = [kind for kind in CHOICES if kind != "none"]
ALWAYS = ["light", "balanced"]  # conditioned leaves a third of the images as they are, or only mirrors them


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

    different = 15 if kind in ALWAYS else 8
    assert len(set(draws(augment, image))) > different
    assert len({augment(image, epoch, 5).tobytes() for epoch in range(20)}) > different
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


def test_conditioned_tells_what_it_did():
    augment = Augment("conditioned", 32, 0, "train")
    told = np.stack([augment.parameters(0, index) for index in range(2000)])
    assert told.shape == (2000, PARAMETERS) and told.dtype == np.float32
    changed = told != 0
    assert np.allclose(changed[:, [0, 2, 3, 5, 6, 7]].mean(axis=0), SHARE, atol=0.03)
    assert (changed[:, 1] == changed[:, 2]).all() and (changed[:, 3] == changed[:, 4]).all()
    assert 0.3 < (~changed.any(axis=1)).mean() < 0.45
    assert not Augment("light", 32, 0, "train").parameters(0, 3).any()
    assert not Augment("conditioned", 32, 0, "train", plain_first=True).parameters(0, 3).any()


def blob(x, y):
    """A white disc on black, its middle at (x, y) of 64."""
    across, down = np.meshgrid(np.arange(64), np.arange(64))
    disc = ((across - x) ** 2 + (down - y) ** 2 < 36).astype(np.uint8) * 255
    return np.repeat(disc[..., None], 3, axis=2)


def middle(image):
    weight = image[..., 0].astype(float)
    return [(weight * axis).sum() / weight.sum() for axis in np.meshgrid(np.arange(64), np.arange(64))]


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({3: 0.125}, (48, 32)),  # an eighth of 64 to the right
        ({4: -0.125}, (40, 24)),
        ({0: 1.0}, (48.5, 32)),  # twice as large: twice as far from the middle, 31.5
        ({1: -1.0, 2: 1.0}, (31, 40)),  # a quarter turn clockwise: from the right to below
    ],
)
def test_geometry_goes_where_the_parameters_say(told, wanted):
    numbers = np.zeros(PARAMETERS, dtype=np.float32)
    for place, value in told.items():
        numbers[place] = value
    found = middle(_altered(blob(40, 32), 64, numbers, mirrored=False))
    assert found == pytest.approx(wanted, abs=1.0)


def test_colour_goes_where_the_parameters_say():
    image = np.full((16, 16, 3), (100, 150, 200), dtype=np.uint8)
    numbers = np.zeros(PARAMETERS, dtype=np.float32)
    numbers[5] = 0.1
    assert (_altered(image, 16, numbers, False)[0, 0] - image[0, 0]).tolist() == pytest.approx([26, 26, 26], abs=1)
    numbers[5:] = 0, 0, -20
    grey = _altered(image, 16, numbers, False)[0, 0].astype(int)
    assert np.ptp(grey) <= 1
    numbers[5:] = 0, -20, 0
    assert _altered(image, 16, numbers, False)[0, 0].tolist() == pytest.approx([128] * 3, abs=1)


@pytest.mark.parametrize("kind", ALWAYS)
@pytest.mark.parametrize("side", [16, 32])
def test_small_images_are_not_enlarged_into_blocks(kind, side):
    """A smooth ramp stays smooth: enlarged by areas, neighbouring pixels would be equal in half of the places."""
    ramp = np.linspace(0, 255, side).round().astype(np.uint8)
    image = np.stack([np.broadcast_to(ramp, (side, side))] * 3, axis=2)
    augment = Augment(kind, 64, 0, "train")
    for index in range(5):
        row = augment(image, 0, index)[32, :, 0].astype(int)
        assert (np.diff(row) == 0).mean() < 0.2
