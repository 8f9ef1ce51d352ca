"""3C: generate images. Reads the checkpoints of 3B and 3A; writes a grid and individual PNG files."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from pathlib import Path

from stepwise.diffusion.guidance import GUIDANCE, INTERVAL
from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import make_folder, resolve, writable_folder
from stepwise.training import cli, inputs

FEW = 16


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        "Generate images with a trained diffusion model.",
        "python codes/3C-generate-samples-corel.py --diffusion-checkpoint diffusion_models/best_model.pt "
        "--vae-checkpoint vae_models/best_model.pt --ddim-steps 50 --output generated_images.png",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--diffusion-checkpoint", required=True, help="checkpoint of 3B")
    files.add_argument("--vae-checkpoint", required=True, help="the checkpoint of 3A that 3B was trained on")
    files.add_argument(
        "--output", default="generated_images.png", help="the grid; a folder/ holds generated_images.png"
    )
    files.add_argument(
        "--individual",
        choices=["auto", "always", "never"],
        default="auto",
        help=f"single files; auto: up to {FEW} images",
    )
    what = parser.add_argument_group("what")
    what.add_argument(
        "--num-images", type=cli.positive_int, help="how many (default: 16; with --class all, a row a class)"
    )
    what.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME|NUMBER|all",
        help="class of a class-conditional model (default: all)",
    )
    what.add_argument("--nrow", type=cli.positive_int, default=4, help="images in a row of the grid")
    how = parser.add_argument_group("how")
    how.add_argument("--sampler", choices=["ddpm", "ddim", "dpmpp"], help="(default: ddpm, or ddim with --ddim-steps)")
    how.add_argument("--steps", type=cli.positive_int, help="sampler steps (default: ddpm all, ddim 50, dpmpp 25)")
    how.add_argument("--ddim-steps", type=cli.positive_int, metavar="N", help="short for --sampler ddim --steps N")
    how.add_argument("--eta", type=cli.non_negative_float, help="noise of ddim: 0 none, 1 as ddpm (default: 0)")
    how.add_argument(
        "--guidance-by",
        choices=["guide", "label"],
        help="away from the model early in its training, or from what it draws without its label (default: guide, if "
        "the model has one; label for a strength below 1)",
    )
    how.add_argument(
        "--guidance",
        type=cli.non_negative_float,
        help=f"strength; 1: none, 0: without the label (default: {GUIDANCE:g}; without classes 1)",
    )
    how.add_argument(
        "--guidance-interval",
        nargs=2,
        type=cli.noise_level,
        metavar=("LOW", "HIGH"),
        help="noise levels sigma between which guidance acts; 0 inf: all (default: {} {}; with a strength below 1 all)"
        "".format(*INTERVAL),
    )
    how.add_argument(
        "--batch-size", type=cli.positive_int, default=16, help="images at a time; reduce it if memory runs out"
    )
    cli.add_run_flags(parser, workers=False, seed=None)
    args = cli.parse(parser, argv)
    return settle_sampler(args, parser)


def settle_sampler(args: argparse.Namespace, parser: cli.Parser) -> argparse.Namespace:
    """Fill in what the flags imply and refuse contradictions."""
    if args.ddim_steps and (args.sampler not in (None, "ddim") or args.steps):
        parser.error("--ddim-steps N means --sampler ddim --steps N; give one or the other")
    args.sampler = args.sampler or ("ddim" if args.ddim_steps else "ddpm")
    args.steps = args.ddim_steps or args.steps
    if args.eta is not None and args.sampler != "ddim":
        parser.error(f"--eta belongs to --sampler ddim, not to {args.sampler}")
    if args.eta is not None and args.eta > 1:
        parser.error("--eta goes from 0 to 1")
    args.eta = args.eta or 0.0
    if args.guidance_interval and args.guidance_interval[0] > args.guidance_interval[1]:
        parser.error("--guidance-interval takes the lower noise level first")
    if args.seed is None:
        args.seed = secrets.randbelow(2**31)
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    vae_path, model_path = inputs.vae_checkpoint(args), inputs.diffusion_checkpoint(args)

    import numpy as np
    from tqdm import tqdm

    from stepwise.foundation import devices
    from stepwise.foundation.images import IMAGES, grid, labelled_grid, save_png
    from stepwise.training import distributed
    from stepwise.training.generate import choose_options, generate, made_by, write_images
    from stepwise.training.pretrained import load_denoiser, load_vae

    device = devices.choose(args.device)
    world = distributed.join(device)
    args.seed = world.from_main(args.seed)
    print(f"Seed: {args.seed}")
    print(devices.summary(device))
    vae = load_vae(vae_path, device)
    model = load_denoiser(model_path, device, vae)
    labels = choose_labels(args, model)
    count = len(labels) if labels else args.num_images or 16
    options = choose_options(
        model, args.sampler, args.steps, args.eta, args.guidance, args.guidance_interval, args.guidance_by
    )
    output = grid_path(args)
    if model.guide is None and args.guidance_by is None and options.guidance != 1:
        print("Note: this model has no guide (3B --guide-at); its label guides it.")

    mine, parts = world.part(count), [np.zeros((0, vae.image_size, vae.image_size, 3), dtype=np.uint8)]
    guided = f", guidance {options.guidance:g} by the {options.by}" if options.guidance != 1 else ""
    described = f"{options.kind}, {options.steps} steps{guided}"
    with tqdm(total=len(mine), desc=described, unit="img", disable=not world.is_main) as bar:
        for batch in generate(model, vae, labels, mine, args.batch_size, args.seed, options):
            parts.append(batch)
            bar.update(len(batch))
    images = np.concatenate(world.gather(np.concatenate(parts)))
    world.leave()
    if not world.is_main:
        return 0

    used = {**vars(args), **made_by(model_path, model, options), "num_images": count}
    metadata = {"seed": str(args.seed), "flags": json.dumps(used, sort_keys=True)}
    if labels and len(set(labels)) > 1:
        picture = labelled_grid(class_rows(images, labels, model.classes, args.nrow))
    else:
        picture = grid(images, args.nrow)
    save_png(output, picture, {**metadata, IMAGES: str(count)})
    print(f"{count} images: {output}")
    folder = output.with_name(output.stem + "_individual")
    if args.individual == "always" or (args.individual == "auto" and count <= FEW):
        make_folder(folder)
        replaced = write_images(folder, images, model.class_names(labels, count), metadata)
        print(f"One by one: {folder}" + (f" (in the place of {replaced} of an earlier run)" if replaced else ""))
    elif folder.exists():
        print(f"Note: {folder} holds the images of an earlier run, not these.")
    return 0


def choose_labels(args: argparse.Namespace, model) -> list[int] | None:
    """The class of each image, sorted; None for an unconditional model."""
    from stepwise.data.classes import find_class

    if not model.classes:
        if args.class_name and args.class_name.lower() != "all":
            raise UserError(
                "--class: this model was trained without classes.\n"
                "Leave the flag out, or train 3B with --class-conditional."
            )
        return None
    everything = (args.class_name or "all").lower() == "all"
    chosen = list(range(len(model.classes))) if everything else [find_class(model.classes, args.class_name)]
    count = args.num_images or (args.nrow * len(chosen) if everything else 16)
    return sorted(chosen[i % len(chosen)] for i in range(count))


def grid_path(args: argparse.Namespace) -> Path:
    """--output as a PNG path; a folder gets the usual name."""
    output = resolve(args.base_dir, args.output)
    if args.output.endswith(("/", "\\")) or output.is_dir():
        output = output / "generated_images.png"
    if output.suffix.lower() != ".png":
        raise UserError(
            f"--output {args.output}: the grid is a PNG file.\nGive a name that ends in .png, or a folder/."
        )
    writable_folder(output.parent)
    return output


def class_rows(images, labels: list[int], classes: list[dict], nrow: int) -> list[tuple]:
    """(name, up to `nrow` images) for each row of the grid; only a class's first row bears its name."""
    rows = []
    for position, entry in enumerate(classes):
        own = images[[k for k, label in enumerate(labels) if label == position]]
        starts = range(0, len(own), nrow)
        rows += [(entry["name"] if start == 0 else "", own[start : start + nrow]) for start in starts]
    return rows


if __name__ == "__main__":
    sys.exit(cli.run_script(main))
