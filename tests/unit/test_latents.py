import numpy as np
import pytest
import torch
from PIL import Image

from stepwise.data.augment import PARAMETERS, Augment
from stepwise.data.folders import content_digest
from stepwise.data.latents import Latents, LatentStatistics, encode_files
from stepwise.foundation.errors import Interrupted, UserError
from stepwise.foundation.images import fit_square, to_tensor

SHAPES = [(4, 3, 3), (6,)]


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


ALL = slice(None)


def with_nothing_told(mu, sigma):
    told = torch.zeros(*mu.shape[:2], PARAMETERS)
    return Latents(torch.stack([mu, sigma], dim=2), told, np.arange(len(mu)), torch.device("cpu"))


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
    z = statistics.standardise(torch.cat([latents.draw(everything, ALL, 0, step)[0] for step in range(400)]))
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
    first = latents.draw(index, ALL, 0, 7)[0]
    latents.draw(index, ALL, 0, 8)  # draws in between change nothing
    assert first.shape == (16, 6) and torch.equal(first, latents.draw(index, ALL, 0, 7)[0])
    assert not torch.equal(first, latents.draw(index, ALL, 0, 8)[0])
    assert not torch.equal(first, latents.draw(index, ALL, 1, 7)[0])


def test_rows_of_a_batch_are_those_of_the_whole():
    latents, index = some_latents((4, 3, 3)), np.arange(16)
    whole = latents.draw(index, ALL, 0, 7)[0]
    parts = [latents.draw(index, slice(start, start + 4), 0, 7)[0] for start in range(0, 16, 4)]
    assert torch.equal(torch.cat(parts), whole)


def test_a_part_of_the_images_is_numbered_by_itself():
    everything = some_latents((4, 3, 3))
    index = np.array([40, 3, 17])
    part = Latents(everything.posterior, everything.told, index, everything.device)
    alone = with_nothing_told(everything.posterior[index, :, 0], everything.posterior[index, :, 1])
    assert len(part) == 3 and part.latent_shape == (4, 3, 3)
    assert torch.equal(part.means(), alone.means())
    assert torch.equal(part.statistics().std, alone.statistics().std)
    batch = np.array([2, 0])
    assert torch.equal(part.draw(batch, ALL, 0, 1)[0], alone.draw(batch, ALL, 0, 1)[0])


def test_draw_uses_every_variant_of_the_image_asked_for():
    mu = torch.arange(12.0).reshape(3, 4, 1)  # image n, variant v: 4 n + v
    latents = with_nothing_told(mu, torch.zeros_like(mu))
    assert len(latents) == 3
    index = np.array([2, 0, 0, 1])
    drawn = torch.cat([latents.draw(index, ALL, 0, step)[0] for step in range(50)], dim=1).long()  # [4, 50]
    assert (drawn // 4 == torch.from_numpy(index)[:, None]).all()
    counts = torch.bincount((drawn % 4).flatten(), minlength=4)
    assert counts.min() > 30
    assert not torch.equal(drawn[1], drawn[2])  # the same image twice in a batch: two draws


def test_draw_spreads_as_the_posterior_says():
    mu, sigma = torch.zeros(1, 1, 2), torch.tensor([0.5, 3.0]).reshape(1, 1, 2)
    latents, index = with_nothing_told(mu, sigma), np.zeros(64, dtype=np.int64)
    z = torch.cat([latents.draw(index, ALL, 0, step)[0] for step in range(100)])
    torch.testing.assert_close(z.std(dim=0), torch.tensor([0.5, 3.0]), rtol=0.05, atol=0)
    assert abs(float(torch.corrcoef(z.T)[0, 1])) < 0.05


def pictures(count=5):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8) for i in range(count)]


def first_pixels(x):
    """A stand-in for an encoder: two means and two logvars an image."""
    flat = x.flatten(1)
    return flat[:, :2], flat[:, 2:4]


@pytest.fixture
def files(tmp_path):
    """`pictures` as PNG files."""
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path, picture in zip(paths, pictures(), strict=True):
        Image.fromarray(picture).save(path)
    return paths


def encode(files, augment, variants=1, batch_size=2, num_workers=0, check=lambda: None):
    cpu = torch.device("cpu")
    options = {"batch_size": batch_size, "num_workers": num_workers, "device": cpu, "check": check}
    batches = list(encode_files(first_pixels, files, 32, augment, variants, **options))
    assert [digest for batch in batches for digest in batch.digests] == list(map(content_digest, pictures()))
    posterior, told = (torch.from_numpy(np.concatenate([batch[i] for batch in batches])) for i in (0, 1))
    return Latents(posterior, told, np.arange(5), cpu)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (4, 0), (100, 0), (4, 2)])
def test_encoding_keeps_images_and_variants_apart(files, batch_size, num_workers):
    augment = Augment("balanced", 8, 0, "cache")
    latents = encode(files, augment, 3, batch_size, num_workers)
    assert latents.posterior.shape == (5, 3, 2, 2)
    for n, image in enumerate(pictures()):
        for v in range(3):
            mu, logvar = first_pixels(to_tensor(augment(image, v, n)[None]))
            torch.testing.assert_close(latents.posterior[n, v, 0], mu[0])
            torch.testing.assert_close(latents.posterior[n, v, 1], (0.5 * logvar[0]).exp())
    assert len({tuple(row.tolist()) for row in latents.posterior[:, :, 0].reshape(-1, 2)}) == 15


def test_draw_tells_the_augmentation_of_the_variant_drawn(files):
    augment = Augment("conditioned", 8, 0, "cache", plain_first=True)
    latents, index = encode(files, augment, 4), np.arange(5)
    assert not latents.told[:, 0].any()  # the image as it is
    latents.posterior[:, :, 1] = 0  # draws are means
    for step in range(10):
        z, told = latents.draw(index, ALL, 0, step)
        for n in index:
            matches = (latents.posterior[n, :, 0] == z[n]).all(dim=1)
            assert matches.any() and (latents.told[n, matches] == told[n]).all(dim=1).any()


def test_encode_without_augmentation(files):
    latents = encode(files, Augment("none", 8, 0, "cache"))
    wanted, _ = first_pixels(to_tensor(np.stack([fit_square(image, 8) for image in pictures()])))
    torch.testing.assert_close(latents.means(), wanted)


def test_encoding_can_be_stopped(files):
    def stop():
        raise Interrupted("SIGTERM", 143)

    with pytest.raises(Interrupted):
        encode(files, Augment("none", 8, 0, "cache"), check=stop)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named(files, num_workers):
    files[3].write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"3\.png"):
        encode(files, Augment("none", 8, 0, "cache"), num_workers=num_workers)
