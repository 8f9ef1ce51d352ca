"""A headless Chromium for tests that look at a page, told what to do through a pipe.

https://chromedevtools.github.io/devtools-protocol: JSON objects, each ended by a zero byte.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def _runs(program: str) -> bool:
    """Not so a stub that only tells how to install the browser."""
    return subprocess.run([program, "--version"], capture_output=True, timeout=60).returncode == 0


PROGRAM = next(filter(_runs, filter(None, map(shutil.which, NAMES))), None)
PATIENCE = 60.0  # seconds of silence
_START = """
import os, sys
for given, wanted in zip(sys.argv[1:3], (3, 4)):  # it reads from 3 and writes to 4
    os.dup2(int(given), wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page in a browser of its own, whose profile is kept in `profile`. `close` ends it."""

    def __init__(self, program: str, profile: Path):
        theirs, self.commands = os.pipe()
        self.answers, ours = os.pipe()
        flags = ("--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run")
        machine = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")  # works for root and in a container
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs), str(ours), program, *flags, *machine],
            pass_fds=(theirs, ours),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(ours)
        self.count, self.buffer, self.session = 0, b"", {}
        self.events: list[dict[str, Any]] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        page = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Page.setLifecycleEventsEnabled", enabled=True)

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """The answer to a command of the protocol; events that come meanwhile go into `events`."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params, **self.session}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            assert select.select([self.answers], [], [], PATIENCE)[0], f"the browser was silent for {PATIENCE:.0f} s"
            part = os.read(self.answers, 2**20)
            assert part, "the browser has ended"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def show(self, page: Path, width: int, scheme: str) -> None:
        """Load the file `page`: `width` CSS pixels wide, as a phone's if below 600, in a "light" or "dark" scheme."""
        screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **screen)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        loader = self.ask("Page.navigate", url=page.as_uri())["loaderId"]
        loaded = {"loaderId": loader, "name": "load"}
        while not any(loaded.items() <= event["params"].items() for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """What the JavaScript `expression` is in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """What the page has written to the console, and its errors."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [event["params"] for event in self.events if event["method"] in kinds]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.commands)
        os.close(self.answers)
