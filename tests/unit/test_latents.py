import numpy as np
import pytest
import torch

from stepwise.data.augment import PARAMETERS, Augment
from stepwise.data.latents import Latents, LatentStatistics, encode_variants
from stepwise.foundation.errors import Interrupted
from stepwise.foundation.images import fit_square, to_tensor

SHAPES = [(4, 3, 3), (6,)]


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_nothing_told(mu, sigma):
    return Latents(mu, sigma, torch.zeros(*mu.shape[:2], PARAMETERS))


def some_latents(shape, images=50, variants=4):
    """Channels of different mean, spread and posterior width."""
    scale = torch.arange(1.0, shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1))
    mu = randn(images, variants, *shape) * scale + 3 * scale
    sigma = (0.2 + randn(images, variants, *shape, seed=1).abs()) * scale.flip(0)
    return with_nothing_told(mu, sigma)


@pytest.mark.parametrize("shape", SHAPES, ids=["grid", "vector"])
def test_statistics_standardise_what_training_draws(shape):
    latents = some_latents(shape)
    statistics = latents.statistics()
    assert statistics.mean.shape == statistics.std.shape == (1, shape[0], *[1] * (len(shape) - 1))
    assert statistics.mean.dtype == statistics.std.dtype == torch.float32
    everything = np.arange(50)
    z = statistics.standardise(torch.cat([latents.draw(everything, 0, step)[0] for step in range(400)]))
    others = [d for d in range(z.ndim) if d != 1]
    torch.testing.assert_close(z.mean(dim=others), torch.zeros(shape[0]), atol=0.03, rtol=0)
    torch.testing.assert_close(z.std(dim=others), torch.ones(shape[0]), atol=0.03, rtol=0)


def test_statistics_are_the_law_of_total_variance():
    mu = torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]])
    statistics = with_nothing_told(mu, torch.full_like(mu, 2.0)).statistics()
    assert statistics.mean.tolist() == [[4.0]]
    assert statistics.std.item() == pytest.approx((5 + 4) ** 0.5)  # Var[mu] = 5, E[sigma^2] = 4


@pytest.mark.parametrize("shape", SHAPES, ids=["grid", "vector"])
def test_restore_inverts_standardise(shape):
    statistics = some_latents(shape).statistics()
    z = randn(5, *shape, seed=3) * 10
    torch.testing.assert_close(statistics.restore(statistics.standardise(z)), z)
    again = LatentStatistics(**statistics.state())
    assert torch.equal(again.standardise(z), statistics.standardise(z))


def test_a_constant_channel_does_not_divide_by_zero():
    latents = with_nothing_told(torch.ones(3, 1, 2), torch.zeros(3, 1, 2))
    assert torch.isfinite(latents.statistics().standardise(torch.ones(1, 2))).all()


def test_draw_is_named_by_seed_and_step():
    latents, index = some_latents((6,)), np.arange(16)
    first = latents.draw(index, 0, 7)[0]
    latents.draw(index, 0, 8)  # draws in between change nothing
    assert first.shape == (16, 6) and torch.equal(first, latents.draw(index, 0, 7)[0])
    assert not torch.equal(first, latents.draw(index, 0, 8)[0])
    assert not torch.equal(first, latents.draw(index, 1, 7)[0])


def test_draw_uses_every_variant_of_the_image_asked_for():
    mu = torch.arange(12.0).reshape(3, 4, 1)  # image n, variant v: 4 n + v
    latents = with_nothing_told(mu, torch.zeros_like(mu))
    assert len(latents) == 3
    index = np.array([2, 0, 0, 1])
    drawn = torch.cat([latents.draw(index, 0, step)[0] for step in range(50)], dim=1).long()  # [4, 50]
    assert (drawn // 4 == torch.from_numpy(index)[:, None]).all()
    counts = torch.bincount((drawn % 4).flatten(), minlength=4)
    assert counts.min() > 30
    assert not torch.equal(drawn[1], drawn[2])  # the same image twice in a batch: two draws


def test_draw_spreads_as_the_posterior_says():
    mu, sigma = torch.zeros(1, 1, 2), torch.tensor([0.5, 3.0]).reshape(1, 1, 2)
    z = torch.cat([with_nothing_told(mu, sigma).draw(np.zeros(64, dtype=np.int64), 0, step)[0] for step in range(100)])
    torch.testing.assert_close(z.std(dim=0), torch.tensor([0.5, 3.0]), rtol=0.05, atol=0)
    assert abs(float(torch.corrcoef(z.T)[0, 1])) < 0.05


def pictures(count=5):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8) for i in range(count)]


def first_pixels(x):
    """A stand-in for an encoder: two means and two logvars an image."""
    flat = x.flatten(1)
    return flat[:, :2], flat[:, 2:4]


def encode(augment, variants=1, batch_size=2, num_workers=0, check=lambda: None):
    return encode_variants(
        first_pixels,
        pictures(),
        augment,
        variants,
        batch_size=batch_size,
        num_workers=num_workers,
        device=torch.device("cpu"),
        check=check,
    )


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (4, 0), (100, 0), (4, 2)])
def test_encode_variants_keeps_images_and_variants_apart(batch_size, num_workers):
    augment = Augment("balanced", 8, 0, "cache")
    latents = encode(augment, 3, batch_size, num_workers)
    assert latents.mu.shape == latents.sigma.shape == (5, 3, 2)
    for n, image in enumerate(pictures()):
        for v in range(3):
            mu, logvar = first_pixels(to_tensor(augment(image, v, n)[None]))
            torch.testing.assert_close(latents.mu[n, v], mu[0])
            torch.testing.assert_close(latents.sigma[n, v], (0.5 * logvar[0]).exp())
    assert len({tuple(row.tolist()) for row in latents.mu.reshape(-1, 2)}) == 15


def test_draw_tells_the_augmentation_of_the_variant_drawn():
    augment = Augment("conditioned", 8, 0, "cache", plain_first=True)
    latents, index = encode(augment, 4), np.arange(5)
    assert not latents.augment[:, 0].any()  # the image as it is
    sharp = Latents(latents.mu, torch.zeros_like(latents.mu), latents.augment)  # draws are means
    for step in range(10):
        z, told = sharp.draw(index, 0, step)
        for n in index:
            matches = (latents.mu[n] == z[n]).all(dim=1)
            assert matches.any() and (latents.augment[n, matches] == told[n]).all(dim=1).any()


def test_encode_without_augmentation():
    latents = encode(Augment("none", 8, 0, "cache"))
    wanted, _ = first_pixels(to_tensor(np.stack([fit_square(image, 8) for image in pictures()])))
    torch.testing.assert_close(latents.mu[:, 0], wanted)


def test_encoding_can_be_stopped():
    def stop():
        raise Interrupted("SIGTERM", 143)

    with pytest.raises(Interrupted):
        encode(Augment("none", 8, 0, "cache"), check=stop)
