"""The schemas of a run's two tables: a row per cell, and a row per cell and image.

Accuracies are fractions in [0, 1]; a cell that was skipped or failed keeps its row with a reason
and NaN. Nothing here needs torch.
"""

import json
from typing import Any, Literal

import pyarrow as pa

from benchmark.errors import UsageError

Status = Literal["ok", "skipped", "failed"]
STATUSES = ("ok", "skipped", "failed")

FailureKind = Literal["error", "time", "memory", "skipped"]
"""Why a cell has no result: the plugin raised, a limit passed, memory ran out, or the attack does
not suit the defense."""

CELL_KEY = ["dataset", "defense", "attack", "library", "norm", "eps", "seed"]
"""The columns that name a cell, in both tables."""


_ABSENT = b"absent"


def columns(*named: tuple[str, pa.DataType] | tuple[str, pa.DataType, str | None]) -> pa.Schema:
    """Return a table's schema from its columns' names and types.

    A third item marks a column that older tables lack, and is what a reader puts there; None is
    null. To add a column to a table is one such line.
    """
    return pa.schema([_field(*column) for column in named])


def _field(name: str, kind: pa.DataType, *absent: str | None) -> pa.Field:
    # pandas' NaN is Parquet's null: float columns may hold it, and those that came later.
    nullable = pa.types.is_floating(kind) or absent == (None,)
    about = {_ABSENT: json.dumps(absent[0])} if absent else None
    return pa.field(name, kind, nullable=nullable, metadata=about)


def came_later(field: pa.Field) -> bool:
    """Tell whether older tables lack a column."""
    return _ABSENT in (field.metadata or {})


def when_absent(field: pa.Field) -> Any:
    """Return what a reader puts in the place of a column that a table lacks; None is null."""
    return json.loads((field.metadata or {}).get(_ABSENT, b"null"))


KEY_COLUMNS = [
    ("dataset", pa.string()),
    ("defense", pa.string()),
    ("attack", pa.string()),
    ("library", pa.string()),
    ("norm", pa.string()),
    ("eps", pa.float64()),
    ("seed", pa.int64()),
]
"""The columns of :data:`CELL_KEY` with their types."""

SAMPLES = columns(
    ("run_id", pa.string()),
    ("sample_id", pa.int64()),
    *KEY_COLUMNS,
    ("label", pa.int64()),
    ("pred_clean", pa.int64()),
    ("pred_adv", pa.int64()),
    ("success", pa.bool_()),
    ("distance", pa.float64()),
    ("n_forward", pa.int64()),
    ("n_backward", pa.int64()),
)
"""A row per (cell, image). ``sample_id`` is the image's row in the dataset's test split;
``distance`` is in the cell's norm (0 for a clean error); the query counts are the sample's. Where
one search serves all eps (:mod:`benchmark.evaluation.sweep`), its one image is in the rows of all
eps above 0: from outside a ball it may fool the model, which is no success there. Its queries
count at the smallest eps. At eps 0 there is only the clean image: ``pred_adv`` is
``pred_clean``."""

CELLS = columns(
    *KEY_COLUMNS,
    ("eot", pa.int64()),
    ("bpda", pa.bool_()),
    ("status", pa.string()),
    ("reason", pa.string()),
    ("n", pa.int64()),
    ("clean_accuracy", pa.float64()),
    ("robust_accuracy", pa.float64()),
    ("ci_low", pa.float64()),
    ("ci_high", pa.float64()),
    ("median_distance", pa.float64()),
    ("seconds", pa.float64()),
    ("device", pa.string()),
    ("preset", pa.string()),
    ("versions", pa.string()),
    ("git_sha", pa.string()),
    ("search_dtype", pa.string(), None),
    ("attack_family", pa.string(), None),
    ("failure_kind", pa.string(), None),
)
"""A row per cell. ``reason`` says why a cell was skipped or failed and, for an ok cell, what the
harness noticed. ``median_distance`` is over the images that the attack made adversarial (NaN if
none). ``search_dtype`` is what the attack followed the gradient in, float32 or bfloat16
(:mod:`benchmark.attacks.precision`); null where nothing was attacked and in older runs.
``attack_family`` is "budget" or "minimal" (:mod:`benchmark.attacks.base`); null in older runs, and
where the attack could not be imported. ``failure_kind`` is a :data:`FailureKind`, null for ok."""

TABLE_FILES = ("samples.parquet", "cells.parquet")


class ResultsError(UsageError):
    """A results folder or table that cannot be read or breaks its schema."""
