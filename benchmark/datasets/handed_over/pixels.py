"""Arrays of images, of whatever library, brought to (n, C, H, W), uint8 or float32 in [0, 1].

Nothing is guessed in silence: where two readings are possible, the user is asked for one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.info import Rows
from benchmark.errors import UsageError, cause

CHANNELS = (1, 3)
SAME = 1e-6
"""How far a float image may lie from multiples of 1/255, or outside [0, 1]: its rounding."""

Say = Callable[[str], None]


def as_tensor(value: Any, what: str) -> Tensor:
    """Return ``value`` (tensor, array, or nested lists) as a dense tensor on the processor."""
    try:
        if isinstance(value, Tensor):
            dense = (value.to_dense() if value.layout != torch.strided else value).detach().cpu()
            # Torch's own unsigned types of more than 8 bits can hardly be computed with.
            wide = dense.dtype in (torch.uint16, torch.uint32, torch.uint64)
            return dense.to(torch.int64) if wide else dense
        if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
            return torch.stack([as_tensor(each, what) for each in value])
        array = np.asarray(value)
        if array.dtype.kind not in "buif":
            raise UsageError(f"{what} are of type {array.dtype}: give numbers in one array")
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        if native.dtype.kind == "u" and native.itemsize > 1:
            native = native.astype(np.int64)
        elif native.dtype.itemsize > 8:  # long double
            native = native.astype(np.float64)
        # A copy where the array may not be written to, which torch would warn of.
        return torch.from_numpy(np.require(native, requirements=["C", "W"]))
    except (ValueError, RuntimeError, TypeError) as error:
        raise UsageError(
            f"{what} cannot be read as one array ({cause(error)}): are they all of one size?"
        ) from None


def laid_out(images: Tensor, n_labels: int, say: Say) -> Tensor:
    """Return ``images`` as a view (n, C, H, W); UsageError where the axes cannot be told apart."""
    shape = tuple(images.shape)
    if images.numel() == 0:
        raise UsageError(f"images of shape {shape} hold no pixel: there is nothing to evaluate")
    if images.ndim == 3:
        if n_labels != shape[0] and (shape[0] in CHANNELS or shape[2] in CHANNELS):
            raise UsageError(
                f"images of shape {shape} are one image without a batch: give images[None]"
            )
        return images[:, None]
    if images.ndim == 2:
        raise UsageError(
            f"images of shape {shape} are flat: reshape them to (n, channels, height, width),"
            f" for example images.reshape({_unflattened(shape)})"
        )
    if images.ndim != 4:
        raise UsageError(
            f"images of shape {shape} have {images.ndim} axes: give (n, channels, height, width)"
        )
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first and last and shape[1:] != (1, 1, 1):
        raise UsageError(
            f"images of shape {shape}: the channels may be axis 1 or axis 3; give images whose"
            " width is neither 1 nor 3"
        )
    if first:
        return images
    if last:
        say(f"images of shape {shape} have their channels last: they are turned to (n, C, H, W)")
        return images.movedim(3, 1)
    raise UsageError(
        f"images of shape {shape} have {min(shape[1], shape[3])} channels: give"
        " (n, channels, height, width) with 1 channel (grey) or 3 (RGB)"
    )


def _unflattened(shape: tuple[int, ...]) -> str:
    for channels in CHANNELS:
        side = round((shape[1] / channels) ** 0.5)
        if channels * side * side == shape[1]:
            return f"-1, {channels}, {side}, {side}"
    return "-1, channels, height, width"


def checked(images: Tensor, rows: Rows) -> Tensor:
    """Return images of any number type as uint8, or float32 in [0, 1]; UsageError if neither.

    ``rows`` (n,) are what an error calls the images. Floats that are multiples of 1/255, up to
    their rounding, become uint8.
    """
    if images.dtype == torch.bool:
        raise UsageError("images are true or false: give uint8 from 0 to 255, or float in [0, 1]")
    if not images.is_floating_point():
        low, high = int(images.min()), int(images.max())
        if low < 0 or high > 255:
            raise UsageError(
                f"images are whole numbers from {low} to {high}: give 0 to 255, or float in [0, 1]"
            )
        if high == 1:
            raise UsageError(
                "every pixel is 0 or 1 of 255: if 1 is white, give the images as float"
            )
        return images.to(torch.uint8)
    single = images.to(torch.float32)
    finite = torch.isfinite(single)
    if not finite.all():
        first = int((~finite).flatten(1).any(1).nonzero()[0])
        kind = "NaN" if bool(single[first].isnan().any()) else "infinite values"
        raise UsageError(f"image {rows[first]} holds {kind}: every pixel must lie in [0, 1]")
    return _in_range(single, float(single.min()), float(single.max()))


def _in_range(single: Tensor, low: float, high: float) -> Tensor:
    where = f"images range from {low:g} to {high:g}"
    if low < -SAME:
        raise UsageError(
            f"{where}: normalised already? give images in [0, 1], and mean and std to evaluate"
        )
    if high > 255 or 1 + SAME < high < 2:
        raise UsageError(f"{where}: give uint8 from 0 to 255, or float in [0, 1]")
    if high >= 2:
        raise UsageError(f"{where}: divide by 255, so that they lie in [0, 1]")
    if 0 < high <= 1 / 255 + SAME:
        raise UsageError(f"{where}, a single grey level: divided by 255 twice?")
    return _eight_bits(single.clamp(0, 1))


def _eight_bits(images: Tensor) -> Tensor:
    """Return float images as uint8 if that loses nothing."""
    parts = torch.split(images, 1024)
    if all(((part - (part * 255).round() / 255).abs() <= SAME).all() for part in parts):
        return (images * 255).round().to(torch.uint8)
    return images.contiguous()
