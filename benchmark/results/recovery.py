"""A run's folder in which something is damaged: what is lost, what is not, what takes its place.

Every write of the two tables keeps their last version beside them, so that a damaged table costs
one sweep and not the run: cells without all their samples count as not computed. Nothing that is
damaged is deleted; it is set aside under its name with ``.damaged`` behind it.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa

from benchmark.errors import UsageError
from benchmark.io.atomic import write_atomic
from benchmark.progress import Progress
from benchmark.results import adversarial_images, audit_tables, embedding_points, pictures
from benchmark.results.model_records import read_model
from benchmark.results.schema import CELL_KEY, CELLS, SAMPLES, TABLE_FILES, ResultsError
from benchmark.results.tables import empty_table, read_table, write_tables


def contents(folder: Path, run_id: str) -> tuple[pd.DataFrame, pd.DataFrame, dict[Path, str]]:
    """Return the cells and the samples of ``folder``, and what becomes of its damaged files.

    Nothing is written. What is there of cells that have not all their samples, and samples that
    have no ok cell or are of another run, is left out: an interruption or a damage left it.
    """
    damaged: dict[Path, str] = {}
    cells = _table(folder / "cells.parquet", CELLS, damaged)
    samples = _table(folder / "samples.parquet", SAMPLES, damaged)
    samples = samples[samples["run_id"] == run_id]
    counts = samples.groupby(CELL_KEY, as_index=False).size()
    there = cells.merge(counts, on=CELL_KEY, how="left")["size"].fillna(0).to_numpy()
    ok = (cells["status"] == "ok").to_numpy()
    cells = cells[~ok | (there == cells["n"].to_numpy())].reset_index(drop=True)
    kept = cells.loc[cells["status"] == "ok", CELL_KEY]
    samples = samples.merge(kept, on=CELL_KEY, how="inner")[SAMPLES.names]
    for name, read, then in (
        (pictures.FILE, pictures.read_pictures, "the report goes without those pictures"),
        (embedding_points.FILE, embedding_points.read_codes, "the code map is computed again"),
        (
            adversarial_images.FILE,
            adversarial_images.read_adversarial,
            "the adversarial images that it held are lost",
        ),
    ):
        try:
            read(folder)
        except ResultsError:
            damaged[folder / name] = then
    for path, read_it in audit_tables.readers(folder):
        try:
            read_it()
        except ResultsError:
            damaged[path] = "that part of the audit is lost; the command audit does it again"
    for path in sorted((folder / "models").glob("*.json")):
        try:
            read_model(path)
        except ResultsError:
            damaged[path] = "the report goes without this training log"
    return cells, samples, damaged


def _table(path: Path, schema: pa.Schema, damaged: dict[Path, str]) -> pd.DataFrame:
    """Read a table, or its last version where it is damaged; empty if neither can be read."""
    try:
        return read_table(path, schema)
    except ResultsError:
        pass
    last = _last(path)
    if last.exists():
        with suppress(ResultsError):
            found = read_table(last, schema)
            damaged[path] = "its last version is used; cells that it lacks are computed again"
            return found
    damaged[path] = "the cells that it held are computed again"
    return empty_table(schema)


def keep_last(folder: Path) -> None:
    """Keep both tables as they are now, beside those that are about to be written."""
    for name in TABLE_FILES:
        with suppress(FileNotFoundError):
            write_atomic(_last(folder / name), (folder / name).read_bytes())


def repair(
    folder: Path,
    cells: pd.DataFrame,
    samples: pd.DataFrame,
    damaged: Mapping[Path, str],
    progress: Progress,
) -> None:
    """Set aside what is ``damaged``, write both tables if one of them was, and say so."""
    try:
        for path, then in damaged.items():
            aside = path.with_name(f"{path.name}.damaged")
            progress.say(f"{path} is damaged: kept as {aside.name}; {then}")
            if path.name in TABLE_FILES:  # always there, so that no kill leaves the folder without
                write_atomic(aside, path.read_bytes())
            else:
                path.rename(aside)
        if any(path.name in TABLE_FILES for path in damaged):
            write_tables(folder, cells, samples)
    except OSError as error:
        raise UsageError(
            f"{folder}: damaged files cannot be set aside ({error.strerror});"
            " make the folder writable"
        ) from None


def _last(path: Path) -> Path:
    return path.with_name(f".{path.name}.last")
