"""2A — check an image folder and prepare it for training. Writes corel_all, class_XXXX, captions and reports."""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import resolve, writable_folder
from stepwise.training.cli import Parser, add_run_flags, fraction, next_command, parse, run_script, stop_signal

if TYPE_CHECKING:
    from stepwise.data.corel import Picture

NAMED_ON_SCREEN = 5
FIGURE = "corel_dataset_samples.png"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        "Check every image of a dataset and prepare it for training: one folder with all images, one a class, "
        "with captions.\nTakes a flat folder of XXXX_YYYY.EXT with a classes.txt (`1 name` a line), one sub-folder "
        "a class, or a folder of your own photos.",
        "python codes/2A-prepare_corel_dataset.py --data-dir data/corel --holdout 0.1",
    )
    data = parser.add_argument_group("dataset")
    data.add_argument("--data-dir", default="data/corel", help="folder of PNG, JPEG, WebP, BMP or TIFF images")
    data.add_argument("--output-dir", default="training_data", help="the prepared folders go to corel/ in here")
    data.add_argument("--figs-dir", default="figs", help=f"folder for {FIGURE}")
    data.add_argument("--holdout", type=fraction, default=0.0, help="share of each class kept out of training")
    data.add_argument("--strict", action="store_true", help="stop at bad images instead of leaving them out")
    data.add_argument("--no-visualize", action="store_true", help="draw no figure of samples")
    add_run_flags(parser, device=False)
    return parse(parser, argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    # Damaged metadata makes Pillow talk about files that are reported, or fine, anyway.
    warnings.filterwarnings("ignore", category=UserWarning)

    from stepwise.data.corel import duplicates, examine, hold_out, survey, write_neutral_classes
    from stepwise.data.prepared import HELD_OUT, write_folders, write_table

    data_dir = resolve(args.base_dir, args.data_dir)
    output = resolve(args.base_dir, args.output_dir) / "corel"
    figs_dir = resolve(args.base_dir, args.figs_dir)
    refuse_overlap(data_dir, output, "--output-dir")
    if not args.no_visualize:
        refuse_overlap(data_dir, figs_dir, "--figs-dir")

    found = survey(data_dir)
    pictures, bad = examine(found, args.num_workers, stop_signal.check)
    writable_folder(output)
    write_table(output / "bad_images.csv", ("file", "reason"), bad)
    refuse_bad(bad, len(pictures), data_dir, args.strict)
    twins = duplicates(pictures)
    write_table(output / "duplicates.csv", ("file", "same_as"), twins)
    note = write_neutral_classes(found) if found.needs_classes_file else ""
    held = hold_out(pictures, args.holdout, args.seed)
    if args.holdout and not held:
        raise UserError(
            f"--holdout {args.holdout:g} holds nothing out: no class has two photos of its own that differ.\n"
            "Add photos, or leave --holdout out."
        )
    held_before = (output / HELD_OUT).is_dir()
    replaced = write_folders(output, pictures, held, found.class_names, args.num_workers, stop_signal.check)

    print_summary(pictures, held, found.class_names)
    print_findings(output, bad, twins)
    if dark := [picture.file for picture in pictures if picture.dark]:
        print(
            f"Dark:        {len(dark)} converted images are almost black, such as {dark[0]}. If they hold 10 or 12 "
            "bits a number, stretch them to 16 first"
        )
    if not args.no_visualize:
        shown = [picture for picture in pictures if picture.name not in held]
        print(f"Samples:     {draw_samples(writable_folder(figs_dir) / FIGURE, output, shown, found.class_names)}")
    if held_before and not held:
        print(f"Held out:    none any more: {HELD_OUT} is gone, its images are trained on (--holdout keeps them apart)")
    if replaced:
        print(f"Replaced:    {replaced} images of an earlier preparation were removed")
    print(f"Prepared in: {output}")
    if note:
        print(f"\n{note}")
    all_images = str(Path(args.output_dir) / "corel" / "corel_all")
    print("\nNext:", next_command("3A-train-vae-corel.py", args, "--data-dir", all_images))
    return 0


def refuse_overlap(data_dir: Path, output: Path, flag: str) -> None:
    """Raise UserError if one of the folders lies in the other: output would be read as data."""
    inner, outer = output.resolve(), data_dir.resolve()
    if inner.is_relative_to(outer) or (flag == "--output-dir" and outer.is_relative_to(inner)):
        raise UserError(f"{output} and --data-dir {data_dir} lie in each other.\nChoose another {flag}.")


def refuse_bad(bad: list[tuple[str, str]], num_good: int, data_dir: Path, strict: bool) -> None:
    """Raise UserError if no image is good, or with --strict if any is bad."""
    if num_good and not (bad and strict):
        return
    first = "; ".join(f"{file}: {reason}" for file, reason in bad[:3]) + ("; ..." if len(bad) > 3 else "")
    what = f"{len(bad)} bad image(s) in {data_dir}" if num_good else f"No usable image in {data_dir}, {len(bad)} bad"
    remedy = "Mend or remove them" + (", or leave out --strict." if num_good else ".")
    raise UserError(f"{what}: {first}\n{remedy} All are in bad_images.csv.")


def print_summary(pictures: list[Picture], held: set[str], class_names: dict[int, str]) -> None:
    total = Counter(picture.number for picture in pictures)
    held_out = Counter(picture.number for picture in pictures if picture.name in held)
    width = max(len("all"), *(len(class_names[number]) for number in total))
    rows = [(f"{number:04d}", class_names[number], total[number], held_out[number]) for number in sorted(total)]
    for number, name, count, out in [*rows, ("", "all", len(pictures), len(held))]:
        print(
            f"{number:4}  {name:{width}}  {count:6}"
            + (f"  ({count - out} to train on, {out} held out)" if held else "")
        )
    print()


def print_findings(output: Path, bad: list[tuple[str, str]], twins: list[tuple[str, str]]) -> None:
    print(f"Bad images:  {len(bad)}" + (f", left out; see {output / 'bad_images.csv'}" if bad else ""))
    for file, reason in bad[:NAMED_ON_SCREEN]:
        print(f"  {file}: {reason}")
    print(f"Duplicates:  {len(twins)}" + (f", kept; see {output / 'duplicates.csv'}" if twins else ""))
    for file, same_as in twins[:NAMED_ON_SCREEN]:
        print(f"  {file} is {same_as}")


def draw_samples(path: Path, output: Path, pictures: list[Picture], class_names: dict[int, str]) -> Path:
    """Write a figure with one row of samples a class; returns its path."""
    from stepwise.data.prepared import write_if_changed
    from stepwise.data.samples_figure import samples_figure

    members: dict[int, list[Path]] = {}
    for picture in sorted(pictures, key=lambda picture: picture.name):
        members.setdefault(picture.number, []).append(output / "corel_all" / picture.name)
    rows = [(class_names[number], members[number]) for number in sorted(members)]
    write_if_changed(path, samples_figure(rows))
    return path


if __name__ == "__main__":
    run_script(main)
