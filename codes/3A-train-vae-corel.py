"""3A: train the autoencoder. Reads an image folder of 2A; writes best_model.pt, last.pt, metrics.csv."""

from __future__ import annotations

import argparse
import sys

from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import resolve
from stepwise.models.presets import SMALLEST_JUDGED
from stepwise.training import cli, inputs

FIXED_FLAGS = (
    *("batch_size", "grad_accum", "latent", "latent_dim", "latent_channels", "downsample", "image_size"),
    *("base_channels", "augment", "val_split", "seed", "ema_decay", "kl_weight", "kl_target"),
    *("perceptual_weight", "no_perceptual", "lr_scheduler", "kl_warmup"),
    *("adversarial_weight", "adversarial_start", "optimizer"),
)
EPOCHS = 300
KL_TARGET = {"grid": 30.0, "vector": 25.0}
ADVERSARIAL_WEIGHT = 0.3
MONITORED = 512  # training images, at most, whose latents are summed up for samples/
VALIDATED = 1000  # held-back images, at most, that every epoch looks at


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        "Train a variational autoencoder on a folder of images.",
        "python codes/3A-train-vae-corel.py --data-dir training_data/corel/corel_all --output-dir vae_models",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data-dir", required=True, help="folder of training images, as 2A writes them")
    data.add_argument("--output-dir", default="vae_models", help="where the run is written")
    data.add_argument("--image-size", type=cli.positive_int, default=128, help="side of the square images in pixels")
    data.add_argument("--augment", choices=["none", "light", "balanced"], default="balanced", help="random variation")
    data.add_argument("--val-split", type=cli.fraction, default=0.1, help="share of the images held back to validate")
    model = parser.add_argument_group("model")
    model.add_argument("--latent", choices=["grid", "vector"], help="spatial or flat latent (default: grid)")
    model.add_argument(
        "--latent-dim", type=cli.positive_int, help="numbers in a vector latent; selects --latent vector (default: 128)"
    )
    model.add_argument(
        "--latent-channels",
        type=cli.positive_int,
        help="channels of a grid latent (default: by --downsample: 4 -> 4, 8 -> 12)",
    )
    model.add_argument(
        "--downsample", type=int, choices=[2, 4, 8, 16], help="pixels a side of one grid cell (default: 8)"
    )
    model.add_argument("--base-channels", type=cli.positive_int, default=32, help="width of the first level")
    loss = parser.add_argument_group("loss")
    loss.add_argument(
        "--kl-weight",
        type=cli.non_negative_float,
        default=1.0,
        help="final weight of the KL's overshoot over its target",
    )
    warm_up_help = "epochs until that weight is reached, at most half of the run (without --epochs: of 300)"
    loss.add_argument("--kl-warmup", type=cli.non_negative_int, default=150, help=warm_up_help)
    loss.add_argument(
        "--kl-target",
        type=cli.non_negative_float,
        help="free nats per latent vector (default: grid 30 a cell, vector 25 an image)",
    )
    loss.add_argument(
        "--perceptual-net",
        choices=["auto", "vgg16", "pyramid"],
        default="auto",
        help="auto: vgg16 on a GPU if its weights can be had",
    )
    loss.add_argument(
        "--perceptual-weight", type=cli.non_negative_float, default=0.03, help="weight of the perceptual loss"
    )
    loss.add_argument("--perceptual-weights", metavar="FILE", help="torchvision's vgg16 weights, already downloaded")
    loss.add_argument("--no-perceptual", action="store_true", help="no perceptual loss")
    loss.add_argument(
        "--adversarial-weight",
        type=cli.non_negative_float,
        help=f"weight of a discriminator's judgement: sharper pictures, lower PSNR; 0: none (default: grid latent "
        f"{ADVERSARIAL_WEIGHT}, vector 0)",
    )
    loss.add_argument(
        "--adversarial-start", type=cli.fraction, default=0.5, help="share of the run before the discriminator acts"
    )
    train = parser.add_argument_group("training")
    train.add_argument(
        "--epochs", type=cli.positive_int, help="passes over the images (default: 300; with --max-minutes no limit)"
    )
    train.add_argument(
        "--max-minutes", type=cli.positive_float, help="end cleanly after this time; schedules are fitted to it"
    )
    train.add_argument("--batch-size", type=cli.positive_int, default=16, help="images a step")
    train.add_argument("--grad-accum", type=cli.positive_int, default=1, help="steps whose gradients are added up")
    train.add_argument(
        *("--learning-rate", "--lr"),
        type=cli.positive_float,
        help="peak learning rate (default: grid 1e-3, vector 1e-4)",
    )
    train.add_argument(
        "--lr-scheduler", choices=["none", "cosine"], default="cosine", help="course of the learning rate"
    )
    train.add_argument("--optimizer", choices=["muon", "adamw"], help="default: grid muon, vector adamw")
    train.add_argument("--ema-decay", type=cli.fraction, default=0.995, help="moving average of the weights; 0: none")
    train.add_argument("--no-mixed-precision", action="store_true", help="float32 throughout")
    cli.add_compile_flag(train)
    cli.add_checkpoint_flags(parser)
    cli.add_run_flags(parser)
    args = cli.parse(parser, argv)
    return settle_latent(args, parser)


