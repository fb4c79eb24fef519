"""Images and labels that a user handed over, as they are found: what every kind of data becomes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.datasets.dataset import ImageDataset, balanced_order
from benchmark.datasets.info import DatasetInfo, Rows
from benchmark.errors import UsageError
from benchmark.hashing import derive_seed

Images = npt.NDArray[Any]
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Found:
    """Data before any image is chosen: all ``labels`` (N,), and ``read(rows)`` for some images.

    ``labels`` are as the user has them; ``read`` returns an array of images, in any of the layouts
    and types that :func:`benchmark.datasets.handed_over.pixels.as_images` takes.
    """

    name: str
    labels: Any
    read: Callable[[Rows], Images]
    source: str
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class GivenImages:
    """The images chosen: ``images`` (n, C, H, W) uint8, or float32 in [0, 1].

    ``labels`` and ``sample_ids`` are int64 (n,), the latter the images' rows in the data.
    """

    name: str
    images: Tensor
    labels: Tensor
    sample_ids: Tensor
    source: str
    n_available: int
    class_names: tuple[str, ...] | None = None

    def info(self, n_classes: int) -> DatasetInfo:
        """Return the description of the data for a model of so many classes.

        UsageError if a label is not among them.
        """
        if n_classes < 2:
            raise UsageError(f"the model answers {n_classes} class: an attack needs two or more")
        if len(self.labels) and int(self.labels.max()) >= n_classes:
            row = int(self.labels.argmax())
            raise UsageError(
                f"the model answers {n_classes} classes, 0 to {n_classes - 1}, and image"
                f" {int(self.sample_ids[row])} has label {int(self.labels[row])}: are the labels 1"
                f" to {n_classes} where they should start at 0, or the model another dataset's?"
            )
        names = self.class_names or ()
        if len(names) != n_classes:
            names = tuple(map(str, range(n_classes)))
        _, channels, height, width = self.images.shape
        return DatasetInfo(self.name, (channels, height, width), n_classes, names, augment=False)

    @property
    def n_labels(self) -> int:
        """How many classes the data show: those that have names, else up to the largest label."""
        return len(self.class_names or ()) or int(self.labels.max()) + 1

    def few(self, k: int = 8) -> Tensor:
        """Return the first images (at most ``k``), float32 in [0, 1]."""
        return as_float(self.images[:k])

    def dataset(self, info: DatasetInfo, device: torch.device | str) -> ImageDataset:
        """Return them as a dataset on ``device``."""
        return ImageDataset.from_tensors(
            info,
            self.images,
            self.labels,
            self.sample_ids,
            source=self.source,
            n_available=self.n_available,
        ).to(device)


def as_float(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def chosen(labels: Rows, name: str, n: int | None) -> Rows:
    """Return the first ``n`` rows of a fixed, class-balanced order; all where ``n`` is None."""
    if n is not None and n < 1:
        raise UsageError(f"n must be at least 1, got {n}")
    if not len(labels):
        raise UsageError(f"{name}: there are no images")
    if n is not None and n > len(labels):
        raise UsageError(f"{name} has {len(labels):,} images, and n={n:,} were asked for")
    return balanced_order(labels, derive_seed("dataset order", name, "handed over"))[:n]


def as_labels(labels: Any, n: int | None, where: str) -> tuple[Rows, tuple[str, ...] | None]:
    """Return labels as whole numbers (N,), and the class names if they were words.

    Taken are whole numbers (N,) or (N, 1), one-hot rows (N, K) and words. UsageError for others,
    and where there are not ``n``.
    """
    if labels is None:
        raise UsageError(f"{where}: there are no labels; give (images, labels), or labels=")
    found = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    names = None
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.dtype.kind in "UO" and found.ndim == 1:
        words = [str(word) for word in found]
        names = tuple(sorted(set(words)))
        found = np.array([names.index(word) for word in words], np.int64)
    if found.ndim == 2 and found.dtype.kind in "biuf":
        if not (np.isin(found, (0, 1)).all() and (found.sum(1) == 1).all()):
            raise UsageError(f"{where}: labels of shape {found.shape} are not one-hot rows")
        found = found.argmax(1)
    if found.ndim != 1 or found.dtype.kind not in "iuf":
        raise UsageError(
            f"{where}: labels are {found.dtype} of shape {found.shape}; they are whole numbers (n,)"
        )
    if n is not None and len(found) != n:
        raise UsageError(f"{where}: {n:,} images and {len(found):,} labels")
    if found.dtype.kind == "f" and not (np.isfinite(found).all() and (found % 1 == 0).all()):
        raise UsageError(f"{where}: labels are no whole numbers")
    if len(found) and found.min() < 0:
        raise UsageError(f"{where}: row {int(found.argmin())} has label {int(found.min())}")
    return found.astype(np.int64), names
