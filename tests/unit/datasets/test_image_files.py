"""Encoded images that Pillow would make 8-bit colours of in silence: each kind, one line."""

import io
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from benchmark.datasets import DatasetInfo, DatasetSource
from benchmark.datasets.image_files import decode_image
from benchmark.errors import UsageError

WIDTH, HEIGHT = 6, 4
GREY = DatasetInfo("toy", (1, HEIGHT, WIDTH), 2, ("a", "b"), augment=False)
COLOUR = DatasetInfo("toy", (3, HEIGHT, WIDTH), 2, ("a", "b"), augment=False)
BOTH = pytest.mark.parametrize("info", [GREY, COLOUR], ids=["grey", "colour"])


def pixels(channels: int, seed: int = 0) -> np.ndarray:
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(bits: int, colour: int, channels: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG by hand: Pillow writes no 16-bit colours."""
    header = (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0))
    row = b"\0" + bytes(-(-WIDTH * channels * bits // 8))
    body = (b"IDAT", zlib.compress(row * HEIGHT))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in (header, *chunks, body, (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content
        data += struct.pack(">I", zlib.crc32(kind + content))
    return data


def refused(data: bytes, info: DatasetInfo) -> str:
    with pytest.raises(UsageError) as caught:
        decode_image(data, info, "row 3")
    message = str(caught.value)
    assert message.startswith("row 3: ")
    assert "\n" not in message
    return message


# --- more than 8 bits ------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("colour", "channels"),
    [(0, 1), (2, 3), (4, 2), (6, 4)],
    ids=["grey", "RGB", "grey and alpha", "RGBA"],
)
def test_sixteen_bits_are_never_cut(info: DatasetInfo, colour: int, channels: int) -> None:
    assert "more than 8 bits a channel" in refused(png(16, colour, channels), info)
    decode_image(png(8, 2, 3), info, "the same with 8 bits")


@BOTH
def test_a_header_that_does_not_come_first_hides_no_bits(info: DatasetInfo) -> None:
    whole = png(16, 2, 3)
    note = b"\0\0\0\x03tEXta\0b" + struct.pack(">I", zlib.crc32(b"tEXta\0b"))
    assert "row 3: " in refused(whole[:8] + note + whole[8:], info)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_fewer_bits_are_stretched_to_all_greys(bits: int) -> None:
    decoded = decode_image(png(bits, 0, 1, (b"tEXt", b"a\0b")), GREY, "here")
    assert decoded.shape == (1, HEIGHT, WIDTH)
    one_bit = Image.fromarray(pixels(1) > 127)
    assert set(decode_image(saved(one_bit), GREY, "here").flatten()) == {0, 255}


@BOTH
def test_other_formats_and_floats_are_refused(info: DatasetInfo) -> None:
    floats = Image.fromarray(pixels(1).astype(np.float32) / 255)
    assert "no PNG or JPEG" in refused(saved(floats, "TIFF"), info)


# --- alpha -----------------------------------------------------------------------------------


def clear_corner(alpha: np.ndarray) -> np.ndarray:
    alpha[0, :2] = (0, 254)
    return alpha


def with_alpha(mode: str, alpha: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels(3)).convert(mode.removesuffix("A"))
    image.putalpha(Image.fromarray(alpha))
    return image


@BOTH
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_opaque_alpha_is_dropped_and_any_other_refused(info: DatasetInfo, mode: str) -> None:
    opaque = with_alpha(mode, np.full((HEIGHT, WIDTH), 255, np.uint8))
    plain = opaque.convert(mode.removesuffix("A"))
    found = decode_image(saved(opaque), info, "here")
    assert np.array_equal(found, decode_image(saved(plain), info, "here"))
    see_through = with_alpha(mode, clear_corner(np.full((HEIGHT, WIDTH), 255, np.uint8)))
    assert "2 of 24 pixels are not opaque; lay" in refused(saved(see_through), info)


@BOTH
def test_a_transparent_colour_counts_where_a_pixel_has_it(info: DatasetInfo) -> None:
    grey = pixels(1).clip(1)
    plain = decode_image(saved(Image.fromarray(grey)), info, "here")
    unused = saved(Image.fromarray(grey), transparency=0)
    assert np.array_equal(decode_image(unused, info, "here"), plain)
    grey[1, 1] = 0
    assert "1 of 24 pixels" in refused(saved(Image.fromarray(grey), transparency=0), info)
    colour = pixels(3)
    key = tuple(int(value) for value in colour[2, 3])
    assert "pixels are not opaque" in refused(
        saved(Image.fromarray(colour), transparency=key), info
    )
    one_bit = saved(Image.fromarray(grey > 127), transparency=0)
    assert "pixels are not opaque" in refused(one_bit, info)


@BOTH
@pytest.mark.filterwarnings("error")  # Pillow warns on standard error
def test_a_palette_with_transparent_entries(info: DatasetInfo) -> None:
    palette = Image.fromarray(pixels(3)).quantize(8)
    plain = decode_image(saved(palette), info, "here")
    shade = np.asarray(palette.convert("RGB").convert("L" if info is GREY else "RGB"))
    assert np.array_equal(plain, shade.reshape(HEIGHT, WIDTH, -1).transpose(2, 0, 1))
    used = int(np.asarray(palette)[0, 0])
    assert "pixels are not opaque" in refused(saved(palette, transparency=used), info)
    several = bytes(128 if entry == used else 255 for entry in range(8))
    assert "pixels are not opaque" in refused(saved(palette, transparency=several), info)
    opaque = saved(palette, transparency=bytes([255] * 8))
    assert np.array_equal(decode_image(opaque, info, "here"), plain)


# --- other colours, several pictures ---------------------------------------------------------


@BOTH
def test_cmyk_is_refused(info: DatasetInfo) -> None:
    printed = Image.fromarray(pixels(3)).convert("CMYK")
    assert "colours in CMYK; convert them" in refused(saved(printed, "JPEG"), info)


@BOTH
@pytest.mark.parametrize("form", ["PNG", "MPO"])
def test_several_pictures_in_one_file_are_refused(info: DatasetInfo, form: str) -> None:
    first, second = (Image.fromarray(pixels(3, seed)) for seed in (0, 1))
    data = saved(first, form, save_all=True, append_images=[second])
    assert "2 pictures in one file" in refused(data, info)


# --- orientation -----------------------------------------------------------------------------


def turned(orientation: Any, form: str = "PNG") -> bytes:
    """Return an image that is 6x4 when its EXIF orientation is followed."""
    image = Image.fromarray(pixels(3))
    if orientation in (5, 6, 7, 8):
        image = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, form, exif=exif)


@BOTH
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_followed(info: DatasetInfo, form: str, orientation: int) -> None:
    data = turned(orientation, form)
    found = decode_image(data, info, "here")
    with Image.open(io.BytesIO(data)) as image:
        shown = ImageOps.exif_transpose(image).convert("L" if info is GREY else "RGB")
    assert np.array_equal(found, np.asarray(shown).reshape(HEIGHT, WIDTH, -1).transpose(2, 0, 1))


def test_an_image_that_is_turned_to_another_size_is_refused() -> None:
    image = Image.fromarray(pixels(3))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert "the image is 4x6 pixels; toy needs 6x4" in refused(saved(image, exif=exif), COLOUR)


@pytest.mark.parametrize("orientation", [0, 9])
def test_orientations_that_there_are_not_change_nothing(orientation: int) -> None:
    assert np.array_equal(
        decode_image(turned(orientation), COLOUR, "here"), pixels(3).transpose(2, 0, 1)
    )


def test_damaged_notes_cost_no_image() -> None:
    data = saved(Image.fromarray(pixels(3)), "JPEG", exif=b"Exif\0\0no TIFF header at all")
    assert decode_image(data, COLOUR, "here").shape == (3, HEIGHT, WIDTH)


def test_turned_images_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    images = [turned(6), turned(1), turned(3)]
    (tmp_path / "toy").mkdir()
    pq.write_table(
        pa.table({"image": images, "label": [0, 1, 0]}), tmp_path / "toy" / "test.parquet"
    )
    with caplog.at_level(logging.WARNING):
        loaded = DatasetSource(COLOUR).load("test", data_dir=tmp_path)
    assert len(loaded) == 3
    said = [record.getMessage() for record in caplog.records]
    assert said == ["toy: 2 of 3 images are turned as their EXIF orientation says"]
