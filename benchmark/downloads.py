"""The official files of a dataset, downloaded once into the user's cache folder.

Torchvision fetches and checks MNIST, Fashion-MNIST, CIFAR-10 and STL-10; Tiny ImageNet's zip
comes from its authors' page. Each function here fetches what is missing under ``root`` and
returns the split; whatever goes wrong is raised as it comes, and the caller says it in a line.
"""

import contextlib
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import platformdirs

from benchmark.errors import UsageError
from benchmark.splits import (
    DatasetInfo,
    Pixels,
    RawSplit,
    Rows,
    SplitName,
    check_labels,
    decode_image,
)

TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"

_TORCHVISION = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "stl10": "STL10",
}


def download_folder() -> Path:
    """Return the folder of downloads: BENCHMARK_CACHE_DIR/datasets, else in the user's cache."""
    cache = os.environ.get("BENCHMARK_CACHE_DIR") or platformdirs.user_cache_dir("defensebench")
    return Path(cache).expanduser() / "datasets"


def open_torchvision(info: DatasetInfo, split: SplitName, root: Path) -> RawSplit:
    """Open a split of mnist, fashion_mnist, cifar10 or stl10 under ``root``, fetched if missing."""
    import torchvision.datasets  # here, because no other source needs it and it is slow to import

    maker = getattr(torchvision.datasets, _TORCHVISION[info.name])
    which = {"split": split} if info.name == "stl10" else {"train": split == "train"}
    root.mkdir(parents=True, exist_ok=True)
    # Older releases print while they download; standard output belongs to the command line.
    with contextlib.redirect_stdout(sys.stderr):
        official = maker(root, download=True, **which)
    images = np.asarray(official.data)
    if images.ndim == 3:  # (N, H, W)
        images = images[:, None]
    elif info.name == "cifar10":  # (N, H, W, C)
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1:] != info.shape:
        raise ValueError(f"images of shape {images.shape[1:]} instead of {info.shape}")
    labels = np.asarray(official.labels if info.name == "stl10" else official.targets)
    labels = check_labels(labels, info, f"{root}: {info.name} {split}")
    return RawSplit(labels, lambda rows: images[rows], "download")


def open_tiny_imagenet(
    info: DatasetInfo,
    split: SplitName,
    root: Path,
    *,
    url: str = TINY_IMAGENET_URL,
    md5: str = TINY_IMAGENET_MD5,
) -> RawSplit:
    """Open a split of Tiny ImageNet under ``root``; its zip is fetched, checked and unpacked."""
    folder = root / "tiny-imagenet-200"
    if not folder.is_dir():
        from torchvision.datasets.utils import download_and_extract_archive

        # Unpacked beside its place and renamed: an interrupted run leaves no half folder there.
        partial = root / "tiny-imagenet-200.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.redirect_stdout(sys.stderr):
            download_and_extract_archive(
                url, root, partial, filename="tiny-imagenet-200.zip", md5=md5, remove_finished=True
            )
        (partial / folder.name).rename(folder)
        partial.rmdir()
    return read_tiny_imagenet(info, split, folder)


def read_tiny_imagenet(info: DatasetInfo, split: SplitName, folder: Path) -> RawSplit:
    """Open a split of the unpacked Tiny ImageNet; ``test`` is the official validation split.

    A label is the index in the sorted WordNet ids of ``wnids.txt``. The order is that of the
    file names within each class (train) and that of ``val_annotations.txt`` (test).
    """
    wnids = sorted((folder / "wnids.txt").read_text("utf-8").split())
    index = {wnid: label for label, wnid in enumerate(wnids)}
    if split == "train":
        found = [
            (path, label)
            for wnid, label in index.items()
            for path in sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
        ]
    else:
        lines = (folder / "val" / "val_annotations.txt").read_text("utf-8").splitlines()
        fields = [line.split("\t") for line in lines if line]
        found = [(folder / "val" / "images" / name, index[wnid]) for name, wnid, *_ in fields]
    if not found:
        raise UsageError(f"{folder}: no {split} images in it; delete this folder to fetch it anew")
    paths = [path for path, _ in found]
    labels = check_labels(np.array([label for _, label in found]), info, str(folder))

    def read(rows: Rows) -> Pixels:
        images = np.empty((len(rows), *info.shape), np.uint8)
        for place, row in enumerate(rows):
            images[place] = decode_image(paths[row].read_bytes(), info, str(paths[row]))
        return images

    return RawSplit(labels, read, "download")
