"""Encoded images (PNG, JPEG) to pixels: what does not mean 8-bit colours or greys is refused.

Pillow opens more than that and makes 8 bits of it in silence: 16-bit colours lose their lower half,
an alpha channel is thrown away, of an animation the first frame is taken.
"""

import io
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from benchmark.datasets.info import DatasetInfo, Pixels
from benchmark.errors import UsageError, cause

FORMATS = ("PNG", "JPEG")
PLAIN = ("1", "L", "P", "RGB")
WITH_ALPHA = ("LA", "PA", "RGBA")
"""Pillow's modes of up to 8 bits a channel that are colours of a screen, without and with alpha."""
ORIENTATION = 0x0112
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""What brings each EXIF orientation upright; from 5 on height and width are swapped."""

_log = logging.getLogger(__name__)


def most_encoded(info: DatasetInfo) -> int:
    """Return the most bytes that an encoded image may take: 16 bits, four channels, and a MiB."""
    _, height, width = info.shape
    return 2**20 + 8 * height * width


def decode_images(encoded: Iterable[tuple[int, bytes, str]], n: int, info: DatasetInfo) -> Pixels:
    """Decode ``n`` images, each given as (place, bytes, where it is from), into (n, C, H, W) uint8.

    A line is logged if some are turned, as their EXIF orientation says. Errors as for
    :func:`decode_image`.
    """
    images = np.empty((n, *info.shape), np.uint8)
    turned = 0
    for place, data, where in encoded:
        images[place], orientation = _decode(data, info, where)
        turned += orientation != 1
    if turned:
        _log.warning(
            "%s: %s of %s images are turned as their EXIF orientation says",
            *(info.name, f"{turned:,}", f"{n:,}"),
        )
    return images


def decode_image(data: bytes, info: DatasetInfo, where: str) -> Pixels:
    """Decode one PNG or JPEG into (C, H, W) uint8, turned as its EXIF orientation says.

    Greys become three equal channels, colours their luma, where ``info`` has the other kind.
    UsageError, with ``where``, if it is damaged, of another size, or no plain 8-bit picture: more
    bits, pixels that are not opaque, CMYK, several frames.
    """
    return _decode(data, info, where)[0]


def _decode(data: bytes, info: DatasetInfo, where: str) -> tuple[Pixels, int]:
    """Return the pixels and the EXIF orientation, 1 where there is none."""
    channels, height, width = info.shape
    if len(data) > most_encoded(info):
        raise UsageError(
            f"{where}: the image takes {len(data):,} bytes; {most_encoded(info):,} are the most for"
            f" {width}x{height} pixels"
        )
    orientation = 1
    # Of Pillow's many readers, those that data sets need.
    with _decoding(where, FORMATS), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        size = image.size
        # The header tells the size: an image of the wrong one is never decompressed.
        if size in ((width, height), (height, width)):
            orientation = _orientation(image)
            size = size[::-1] if orientation >= 5 else size
        if size == (width, height):
            _check_kind(image, data, where)
            plain = _without_alpha(image, where).convert("L" if channels == 1 else "RGB")
            pixels = np.asarray(_upright(plain, orientation))
    if size != (width, height):
        raise UsageError(
            f"{where}: the image is {size[0]}x{size[1]} pixels;"
            f" {info.name} needs {width}x{height} (width x height)"
        )
    return pixels.reshape(height, width, channels).transpose(2, 0, 1), orientation


def open_picture(
    data: bytes, where: str, formats: tuple[str, ...] = FORMATS
) -> tuple[Image.Image, bool]:
    """Decode an image of any size, in mode L if it is grey and else RGB, and whether it was turned.

    UsageError, with ``where``, as for :func:`decode_image`.
    """
    with _decoding(where, formats), Image.open(io.BytesIO(data), formats=formats) as image:
        return plain_picture(image, where, data)


def plain_picture(image: Image.Image, where: str, data: bytes = b"") -> tuple[Image.Image, bool]:
    """Return an opened image as :func:`open_picture` does; ``data`` are its bytes, if there are."""
    _check_kind(image, data, where)
    orientation = _orientation(image)
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    plain = _without_alpha(image, where).convert(mode)
    return _upright(plain, orientation), orientation > 1


@contextmanager
def _decoding(where: str, formats: tuple[str, ...]) -> Iterator[None]:
    """Turn what Pillow raises into one clear line."""
    try:
        yield
    except (UsageError, MemoryError):
        raise
    except UnidentifiedImageError:  # its own message shows a memory address
        raise UsageError(f"{where}: not a readable image (no {' or '.join(formats)})") from None
    except Exception as error:  # Pillow's readers raise SyntaxError, struct.error, ... as well
        raise UsageError(f"{where}: not a readable image ({cause(error)})") from None


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TURNS[orientation]) if orientation > 1 else image


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except (OSError, MemoryError, Image.DecompressionBombError):  # the image's own damage
        raise
    except Exception:  # damaged notes beside a sound image
        return 1
    return found if found in TURNS else 1


def _check_kind(image: Image.Image, data: bytes, where: str) -> None:
    """Raise a UsageError unless ``image`` is one picture of up to 8 bits a channel."""
    bits = _bits(image, data)
    if bits > 8 or image.mode.startswith(("I", "F")):
        raise UsageError(
            f"{where}: more than 8 bits a channel (mode {image.mode}), which would be cut;"
            " convert it to 8 first"
        )
    if image.mode not in (*PLAIN, *WITH_ALPHA):
        raise UsageError(f"{where}: colours in {image.mode}; convert them to RGB or grey first")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise UsageError(f"{where}: {frames} pictures in one file; keep the one that is meant")


def _bits(image: Image.Image, data: bytes) -> int:
    """Return the bits a channel that a PNG's header tells; Pillow reads 16-bit colours as 8."""
    if image.format != "PNG" or not data:
        return 8
    if data[12:16] != b"IHDR":
        raise ValueError("a PNG begins with its header, IHDR")
    return data[24]


def _without_alpha(image: Image.Image, where: str) -> Image.Image:
    """Return ``image`` without an alpha channel; UsageError if a pixel is not opaque.

    What shows through is undefined: a viewer lays the image over white, Pillow over nothing.
    """
    if image.mode not in WITH_ALPHA and "transparency" not in image.info:
        return image
    full = image.convert("RGBA")
    alpha = np.asarray(full.getchannel("A"))
    if (alpha < 255).any():
        raise UsageError(
            f"{where}: {np.count_nonzero(alpha < 255):,} of {alpha.size:,} pixels are not opaque;"
            " lay the image over a background first"
        )
    return full
