import pytest
import torch
from torch import nn

from stepwise.models import normalisation
from stepwise.models.normalisation import GroupNorm

SHAPES = [
    (3, 32, 8, 6, 4),
    (2, 96, 4, 4, 12),
    (2, 32, 5, 7, 2),
    (1, 8, 1, 1, 1),
]  # the last: groups


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_torch_in_float64(
    shape: tuple[int, ...], memory: torch.memory_format, dtype: torch.dtype
) -> None:
    *size, groups = shape
    own, exact = GroupNorm(groups, size[1], 1e-5), nn.GroupNorm(groups, size[1], 1e-5).double()
    with torch.no_grad():
        own.weight.copy_(torch.randn(size[1], generator=torch.Generator().manual_seed(0)))
        exact.weight.copy_(own.weight)
    draw = torch.Generator().manual_seed(1)
    x = (3 * torch.randn(*size, generator=draw) + 2).to(dtype, memory_format=memory).requires_grad_()
    dy = torch.randn(*size, generator=draw).to(dtype, memory_format=memory)
    x64 = x.detach().double().requires_grad_()
    wanted = exact(x64)
    found = own(x)
    found.backward(dy)
    wanted.backward(dy.double())
    tolerance = {"rtol": 0.01, "atol": 0.02} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(found.double(), wanted, **tolerance)
    torch.testing.assert_close(x.grad.double(), x64.grad, **tolerance)
    tight = {"rtol": 1e-4, "atol": 1e-3}  # sums in float32, though of numbers in bfloat16
    torch.testing.assert_close(own.weight.grad.double(), exact.weight.grad, **tight)
    torch.testing.assert_close(own.bias.grad.double(), exact.bias.grad, **tight)
    assert found.dtype == x.grad.dtype == dtype


def test_the_way_of_its_own_is_taken_and_keeps_the_memory_layout() -> None:
    norm = GroupNorm(4, 32)
    x = torch.randn(2, 32, 4, 4).to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
    y = norm(x)
    assert "FewChannels" in type(y.grad_fn).__name__
    y.sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    assert "FewChannels" not in type(norm(x.float()).grad_fn).__name__


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("at_once", [2**20, 300], ids=["whole", "in parts"])
def test_scale_and_shift_without_a_gradient_are_those_with_one(
    memory: torch.memory_format, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalisation, "AT_ONCE", at_once)
    draw = torch.Generator().manual_seed(2)
    norm = GroupNorm(4, 32)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(32, generator=draw))
        norm.bias.copy_(torch.randn(32, generator=draw))
    x = torch.randn(3, 32, 4, 5, generator=draw).to(torch.bfloat16, memory_format=memory)
    scale, shift = torch.randn(2, 3, 32, generator=draw).to(torch.bfloat16)
    exact = nn.functional.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)
    wanted = exact * (1 + scale.double()[:, :, None, None]) + shift.double()[:, :, None, None]
    for own, target in ((norm(x.requires_grad_(), scale, shift), wanted), (norm(x), exact)):
        assert own.grad_fn is not None
        torch.testing.assert_close(own.double(), target, rtol=0.02, atol=0.05)
    with torch.no_grad():
        for own, target in ((norm(x, scale, shift), wanted), (norm(x), exact)):
            assert own.dtype == torch.bfloat16 and own.is_contiguous(memory_format=memory)
            torch.testing.assert_close(own.double(), target, rtol=0.005, atol=1e-6)  # one rounding
        torch.testing.assert_close(norm(x.float(), scale.float(), shift.float()).double(), wanted, rtol=1e-4, atol=1e-5)
