"""Images as arrays or tensors in memory."""

from typing import Any

import torch
from torch import Tensor

from benchmark.datasets.handed_over.given_images import Opened
from benchmark.datasets.handed_over.labels import as_labels, check_counts
from benchmark.datasets.handed_over.pixels import Say, as_tensor, checked, laid_out
from benchmark.datasets.info import Rows
from benchmark.errors import UsageError


def open_pair(data: Any, labels: Any) -> tuple[Any, Any]:
    """Return the images and the labels of ``(images, labels)``, or of images and ``labels``."""
    is_pair = isinstance(data, tuple | list) and len(data) == 2
    if is_pair and labels is None:
        return data[0], data[1]
    if isinstance(data, tuple):
        also = " and labels= as well" if labels is not None else ""
        raise UsageError(f"a tuple of {len(data)}{also}: give (images, labels)")
    return data, labels


def open_arrays(
    images: Any,
    labels: Any,
    say: Say,
    *,
    name: str = "images",
    source: str = "arrays",
    class_names: tuple[str, ...] | None = None,
) -> Opened:
    """Open images (N, C, H, W), (N, H, W) or (N, H, W, C) and their labels, in memory."""
    found, names = as_labels(labels)
    tensor = laid_out(as_tensor(images, "images"), len(found), say)
    check_counts(len(tensor), len(found))

    def read(rows: Rows) -> Tensor:
        return checked(tensor[torch.from_numpy(rows)], rows).contiguous()

    return Opened(found, read, name, source, class_names or names)
