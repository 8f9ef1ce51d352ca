"""benchmarks/speed.py: whom it compiles, what fused projections change, what a process has held."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
import torch
from launch import ENVIRONMENT, REPOSITORY


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


def rows(kind: str, speeds: dict[str, list[float]]) -> list:
    """The eager contenders, with what they will measure of images a second, turn by turn (1, where nothing is said)."""
    from speed_cases import Case, contenders
    from speed_turns import Row

    class Scripted(Row):
        def turn(self) -> None:
            said = speeds.get(self.contender.setting, [1.0])
            self.images_per_second.append(said[len(self.images_per_second) % len(said)])

    return [Scripted(contender, Case(kind, "")) for contender in contenders(kind, quick=False)]


@pytest.mark.parametrize("kind", ["vae", "unet"])
def test_diffusers_is_compiled_in_both_layouts(kind: str) -> None:
    from speed_turns import to_compile

    found, medians = to_compile(rows(kind, {}), repeats=3)
    assert [(one.name, one.setting) for one in found] == [
        ("stepwise compiled", ""),
        ("diffusers compiled", "contiguous"),
        ("diffusers compiled", "channels last"),
    ]
    assert medians == {}  # nothing to choose: no turn is taken for it


def test_what_is_compiled_of_a_layout_is_chosen_by_the_median() -> None:
    from speed_turns import to_compile

    speeds = {
        "contiguous": [9.0, 1.0, 1.0],  # the fastest in the first turn only
        "contiguous, half weights, fused projections": [2.0, 3.0, 3.0],
        "channels last, fused projections": [2.0, 2.0, 2.0],
    }
    eager = rows("sampling", speeds)
    assert len(eager) == 9
    eager[-1].error, speeds[eager[-1].contender.setting] = "no memory", [99.0]
    found, medians = to_compile(eager, repeats=3)
    assert [one.setting for one in found] == ["", *list(speeds)[1:3]]
    assert all(one.compiled for one in found)
    assert {name: medians[name] for name in list(speeds)[:3]} == {
        name: median(turns) for name, turns in list(speeds.items())[:3]
    }
    assert medians["stepwise"] == 1.0
    assert all(row.images_per_second == [] for row in eager)  # all take turns once more, beside the compiled ones


def test_fused_projections_change_no_output() -> None:
    diffusers = pytest.importorskip("diffusers")
    from speed_theirs import fuse_projections

    torch.manual_seed(0)
    small = {"block_out_channels": (8, 16), "norm_num_groups": 4}
    halves = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = diffusers.AutoencoderKL(latent_channels=2, **halves, **small)
    levels = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    unet = diffusers.UNet2DModel(8, 2, 2, **levels, **small)
    z, t = torch.randn(2, 2, 8, 8), torch.tensor([3, 900])
    for net, output in ((vae, lambda: vae.decode(z).sample), (unet, lambda: unet(z, t).sample)):
        net.eval()
        with torch.no_grad():
            before = output()
            fuse_projections(net)
            calls = []
            for name, module in net.named_modules():
                if name.endswith("to_qkv"):
                    module.register_forward_hook(lambda *_, name=name, calls=calls: calls.append(name))
            torch.testing.assert_close(output(), before, rtol=1e-4, atol=1e-5)
        assert calls  # the fused product is what has been computed


@pytest.mark.skipif(sys.platform == "win32", reason="nobody counts it there")
def test_the_peak_memory_of_a_process(tmp_path: Path) -> None:
    """Told by a process without torch: what one holds when it starts another counts as the other's peak."""
    script, teller = tmp_path / "held.py", tmp_path / "teller.py"
    teller.write_text(
        "import os, sys, types, speed_runs\n"
        f"print(*speed_runs._run([{str(script)!r}], types.SimpleNamespace(env=dict(os.environ))))\n"
    )

    def told(source: str) -> subprocess.CompletedProcess:
        script.write_text(source)
        env = {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY / "benchmarks")}
        return subprocess.run([sys.executable, str(teller)], env=env, capture_output=True, text=True, check=False)

    (_, large), (_, small) = (
        map(float, told(source).stdout.split()) for source in ("held = b'x' * (200 * 2**20)\ndel held\n", "")
    )
    assert 200 < large < 300 and 0 < small < 100
    failed = told("import sys\nprint('where it was')\nsys.exit('and what was wrong')\n")
    assert failed.returncode == 1 and failed.stderr.startswith("held.py failed:")
    assert "where it was" in failed.stderr and "and what was wrong" in failed.stderr
