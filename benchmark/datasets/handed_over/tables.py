"""Tables with a column of encoded images: a Parquet file, a Hugging Face Dataset."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from benchmark.datasets.handed_over.folder import MOST_PIXELS, Size, shaped
from benchmark.datasets.handed_over.given import Found, Images
from benchmark.datasets.info import Rows
from benchmark.errors import UsageError, first_line, unknown_name

IMAGES = ("image", "img", "images", "pixels")
LABELS = ("label", "labels", "fine_label", "target", "class")


def from_parquet(
    path: Path, image_column: str | None, label_column: str | None, resize: Size, crop: Size
) -> Found:
    """Return a file's images, PNG or JPEG bytes (or a struct with ``bytes``), and its labels."""
    try:
        table = pq.ParquetFile(path)
        names = table.schema_arrow.names
        image, label = _column(names, IMAGES, image_column), _column(names, LABELS, label_column)
        labels = table.read([label]).column(0).to_numpy()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} is no Parquet file to be read: {first_line(error)}") from None

    def read(rows: Rows) -> Images:
        try:
            column = pq.ParquetFile(path).read([image]).column(0)
        except (OSError, pa.ArrowException) as error:
            raise UsageError(f"{path} cannot be read: {first_line(error)}") from None
        cells = column.take(pa.array(rows)).to_pylist()
        return _stacked(
            [
                _decoded(cell, f"{path.name}, row {row}", resize, crop)
                for cell, row in zip(cells, rows, strict=True)
            ],
            path.name,
        )

    return Found(path.stem, labels, read, "file")


def is_hugging_face(data: Any) -> bool:
    """Tell whether ``data`` is a Dataset or DatasetDict of the library datasets."""
    return hasattr(data, "column_names") and (hasattr(data, "features") or hasattr(data, "keys"))


def from_hugging_face(
    data: Any, image_column: str | None, label_column: str | None, resize: Size, crop: Size
) -> Found:
    """Return the images and labels of a split; UsageError for a DatasetDict, which has several."""
    if isinstance(data.column_names, dict):
        splits = ", ".join(data.column_names)
        raise UsageError(f"a DatasetDict has several splits ({splits}); hand over one of them")
    image = _column(data.column_names, IMAGES, image_column)
    label = _column(data.column_names, LABELS, label_column)
    names = getattr(data.features[label], "names", None)

    def read(rows: Rows) -> Images:
        cells = (data[int(row)][image] for row in rows)
        return _stacked(
            [
                _decoded(cell, f"row {row}", resize, crop)
                for cell, row in zip(cells, rows, strict=True)
            ],
            "the Dataset",
        )

    name = str(getattr(getattr(data, "info", None), "dataset_name", "") or "dataset")
    return Found(name, list(data[label]), read, "Dataset", tuple(names) if names else None)


def _column(names: list[str], known: tuple[str, ...], asked: str | None) -> str:
    if asked is not None:
        if asked not in names:
            raise unknown_name("column", asked, names)
        return asked
    for name in known:
        if name in names:
            return name
    what = "image_column" if known is IMAGES else "label_column"
    raise UsageError(
        f"no column {' or '.join(known)} among {', '.join(names)}: name it with {what}"
    )


def _decoded(cell: Any, where: str, resize: Size, crop: Size) -> Images:
    """Return an image cell as (C, H, W): a Pillow image, bytes, or a struct with ``bytes``."""
    if isinstance(cell, dict):
        cell = cell.get("bytes")
    try:
        image = cell if isinstance(cell, Image.Image) else Image.open(io.BytesIO(cell))
        if image.width * image.height > MOST_PIXELS:
            raise UsageError(f"{where}: {image.width} x {image.height} pixels are too many")
        plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
        array = np.asarray(shaped(plain, resize, crop))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, TypeError) as error:
        raise UsageError(f"{where}: no image that can be read: {first_line(error)}") from None
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _stacked(images: list[Images], where: str) -> Images:
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise UsageError(
            f"{where}: images differ in shape ({shapes[0]} and {shapes[-1]}); give resize and crop,"
            " for example resize=256, crop=224"
        )
    return np.stack(images)
