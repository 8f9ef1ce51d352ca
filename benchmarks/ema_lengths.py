"""Several lengths of 3B's moving average, kept at once in one training: nothing but the length differs.

    python benchmarks/ema_lengths.py codes/3B-train-diffusion-from-scratch-corel.py --output-dir lengths ...

Runs 3B as given. Beside its own average it keeps one for each of --decays and validates them as 3B does its own, each
with a best epoch of its own. Writes OUTPUT_DIR/ema_DECAY.pt for each, checkpoints like best_model.pt that 3C and 3D
take, with 3B's own guide, and prints Markdown: the decay, its half-life in images, the best validation loss and its
epoch. (--output-dir must be absolute or below the working directory, and the run a new one.)
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
import runpy
import sys
from pathlib import Path
from typing import Any

CODES = Path(__file__).resolve().parents[1] / "codes"


def main() -> None:
    args, flags = parse_args()
    sys.path.insert(0, str(CODES))
    lengths = Lengths(args.decays)
    sys.argv = [str(args.script), "--output-dir", str(args.output_dir.resolve()), *flags]
    with contextlib.suppress(SystemExit):
        runpy.run_path(str(args.script), run_name="__main__")
    if not (args.output_dir / "summary.json").is_file() or not lengths.best:
        sys.exit("3B did not finish.")
    print(lengths.write(args.output_dir))


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--decays", type=float, nargs="+", default=[0.0, 0.98, 0.99, 0.998, 0.999], metavar="DECAY")
    parser.add_argument("--output-dir", type=Path, required=True, help="3B's")
    parser.add_argument("script", type=Path, help="3B; its flags follow")
    args, flags = parser.parse_known_args()
    if not all(0 <= decay < 1 for decay in args.decays):
        parser.error("--decays lie between 0 (the weights themselves) and 1")
    if not args.script.is_file():
        parser.error(f"{args.script} does not exist")
    if (args.output_dir / "last.pt").exists():
        parser.error(f"{args.output_dir} holds a run; its averages cannot be had afterwards")
    return args, flags


class Lengths:
    """Averages beside that of the run's learner, with the same warm-up, and the best of each by validation loss."""

    def __init__(self, decays: list[float]):
        from stepwise.training.denoising import DenoiserMonitor
        from stepwise.training.learner import Learner

        self.decays = decays
        self.nets: dict[float, Any] = {}
        self.best: dict[float, dict[str, Any]] = {}
        self.batch_size, self.epochs = 0, 0
        average, validate = Learner._average, DenoiserMonitor.validate

        def average_all(learner: Any, fine: Any) -> None:
            if learner.ema_net is None:
                sys.exit("3B must keep an average of its own: leave --no-ema out.")
            if not self.nets:
                self.nets = {decay: copy.deepcopy(learner.ema_net) for decay in self.decays}
            average(learner, fine)
            for decay in self.decays:
                with self._instead(learner, decay):
                    average(learner, fine)

        def validate_all(monitor: Any) -> dict[str, float]:
            self.batch_size, self.epochs = monitor.args.batch_size * monitor.args.grad_accum, self.epochs + 1
            own = validate(monitor)
            self._note(monitor.learner.ema_decay, own["val_loss"], monitor.learner)
            for decay in self.decays:
                with self._instead(monitor.learner, decay):
                    self._note(decay, validate(monitor)["val_loss"], monitor.learner)
            return own

        Learner._average, DenoiserMonitor.validate = average_all, validate_all

    @contextlib.contextmanager
    def _instead(self, learner: Any, decay: float) -> Any:
        own = learner.ema_net, learner.ema_decay
        learner.ema_net, learner.ema_decay = self.nets[decay], decay
        try:
            yield
        finally:
            learner.ema_net, learner.ema_decay = own

    def _note(self, decay: float, loss: float, learner: Any) -> None:
        found = self.best.get(decay)
        if found is None or loss < found["val_loss"]:
            weights = learner.best_weights(found and found["weights"])
            self.best[decay] = {"val_loss": loss, "epoch": self.epochs, "weights": weights}

    def write(self, folder: Path) -> str:
        """ema_DECAY.pt in `folder`, beside the best_model.pt of the run; the table."""
        from stepwise.foundation import checkpoints

        document = checkpoints.load(folder / "best_model.pt")
        head = {key: value for key, value in document.items() if key not in ("format", "format_version")}
        lines = ["| decay | half-life, images | best val_loss | epoch |", "|---|---|---|---|"]
        for decay, found in sorted(self.best.items()):
            net = {**document["nets"]["denoiser"], "weights": found["weights"]}
            checkpoints.save(folder / f"ema_{decay:g}.pt", {**head, "nets": {"denoiser": net}})
            half = self.batch_size * math.log(0.5) / math.log(decay) if decay else 0.0
            lines.append(f"| {decay:g} | {half:,.0f} | {found['val_loss']:.5f} | {found['epoch']} of {self.epochs} |")
        return "\n".join(lines)


if __name__ == "__main__":
    main()
