"""Arrays of images in the harness's form; what is in another range is refused with what it may be.

A guess would be worse than a refusal: an image scaled twice gives numbers that look like results.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.handed_over.given import Images, Say
from benchmark.errors import UsageError

CHANNELS = (1, 3)
GREY_LEVELS = 1e-6
"""How near to multiples of 1/255 float images lie that came from 8 bits (docs/constants.md)."""

SLACK = 1e-6
"""How far outside [0, 1] rounding may carry a pixel."""


def as_array(images: Any) -> Images:
    """Return images as an array on the CPU; UsageError if they are none."""
    if isinstance(images, Tensor):
        images = images.detach().cpu()
        images = (images.float() if images.dtype == torch.bfloat16 else images).numpy()
    try:
        found = np.asarray(images)
    except ValueError as error:
        raise UsageError(f"images: {error}: they must be of one size") from None
    if found.dtype.kind not in "iufb":
        raise UsageError(f"images are {found.dtype}; they are numbers: uint8, or float in [0, 1]")
    return found


def as_images(images: Any, where: str, say: Say) -> Tensor:
    """Return images as (n, C, H, W), uint8 or float32 in [0, 1]; UsageError if they will not do.

    Grey images may lack their channel, and channels may be last. Float images that came from 8 bits
    become uint8 again.
    """
    return as_pixels(_channels_first(as_array(images), where, say), where, say)


def _channels_first(images: Images, where: str, say: Say) -> Images:
    shape = images.shape
    if images.ndim == 3:
        if shape[0] in CHANNELS and shape[0] < min(shape[1:]):
            raise UsageError(
                f"{where}: shape {shape} is one image; give a batch of shape {(1, *shape)}"
            )
        return images[:, None]
    if images.ndim != 4:
        raise UsageError(f"{where}: images have shape {shape}; they are (n, C, H, W)")
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first and last and shape[2] != 1:
        raise UsageError(
            f"{where}: images of shape {shape} may have their channels first or last: give"
            " (n, C, H, W), by images.transpose(0, 3, 1, 2) where they are last"
        )
    if last and not first:
        say(f"{where}: channels are last in {shape}: moved to the front")
        return images.transpose(0, 3, 1, 2)
    if not first:
        raise UsageError(f"{where}: images of shape {shape} have neither one nor three channels")
    return images


def as_pixels(images: Images, where: str, say: Say) -> Tensor:
    """Return images (n, C, H, W) of any type as uint8, or as float32 in [0, 1]."""
    if images.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(images))
    if images.dtype.kind == "b":
        raise UsageError(f"{where}: images are true and false; give them as 0 and 1 in float32")
    low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
    seen = f"{where}: {images.dtype} pixels from {low:.4g} to {high:.4g}"
    if not np.isfinite([low, high]).all():
        raise UsageError(f"{where}: images hold NaN or infinity")
    if images.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise UsageError(f"{seen}; whole numbers are taken as grey levels of 0 to 255")
        if high <= 1:
            raise UsageError(f"{seen}; give uint8 grey levels of 0 to 255, or float in [0, 1]")
        say(f"{seen}: taken as grey levels of 0 to 255")
        return torch.from_numpy(images.astype(np.uint8))
    if low < -SLACK or high > 1 + SLACK:
        raise UsageError(f"{seen}; {_meant(low, high)}")
    if images.size and high <= 1 / 255 + SLACK and high > 0:
        say(f"{seen}: all but black; were they divided by 255 twice?")
    found = torch.from_numpy(np.ascontiguousarray(images, np.float32)).clamp(0, 1)
    levels = found * 255
    rounded = levels.round()
    if (levels - rounded).abs().max() <= GREY_LEVELS * 255 if images.size else False:
        return rounded.to(torch.uint8)
    return found


def _meant(low: float, high: float) -> str:
    """Say what floats outside [0, 1] probably are."""
    if low >= 0 and high <= 255:
        return "images are in [0, 1] here: divide them by 255, or give uint8"
    if low >= -1.001 and high <= 1.001:
        return (
            "images are in [0, 1] here: give (images + 1) / 2, and mean=0.5, std=0.5 if the model"
            " wants -1 to 1"
        )
    return (
        "they were normalised already: give the images in [0, 1], and the model's mean and std as"
        " mean= and std="
    )
