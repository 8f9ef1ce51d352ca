"""Images: strict decoding, uint8 <-> [-1, 1], grids and PNG files.

`decode` trusts nothing about a file: its size, its extension, or that its end is there.
"""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin, UnidentifiedImageError

from stepwise.foundation.paths import write_atomically

if TYPE_CHECKING:
    import torch

IMAGES = "images"  # the key under which a PNG of several images tells how many it shows
MAX_PIXELS = 89_478_485  # Pillow warns above this
_SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
IMAGE_SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
UNREAD_SUFFIXES = frozenset({".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".svg"})

_SIGNATURES = (
    *((0, b"\x89PNG", "PNG"), (0, b"\xff\xd8\xff", "JPEG"), (8, b"WEBP", "WEBP"), (0, b"BM", "BMP")),
    *((0, b"II*\0", "TIFF"), (0, b"MM\0*", "TIFF"), (0, b"GIF8", "GIF"), (4, b"ftyp", "HEIC or AVIF")),
)
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_header_lock = threading.Lock()


class BadImage(Exception):
    """A file that cannot be used as an image; `reason` says why in a few plain words."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def is_image_name(name: str) -> bool:
    """True for a name with one of IMAGE_SUFFIXES, in any case, that is not hidden."""
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def is_unread_name(name: str) -> bool:
    """True for a name of an image that is not read, such as a phone's HEIC, in any case, that is not hidden."""
    return not name.startswith(".") and Path(name).suffix.lower() in UNREAD_SUFFIXES


def decode(path: str | Path) -> Image.Image:
    """The whole image in `path` as upright 8-bit RGB; of several frames, the first.

    Alpha is composed on white. Raises BadImage for a file that is truncated, empty, not an image,
    of another format than its extension says, larger than MAX_PIXELS, or not readable.
    """
    return decode_with_form(path)[0]


def decode_with_form(path: str | Path) -> tuple[Image.Image, bool]:
    """As `decode`, and whether the file itself holds just these pixels as plain 8-bit RGB.

    Such a file can be linked to; any other has to be converted.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise BadImage("a directory")
        if not path.is_file() and path.exists():
            raise BadImage("unreadable: not a regular file")
        with path.open("rb") as file:
            return _decode(file, path.suffix)
    except OSError as error:
        raise BadImage(f"unreadable: {error.strerror or error}")


def _decode(file: BinaryIO, suffix: str) -> tuple[Image.Image, bool]:
    signature = file.read(16)
    if not signature:
        raise BadImage("zero bytes")
    image = _open_header(file, signature, suffix)
    stored_as = str(image.tile)  # load() empties it, and turns a TIFF upright
    stored_orientation = getattr(image, "tag_v2", {}).get(_ORIENTATION_TAG, 1)
    try:
        image.load()
        orientation = _orientation(image)
        plain = (
            image.mode == "RGB"
            and not image.has_transparency_data
            and {orientation, stored_orientation}.isdisjoint(_UPRIGHT)
            and ";16" not in stored_as
            and (image.format == "MPO" or getattr(image, "n_frames", 1) == 1)
        )
        rgb = _to_rgb(image)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        raise BadImage(_failure(error))
    if image.format == "PNG" and not _has_png_end(file):
        raise BadImage("truncated")
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    rgb.info = {}
    return rgb, plain


def _open_header(file: BinaryIO, signature: bytes, suffix: str) -> Image.Image:
    """The image with only its header read: format, extension and size are checked here."""
    content = next((name for at, mark, name in _SIGNATURES if signature[at:].startswith(mark)), None)
    if content is None:
        raise BadImage("not an image")
    if suffix.lower() not in _SUFFIXES.get(content, ()):
        raise BadImage(f"wrong extension: holds {content}")
    # Pillow's limit and Python's warning filters belong to the process: one thread at a time.
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=[content])
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise BadImage(f"decompression bomb: {_declared_size(file, content)} pixels")
        except UnidentifiedImageError:
            raise BadImage("truncated or damaged header")
        except Exception as error:
            raise BadImage(_failure(error))
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"decompression bomb: {image.width} x {image.height} pixels")
    return image


def _declared_size(file: BinaryIO, content: str) -> str:
    """The size in the header of an image that is too large to open."""
    if content == "WEBP":  # its plugin makes room for all pixels before it tells the size
        return "too many"
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        file.seek(0)
        size = Image.open(file, formats=[content]).size
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return f"{size[0]} x {size[1]}"


def _has_png_end(file: BinaryIO) -> bool:
    """Pillow is content when the pixels are there; other readers also want the closing chunk."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 2**16))
    return b"IEND\xaeB`\x82" in file.read()


def _failure(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    cut_short = ("truncated", "broken data stream", "unexpected end", "broken png", "could not create decoder")
    return "truncated" if any(words in text.lower() for words in cut_short) else f"unreadable: {text}"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation. Damaged EXIF counts as none: the pixels are still good."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Gray `values` of 16 or 32 bits, or floats, as uint8; white is the peak that such files use."""
    peaks = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (65535.0, 2.0**31 - 1)
    values = np.nan_to_num(values.astype(np.float64))
    peak = next((peak for peak in peaks if values.max(initial=0) <= peak), peaks[-1])
    return np.rint(values.clip(0, peak) * (255 / peak)).astype(np.uint8)


def fit_square(image: np.ndarray, size: int) -> np.ndarray:
    """The centre square of `image` (uint8 [H, W, 3]) as uint8 [size, size, 3]."""
    import cv2

    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(square)
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


def square_at(image: np.ndarray, share: float) -> np.ndarray:
    """The largest square of `image`, [H, W, 3], at `share`, 0 to 1, of what the longer side has too much."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = round((height - side) * share), round((width - side) * share)
    return image[top : top + side, left : left + side]


def at_once(size: int) -> int:
    """How many images of this size a network or a measure is given together: of 128 px 32, SSIM taking 13 MiB each."""
    return max(1, 32 * 128**2 // size**2)


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1]."""
    import torch

    channels_first = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    return torch.from_numpy(channels_first).float().div_(127.5).sub_(1)


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """[N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3], rounded and clamped."""
    import torch

    levels = images.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return np.ascontiguousarray(levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def grid(images: np.ndarray, columns: int, pad: int = 2, background: int = 255) -> np.ndarray:
    """uint8 [N, H, W, 3] -> one picture, uint8 [H', W', 3], filled row by row, with a border of `pad`."""
    count, height, width = images.shape[:3]
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    shape = (rows * (height + pad) + pad, columns * (width + pad) + pad, 3)
    canvas = np.full(shape, background, dtype=np.uint8)
    for index, image in enumerate(images):
        top = pad + index // columns * (height + pad)
        left = pad + index % columns * (width + pad)
        canvas[top : top + height, left : left + width] = image
    return canvas


def labelled_grid(rows: list[tuple[str, np.ndarray]], pad: int = 2) -> np.ndarray:
    """One row per (name, uint8 [n, H, W, 3]) with the name to its left -> uint8 [H', W', 3].

    All images have the same size; rows may differ in length.
    """
    longest = max(len(images) for _, images in rows)
    height = rows[0][1].shape[1]
    strips = [grid(_padded(images, longest), longest, pad)[: height + pad] for _, images in rows]
    picture = np.concatenate([*strips, np.full_like(strips[0][:pad], 255)])
    font = ImageFont.load_default(max(11, min(28, height // 5)))
    margin = 3 * pad + 8
    label_width = int(max(font.getlength(name) for name, _ in rows)) + 2 * margin
    canvas = Image.new("RGB", (label_width + picture.shape[1], picture.shape[0]), "white")
    canvas.paste(Image.fromarray(picture), (label_width, 0))
    pen = ImageDraw.Draw(canvas)
    for index, (name, _) in enumerate(rows):
        middle = pad + index * (height + pad) + height // 2
        pen.text((label_width - margin, middle), name, fill=(40, 40, 40), font=font, anchor="rm")
    return np.asarray(canvas)


def _padded(images: np.ndarray, count: int) -> np.ndarray:
    blank = np.full((count - len(images), *images.shape[1:]), 255, dtype=np.uint8)
    return np.concatenate([images, blank])


def save_grid(path: Path, images: np.ndarray, columns: int) -> None:
    """Write uint8 [N, S, S, 3] as one picture that tells how many it shows, so that none takes it for an image."""
    save_png(path, grid(images, columns), {IMAGES: str(len(images))})


def save_png(
    path: str | Path, image: np.ndarray, metadata: dict[str, str] | None = None, dpi: int | None = None
) -> None:
    """Write uint8 [H, W, 3] (or [H, W]) as PNG with text `metadata`, to be printed at `dpi`; whole or not at all."""
    texts = PngImagePlugin.PngInfo()
    for key, text in (metadata or {}).items():
        texts.add_text(key, text)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", pnginfo=texts, dpi=dpi and (dpi, dpi))
    write_atomically(Path(path), [buffer.getvalue()])
