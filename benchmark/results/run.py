"""A whole run folder, read and validated.

It holds ``spec.json`` (the :class:`~benchmark.config.spec.RunSpec`), ``run.json`` (where the
numbers come from), ``samples.parquet`` (a row per cell and image), ``cells.parquet`` (a row per
cell) and ``models/<defense>-seed<seed>.json`` (a
:class:`~benchmark.results.model_records.ModelRecord` each).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.config.spec import RunSpec
from benchmark.errors import UsageError
from benchmark.io import json_files, parquet_files
from benchmark.results.model_records import ModelRecord, read_models
from benchmark.results.schema import CELLS, TABLE_FILES, ResultsError
from benchmark.results.tables import read_samples, read_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run's folder, read and validated. ``spec`` and the tables are always there.

    ``samples`` is :func:`read_samples`' frame: its words are categories.
    """

    path: Path
    spec: RunSpec
    cells: pd.DataFrame
    samples: pd.DataFrame
    models: list[ModelRecord]
    provenance: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The run's name, which is also its folder's."""
        return self.spec.run_id


def read_spec(run_dir: Path) -> RunSpec:
    """Read a run folder's spec; ResultsError if the folder is not a run or the file is damaged."""
    path = run_dir / "spec.json"
    if not path.exists():
        raise ResultsError(
            f"{run_dir} is not a run folder: it has no spec.json; give the folder that"
            " 'run' printed, for example runs/mnist-quick-0123456789"
        )
    try:
        return RunSpec.from_plain(json_files.read_json(path))
    except (OSError, ValueError, TypeError, UsageError) as error:
        raise ResultsError(
            f"{path}: not a run's spec ({error}); restore it, or give run the same command again"
        ) from None


def read_origin(run_dir: Path, spec: RunSpec) -> Mapping[str, Any]:
    """Read ``run.json``, empty if it is not there; ResultsError if damaged or of another spec."""
    path = run_dir / "run.json"
    try:
        found = json_files.read_json(path) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"{path} is damaged ({error}); restore it, or delete it: where the numbers come from is"
            " then not known, and a run that goes on takes the images of its first day for granted"
        ) from None
    if not isinstance(found, dict):
        found = {}
    named = found.get("run_id", spec.run_id)
    if named != spec.run_id:
        raise ResultsError(
            f"{run_dir / 'spec.json'} was changed: its settings are those of {spec.run_id}, and"
            f" run.json is of {str(named)[:100]!r}; restore it, or give run the same command again"
        )
    return found


def read_run(run_dir: Path) -> Run:
    """Read a whole run folder, complete or not; say which files carry no checksum."""
    spec = read_spec(run_dir)
    origin = read_origin(run_dir, spec)
    cells = read_table(run_dir / "cells.parquet", CELLS)
    samples = read_samples(run_dir / "samples.parquet")
    models = read_models(run_dir)
    say_unsealed(run_dir)
    return Run(run_dir, spec, cells, samples, models, origin)


def say_unsealed(run_dir: Path) -> None:
    """Say which of a run's readable files carry no checksum, as older versions made them."""
    tables = [run_dir / name for name in TABLE_FILES]
    texts = [run_dir / "run.json", *sorted((run_dir / "models").glob("*.json"))]
    bare = [path for path in tables if path.exists() and not parquet_files.is_sealed(path)]
    bare += [path for path in texts if path.exists() and not json_files.is_sealed(path)]
    names = [path.relative_to(run_dir).as_posix() for path in bare]
    if names:
        log.warning(
            "%s: no checksum in %s, which an older version made: read as they are",
            *(run_dir, ", ".join(names)),
        )
