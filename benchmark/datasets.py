"""Datasets: images held once as uint8 on the device, and where they come from.

A :class:`DatasetSource` is what an entry point of the group ``defensebench.datasets`` names. It
looks, in this order, in what the installed packages embed, in a Parquet mirror (``--data-dir`` or
BENCHMARK_DATA_DIR) and at the official download. n images are the first n of a fixed, balanced
order that no seed of a run changes, so a smaller selection is part of every larger one.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.class_names import check_class_names
from benchmark.downloads import download_folder, open_tiny_imagenet, open_torchvision
from benchmark.errors import UsageError
from benchmark.faults import no_room
from benchmark.locks import held
from benchmark.parquet_source import find_files, open_mirror, patterns
from benchmark.progress import ConsoleProgress
from benchmark.raw_images import check_images
from benchmark.spec import derive_seed
from benchmark.splits import DatasetInfo, RawSplit, Rows, SplitName, cause, check_labels

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


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Labelled images, all on one device.

    ``images`` is uint8 (N, C, H, W); ``labels`` and ``sample_ids`` are int64 (N,), the latter the
    row in the dataset's split. ``source`` is "embedded", "mirror" or "download". ``checksum`` is
    the SHA-256 (hex) of the bytes of images, labels and sample_ids, the same on every device.
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
        if self.images.dtype != torch.uint8 or self.images.shape[1:] != self.info.shape:
            raise ValueError(
                f"{self.info.name}: images must be uint8 {('N', *self.info.shape)},"
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
        total = hashlib.sha256()
        for values in (images, labels, sample_ids):
            total.update(values.cpu().contiguous().numpy().data)
        return cls(info, images, labels, sample_ids, source, total.hexdigest(), n_available)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """The device that holds the tensors."""
        return self.images.device

    def x(self, index: Tensor | slice | None = None) -> Tensor:
        """Return the images of ``index`` (all by default) as float32 (n, C, H, W) in [0, 1]."""
        images = self.images if index is None else self.images[index]
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


@dataclass(frozen=True)
class DatasetSource:
    """A dataset and where its images come from; with ``info`` alone, from a Parquet mirror.

    ``embedded(info, split)`` opens a split that an installed package holds; ``download(info,
    split, folder)`` opens one from its official files, which it fetches into ``folder``.
    """

    info: DatasetInfo
    embedded: Callable[[DatasetInfo, SplitName], RawSplit] | None = None
    download: Callable[[DatasetInfo, SplitName, Path], RawSplit] | None = None

    def load(
        self,
        split: SplitName,
        *,
        n: int | None = None,
        data_dir: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> ImageDataset:
        """Load ``n`` images of ``split`` (all by default) in the balanced order.

        ``data_dir`` (else BENCHMARK_DATA_DIR) holds Parquet mirrors; where one is given, nothing
        is downloaded. UsageError says what is wrong with the request or the data.
        """
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        if n is not None and n < 1:
            raise UsageError(f"--n-{split} must be at least 1, got {n}")
        where = f"{self.info.name} {split}"
        with _reading(where):
            raw = self._open(split, data_dir)
            labels = check_labels(np.asarray(raw.labels), self.info, where)
        available = len(labels)
        if available == 0:
            raise UsageError(f"{where}: the files hold no images")
        if n is not None and n > available:
            raise UsageError(
                f"{where} has {available:,} images, {n:,} were asked for:"
                f" --n-{split} must be at most {available}"
            )
        rows = balanced_order(labels, derive_seed("dataset order", self.info.name, split))[:n]
        with _reading(where):
            images = check_images(raw.read(rows), len(rows), self.info, where)
        return ImageDataset.from_tensors(
            self.info,
            torch.from_numpy(images),
            torch.from_numpy(labels[rows]),
            torch.from_numpy(rows),
            source=raw.source,
            n_available=available,
        ).to(device)

    def _open(self, split: SplitName, data_dir: Path | None) -> RawSplit:
        name = self.info.name
        if self.embedded is not None:
            return self.embedded(self.info, split)
        if data_dir is None and (named := os.environ.get("BENCHMARK_DATA_DIR")):
            data_dir = Path(named)
        if data_dir is not None:
            with suppress(RuntimeError):  # ~ of somebody unknown: then it is a name like any other
                data_dir = data_dir.expanduser()
            if files := find_files(data_dir, name, split):
                other = find_files(data_dir, name, "test" if split == "train" else "train")
                raw = open_mirror(self.info, files)
                check_class_names([*files, *other], self.info)
                return raw
            absent = "" if data_dir.is_dir() else f" ({data_dir} is not a folder)"
            fetch = "" if self.download is None else ", or leave the folder out to download them"
            raise UsageError(
                f"{name}: no {split} images; looked for"
                f" {' and '.join(patterns(data_dir, name, split))}{absent};"
                f" put the Parquet files there, or name another folder with --data-dir or"
                f" BENCHMARK_DATA_DIR{fetch}"
            )
        wanted = " or ".join(patterns(Path("DIR"), name, split))
        offline = f"give --data-dir DIR (or BENCHMARK_DATA_DIR) with {wanted}"
        if self.download is None:
            raise UsageError(f"{name}: there is no download; {offline}")
        folder = download_folder()
        try:
            with held(folder / f"{name}.lock", f"the download of {name}", ConsoleProgress()):
                return self.download(self.info, split, folder)
        except UsageError:
            raise
        except Exception as error:  # whatever the network, archive and file layers raise
            if no_room(error):
                raise
            raise UsageError(
                f"{name}: the download into {folder} failed ({cause(error)});"
                f" try again with network access (delete damaged files there first),"
                f" or {offline}"
            ) from None


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what a source of somebody else's raises into one clear line."""
    try:
        yield
    except (UsageError, OSError, MemoryError):
        raise
    except Exception as error:
        raise UsageError(
            f"{where}: its source failed ({type(error).__name__}: {cause(error)})"
        ) from error


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


