"""Images that a user hands over, read, checked and put into the balanced order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.dataset import ImageDataset, balanced_order
from benchmark.datasets.info import DatasetInfo, Rows
from benchmark.errors import UsageError
from benchmark.hashing import derive_seed


@dataclass(frozen=True, eq=False)
class Opened:
    """Images at their source, whose labels alone are read.

    ``labels`` (N,) int64 are checked. ``read(rows)`` gives the images of ``rows`` ((n,) int64, any
    order) as (n, C, H, W), uint8 or float32 in [0, 1], in that order; UsageError if it cannot.
    ``ids`` (N,) int64 are the rows' numbers in the data, where they are not 0 to N - 1.
    """

    labels: Rows
    read: Callable[[Rows], Tensor]
    name: str
    source: str
    class_names: tuple[str, ...] | None = None
    ids: Rows | None = None


@dataclass(frozen=True, eq=False)
class GivenImages:
    """Labelled images of a user, in the balanced order.

    ``images`` (n, C, H, W) is uint8, or float32 in [0, 1]; ``labels`` (n,) int64; ``sample_ids``
    (n,) int64, the rows of the data; ``source`` tells in a word where they come from;
    ``n_available`` counts the images before the selection; ``class_names`` are the data's, None
    where it tells none.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    sample_ids: Tensor = field(repr=False)
    name: str
    source: str
    n_available: int
    class_names: tuple[str, ...] | None = None

    def info(self, n_classes: int) -> DatasetInfo:
        """Describe the images for a model of ``n_classes``; UsageError if a label is beyond them.

        Classes that the data does not name are called "class 0", "class 1", ...
        """
        if n_classes < 2:
            raise UsageError(f"the model answers {n_classes} class: an attack needs two or more")
        wrong = (self.labels >= n_classes).nonzero().flatten()
        if len(wrong):
            row, label = int(self.sample_ids[wrong[0]]), int(self.labels[wrong[0]])
            if int(self.labels.max()) == n_classes:
                hint = f"labels from 1 to {n_classes} instead of 0 to {n_classes - 1}?"
            else:
                hint = "are the images of the data that the model was trained on?"
            raise UsageError(
                f"the model answers {n_classes} classes, and image {row} has label {label}: {hint}"
            )
        known = (self.class_names or ())[:n_classes]
        names = (*known, *(f"class {i}" for i in range(len(known), n_classes)))
        _, channels, height, width = self.images.shape
        return DatasetInfo(self.name, (channels, height, width), n_classes, names, augment=False)

    @property
    def n_labels(self) -> int:
        """How many classes the data show: those that have names, else up to the largest label."""
        return len(self.class_names or ()) or int(self.labels.max()) + 1

    def few(self, k: int = 8) -> Tensor:
        """Return the first ``k`` images, or as many as there are, as float32 in [0, 1]."""
        first = self.images[:k]
        return first.clone() if first.is_floating_point() else first.float().div_(255)

    def dataset(self, info: DatasetInfo, device: torch.device | str) -> ImageDataset:
        """Return the images in the harness's form, on ``device``."""
        return ImageDataset.from_tensors(
            info,
            self.images,
            self.labels,
            self.sample_ids,
            source=self.source,
            n_available=self.n_available,
        ).to(device)


def check_n(n: Any, available: int | None = None) -> None:
    """Raise a UsageError unless ``n`` is None or a whole number that the data can serve."""
    if n is None:
        return
    if isinstance(n, bool) or not isinstance(n, Integral) or int(n) < 1:
        there = "" if available is None else f"; there are {available} images"
        raise UsageError(f"n must be a whole number, at least 1, got {n!r}{there}")
    if available is not None and int(n) > available:
        raise UsageError(f"n = {n} images were asked for, and there are {available}")


def select(opened: Opened, n: int | None, split: str) -> GivenImages:
    """Read ``n`` images (all by default), the first of the balanced order."""
    available = len(opened.labels)
    check_n(n, available)
    classes: Any = np.unique(opened.labels, return_inverse=True)[1]
    seed = derive_seed("dataset order", opened.name, split)
    rows = balanced_order(classes.astype(np.int64), seed)[:n]
    return GivenImages(
        images=opened.read(rows),
        labels=torch.from_numpy(opened.labels[rows]),
        sample_ids=torch.from_numpy(rows if opened.ids is None else opened.ids[rows]),
        name=opened.name,
        source=opened.source,
        n_available=available,
        class_names=opened.class_names,
    )