def settle_latent(args: argparse.Namespace, parser: cli.Parser) -> argparse.Namespace:
    """Fill in what the flags imply: --latent-dim selects the vector latent."""
    if args.latent == "grid" and args.latent_dim:
        parser.error("--latent-dim belongs to --latent vector; a grid latent has --latent-channels and --downsample")
    args.latent = args.latent or ("vector" if args.latent_dim else "grid")
    if args.latent == "vector" and (args.latent_channels or args.downsample):
        parser.error("--latent-channels and --downsample belong to --latent grid; a vector latent has --latent-dim")
    if args.no_perceptual and args.perceptual_weights:
        parser.error("--perceptual-weights and --no-perceptual exclude each other")
    if args.no_perceptual:
        cli.remark_unused(parser, args, "with --no-perceptual", "perceptual_weight", "perceptual_net")
    args.latent_dim = args.latent_dim or (128 if args.latent == "vector" else None)
    args.downsample = args.downsample or (8 if args.latent == "grid" else None)
    args.kl_target = KL_TARGET[args.latent] if args.kl_target is None else args.kl_target
    if args.adversarial_weight is None:
        judged = args.latent == "grid" and args.image_size >= SMALLEST_JUDGED
        args.adversarial_weight = ADVERSARIAL_WEIGHT if judged else 0.0
    if not args.adversarial_weight:
        cli.remark_unused(parser, args, "without a discriminator (--adversarial-weight)", "adversarial_start")
    args.epochs = args.epochs or (EPOCHS if args.max_minutes is None else None)
    args.learning_rate = args.learning_rate or {"grid": 1e-3, "vector": 1e-4}[args.latent]
    args.optimizer = args.optimizer or {"grid": "muon", "vector": "adamw"}[args.latent]
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)

    from stepwise.data.folders import read_labels, unread_images

    data_dir = resolve(args.base_dir, args.data_dir)
    paths, labels = read_labels(data_dir)  # a mistyped path is answered at once
    perceptual_file = inputs.given_file(args, "--perceptual-weights", "; without weights: --perceptual-net pyramid")
    inputs.look_for_checkpoint(args)

    from stepwise.data.augment import Augment
    from stepwise.data.batches import AugmentedImages, Order, loader, room_for_images
    from stepwise.data.folders import fingerprint, load_images, reading_size, split_by_content
    from stepwise.foundation import devices, seeds
    from stepwise.foundation.runs import RunFolder
    from stepwise.losses.vae import vae_loss
    from stepwise.models import autoencoder, presets
    from stepwise.training import advice, compilation, distributed, provenance
    from stepwise.training.critic import Critic
    from stepwise.training.learner import Learner
    from stepwise.training.loop import NO_LIMIT, Clock, Plan, fit
    from stepwise.training.resume import find_state, require_same_images
    from stepwise.training.schedules import learning_rate, ramp, warm_up
    from stepwise.training.stopping import Stopper
    from stepwise.training.vae import VAEMonitor, choose_perceptual, some_of, to_device

    device = devices.choose(args.device, mixed_precision=not args.no_mixed_precision)
    world = distributed.join(device)
    folder = RunFolder(resolve(args.base_dir, args.output_dir), world.is_main)
    print(devices.summary(device))
    state = find_state(args, folder, "3A", FIXED_FLAGS, world)

    images, digests = load_images(
        paths,
        reading_size(args.image_size),
        args.num_workers,
        cli.stop_signal.check,
        room_for_images(args.num_workers),
    )
    sha256, seen = fingerprint(paths, labels, digests), provenance.record(digests)
    require_same_images(state, sha256)
    train_index, val_index = split_by_content(paths, labels, digests, args.val_split, args.seed)
    few = f", {VALIDATED} of them in each epoch" if len(val_index or train_index) > VALIDATED else ""
    advice.give(unread_images(data_dir), advice.on_sizes(images, args.image_size))
    print(f"{len(train_index)} images to train, {len(val_index) or 'the same'} to validate{few}.")
    unit = "grid cell" if args.latent == "grid" else "image"
    kl_grows_until = min(0.5, args.kl_warmup / (args.epochs or EPOCHS))
    print(
        f"KL budget: {args.kl_target:g} nats per {unit}; only what is above it costs, "
        f"in full from {kl_grows_until:.0%} of the run on."
    )

    if args.latent == "grid":
        advice.give(advice.on_grid(args.image_size, args.downsample))
        config = presets.grid_autoencoder(args.image_size, args.downsample, args.latent_channels, args.base_channels)
    else:
        config = presets.vector_autoencoder(args.image_size, args.latent_dim, args.base_channels)
    remarks, perceptual_net = [], None
    if not args.no_perceptual:
        wanted = state["perceptual"] if state and args.perceptual_net == "auto" else args.perceptual_net
        if state and wanted != state["perceptual"]:
            raise UserError(
                f"The run to resume uses --perceptual-net {state['perceptual']}, not {wanted}.\nRepeat that flag."
            )
        perceptual_net, wanted, line = choose_perceptual(wanted, perceptual_file, device, folder, world)
        args.perceptual_net = wanted
        remarks.append(line)
        print(line)
    augment = Augment(args.augment, args.image_size, args.seed, "vae-augment")
    dataset = AugmentedImages(images, train_index, augment)
    order = Order(len(dataset), args.batch_size, args.seed)
    rows = world.rows(order.size)
    advice.give(advice.on_length(args, EPOCHS, order.per_epoch))
    epochs = args.epochs or NO_LIMIT
    compiled = compilation.choose(args.compile, state, device, epochs * order.per_epoch, args.max_minutes)
    args.compile = "on" if compiled else "off"
    seeds.seed_weights(args.seed)
    net = autoencoder.build(config)
    if compiled and args.adversarial_weight:
        net.decoder.keep_last_layer_out()
    learner = Learner(
        net,
        config,
        device,
        lr=args.learning_rate,
        ema_decay=args.ema_decay,
        muon=args.optimizer == "muon",
        grad_accum=args.grad_accum,
        compile=compiled,
        world=world,
    )

    learners, critic = {"vae": learner}, None
    if args.adversarial_weight:
        strength = args.adversarial_weight, args.adversarial_start
        critic = Critic(device, world, args.image_size, *strength, args.grad_accum)
        learners["discriminator"] = critic.learner

    monitored = some_of(images, train_index, MONITORED, args.image_size)
    validated = some_of(images, val_index or train_index, VALIDATED, args.image_size)
    monitor = VAEMonitor(args, folder, learner, monitored, validated, perceptual_net)

    def step(batch, clock: Clock) -> dict:
        x = to_device(batch, device)
        rate = learning_rate(args.lr_scheduler, clock.progress, args.learning_rate, 0.01 * args.learning_rate)
        rate *= warm_up(clock.step // args.grad_accum)
        learner.set_lr(rate)
        kl_weight = args.kl_weight * ramp(clock.progress, kl_grows_until)
        shape = learner.net.latent_shape(args.image_size)
        eps = device.send(seeds.noise_like((order.size, *shape), args.seed, "posterior", clock.step)[rows])
        with device.autocast():
            x_hat, mu, logvar = learner.train_net(x, eps)
        losses = vae_loss(x_hat, x, mu, logvar, kl_weight, args.kl_target, world.mean)
        if perceptual_net is not None:
            with device.autocast():
                losses["perceptual"] = perceptual_net(x_hat, x)
            losses["loss"] = losses["loss"] + args.perceptual_weight * losses["perceptual"]
        if judged := critic is not None and critic.acts(clock.progress):
            last_layer = learner.net.decoder.conv_out.weight
            losses["adversarial"] = critic.blame(losses["loss"], x_hat, last_layer, clock.progress)
        learner.update(losses["loss"] + losses.get("adversarial", 0))
        if judged:
            losses["discriminator"] = critic.learn(x, x_hat, rate / args.learning_rate)
        return losses

    folder.write_args(args, remarks)
    plan = Plan(
        script="3A",
        epochs=epochs,
        batches_per_epoch=order.per_epoch,
        batches=lambda epoch, batch: loader(
            dataset, order, epoch, batch, args.num_workers, device.type == "cuda", rows
        ),
        validate=monitor.validate,
        preview=monitor.preview,
        document=lambda: {
            "image_size": args.image_size,
            "perceptual": args.perceptual_net,
            "images": sha256,
            "seen": seen,
        },
        monitor="val_loss",
        show=("val_psnr", "val_kl"),
        checkpoint_name="checkpoint_{epoch:04d}.pt",
        checkpoint_every=20,
        preview_every=10,
        keep_checkpoints=args.keep_checkpoints,
        max_minutes=args.max_minutes,
        stopper=Stopper(),
        newest_is_best=lambda progress: critic is not None and critic.is_heard(progress),
        world=world,
        next_command=cli.next_command(
            "3B-train-diffusion-from-scratch-corel.py",
            args,
            *("--vae-checkpoint", f"{args.output_dir}/best_model.pt", "--image-dir", args.data_dir),
            *(("--class-conditional",) if len(set(labels)) > 1 else ()),
        ),
    )
    return fit(plan, step, learners, folder, args, state)


if __name__ == "__main__":
    sys.exit(cli.run_script(main))
