"""Results: the schemas of a run's tables, and its folder. No torch.

The names below are imported lazily: the command line's help needs no pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.results.model_records import (
        ModelOrigin,
        ModelRecord,
        read_model,
        read_models,
        write_model,
    )
    from benchmark.results.run import Run, read_origin, read_run, read_spec
    from benchmark.results.schema import CELL_KEY, CELLS, SAMPLES, ResultsError, Status
    from benchmark.results.tables import (
        empty_table,
        make_table,
        read_samples,
        read_table,
        validate,
        write_table,
        write_tables,
    )

_HOME = {
    "CELLS": "schema",
    "CELL_KEY": "schema",
    "SAMPLES": "schema",
    "ModelOrigin": "model_records",
    "ModelRecord": "model_records",
    "ResultsError": "schema",
    "Run": "run",
    "Status": "schema",
    "empty_table": "tables",
    "make_table": "tables",
    "read_model": "model_records",
    "read_models": "model_records",
    "read_origin": "run",
    "read_run": "run",
    "read_samples": "tables",
    "read_spec": "run",
    "read_table": "tables",
    "validate": "tables",
    "write_model": "model_records",
    "write_table": "tables",
    "write_tables": "tables",
}

__all__ = [
    "CELLS",
    "CELL_KEY",
    "SAMPLES",
    "ModelOrigin",
    "ModelRecord",
    "ResultsError",
    "Run",
    "Status",
    "empty_table",
    "make_table",
    "read_model",
    "read_models",
    "read_origin",
    "read_run",
    "read_samples",
    "read_spec",
    "read_table",
    "validate",
    "write_model",
    "write_table",
    "write_tables",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
