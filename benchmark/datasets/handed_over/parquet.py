"""Images from Parquet files, as Hugging Face's datasets library writes them.

A column holds encoded images, as bytes or as a struct with a field ``bytes``; another one whole
numbers or names. The class names are in the schema's metadata, where the library put them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from benchmark.datasets.handed_over.given_images import Opened
from benchmark.datasets.handed_over.items import IMAGE_NAMES, LABEL_NAMES
from benchmark.datasets.handed_over.labels import as_labels
from benchmark.datasets.handed_over.pictures import Fit, as_pixels
from benchmark.datasets.handed_over.pixels import Say
from benchmark.datasets.info import Rows
from benchmark.datasets.parquet_mirror import (
    MOST_IMAGES,
    PREFIXES,
    Chunk,
    chunks_of,
    encoded_images,
    find_files,
    image_column,
    missing,
    opened,
    reading,
)
from benchmark.datasets.shards import check_shards
from benchmark.errors import UsageError
from benchmark.io.parquet_files import check_size

MOST_BYTES = 2**42


def shards_in(folder: Path, split: str) -> list[Path]:
    """Return the shards of ``split`` in a folder; none where it holds no Parquet file.

    UsageError if there are Parquet files, and none of the split or some of it missing.
    """
    found = sorted(folder.glob("*.parquet"))
    if not found:
        return []
    if split in PREFIXES:
        files = find_files(folder.parent, folder.name, split)
    else:
        files = [path for path in found if path.name.startswith(split)]
    if not files:
        raise UsageError(
            f"{folder}: no file of the split {split!r} ({split}*.parquet): name the file that is"
            " meant"
        )
    check_shards(files)
    return files


def open_parquet(
    files: list[Path], name: str, columns: tuple[str | None, str | None], fit: Fit, say: Say
) -> Opened:
    """Open the rows of ``files``, one after the other; ``columns`` name images and labels."""
    images = IMAGE_NAMES if columns[0] is None else (columns[0],)
    chunks: list[Chunk] = []
    parts: list[pa.ChunkedArray] = []
    names = None
    start = 0
    for path in files:
        with reading(path), opened(path) as file:
            check_size(file.metadata, most_rows=MOST_IMAGES, most_bytes=MOST_BYTES)
            schema = file.schema_arrow
            label = _label_column(path, schema, columns[1])
            chunks += chunks_of(path, file, image_column(path, schema, images), start)
            parts.append(_labels(path, file.read(columns=[label]).column(label)))
            names = names or _class_names(schema, label)
            start += file.metadata.num_rows
    if start == 0:
        raise UsageError(f"{files[0]}: it holds no images: there is nothing to evaluate")
    values = [value for part in parts for value in part.to_pylist()]
    labels, found = as_labels(values)

    def read(rows: Rows) -> Tensor:
        return as_pixels(encoded_images(chunks, rows), len(rows), fit, say)

    return Opened(labels, read, name, "file", found or names)


def _label_column(path: Path, schema: pa.Schema, given: str | None) -> str:
    wanted = LABEL_NAMES if given is None else (given,)
    for name in wanted:
        if name in schema.names:
            return name
    raise missing(path, " or ".join(map(repr, wanted)), schema)


def _labels(path: Path, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise UsageError(f"{path}: row {row} has no label")
    return column


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Return the names that the datasets library notes of a ClassLabel, None if it does not."""
    try:
        about: Any = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if whole and names else None
