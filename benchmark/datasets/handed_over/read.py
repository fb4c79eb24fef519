"""One door for the images of a user: what they are is told by what is handed over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.datasets.handed_over.arrays import open_arrays, open_pair
from benchmark.datasets.handed_over.given_images import GivenImages, Opened, select
from benchmark.datasets.handed_over.pixels import Say
from benchmark.datasets.handed_over.registered import read_registered
from benchmark.datasets.handed_over.torch_data import open_dataset
from benchmark.errors import UsageError, unknown_name
from benchmark.registry import DATASETS


def read_images(
    data: Any,
    *,
    labels: Any = None,
    n: int | None = None,
    split: str = "test",
    resize: int | None = None,
    crop: int | tuple[int, int] | None = None,
    data_dir: Any = None,
    image_column: str | None = None,
    label_column: str | None = None,
    say: Say = lambda _: None,
) -> GivenImages:
    """Read ``n`` labelled images (all by default), class-balanced, in an order of their own.

    Args:
        data: ``(images, labels)`` as arrays or tensors, or images alone and ``labels``: images
            (N, C, H, W), (N, H, W) or (N, H, W, C), uint8 or whole numbers from 0 to 255, or float
            in [0, 1]; a torch Dataset or DataLoader of (image, label); or the name of a
            registered dataset.
        labels: whole numbers (N,) or (N, 1), one-hot (N, K), or class names (N,).
        n: how many images.
        split: "train" or "test", of a registered dataset.
        data_dir: the folder of a registered dataset's Parquet mirror.
        say: is told in one line what was done to the images.

    Raises:
        UsageError: in one line, what is wrong with the data and what to do.
    """
    if isinstance(data, str) and data in DATASETS.names():
        if labels is not None:
            raise UsageError(f"{data} has labels of its own: leave labels= out")
        return read_registered(data, n=n, split=split, data_dir=data_dir)
    if isinstance(data, str | Path):
        raise unknown_name("path or dataset", str(data), DATASETS.names())
    return select(_opened(data, labels, image_column, label_column, say), n, split)


def _opened(
    data: Any, labels: Any, image_column: str | None, label_column: str | None, say: Say
) -> Opened:
    if _is_dataset(data):
        if labels is not None:
            raise UsageError("a dataset has labels of its own: leave labels= out")
        return open_dataset(data, say, image_column, label_column)
    return open_arrays(*open_pair(data, labels), say)


def _is_dataset(data: Any) -> bool:
    if isinstance(data, list):
        return bool(data) and isinstance(data[0], tuple | Mapping)
    if isinstance(data, tuple | Mapping) or hasattr(data, "__array__"):
        return False
    return hasattr(data, "__getitem__") or hasattr(data, "__iter__")
