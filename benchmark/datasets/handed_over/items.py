"""One item of a dataset: an image and its label, as pairs, mappings and Pillow's images come."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.handed_over.pixels import as_tensor
from benchmark.errors import UsageError

IMAGE_NAMES = ("image", "img", "images", "pixel_values", "x")
LABEL_NAMES = ("label", "labels", "fine_label", "target", "y")


def column(given: str | None, known: Sequence[str], there: Iterable[Any], what: str) -> str:
    """Return the column ``given``, or the first usual one; UsageError if it is not ``there``."""
    names = [str(name) for name in there]
    if given is not None:
        if given not in names:
            raise UsageError(f"column {given!r} is missing; columns found: {', '.join(names)}")
        return given
    for name in known:
        if name in names:
            return name
    raise UsageError(
        f"no column of {what}s is found among {', '.join(names) or 'none'}: name it,"
        f" {what}_column=..."
    )


def parts_of(item: Any, image_column: str | None, label_column: str | None) -> tuple[Any, Any]:
    """Return the image and the label of an item, or of a batch of them."""
    if isinstance(item, Mapping):
        image = column(image_column, IMAGE_NAMES, item, "image")
        return item[image], item[column(label_column, LABEL_NAMES, item, "label")]
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    parts = f"{len(item)} parts" if isinstance(item, tuple | list) else f"a {type(item).__name__}"
    raise UsageError(f"an item of the dataset is {parts}: give (image, label)")


def is_picture(value: Any) -> bool:
    """Tell whether ``value`` is an image of Pillow's."""
    return hasattr(value, "getbands") and hasattr(value, "convert")


def stacked(images: Sequence[Any], rows: Sequence[int]) -> Tensor:
    """Return images of one size as one tensor (n, ...); UsageError names one of another size."""
    found = [_picture(each) if is_picture(each) else as_tensor(each, "images") for each in images]
    for row, each in zip(rows, found, strict=True):
        if each.shape != found[0].shape:
            raise UsageError(
                f"images differ in size: row {rows[0]} has shape {tuple(found[0].shape)}, row"
                f" {row} {tuple(each.shape)}; bring them to one, for example with resize and crop"
            )
    return torch.stack(found)


def _picture(image: Any) -> Tensor:
    """Return an image of Pillow's as (C, H, W)."""
    mode = {"P": "RGB", "1": "L"}.get(image.mode)
    pixels = as_tensor(np.asarray(image.convert(mode) if mode else image), "images")
    return pixels[None] if pixels.ndim == 2 else pixels.movedim(2, 0)
