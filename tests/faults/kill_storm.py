"""Kill 3A and 3B again and again, resume, and compare every bit with a run that was left alone.

    python tests/faults/kill_storm.py 100 --seed 1

Each round trains both scripts on tiny data. Every attempt of a round is killed with SIGKILL, at a
random moment or on the way through a certain write, rename or link of a checkpoint, and started
again with --resume auto until it ends. Saving after every step keeps the writes frequent. Prints
"N of N" and ends with 1 if a round differs.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "codes")]

import torch  # noqa: E402
from conftest import DENOISER_FLAGS, GRID_FLAGS, draw_images  # noqa: E402
from launch import Server  # noqa: E402

from stepwise.foundation import checkpoints  # noqa: E402

EPOCHS = {"3A": 6, "3B": 10}
MOST_KILLS = 2
SAVE_ALWAYS = "import stepwise.training.state as state\nstate.SAVE_EVERY_S = 0.0\n"
# Die at call number `at` of what writes files, before it is carried out or after.
DIE_IN_A_WRITE = """
import os, pathlib, signal
calls = 0
def deadly(function):
    def called(*arguments, **options):
        global calls
        calls += 1
        if calls == {at} and not {after}:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if calls == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return called
os.fsync, os.link = deadly(os.fsync), deadly(os.link)
pathlib.Path.replace, pathlib.Path.unlink = deadly(pathlib.Path.replace), deadly(pathlib.Path.unlink)
"""


def command(script: str, images: Path, vae: Path, output: Path) -> list[object]:
    """The flags of a tiny run of `script` into `output`."""
    if script == "3A":
        flags = ["--data-dir", images, *GRID_FLAGS]
    else:
        flags = ["--vae-checkpoint", vae / "best_model.pt", "--image-dir", images, *DENOISER_FLAGS]
        flags += ["--class-conditional", "--grad-accum", 2, "--lr-scheduler", "plateau", "--early-stopping-patience", 0]
    return [*flags, "--output-dir", output, "--epochs", EPOCHS[script]]


def storm(server: Server, flags: list[object], script: str, seconds: float, rng: random.Random) -> int:
    """Run `script` to its end through at most MOST_KILLS kills; how many of them struck."""
    for attempt in range(MOST_KILLS + 1):
        before = SAVE_ALWAYS
        if attempt < MOST_KILLS and rng.random() < 0.5:
            before += DIE_IN_A_WRITE.format(at=rng.randint(1, 60), after=rng.random() < 0.5)
        process = server.start(script, *flags, "--resume", "auto", before=before)
        if attempt < MOST_KILLS:
            end = time.monotonic() + rng.uniform(0, seconds)
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.002)
            process.send(signal.SIGKILL)
        code = process.wait()
        if code == 0:
            return attempt
        if code != -signal.SIGKILL:
            raise SystemExit(f"{script} ended with {code}:\n{process.out}{process.err}")
    raise SystemExit(f"{script} did not end")


def differences(a: Path, b: Path) -> list[str]:
    """What differs between two run folders, in checkpoints (but for clock times and paths) and metrics."""
    found = [] if (a / "metrics.csv").read_bytes() == (b / "metrics.csv").read_bytes() else ["metrics.csv"]
    for name in ("last.pt", "best_model.pt"):
        documents = [checkpoints.load(folder / name) for folder in (a, b)]
        for document in documents:
            document.pop("args")
            for clock in ("seconds", "idle"):
                document.get("progress", {}).pop(clock, None)
        found += [f"{name}{place}" for place in unlike(*documents)]
    return found


def unlike(a: object, b: object, place: str = "") -> list[str]:
    """Places in two trees of plain data where they are not the same, to the bit."""
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [place]
    if isinstance(a, dict) and isinstance(b, dict):
        if list(a) != list(b):
            return [f"{place} keys"]
        return [where for key in a for where in unlike(a[key], b[key], f"{place}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [where for i, (x, y) in enumerate(zip(a, b, strict=True)) for where in unlike(x, y, f"{place}/{i}")]
    return [] if type(a) is type(b) and a == b else [place]


def rounds(count: int, seed: int, folder: Path, server: Server) -> tuple[int, int]:
    """Weather `count` storms for each script; the rounds without a difference, and the kills in all."""
    images = draw_images(folder / "images")
    calm = {"3A": folder / "calm-3A", "3B": folder / "calm-3B"}
    seconds = {}
    for script, output in calm.items():
        started = time.monotonic()
        done = server.run(script, *command(script, images, calm["3A"], output), before=SAVE_ALWAYS)
        seconds[script] = time.monotonic() - started
        if done.code != 0:
            raise SystemExit(f"{script} ended with {done.code}:\n{done.out}{done.err}")
    good = kills = 0
    for number in range(count):
        found = []
        for script in calm:
            rng = random.Random(f"{seed}/{number}/{script}")
            output = folder / f"storm-{number}-{script}"
            struck = storm(server, command(script, images, calm["3A"], output), script, seconds[script], rng)
            kills += struck
            found += [f"{script} after {struck} kills: {where}" for where in differences(calm[script], output)]
        for line in found:
            print(f"round {number + 1}: {line}")
        good += not found
    return good, kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", type=int, help="rounds of 3A and 3B")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments to kill at")
    args = parser.parse_args()
    server = Server()
    try:
        with tempfile.TemporaryDirectory() as folder:
            good, kills = rounds(args.rounds, args.seed, Path(folder), server)
    finally:
        server.close()
    print(f"{good} of {args.rounds} rounds without a difference, {kills} kills")
    return 0 if good == args.rounds else 1


if __name__ == "__main__":
    sys.exit(main())
