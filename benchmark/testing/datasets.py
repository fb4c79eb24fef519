"""The rules of a dataset."""

from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import torch

from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.duplicates import count_repeats, repeats_sentence
from benchmark.datasets.info import SplitName
from benchmark.datasets.source import DatasetSource
from benchmark.testing.checks import Check, Inspection
from benchmark.testing.common import Rules, report, require

MOST = 500
"""Images of a split that are looked at."""


def check_dataset(source: DatasetSource, data_dir: Path | None = None) -> list[str]:
    """Load up to ``MOST`` images of each split of ``source`` and check every rule of a dataset.

    ``data_dir`` (else BENCHMARK_DATA_DIR) holds Parquet mirrors. Returns the findings;
    AssertionError or UsageError names what is wrong.
    """
    return report(inspect_dataset(source, data_dir).findings())


def inspect_dataset(
    source: DatasetSource, data_dir: Path | None = None
) -> "Inspection[DatasetCase]":
    """Return the checks of a dataset one by one; see :func:`check_dataset`."""
    return Inspection(DatasetCase(source, data_dir), CHECKS)


class DatasetCase:
    """A source and the first images of its splits, loaded once."""

    def __init__(self, source: DatasetSource, data_dir: Path | None) -> None:
        require(
            isinstance(source, DatasetSource),
            f"{source!r} is not a benchmark.datasets.DatasetSource",
        )
        self.source = source
        self.data_dir = data_dir
        self.must = Rules(source.info.name)

    def load(self, split: str, n: int) -> ImageDataset:
        """Load the first ``n`` images of ``split`` again."""
        return self.source.load(cast(SplitName, split), n=n, data_dir=self.data_dir)

    @cached_property
    def train(self) -> ImageDataset:
        """The first training images, at most ``MOST``."""
        return self._first("train")

    @cached_property
    def test(self) -> ImageDataset:
        """The first test images, at most ``MOST``."""
        return self._first("test")

    def _first(self, split: str) -> ImageDataset:
        return self.load(split, min(MOST, self.load(split, 1).n_available))


def _description(case: DatasetCase) -> Iterable[str]:
    must, info = case.must, case.source.info
    must(info.n_classes >= 2, f"it has {info.n_classes} class; an attack needs two or more")
    must(len(set(info.class_names)) == info.n_classes, "two classes share a name")
    must(info.shape[0] in (1, 3), f"images have 1 or 3 channels, not {info.shape[0]}")
    return ()


def _split(case: DatasetCase, split: str) -> Iterable[str]:
    must, data, info = case.must, getattr(case, split), case.source.info
    absent = set(range(info.n_classes)) - set(data.labels.tolist())
    names = ", ".join(info.class_names[label] for label in sorted(absent))
    must(
        not absent or len(data) < info.n_classes,
        f"the {split} split has no image of {names}",
    )
    must(
        len(data) == 1 or bool((data.images != data.images[:1]).any()),
        f"all {split} images are the same",
    )
    return ()


def _repeats(case: DatasetCase) -> Iterable[str]:
    for split, data in (("train", case.train), ("test", case.test)):
        again = case.load(split, len(data))
        case.must(
            again.checksum == data.checksum,
            f"the {split} split must hold the same images in the same order at every load",
        )
    return ()


def _selection(case: DatasetCase) -> Iterable[str]:
    for split, data in (("train", case.train), ("test", case.test)):
        n = max(1, len(data) // 2)
        part = case.load(split, n)
        case.must(
            torch.equal(part.images, data.images[:n]) and torch.equal(part.labels, data.labels[:n]),
            f"the first {n} {split} images are others when only {n} are read: read(rows) must"
            " return the images of those rows, in that order",
        )
    return ()


def _overlap(case: DatasetCase) -> Iterable[str]:
    counts = count_repeats(case.train.images.numpy(), case.test.images.numpy())
    said = repeats_sentence(counts, len(case.train), len(case.test))
    return [case.must.named(said)] if said else []


CHECKS = (
    Check("description", _description),
    Check("train", partial(_split, split="train"), ("description",)),
    Check("test", partial(_split, split="test"), ("description",)),
    Check("repeats", _repeats, ("train", "test")),
    Check("selection", _selection, ("train", "test")),
    Check("overlap", _overlap, ("train", "test")),
)
