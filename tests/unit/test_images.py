"""Decoding: every format and mode becomes upright RGB, and every broken file says why it is refused."""

import os
import struct
import threading
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from stepwise.foundation import images
from stepwise.foundation.images import BadImage, decode, decode_with_form

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)
LOSSLESS = {"png": {}, "PNG": {}, "webp": {"lossless": True}, "bmp": {}, "tiff": {}, "TIF": {"compression": "tiff_lzw"}}


def reason(path):
    with pytest.raises(BadImage) as caught:
        decode(path)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


def png_header(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_give_the_same_pixels(tmp_path, suffix):
    PICTURE.save(tmp_path / f"a.{suffix}", **LOSSLESS[suffix])
    decoded, plain = decode_with_form(tmp_path / f"a.{suffix}")
    assert decoded.mode == "RGB" and plain
    np.testing.assert_array_equal(np.asarray(decoded), PIXELS)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG"])
def test_jpeg_is_plain(tmp_path, suffix):
    PICTURE.save(tmp_path / f"a.{suffix}")
    decoded, plain = decode_with_form(tmp_path / f"a.{suffix}")
    assert decoded.size == (36, 24) and decoded.mode == "RGB" and plain


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_gray_keeps_its_range(tmp_path, suffix):
    levels = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / f"a.{suffix}")
    decoded, plain = decode_with_form(tmp_path / f"a.{suffix}")
    assert np.asarray(decoded)[0, :, 1].tolist() == [0, 100, 255] and not plain


def test_wide_integers_and_floats_are_scaled(tmp_path):
    Image.fromarray(np.array([[0, 65535]], dtype=np.int32)).save(tmp_path / "i.tif")
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "f.tif")
    assert np.asarray(decode(tmp_path / "i.tif"))[0, :, 0].tolist() == [0, 255]
    assert np.asarray(decode(tmp_path / "f.tif"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_gray_and_palette_become_rgb(tmp_path, mode):
    PICTURE.convert(mode).save(tmp_path / "a.png")
    decoded, plain = decode_with_form(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(PICTURE.convert(mode).convert("RGB")))
    assert not plain


def test_alpha_is_composed_on_white(tmp_path):
    Image.fromarray(np.array([[[200, 0, 0, 0], [200, 0, 0, 255]]], dtype=np.uint8)).save(tmp_path / "rgba.png")
    Image.fromarray(np.array([[[0, 0], [0, 255]]], dtype=np.uint8)).save(tmp_path / "la.png")
    assert np.asarray(decode(tmp_path / "rgba.png")).tolist() == [[[255, 255, 255], [200, 0, 0]]]
    assert np.asarray(decode(tmp_path / "la.png")).tolist() == [[[255, 255, 255], [0, 0, 0]]]


def test_transparent_colors_of_palette_gray_and_rgb_are_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", transparency=0)
    Image.new("L", (1, 1), 7).save(tmp_path / "l.png", transparency=7)
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    assert np.asarray(decode(tmp_path / "p.png")).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    assert np.asarray(decode(tmp_path / "l.png")).tolist() == [[[255] * 3]]
    decoded, plain = decode_with_form(tmp_path / "rgb.png")
    assert np.asarray(decoded).tolist() == [[[255] * 3]] and not plain


def test_cmyk_jpeg_has_the_right_colors(tmp_path):
    Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    decoded, plain = decode_with_form(tmp_path / "a.jpg")
    assert np.abs(np.asarray(decoded).astype(int) - (200, 30, 60)).max() < 8 and not plain


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, -1), (8, 1)])
def test_exif_rotation_is_applied(tmp_path, suffix, orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    PICTURE.save(tmp_path / f"a.{suffix}", exif=exif)
    decoded, plain = decode_with_form(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(np.asarray(decoded), np.rot90(PIXELS, turns))
    assert not plain


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    decoded, plain = decode_with_form(tmp_path / "a.webp")
    assert decoded.getpixel((0, 0)) == (255, 0, 0) and not plain


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_truncated_files(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    PICTURE.save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert reason(path).startswith("truncated")


def test_png_without_its_last_byte_is_truncated(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-1])
    assert reason(tmp_path / "a.png") == "truncated"


def test_other_broken_files(tmp_path):
    (tmp_path / "zero.png").touch()
    (tmp_path / "text.jpg").write_text("this is no image at all")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert reason(tmp_path / "zero.png") == "zero bytes"
    assert reason(tmp_path / "text.jpg") == "not an image"
    assert reason(tmp_path / "folder.png") == "a directory"
    assert reason(tmp_path / "missing.png").startswith("unreadable: No such file")
    assert reason(tmp_path / "loop.png").startswith("unreadable: ")


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path / "pipe.png") == "unreadable: not a regular file"


def test_wrong_extension_names_what_is_inside(tmp_path):
    PICTURE.save(tmp_path / "a.png", format="JPEG")
    PICTURE.save(tmp_path / "b.jpg", format="GIF")
    assert reason(tmp_path / "a.png") == "wrong extension: holds JPEG"
    assert reason(tmp_path / "b.jpg") == "wrong extension: holds GIF"


@pytest.mark.parametrize("size", [(30000, 30000), (12000, 9000)])
def test_bombs_are_refused_from_any_thread(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png_header(*size))
    found, limit = [], Image.MAX_IMAGE_PIXELS
    threads = [threading.Thread(target=lambda: found.append(reason(tmp_path / "a.png"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [f"decompression bomb: {size[0]} x {size[1]} pixels"] * 4
    assert limit == Image.MAX_IMAGE_PIXELS


def test_image_names():
    assert images.is_image_name("a.PNG") and images.is_image_name("b.Jpeg")
    assert not images.is_image_name("._a.png") and not images.is_image_name("a.gif")


@pytest.mark.parametrize("size", [8, 24, 50])
def test_fit_square_takes_the_centre(size):
    square = images.fit_square(PIXELS, size)
    assert square.shape == (size, size, 3) and square.dtype == np.uint8
    if size == 24:
        np.testing.assert_array_equal(square, PIXELS[:, 6:30])


def test_uint8_round_trip_is_exact_and_clamped():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    tensor = images.to_tensor(levels)
    assert tensor.shape == (1, 3, 16, 16) and tensor.min() == -1 and tensor.max() == 1
    np.testing.assert_array_equal(images.to_uint8(tensor), levels)
    assert images.to_uint8(torch.tensor([-9.0, 0.0, 9.0]).view(1, 3, 1, 1)).tolist() == [[[[0, 128, 255]]]]


def test_grid_places_row_by_row():
    tiles = np.stack([np.full((4, 6, 3), value, dtype=np.uint8) for value in (10, 20, 30)])
    picture = images.grid(tiles, 2, pad=1, background=0)
    assert picture.shape == (11, 15, 3)
    assert [picture[1, 1, 0], picture[1, 8, 0], picture[6, 1, 0], picture[6, 8, 0]] == [10, 20, 30, 0]


def test_labelled_grid_keeps_tiles_and_writes_names():
    tiles = np.full((3, 32, 32, 3), 9, dtype=np.uint8)
    picture = images.labelled_grid([("steam train", tiles), ("cake", tiles[:1])], pad=2)
    assert picture.shape[0] == 2 * 34 + 2
    assert (picture == 9).all(-1).sum() == 4 * 32 * 32
    assert (picture[:, :60] < 100).any()


def test_save_png_is_whole_and_holds_metadata(tmp_path):
    images.save_png(tmp_path / "a.png", PIXELS, {"prompt": "a photo of a café"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.info["prompt"] == "a photo of a café"
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "a.png")), PIXELS)
