"""What a script reads, looked for before anything else."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from stepwise.foundation.errors import UserError
from stepwise.training import inputs


def test_a_file_is_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "best_model.pt").touch()
    assert inputs.VAE.require(tmp_path / "best_model.pt") == tmp_path / "best_model.pt"


def test_a_folder_of_a_run_leads_to_its_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Give .*best_model\.pt"):
        (tmp_path / "best_model.pt").touch()
        inputs.DENOISER.require(tmp_path)


@pytest.mark.parametrize("kind", [inputs.VAE, inputs.DENOISER])
def test_what_is_missing_is_named_with_its_script(tmp_path: Path, kind: inputs.Kind) -> None:
    for path in (tmp_path, tmp_path / "absent.pt"):
        with pytest.raises(UserError, match=rf"{kind.what} not found: (?s:.*){kind.script}-train") as found:
            kind.require(path)
        assert kind.flag in str(found.value) and "--base-dir" in str(found.value)


def test_a_given_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").touch()
    given = Namespace(base_dir=str(tmp_path), some_weights="weights.pth", resume="auto")
    assert inputs.given_file(given, "--some-weights") == tmp_path / "weights.pth"
    assert inputs.checkpoint_to_resume(given) is None
    assert inputs.given_file(Namespace(base_dir=".", some_weights=None), "--some-weights") is None
    for wrong, said in ((".", "is a folder"), ("absent", "does not exist")):
        with pytest.raises(UserError, match=f"--some-weights: .*{said}.*\nCheck the path and --base-dir, or not."):
            inputs.given_file(Namespace(base_dir=str(tmp_path), some_weights=wrong), "--some-weights", ", or not")
    with pytest.raises(UserError, match="--resume auto"):
        inputs.checkpoint_to_resume(Namespace(base_dir=str(tmp_path), resume="absent"))


def test_one_process_looks_for_the_checkpoint_early_and_under_torchrun_it_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Namespace(base_dir=str(tmp_path), resume="absent")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(UserError, match="--resume auto"):
        inputs.look_for_checkpoint(given)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    inputs.look_for_checkpoint(given)
