"""3E: take trained models to other programs. Reads the checkpoints of 3B and 3A; writes a diffusers folder."""

from __future__ import annotations

import argparse
import sys

from stepwise.foundation.paths import resolve, writable_folder
from stepwise.training import cli, inputs


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        "Write a trained pair of models as a folder that diffusers loads, or as safetensors files.",
        "python codes/3E-export-diffusers.py --diffusion-checkpoint diffusion_models/best_model.pt "
        "--vae-checkpoint vae_models/best_model.pt --output-dir exported",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--diffusion-checkpoint", required=True, help="checkpoint of 3B")
    files.add_argument("--vae-checkpoint", required=True, help="the checkpoint of 3A that 3B was trained on")
    files.add_argument("--output-dir", default="exported", help="the folder to write")
    files.add_argument(
        "--format",
        choices=["diffusers", "safetensors"],
        default="diffusers",
        help="diffusers: vae/, unet/, guide/, scheduler/; safetensors: files of weights",
    )
    cli.add_run_flags(parser, device=False, workers=False, seeded=False)
    return cli.parse(parser, argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    vae_path, model_path = inputs.vae_checkpoint(args), inputs.diffusion_checkpoint(args)

    from stepwise.foundation import devices
    from stepwise.training.export import to_diffusers, to_safetensors
    from stepwise.training.pretrained import load_denoiser, load_vae

    device = devices.choose("cpu", mixed_precision=False)
    vae = load_vae(vae_path, device)
    model = load_denoiser(model_path, device, vae)
    output = writable_folder(resolve(args.base_dir, args.output_dir))
    if args.format == "safetensors":
        to_safetensors(output, vae, model)
        names = ["vae", "denoiser", *(["guide"] if model.guide else [])]
        print("Weights: " + ", ".join(str(output / f"{name}.safetensors") for name in names))
    else:
        to_diffusers(output, vae, model)
        print(
            f"Exported: {output}\nLoad it with from_pretrained(FOLDER, subfolder='vae'), 'unet'"
            + (", 'guide'" if model.guide else "")
            + " and 'scheduler'."
        )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_script(main))
