"""What a source hands over, checked before anything is computed from it: uint8, shape, range."""

from typing import Any

import numpy as np

from benchmark.datasets.info import DatasetInfo, Pixels
from benchmark.errors import UsageError


def check_images(given: Any, n: int, info: DatasetInfo, where: str) -> Pixels:
    """Return the images ``given``; UsageError unless they are uint8 (n, C, H, W) from 0 to 255.

    Images in another scale would not crash: they would train and be attacked as something else.
    """
    images: Pixels = np.asarray(given)
    if images.dtype != np.uint8:
        raise UsageError(
            f"{where}: images are {_range(images)}; a source gives uint8 from 0 to 255"
            f"{_remedy(images)}"
        )
    if images.shape != (n, *info.shape):
        channels, height, width = info.shape
        hint = ""
        if images.shape[1:] == (height, width, channels):
            hint = "; channels come before height and width"
        elif images.shape[1:] == (height, width):
            hint = "; grey images have a channel axis of length 1"
        raise UsageError(
            f"{where}: images are of shape {images.shape} where {(n, *info.shape)} was expected:"
            f" (n, channels, height, width){hint}"
        )
    if images.size and images.max() == 1:
        raise UsageError(
            f"{where}: every pixel is 0 or 1 of 255: the images were scaled to [0, 1] before they"
            " became uint8; multiply by 255 first"
        )
    return images


def _range(images: Any) -> str:
    if not np.issubdtype(images.dtype, np.number) or not images.size:
        return f"{images.dtype}"
    return f"{images.dtype} from {images.min():g} to {images.max():g}"


def _remedy(images: Any) -> str:
    if not np.issubdtype(images.dtype, np.floating) or not images.size:
        return ""
    if not np.isfinite(images).all():
        return "; some values are not finite"
    if images.min() < 0:
        return "; undo their normalisation, which belongs into the defense"
    return "; multiply by 255 and round" if images.max() <= 1 else "; round and convert them"
