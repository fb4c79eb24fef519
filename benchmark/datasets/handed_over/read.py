"""One door for the images of a user: what they are is told by what is handed over."""

from pathlib import Path
from typing import Any

from benchmark.datasets.handed_over.arrays import open_arrays, open_pair
from benchmark.datasets.handed_over.given_images import GivenImages, select
from benchmark.datasets.handed_over.pixels import Say
from benchmark.datasets.handed_over.registered import read_registered
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
            in [0, 1]; or the name of a registered dataset.
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
    return select(open_arrays(*open_pair(data, labels), say), n, split)
