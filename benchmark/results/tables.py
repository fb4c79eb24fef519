"""Result tables: validated, read and written atomically.

What is read may come from another version: absent columns that may be null are filled, columns
that this version does not know are left out, and a table is damaged only where its bytes cannot be
read or a required column is missing.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from benchmark.io import parquet_files
from benchmark.io.atomic import write_atomic
from benchmark.io.parquet_files import narrowed
from benchmark.machine_errors import OUT_OF_MEMORY
from benchmark.plugins.time_limit import OPTION
from benchmark.results.row_keys import repeated
from benchmark.results.schema import (
    CELL_KEY,
    CELLS,
    SAMPLES,
    STATUSES,
    FailureKind,
    ResultsError,
    came_later,
    when_absent,
)

_LABELS = ("label", "pred_clean", "pred_adv")
_FRACTIONS = ["clean_accuracy", "robust_accuracy", "ci_low", "ci_high"]

MOST_ROWS = 1_000_000
MOST_SAMPLES = 100_000_000
"""The most rows of a table that are read (docs/constants.md)."""


def filled(frame: pd.DataFrame, schema: pa.Schema) -> pd.DataFrame:
    """Return ``frame`` with those columns that came later and that it lacks."""
    return _filled(frame, [field for field in schema if came_later(field)])


def _filled(frame: pd.DataFrame, fields: Iterable[pa.Field]) -> pd.DataFrame:
    absent = [field for field in fields if field.name not in frame.columns]
    values = {field.name: _absent_values(len(frame), field) for field in absent}
    return frame.assign(**values) if values else frame


def _absent_values(n: int, field: pa.Field) -> Any:
    return pa.array([when_absent(field)] * n, field.type).to_pandas()


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
        raise ResultsError(f"{where}: column {twice!r} appears twice in it")


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
    """Validate and write both tables, samples first: a cell is never there without its samples."""
    for frame, schema, name in ((samples, SAMPLES, "samples"), (cells, CELLS, "cells")):
        path = run_dir / f"{name}.parquet"
        write_table(path, validate(frame, schema, path.name), schema)


def write_table(path: Path, frame: pd.DataFrame, schema: pa.Schema) -> None:
    """Write one valid table with its version and checksum, atomically."""
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    write_atomic(path, parquet_files.seal(table))


def superseded(old: pd.DataFrame, new: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return ``old``, without the rows whose values of ``names`` are in ``new``, then ``new``."""
    if old.empty or new.empty:  # pandas takes an empty frame's dtypes into account
        return (new if old.empty else old).reset_index(drop=True)
    came = pd.MultiIndex.from_frame(new[names])
    kept = ~pd.MultiIndex.from_frame(old[names]).isin(came)
    return pd.concat([old[kept], new], ignore_index=True)


def forget_rows(path: Path, table: pd.DataFrame, own: "pd.Series[bool]", schema: pa.Schema) -> None:
    """Write the ``table`` that was read from ``path`` again without its ``own`` rows, if any."""
    if own.any():
        write_table(path, table[~own].reset_index(drop=True), schema)


def read_table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """Read and validate one table; an absent one is empty."""
    if not path.exists():
        return empty_table(schema)
    frame = validate(load_table(path, schema), schema, str(path))
    return _with_failure_kinds(frame) if schema is CELLS else frame


def load_table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """Load what a Parquet table has of the schema's columns; absent ones that may be null are.

    ResultsError if it is not there or not readable. Values are not validated.
    """
    try:
        with parquet_files.opened(path, MOST_ROWS) as file:
            names = _known_names(file.schema_arrow.names, schema, path)
            # Without pandas' own notes in the file, which ours do not need and others may forge.
            table = file.read(names).select(names).replace_schema_metadata()
        frame: pd.DataFrame = table.to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return _filled(frame, [field for field in schema if field.nullable or came_later(field)])


def _known_names(found: list[str], schema: pa.Schema, path: Path) -> list[str]:
    """Return the schema's columns that a file has; ResultsError if one appears twice."""
    for name in schema.names:
        if found.count(name) > 1:
            raise ResultsError(f"{path}: column {name!r} appears twice in it")
    return [name for name in schema.names if name in found]


def _with_failure_kinds(cells: pd.DataFrame) -> pd.DataFrame:
    """Return cells of older runs, which told the kind of a failure in prose only, with the kind."""
    untold = (cells["status"] != "ok") & cells["failure_kind"].isna()
    if not untold.any():
        return cells
    kinds = [
        _kind_in_prose(status, reason)
        for status, reason in cells.loc[untold, ["status", "reason"]].itertuples(index=False)
    ]
    column = cells["failure_kind"].copy()
    column[untold] = kinds
    return cells.assign(failure_kind=column)


def _kind_in_prose(status: str, reason: str) -> FailureKind:
    if status == "skipped":
        return "skipped"
    if reason.endswith(OPTION):
        return "time"
    return "memory" if OUT_OF_MEMORY in reason else "error"


def read_samples(path: Path) -> pd.DataFrame:
    """Read and validate the samples table in little memory; an absent one is empty.

    Its values are :func:`read_table`'s, its dtypes narrower: words are categories in alphabetical
    order, and whole numbers have 32 bits (labels 16) where all of the column's fit.
    """
    if not path.exists():
        return empty_table(SAMPLES)
    try:
        with parquet_files.opened(path, MOST_SAMPLES) as file:
            kinds = file.schema_arrow
            there = _known_names(kinds.names, SAMPLES, path)
            for column in SAMPLES:
                if column.name not in there and not (column.nullable or came_later(column)):
                    raise ResultsError(f"{path}: column {column.name!r} is missing")
            for name in there:  # a nested column is not found by its name
                if pa.types.is_nested(kind := kinds.field(name).type):
                    raise ResultsError(f"{path}: column {name!r} is {kind}")
        words = [name for name in there if pa.types.is_string(SAMPLES.field(name).type)]
        with parquet_files.opened(path, MOST_SAMPLES, read_dictionary=words) as file:
            found = {}
            # Column by column: only one is there in its file's width.
            for column in SAMPLES:
                name = column.name
                if name in there:
                    values = file.read([name]).column(name)
                else:
                    absent = [when_absent(column)] * file.metadata.num_rows
                    values = pa.chunked_array([pa.array(absent, column.type)])
                found[name] = narrowed(values, column, few=name in _LABELS)
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
