"""1A: draw a sample dataset: six photo-like classes, nothing to download. Writes XXXX_YYYY.png and classes.txt."""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import make_folder, resolve, write_atomically
from stepwise.training.cli import Parser, add_run_flags, parse, positive_int, run_script, stop_signal

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
CLASSES, MARKER = "classes.txt", ".drawing-by-1A"
LARGEST = {"--per-class": 9999, "--image-size": 4096}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        "Draw a dataset of sunsets, mountains, flowers, buildings, ships and night skies. "
        "The same seed gives the same files; a smaller --per-class gives the first of them.",
        "python codes/1A-make-sample-dataset.py --output-dir data/corel --per-class 60",
    )
    data = parser.add_argument_group("dataset")
    data.add_argument("--output-dir", default="data/corel", help="folder for the images and classes.txt")
    data.add_argument("--per-class", type=positive_int, default=60, help="images of each class")
    data.add_argument("--image-size", type=positive_int, default=400, help="side of the square images in pixels")
    add_run_flags(parser, device=False, workers=False)
    args = parse(parser, argv)
    for flag, value in (("--per-class", args.per_class), ("--image-size", args.image_size)):
        if value > LARGEST[flag]:
            parser.error(f"{flag} is at most {LARGEST[flag]}, found {value}")
    if args.image_size < 32:
        parser.error(f"--image-size is at least 32, found {args.image_size}")
    return args


def image_name(class_number: int, image_number: int) -> str:
    """Both numbers count from 1: `0002_0017.png` is the 17th picture of the second class."""
    return f"{class_number:04d}_{image_number:04d}.png"


def refuse_foreign_images(folder: Path, names: set[str], classes: str) -> None:
    """Raise UserError if `folder` or a sub-folder holds images that an earlier run of this script did not draw."""
    images = [
        path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    foreign = sorted(str(path.relative_to(folder)) for path in images)
    has_classes = (folder / CLASSES).exists()
    drawn_here = read_or_empty(folder / CLASSES) == classes if has_classes else (folder / MARKER).exists()
    if drawn_here:
        foreign = [name for name in foreign if name not in names]
    elif has_classes:
        foreign += [CLASSES]
    if foreign:
        raise UserError(
            f"{folder} already holds another dataset: {foreign[0]}"
            + (f" and {len(foreign) - 1} more.\n" if foreign[1:] else ".\n")
            + "A dataset is never mixed with another one. Empty the folder or choose another --output-dir."
        )


def read_or_empty(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)

    import cv2
    from tqdm import tqdm

    from stepwise.data.scenes import SCENES, draw_scene

    cv2.setNumThreads(1)
    folder = make_folder(resolve(args.base_dir, args.output_dir))
    jobs = [
        (class_name, image_number, folder / image_name(class_number, image_number))
        for class_number, class_name in enumerate(SCENES, start=1)
        for image_number in range(1, args.per_class + 1)
    ]
    classes = "".join(f"{number} {class_name}\n" for number, class_name in enumerate(SCENES, start=1))
    refuse_foreign_images(folder, {path.name for _, _, path in jobs}, classes)
    write_atomically(folder / MARKER, [b"1A-make-sample-dataset.py has not come to its end here.\n"])

    def draw(job: tuple[str, int, Path]) -> None:
        class_name, image_number, path = job
        picture = draw_scene(class_name, args.seed, image_number, args.image_size)
        encoded = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
        write_atomically(path, [encoded.tobytes()])

    # Threads are enough: NumPy and OpenCV let go of the interpreter lock while they paint.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        try:
            for _ in tqdm(pool.map(draw, jobs), total=len(jobs), desc="drawing", unit="image"):
                stop_signal.check()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    write_atomically(folder / CLASSES, [classes.encode()])
    (folder / MARKER).unlink(missing_ok=True)
    print(f"{len(jobs)} images of {len(SCENES)} classes and classes.txt are in {folder}")
    return 0


if __name__ == "__main__":
    run_script(main)
