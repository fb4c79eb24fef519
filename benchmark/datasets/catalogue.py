"""The registered datasets: the embedded digits and the five that a mirror or a download brings."""

from functools import partial

import numpy as np

from benchmark.datasets.dataset import balanced_order
from benchmark.datasets.downloads import open_tiny_imagenet, open_torchvision
from benchmark.datasets.info import DatasetInfo, RawSplit, SplitName
from benchmark.datasets.source import DatasetSource
from benchmark.hashing import derive_seed


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
    _info("mnist", (1, 28, 28), _DIGITS, augment=False),
    download=partial(open_torchvision, "MNIST"),
    folder="MNIST",
)

FASHION_MNIST = DatasetSource(
    _info("fashion_mnist", (1, 28, 28), _FASHION, augment=False),
    download=partial(open_torchvision, "FashionMNIST"),
    folder="FashionMNIST",
)

CIFAR10 = DatasetSource(
    _info("cifar10", (3, 32, 32), _CIFAR10, augment=True),
    download=partial(open_torchvision, "CIFAR10"),
    folder="cifar-10-batches-py",
)

STL10 = DatasetSource(
    _info("stl10", (3, 96, 96), _STL10, augment=True),
    download=partial(open_torchvision, "STL10"),
    folder="stl10_binary",
)

TINY_IMAGENET = DatasetSource(
    _info("tiny_imagenet", (3, 64, 64), _TINY, augment=True),
    download=open_tiny_imagenet,
    folder="tiny-imagenet-200",
)
