"""Start the project's scripts in processes that fork from one which has imported torch already.

Importing torch and albumentations takes seconds, a tiny training run less than one. The forked
process has its own arguments, folder and output, ends with the script's exit code and can be sent
any signal, so for the tests it is a script that starts fast. `cold` starts one as a user does.
"""

from __future__ import annotations

import atexit
import csv
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).parents[1]
CODES = REPOSITORY / "codes"
SCRIPTS = {name: next(CODES.glob(f"{name}-*.py")) for name in ("1A", "2A", "3A", "3B", "3C", "3D", "3E")}
SCRIPTS["comparison"] = CODES / "run-corel-comparison.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(CODES)}

OFFLINE = """
import os, tempfile
for name in ("http_proxy", "https_proxy"):
    os.environ[name] = "http://127.0.0.1:9"
os.environ["TORCH_HOME"] = os.path.join(tempfile.gettempdir(), "no weights here")
"""
_FORKED = """
import os, runpy, subprocess, sys, traceback
MORE = {more!r}

class Forked:
    def __init__(self, command):
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                sys.argv = [*command[1:], *MORE.get(os.path.basename(command[1])[:2], ())]
                runpy.run_path(sys.argv[0], run_name="__main__")
            except SystemExit as ended:
                code = ended.code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def wait(self, timeout):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

subprocess.Popen = Forked
"""


def forked(more: dict[str, tuple]) -> str:
    """For `before` of a script that starts others: they fork too, with `more` flags for "3A", ..., and no network."""
    return OFFLINE + _FORKED.format(more={name: [str(flag) for flag in flags] for name, flags in more.items()})


class Process:
    """A script that runs. `code` is its exit code, negative for a signal, None while it runs."""

    def __init__(self, server: Server, request: dict):
        self.server, self.code = server, None
        self.log = Path(request["log"])
        self.pid = server.ask(request)["pid"]

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.server.ask({"poll": self.pid})["code"]
        return self.code

    def wait(self, seconds: float = 120.0) -> int:
        """The exit code; a process that has not ended after `seconds` is killed and fails the test."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise AssertionError(f"still running after {seconds} s:\n{self.out}{self.err}")
            time.sleep(0.01)
        return self.code

    def send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def out(self) -> str:
        return self.log.with_suffix(".out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.log.with_suffix(".err").read_text(errors="replace")


def wait_for(what: Callable[[], object], seconds: float = 90.0, job: subprocess.Popen | None = None) -> None:
    """Until `what` is true, while `job` runs; fails the test if the job ends or the time is up before that."""
    end = time.monotonic() + seconds
    while not what():
        assert job is None or job.poll() is None, job.stdout and job.stdout.read()
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_together(
    server: Server, count: int, script: str, *flags: object, before: str = "", whole: bool = False
) -> list[Process]:
    """`count` processes of one run, with the environment that torchrun gives them."""
    address = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    places = [{**address, "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(count)]
    befores = [f"import os; os.environ.update({place})\n{before}" for place in places]
    return [server.start(script, *flags, before=own, whole=whole) for own in befores]


def run_together(
    server: Server,
    count: int,
    script: str,
    *flags: object,
    before: str = "",
    seconds: float = 120.0,
    whole: bool = False,
) -> list[Process]:
    processes = start_together(server, count, script, *flags, before=before, whole=whole)
    for process in processes:
        process.wait(seconds)
    return processes


def fine(processes: list[Process]) -> list[Process]:
    """`processes`, which have ended with 0."""
    for process in processes:
        assert process.code == 0, process.out + process.err
    return processes


def curve(folder: Path) -> list[dict[str, float]]:
    """metrics.csv of a run folder, a row an epoch."""
    with (folder / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def failed(process: Process, *words: str) -> str:
    """Checks that `process` ended as on a user's mistake and named `words`; its error of one to three lines."""
    assert process.code == 2, process.out + process.err
    assert "Traceback" not in process.err
    before, found, message = process.err.partition("error: ")
    assert found, process.err
    assert before == "" or before[-1] == "\n", f"the error does not start a line: {process.err!r}"
    assert 1 <= len(message.splitlines()) <= 3
    for word in words:
        assert word in message
    return message


class Server:
    """The process that scripts fork from. `close` ends it."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.count = 0
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=ENVIRONMENT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, request: dict) -> dict:
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(
        self, script: str, *flags: object, cwd: Path = REPOSITORY, before: str = "", whole: bool = False
    ) -> Process:
        """Start script "3A", ...; `before` is Python that runs ahead of it, to make it fail or hurry.

        A `whole` one ends as an interpreter does to the last, which takes seconds.
        """
        self.count += 1
        request = {
            "argv": [str(SCRIPTS[script]), *map(str, flags)],
            "cwd": str(cwd),
            "before": before,
            "whole": whole,
            "log": f"{self.folder.name}/{self.count}",
        }
        return Process(self, request)

    def run(self, script: str, *flags: object, cwd: Path = REPOSITORY, before: str = "") -> Process:
        process = self.start(script, *flags, cwd=cwd, before=before)
        process.wait()
        return process

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


def cold(script: Path | str, *flags: object, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess:
    """Run a script in an interpreter of its own; `script` is a path as typed in `cwd`."""
    command = [sys.executable, str(script), *map(str, flags)]
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def _serve() -> None:
    import albumentations  # noqa: F401
    import jinja2  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch._dynamo
    import torch.utils.tensorboard  # noqa: F401
    import torch_fidelity.feature_extractor_inceptionv3  # noqa: F401
    import torchmetrics.functional.image  # noqa: F401
    from matplotlib import pyplot  # noqa: F401
    from PIL import Image

    import stepwise.data.augment
    import stepwise.models.presets
    import stepwise.training.denoising
    import stepwise.training.loop
    import stepwise.training.pretrained
    import stepwise.training.quality_report
    import stepwise.training.vae  # noqa: F401

    Image.init()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            answer = {"pid": os.fork()}
            if answer["pid"] == 0:
                _become(request)
        print(json.dumps(answer), flush=True)


def _become(request: dict) -> None:
    for stream, suffix in ((1, "out"), (2, "err")):
        handle = os.open(f"{request['log']}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream)
        os.close(handle)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    if request["whole"]:
        _run(request["before"])
    try:
        _run(request["before"])
    except SystemExit as ended:
        code = ended.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    _leave(code)


def _run(before: str) -> NoReturn:
    exec(before, {})
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit(0)


def _leave(code: int) -> NoReturn:
    """End as an interpreter does up to its exit functions, but take nothing apart: no module, no library.

    That would write to every page that this process shares with the one it forked from: seconds, many times as long
    as a tiny run. What goes wrong in there (a crash of a library as it is unloaded) only a `whole` process shows.
    """
    threading._shutdown()  # what waits for threads, after telling those of thread pools to end
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        code = 120  # as an interpreter whose output nobody takes
    os._exit(code)


if __name__ == "__main__":
    _serve()
