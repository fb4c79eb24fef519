"""What every source of a dataset hands over: a split whose images are decoded on demand.

Labels come first and whole, because the selection needs them all; images come afterwards, and
only the chosen rows of them.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from benchmark.errors import UsageError

FORMATS = ("PNG", "JPEG")
SplitName = Literal["train", "test"]
Rows = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DatasetInfo:
    """What a network needs to know of a dataset.

    ``shape`` is (C, H, W), with C 1 (grey) or 3 (RGB). ``augment`` asks training for a random
    crop (padding 4) and a horizontal flip: meant for colour photographs, wrong for digits.
    """

    name: str
    shape: tuple[int, int, int]
    n_classes: int
    class_names: tuple[str, ...]
    augment: bool

    def __post_init__(self) -> None:
        if len(self.class_names) != self.n_classes:
            raise ValueError(
                f"{self.name}: {len(self.class_names)} class names for {self.n_classes} classes"
            )


@dataclass(frozen=True, eq=False)
class RawSplit:
    """One split at its source.

    ``labels`` is (N,) int64, checked. ``read(rows)`` decodes the images of ``rows`` ((n,) int64,
    any order) into (n, C, H, W) uint8, in that order; UsageError if one cannot be decoded.
    ``source`` is "embedded", "mirror" or "download".
    """

    labels: Rows
    read: Callable[[Rows], Pixels]
    source: str


def cause(error: BaseException) -> str:
    """Return what ``error`` says on one line of at most 200 characters; its type if nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def check_labels(labels: npt.NDArray[Any], info: DatasetInfo, where: str) -> Rows:
    """Return ``labels`` (N,) as int64; UsageError unless they are integers in [0, n_classes)."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(f"{where}: labels are {labels.dtype}, not integers")
    wrong = np.flatnonzero((labels < 0) | (labels >= info.n_classes))
    if len(wrong):
        raise UsageError(
            f"{where}: row {wrong[0]} has label {labels[wrong[0]]};"
            f" {info.name} labels are 0 to {info.n_classes - 1}"
        )
    return labels.astype(np.int64)


def most_encoded(info: DatasetInfo) -> int:
    """Return the most bytes that an encoded image may take: 16 bits, four channels, and a MiB."""
    _, height, width = info.shape
    return 2**20 + 8 * height * width


def decode_image(data: bytes, info: DatasetInfo, where: str) -> Pixels:
    """Decode one PNG or JPEG into (C, H, W) uint8; UsageError, with ``where``, if it is bad."""
    channels, height, width = info.shape
    if len(data) > most_encoded(info):
        raise UsageError(
            f"{where}: the image takes {len(data):,} bytes; {most_encoded(info):,} are the most for"
            f" {width}x{height} pixels"
        )
    try:
        # Of Pillow's many readers, those that data sets need.
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            size, mode = image.size, image.mode
            # The header tells the size: an image of the wrong one is never decompressed.
            if size == (width, height):
                pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError:  # its own message shows a memory address
        raise UsageError(f"{where}: not a readable image (no {' or '.join(FORMATS)})") from None
    except Exception as error:  # Pillow's readers raise SyntaxError, struct.error, ... as well
        raise UsageError(f"{where}: not a readable image ({cause(error)})") from None
    if size != (width, height):
        raise UsageError(
            f"{where}: the image is {size[0]}x{size[1]} pixels;"
            f" {info.name} needs {width}x{height} (width x height)"
        )
    if mode.startswith(("I", "F")):  # Pillow would cut what is above 255 off
        raise UsageError(
            f"{where}: more than 8 bits a channel (mode {mode}); convert it to 8 first"
        )
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)
