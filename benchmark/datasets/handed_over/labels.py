"""Labels as users have them, whole numbers, one-hot rows or names, brought to (n,) int64."""

from typing import Any

import numpy as np
from torch import Tensor

from benchmark.datasets.info import Rows
from benchmark.errors import UsageError, cause

Names = tuple[str, ...] | None


def as_labels(value: Any) -> tuple[Rows, Names]:
    """Return labels (n,), int64 from 0, and the sorted class names where they are strings.

    ``value`` is a tensor, an array or a list: (n,), (n, 1), or one-hot (n, K). UsageError names
    the first label that is none.
    """
    if value is None:
        raise UsageError("there are no labels: give (images, labels), or labels=...")
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
        if isinstance(value, list | tuple):
            value = [each.tolist() if hasattr(each, "tolist") else each for each in value]
        # NumPy would make strings of the numbers and the gaps among names.
        named = isinstance(value, list | tuple) and any(isinstance(each, str) for each in value)
        array = np.asarray(value, object if named else None)
    except (ValueError, RuntimeError, TypeError) as error:
        raise UsageError(f"labels cannot be read as one array ({cause(error)})") from None
    if array.dtype.kind == "O":
        array = _plain(array)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind in "US":
        if array.ndim != 1:
            raise UsageError(f"labels of shape {array.shape}: give one for each image, (n,)")
        names, rows = np.unique(array.astype(np.str_), return_inverse=True)
        return rows.astype(np.int64), tuple(str(name) for name in names)
    if array.dtype.kind not in "uif":
        raise UsageError(f"labels are of type {array.dtype}: give whole numbers from 0, or names")
    if array.ndim == 2:
        return _from_one_hot(array), None
    if array.ndim != 1:
        raise UsageError(f"labels of shape {array.shape}: give one for each image, (n,)")
    return _whole(array), None


def check_counts(n_images: int, n_labels: int) -> None:
    """Raise a UsageError unless there is a label for each image."""
    if n_images != n_labels:
        raise UsageError(f"{n_images} images and {n_labels} labels: give one label for each image")


def _plain(array: Any) -> Any:
    """Return an array of Python objects as one of numbers or of strings."""
    flat = array.ravel().tolist()
    for row, each in enumerate(flat):
        if each is None or (isinstance(each, float) and np.isnan(each)):
            raise UsageError(f"image {row} has no label: give one for each image")
    kind = np.asarray(flat) if flat else np.zeros(0)
    if kind.dtype.kind not in "USuif" or kind.ndim != 1:
        raise UsageError("labels are of mixed types: give whole numbers from 0, or names")
    strings = sum(isinstance(each, str | bytes) for each in flat)
    if strings not in (0, len(flat)):
        raise UsageError("labels are names and numbers mixed: give the one or the other")
    return kind.reshape(array.shape)


def _from_one_hot(array: Any) -> Rows:
    ones = (array == 1).sum(1) == 1
    wrong = np.flatnonzero(~(ones & ((array == 0) | (array == 1)).all(1)))
    if len(wrong):
        raise UsageError(
            f"labels of shape {array.shape} are not one-hot (row {wrong[0]}): give one class for"
            " each image, (n,)"
        )
    found: Rows = array.argmax(1).astype(np.int64)
    return found


def _whole(array: Any) -> Rows:
    if array.dtype.kind == "f":
        if len(missing := np.flatnonzero(~np.isfinite(array))):
            raise UsageError(f"image {missing[0]} has no label: it is {array[missing[0]]}")
        if len(broken := np.flatnonzero(array != np.round(array))):
            raise UsageError(
                f"image {broken[0]} has label {array[broken[0]]:g}: labels are whole numbers from 0"
            )
    if len(wrong := np.flatnonzero((array < 0) | (array >= 2**31))):
        raise UsageError(
            f"image {wrong[0]} has label {array[wrong[0]]}: labels are whole numbers from 0 on,"
            " the index of the class among the model's answers"
        )
    return np.asarray(array, np.int64)
