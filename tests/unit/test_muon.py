import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from stepwise.foundation.devices import Device
from stepwise.foundation.errors import UserError
from stepwise.training.learner import Learner
from stepwise.training.muon import RMS, Muon, by_products, by_squares, matrices_of, orthogonalised

CPU = Device(torch.device("cpu"), None)


@pytest.mark.parametrize("shape", [(2, 20, 50), (2, 50, 20), (1, 32, 32)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    steep = u @ torch.diag_embed(torch.logspace(0, -1.5, u.shape[-1])) @ v
    found = orthogonalised(7 * steep)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.linalg.matrix_norm(found - u @ v, 2).max() < 0.4  # the same singular vectors


def test_both_ways_are_one() -> None:
    """On matrices as gradients are: a few directions, and all the others thousands of times weaker."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(3, 128, 1152, generator=generator), full_matrices=False)
    x = u @ torch.diag_embed(torch.logspace(-0.5, -4.5, 128)) @ v
    wanted = by_products(x.double()).float()
    for way in (by_products, by_squares):
        torch.testing.assert_close(way(x), wanted, rtol=0, atol=2e-4)


def test_a_step_has_the_size_of_adamw_s() -> None:
    weight = nn.Parameter(torch.zeros(32, 16, 3, 3))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    Muon([weight], 0.01).step()
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.01 * RMS, rel=0.2)
    assert float((weight.detach() * weight.grad).sum()) < 0


def test_layers_and_layouts_do_not_matter() -> None:
    """Matrices of one shape are orthogonalised together, in whatever way they lie in memory."""

    def stepped(count: int, memory: torch.memory_format) -> torch.Tensor:
        weights = [nn.Parameter(torch.zeros(16, 16, 3, 3).to(memory_format=memory)) for _ in range(count)]
        for number, weight in enumerate(weights):
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
        Muon(weights, 0.1).step()
        return weights[0].detach()

    alone = stepped(1, torch.contiguous_format)
    torch.testing.assert_close(stepped(3, torch.contiguous_format), alone, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(stepped(2, torch.channels_last), alone, rtol=1e-4, atol=1e-6)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))


def learner(waits: bool = True, **options: object) -> Learner:
    made = Learner(net(), {"kind": "test"}, CPU, lr=0.01, ema_decay=0.9, muon=True, **options)
    made.looks_always = waits
    return made


def step(made: Learner, factor: float = 1.0, number: int = 0) -> float:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(number))
    loss = (made.train_net(x) - x).square().mean()
    made.update(loss * factor)
    return float(loss.detach())


def weights(made: Learner) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in made.net.parameters()]


def test_only_matrices_with_many_directions() -> None:
    made = net()
    assert [id(weight) for weight in matrices_of(made)] == [id(made[0].weight)]  # the last has 3 rows
    assert matrices_of(nn.Embedding(64, 64)) == [] and len(matrices_of(nn.Linear(16, 16))) == 1


@pytest.mark.parametrize("waits", [True, False])
def test_it_learns_and_a_bad_step_changes_nothing(waits: bool) -> None:
    changes_nothing_when_bad(learner(waits))


def test_with_loss_scaling_too() -> None:
    made = Learner(net(), {"kind": "test"}, replace(CPU, dtype=torch.float16), lr=0.01, ema_decay=0.9, muon=True)
    scale = made.scaler.get_scale()
    changes_nothing_when_bad(made)
    assert scale > 1 and made.scaler.get_scale() < scale


def changes_nothing_when_bad(made: Learner) -> None:
    losses = [step(made, number=number) for number in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    assert made.updates == 30
    before, momentum = weights(made), copy.deepcopy(made.muon.state_dict()["state"])
    step(made, float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(weights(made), before, strict=True))
    assert torch.equal(made.muon.state_dict()["state"][0]["momentum"], momentum[0]["momentum"])
    step(made)
    assert not any(torch.equal(a, b) for a, b in zip(weights(made), before, strict=True))


def test_a_run_that_goes_on_takes_the_same_steps() -> None:
    one, other = learner(grad_accum=2), learner(grad_accum=2)
    for number in range(3):
        step(one, number=number)
    other.load(copy.deepcopy(one.state()))
    for made in (one, other):
        step(made, number=3)
        made.set_lr(0.001)
        step(made, number=4)
        step(made, number=5)
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_the_learning_rate_is_that_of_all_weights() -> None:
    made = learner()
    before = weights(made)
    made.set_lr(0.0)
    step(made)
    assert all(torch.equal(a, b) for a, b in zip(weights(made), before, strict=True))


def test_a_run_of_the_other_optimizer_does_not_go_on() -> None:
    adamw = Learner(net(), {"kind": "test"}, CPU, lr=0.01, ema_decay=0.9)
    earlier = adamw.state()
    del earlier["muon"]  # as before there was a choice
    with pytest.raises(UserError, match="--optimizer adamw"):
        learner().load(earlier)
    adamw.load(earlier)
