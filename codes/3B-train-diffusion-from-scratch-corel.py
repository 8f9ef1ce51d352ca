"""3B: train the latent denoiser. Reads 3A's best_model.pt; writes best_model.pt, last.pt, metrics.csv."""

from __future__ import annotations

import argparse
import sys

from stepwise.diffusion.guidance import GUIDE_AT
from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import resolve
from stepwise.training import cli, inputs

FIXED_FLAGS = (
    *("batch_size", "grad_accum", "image_size", "augment", "augment_variants", "val_split", "seed"),
    *("class_conditional", "label_dropout", "prediction", "min_snr_gamma", "timesteps", "schedule"),
    *("lr_scheduler", "no_ema", "ema_decay", "base_channels", "layers", "dropout", "guide_at"),
)
EPOCHS = 500
LAYERS = 2
EPS_FROM = 50  # timesteps from which on a prediction of the noise can be sampled
PEAK_LR = {"grid": 5e-4, "vector": 1e-4}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        "Train a diffusion model from scratch in the latent space of 3A's autoencoder.",
        "python codes/3B-train-diffusion-from-scratch-corel.py --vae-checkpoint vae_models/best_model.pt "
        "--image-dir training_data/corel/corel_all --class-conditional",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--vae-checkpoint", required=True, help="checkpoint of 3A")
    data.add_argument("--image-dir", required=True, help="folder of training images, as 2A writes them")
    data.add_argument("--output-dir", default="diffusion_models", help="where the run is written")
    data.add_argument(
        "--image-size", type=cli.positive_int, help="must be the VAE's (default: the VAE's; 3A trains at 128)"
    )
    data.add_argument(
        "--augment",
        choices=["none", "light", "balanced", "conditioned"],
        default="light",
        help="variation of the cached latents; conditioned: stronger, and the network is told",
    )
    data.add_argument("--augment-variants", type=cli.positive_int, default=16, help="augmented variants of each image")
    data.add_argument(
        "--latent-cache", metavar="DIR", help="where the encoded images are kept (default: latents/ in --output-dir)"
    )
    data.add_argument("--val-split", type=cli.fraction, default=0.1, help="share of the images held back to validate")
    model = parser.add_argument_group("model")
    model.add_argument("--class-conditional", action="store_true", help="learn each class under its label")
    model.add_argument("--label-dropout", type=cli.fraction, default=0.1, help="share of labels hidden, for guidance")
    model.add_argument("--prediction", choices=["eps", "v"], default="v", help="what the network predicts")
    model.add_argument(
        "--min-snr-gamma", type=cli.non_negative_float, default=5.0, help="bound on the loss weight; 0: none"
    )
    model.add_argument("--timesteps", type=cli.positive_int, default=1000, help="length of the noise schedule")
    model.add_argument("--schedule", choices=["linear", "cosine"], default="linear", help="noise schedule")
    model.add_argument(
        "--base-channels", type=cli.positive_int, help="width of the first level (default: grid 96, vector 512)"
    )
    model.add_argument("--layers", type=cli.positive_int, default=LAYERS, help="resnets a level (grid)")
    model.add_argument("--dropout", type=cli.fraction, default=0.1, help="dropout inside the resnets")
    train = parser.add_argument_group("training")
    train.add_argument(
        "--epochs", type=cli.positive_int, help="passes over the images (default: 500; with --max-minutes no limit)"
    )
    train.add_argument(
        "--max-minutes", type=cli.positive_float, help="end cleanly after this time; schedules are fitted to it"
    )
    train.add_argument("--batch-size", type=cli.positive_int, default=16, help="latents a step")
    train.add_argument("--grad-accum", type=cli.positive_int, default=1, help="steps whose gradients are added up")
    train.add_argument(
        *("--lr", "--learning-rate"),
        type=cli.positive_float,
        help="peak learning rate (default: grid 5e-4, vector 1e-4)",
    )
    train.add_argument("--lr-min", type=cli.non_negative_float, default=1e-5, help="lowest learning rate")
    train.add_argument(
        "--lr-scheduler",
        choices=["cosine", "cosine_warm_restarts", "plateau", "none"],
        default="cosine_warm_restarts",
        help="course of the learning rate",
    )
    train.add_argument("--no-ema", action="store_true", help="no moving average of the weights")
    train.add_argument("--ema-decay", type=cli.fraction, default=0.995, help="decay of the moving average")
    train.add_argument(
        "--guide-at",
        type=cli.fraction,
        default=GUIDE_AT,
        help="share of the training after which the weights are kept as 3C's guide; 0: no guide",
    )
    train.add_argument("--no-mixed-precision", action="store_true", help="float32 throughout")
    cli.add_compile_flag(train)
    stop = parser.add_argument_group("stopping")
    stop.add_argument(
        "--early-stopping-patience",
        type=cli.non_negative_int,
        default=30,
        help="epochs without gain, counted while the learning rate is low; 0: never",
    )
    stop.add_argument(
        "--early-stopping-delta", type=cli.non_negative_float, default=1e-5, help="smallest gain that counts"
    )
    stop.add_argument("--oscillation-window", type=cli.non_negative_int, default=10, help="epochs looked at; 0: never")
    stop.add_argument(
        "--oscillation-threshold",
        type=cli.non_negative_float,
        default=0.0005,
        help="range of the loss that counts as standing still",
    )
    cli.add_checkpoint_flags(parser)
    cli.add_run_flags(parser)
    args = cli.parse(parser, argv)
    if args.timesteps < 2:
        parser.error("--timesteps must be 2 at least: the last one is to leave nothing but noise")
    if args.augment != "none" and args.augment_variants < 2:
        parser.error("--augment-variants must be 2 at least, as the first is the image itself; or use --augment none")
    if args.prediction == "eps" and (args.schedule == "cosine" or args.timesteps < EPS_FROM):
        parser.error(
            f"--prediction eps needs --schedule linear and {EPS_FROM} --timesteps at least: else little is left\n"
            "of the image at the last ones, and what is read off it thousands of times wrong. Use --prediction v"
        )
    if args.max_minutes is None:
        args.epochs = args.epochs or EPOCHS
    if args.lr and args.lr_min > args.lr:
        parser.error(f"--lr-min {args.lr_min:g} is above --lr {args.lr:g}")
    if args.oscillation_window in (1, 2):
        parser.error("--oscillation-window must be 3 at least to see ups and downs, or 0: never")
    if args.no_ema:
        cli.remark_unused(parser, args, "with --no-ema", "ema_decay")
    if args.augment == "none":
        cli.remark_unused(parser, args, "with --augment none", "augment_variants")
    if not args.class_conditional:
        cli.remark_unused(parser, args, "without --class-conditional", "label_dropout")
        args.label_dropout = 0.0
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)

    from stepwise.data.folders import list_entries

    vae_path, image_dir = inputs.vae_checkpoint(args), resolve(args.base_dir, args.image_dir)
    list_entries(image_dir)  # a mistyped path is answered before torch is imported
    inputs.look_for_checkpoint(args)

    import numpy as np
    import torch

    from stepwise.data.augment import PARAMETERS
    from stepwise.data.batches import Order
    from stepwise.diffusion import schedule as schedules
    from stepwise.diffusion.objective import denoising_loss
    from stepwise.foundation import devices, seeds
    from stepwise.foundation.runs import RunFolder
    from stepwise.models import denoiser, presets
    from stepwise.training import advice, compilation, distributed, provenance
    from stepwise.training.denoising import DenoiserMonitor
    from stepwise.training.encoding import encode_folder
    from stepwise.training.guide import Guide
    from stepwise.training.learner import Learner
    from stepwise.training.loop import NO_LIMIT, Clock, Plan, fit
    from stepwise.training.pretrained import load_vae, require_same_vae
    from stepwise.training.resume import find_state, require_same_images
    from stepwise.training.schedules import Plateau, has_settled, is_low, learning_rate, warm_up
    from stepwise.training.stopping import Stopper

    device = devices.choose(args.device, mixed_precision=not args.no_mixed_precision)
    world = distributed.join(device)
    print(devices.summary(device))
    vae = load_vae(vae_path, device)
    if args.image_size not in (None, vae.image_size):
        raise UserError(
            f"Image size mismatch: --image-size {args.image_size}, but the VAE was trained at {vae.image_size}.\n"
            f"Pass --image-size {vae.image_size} (or leave the flag out), or train a VAE at {args.image_size}."
        )
    if vae.config["kind"] == "vector" and args.layers != LAYERS:
        advice.give(f"--layers {args.layers} has no effect: it belongs to a grid latent, and this one is a vector.")
    args.image_size = vae.image_size
    folder = RunFolder(resolve(args.base_dir, args.output_dir), world.is_main)
    state = find_state(args, folder, "3B", FIXED_FLAGS, world)
    if state is not None:
        require_same_vae(state, vae)
    data = encode_folder(image_dir, args, vae, world)
    require_same_images(state, data.sha256)
    seen = provenance.together(data.seen, vae.seen)
    num_classes, latent_shape = len(data.classes), tuple(data.val_x0.shape[1:])
    args.lr = args.lr or max(PEAK_LR["grid" if len(latent_shape) == 3 else "vector"], args.lr_min)
    told = PARAMETERS if args.augment == "conditioned" else 0
    if len(latent_shape) == 3:
        config = presets.unet(latent_shape, args.base_channels or 96, args.layers, args.dropout, num_classes, told)
    else:
        config = presets.vector_net(latent_shape[0], args.base_channels or 512, args.dropout, num_classes, told)
    order = Order(len(data.train), args.batch_size, args.seed)
    rows = world.rows(order.size)
    advice.give(advice.on_length(args, EPOCHS, order.per_epoch))
    epochs = args.epochs or NO_LIMIT
    compiled = compilation.choose(args.compile, state, device, epochs * order.per_epoch, args.max_minutes)
    args.compile = "on" if compiled else "off"
    seeds.seed_weights(args.seed)
    learner = Learner(
        denoiser.build(config),
        config,
        device,
        lr=args.lr,
        ema_decay=None if args.no_ema else args.ema_decay,
        grad_accum=args.grad_accum,
        compile=compiled,
        world=world,
    )
    schedule = schedules.build(args.schedule, args.timesteps)
    monitor = DenoiserMonitor(args, folder, learner, schedule, vae, data)
    plateau, guide = Plateau(), Guide(args.guide_at, state)

    def step(index: np.ndarray, clock: Clock) -> dict:
        rate = learning_rate(args.lr_scheduler, clock.progress, args.lr, args.lr_min)
        learner.set_lr(max(rate * plateau.scale, args.lr_min) * warm_up(clock.step // args.grad_accum))
        z, augment = data.train.draw(index, rows, args.seed, clock.step)
        x0 = data.statistics.standardise(z)
        rng = seeds.torch_rng(args.seed, "noise", clock.step)  # of the whole batch, whoever computes which rows
        part, place = (draw(len(index), generator=rng) for draw in (torch.randperm, torch.rand))
        t = device.send(schedule.spread(part, place)[rows])
        eps = device.send(torch.randn((len(index), *latent_shape), generator=rng)[rows])
        label = None
        if data.train_label is not None:
            hidden = torch.rand(len(index), generator=rng)[rows] < args.label_dropout
            label = device.send(data.train_label[torch.from_numpy(index[rows])].masked_fill(hidden, num_classes))
        with device.autocast():
            weighting = {"prediction": args.prediction, "min_snr_gamma": args.min_snr_gamma}
            error = denoising_loss(
                learner.train_net, schedule, x0, eps, t, label, **weighting, augment=augment if told else None
            )
        losses = {"loss": error.mean()}
        learner.update(losses["loss"])
        guide.observe(clock.progress, learner)
        return losses

    def document() -> dict:
        return {
            "image_size": args.image_size,
            "latent_shape": list(latent_shape),
            "latents": data.statistics.state(),
            "classes": data.classes,
            "image_classes": data.image_classes,
            "diffusion": {
                "schedule": args.schedule,
                "timesteps": args.timesteps,
                "prediction": args.prediction,
                "label_dropout": args.label_dropout,
            },
            "plateau": plateau.state(),
            "guide": guide.state(),
            "images": data.sha256,
            "seen": seen,
            "parents": {"vae": {"path": str(vae.path.resolve()), "sha256": vae.sha256}},
        }

    if state is not None:
        plateau.load(state["plateau"])
    folder.write_args(args, [f"VAE weights {vae.sha256}"])
    plan = Plan(
        script="3B",
        epochs=epochs,
        batches_per_epoch=order.per_epoch,
        batches=lambda epoch, batch: (order.batch(e, b) for e, b in order.positions(epoch, batch)),
        validate=monitor.validate,
        preview=monitor.preview,
        document=document,
        monitor="val_loss",
        show=("loss",),
        checkpoint_name="checkpoint_epoch_{epoch}.pt",
        checkpoint_every=10,
        preview_every=10,
        keep_checkpoints=args.keep_checkpoints,
        max_minutes=args.max_minutes,
        stopper=Stopper(
            args.early_stopping_patience,
            args.early_stopping_delta,
            args.oscillation_window,
            args.oscillation_threshold,
        ),
        is_low=lambda progress: is_low(args.lr_scheduler, progress),
        has_settled=lambda progress: plateau.has_settled or has_settled(args.lr_scheduler, progress),
        world=world,
        on_validation=plateau.observe if args.lr_scheduler == "plateau" else lambda value: None,
        next_command=cli.next_command(
            "3C-generate-samples-corel.py",
            args,
            *("--diffusion-checkpoint", f"{args.output_dir}/best_model.pt", "--vae-checkpoint", args.vae_checkpoint),
            *("--sampler", "dpmpp", "--nrow", "8"),
        ),
    )
    return fit(plan, step, {"denoiser": learner}, folder, args, state)


if __name__ == "__main__":
    sys.exit(cli.run_script(main))
