import itertools

import pytest
import torch
from diffusers import DDPMScheduler

from stepwise.diffusion import schedule
from stepwise.foundation.errors import UserError

DIFFUSERS_NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


@pytest.mark.parametrize("kind", schedule.CHOICES)
def test_alpha_bar_is_that_of_diffusers(kind):
    """Theirs is float32: each of 1000 factors rounds, and 1 - 0.999 at the end of cosine most of all."""
    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule=DIFFUSERS_NAMES[kind]).alphas_cumprod.double()
    ours = schedule.build(kind, 1000)
    assert ours.kind == kind and ours.timesteps == 1000 and ours.alpha_bar.dtype == torch.float64
    torch.testing.assert_close(ours.alpha_bar, theirs, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(ours.alpha_bar, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", schedule.CHOICES)
@pytest.mark.parametrize("timesteps", [10, 100, 250, 1000])
def test_alpha_bar_falls_from_signal_to_noise(kind, timesteps):
    alpha_bar = schedule.build(kind, timesteps).alpha_bar
    assert len(alpha_bar) == timesteps
    assert (alpha_bar.diff() < 0).all() and 0 < alpha_bar[-1] < 1e-2 and 0.9 < alpha_bar[0] * 1.1 < 1.1


def test_linear_keeps_its_end_at_other_lengths():
    """Stretched, a run of 250 steps covers the same way as one of 1000: log alpha_bar is alike."""
    short, long = schedule.build("linear", 250).alpha_bar, schedule.build("linear", 1000).alpha_bar
    torch.testing.assert_close(short[124].log(), long[499].log(), rtol=0.05, atol=0)


@pytest.mark.parametrize("kind", schedule.CHOICES)
def test_noise_is_that_of_diffusers(kind):
    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule=DIFFUSERS_NAMES[kind])
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor([0, 1, 500, 998])
    for shape in ((4, 3, 5, 5), (4, 7)):
        x0, eps = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
        xt = schedule.build(kind, 1000).noise(x0, eps, t)
        torch.testing.assert_close(xt, theirs.add_noise(x0, eps, t), rtol=1e-4, atol=2e-5)


def test_coefficients_have_unit_power_and_the_shape_to_multiply():
    linear = schedule.build("linear", 1000)
    t = torch.arange(0, 1000, 111)
    signal, sigma = linear.coefficients(t, torch.zeros(len(t), 2, 3, 4))
    assert signal.shape == sigma.shape == (len(t), 1, 1, 1) and signal.dtype == torch.float32
    torch.testing.assert_close(signal**2 + sigma**2, torch.ones_like(signal))
    torch.testing.assert_close(signal.flatten().double() ** 2, linear.alpha_bar[t], rtol=1e-5, atol=0)
    torch.testing.assert_close(linear.snr(t), (signal**2 / sigma**2).flatten(), rtol=1e-3, atol=0)


def test_sampling_steps_known_lists():
    linear = schedule.build("linear", 1000)
    assert linear.sampling_steps(10) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert linear.sampling_steps(1000) == list(range(999, -1, -1))
    assert linear.sampling_steps(1) == [999]
    assert schedule.build("cosine", 10).sampling_steps(3) == [9, 6, 2]


@pytest.mark.parametrize("count", [10, 20, 50, 250, 1000])
def test_sampling_steps_are_those_of_diffusers(count):
    theirs = DDPMScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(count)
    assert schedule.build("linear", 1000).sampling_steps(count) == theirs.timesteps.tolist()


@pytest.mark.parametrize(("total", "count"), [(1000, 30), (1000, 7), (1000, 999), (1000, 667), (100, 33), (10, 9)])
def test_uneven_sampling_steps_fall_strictly(total, count):
    steps = schedule.build("linear", total).sampling_steps(count)
    assert len(steps) == count and steps[0] == total - 1 and steps[-1] >= 0
    gaps = [a - b for a, b in itertools.pairwise(steps)]
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("count", [0, -3, 1001])
def test_sampling_steps_refuse_other_counts(count):
    with pytest.raises(UserError, match=f"{count} sampling steps.*from 1 to the 1000"):
        schedule.build("linear", 1000).sampling_steps(count)


@pytest.mark.parametrize(("count", "timesteps"), [(1, 1000), (16, 1000), (16, 10), (1000, 1000), (7, 250)])
def test_spread_takes_one_timestep_of_each_part(count, timesteps):
    rng = torch.Generator().manual_seed(0)
    plan = schedule.build("linear", timesteps)
    for _ in range(20):
        times = plan.spread(torch.randperm(count, generator=rng), torch.rand(count, generator=rng))
        assert times.shape == (count,) and times.dtype == torch.int64
        edges = torch.arange(count + 1) * (timesteps / count)
        ordered = times.sort().values
        assert (ordered >= edges[:-1].floor()).all() and (ordered <= edges[1:]).all() and ordered[-1] < timesteps


def test_spread_leaves_each_timestep_as_likely_and_steadies_the_mean():
    rng = torch.Generator().manual_seed(0)
    plan = schedule.build("linear", 20)
    drawn = [plan.spread(torch.randperm(5, generator=rng), torch.rand(5, generator=rng)) for _ in range(4000)]
    times = torch.stack(drawn)
    for place in range(5):  # whatever its place in the batch
        share = times[:, place].bincount(minlength=20) / len(times)
        assert (share - 1 / 20).abs().max() < 0.015
    alone = torch.randint(20, (4000, 5), generator=rng)
    assert times.double().mean(1).var() < 0.1 * alone.double().mean(1).var()
