"""Labelled images, held once on their device, as uint8 where they came from 8 bits.

n images are the first n of a fixed, balanced order that no seed of a run changes, so a smaller
selection is part of every larger one.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.info import DatasetInfo, Rows
from benchmark.errors import UsageError
from benchmark.hashing import digest_bytes

HELD_AS = (torch.uint8, torch.float32)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Labelled images, all on one device.

    ``images`` (N, C, H, W) is uint8, or float32 in [0, 1] where it came from no 8 bits; ``labels``
    and ``sample_ids`` are int64 (N,), the latter the row in the dataset's split. ``source`` is
    "embedded", "mirror" or "download", or says what kind of data a user handed over. ``checksum``
    is the SHA-256 (hex) of the bytes of images, labels and sample_ids, the same on every device.
    ``n_available`` counts the images of the whole split, before the selection.
    """

    info: DatasetInfo
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    sample_ids: Tensor = field(repr=False)
    source: str
    checksum: str
    n_available: int

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.dtype not in HELD_AS or self.images.shape[1:] != self.info.shape:
            raise ValueError(
                f"{self.info.name}: images must be uint8 or float32 {('N', *self.info.shape)},"
                f" got {self.images.dtype} {tuple(self.images.shape)}"
            )
        for name, values in (("labels", self.labels), ("sample_ids", self.sample_ids)):
            if values.dtype != torch.int64 or values.shape != (n,):
                raise ValueError(
                    f"{self.info.name}: {name} must be int64 ({n},),"
                    f" got {values.dtype} {tuple(values.shape)}"
                )

    @classmethod
    def from_tensors(
        cls,
        info: DatasetInfo,
        images: Tensor,
        labels: Tensor,
        sample_ids: Tensor,
        *,
        source: str,
        n_available: int,
    ) -> "ImageDataset":
        """Build a dataset and compute its checksum."""
        parts = (images, labels, sample_ids)
        checksum = digest_bytes(values.cpu().contiguous().numpy().data for values in parts)
        return cls(info, *parts, source, checksum, n_available)

    @classmethod
    def empty(cls, info: DatasetInfo, device: torch.device | str = "cpu") -> "ImageDataset":
        """Return no images at all: what a model that was handed over is known to be trained on."""
        images = torch.zeros((0, *info.shape), dtype=torch.uint8, device=device)
        none = torch.zeros(0, dtype=torch.int64, device=device)
        return cls.from_tensors(info, images, none, none, source="none", n_available=0)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """The device that holds the tensors."""
        return self.images.device

    def x(self, index: Tensor | slice | None = None) -> Tensor:
        """Return the images of ``index`` (all by default) as float32 (n, C, H, W) in [0, 1]."""
        images = self.images if index is None else self.images[index]
        if images.dtype == torch.float32:
            return images.clone()  # what is done to a batch must not reach the dataset
        return images.to(torch.float32).div_(255)

    def to(self, device: torch.device | str) -> "ImageDataset":
        """Return the same dataset on ``device``."""
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            sample_ids=self.sample_ids.to(device),
        )

    def batches(self, size: int) -> list[Tensor]:
        """Return the rows, in order, as index tensors (int64) of at most ``size`` each."""
        return list(torch.split(torch.arange(len(self), device=self.device), size))

    def select(self, index: Tensor | slice) -> "ImageDataset":
        """Return the images of ``index`` as a dataset with its own checksum; for batches use x."""
        return ImageDataset.from_tensors(
            self.info,
            self.images[index],
            self.labels[index],
            self.sample_ids[index],
            source=self.source,
            n_available=self.n_available,
        )

    def head(self, n: int) -> "ImageDataset":
        """Return the first ``n`` images, which are class-balanced too; ValueError if too many."""
        if not 0 <= n <= len(self):
            raise ValueError(f"{self.info.name}: the first {n} of {len(self)} images do not exist")
        return self if n == len(self) else self.select(slice(n))

    def holdout(self, fraction: float) -> tuple["ImageDataset", "ImageDataset"]:
        """Split off the last ``fraction``, in (0, 1), of the order: (to train on, held out).

        Either part has at least one image; UsageError if there are not two.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"the held-out fraction must lie between 0 and 1, got {fraction}")
        if len(self) < 2:
            raise UsageError(
                f"{self.info.name}: {len(self)} image cannot be split into a training and"
                " a held-out part; give --n-train 2 or more"
            )
        cut = len(self) - min(max(round(len(self) * fraction), 1), len(self) - 1)
        return self.select(slice(cut)), self.select(slice(cut, None))


def balanced_order(labels: Rows, seed: int) -> Rows:
    """Return a permutation of the rows of ``labels`` (N,) whose every prefix is class-balanced.

    Rows are shuffled within their class; then every round takes one of each class that has any
    left, in random order (WordNet ids, for one, put like beside like: the first half of the
    classes would be no fair sample of all).
    """
    # RandomState's stream is frozen for good; default_rng's may change with a NumPy release.
    shuffled = np.random.RandomState(seed).permutation(len(labels)).astype(np.int64)
    by_class = np.argsort(labels[shuffled], kind="stable")
    counts = np.bincount(labels)
    rounds = np.empty(len(labels), np.int64)
    rounds[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    order: Rows = shuffled[np.argsort(rounds, kind="stable")]
    return order
