"""Flags and YAML configs: strict, forgiving in nothing, and short when they fail."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from launch import ENVIRONMENT

from stepwise.foundation.errors import Interrupted, UserError
from stepwise.foundation.paths import make_folder, resolve
from stepwise.training import cli


@pytest.fixture
def parser() -> cli.Parser:
    parser = cli.Parser("What it does.", "python script.py --epochs 3")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--epochs", type=cli.positive_int, default=300)
    parser.add_argument("--learning-rate", type=cli.positive_float, default=1e-4)
    parser.add_argument("--augment", choices=["none", "light"], default="light")
    parser.add_argument("--no-ema", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="*")
    cli.add_checkpoint_flags(parser)
    cli.add_run_flags(parser)
    return parser


@pytest.fixture
def config(tmp_path: Path):
    def write(text: str) -> str:
        (tmp_path / "config.yaml").write_text(text)
        return str(tmp_path / "config.yaml")

    return write


def refused(parser: cli.Parser, capsys: pytest.CaptureFixture, *argv: str) -> str:
    """What the parser says about `argv` that it refuses: short, exit code 2, no usage."""
    with pytest.raises(SystemExit) as ended:
        cli.parse(parser, list(argv))
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "usage:" not in message
    assert 1 <= len(message.splitlines()) <= 3
    return message


def test_sections_are_headings(parser, config) -> None:
    path = config("data:\n  data-dir: d\ntraining:\n  deep:\n    epochs: 5\n    learning_rate: 5e-4\naugment: none\n")
    args = cli.parse(parser, ["--config", path])
    assert (args.data_dir, args.epochs, args.learning_rate, args.augment) == ("d", 5, 5e-4, "none")


def test_command_line_wins(parser, config) -> None:
    path = config("data-dir: d\nepochs: 5\nno-ema: true\n")
    assert cli.parse(parser, ["--epochs", "7", "--config", path]).epochs == 7
    assert cli.parse(parser, [f"--config={path}", "--epochs", "7"]).epochs == 7
    assert cli.parse(parser, ["--config", path]).epochs == 5


def test_switches_take_true_and_false(parser, config, capsys) -> None:
    assert cli.parse(parser, ["--config", config("data-dir: d\nno-ema: true\n")]).no_ema is True
    assert cli.parse(parser, ["--config", config("data-dir: d\nno-ema: false\n")]).no_ema is False
    assert "takes true or false" in refused(parser, capsys, "--config", config("data-dir: d\nno-ema: 1\n"))


@pytest.mark.parametrize("written", ["0010", "off", "1_000", "12:30", "2026-11-21", "'null'", "1.50"])
def test_values_arrive_as_they_are_written(parser, config, written: str) -> None:
    """YAML 1.1 itself would read eight, false, 1000, 750, a date."""
    assert cli.parse(parser, ["--config", config(f"data-dir: {written}\n")]).data_dir == written.strip("'")


def test_lists_nulls_and_empty_files(parser, config) -> None:
    assert cli.parse(parser, ["--config", config("data-dir: d\nsizes: [1, 2]\nepochs: null\n")]).sizes == [1, 2]
    assert cli.parse(parser, ["--data-dir", "d", "--config", config("")]).epochs == 300
    assert cli.parse(parser, ["--config", config("data-dir: -starts with a dash\n")]).data_dir == "-starts with a dash"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data-dir: d\nlerning-rate: 1e-3\n", ["unknown key 'lerning-rate'", "did you mean learning-rate?"]),
        ("data-dir: d\nhelp: true\n", ["unknown key 'help'"]),
        ("data-dir: d\nconfig: other.yaml\n", ["unknown key 'config'"]),
        ("data-dir: d\nepochs: many\n", ["--epochs", "a whole number above 0", "'many'"]),
        ("data-dir: d\nepochs: 2.5\n", ["--epochs", "'2.5'"]),
        ("data-dir: d\nepochs: -3\n", ["--epochs", "'-3'"]),
        ("data-dir: d\nepochs: true\n", ["--epochs", "true"]),
        ("data-dir: d\nepochs: [1, 2]\n", ["2"]),
        ("data-dir: d\naugment: heavy\n", ["--augment", "heavy", "light"]),
        ("epochs: 3\n", ["--data-dir"]),
        ("data-dir: d\nepochs: 1\nepochs: 2\n", ["'epochs' stands twice"]),
        ("data-dir: d\na:\n  epochs: 1\nb:\n  epochs: 2\n", ["epochs", "twice"]),
        ("data-dir: d\nlearning-rate: 1\nlearning_rate: 2\n", ["learning", "twice"]),
        ("- data-dir\n", ["`flag: value` lines"]),
        ("data-dir: [\n", ["not valid YAML"]),
        ("data-dir: !!python/object/apply:os.system ['true']\n", ["not valid YAML"]),
        ("a: &a\n  b: *a\n", ["config"]),
    ],
)
def test_bad_configs(parser, config, capsys, text: str, says: list[str]) -> None:
    message = refused(parser, capsys, "--config", config(text))
    for words in says:
        assert words in message


def test_absent_and_binary_config(parser, config, capsys, tmp_path: Path) -> None:
    assert "cannot read --config" in refused(parser, capsys, "--config", str(tmp_path / "absent.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "not valid YAML" in refused(parser, capsys, "--config", str(tmp_path / "binary.yaml"))
    assert "--config" in refused(parser, capsys, "--config")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--data-dir"),
        (["--data-dir", "d", "--epoch", "3"], "--epoch"),
        (["--data-dir", "d", "--epochs", "0"], "a whole number above 0"),
        (["--data-dir", "d", "--learning-rate", "nan"], "a number above 0"),
        (["--data-dir", "d", "--learning-rate", "inf"], "a number above 0"),
        (["--data-dir", "d", "--seed", "-1"], "0 or more"),
        (["--data-dir", "d", "--device", "tpu"], "--device"),
    ],
)
def test_bad_flags(parser, capsys, flags: list[str], says: str) -> None:
    assert says in refused(parser, capsys, *flags)


@pytest.mark.parametrize(("flag", "meant"), [("--seeds", "--seed"), ("--base_dir=x", "--base-dir"), ("--xyz", None)])
def test_a_mistyped_flag_gets_a_hint(parser, capsys, flag: str, meant: str | None) -> None:
    said = refused(parser, capsys, "--data-dir", "d", flag)
    assert (f"did you mean {meant}?" in said) if meant else "mean" not in said


def test_fraction_is_below_one(parser, capsys) -> None:
    parser.add_argument("--share", type=cli.fraction)
    assert cli.parse(parser, ["--data-dir", "d", "--share", "0"]).share == 0
    for bad in ("1", "-0.1", "nan"):
        assert "from 0 up to" in refused(parser, capsys, "--data-dir", "d", f"--share={bad}")


def test_help_shows_example_and_defaults(parser) -> None:
    text = parser.format_help()
    assert "example:\n  python script.py --epochs 3" in text
    assert "(default: 3)" in " ".join(text.split())  # --keep-checkpoints
    assert "(default: None)" not in text
    assert "(default: False)" not in text


def test_base_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("/base dir", "a/b.png") == Path("/base dir/a/b.png")
    assert resolve("/base", "/elsewhere/b.png") == Path("/elsewhere/b.png")
    assert resolve(".", "a") == Path("a")
    assert resolve("~/base", "a") == tmp_path / "base/a"
    assert resolve("/base", "~/a") == tmp_path / "a"
    assert make_folder(tmp_path / "x y/z").is_dir()
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(UserError, match="a file is in the way"):
            make_folder(tmp_path / path)


def ending(error: BaseException, capsys: pytest.CaptureFixture) -> tuple[int, str, str]:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.run_script(main)
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.fixture
def handlers():
    """run_script installs signal handlers: put pytest's back."""
    import signal

    before = {name: signal.getsignal(getattr(signal, name)) for name in cli.StopSignal.codes if hasattr(signal, name)}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


