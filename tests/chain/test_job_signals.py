"""cloud/job.sh: a signal is not lost, whenever it comes. With stand-ins for the interpreter."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from launch import ENVIRONMENT, REPOSITORY

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

# Before the command {at} of the {nth} stage is carried out, the shell that runs job.sh gets the signal {name}.
SIGNALLED_AT = """
. "{script}"
set -T
count=0
before() {{
    if [ "$BASH_COMMAND" = '{at}' ]; then
        count=$((count + 1))
        if [ $count -eq {nth} ]; then kill -s {name} $$; fi
    fi
}}
trap before DEBUG
for number in 1 2; do
    stage vae --output-dir $number || exit $?
done
"""


def run(tmp_path: Path, trains: str, **place: object) -> tuple[int, list[str]]:
    """Two stages, the training of each being the lines of bash `trains`; the exit code and what these noted."""
    (tmp_path / "standin").write_text(f"#!/bin/bash\nnotes='{tmp_path}/notes'\n{trains}\n")
    (tmp_path / "standin").chmod(0o755)
    script = SIGNALLED_AT.format(script=REPOSITORY / "cloud/job.sh", **place)
    environment = {**ENVIRONMENT, "BASE_DIR": str(tmp_path), "PYTHON": str(tmp_path / "standin"), "GPUS": "1"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    notes = tmp_path / "notes"
    return done.returncode, notes.read_text().split() if notes.exists() else []


@pytest.mark.parametrize(("name", "code"), [("USR1", 99), ("TERM", 143)])
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("at", ["started=$!", "sleep 0.2", "child=$started"])
def test_a_signal_to_a_training_that_just_starts_reaches_it(
    tmp_path: Path, at: str, nth: int, name: str, code: int
) -> None:
    trains = f'if [ ! -e "{tmp_path}/first" ] && [ {nth} = 2 ]; then touch "{tmp_path}/first"; exit; fi\n'
    trains += "sleep 5 > /dev/null 2>&1\necho untouched >> $notes"
    assert run(tmp_path, trains, at=at, nth=nth, name=name) == (code, [])


@pytest.mark.parametrize(("name", "code"), [("USR1", 99), ("TERM", 143)])
def test_a_signal_between_two_stages_starts_no_other(tmp_path: Path, name: str, code: int) -> None:
    found = run(tmp_path, "echo trained >> $notes", at='return "$code"', nth=1, name=name)
    assert found == (code, ["trained"])
