"""Whole trajectories against the schedulers of diffusers, on the same predictions and the same fresh noise."""

import math

import diffusers.schedulers.scheduling_ddpm as scheduling_ddpm
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from stepwise.diffusion import samplers, schedule
from stepwise.diffusion.objective import read
from stepwise.foundation.errors import UserError
from stepwise.foundation.seeds import noise_like

NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}
SHAPE = (2, 3, 4, 4)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers
START = noise_like(SHAPE, 0, "start").double()


def fresh_noise(i):
    return noise_like(SHAPE, 0, "fresh", i).double()


def network(kind, prediction, steps=None):
    """A bounded guess of x0, nonlinear in x and t, said as eps or v."""
    alpha_bar = schedule.build(kind, 1000).alpha_bar

    def net(x, t):
        x0 = torch.tanh(1.3 * x + math.sin(t / 70)) + 0.2 * torch.cos(3 * x.flip(-1))
        signal, sigma = float(alpha_bar[t]) ** 0.5, (1 - float(alpha_bar[t])) ** 0.5
        eps = (x - signal * x0) / sigma
        return eps if prediction == "eps" else signal * eps - sigma * x0

    return net


def ours(kind, prediction, sampler, steps, eta=0.0):
    plan, net, path = schedule.build(kind, 1000), network(kind, prediction), []

    def predict(x, t):
        path.append(x)
        return read(net(x, t), x, float(plan.alpha_bar[t]), prediction)

    end = samplers.sample(sampler, predict, START, plan, steps, fresh_noise, eta)
    return [*path, end]


def theirs(scheduler, kind, prediction, steps, step):
    net, x, path = network(kind, prediction), START, [START]
    scheduler.set_timesteps(steps)
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        a = torch.cat([scheduler.alphas_cumprod[scheduler.timesteps], torch.ones(1)]).double()
        torch.testing.assert_close(scheduler.sigmas.double(), ((1 - a) / a).sqrt(), rtol=1e-5, atol=1e-6)
        scheduler.sigmas = ((1 - a) / a).sqrt()
    for i, t in enumerate(scheduler.timesteps):
        x = step(net(x, int(t)), t, x, i)
        path.append(x)
    return path


def diffusers_scheduler(cls, kind, prediction, **options):
    """Their tables are float32, which loses 1e-4 where alpha_bar of cosine is 2e-9: there they get ours."""
    scheduler = cls(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule=NAMES[kind],
        prediction_type=PREDICTIONS[prediction],
        timestep_spacing="trailing",
        **options,
    )
    if kind == "cosine":
        scheduler.alphas_cumprod = schedule.build(kind, 1000).alpha_bar
    return scheduler


def assert_same_path(found, wanted, tolerance=1e-4):
    assert len(found) == len(wanted)
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert ((a - b).abs().max() / b.abs().max()).item() < tolerance, f"step {i}"
    assert (found[-1] - found[0]).abs().max() > 0.1


kinds = pytest.mark.parametrize("kind", list(NAMES))
predictions = pytest.mark.parametrize("prediction", list(PREDICTIONS))


@kinds
@predictions
@pytest.mark.parametrize("steps", [10, 50, 1000])
def test_ddpm_is_that_of_diffusers(monkeypatch, kind, prediction, steps):
    scheduler = diffusers_scheduler(DDPMScheduler, kind, prediction, clip_sample=False)
    drawn = iter(range(steps))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda shape, **options: fresh_noise(next(drawn)))
    path = theirs(scheduler, kind, prediction, steps, lambda out, t, x, i: scheduler.step(out, t, x).prev_sample)
    assert_same_path(ours(kind, prediction, "ddpm", steps), path)


@kinds
@predictions
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_ddim_is_that_of_diffusers(kind, prediction, eta, steps):
    scheduler = diffusers_scheduler(DDIMScheduler, kind, prediction, clip_sample=False, set_alpha_to_one=True)

    def step(out, t, x, i):
        noise = fresh_noise(i) if eta else None
        return scheduler.step(out, int(t), x, eta=eta, variance_noise=noise).prev_sample

    assert_same_path(ours(kind, prediction, "ddim", steps, eta), theirs(scheduler, kind, prediction, steps, step))


