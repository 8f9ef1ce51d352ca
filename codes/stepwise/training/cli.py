"""Flags: groups that scripts share, strict YAML configs, and how a script ends.

Nothing here imports torch, so `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from stepwise.foundation import torchrun
from stepwise.foundation.errors import STOP_SIGNALS, Interrupted, UserError
from stepwise.training.config import config_flags, did_you_mean

OUT_OF_MEMORY_ADVICE = (
    "Out of memory. Reduce --batch-size (16 -> 8 -> 4); when training, raise --grad-accum to keep the\n"
    "effective batch. Or train the VAE at a smaller --image-size (128 -> 64); 3D has one of its own.\n"
    "--num-workers 0 saves RAM."
)


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the example's line breaks and shows every default that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False) or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser with an example, no abbreviations, and errors of one or two lines."""

    def __init__(self, description: str, example: str):
        super().__init__(
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        mistyped = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        message += did_you_mean(mistyped[1], self._option_string_actions) if mistyped else ""
        sys.stderr.write(f"error: {message}\nSee every flag with: python {sys.argv[0]} --help\n")
        raise SystemExit(2)


def add_run_flags(
    parser: Parser, *, device: bool = True, workers: bool = True, seed: int | None = 42, seeded: bool = True
) -> None:
    """The flags that every script has."""
    group = parser.add_argument_group("run")
    group.add_argument("--config", metavar="FILE.yaml", help="flags from a YAML file; the command line wins over it")
    group.add_argument("--base-dir", default=".", help="relative paths are resolved against this folder")
    seed_help = "random seed" if seed is not None else "random seed (default: drawn anew, printed and recorded)"
    if seeded:
        group.add_argument("--seed", type=non_negative_int, default=seed, help=seed_help)
    if device:
        group.add_argument("--device", choices=["auto", "cuda", "mps", "cpu"], default="auto", help="where to compute")
    if workers:
        group.add_argument(
            "--num-workers", type=non_negative_int, default=4, help="processes that prepare images; 0: none"
        )


def add_compile_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--compile",
        choices=["auto", "on", "off"],
        default="auto",
        help="compile the network; auto: for long runs on a GPU",
    )


def add_checkpoint_flags(parser: Parser) -> None:
    """The flags of every training script for its checkpoints."""
    group = parser.add_argument_group("checkpoints")
    group.add_argument(
        "--resume", metavar="auto|PATH", help="continue: the newest intact checkpoint, or this one (not best_model.pt)"
    )
    group.add_argument("--overwrite", action="store_true", help="replace the run that the output folder holds")
    group.add_argument(
        "--keep-checkpoints", type=positive_int, default=3, help="numbered checkpoints to keep, newest first"
    )


