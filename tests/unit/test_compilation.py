import sys
from types import ModuleType

import pytest
import torch

from stepwise.foundation.devices import Device
from stepwise.foundation.errors import UserError
from stepwise.training import compilation

CPU, GPU, MPS = (Device(torch.device(name), None) for name in ("cpu", "cuda", "mps"))


@pytest.fixture
def able(monkeypatch):
    monkeypatch.setattr(compilation, "_lack", lambda device: None)


@pytest.fixture
def unable(monkeypatch):
    monkeypatch.setattr(compilation, "_lack", lambda device: "there is no compiler")


@pytest.mark.parametrize(
    ("device", "steps", "minutes", "wanted"),
    [
        (CPU, 10**9, 10**9, False),
        (GPU, 100, None, False),
        (GPU, 10_000, None, True),
        (GPU, 10_000, 2, False),
        (GPU, 100, 30, True),
        (MPS, 10**9, 10**9, False),
    ],
)
def test_auto_compiles_where_a_run_is_long(able, device, steps, minutes, wanted):
    assert compilation.choose("auto", None, device, steps, minutes) is wanted
    assert compilation.choose("on", None, device, steps, minutes)
    assert not compilation.choose("off", None, device, steps, minutes)


@pytest.mark.parametrize("before", ["on", "off"])
def test_a_resumed_run_computes_as_before_unless_told(able, before):
    state = {"args": {"compile": before}}
    for minutes in (1, 1000):
        assert compilation.choose("auto", state, GPU, 10, minutes) is (before == "on")
    assert compilation.choose("on", state, CPU, 10, None)
    assert not compilation.choose("off", state, CPU, 10, None)
    assert not compilation.choose("auto", {"args": {}}, GPU, 10, 1000), "a checkpoint from before the flag"


def test_without_a_compiler(unable, capsys):
    assert not compilation.choose("auto", None, CPU, 10**9, None)
    with pytest.raises(UserError, match="there is no compiler"):
        compilation.choose("on", None, CPU, 10, None)
    assert not compilation.choose("auto", {"args": {"compile": "on"}}, CPU, 10, None)
    assert "there is no compiler" in capsys.readouterr().out


def test_what_a_machine_lacks_for_a_gpu(monkeypatch, tmp_path):
    capability = [(6, 1)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    assert "older" in compilation._lack_for_gpu(GPU)
    capability[0] = (9, 0)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "triton" in compilation._lack_for_gpu(GPU)
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    monkeypatch.setattr(compilation.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr(compilation.shutil, "which", lambda name: name)
    assert "headers" in compilation._lack_for_gpu(GPU)
    (tmp_path / "Python.h").write_text("")
    assert compilation._lack_for_gpu(GPU) is None
    monkeypatch.setattr(compilation.shutil, "which", lambda name: None)
    assert "C compiler" in compilation._lack_for_gpu(GPU)


def test_what_a_machine_lacks(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "C++ compiler" in compilation._lack(CPU)
