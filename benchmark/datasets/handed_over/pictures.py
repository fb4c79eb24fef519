"""Pictures of any size, encoded or opened, brought to one size and to (n, C, H, W) uint8."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.datasets.handed_over.pixels import Say
from benchmark.datasets.image_files import open_picture, plain_picture
from benchmark.datasets.info import Pixels
from benchmark.errors import UsageError

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")
"""The readers of Pillow's that torchvision's ImageFolder uses, too."""


@dataclass(frozen=True)
class Fit:
    """How pictures come to one size, as torchvision's ``Resize`` and ``CenterCrop`` do it.

    ``resize`` is the length of the shorter side, in pixels; ``crop`` the side of a square from the
    centre, or its (height, width). None leaves the picture as it is.
    """

    resize: Any = None
    crop: Any = None

    def __post_init__(self) -> None:
        if self.resize is not None and not _is_length(self.resize):
            raise UsageError(
                f"resize={self.resize!r}: give the length of the shorter side in pixels, such as"
                " resize=256"
            )
        two = isinstance(self.crop, tuple | list) and len(self.crop) == 2
        sides = self.crop if two else (self.crop,)
        if self.crop is not None and not all(map(_is_length, sides)):
            raise UsageError(
                f"crop={self.crop!r}: give the side in pixels, or (height, width), such as crop=224"
            )

    def __bool__(self) -> bool:
        return self.resize is not None or self.crop is not None

    def __call__(self, image: Image.Image, where: str) -> Image.Image:
        """Return ``image`` resized, bilinear with antialiasing, then cropped."""
        width, height = image.size
        if self.resize is not None and min(image.size) != self.resize:
            short = min(image.size)
            width, height = (int(self.resize * side / short) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if self.crop is None:
            return image
        high, wide = self.crop if isinstance(self.crop, tuple | list) else (self.crop, self.crop)
        if high > height or wide > width:
            raise UsageError(
                f"{where}: a crop of {wide}x{high} pixels does not fit into {width}x{height}"
                f" (width x height): give resize={max(high, wide)} or more"
            )
        top, left = round((height - high) / 2), round((width - wide) / 2)
        return image.crop((left, top, left + wide, top + high))


def _is_length(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def as_pixels(pictures: Iterable[tuple[int, Any, str]], n: int, fit: Fit, say: Say) -> Tensor:
    """Return ``n`` pictures, each given as (place, bytes or Pillow's image, where it is from).

    They are grey, (n, 1, H, W), if every one is, else RGB. UsageError if they differ in size.
    """
    pixels: Pixels = np.empty((0, 3, 0, 0), np.uint8)
    first, colours, turned = "", False, 0
    for place, value, where in pictures:
        image, was_turned = (
            open_picture(value, where, FORMATS)
            if isinstance(value, bytes)
            else plain_picture(value, where)
        )
        turned += was_turned
        image = fit(image, where)
        if not first:
            first = where
            pixels = np.empty((n, 3, image.height, image.width), np.uint8)
        height, width = pixels.shape[2:]
        if image.size != (width, height):
            raise UsageError(
                f"images differ in size: {first} has {width}x{height} pixels, {where}"
                f" {image.width}x{image.height} (width x height): give resize and crop, for"
                f" example resize={_example(width, height, *image.size)},"
                f" crop={_example(width, height, *image.size)}"
            )
        colours |= image.mode != "L"
        array = np.asarray(image)
        pixels[place] = array if array.ndim == 2 else array.transpose(2, 0, 1)
    if turned:
        say(f"{turned} of {n} images are turned as their EXIF orientation says")
    return torch.from_numpy(pixels if colours else pixels[:, :1].copy())


def _example(*sides: int) -> int:
    """Return a side that the shorter ones nearly have: a multiple of 8, where there is one."""
    short = min(sides)
    return max(math.floor(short / 8) * 8, 8) if short >= 8 else short
