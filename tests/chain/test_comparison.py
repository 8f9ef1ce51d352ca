"""How the comparison shares its minutes out. Its scripts are not run: what it would start is written down."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import draw_images
from launch import SCRIPTS

Trainings = dict[str, float]


def compare(base: Path, monkeypatch: pytest.MonkeyPatch, *flags: object, stop_in: str = "") -> Trainings:
    """The minutes of each training that the comparison would start, by its folder in the comparison's.

    The training into the folder `stop_in` ends with exit code 143, as a stopped one; everything else goes well.
    """
    output, minutes = base / "comparison", {}

    def instead(command: list[str]) -> int:
        script, arguments = Path(command[1]), command[2:]
        if script == SCRIPTS["2A"]:
            for name in {path.name[:4] for path in (base / "data/corel").iterdir()}:
                (output / f"training_data/corel/class_{name}").mkdir(parents=True)
        if script not in (SCRIPTS["3A"], SCRIPTS["3B"]):
            return 0
        args = runpy.run_path(str(script))["parse_args"](arguments)
        folder = Path(args.output_dir).relative_to(output).as_posix()
        assert args.resume == "auto" and folder not in minutes, "what was trained before counts, and once"
        minutes[folder] = args.max_minutes
        return 143 if folder == stop_in else 0

    main: Callable[[list[str]], int] = runpy.run_path(str(SCRIPTS["comparison"]))["main"]
    monkeypatch.setitem(main.__globals__, "run_to_its_end", instead)
    argv = ["--base-dir", str(base), "--num-workers", "0", *map(str, flags)]
    if stop_in:
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 143
    else:
        assert main(argv) == 0
    return minutes


def per_class(count: int, minutes: float) -> Trainings:
    return {f"diffusion/per-class/class_{number:04d}": minutes for number in range(1, count + 1)}


@pytest.mark.parametrize(
    ("minutes", "regimes", "classes", "expected"),
    [
        (80, (), 3, {"vae": 20, **per_class(3, 20 / 3), "diffusion/unified": 20, "diffusion/class-conditional": 20}),
        (7, ("unified", "per-class"), 2, {"vae": 1.75, "diffusion/unified": 2.625, **per_class(2, 1.3125)}),
        (0.5, ("class-conditional",), 2, {"vae": 0.125, "diffusion/class-conditional": 0.375}),
    ],
)
def test_a_quarter_of_the_minutes_is_the_autoencoders_and_each_regime_has_an_equal_part_of_the_rest(
    minutes: float,
    regimes: tuple[str, ...],
    classes: int,
    expected: Trainings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw_images(tmp_path / "data/corel", classes=classes, each=1)
    flags = ("--minutes", minutes, *(("--regimes", *regimes) if regimes else ()))
    given = compare(tmp_path, monkeypatch, *flags)
    assert given == pytest.approx(expected, abs=1e-4), "4 digits are handed on"
    assert sum(given.values()) == pytest.approx(minutes, abs=1e-3)


def test_a_comparison_that_goes_on_gives_every_training_the_minutes_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are minutes in all: with --resume auto the stopped training has what is left of them."""
    draw_images(tmp_path / "data/corel", each=1)
    stopped = compare(tmp_path, monkeypatch, "--minutes", 12, stop_in="diffusion/unified")
    rest = compare(tmp_path, monkeypatch, "--minutes", 12)
    assert stopped.keys() & rest.keys() == {"diffusion/unified"}
    assert stopped["diffusion/unified"] == rest["diffusion/unified"]
    assert sum({**stopped, **rest}.values()) == pytest.approx(12, abs=1e-3)
