"""Images and labels as named arrays: a mapping, or a .npz, .npy, .pt or .safetensors file of them.

Nothing is read that could run code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.datasets.handed_over.arrays import open_arrays
from benchmark.datasets.handed_over.given_images import Opened
from benchmark.datasets.handed_over.names import name_of
from benchmark.datasets.handed_over.pixels import Say
from benchmark.datasets.tensor_files import read_tensors
from benchmark.errors import UsageError

IMAGES = ("images", "x", "image", "data", "imgs", "arr_0")
LABELS = ("labels", "y", "label", "targets", "target", "arr_1")


def open_array_file(
    path: Path, labels: Any, columns: tuple[str | None, str | None], split: str, say: Say
) -> Opened:
    """Open a file of named arrays, of a pair, or, with ``labels``, of images alone."""
    found = read_tensors(path)
    if isinstance(found, tuple | list) and len(found) == 2:
        found = {"images": found[0], "labels": found[1]}
    if isinstance(found, Mapping):
        return open_mapping(
            found, labels, columns, split, say, name=name_of(path), where=f"{path}: "
        )
    if labels is None:
        raise UsageError(f"{path}: it holds images alone: give labels=...")
    return open_arrays(found, labels, say, name=name_of(path), source="file")


def open_mapping(
    arrays: Mapping[Any, Any],
    labels: Any,
    columns: tuple[str | None, str | None],
    split: str,
    say: Say,
    *,
    name: str = "images",
    where: str = "",
) -> Opened:
    """Open images and labels under their usual names, or those that ``columns`` give.

    Where there are several splits (``x_train``, ``test_images``), ``split`` tells which.
    """
    image = _key(arrays, columns[0], IMAGES, split, "image", where)
    if labels is None:
        labels = arrays[_key(arrays, columns[1], LABELS, split, "label", where)]
    elif columns[1] is not None:
        raise UsageError("labels= and label_column= are given: leave one of them out")
    source = "file" if where else "arrays"
    return open_arrays(
        arrays[image], labels, say, name=name, source=source, class_names=_classes(arrays)
    )


def _key(
    arrays: Mapping[Any, Any],
    given: str | None,
    usual: tuple[str, ...],
    split: str,
    what: str,
    where: str,
) -> str:
    there = {str(key).lower(): key for key in arrays}
    if given is not None:
        wanted = [given.lower()]
    else:
        wanted = [key for word in usual for key in (f"{word}_{split}", f"{split}_{word}", word)]
    for name in wanted:
        if name in there:
            key: str = there[name]
            return key
    if given is not None:
        line = f"{where}there is no {given!r}"
    else:
        line = f"{where}no {what}s are found; name them, {what}_column=..."
    names = [str(key) for key in arrays]
    more = ", ..." if len(names) > 10 else ""
    raise UsageError(f"{line}; it holds {', '.join(names[:10]) or 'nothing'}{more}")


def _classes(arrays: Mapping[Any, Any]) -> tuple[str, ...] | None:
    for name in ("class_names", "classes"):
        if name in arrays:
            found = np.asarray(arrays[name])
            if found.ndim == 1 and found.dtype.kind == "U" and len(found):
                return tuple(found.tolist())
    return None
