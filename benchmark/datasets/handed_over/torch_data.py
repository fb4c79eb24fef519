"""Images from a torch Dataset or DataLoader: of a big one, only those that are asked for.

The labels decide which those are. Where the dataset tells them all at once, as torchvision's do,
they are taken from there and compared with what comes with the images; otherwise every item is
read.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from benchmark.datasets.handed_over.arrays import open_arrays
from benchmark.datasets.handed_over.given_images import Opened
from benchmark.datasets.handed_over.items import parts_of, stacked
from benchmark.datasets.handed_over.labels import as_labels, check_counts
from benchmark.datasets.handed_over.pixels import Say, checked, laid_out
from benchmark.datasets.info import Rows
from benchmark.errors import UsageError, cause

BATCH = 256
STEADY = 8
"""Images that are asked for twice: a flip by chance leaves each as it was every other time."""


@dataclass(frozen=True)
class _Reader:
    """How the items of rows are had, in batches where the user's own collate_fn makes them."""

    dataset: Any
    collate: Callable[[list[Any]], Any] | None
    columns: tuple[str | None, str | None]

    def pairs(self, rows: Sequence[int]) -> Iterator[tuple[Any, Any]]:
        """Yield the image and the label of each row."""
        if self.collate is None:
            for row in rows:
                yield parts_of(self._item(row), *self.columns)
            return
        for start in range(0, len(rows), BATCH):
            items = [self._item(row) for row in rows[start : start + BATCH]]
            batch = parts_of(_tried(self.collate, items, "collate_fn"), *self.columns)
            yield from zip(*batch, strict=True)

    def _item(self, row: int) -> Any:
        return _tried(self.dataset.__getitem__, row, f"row {row} of the dataset")


def _tried(function: Callable[[Any], Any], value: Any, what: str) -> Any:
    try:
        return function(value)
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # whatever somebody's dataset raises
        raise UsageError(f"{what} failed ({type(error).__name__}: {cause(error)})") from error


def open_dataset(
    data: Any, say: Say, image_column: str | None = None, label_column: str | None = None
) -> Opened:
    """Open a torch Dataset, a DataLoader or a list of items, each (image, label) or a mapping."""
    columns = (image_column, label_column)
    dataset, collate, ids = data, None, None
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset) or data.batch_sampler is None:
            return _open_stream(data, say, columns)
        dataset, ids = data.dataset, _rows_of(data)
        default = torch.utils.data.default_collate
        collate = None if data.collate_fn is default else data.collate_fn
    elif _is_stream(data, columns):
        return _open_stream(data, say, columns)
    if ids is None:
        ids = np.arange(len(dataset))
    if not len(ids):
        raise UsageError("the dataset holds no images: there is nothing to evaluate")
    reader = _Reader(dataset, collate, columns)
    _check_steady(reader, ids[:STEADY].tolist())
    told = None if collate else _told_labels(dataset, ids)
    if told is None:
        told = [label for _, label in reader.pairs(ids.tolist())]
    labels, names = as_labels(told)
    check_counts(len(ids), len(labels))

    def read(rows: Rows) -> Tensor:
        asked = ids[rows].tolist()
        pairs = list(reader.pairs(asked))
        seen = as_labels([label for _, label in pairs])
        if names is None and not np.array_equal(seen[0], labels[rows]):
            raise UsageError(
                "the dataset's items have other labels than its list of them (targets, labels):"
                " give (images, labels) as arrays"
            )
        images = stacked([image for image, _ in pairs], asked)
        return checked(laid_out(images, len(rows), say), ids[rows]).contiguous()

    return Opened(labels, read, _name_of(dataset), "dataset", names or _classes(dataset), ids)


def _is_stream(data: Any, columns: tuple[str | None, str | None]) -> bool:
    if isinstance(data, list):  # of batches, not of items
        return _is_batch(parts_of(data[0], *columns)[0])
    return isinstance(data, IterableDataset) or not hasattr(data, "__len__")


def _is_batch(image: Any) -> bool:
    return getattr(image, "ndim", 0) == 4


def _open_stream(data: Any, say: Say, columns: tuple[str | None, str | None]) -> Opened:
    """Read everything that an iterable of items, or of batches of them, gives."""
    images: list[Any] = []
    labels: list[Any] = []
    for item in data:
        image, label = parts_of(item, *columns)
        images += list(image) if _is_batch(image) else [image]
        labels += list(label) if _is_batch(image) else [label]
    if not images:
        raise UsageError("the dataset gives no images: there is nothing to evaluate")
    return open_arrays(
        stacked(images, range(len(images))), labels, say, name=_name_of(data), source="dataset"
    )


def _rows_of(loader: Any) -> Rows | None:
    """Return the rows that a loader reads, ascending: all, where it only shuffles them."""
    sampler = loader.sampler
    if type(loader.batch_sampler) is not BatchSampler:
        sampler = [row for batch in loader.batch_sampler or () for row in batch]
    elif isinstance(sampler, SequentialSampler | RandomSampler):
        return None
    rows = list(sampler)
    if not all(isinstance(row, Integral) for row in rows):
        raise UsageError("the loader's sampler does not give rows: give the dataset itself")
    return np.unique(np.asarray(rows, np.int64))


def _check_steady(reader: _Reader, rows: list[int]) -> None:
    """Raise a UsageError if an image is another one when it is asked for again."""
    for row in rows:
        (first,), (again,) = ([image for image, _ in reader.pairs([row])] for _ in range(2))
        one, two = stacked([first], [row]), stacked([again], [row])
        if one.shape == two.shape and torch.equal(one.nan_to_num(), two.nan_to_num()):
            continue
        raise UsageError(
            "the dataset gives another image when it is asked again: leave random transforms out,"
            " as in testing"
        )


def _told_labels(dataset: Any, rows: Rows) -> Any:
    """Return the labels of ``rows`` where the dataset has a list of them, else None."""
    if isinstance(dataset, Subset):
        inner = np.asarray(dataset.indices, np.int64)
        return _told_labels(dataset.dataset, inner[rows])
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return dataset.tensors[1][torch.from_numpy(rows)]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        found = getattr(dataset, name, None)
        if isinstance(found, Tensor | np.ndarray | list | tuple) and len(found) == len(dataset):
            return [found[row] for row in rows.tolist()]
    return None


def _inner(dataset: Any) -> Any:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _classes(dataset: Any) -> tuple[str, ...] | None:
    found = getattr(_inner(dataset), "classes", None)
    if isinstance(found, list | tuple) and all(isinstance(name, str) for name in found):
        return tuple(found) or None
    return None


def _name_of(dataset: Any) -> str:
    found = type(_inner(dataset)).__name__
    return "images" if found in ("list", "DataLoader", "TensorDataset") else found
