import copy

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import aot_eager

from stepwise.foundation.devices import Device
from stepwise.foundation.errors import UserError
from stepwise.models.blocks import Dropout, ResnetBlock2D
from stepwise.training.learner import LOOK_EVERY, MAX_BAD_STEPS, Learner

CPU = Device(torch.device("cpu"), None)


def learner(waits: bool, **options) -> Learner:
    """waits: the CPU looks at every step; otherwise as on a GPU, where the step itself leaves a bad one out."""
    torch.manual_seed(0)
    made = Learner(nn.Linear(3, 2), {"kind": "test"}, CPU, lr=0.1, ema_decay=0.9, **options)
    made.looks_always = waits
    return made


def weights(made: Learner) -> list[torch.Tensor]:
    parts = (*made.net.parameters(), *made.ema_net.parameters())
    return [p.detach().clone() for p in parts]


def step(made: Learner, factor: float = 1.0) -> None:
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    made.update(made.train_net(x).square().mean() * factor)


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(waits: bool, bad: float) -> None:
    made = learner(waits)
    step(made)
    before, moments = weights(made), copy.deepcopy(made.optimizer.state_dict()["state"])
    step(made, bad)
    assert all(torch.equal(a, b) for a, b in zip(weights(made), before, strict=True))
    for number, state in made.optimizer.state_dict()["state"].items():
        assert all(torch.equal(state[name], moments[number][name]) for name in state)
    step(made)
    assert not any(torch.equal(a, b) for a, b in zip(weights(made), before, strict=True))


@pytest.mark.parametrize("waits", [True, False])
def test_a_loss_that_is_not_finite_is_seen_where_its_gradient_is(waits: bool) -> None:
    """The gradient of an absolute error is one, however large the error."""
    made = learner(waits)
    before = weights(made)
    made.update((made.train_net(torch.ones(1, 3)) - float("inf")).abs().mean())
    assert all(torch.equal(a, b) for a, b in zip(weights(made), before, strict=True))
    assert int(made._bad) == 1


