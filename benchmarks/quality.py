"""Ablations of the recipe: the same images and minutes for every variant, judged by 3D.

    python benchmarks/quality.py --data-dir data/corel --minutes 10 --seeds 3 --variants default "told augmentation"

Writes OUTPUT/quality.md (the table) and keeps every run below OUTPUT, so that a second call goes on
where the first one stopped. A variant is what it changes in the flags of 3A, 3B and 3C.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

CODES = Path(__file__).resolve().parents[1] / "codes"
VARIANTS: dict[str, dict[str, list[str]]] = {
    "default": {},
    "balanced augmentation": {"3B": ["--augment", "balanced"]},
    "told augmentation": {"3B": ["--augment", "conditioned"]},
    "no augmentation": {"3B": ["--augment", "none"]},
    "64 channels": {"3B": ["--base-channels", "64"]},
    "128 channels": {"3B": ["--base-channels", "128"]},
    "no dropout": {"3B": ["--dropout", "0"]},
    "dropout 0.25": {"3B": ["--dropout", "0.25"]},
    "eps-prediction": {"3B": ["--prediction", "eps"]},
    "no min-SNR": {"3B": ["--min-snr-gamma", "0"]},
    "cosine noise schedule": {"3B": ["--schedule", "cosine"]},
    "learning rate 1e-4": {"3B": ["--lr", "1e-4"]},
    "learning rate 1e-3": {"3B": ["--lr", "1e-3"]},
    "learning rate 1e-3, 64 channels": {"3B": ["--lr", "1e-3", "--base-channels", "64"]},
    "EMA 0.999": {"3B": ["--ema-decay", "0.999"]},
    "batch 64": {"3B": ["--batch-size", "64"]},
    "no early stopping": {"3B": ["--early-stopping-patience", "0", "--oscillation-window", "0"]},
    "no guidance": {"3C": ["--guidance", "1"]},
    "DDIM, 50 steps": {"3C": ["--sampler", "ddim"]},
    "DPM-Solver++, 12 steps": {"3C": ["--steps", "12"]},
    "DPM-Solver++, 50 steps": {"3C": ["--steps", "50"]},
    "guided by the label": {"3C": ["--guidance-by", "label"]},
    "guided by the label, 0.3 to 5": {"3C": ["--guidance-by", "label", "--guidance-interval", "0.3", "5"]},
    "guide, everywhere": {"3C": ["--guidance-interval", "0", "inf"]},
    "guide, 2": {"3C": ["--guidance", "2"]},
    "guide, 4": {"3C": ["--guidance", "4"]},
    "guide, 2, 0.3 to 5": {"3C": ["--guidance", "2", "--guidance-interval", "0.3", "5"]},
    "guide, 3, 0.3 to 5": {"3C": ["--guidance", "3", "--guidance-interval", "0.3", "5"]},
    "guide, 4, 0.3 to 5": {"3C": ["--guidance", "4", "--guidance-interval", "0.3", "5"]},
    "guide from 5 % of the run": {"3B": ["--guide-at", "0.05"]},
    "guide from 20 % of the run": {"3B": ["--guide-at", "0.2"]},
    "KL budget 25": {"3A": ["--kl-target", "25"]},
    "KL budget 40": {"3A": ["--kl-target", "40"]},
    "downsample 4": {"3A": ["--downsample", "4"]},
    "no discriminator": {"3A": ["--adversarial-weight", "0"]},
    "discriminator, 0.5": {"3A": ["--adversarial-weight", "0.5"]},
    "3A by AdamW": {"3A": ["--optimizer", "adamw"]},
    "3A, batch 8": {"3A": ["--batch-size", "8"]},
}
SHOWN = ("cas", "cas_gain", "kid", "swd", "precision", "recall", "coverage", "memorized_pixel")


def main() -> None:
    args = parse_args()
    out = args.output_dir.resolve()
    require_same_plan(out, args)
    run(out, "2A-prepare_corel_dataset.py", "--data-dir", args.data_dir.resolve(), "--holdout", 0.2)
    rows: dict[str, list[dict]] = {name: [] for name in args.variants}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        sets = {name: generated(out, name, seed, args) for name in args.variants}
        found = judged(out, out / f"seed_{seed}", sets, args)
        for name in args.variants:
            rows[name].append(found[name])
        write_table(out / "quality.md", rows, args)
    print((out / "quality.md").read_text())


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data/corel"))
    parser.add_argument("--output-dir", type=Path, default=Path("quality_runs"))
    parser.add_argument("--vae-minutes", type=float, default=20.0, help="training time of each autoencoder")
    parser.add_argument("--vae-checkpoint", type=Path, help="a trained autoencoder for all runs, instead of 3A's")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each diffusion model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--num-images", type=int, default=300)
    parser.add_argument("--cas-seeds", type=int, default=3, help="seeds of the judge's CNN, as 3D's flag")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    args = parser.parse_args()
    if args.vae_checkpoint:
        if not args.vae_checkpoint.is_file():
            parser.error(f"--vae-checkpoint {args.vae_checkpoint} does not exist")
        if others := [name for name in args.variants if "3A" in VARIANTS[name]]:
            parser.error(f"--vae-checkpoint leaves nothing to change for: {', '.join(others)}")
    return args


def require_same_plan(out: Path, args: argparse.Namespace) -> None:
    """Runs of other minutes or sizes must not end up in one table."""
    plan = {key: getattr(args, key) for key in ("vae_minutes", "minutes", "image_size", "num_images", "cas_seeds")}
    plan["vae_checkpoint"] = str(args.vae_checkpoint.resolve()) if args.vae_checkpoint else ""
    out.mkdir(parents=True, exist_ok=True)
    record = out / "plan.json"
    if record.exists() and {"vae_checkpoint": "", "cas_seeds": 3, **json.loads(record.read_text())} != plan:
        sys.exit(f"{out} holds runs of another plan: {record.read_text()}; choose another --output-dir.")
    record.write_text(json.dumps(plan))


def generated(out: Path, name: str, seed: int, args: argparse.Namespace) -> tuple[Path, Path]:
    """Train what is not trained yet and generate; runs that do not differ are shared. (images, VAE checkpoint)"""
    changes = VARIANTS[name]
    base = out / f"seed_{seed}"
    common = ("--seed", seed, "--device", args.device)
    prepared = out / "training_data" / "corel" / "corel_all"
    vae = trained_vae(out, base, prepared, args, common, changes.get("3A", []))
    model = base / f"model_{slug(' '.join(changes.get('3A', []) + changes.get('3B', [])))}"
    train(
        out, model, "3B-train-diffusion-from-scratch-corel.py", "--vae-checkpoint", vae,
        *("--image-dir", prepared, "--class-conditional", "--max-minutes", args.minutes),
        *common, *changes.get("3B", []),
    )  # fmt: skip
    images = base / f"images_{slug(name)}"
    if not (images / "all_individual" / "captions.json").exists():
        run(
            out, "3C-generate-samples-corel.py", "--diffusion-checkpoint", model / "best_model.pt",
            *("--vae-checkpoint", vae, "--output", images / "all.png", "--individual", "always"),
            *("--num-images", args.num_images, "--nrow", 8, "--sampler", "dpmpp"), *common, *changes.get("3C", []),
        )  # fmt: skip
    return images, vae


def trained_vae(out: Path, base: Path, prepared: Path, args: argparse.Namespace, common: tuple, flags: list) -> Path:
    if args.vae_checkpoint:
        return args.vae_checkpoint.resolve()
    folder = base / f"vae_{slug(' '.join(flags))}"
    train(
        out, folder, "3A-train-vae-corel.py", "--data-dir", prepared, "--image-size", args.image_size,
        *("--max-minutes", args.vae_minutes), *common, *flags,
    )  # fmt: skip
    return folder / "best_model.pt"


def train(out: Path, folder: Path, script: str, *flags: object) -> None:
    if not (folder / "summary.json").exists():
        run(out, script, *flags, "--output-dir", folder, "--resume", "auto")


def judged(out: Path, base: Path, sets: dict[str, tuple[Path, Path]], args: argparse.Namespace) -> dict[str, dict]:
    """{variant: its measures}; sets of one autoencoder that no report has yet are judged in one report together."""
    found = read_reports(base)
    waiting: dict[Path, list[str]] = {}
    for name, (folder, vae) in sets.items():
        if name not in found:
            waiting.setdefault(vae, []).append(f"{name}={folder}")
    prepared = out / "training_data" / "corel"
    for vae, named in waiting.items():
        target = base / f"report_{slug(named[0].partition('=')[0])}"
        run(
            out, "3D-evaluate-samples-corel.py", "--train-dir", prepared / "corel_all",
            *("--heldout-dir", prepared / "corel_heldout", "--generated", *named, "--vae-checkpoint", vae),
            *("--output-dir", target, "--device", args.device, "--cas-seeds", args.cas_seeds),
        )  # fmt: skip
    return read_reports(base)


def read_reports(base: Path) -> dict[str, dict]:
    found = {}
    for path in sorted(base.glob("report_*/metrics.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        for entry in document["sets"]:
            found[entry["name"]] = {
                "measures": {**entry["measures"], **document["reconstruction"]}, "floor": document["floor"]
            }  # fmt: skip
    return found


def run(out: Path, script: str, *flags: object) -> None:
    print(f"== {script} {' '.join(map(str, flags))}", flush=True)
    subprocess.run([sys.executable, CODES / script, *map(str, flags), "--base-dir", str(out)], check=True)


def write_table(path: Path, rows: dict[str, list[dict]], args: argparse.Namespace) -> None:
    """Mean over the seeds, with the spread in brackets where there are several."""
    import torch

    lines = [
        "| variant | " + " | ".join(SHOWN) + " | PSNR | seeds |",
        "|---|" + "---|" * (len(SHOWN) + 2),
    ]
    for name, documents in rows.items():
        measured = [d["measures"] for d in documents]
        cells = [cell([m[key]["value"] for m in measured if key in m]) for key in (*SHOWN, "psnr")]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(documents)} |")
    some = next((d for documents in rows.values() for d in documents), None)
    if some:
        floor = [cell([some["floor"][key]["value"]]) if key in some["floor"] else "" for key in SHOWN]
        lines.append("| *real images* | " + " | ".join(floor) + " |  |  |")
    machine = (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    vae = f"One autoencoder for all, {args.vae_checkpoint.name}," if args.vae_checkpoint else (
        f"{args.vae_minutes:g} minutes for each autoencoder at {args.image_size} px"
    )  # fmt: skip
    head = (
        f"{vae} and {args.minutes:g} minutes for each diffusion model, {args.num_images} images, "
        f"{args.cas_seeds} trainings of the judge's CNN; {machine}; "
        f"{date.today().isoformat()}.\n"
    )
    path.write_text(head + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


def cell(values: list[float]) -> str:
    if not values:
        return ""
    text = f"{statistics.mean(values):.3g}"
    return text + (f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else "")


def slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text).strip("_") or "default"


if __name__ == "__main__":
    main()
