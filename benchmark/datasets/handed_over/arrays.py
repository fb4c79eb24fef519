"""Arrays and tensors, and files that hold them: .npz, .npy, .pt, .safetensors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmark.datasets.handed_over.given import Found
from benchmark.datasets.handed_over.pixels import as_array
from benchmark.datasets.tensor_files import read_tensors
from benchmark.errors import UsageError

IMAGES = ("images", "image", "x_test", "x", "data", "arr_0", "x_train")
LABELS = ("labels", "label", "y_test", "y", "targets", "arr_1", "y_train")
"""Under which names files hold them, the likeliest first."""


def is_pair(data: Any) -> bool:
    """Tell whether ``data`` is (images, labels)."""
    return isinstance(data, tuple | list) and len(data) == 2 and all(map(_is_array, data))


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray | Sequence) and not isinstance(value, str | bytes)


def from_arrays(images: Any, labels: Any, name: str = "images", source: str = "arrays") -> Found:
    """Return images and labels as they are; they are checked when they are read."""
    if not _is_array(images):
        raise UsageError(f"images are {type(images).__name__}; give an array or a tensor")
    array = as_array(images)
    if array.ndim == 0 or (labels is not None and len(array) != len(labels)):
        there = len(array) if array.ndim else 0
        raise UsageError(f"{name}: {there:,} images and {len(labels):,} labels")
    return Found(name, labels, lambda rows: array[rows], source)


def from_file(path: Path, labels: Any) -> Found:
    """Read a file of arrays; UsageError where it is damaged or holds something else."""
    found = read_tensors(path)
    if isinstance(found, tuple | list) and len(found) == 2:
        found = {"images": found[0], "labels": found[1]}
    images = found if not isinstance(found, Mapping) else _named(found, IMAGES, path)
    if labels is None and isinstance(found, Mapping):
        labels = _named(found, LABELS, path)
    return from_arrays(images, labels, path.stem, "file")


def _named(found: Mapping[str, Any], names: Sequence[str], path: Path) -> Any:
    for name in names:
        if name in found:
            return found[name]
    there = ", ".join(map(str, list(found)[:6])) or "nothing"
    raise UsageError(f"{path} holds {there}; looked for {names[0]} (or {', '.join(names[1:4])})")
