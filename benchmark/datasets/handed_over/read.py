"""One door for the images of a user: what they are is told by what is handed over."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark.datasets.handed_over import array_files
from benchmark.datasets.handed_over.arrays import open_arrays, open_pair
from benchmark.datasets.handed_over.folder import open_folder_of_classes
from benchmark.datasets.handed_over.given_images import GivenImages, Opened, select
from benchmark.datasets.handed_over.hugging_face import is_hugging_face, open_hugging_face
from benchmark.datasets.handed_over.names import name_of
from benchmark.datasets.handed_over.parquet import open_parquet, shards_in
from benchmark.datasets.handed_over.pictures import Fit
from benchmark.datasets.handed_over.pixels import Say
from benchmark.datasets.handed_over.registered import read_registered
from benchmark.datasets.handed_over.torch_data import open_dataset
from benchmark.datasets.tensor_files import SUFFIXES
from benchmark.errors import UsageError, unknown_name
from benchmark.registry import DATASETS


def read_images(
    data: Any,
    *,
    labels: Any = None,
    n: int | None = None,
    split: str = "test",
    resize: int | None = None,
    crop: int | tuple[int, int] | None = None,
    data_dir: Any = None,
    image_column: str | None = None,
    label_column: str | None = None,
    say: Say = lambda _: None,
) -> GivenImages:
    """Read ``n`` labelled images (all by default), class-balanced, in an order of their own.

    Args:
        data: ``(images, labels)`` as arrays or tensors, or images alone and ``labels``: images
            (N, C, H, W), (N, H, W) or (N, H, W, C), uint8 or whole numbers from 0 to 255, or float
            in [0, 1]; a torch Dataset or DataLoader of (image, label); the path of a folder
            with a subfolder of image files for each class, of a Parquet file of encoded images or
            a folder of its shards, or of a .npz, .npy, .pt or .safetensors file of arrays; a
            mapping of arrays; a Hugging Face Dataset; or the name of a registered dataset.
        labels: whole numbers (N,) or (N, 1), one-hot (N, K), or class names (N,).
        resize: the length that image files' shorter side is brought to, as torchvision's Resize.
        crop: the square, or (height, width), that is cut from their centre, as its CenterCrop.
        n: how many images.
        split: "train" or "test", of a registered dataset, a folder or a file of several.
        image_column, label_column: what images and labels are called where they have names.
        data_dir: the folder of a registered dataset's Parquet mirror.
        say: is told in one line what was done to the images.

    Raises:
        UsageError: in one line, what is wrong with the data and what to do.
    """
    if isinstance(data, str) and data in DATASETS.names():
        if labels is not None:
            raise UsageError(f"{data} has labels of its own: leave labels= out")
        own: dict[str, Any] = {"resize": resize, "crop": crop, "image_column": image_column}
        own["label_column"] = label_column
        if given := [word for word, value in own.items() if value is not None]:
            raise UsageError(f"{data} is read as it is registered: leave {given[0]}= out")
        return read_registered(data, n=n, split=split, data_dir=data_dir)
    if data_dir is not None:
        raise UsageError("data_dir is for registered names: leave it out, data says what is read")
    columns = (image_column, label_column)
    opened = _opened(data, labels, Fit(resize, crop), columns, split, say)
    return select(opened, n, split)


def _opened(
    data: Any, labels: Any, fit: Fit, columns: tuple[str | None, str | None], split: str, say: Say
) -> Opened:
    path = existing(data) if isinstance(data, str | Path) else None
    if path is not None and (path.is_dir() or path.suffix not in SUFFIXES):
        if labels is not None:
            raise UsageError(f"{path} has labels of its own: leave labels= out")
        return _open_pictures(path, fit, columns, split, say)
    if path is None and is_hugging_face(data):
        if labels is not None:
            raise UsageError("a dataset has labels of its own: leave labels= out")
        return open_hugging_face(data, columns, fit, say)
    if fit:
        raise UsageError(
            "resize and crop are for files of images: bring arrays and datasets to the size that"
            " the model takes before"
        )
    if path is not None:
        return array_files.open_array_file(path, labels, columns, split, say)
    if isinstance(data, Mapping):
        return array_files.open_mapping(data, labels, columns, split, say)
    if _is_dataset(data):
        if labels is not None:
            raise UsageError("a dataset has labels of its own: leave labels= out")
        return open_dataset(data, say, *columns)
    return open_arrays(*open_pair(data, labels), say)


def _open_pictures(
    path: Path, fit: Fit, columns: tuple[str | None, str | None], split: str, say: Say
) -> Opened:
    if path.is_dir():
        if shards := shards_in(path, split):
            return open_parquet(shards, name_of(path), columns, fit, say)
        return open_folder_of_classes(path, fit, say)
    if path.suffix.lower() != ".parquet":
        raise UsageError(
            f"{path}: give a folder, or a file that ends in .parquet, {', '.join(SUFFIXES)}"
        )
    return open_parquet([path], name_of(path), columns, fit, say)


def existing(data: str | Path) -> Path:
    """Return the path ``data``; UsageError with the nearest registered name if there is none."""
    path = Path(data)
    with suppress(RuntimeError):  # ~ of somebody unknown: then it is a name like any other
        path = path.expanduser()
    try:
        there = path.exists()
    except (OSError, ValueError):  # too long a name, no access, a null byte
        there = False
    if there:
        return path
    raise unknown_name("path or dataset", str(data), DATASETS.names())


def _is_dataset(data: Any) -> bool:
    if isinstance(data, list):
        return bool(data) and (isinstance(data[0], tuple | Mapping) or _is_batch(data[0]))
    if isinstance(data, tuple | Mapping) or hasattr(data, "__array__"):
        return False
    return hasattr(data, "__getitem__") or hasattr(data, "__iter__")


def _is_batch(item: Any) -> bool:
    """Tell whether ``item`` is a list [images, labels], as a DataLoader gives it."""
    if not isinstance(item, list) or len(item) != 2:
        return False
    images, labels = (getattr(part, "ndim", 0) for part in item)
    return images > 2 and images > labels
