"""Datasets as a folder of Parquet files, in the layout that dataset hubs use.

``DIR/<dataset>/train*.parquet`` and ``test*.parquet`` (or ``val*.parquet`` where there is no
test file), in one or several shards. Shards that count themselves (``train-00000-of-00002``) must
all be there. A column ``image`` or ``img`` holds encoded images, as plain bytes or as a struct with
a field ``bytes``; ``label`` holds integers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.datasets.checksums import check_mirror
from benchmark.datasets.downloads import download_folder
from benchmark.datasets.image_files import decode_images, most_encoded
from benchmark.datasets.info import DatasetInfo, Pixels, RawSplit, Rows, SplitName, check_labels
from benchmark.datasets.shards import check_shards
from benchmark.errors import UsageError, cause
from benchmark.io.parquet_files import check_footer, check_size

IMAGE_COLUMNS = ("image", "img")
MOST_IMAGES = 50_000_000
PREFIXES: dict[SplitName, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}


def patterns(data_dir: Path, name: str, split: SplitName) -> list[str]:
    """Return the file patterns that a split is looked for under, the preferred one first."""
    return [str(data_dir / name / f"{prefix}*.parquet") for prefix in PREFIXES[split]]


def find_files(data_dir: Path, name: str, split: SplitName) -> list[Path]:
    """Return the sorted shards of a split; empty if there are none, UsageError if unreadable."""
    folder = data_dir / name
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".parquet")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({cause(error)})") from None
    for prefix in PREFIXES[split]:
        if shards := [path for path in files if path.name.startswith(prefix)]:
            return shards
    return []


def open_mirror(info: DatasetInfo, files: list[Path]) -> RawSplit:
    """Read the labels of a split's shards; its images are read and decoded when asked for.

    UsageError if the shards' names promise others that are not among ``files``.
    """
    check_shards(files)
    check_mirror(files, download_folder().parent / "mirrors")
    chunks: list[Chunk] = []
    labels: list[Rows] = []
    start = 0
    for path in files:
        with reading(path), opened(path) as file:
            _check_size(file.metadata, info)
            column = image_column(path, file.schema_arrow)
            labels.append(_read_labels(path, file, info))
            chunks += chunks_of(path, file, column, start)
            start += len(labels[-1])

    def read(rows: Rows) -> Pixels:
        # One thread: small images spend their time in Pillow's Python, where threads only queue.
        return decode_images(encoded_images(chunks, rows), len(rows), info)

    return RawSplit(np.concatenate(labels), read, "mirror")


def encoded_images(chunks: "list[Chunk]", rows: Rows) -> Iterator[tuple[int, bytes, str]]:
    """Yield, chunk by chunk, the place in ``rows``, the encoded image and where it is from."""
    for chunk in chunks:
        places = np.flatnonzero((rows >= chunk.start) & (rows < chunk.start + chunk.n))
        if len(places):
            found = chunk.encoded(rows[places] - chunk.start)
            for place, (data, where) in zip(places, found, strict=True):
                yield int(place), data, where


def chunks_of(path: Path, file: pq.ParquetFile, column: str, start: int) -> "list[Chunk]":
    """Return the row groups of a file whose first row is row ``start`` of the data."""
    chunks = []
    first = 0
    for group in range(file.num_row_groups):
        n = file.metadata.row_group(group).num_rows
        chunks.append(Chunk(path, column, group, start=start + first, first=first, n=n))
        first += n
    return chunks


@dataclass(frozen=True)
class Chunk:
    """A row group: rows [start, start + n) of the split, from row ``first`` of its file on."""

    path: Path
    column: str
    group: int
    start: int
    first: int
    n: int

    def encoded(self, inside: Rows) -> Iterator[tuple[bytes, str]]:
        """Yield the encoded image of each row of ``inside``, and where it is from."""
        with reading(self.path), opened(self.path) as file:
            values = file.read_row_group(self.group, columns=[self.column]).column(0)
            values = values.take(pa.array(inside)).combine_chunks()
        for row, value in zip(inside + self.first, values, strict=True):
            data, note = value.as_py(), ""
            if isinstance(data, dict):
                note = f", only the path {data['path']}" if data.get("path") else ""
                data = data["bytes"]
            if data is None:
                raise UsageError(f"{self.path}: row {row} has no image bytes{note}")
            yield data, f"{self.path}: row {row}"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises about the file at ``path`` into one clear line."""
    try:
        yield
    except PermissionError:
        raise UsageError(f"{path}: no permission to read this file") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable Parquet file ({cause(error)})") from None


def opened(path: Path) -> pq.ParquetFile:
    """Open a Parquet file; its pages' checksums, where it has any, are verified."""
    check_footer(path)
    return pq.ParquetFile(path, page_checksum_verification=True)


def _check_size(about: pq.FileMetaData, info: DatasetInfo) -> None:
    """Raise a ValueError if the footer names more than images of this size can take."""
    check_size(about, most_rows=MOST_IMAGES, most_bytes=MOST_IMAGES * most_encoded(info))
    for i in range(about.num_row_groups):
        group = about.row_group(i)
        if group.total_byte_size > 2**20 + group.num_rows * most_encoded(info):
            raise ValueError(f"row group {i} names {group.total_byte_size:,} bytes: too many")


def image_column(path: Path, schema: pa.Schema, names: tuple[str, ...] = IMAGE_COLUMNS) -> str:
    """Return the first of ``names`` that is a column; UsageError unless it holds encoded images."""
    for name in names:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                kind = kind.field("bytes").type
            if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
                raise UsageError(
                    f"{path}: column {name!r} is {kind};"
                    " expected encoded images: bytes, or a struct with a field 'bytes'"
                )
            return name
    raise missing(path, " or ".join(map(repr, names)), schema)


def _read_labels(path: Path, file: pq.ParquetFile, info: DatasetInfo) -> Rows:
    schema = file.schema_arrow
    if "label" not in schema.names:
        raise missing(path, "'label'", schema)
    kind = schema.field("label").type
    if not pa.types.is_integer(kind):
        raise UsageError(f"{path}: column 'label' is {kind}, not integer")
    column = file.read(columns=["label"]).column("label")
    if column.null_count:
        row = column.is_null().to_numpy().argmax()
        raise UsageError(f"{path}: row {row} has no label")
    return check_labels(column.to_numpy(), info, str(path))


def missing(path: Path, wanted: str, schema: pa.Schema) -> UsageError:
    """Return the error for a column that is not there."""
    found = ", ".join(schema.names) or "none"
    return UsageError(f"{path}: column {wanted} is missing; columns found: {found}")
