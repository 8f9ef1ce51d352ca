"""3D: say how good generated images are. Reads real and generated folders; writes report.html and its figures."""

from __future__ import annotations

import argparse
import platform
import sys
from datetime import date
from pathlib import Path

from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import printable, resolve, writable_folder
from stepwise.training import cli, inputs

MIN_SIDE = 16  # the small CNN halves an image four times


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        "Compare sets of generated images with real ones and write an honest report.",
        "python codes/3D-evaluate-samples-corel.py --train-dir training_data/corel/corel_all "
        "--heldout-dir training_data/corel/corel_heldout --generated conditional=diffusion_models/best_model.pt",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--train-dir", required=True, help="the real images that the models were trained on")
    files.add_argument("--heldout-dir", required=True, help="real images that no model has seen (2A --holdout)")
    files.add_argument(
        "--generated",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="what to judge: folders of 3C, or checkpoints of 3B to draw from",
    )
    files.add_argument(
        "--vae-checkpoint", help="3A's checkpoint: reconstruction, latent-space copies (default: a checkpoint's own)"
    )
    files.add_argument("--output-dir", default="evaluation", help="where the report is written")
    files.add_argument("--title", default="How good are the generated images?", help="headline of the report")
    measure = parser.add_argument_group("measures")
    measure.add_argument(
        "--image-size", type=cli.positive_int, help="side at which images are compared (default: the smallest set's)"
    )
    measure.add_argument(
        "--features", choices=["auto", "inception", "cas"], default="auto", help="auto: inception if it can be had"
    )
    measure.add_argument("--inception-weights", metavar="FILE", help="torch-fidelity's Inception weights, downloaded")
    measure.add_argument("--cas-steps", type=cli.positive_int, default=500, help="training steps of the small CNN")
    measure.add_argument(
        "--cas-seeds", type=cli.positive_int, default=3, help="trainings of the small CNN for a figure"
    )
    draw = parser.add_argument_group("drawing from checkpoints")
    draw.add_argument("--num-images", type=cli.positive_int, default=300, help="images to draw from a checkpoint")
    draw.add_argument("--guidance", type=cli.non_negative_float, help="as in 3C (default: 3C's)")
    draw.add_argument(
        "--steps", type=cli.positive_int, help="steps of DPM-Solver++ (default: 25, or all if the model has fewer)"
    )
    cli.add_run_flags(parser, workers=False)
    args = cli.parse(parser, argv)
    if args.image_size and args.image_size < MIN_SIDE:
        parser.error(f"--image-size {args.image_size} is too small to judge; take {MIN_SIDE} or more")
    if args.inception_weights and args.features == "cas":
        parser.error("--inception-weights and --features cas exclude each other")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)

    from stepwise.data.folders import read_labels

    train_files = read_labels(resolve(args.base_dir, args.train_dir))
    heldout_files = read_labels(resolve(args.base_dir, args.heldout_dir))
    vae_path = inputs.vae_checkpoint(args) if args.vae_checkpoint else None
    inception_file = inputs.given_file(args, "--inception-weights", "; without weights: --features cas")
    given = named_paths(args)

    from tqdm import tqdm

    from stepwise.data.image_sets import AUTOENCODER
    from stepwise.foundation import devices
    from stepwise.training import candidates
    from stepwise.training.material import Autoencoders, Real, gather
    from stepwise.training.pretrained import FrozenVAE
    from stepwise.training.quality import Judge, Settings
    from stepwise.training.quality_report import Findings, write_all
    from stepwise.training.reconstruction import reconstruction

    device = devices.choose(args.device)
    print(devices.summary(device))
    output = resolve(args.base_dir, args.output_dir)
    refuse_own_pictures(output, given)
    writable_folder(output)

    def draw(name: str, checkpoint: Path, vae: FrozenVAE) -> Path:
        folder = output / "generated" / name
        with tqdm(total=args.num_images, desc=f"drawing {name}", unit="img", mininterval=cli.bar_interval()) as bar:
            options = (args.num_images, args.seed, args.guidance, args.steps)
            candidates.draw(checkpoint, vae, folder, *options, bar.update)
        return folder

    material = gather(
        *(Real(*train_files), Real(*heldout_files), given, Autoencoders(vae_path, device)),
        draw=draw,
        check=cli.stop_signal.check,
        image_size=args.image_size,
        at_least=MIN_SIDE,
    )
    sets, classes, vae, held_out = material.sets, material.classes, material.vae, material.held_out
    total = args.cas_seeds * args.cas_steps * (1 + 2 * len(sets)) if len(classes) > 1 else 0
    with tqdm(total=total, desc="measuring", unit="step", mininterval=cli.bar_interval()) as bar:

        def on_step() -> None:
            bar.update()
            cli.stop_signal.check()

        settings = Settings(
            num_classes=len(classes),
            seed=args.seed,
            device=device,
            cas_steps=args.cas_steps,
            cas_seeds=args.cas_seeds,
            features=args.features,
            inception_weights=inception_file,
            vae=vae,
            on_step=on_step,
            check=cli.stop_signal.check,
        )
        judge = Judge(material.train, held_out, settings)
        bar.write(f"Features for KID and FID: {printable(judge.features_line)}.")
        results = {candidate.name: judge.judge(candidate.images) for candidate in sets}
        floors, copies, augmented = judge.floors(), judge.copies(), judge.augmented()
        through_vae = judge.through_autoencoder()
    decoded, decoded_training, pictures = None, None, None
    if vae:
        decoded, decoded_training, pictures = reconstruction(material.train, held_out, vae, args.seed)
    notes = material.notes
    for name, result in (*results.items(), (AUTOENCODER, decoded)):
        notes += [f"{name}: {line}" for line in (result.skipped if result else ())]
    notes = [printable(note) for note in notes]
    found = Findings(
        candidates=sets,
        results=results,
        floors=floors,
        copies=copies,
        augmented=augmented,
        through_autoencoder=through_vae,
        train=material.train,
        reference=judge.distinct,
        held_out=held_out,
        class_names=[printable(entry["name"]) for entry in classes],
        settings=describe(args, given, devices.summary(device)),
        features=printable(judge.features_line),
        cnn_features=judge.on_cnn,
        notes=notes,
        seen=material.seen,
        overlap=material.overlap,
        reconstruction=decoded,
        reconstruction_floor=decoded_training,
        reconstructed=pictures,
    )
    counts = f"{len(material.train)} training and {len(held_out)} held-out images at {material.size} px"
    made = f"{date.today().isoformat()}, {counts}"
    document = write_all(output, found, printable(args.title), made, args.seed)
    print(document["conclusion"])
    for note in notes:
        print(f"Note: {note}")
    print(printable(f"Report: {output / 'report.html'}"))
    return 0


