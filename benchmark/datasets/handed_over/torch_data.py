"""A torch Dataset or DataLoader: its items, with whatever transforms it has."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data import RandomSampler as Shuffled

from benchmark.datasets.handed_over.given import Found, Images, Say
from benchmark.datasets.info import Rows
from benchmark.errors import UsageError, first_line


def from_loader(loader: "DataLoader[Any]", n: int | None, say: Say) -> Found:
    """Return the images of a loader's batches in their order, at least ``n`` if it has so many."""
    if isinstance(loader.sampler, Shuffled):
        say("the DataLoader shuffles: an image's sample_id is its place in this pass")
    images: list[Images] = []
    labels: list[Any] = []
    for x, y in _pairs(iter(loader), "a batch of the DataLoader"):
        images.append(_pixels(x))
        labels.append(np.asarray(y.cpu() if isinstance(y, Tensor) else y))
        if n is not None and sum(map(len, images)) >= n:
            break
    if not images:
        raise UsageError("the DataLoader has no batches")
    whole = np.concatenate(images)
    name = _name(loader.dataset)
    return Found(
        name, np.concatenate(labels), lambda rows: whole[rows], "DataLoader", _names(loader)
    )


def from_dataset(data: Any, n: int | None) -> Found:
    """Return the items of a Dataset; of one without a length the first ``n`` (all by default).

    Labels come from ``targets`` or ``labels`` where it has them, else every item is asked for.
    """
    name, names = _name(data), _names(data)
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        items = []
        for item in _pairs(iter(data), "an item of the Dataset"):
            items.append((_pixels(item[0]), item[1]))
            if len(items) == n:
                break
        return Found(
            name, [y for _, y in items], lambda rows: _stack(items, rows), "Dataset", names
        )
    for attribute in ("targets", "labels"):
        labels = getattr(data, attribute, None)
        if labels is not None and len(labels) == len(data):
            return Found(name, labels, lambda rows: _read(data, rows), "Dataset", names)
    every = [(_pixels(x), y) for x, y in _pairs((data[i] for i in range(len(data))), "an item")]
    labels = [int(y) if isinstance(y, Tensor) and y.numel() == 1 else y for _, y in every]
    return Found(name, labels, lambda rows: _stack(every, rows), "Dataset", names)


def is_dataset(data: Any) -> bool:
    """Tell whether ``data`` is a torch Dataset, by its class or by what it can do."""
    if isinstance(data, Dataset):
        return True
    sized = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    return sized and not isinstance(data, str | bytes | dict | list | tuple | np.ndarray | Tensor)


def _pairs(items: Iterator[Any], what: str) -> Iterator[tuple[Any, Any]]:
    try:
        for item in items:
            if not isinstance(item, tuple | list) or len(item) < 2:
                raise UsageError(f"{what} is {type(item).__name__}, not (image, label)")
            yield item[0], item[1]
    except UsageError:
        raise
    except Exception as error:  # whatever somebody's dataset raises
        raise UsageError(f"{what} cannot be had: {first_line(error)}") from None


def _read(data: Any, rows: Rows) -> Images:
    return _same([_pixels(x) for x, _ in _pairs((data[int(i)] for i in rows), "an item")])


def _stack(items: list[tuple[Images, Any]], rows: Rows) -> Images:
    return _same([items[int(i)][0] for i in rows])


def _same(images: list[Images]) -> Images:
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        one, other = sorted(shapes)[:2]
        raise UsageError(
            f"images of the Dataset differ in size ({one}, {other}): resize them in its transform"
        )
    return np.stack(images)


def _pixels(image: Any) -> Images:
    if isinstance(image, Image.Image):
        array = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)


def _name(data: Any) -> str:
    while hasattr(data, "dataset"):  # Subset
        data = data.dataset
    return type(data).__name__.lower()


def _names(data: Any) -> tuple[str, ...] | None:
    while hasattr(data, "dataset"):
        data = data.dataset
    names = getattr(data, "classes", None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else None
