"""The small CNN of CAS: learns what there is to learn and nothing else, the same with the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepwise.evaluation import classifier
from stepwise.foundation.devices import Device

CPU = Device(torch.device("cpu"), None)


def stripes(count, seed, size=16):
    """Images with stripes across (class 0) or down (class 1), in random colours under noise, and their classes."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 2
    wave = np.sin(np.arange(size) * np.pi / 3)[None] * 60 * rng.uniform(0.6, 1, (count, 1))
    across = np.where(label[:, None, None] == 0, wave[:, :, None], wave[:, None, :])
    pixels = rng.uniform(90, 160, (count, 1, 1, 3)) + across[..., None] + rng.normal(0, 15, (count, size, size, 3))
    return pixels.clip(0, 255).astype(np.uint8), label


def train(images, label, seed=0, steps=40, **options):
    return classifier.train_classifier(images, label, 2, seed, CPU, steps=steps, **options)


@pytest.fixture(scope="module")
def net():
    return train(*stripes(40, seed=0))


def test_learns_two_easy_classes(net):
    images, label = stripes(200, seed=1)
    assert (classifier.predict(net, images, CPU) == label).mean() > 0.95


def test_shuffled_labels_teach_nothing():
    """Averaged over four trainings: one may be lucky."""
    images, label = stripes(200, seed=1)
    right = []
    for seed in range(4):
        shuffled = np.random.default_rng(seed).permutation(stripes(40, seed=0)[1])
        wrong = train(stripes(40, seed=0)[0], shuffled, seed=seed, steps=20)
        right.append((classifier.predict(wrong, images, CPU) == label).mean())
    assert 0.3 < np.mean(right) < 0.7


def test_same_seed_same_predictions(net):
    images = stripes(20, seed=2)[0]
    again = train(*stripes(40, seed=0))
    assert np.array_equal(classifier.features(net, images, CPU), classifier.features(again, images, CPU))
    other = train(*stripes(40, seed=0), seed=1)
    assert not np.allclose(classifier.features(net, images, CPU), classifier.features(other, images, CPU))


def test_a_rare_class_is_drawn_as_often_as_the_other():
    """Three images against sixty: a network that follows the frequencies would never name the rare one."""
    images, label = stripes(120, seed=0)
    chosen = np.concatenate([np.flatnonzero(label == 0), np.flatnonzero(label == 1)[:3]])
    net = train(images[chosen], label[chosen])
    unseen, truth = stripes(100, seed=1)
    assert (classifier.predict(net, unseen, CPU) == truth)[truth == 1].mean() > 0.8


def test_classes_without_images_are_not_named():
    images, label = stripes(40, seed=0)
    net = classifier.train_classifier(images, 2 * label, 4, 0, CPU, steps=40)  # classes 0 and 2 of 4
    assert set(classifier.predict(net, stripes(60, seed=1)[0], CPU).tolist()) == {0, 2}


def test_on_step_is_called_after_each_and_may_stop():
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(*stripes(8, seed=0), on_step=stop)
    assert len(calls) == 3


@pytest.mark.parametrize("count", [1, 300])
def test_features_and_predictions_of_any_number(net, count):
    images = stripes(count, seed=3)[0]
    assert classifier.features(net, images, CPU).shape == (count, 256)
    assert classifier.features(net, images, CPU).dtype == np.float32
    assert classifier.predict(net, images, CPU).shape == (count,)


def test_the_trained_network_is_at_rest(net):
    assert not net.training and not any(parameter.requires_grad for parameter in net.parameters())
    images = stripes(6, seed=4)[0]
    apart = np.concatenate([classifier.features(net, images[i : i + 1], CPU) for i in range(6)])
    np.testing.assert_allclose(classifier.features(net, images, CPU), apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [16, 33])
def test_images_of_any_side(size):
    images, label = stripes(8, seed=0, size=size)
    assert classifier.predict(train(images, label, steps=2), images, CPU).shape == (8,)


def test_variants_are_small_changes_of_the_image():
    """Nothing is moved further than 1/12 of the side, nothing is upside down, and each image varies on its own."""
    x = torch.zeros(64, 3, 24, 24)
    x[:, :, 4, 6] = 1.0
    varied = classifier._vary(x, torch.Generator().manual_seed(0))
    assert varied.shape == x.shape
    place = varied.mean(dim=1).flatten(1).argmax(dim=1)
    rows, columns = place // 24, place % 24
    assert set(rows.tolist()) == {2, 3, 4, 5, 6}
    assert set(columns.tolist()) == {4, 5, 6, 7, 8, 15, 16, 17, 18, 19}, "mirrored or not, shifted by up to 2"
    assert torch.equal(varied, classifier._vary(x, torch.Generator().manual_seed(0)))
    assert len({round(float(one.min()), 4) for one in varied}) > 32