def test_user_errors_end_with_2(handlers, capsys) -> None:
    code, _, err = ending(UserError("Too small.\nMake it larger."), capsys)
    assert (code, err) == (2, "error: Too small.\nMake it larger.\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
    ],
)
def test_out_of_memory_gets_advice(handlers, capsys, error: Exception) -> None:
    code, _, err = ending(error, capsys)
    assert code == 2
    assert err.startswith("error: Out of memory.")
    assert len(err.splitlines()) <= 3
    for flag in ("--batch-size", "--grad-accum", "--image-size", "--num-workers 0"):
        assert flag in err


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ...: a bug"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("Connection closed by peer"),  # which it has not: it is alone
    ],
)
def test_a_bug_keeps_its_traceback(handlers, monkeypatch, error: Exception) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as some clusters do for every job
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def main() -> int:
        raise error

    with pytest.raises(RuntimeError) as found:
        cli.run_script(main)
    assert found.value is error


# What gloo says where another process has ended, as it was heard or spoken to.
LOST = "[pair.cc:534] Connection closed by peer [127.0.0.1]:4711"
LOST_IN_WRITING = "[pair.cc:460] writev [127.0.0.1]:4711: Broken pipe"


@pytest.mark.parametrize(("trains", "message"), [(False, LOST), (True, LOST), (True, LOST_IN_WRITING)])
def test_a_process_that_lost_another_points_to_its_error(
    handlers, capsys, monkeypatch, trains: bool, message: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(cli.stop_signal, "together", trains)
    code, _, err = ending(RuntimeError(message), capsys)
    assert code == 2 and err.startswith("error: Another process of this run has ended.\nIts own error says why")
    assert ("--resume auto" in err) is trains, "3C has no such flag, and nothing is saved before the training"


@pytest.mark.parametrize(("system", "quote"), [("posix", "'"), ("nt", '"')])
def test_the_next_command_can_be_typed(monkeypatch, system: str, quote: str) -> None:
    """cmd.exe does not know single quotes."""
    monkeypatch.setattr(cli, "os", SimpleNamespace(name=system))
    monkeypatch.setattr(cli.sys, "argv", ["codes/3A.py"])
    given = argparse.Namespace(base_dir=".")
    command = cli.next_command("3B.py", given, "--image-dir", "my photos")
    assert command == f"python codes/3B.py --image-dir {quote}my photos{quote}"


def test_full_disk_and_signals(handlers, capsys) -> None:
    code, _, err = ending(OSError(28, "No space left on device", "grid.png"), capsys)
    assert code == 2
    assert "grid.png" in err
    for name, expected in (("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 0)):
        code, out, err = ending(Interrupted(name, expected), capsys)
        assert code == expected
        assert name in out
        assert err == ""


def test_a_missing_package_is_named(handlers, capsys) -> None:
    code, _, err = ending(ModuleNotFoundError("No module named 'cv2'", name="cv2"), capsys)
    assert code == 2 and "cv2 is not installed" in err and "requirements.txt" in err
    with pytest.raises(ModuleNotFoundError):
        cli.run_script(lambda: __import__("stepwise.absent"))


def test_bugs_keep_their_traceback(handlers) -> None:
    def main() -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        cli.run_script(main)


def test_cli_imports_no_torch() -> None:
    code = "import sys, stepwise.training.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
