"""Where a dataset's images come from.

A :class:`DatasetSource` is what an entry point of the group ``defensebench.datasets`` names. It
looks, in this order, in what the installed packages embed, in a Parquet mirror (``--data-dir`` or
BENCHMARK_DATA_DIR) and at the official download.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmark.datasets.class_names import check_class_names
from benchmark.datasets.dataset import ImageDataset, balanced_order
from benchmark.datasets.downloads import download_folder
from benchmark.datasets.info import DatasetInfo, RawSplit, SplitName, check_labels
from benchmark.datasets.parquet_mirror import find_files, open_mirror, patterns
from benchmark.datasets.validate import check_images
from benchmark.errors import UsageError, cause
from benchmark.hashing import derive_seed
from benchmark.io.locks import held
from benchmark.machine_errors import no_room
from benchmark.progress import ConsoleProgress


@dataclass(frozen=True)
class DatasetSource:
    """A dataset and where its images come from; with ``info`` alone, from a Parquet mirror.

    ``embedded(info, split)`` opens a split that an installed package holds; ``download(info,
    split, folder)`` opens one from its official files, which it fetches into ``folder``; there
    :attr:`folder` is the name of what it leaves, the dataset's own by default.
    """

    info: DatasetInfo
    embedded: Callable[[DatasetInfo, SplitName], RawSplit] | None = None
    download: Callable[[DatasetInfo, SplitName, Path], RawSplit] | None = None
    folder: str = ""

    @property
    def is_downloaded(self) -> bool:
        """Whether the official files lie in the folder of downloads."""
        return (download_folder() / (self.folder or self.info.name)).is_dir()

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
