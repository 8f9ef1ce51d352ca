"""Packed convolutions give what plain ones give, to the bit, whatever comes after the first input."""

import pytest
import torch
from torch import nn

from stepwise.models import packing

DTYPES = [
    pytest.param(
        dtype, marks=pytest.mark.skipif(not packing.can_pack(dtype), reason="this build of torch cannot pack"), id=name
    )
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
]


def pair(dtype: torch.dtype, channels: tuple[int, int] = (32, 48), **options) -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    plain, packed = (
        nn.Conv2d(*channels, dtype=dtype, **options).to(memory_format=torch.channels_last).requires_grad_(False)
        for _ in range(2)
    )
    packed.load_state_dict(plain.state_dict())
    packing.pack(packed)
    return plain, packed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 1, "bias": False},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": 1, "groups": 16},
    ],
    ids=str,
)
def test_the_same_to_the_bit(options: dict, dtype: torch.dtype) -> None:
    plain, packed = pair(dtype, **options)
    assert packed.state_dict().keys() == plain.state_dict().keys()
    for batch, side in ((16, 8), (3, 8), (1, 17), (64, 4)):  # the first decides how the weights are laid out
        x = torch.randn(batch, 32, side, side)
        for given in (x.to(dtype), x.to(dtype, memory_format=torch.channels_last), x):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                wanted, found = plain(given), packed(given)
            assert torch.equal(found, wanted) and found.dtype == wanted.dtype
            assert found.is_contiguous(memory_format=torch.channels_last)
    assert packed._conv_forward.weight.is_mkldnn


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_the_same_to_the_bit_at_the_width_of_the_default_network(dtype: torch.dtype, kernel: int, batch: int) -> None:
    """Where sums are long enough for another order of summation to show, on one thread and on two."""
    plain, packed = pair(dtype, (192, 192), kernel_size=kernel, padding=kernel // 2)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            for side in (4, 8):
                x = torch.randn(batch, 192, side, side, dtype=dtype).to(memory_format=torch.channels_last)
                with torch.no_grad():
                    assert torch.equal(packed(x), plain(x))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("other", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}], ids=str)
def test_other_kinds_of_padding_are_left_to_torch(other: dict, dtype: torch.dtype) -> None:
    plain, packed = pair(dtype, kernel_size=3, **other)
    x = torch.randn(2, 32, 8, 8, dtype=dtype)
    assert "_conv_forward" not in packed.__dict__
    assert torch.equal(packed(x), plain(x))


def test_where_torch_cannot_do_it_the_layer_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "can_pack", lambda dtype: False)
    plain, packed = pair(torch.bfloat16, kernel_size=3, padding=1)
    x = torch.randn(2, 32, 8, 8).bfloat16()
    assert "_conv_forward" not in packed.__dict__
    assert torch.equal(packed(x), plain(x))