def _open_digits(info: DatasetInfo, split: SplitName) -> RawSplit:
    """Open scikit-learn's digits, enlarged to 28x28: 500 test images, 50 a digit, 1,297 train."""
    from sklearn.datasets import load_digits  # here, because no other dataset needs it

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    order = balanced_order(labels, derive_seed("digits split"))
    chosen = np.sort(order[:500] if split == "test" else order[500:])
    # Bilinear from 8 to 28: pixel i samples position (4i - 5) / 14, so 14 times its weights are
    # whole numbers, and integer arithmetic gives the same bytes on every machine.
    position = np.clip(4 * np.arange(28) - 5, 0, 14 * 7)
    weights = np.maximum(14 - np.abs(position[:, None] - 14 * np.arange(8)), 0)
    values = weights @ digits.images[chosen].astype(np.int64) @ weights.T  # 0 to 16 * 14**2
    images = ((values * 255 + 8 * 14**2) // (16 * 14**2)).astype(np.uint8)[:, None]
    return RawSplit(labels[chosen], lambda rows: images[rows], "embedded")


def _info(
    name: str, shape: tuple[int, int, int], class_names: str, *, augment: bool
) -> DatasetInfo:
    """Return the description of a dataset; ``class_names`` are separated by commas."""
    names = tuple(class_names.split(", "))
    return DatasetInfo(name, shape, len(names), names, augment)


_DIGITS = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
_FASHION = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
_CIFAR10 = "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"
_STL10 = "airplane, bird, car, cat, deer, dog, horse, monkey, ship, truck"
# A mirror does not carry the WordNet ids: a label is the index in their sorted list.
_TINY = ", ".join(f"class {label}" for label in range(200))

DIGITS = DatasetSource(_info("digits", (1, 28, 28), _DIGITS, augment=False), embedded=_open_digits)
MNIST = DatasetSource(
    _info("mnist", (1, 28, 28), _DIGITS, augment=False), download=open_torchvision
)
FASHION_MNIST = DatasetSource(
    _info("fashion_mnist", (1, 28, 28), _FASHION, augment=False), download=open_torchvision
)
CIFAR10 = DatasetSource(
    _info("cifar10", (3, 32, 32), _CIFAR10, augment=True), download=open_torchvision
)
STL10 = DatasetSource(_info("stl10", (3, 96, 96), _STL10, augment=True), download=open_torchvision)
TINY_IMAGENET = DatasetSource(
    _info("tiny_imagenet", (3, 64, 64), _TINY, augment=True), download=open_tiny_imagenet
)
