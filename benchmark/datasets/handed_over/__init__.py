"""Any images that a user has, in the harness's form.

A kind of data is a module beside this one, and a line in :func:`_found`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmark.datasets.handed_over import arrays, folder, tables, torch_data
from benchmark.datasets.handed_over.folder import Size
from benchmark.datasets.handed_over.given import Found, GivenImages, Say, as_labels, chosen
from benchmark.datasets.handed_over.pixels import as_images
from benchmark.datasets.load import open_source
from benchmark.datasets.tensor_files import SUFFIXES
from benchmark.errors import UsageError, unknown_name
from benchmark.registry import DATASETS

__all__ = ["GivenImages", "read_images"]


def read_images(
    data: Any,
    *,
    labels: Any = None,
    n: int | None = None,
    split: str = "test",
    resize: Size = None,
    crop: Size = None,
    data_dir: Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    say: Say = lambda _: None,
) -> GivenImages:
    """Return ``n`` images of ``data`` (all by default), class-balanced, with their labels.

    Args:
        data: (images, labels), or images alone with ``labels``: arrays or tensors, uint8 or float
            in [0, 1]; a torch Dataset or DataLoader; the path of a folder with a subfolder per
            class, of a .parquet, .npz, .npy, .pt or .safetensors file; a Hugging Face Dataset; the
            name of a registered dataset.
        labels: (N,) whole numbers, one-hot rows or words.
        n: how many.
        split: "test" or "train" of a registered dataset.
        resize: the shorter side of encoded images, or (height, width).
        crop: the centre that is cut out then.
        data_dir: the folder of Parquet mirrors of registered datasets.
        image_column: of tables, where it has a name of its own.
        label_column: the same.
        say: is told, line by line, what was noticed.

    Raises:
        UsageError: in one line, what is wrong and what was probably meant.
    """
    if isinstance(data, str) and not _is_path(data):
        return _registered(data, n, split, data_dir)
    found = _found(data, labels, n, resize, crop, (image_column, label_column), say)
    whole, names = as_labels(found.labels, None, found.name)
    rows = chosen(whole, found.name, n)
    images = as_images(found.read(rows), found.name, say)
    if len(images) != len(rows):
        raise UsageError(f"{found.name}: {len(images):,} images for {len(rows):,} labels")
    return GivenImages(
        name=found.name,
        images=images,
        labels=torch.from_numpy(whole[rows]),
        sample_ids=torch.from_numpy(np.asarray(rows, np.int64)),
        source=found.source,
        n_available=len(whole),
        class_names=found.class_names or names,
    )


def _found(
    data: Any,
    labels: Any,
    n: int | None,
    resize: Size,
    crop: Size,
    columns: tuple[str | None, str | None],
    say: Say,
) -> Found:
    """Return the data by their kind."""
    if isinstance(data, str | Path):
        path = Path(data).expanduser()
        if path.is_dir():
            return folder.from_folder(path, resize, crop)
        if not path.exists():
            raise UsageError(f"data: there is no file or folder {path}")
        if path.suffix == ".parquet":
            return tables.from_parquet(path, *columns, resize, crop)
        if path.suffix in SUFFIXES:
            return arrays.from_file(path, labels)
        known = ", ".join((".parquet", *SUFFIXES))
        raise UsageError(f"data: {path} is no folder, nor a file that ends in {known}")
    if isinstance(data, DataLoader):
        return torch_data.from_loader(data, n, say)
    if tables.is_hugging_face(data):
        return tables.from_hugging_face(data, *columns, resize, crop)
    if labels is None and arrays.is_pair(data):
        return arrays.from_arrays(*data)
    if torch_data.is_dataset(data):
        return torch_data.from_dataset(data, n)
    return arrays.from_arrays(data, labels)


def _is_path(word: str) -> bool:
    """Tell whether a word is meant as a path: it has a separator or an ending, or is there."""
    if word in DATASETS.names():
        return False
    return "/" in word or "\\" in word or bool(Path(word).suffix) or Path(word).exists()


def _registered(name: str, n: int | None, split: str, data_dir: Path | None) -> GivenImages:
    if split not in ("test", "train"):
        raise unknown_name("split", split, ("test", "train"))
    data = open_source(name).load(split, n=n, data_dir=data_dir)  # type: ignore[arg-type]
    return GivenImages(
        name=data.info.name,
        images=data.images,
        labels=data.labels,
        sample_ids=data.sample_ids,
        source=data.source,
        n_available=data.n_available,
        class_names=data.info.class_names,
    )
