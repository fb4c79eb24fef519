"""Result tables: validated, read and written atomically."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from benchmark.io import parquet_files
from benchmark.io.atomic import write_atomic
from benchmark.io.parquet_files import narrowed
from benchmark.results.row_keys import repeated
from benchmark.results.schema import CELL_KEY, CELLS, SAMPLES, STATUSES, ResultsError


def filled(frame: pd.DataFrame, schema: pa.Schema) -> pd.DataFrame:
    """Return ``frame`` with nulls in those later columns of the schema that it lacks."""
    absent = [field for field in schema if field.metadata and field.name not in frame.columns]
    return frame.assign(**{field.name: _nulls(len(frame), field) for field in absent})


def _nulls(n: int, field: pa.Field) -> Any:
    return pa.nulls(n, field.type).to_pandas()


_LABELS = ("label", "pred_clean", "pred_adv")


_FRACTIONS = ["clean_accuracy", "robust_accuracy", "ci_low", "ci_high"]


MOST_ROWS = 1_000_000


MOST_SAMPLES = 100_000_000
"""So many rows of a table are read: ten thousand images in ten thousand cells."""


def empty_table(schema: pa.Schema) -> pd.DataFrame:
    """Return a table with the schema's columns and no row."""
    frame: pd.DataFrame = schema.empty_table().to_pandas()
    return frame


def make_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pd.DataFrame:
    """Build a table of ``rows`` with the schema's columns, order and dtypes."""
    frame: pd.DataFrame = pa.Table.from_pylist(rows, schema=schema).to_pandas()
    return frame