def test_looking_or_not_makes_no_difference_to_good_steps() -> None:
    one, other = learner(True), learner(False)
    for _ in range(5):
        step(one)
        step(other)
    for a, b in zip(weights(one), weights(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("waits", [True, False])
def test_only_bad_steps_in_a_row_end_the_run(waits: bool) -> None:
    made = learner(waits)
    for _ in range(3 * MAX_BAD_STEPS):
        step(made, float("nan"))
        step(made)
    with pytest.raises(UserError, match="not finite in 1"):
        for _ in range(MAX_BAD_STEPS + LOOK_EVERY):
            step(made, float("nan"))


@pytest.mark.parametrize("waits", [True, False])
def test_a_bad_part_spoils_the_whole_accumulated_step(waits: bool) -> None:
    made = learner(waits, grad_accum=3)
    before = weights(made)
    for factor in (1.0, float("nan"), 1.0):
        step(made, factor)
    assert all(torch.equal(a, b) for a, b in zip(weights(made), before, strict=True))
    for _ in range(3):
        step(made)
    assert not torch.equal(weights(made)[0], before[0])


def test_state_in_the_middle_of_an_accumulation_is_restored() -> None:
    one, other = learner(True, grad_accum=2), learner(True, grad_accum=2)
    for _ in range(3):
        step(one)
    other.load(copy.deepcopy(one.state()))
    for made in (one, other):
        step(made)
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_a_checkpoint_of_another_kind_of_device_is_stepped_as_this_one_does() -> None:
    """Apple's GPU saves "fused": False, with which AdamW does not know what `looks_always` False hands it."""
    other, here = learner(waits=False), learner(waits=False)
    step(other)
    state = copy.deepcopy(other.state())
    state["optimizer"]["param_groups"][0]["fused"] = False
    here.load(state)
    assert here.optimizer.param_groups[0]["fused"]
    step(here)
    step(other)
    assert all(torch.equal(a, b) for a, b in zip(weights(here), weights(other), strict=True))


@pytest.mark.parametrize("half_done", [False, True])
def test_a_checkpoint_with_another_memory_layout_is_stepped_alike(half_done: bool) -> None:
    """Apple's GPU saves contiguous moments, a CPU steps channels-last weights: by memory, each with another's."""

    def conv() -> Learner:
        torch.manual_seed(0)
        return Learner(nn.Conv2d(3, 4, 3), {"kind": "test"}, CPU, lr=0.1, ema_decay=0.9, grad_accum=1 + half_done)

    def work(made: Learner) -> None:
        made.update(made.train_net(torch.linspace(-1, 1, 75).reshape(1, 3, 5, 5)).square().mean())

    other, here = conv(), conv()
    for _ in range(3):
        work(other)
    state = copy.deepcopy(other.state())
    for moments in state["optimizer"]["state"].values():
        moments.update({name: moment.contiguous() for name, moment in moments.items()})
    state["gradients"] = {name: gradient.contiguous() for name, gradient in state["gradients"].items()}
    assert half_done == bool(state["gradients"])
    here.load(state)
    for made in (here, other):
        for _ in range(2):
            work(made)
    assert all(torch.equal(a, b) for a, b in zip(weights(here), weights(other), strict=True))


def test_compiled_or_not_the_state_has_the_same_names() -> None:
    made = learner(True, compile=True)  # nothing is compiled before the first call
    assert made.train_net is not made.net
    assert list(made.state()["weights"]) == list(made.best_weights()) == ["weight", "bias"]


@pytest.mark.parametrize("parts", [1, 2])
def test_the_graphs_that_are_compiled_learn_as_the_network_does(monkeypatch, parts: int) -> None:
    """Dropout's draws in their order too, those of a part of a batch among them. Inductor is left to the slow tests."""
    graphs, compile = [], torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    monkeypatch.setattr(torch, "compile", lambda net, options: compile(net, backend=backend))

    def losses(compiled: bool) -> list[float]:
        torch.manual_seed(0)
        blocks = (ResnetBlock2D(*channels, groups=2, eps=1e-5, dropout=0.3) for channels in ((4, 8), (8, 4)))
        made = Learner(nn.Sequential(*blocks), {"kind": "test"}, CPU, lr=0.01, ema_decay=0.9, compile=compiled)
        for module in made.net.modules():
            if isinstance(module, Dropout):
                module.part, module.parts = parts - 1, parts
        found = []
        for number in range(4):
            torch.manual_seed(number)
            loss = made.train_net(torch.randn(3, 4, 6, 6)).square().mean()
            made.update(loss)
            found.append(float(loss.detach()))
        return found

    wanted = losses(False)
    assert not graphs and len(set(wanted)) == 4
    assert losses(True) == pytest.approx(wanted, rel=1e-5)
    assert graphs


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_drop_what_the_whole_would(parts: int, memory: torch.memory_format) -> None:
    x = torch.randn(6, 4, 5, 5).to(memory_format=memory)
    dropout = Dropout(0.3)
    torch.manual_seed(1)
    whole = dropout(x)
    assert 0.2 < (whole == 0).float().mean() < 0.4
    found = []
    for part in range(parts):
        dropout.part, dropout.parts = part, parts
        torch.manual_seed(1)
        found.append(dropout(x.chunk(parts)[part]))
    torch.testing.assert_close(torch.cat(found), whole)
    assert torch.equal(dropout.eval()(x), x)
    off = Dropout(0.0)
    off.part, off.parts = 1, 2
    assert off(x).data_ptr() == x.data_ptr(), "no mask of a whole batch where nothing is dropped"


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_a_copy_of_the_weights_leaves_the_training_mode(ema_decay: float | None) -> None:
    """It is taken in the middle of an epoch too, and dropout must go on."""
    made = Learner(nn.Linear(3, 2), {"kind": "test"}, CPU, lr=0.1, ema_decay=ema_decay)
    made.net.train()
    copied = made.best_weights()
    assert made.net.training and copied.keys() == made.net.state_dict().keys()


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_a_copy_is_one_and_can_be_written_over(ema_decay: float | None) -> None:
    made = Learner(nn.Linear(3, 2), {"kind": "test"}, CPU, lr=0.1, ema_decay=ema_decay)
    judged = made.net if ema_decay is None else made.ema_net
    first = made.best_weights()
    before = first["weight"].clone()
    with torch.no_grad():
        judged.weight.add_(1.0)
    assert torch.equal(first["weight"], before), "a copy"
    again = made.best_weights(into=first)
    assert again is first and torch.equal(first["weight"], before + 1.0) and not first["weight"].requires_grad