@kinds
@predictions
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_dpmpp_is_that_of_diffusers(kind, prediction, steps):
    scheduler = diffusers_scheduler(
        DPMSolverMultistepScheduler,
        kind,
        prediction,
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
    )
    path = theirs(scheduler, kind, prediction, steps, lambda out, t, x, i: scheduler.step(out, t, x).prev_sample)
    assert_same_path(ours(kind, prediction, "dpmpp", steps), path)


@kinds
@pytest.mark.parametrize("steps", [7, 30, 50])
def test_ddim_with_eta_one_is_ddpm(kind, steps):
    found, wanted = ours(kind, "v", "ddim", steps, eta=1.0), ours(kind, "v", "ddpm", steps)
    assert_same_path(found, wanted, tolerance=1e-9)


@kinds
@pytest.mark.parametrize("sampler", samplers.CHOICES)
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_a_perfect_predictor_ends_at_x0(kind, sampler, steps):
    plan, x0, seen = schedule.build(kind, 1000), noise_like(SHAPE, 0, "x0").double(), []

    def predict(x, t):
        seen.append(t)
        a = float(plan.alpha_bar[t])
        return x0, (x - a**0.5 * x0) / (1 - a) ** 0.5

    x = samplers.sample(sampler, predict, START, plan, steps, fresh_noise, 0.5)
    torch.testing.assert_close(x, x0, rtol=0, atol=1e-12)
    assert seen == plan.sampling_steps(steps)


def test_orders_of_convergence():
    """For Gaussian data the probability flow has a closed form; the error half way down it is measured."""
    plan, m, s = schedule.build("linear", 1000), 0.4, 0.5

    def spread(a):
        return (a * s * s + 1 - a) ** 0.5

    def error(sampler, steps):
        path = []

        def predict(x, t):
            a = float(plan.alpha_bar[t])
            eps = (1 - a) ** 0.5 * (x - a**0.5 * m) / spread(a) ** 2
            path.append((a, x))
            return (x - (1 - a) ** 0.5 * eps) / a**0.5, eps

        samplers.sample(sampler, predict, START, plan, steps, fresh_noise, 0.0)
        start, (half, x) = path[0][0], path[steps // 2]
        exact = half**0.5 * m + spread(half) * (START - start**0.5 * m) / spread(start)
        return float((x - exact).abs().mean())

    assert 3.5 < error("dpmpp", 50) / error("dpmpp", 100) < 4.5
    assert 1.8 < error("ddim", 50) / error("ddim", 100) < 2.2


@pytest.mark.parametrize("sampler", samplers.CHOICES)
def test_no_gradient_is_kept(sampler):
    x = START.clone().requires_grad_()
    plan = schedule.build("linear", 100)
    assert not samplers.sample(sampler, lambda x, t: (x, x), x, plan, 3, fresh_noise, 1.0).requires_grad


@pytest.mark.parametrize("sampler", samplers.CHOICES)
@pytest.mark.parametrize("steps", [0, 101])
def test_wrong_counts_are_refused(sampler, steps):
    plan = schedule.build("linear", 100)
    with pytest.raises(UserError, match=f"{steps} sampling steps"):
        samplers.sample(sampler, lambda x, t: (x, x), START, plan, steps, fresh_noise, 0.0)


@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("dpmpp", 0.0)])
def test_deterministic_samplers_draw_nothing(sampler, eta):
    plan = schedule.build("cosine", 100)
    samplers.sample(sampler, lambda x, t: (0.1 * x, x), START, plan, 10, None, eta)


def test_fresh_noise_is_asked_for_by_step_number():
    for sampler in ("ddpm", "ddim"):
        asked = []

        def noise(i, asked=asked):
            asked.append(i)
            return fresh_noise(i)

        samplers.sample(sampler, lambda x, t: (0.1 * x, x), START, schedule.build("linear", 100), 5, noise, 1.0)
        assert asked == [0, 1, 2, 3]
