"""Datasets: images held once as uint8 on the device, and where they come from.

The names below are imported lazily: what needs no torch must not load it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.datasets.catalogue import (
        CIFAR10,
        DIGITS,
        FASHION_MNIST,
        MNIST,
        STL10,
        TINY_IMAGENET,
    )
    from benchmark.datasets.dataset import ImageDataset, balanced_order
    from benchmark.datasets.info import DatasetInfo, RawSplit, SplitName
    from benchmark.datasets.source import DatasetSource

__all__ = [
    "CIFAR10",
    "DIGITS",
    "FASHION_MNIST",
    "MNIST",
    "STL10",
    "TINY_IMAGENET",
    "DatasetInfo",
    "DatasetSource",
    "ImageDataset",
    "RawSplit",
    "SplitName",
    "balanced_order",
]

_HOME = {
    "DatasetInfo": "info",
    "DatasetSource": "source",
    "ImageDataset": "dataset",
    "RawSplit": "info",
    "SplitName": "info",
    "balanced_order": "dataset",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'catalogue')}"), name)
