"""Results: the schemas of a run's tables, and its folder. No torch."""

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
