"""The coursework's comparison: one model per class, one unified, one class-conditional, from 2A to the report.

Runs the numbered scripts one after the other, each as a user would; what is done is kept, what is
half done is resumed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import make_folder, resolve, write_atomically
from stepwise.training import cli, inputs

CODES = Path(__file__).resolve().parent
REGIMES = ("per-class", "unified", "class-conditional")
VAE_SHARE = 0.25  # of --minutes; the regimes share the rest equally


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        "Train one model per class, one unified and one class-conditional model on a dataset and compare them.",
        "python codes/run-corel-comparison.py --data-dir data/corel --minutes 80",
    )
    what = parser.add_argument_group("what")
    what.add_argument("--data-dir", default="data/corel", help="images, as 2A takes them")
    what.add_argument("--output-dir", default="comparison", help="where everything is written")
    what.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES), help="which models to train")
    minutes = "training time in all: a quarter for the autoencoder, the rest in equal parts for the regimes"
    what.add_argument("--minutes", type=cli.positive_float, default=80.0, help=minutes)
    what.add_argument("--holdout", type=cli.fraction, default=0.2, help="share of the images to judge with")
    what.add_argument("--image-size", type=cli.positive_int, default=64, help="side of the images in pixels")
    what.add_argument("--num-images", type=cli.positive_int, default=300, help="images to generate for each regime")
    more = parser.add_argument_group("more flags")
    more.add_argument("--vae-config", metavar="FILE.yaml", help="passed to 3A as --config")
    more.add_argument("--diffusion-config", metavar="FILE.yaml", help="passed to 3B as --config")
    more.add_argument("--inception-weights", metavar="FILE", help="passed to 3D")
    cli.add_run_flags(parser)
    args = cli.parse(parser, argv)
    inputs.given_file(args, "--vae-config")
    inputs.given_file(args, "--inception-weights")
    config = inputs.given_file(args, "--diffusion-config")
    if config and "class-conditional" in config.read_text(encoding="utf-8").replace("_", "-"):
        parser.error(f"--diffusion-config {config} sets class-conditional, which the regimes decide; take it out")
    args.regimes = list(dict.fromkeys(args.regimes))
    if not args.holdout:
        parser.error("--holdout must be above 0: the comparison is judged on images that no model has seen")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    output = make_folder(resolve(args.base_dir, args.output_dir)).resolve()
    require_same_plan(args, output)
    run = Runner(output, args)
    data = resolve(args.base_dir, args.data_dir).resolve()
    require_same_photos(data, output / "photos.json", "2A" in run.done)
    run.step("2A", "2A-prepare_corel_dataset.py", "--data-dir", data, "--holdout", args.holdout)
    prepared = output / "training_data" / "corel"
    classes = sorted(prepared.glob("class_*"))
    if len(classes) < 2:
        raise UserError(f"A comparison needs at least two classes, found {len(classes)} in {data}.\nAdd images.")
    config = ("--config", resolve(args.base_dir, args.vae_config)) if args.vae_config else ()
    run.train(
        "vae",
        "3A-train-vae-corel.py",
        *config,
        *("--data-dir", prepared / "corel_all", "--image-size", args.image_size),
        minutes=VAE_SHARE * args.minutes,
    )
    weights = resolve(args.base_dir, args.inception_weights).resolve() if args.inception_weights else None
    each = (1 - VAE_SHARE) * args.minutes / len(args.regimes)
    for regime in args.regimes:
        run.regime(regime, classes if regime == "per-class" else [prepared / "corel_all"], each)
    run.step(
        "report",
        "3D-evaluate-samples-corel.py",
        *("--train-dir", prepared / "corel_all", "--heldout-dir", prepared / "corel_heldout"),
        *("--generated", *(f"{regime}={output / 'generated' / regime}" for regime in args.regimes)),
        *("--vae-checkpoint", output / "vae" / "best_model.pt", "--output-dir", output / "report"),
        *(("--inception-weights", weights) if weights else ()),
        *("--title", f"One model per class, one unified, one class-conditional: {data.name}", "--device", args.device),
        again=True,
    )
    return 0


class Runner:
    """Runs scripts in the comparison's folder and remembers in steps.json which are done."""

    def __init__(self, output: Path, args: argparse.Namespace):
        self.output, self.args = output, args
        self.record = output / "steps.json"
        self.done: list[str] = json.loads(self.record.read_text()) if self.record.exists() else []

    def step(self, name: str, script: str, *flags: object, again: bool = False) -> None:
        """Run `script` unless it is done; its exit code ends the comparison if it is not 0."""
        if name in self.done and not again:
            print(f"== {name}: done before.", flush=True)
            return
        print(f"\n== {name}: {script}", flush=True)
        command = [sys.executable, str(CODES / script), *map(str, flags), "--seed", str(self.args.seed)]
        code = run_to_its_end([*command, "--base-dir", str(self.output)])
        if code or cli.stop_signal.name:
            print(f"Stopped in {name}. Continue with the same command.", file=sys.stderr)
            sys.exit(code or cli.stop_signal.codes[cli.stop_signal.name])
        if name not in self.done:
            self.done.append(name)
            write_atomically(self.record, [json.dumps(self.done).encode()])

    def train(self, folder: str, script: str, *flags: object, minutes: float) -> None:
        """A run of 3A or 3B into `folder`, resumed where it stopped."""
        run = ("--output-dir", self.output / folder, "--max-minutes", f"{minutes:.4f}", "--resume", "auto")
        machine = ("--device", self.args.device, "--num-workers", self.args.num_workers)
        self.step(folder, script, *flags, *run, *machine)

    def regime(self, regime: str, folders: list[Path], minutes: float) -> None:
        """Train on each of `folders` (the minutes are shared out) and generate an equal number of images from each."""
        vae = self.output / "vae" / "best_model.pt"
        config = resolve(self.args.base_dir, self.args.diffusion_config) if self.args.diffusion_config else None
        conditional = regime == "class-conditional"
        for folder in folders:
            name = f"diffusion/{regime}" + (f"/{folder.name}" if len(folders) > 1 else "")
            self.train(
                name,
                "3B-train-diffusion-from-scratch-corel.py",
                *(("--config", config) if config else ()),
                *("--vae-checkpoint", vae, "--image-dir", folder),
                *(("--class-conditional",) if conditional else ()),
                minutes=minutes / len(folders),
            )
            self.step(
                f"generate {name}",
                "3C-generate-samples-corel.py",
                *("--diffusion-checkpoint", self.output / name / "best_model.pt", "--vae-checkpoint", vae),
                *("--num-images", -(-self.args.num_images // len(folders)), "--individual", "always"),
                *("--sampler", "dpmpp", "--nrow", 8, "--device", self.args.device),
                *("--output", self.output / "generated" / regime / f"{folder.name}.png"),
            )


def run_to_its_end(command: list[str]) -> int:
    """The exit code of `command`. Other stop signals than Ctrl-C, which reaches it by itself, are passed on to it."""
    process = subprocess.Popen(command)
    passed_on = False
    while True:
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if cli.stop_signal.name not in (None, "SIGINT") and not passed_on:
                process.send_signal(getattr(signal, cli.stop_signal.name))
                passed_on = True


def require_same_photos(data: Path, record: Path, prepared: bool) -> None:
    """Note in `record` how many images `data` has, and a digest of their names and sizes, before 2A prepares them.

    Raises UserError where it has prepared others: what was added since would be in no model and no report.
    """
    from stepwise.data.corel import survey

    if prepared and not (record.exists() and data.exists()):  # an earlier version's, or data that are gone by now
        return
    try:
        paths = [picture.path for picture in survey(data).pictures]
    except UserError:
        if prepared:
            raise
        return  # 2A says the same
    files = sorted((os.fsencode(path.relative_to(data)), path.stat().st_size) for path in paths)
    now = {"images": len(files), "sha256": hashlib.sha256(repr(files).encode()).hexdigest()}
    if not prepared:
        write_atomically(record, [(json.dumps(now) + "\n").encode()])
    elif (before := json.loads(record.read_text())) != now:
        raise UserError(
            f"{data} holds other images than 2A has prepared here ({before['images']} then, {len(files)} now).\n"
            "Choose another --output-dir for a comparison with them, or take the change back."
        )


def require_same_plan(args: argparse.Namespace, output: Path) -> None:
    """Raises UserError where the folder holds a comparison that was begun with other flags."""
    leave = {"config", "base_dir", "output_dir", "device", "num_workers", "inception_weights"}
    plan = {key: value for key, value in vars(args).items() if key not in leave}
    record = output / "plan.json"
    if record.exists() and (output / "steps.json").exists():  # something was done
        before = json.loads(record.read_text())
        changed = sorted(key for key in plan if before.get(key) != plan[key])
        if changed:
            flags = ", ".join(f"--{key.replace('_', '-')} (was {before.get(key)})" for key in changed)
            raise UserError(f"{output} holds a comparison begun otherwise: {flags}.\nChoose another --output-dir.")
    write_atomically(record, [(json.dumps(plan, indent=2) + "\n").encode()])


if __name__ == "__main__":
    sys.exit(cli.run_script(main))