def named_paths(args: argparse.Namespace) -> dict[str, Path]:
    """--generated as {name: path}; names are used in file names and must differ."""
    from stepwise.data.image_sets import RESERVED, split_name

    found: dict[str, Path] = {}
    for text in args.generated:
        name, path = split_name(text)
        if resolve(args.base_dir, text).exists():  # a path that may have a = in it
            name, path = Path(text).stem, text
        wrong = set(name) & set("/\\\0") or name.startswith(".")
        name = printable(name)
        if name in found or name in RESERVED or wrong:
            raise UserError(f"--generated: '{name}' cannot name a set (or stands twice).\nWrite OTHER_NAME={path}.")
        found[name] = resolve(args.base_dir, path)
        if not found[name].exists():
            raise UserError(f"--generated: {found[name]} does not exist.\nGenerate images with 3C first.")
        if (model := found[name] / "best_model.pt").exists():
            raise UserError(f"--generated: {found[name]} is a training run, not a folder of images.\nGive {model}.")
    return found


def refuse_own_pictures(output: Path, given: dict[str, Path]) -> None:
    """Raise UserError if a folder to judge holds the report: its figures would be judged too."""
    for name, path in given.items():
        if path.is_dir() and output.resolve().is_relative_to(path.resolve()):
            raise UserError(f"--output-dir {output} lies in the images of {name}.\nChoose one outside {path}.")


def describe(args: argparse.Namespace, given: dict[str, Path], device_line: str) -> list[tuple[str, str]]:
    """What a reader needs to repeat the measurement."""
    told = [("machine", f"{device_line.removeprefix('Device: ')}, Python {platform.python_version()}")]
    told += [(f"images: {name}", printable(str(path))) for name, path in given.items()]
    flags = ["train_dir", "heldout_dir", "vae_checkpoint", "seed", "cas_steps", "cas_seeds"]
    if any(path.is_file() for path in given.values()):  # something was drawn
        flags += ["num_images", "guidance", "steps"]
    values = {flag: vars(args)[flag] for flag in flags}
    return told + [
        (f"--{flag.replace('_', '-')}", printable(str(value))) for flag, value in values.items() if value is not None
    ]


if __name__ == "__main__":
    sys.exit(cli.run_script(main))
