"""What 3D gathers to judge, and with which autoencoder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import draw_images

from stepwise.data.folders import read_labels
from stepwise.foundation.devices import Device
from stepwise.foundation.errors import UserError
from stepwise.training import material
from stepwise.training.material import Autoencoders, Material, Real, gather


@pytest.fixture
def gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """gathered(given, draw) on two folders of real images; each checkpoint's autoencoder is named after it."""
    monkeypatch.setattr(material, "parent_vae", lambda checkpoint: checkpoint.with_name(f"vae of {checkpoint.name}"))
    monkeypatch.setattr(material, "load_vae", lambda path, device: SimpleNamespace(path=path, sha256=None))
    folders = [draw_images(tmp_path / name, size=16 + 16 * i) for i, name in enumerate(("train", "heldout", "own"))]
    real = [Real(*read_labels(folder)) for folder in folders[:2]]

    def call(names: tuple[str, ...], draw) -> Material:
        given = {"own": folders[2]} | {name: tmp_path / name for name in names}
        for name in names:
            (tmp_path / name).touch()
        vaes = Autoencoders(None, Device(torch.device("cpu"), None))
        return gather(*real, given, vaes, draw, lambda: None, image_size=None, at_least=16)

    return call


def test_a_model_that_cannot_draw_lends_no_autoencoder(gathered, tmp_path: Path) -> None:
    def draw(name: str, checkpoint: Path, vae: SimpleNamespace) -> Path:
        assert vae.path.name == f"vae of {name}"
        if name == "retrained.pt":
            raise UserError("another autoencoder by now")
        return tmp_path / "own"

    alone = gathered(("retrained.pt",), draw)
    assert alone.vae is None and [one.name for one in alone.sets] == ["own"]
    assert alone.notes[0] == "retrained.pt was left out: another autoencoder by now"
    assert any(note.startswith("Without --vae-checkpoint there is no reconstruction") for note in alone.notes)

    both = gathered(("retrained.pt", "fine.pt", "later.pt"), draw)
    assert both.vae.path.name == "vae of fine.pt", "the first that was drawn from"
    assert [one.name for one in both.sets] == ["own", "fine.pt", "later.pt"]
    assert not any(note.startswith("Without") for note in both.notes)


def test_sets_are_compared_at_the_size_of_the_smallest(gathered) -> None:
    found = gathered((), None)
    assert found.size == 48 and found.train.images.shape[1:3] == (48, 48)
    assert len(found.held_out) == 12 and not found.overlap and found.seen == {"own": None}
