"""The choice of a device: a GPU that stays unused is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stepwise.foundation import devices
from stepwise.foundation.errors import UserError


@pytest.fixture
def idle_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that shows an NVIDIA GPU which torch cannot use."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(devices, "shows_nvidia_gpu", lambda: True)
    monkeypatch.delenv("RANK", raising=False)


@pytest.mark.parametrize(("cuda", "words"), [("13.2", "driver is too old"), (None, "Install a torch with CUDA")])
def test_an_idle_gpu_is_named(idle_gpu: None, monkeypatch, capfd, cuda: str | None, words: str) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert devices.choose("auto").type == "cpu"
    said = capfd.readouterr()
    assert said.out == "" and said.err.startswith("Note: ")
    assert torch.__version__ in said.err and words in said.err and (cuda or "without CUDA") in said.err
    with pytest.raises(UserError, match=words) as refused:
        devices.choose("cuda")
    assert len(str(refused.value).splitlines()) <= 3


def test_nothing_is_said_where_nothing_is_idle(idle_gpu: None, monkeypatch, capfd) -> None:
    devices.choose("cpu")
    monkeypatch.setenv("RANK", "1")
    devices.choose("auto")
    monkeypatch.delenv("RANK")
    monkeypatch.setattr(devices, "shows_nvidia_gpu", lambda: False)
    devices.choose("auto")
    assert capfd.readouterr().err == ""
    with pytest.raises(UserError, match="has none"):
        devices.choose("cuda")


def test_a_gpu_shows_in_the_files_of_its_driver(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    places = [(str(tmp_path / "dev"), "nvidia[0-9]*"), (str(tmp_path / "gpus"), "*")]
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert not devices.shows_nvidia_gpu(places)
    (tmp_path / "gpus/0000:01:00.0").mkdir(parents=True)
    assert devices.shows_nvidia_gpu(places)
    (tmp_path / "dev/nvidia3").touch()
    assert devices.shows_nvidia_gpu(places[:1])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not devices.shows_nvidia_gpu(places), "hidden on purpose"
