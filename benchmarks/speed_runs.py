"""Parts d to h of benchmarks/speed.py: the scripts themselves, started as a user starts them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from speed_cases import FLAT, Case, as_spec, cases
from speed_contenders import in_bytes
from speed_turns import HERE, Settings, once

CODES = HERE.parent / "codes"
SCRIPTS = {path.name[:2]: path for path in sorted(CODES.glob("[0-9][A-Z]-*.py"))}
EPOCHS = ("3A", "3B", FLAT)
FURTHER_EPOCHS = 10  # 3A and 3B draw samples and keep a checkpoint every ten: one of each is among them
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
TINY = ("--batch-size", 4, "--num-workers", 0)
TINY_FLAGS = {
    "3A": ("--image-size", 32, "--base-channels", 8, *TINY),
    "3B": ("--base-channels", 32, "--augment-variants", 2, *TINY),
}


class Ended(NamedTuple):
    """Of a process that did its work: seconds, and the most MiB that it or one it waited for has held."""

    seconds: float
    peak_mib: float  # 0 where nobody counts it (Windows)


@dataclass
class Runs:
    """The scripts on one set of images. `data`: a folder as 2A writes it; None: made with 1A and 2A when needed."""

    settings: Settings
    data: Path | None
    count: int = field(default=0, init=False)
    vaes: dict[str, Path] = field(default_factory=dict, init=False)

    def folder(self, name: str) -> Path:
        self.count += 1
        return self.settings.work / f"{name}-{self.count}"

    def prepared(self) -> Path:
        """The images to train on."""
        if self.data is None:
            work = self.settings.work
            sizes = ("--per-class", 3, "--image-size", 48) if self.settings.quick else ()
            self.start("1A", "--output-dir", work / "drawn", *sizes)
            self.start("2A", "--data-dir", work / "drawn", "--output-dir", work / "prepared", "--no-visualize")
            self.data = work / "prepared" / "corel" / "corel_all"
        return self.data

    def images(self) -> int:
        return sum(path.suffix.lower() in SUFFIXES for path in self.prepared().iterdir())

    def start(self, script: str, *flags: object) -> Ended:
        """A script from its start to its end."""
        return _run([SCRIPTS[script], *flags], self.settings)

    def plain(self, **spec: Any) -> dict[str, Any]:
        """The record of a task of speed_plain.py."""
        record = self.folder("record").with_suffix(".json")
        shared = {"quick": self.settings.quick, "record": str(record), "started": time.time()}
        ended = _run([HERE / "speed_plain.py", json.dumps({**shared, **spec})], self.settings)
        return {**json.loads(record.read_text()), "seconds": ended.seconds}

    def probed(self, script: str, *flags: object, every: int = 0, stop_after: int = 0) -> dict[str, Any]:
        """The record of speed_probe.py about a training script in a new output folder."""
        record = self.folder("record").with_suffix(".json")
        output = self.folder(script)
        common = ("--output-dir", output, "--device", self.settings.device)
        tiny = TINY_FLAGS[script] if self.settings.quick else ()
        losses = ("--perceptual-net", "pyramid", "--adversarial-weight", 0) if script == "3A" else ()
        words = [str(flag) for flag in (*common, *tiny, *losses, *flags)]
        spec = {"script": str(SCRIPTS[script]), "flags": words, "record": str(record), "every": every}
        spec |= {"stop_after": stop_after, "started": time.time()}
        _run([HERE / "speed_probe.py", json.dumps(spec)], self.settings)
        found = json.loads(record.read_text())
        if found["code"] not in (0, 143):  # 143: stopped by the probe
            sys.exit(f"{script} {' '.join(words)} ended with code {found['code']}; its messages are above.")
        return {**found, "output": output}

    def train_vae(self, *flags: object, **notes: int) -> dict[str, Any]:
        size = () if self.settings.quick else ("--image-size", 64)
        return self.probed("3A", "--data-dir", self.prepared(), *size, *flags, **notes)

    def vae(self, latent: str) -> Path:
        """A checkpoint that one epoch of 3A has made: of 64 px for a grid latent, of 128 px for a vector."""
        if latent not in self.vaes:
            flags = ("--data-dir", self.prepared(), "--latent", latent, "--epochs", 1)
            found = self.train_vae("--epochs", 1) if latent == "grid" else self.probed("3A", *flags)
            self.vaes[latent] = found["output"] / "best_model.pt"
        return self.vaes[latent]

    def train_denoiser(
        self, *flags: object, images: Path | None = None, latent: str = "grid", **notes: int
    ) -> dict[str, Any]:
        where = ("--vae-checkpoint", self.vae(latent), "--image-dir", images or self.prepared(), "--class-conditional")
        return self.probed("3B", *where, *flags, **notes)


def _run(command: list[object], settings: Settings) -> Ended:
    """Its output is shown only if it fails, which ends the benchmark."""
    words = [sys.executable, *map(str, command)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        start = time.perf_counter()
        with subprocess.Popen(words, env=settings.env, stdout=output, stderr=subprocess.STDOUT) as process:
            peak = _peak_of(process)
        seconds = time.perf_counter() - start
        output.seek(0)
        if process.returncode:
            sys.exit(f"{Path(words[1]).name} failed:\n{output.read()[-6000:]}")
    return Ended(seconds, peak / 2**20)


def _peak_of(process: subprocess.Popen) -> int:
    """Wait until it ends: the most memory in bytes that it has held; 0 where nobody counts it."""
    if not hasattr(os, "wait4"):
        process.wait()
        return 0
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return in_bytes(usage.ru_maxrss)


def epochs(runs: Runs, script: str) -> list[dict[str, Any]]:
    """Part d: epochs of one of EPOCHS from files, beside a plain loop."""
    settings = runs.settings
    case = cases("c", "cpu", True)[0] if settings.quick else Case("sampling", "epochs")
    networks = {"vae": str(runs.vae("vector"))} if script == FLAT else {"nets": str(runs.folder("nets"))}
    if "nets" in networks:
        once(settings, task="facts", folder=networks["nets"], **as_spec(case))
    further = 1 if settings.quick else FURTHER_EPOCHS
    found: dict[str, list[dict[str, Any]]] = {}

    def ours(name: str, record: dict[str, Any]) -> None:
        images = [steps * case.batch for steps in record["steps"]]
        note(name, record, images)

    def plain(task: str) -> None:
        loop = {"device": settings.device, "epochs": 1 + min(2, further), **networks}
        record = runs.plain(task=task, folder=str(runs.prepared()), case=as_spec(case)["case"], **loop)
        images = [record["images"] * (epoch + 1) for epoch in range(len(record["epochs"]))]
        note("plain loop", record, images)

    def note(name: str, record: dict[str, Any], images: list[int]) -> None:
        ends = record["epochs"]
        first, later = images[0] / ends[0], (images[-1] - images[0]) / (ends[-1] - ends[0])
        print(f"{script} {name}: {first:.3g} images/s in the first epoch, {later:.3g} after it", flush=True)
        others = {key: record[key] for key in ("first_step", "peak_resident_mib")}
        found.setdefault(name, []).append({"first": first, "later": later, **others})

    for _ in range(min(3, settings.repeats)):
        cache = ("--epochs", 1 + further, "--latent-cache", runs.folder("cache"))
        if script == "3A":
            ours("stepwise", runs.train_vae("--epochs", 1 + further))
            plain("3A")
            continue
        latent, task = ("vector", "3B flat") if script == FLAT else ("grid", "3B")
        ours("stepwise, cold latent cache", runs.train_denoiser(*cache, latent=latent))
        ours("stepwise, warm latent cache", runs.train_denoiser(*cache, latent=latent))
        plain(task)
    return [{"script": script, "contender": name, "repeats": rows} for name, rows in found.items()]


def preparation(runs: Runs) -> list[dict[str, Any]]:
    """Part e: 2A, start-up included, on images of any size."""
    settings, images = runs.settings, runs.images()
    source = shutil.copytree(runs.prepared(), runs.folder("source"))  # 2A may write classes.txt beside its images
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: {"images_per_second": [], "peak_resident_mib": []})

    def note(name: str, seconds: float, peak_mib: float) -> None:
        found[name]["images_per_second"].append(images / seconds)
        found[name]["peak_resident_mib"].append(peak_mib)

    for _ in range(min(3, settings.repeats)):
        flags = ("--data-dir", source, "--output-dir", runs.folder("prepared"), "--no-visualize")
        note("stepwise", *runs.start("2A", *flags))
        note("stepwise, once more", *runs.start("2A", *flags))
        loop = runs.plain(task="2A", folder=str(source), output=str(runs.folder("rewritten")))
        note("plain loop", loop["seconds"], loop["peak_resident_mib"])
    return [{"contender": name, "images": images, **figures} for name, figures in found.items()]


def memory_growth(runs: Runs, steps: int) -> dict[str, Any]:
    """Part f: 3B over many steps on a warm latent cache."""
    every = max(1, min(1000, steps // 5))
    cache = ("--latent-cache", runs.settings.work / "cache-growth")
    runs.train_denoiser(*cache, stop_after=1)
    batch = 4 if runs.settings.quick else 16
    epochs = 2 + steps // max(1, int(0.85 * runs.images()) // batch)  # enough: some images are held back
    never = ("--early-stopping-patience", 0, "--oscillation-window", 0)
    record = runs.train_denoiser(*cache, *never, "--epochs", epochs, every=every, stop_after=steps)
    return {"steps": steps, "first_step": record["first_step"], "samples": record["samples"]}


def many_images(runs: Runs, many: int) -> list[dict[str, Any]]:
    """Part g: an epoch of 3B on few and on many small images: what an image costs, and the memory."""
    quick = runs.settings.quick
    size, batch = (32, 4) if quick else (64, 64)
    found = []
    for count in (many // 2, many) if quick else (min(1000, many), many):
        folder = runs.folder("small-images")
        runs.plain(task="images", folder=str(folder), count=count, image_size=size)
        flags = ("--augment", "none", "--epochs", 1, "--batch-size", batch, "--latent-cache", runs.folder("cache"))
        cold = runs.train_denoiser(*flags, images=folder)
        warm = runs.train_denoiser(*flags, images=folder, stop_after=1)
        trained = batch * (cold["steps"][0] - 1)
        found.append(
            {
                "images": count,
                "encoding_ms": 1000 * (cold["first_step"] - cold["chosen"]) / count,
                "training_ms": 1000 * (cold["epochs"][0] - cold["first_step"]) / max(1, trained),
                "warm_first_step": warm["first_step"] - warm["chosen"],
                "peak_resident_mib": cold["peak_resident_mib"],
            }
        )
        print(found[-1], flush=True)
    return found


def start_up(runs: Runs) -> dict[str, list[float]]:
    """Part h: seconds of --help, and to the first step of a training run."""
    repeats = 1 if runs.settings.quick else 3
    found: dict[str, list[float]] = {}
    for path in sorted(CODES.glob("*.py")):
        found[f"{path.name} --help"] = [_run([path, "--help"], runs.settings).seconds for _ in range(repeats)]
    cache, eager = ("--latent-cache", runs.settings.work / "cache-start"), ("--compile", "off")
    runs.train_denoiser(*cache, *eager, stop_after=1)
    records = [
        (runs.train_vae(*eager, stop_after=1), runs.train_denoiser(*cache, *eager, stop_after=1))
        for _ in range(repeats)
    ]
    for place, name in enumerate(("3A, first step", "3B on a warm latent cache, first step")):
        found[name] = [pair[place]["first_step"] for pair in records]
    return found
