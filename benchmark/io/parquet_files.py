"""Parquet files that carry their own checksum and version, opened with limits.

The checksum is the SHA-256 of the whole file with 64 zeros in the checksum's place in the file's
key-value metadata: one file holds both, any Parquet reader takes it, and no byte can change
unnoticed. A file without one, as older versions made, is read all the same: :func:`is_sealed`
tells. The version is in the same metadata. Nothing here needs torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.hashing import digest_bytes
from benchmark.io.paths import plain_file
from benchmark.io.schema_version import NAME, SCHEMA_VERSION, check_version

KEY = b"defensebench.sha256"
VERSION_KEY = f"defensebench.{NAME}".encode()
EMPTY = b"0" * 64

# What comes before the digest in a footer (Thrift, compact): the key, "a string", its length.
_MARK = KEY + b"\x18\x40"

MOST_COLUMNS = 64
MOST_BYTES = 2**32
"""Of a whole table, before compression, as its footer tells."""

MOST_FOOTER = 2**24
"""The longest footer that is read, in bytes (docs/constants.md)."""

_PIECE = 2**20


def seal(table: pa.Table) -> bytes:
    """Return ``table`` as a Parquet file with version and checksum; equal tables, equal bytes."""
    version = str(SCHEMA_VERSION).encode()
    about = {**(table.schema.metadata or {}), VERSION_KEY: version, KEY: EMPTY}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(about), sink, compression="zstd", write_page_checksum=True
    )
    data = bytearray(sink.getvalue())
    at = data.rindex(_MARK) + len(_MARK)
    data[at : at + len(EMPTY)] = digest_bytes([data]).encode()
    return bytes(data)


@contextmanager
def opened(path: Path, most_rows: int, **options: Any) -> Iterator[pq.ParquetFile]:
    """Open a table, its checksum and its pages' checksums verified where there are any.

    ValueError says what is wrong, whatever pyarrow raises passes through.
    """
    plain_file(path, MOST_BYTES)
    with path.open("rb") as data:
        found = _checksums(data)
    if found is not None and found[0] != found[1]:
        raise ValueError("it does not match its own checksum")
    with pq.ParquetFile(path, page_checksum_verification=True, **options) as file:
        check_size(file.metadata, most_rows)
        check_version((file.metadata.metadata or {}).get(VERSION_KEY, b"").decode(), path)
        yield file


def narrowed(values: pa.ChunkedArray, column: pa.Field, *, few: bool) -> Any:
    """Return a column's values for pandas in little memory; ValueError if of another type.

    Words become categories in alphabetical order, and whole numbers have 32 bits (16 if ``few``)
    where all of them fit.
    """
    if values.null_count and not column.nullable:
        raise ValueError(f"column {column.name!r} lacks a value")
    try:
        if pa.types.is_string(column.type):
            words = values.cast(pa.dictionary(pa.int32(), pa.string())).unify_dictionaries()
            found = words.to_pandas().cat
            return found.reorder_categories(sorted(found.categories))
        values = values.cast(column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"column {column.name!r}: {str(error).splitlines()[0]}") from None
    if pa.types.is_integer(column.type):
        with suppress(pa.ArrowInvalid):  # too wide for it
            values = values.cast(pa.int16() if few else pa.int32())
    return values.to_numpy()


def check_size(about: pq.FileMetaData, most_rows: int, most_bytes: int = MOST_BYTES) -> None:
    """Raise a ValueError if the footer names more than is ever read."""
    groups = (about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    for what, found, most in (
        ("columns", about.num_columns, MOST_COLUMNS),
        ("rows", about.num_rows, most_rows),
        ("bytes", sum(groups), most_bytes),
    ):
        if not 0 <= found <= most:
            raise ValueError(f"it names {found:,} {what}; {most:,} are the most that is read")


def check_footer(path: Path) -> None:
    """Raise a ValueError if the footer is too large to be worth reading."""
    with path.open("rb") as data:
        _footer(data)


def is_sealed(path: Path) -> bool:
    """Tell whether a readable Parquet file carries a checksum."""
    with path.open("rb") as data:
        return _place(data) is not None


def _footer(data: BinaryIO) -> tuple[int, bytes]:
    """Return where the footer begins, and the footer; empty if it is not a Parquet file."""
    size = data.seek(0, 2)
    data.seek(max(size - 8, 0))
    tail = data.read(8)
    length = int.from_bytes(tail[:4], "little")
    if len(tail) < 8 or length > size - 8:
        return size, b""
    if length > MOST_FOOTER:
        raise ValueError(f"its footer has {length:,} bytes; {MOST_FOOTER:,} are the most")
    start = size - 8 - length
    data.seek(start)
    return start, data.read(length)


def _place(data: BinaryIO) -> int | None:
    start, footer = _footer(data)
    at = footer.rfind(_MARK)
    return None if at < 0 else start + at + len(_MARK)


def _checksums(data: BinaryIO) -> tuple[str, str] | None:
    """Return the checksum that the file names and the one that it has; None if it names none."""
    place = _place(data)
    if place is None:
        return None
    data.seek(place)
    named = data.read(len(EMPTY))
    return named.decode("ascii", "replace"), digest_bytes(_blanked(data, place))


def _blanked(data: BinaryIO, place: int) -> Iterator[bytes]:
    """Yield the file piece by piece, zeros in place of the checksum at ``place``."""
    data.seek(0)
    left = place
    while left and (piece := data.read(min(left, _PIECE))):
        yield piece
        left -= len(piece)
    yield EMPTY
    data.seek(place + len(EMPTY))
    while piece := data.read(_PIECE):
        yield piece
