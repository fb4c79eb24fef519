"""The official files of a dataset, downloaded once into the user's cache folder.

Torchvision fetches and checks MNIST, Fashion-MNIST, CIFAR-10 and STL-10; Tiny ImageNet's zip
comes from its authors' page. Each function here fetches what is missing under ``root`` and
returns the split; whatever goes wrong is raised as it comes, and the caller says it in a line.
"""

import contextlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping
from inspect import signature
from pathlib import Path

import numpy as np
import platformdirs

from benchmark.datasets.checksums import file_sum, read_list, write_list
from benchmark.datasets.image_files import decode_images
from benchmark.datasets.info import DatasetInfo, Pixels, RawSplit, Rows, SplitName, check_labels
from benchmark.errors import UsageError
from benchmark.hashing import digest_bytes
from benchmark.io.archives import unpack_zip

_log = logging.getLogger(__name__)

TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def download_folder() -> Path:
    """Return the folder of downloads: BENCHMARK_CACHE_DIR/datasets, else in the user's cache."""
    cache = os.environ.get("BENCHMARK_CACHE_DIR") or platformdirs.user_cache_dir("defensebench")
    return Path(cache).expanduser() / "datasets"


def open_torchvision(cls: str, info: DatasetInfo, split: SplitName, root: Path) -> RawSplit:
    """Open a split of torchvision's dataset ``cls`` under ``root``, fetched if missing."""
    import torchvision.datasets  # here, because no other source needs it and it is slow to import

    maker = getattr(torchvision.datasets, cls)
    by_name = "split" in signature(maker).parameters
    which = {"split": split} if by_name else {"train": split == "train"}
    root.mkdir(parents=True, exist_ok=True)
    # It verifies the files of CIFAR-10 and STL-10 whenever it reads them, those of MNIST never.
    archives = dict(getattr(maker, "resources", ()))
    folder = root / maker.__name__ / "raw"
    _unpack_damaged(folder, archives)
    # Older releases print while they download; standard output belongs to the command line.
    with contextlib.redirect_stdout(sys.stderr):
        official = maker(root, download=True, **which)
    if archives and not read_list(folder):
        with contextlib.suppress(OSError):  # a full disk costs the list, not the images
            write_list(folder, [folder / Path(name).stem for name in archives])
    images = np.asarray(official.data)
    channels, height, width = info.shape
    if images.ndim == 3:  # (N, H, W)
        images = images[:, None]
    elif images.shape[1:] == (height, width, channels):
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1:] != info.shape:
        raise ValueError(f"images of shape {images.shape[1:]} instead of {info.shape}")
    labels = np.asarray(official.labels if hasattr(official, "labels") else official.targets)
    labels = check_labels(labels, info, f"{root}: {info.name} {split}")
    return RawSplit(labels, lambda rows: images[rows], "download")


def _unpack_damaged(folder: Path, archives: Mapping[str, str]) -> None:
    """Unpack again those of ``archives`` (MD5 by name) in ``folder`` whose files were changed.

    UsageError if an archive that is needed is not there, or damaged too.
    """
    from torchvision.datasets.utils import check_integrity, extract_archive

    listed = read_list(folder) if archives else {}
    for name, md5 in archives.items():
        archive, file = folder / name, folder / Path(name).stem
        if not file.exists() or (listed and file_sum(file) == listed.get(file.name)):
            continue
        if check_integrity(archive, md5):
            if listed:
                _log.warning("%s: damaged, unpacked again", file)
            extract_archive(archive, folder)
        elif listed:
            raise UsageError(f"{file}: damaged; delete {folder} to fetch its files again")
        else:
            _log.warning("%s: read unchecked: its archive is not beside it", file)


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
        from torchvision.datasets.utils import download_url

        # Unpacked beside its place and renamed: an interrupted run leaves no half folder there.
        partial = root / "tiny-imagenet-200.partial"
        archive = root / "tiny-imagenet-200.zip"
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.redirect_stdout(sys.stderr):
            download_url(url, root, filename=archive.name, md5=md5)
        unpack_zip(archive, partial)
        found = partial / folder.name
        write_list(found, sorted(path for path in found.rglob("*") if path.is_file()))
        archive.unlink()
        found.rename(folder)
        partial.rmdir()
    return read_tiny_imagenet(info, split, folder)


def read_tiny_imagenet(info: DatasetInfo, split: SplitName, folder: Path) -> RawSplit:
    """Open a split of the unpacked Tiny ImageNet; ``test`` is the official validation split.

    A label is the index in the sorted WordNet ids of ``wnids.txt``. The order is that of the
    file names within each class (train) and that of ``val_annotations.txt`` (test).
    """
    listed = read_list(folder)
    if not listed:
        _log.warning("%s: read unchecked: it has no list of checksums", folder)

    def content(path: Path) -> bytes:
        data = path.read_bytes()
        own = digest_bytes([data])
        if listed and listed.get(path.relative_to(folder).as_posix()) != own:
            raise UsageError(f"{path}: damaged; delete {folder} to fetch it again")
        return data

    wnids = sorted(content(folder / "wnids.txt").decode().split())
    index = {wnid: label for label, wnid in enumerate(wnids)}
    if split == "train":
        found = [
            (path, label)
            for wnid, label in index.items()
            for path in sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
        ]
    else:
        lines = content(folder / "val" / "val_annotations.txt").decode().splitlines()
        fields = [line.split("\t") for line in lines if line]
        found = [(folder / "val" / "images" / name, index[wnid]) for name, wnid, *_ in fields]
    if not found:
        raise UsageError(f"{folder}: no {split} images in it; delete this folder to fetch it again")
    paths = [path for path, _ in found]
    part = "train" if split == "train" else "val"
    wanted = {folder / name for name in listed if re.fullmatch(rf"{part}/.*\.JPEG", name)}
    if lost := wanted - set(paths):
        raise UsageError(
            f"{folder}: {len(lost):,} of {len(wanted):,} {split} images are missing; delete this"
            " folder to fetch it again"
        )
    labels = check_labels(np.array([label for _, label in found]), info, str(folder))

    def read(rows: Rows) -> Pixels:
        found = ((place, content(paths[row]), str(paths[row])) for place, row in enumerate(rows))
        return decode_images(found, len(rows), info)

    return RawSplit(labels, read, "download")
