"""The rules of a dataset: what is registered and embedded keeps them, what breaks one is caught."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from benchmark.datasets import DIGITS, DatasetInfo, DatasetSource, RawSplit
from benchmark.errors import UsageError
from benchmark.testing import ConformanceWarning, check_dataset

INFO = DatasetInfo("noise", (1, 8, 8), 2, ("dark", "bright"), augment=False)


def split(n=20, seed=0):
    """Return labels (n,) and images (n, 1, 8, 8), bright where the label is 1."""
    labels = np.arange(n) % 2
    noise = np.random.default_rng(seed).integers(0, 128, (n, 1, 8, 8))
    return labels, (noise + 127 * labels[:, None, None, None]).astype(np.uint8)


def source(change=lambda labels, images, name: (labels, images), info=INFO, read=None):
    """Return a dataset of noise; ``change`` spoils its splits, ``read`` how their rows are read."""

    def embedded(info, name):
        labels, images = change(*split(seed=len(name)), name)
        rows_of = read or (lambda images, rows: images[rows])
        return RawSplit(labels, lambda rows: rows_of(images, rows), "embedded")

    return DatasetSource(info, embedded=embedded)


def test_honest_datasets_pass():
    assert check_dataset(DIGITS) == []
    assert check_dataset(source()) == []


def counting():
    start = itertools.count()
    return lambda labels, images, name: (labels, images ^ np.uint8(next(start) % 2))


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (object(), "is not a benchmark.datasets.DatasetSource"),
        (source(info=replace(INFO, n_classes=1, class_names=("all",))), "has 1 class"),
        (source(info=replace(INFO, class_names=("same", "same"))), "two classes share a name"),
        (source(lambda y, x, name: (y * 0, x)), "train split has no image of bright"),
        (source(lambda y, x, name: (y, x * 0)), "all train images are the same"),
        (
            source(lambda y, x, name: (y, x if name == "train" else x * 0)),
            "all test images are the same",
        ),
        (source(counting()), "the same images in the same order at every load"),
        (source(read=lambda x, rows: x[np.sort(rows)]), "read.rows. must return the images"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_dataset_is_caught(broken, rule):
    with pytest.raises(AssertionError, match=rule):
        check_dataset(broken)


def test_what_cannot_be_loaded_says_so_itself():
    with pytest.raises(UsageError, match="row 0 has label 7"):
        check_dataset(source(lambda y, x, name: (y + 7, x)))


def test_shared_images_are_a_finding():
    shared = source(lambda y, x, name: split())
    with pytest.warns(ConformanceWarning, match="20 of 20 test images are training images too"):
        assert len(check_dataset(shared)) == 1