def parse(parser: Parser, argv: list[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, with the keys of a `--config` file placed before it as flags."""
    argv = list(sys.argv[1:] if argv is None else argv)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    finder.error = parser.error  # type: ignore[method-assign]
    config = finder.parse_known_args(argv)[0].config
    args = parser.parse_args((config_flags(parser, Path(config)) if config else []) + argv)
    if getattr(args, "resume", None) == "auto" and args.overwrite:
        parser.error("--resume auto continues the run in --output-dir, --overwrite replaces it: give one of them")
    return args


def remark_unused(parser: Parser, args: argparse.Namespace, why: str, *names: str) -> None:
    """Say so where one of the flags `names` was set to something that has no effect, and `why`; and set it back.

    No error: it may stand in a --config that several runs share. Of several processes the first one says it.
    """
    for name in names:
        value, default = getattr(args, name), parser.get_default(name)
        if value and value != default and torchrun.is_first():
            print(f"Note: --{name.replace('_', '-')} {value} has no effect {why}.")
        setattr(args, name, default)


def positive_int(text: str) -> int:
    return _number(text, int, lambda n: n > 0, "a whole number above 0")


def non_negative_int(text: str) -> int:
    return _number(text, int, lambda n: n >= 0, "a whole number of 0 or more")


def positive_float(text: str) -> float:
    return _number(text, float, lambda x: 0 < x < float("inf"), "a number above 0")


def non_negative_float(text: str) -> float:
    return _number(text, float, lambda x: 0 <= x < float("inf"), "a number of 0 or more")


def noise_level(text: str) -> float:
    return float("inf") if text.lower() in ("inf", ".inf") else non_negative_float(text)


def fraction(text: str) -> float:
    return _number(text, float, lambda x: 0 <= x < 1, "a number from 0 up to, not including, 1")


def _number(text: str, kind: type, allowed: Callable[[Any], bool], words: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not allowed(value):
        raise argparse.ArgumentTypeError(f"takes {words}, found '{text}'")
    return value


def next_command(script: str, args: argparse.Namespace, *flags: str) -> str:
    """The command line of the step that follows, as the user would type it from where this one was started."""
    base_dir = () if args.base_dir == "." else ("--base-dir", args.base_dir)
    words = ["python", str(Path(sys.argv[0]).parent / script), *flags, *base_dir]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def bar_interval() -> float:
    """Seconds between updates of a progress bar: few lines in a log file, a lively one on a terminal."""
    return 0.5 if sys.stderr.isatty() else 20.0


class StopSignal:
    """The last stop signal received: set by the handler, raised as Interrupted by `check`.

    Handlers only take a note, so that no save is ever cut in half; long work calls `check` at
    its safe points. A second Ctrl-C ends at once. What nohup started stays deaf to SIGHUP. Where
    several processes train together, they can only stop `together`: `check` then does nothing, and
    `stop_on` is told what they agreed upon.
    """

    codes: ClassVar = STOP_SIGNALS

    def __init__(self) -> None:
        self.name: str | None = None
        self.together = False

    def install(self) -> None:
        for name in self.codes:
            if hasattr(signal, name) and not (name == "SIGHUP" and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN):
                signal.signal(getattr(signal, name), self._note)

    def _note(self, number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and self.name == "SIGINT":
            raise KeyboardInterrupt
        self.name = name
        # not through sys.stderr, which may be in the middle of a write when the signal comes
        with suppress(OSError):  # whoever read it may have ended by the same signal, as `| tee` does
            os.write(2, f"\n{name} received: stopping at the next safe point.\n".encode())

    @property
    def number(self) -> int:
        """The signal received as a number from 1 on, 0 for none."""
        return [None, *self.codes].index(self.name)

    def check(self) -> None:
        """Raise Interrupted if a stop signal has come."""
        if not self.together:
            self.stop_on(self.number)

    def stop_on(self, number: int) -> None:
        """Raise Interrupted for a `number` above 0."""
        if number:
            self.name = list(self.codes)[number - 1]
            raise Interrupted(self.name, self.codes[self.name])


stop_signal = StopSignal()


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and end the process: 0, or 2 with one to three lines for what a user can mend."""
    stop_signal.install()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an editor's console may have none
            stream.reconfigure(errors="backslashreplace")  # a log file on Windows may know few letters
    try:
        code = main() or 0
    except UserError as error:
        code = _fail(str(error))
    except Interrupted as stop:
        print(f"Stopped by {stop.signal_name} before there was anything to save. Run the same command again.")
        code = stop.exit_code
    except KeyboardInterrupt:
        code = 130
    except ModuleNotFoundError as error:
        if (error.name or "stepwise").startswith("stepwise"):
            raise
        code = _fail(f"The package {error.name} is not installed.\nRun: pip install -r requirements.txt")
    except MemoryError:
        code = _fail(OUT_OF_MEMORY_ADVICE)
    except BrokenPipeError:
        if not _flush_output():
            raise
        code = stop_signal.codes.get(stop_signal.name, 141)  # nobody reads any more: `| head`, say
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        code = _fail(f"The disk is full: cannot write {error.filename or 'the output'}.\nFree some space and resume.")
    except RuntimeError as error:
        if torchrun.several() and any(word in str(error).lower() for word in ("connection", "broken pipe")):
            then = "; then use --resume auto" if stop_signal.together else ""  # before that nothing was saved
            code = _fail(f"Another process of this run has ended.\nIts own error says why{then}.")
        elif is_out_of_memory(error):
            code = _fail(OUT_OF_MEMORY_ADVICE)
        else:
            raise
    _flush_output()
    sys.exit(code)


def _flush_output() -> bool:
    """Write out what waits, and nothing later, when an output that is gone would change the exit code.

    Returns whether one is gone.
    """
    gone = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            gone = True
    return gone


def is_out_of_memory(error: BaseException) -> bool:
    """True for the ways in which torch says that memory ran out, on any device."""
    words = ("out of memory", "not enough memory", "allocate memory", "alloc_failed", "shared memory")
    text = str(error).lower()
    killed = "dataloader worker (pid" in text  # a worker's own error says 'in DataLoader worker process 0'
    return isinstance(error, MemoryError) or killed or any(word in text for word in words)


def _fail(message: str) -> int:
    _flush_output()
    with suppress(OSError):
        sys.stderr.write(f"error: {message}\n")
    return 2