def validate(frame: pd.DataFrame, schema: pa.Schema, where: str) -> pd.DataFrame:
    """Return ``frame`` in the schema's order and dtypes; ResultsError names the first violation."""
    frame = filled(frame, schema)
    _check_names(frame.columns, schema, where)
    try:
        table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
        table.validate(full=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ResultsError(f"{where}: {str(error).splitlines()[0]}") from None
    # By the schema: the metadata would bring back what the columns were before.
    frame = table.to_pandas(ignore_metadata=True)
    if schema is CELLS:
        _validate_cells(frame, where)
    elif schema is SAMPLES:
        _validate_samples(frame, where)
    return frame.reset_index(drop=True)


def _check_names(found: Iterable[str], schema: pa.Schema, where: str) -> None:
    found = list(found)
    missing = [name for name in schema.names if name not in found]
    if missing:
        raise ResultsError(f"{where}: column {missing[0]!r} is missing")
    extra = [name for name in found if name not in schema.names]
    if extra:
        raise ResultsError(f"{where}: column {extra[0]!r} is not part of the schema")
    if len(found) > len(schema.names):
        twice = next(name for name in schema.names if found.count(name) > 1)
        raise ResultsError(f"{where}: column {twice!r} stands twice in it")


def _validate_cells(cells: pd.DataFrame, where: str) -> None:
    unknown = set(cells["status"]) - set(STATUSES)
    if unknown:
        raise ResultsError(f"{where}: unknown status {sorted(unknown)[0]!r}")
    if cells.duplicated(CELL_KEY).any():
        raise ResultsError(f"{where}: a cell appears twice")
    ok = cells["status"] == "ok"
    fractions = cells[_FRACTIONS]
    if not fractions[ok].apply(lambda column: column.between(0, 1)).all(axis=None):
        raise ResultsError(f"{where}: an accuracy or interval lies outside [0, 1]")
    if fractions[~ok].notna().any(axis=None):
        raise ResultsError(f"{where}: a cell that is not ok carries an accuracy")
    if (cells.loc[~ok, "reason"] == "").any():
        raise ResultsError(f"{where}: a skipped or failed cell has no reason")
    tolerance = 1e-9
    inside = cells["robust_accuracy"].between(
        cells["ci_low"] - tolerance, cells["ci_high"] + tolerance
    )
    if not inside[ok].all():
        raise ResultsError(f"{where}: an accuracy lies outside its own interval")
    if not (cells.loc[ok, "n"] > 0).all():
        raise ResultsError(f"{where}: a result over no images")
    if not (cells["eps"] >= 0).all():
        raise ResultsError(f"{where}: an eps is negative or not a number")


def _validate_samples(samples: pd.DataFrame, where: str) -> None:
    if repeated(samples, [*CELL_KEY, "sample_id"]):
        raise ResultsError(f"{where}: an image appears twice in a cell")
    if not (samples["distance"] >= 0).all():
        raise ResultsError(f"{where}: a distance is negative or not a number")
    if (samples[["n_forward", "n_backward"]] < 0).any(axis=None):
        raise ResultsError(f"{where}: a query count is negative")
    if (samples["success"] & (samples["pred_adv"] == samples["label"])).any():
        raise ResultsError(f"{where}: a success whose pred_adv is the label")


def write_tables(run_dir: Path, cells: pd.DataFrame, samples: pd.DataFrame) -> None:
    """Validate and write both tables, samples first: a cell never stands without its samples."""
    for frame, schema, name in ((samples, SAMPLES, "samples"), (cells, CELLS, "cells")):
        path = run_dir / f"{name}.parquet"
        write_table(path, validate(frame, schema, path.name), schema)


def write_table(path: Path, frame: pd.DataFrame, schema: pa.Schema) -> None:
    """Write one valid table with its checksum, atomically."""
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    write_atomic(path, parquet_files.seal(table))


def superseded(old: pd.DataFrame, new: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return ``old`` and then ``new``, without the old rows whose values of ``names`` came anew."""
    if old.empty or new.empty:  # pandas takes an empty frame's dtypes into account
        return (new if old.empty else old).reset_index(drop=True)
    came = pd.MultiIndex.from_frame(new[names])
    kept = ~pd.MultiIndex.from_frame(old[names]).isin(came)
    return pd.concat([old[kept], new], ignore_index=True)


def read_table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """Read and validate one table; an absent one is empty."""
    if not path.exists():
        return empty_table(schema)
    return validate(load_table(path), schema, str(path))


def load_table(path: Path) -> pd.DataFrame:
    """Load a Parquet table as it is; ResultsError if it is not there or not readable."""
    try:
        with parquet_files.opened(path, MOST_ROWS) as file:
            # Without pandas' own notes in the file, which ours do not need and others may forge.
            frame: pd.DataFrame = file.read().replace_schema_metadata().to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return frame


def read_samples(path: Path) -> pd.DataFrame:
    """Read and validate the samples table in little memory; an absent one is empty.

    Its values are :func:`read_table`'s, its dtypes narrower: words are categories in alphabetical
    order, and whole numbers have 32 bits (labels 16) where all of the column's fit.
    """
    if not path.exists():
        return empty_table(SAMPLES)
    words = [column.name for column in SAMPLES if pa.types.is_string(column.type)]
    try:
        with parquet_files.opened(path, MOST_SAMPLES) as file:
            _check_names(file.schema_arrow.names, SAMPLES, str(path))
            for column in file.schema_arrow:
                if pa.types.is_nested(column.type):  # which pyarrow does not find by its name
                    raise ResultsError(f"{path}: column {column.name!r} is {column.type}")
        with parquet_files.opened(path, MOST_SAMPLES, read_dictionary=words) as file:
            found = {}
            # Column by column: only one is there in its file's width.
            for column in SAMPLES:
                values = file.read([column.name])[0]
                found[column.name] = narrowed(values, column, few=column.name in _LABELS)
                pa.default_memory_pool().release_unused()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    frame = pd.DataFrame(found, copy=False)
    _validate_samples(frame, str(path))
    return frame


def _unreadable(path: Path, error: Exception) -> ResultsError:
    return ResultsError(
        f"{path}: not a readable Parquet table ({str(error).splitlines()[0]});"
        " restore it, or delete it and run the same command again"
    )
