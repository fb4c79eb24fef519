"""What a tracker is, and how results are named in one: the same in every service."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Row = Mapping[str, Any]

PROJECT = "defensebench"
"""The project, or experiment, that runs are filed under."""

STEPS = 10_000
"""Services count steps in whole numbers: eps is counted in ten-thousandths."""

MEASURED = ("robust_accuracy", "ci_low", "ci_high", "clean_accuracy", "median_distance", "seconds")
"""The columns of a cell that are logged."""

JUDGED = ("plain_accuracy", "stronger_accuracy", "headline_accuracy")
"""The columns of a verdict that are logged as numbers."""


class Tracker(Protocol):
    """One service. It is made without arguments, and imports its library then.

    Whatever a method raises is said in a line, and the tracker is left out from there on.
    """

    def start(self, run_id: str, settings: Row, folder: Path) -> None:
        """Begin, or go on with, the run of that name; ``settings`` is its spec as plain data."""

    def cell(self, row: Row) -> None:
        """Take a row of cells.parquet (:data:`benchmark.results.schema.CELLS`)."""

    def model(self, record: Row) -> None:
        """Take a :class:`~benchmark.results.model_records.ModelRecord` as a mapping."""

    def verdict(self, row: Row) -> None:
        """Take a row of verdicts.parquet (:data:`benchmark.results.audit_tables.VERDICTS`)."""

    def finish(self, artifacts: Sequence[Path]) -> None:
        """Keep these files of the run, and end; also after Ctrl-C."""


def numbers(row: Row, names: Sequence[str] | None = None) -> dict[str, float]:
    """Return the finite numbers of a row, of all its columns or of ``names``."""
    chosen = row if names is None else {name: row[name] for name in names if name in row}
    return {
        str(name): float(value)
        for name, value in chosen.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def measured(row: Row) -> dict[str, float]:
    """Return what is logged of a cell; nothing of one that was skipped or failed."""
    return numbers(row, MEASURED) if row["status"] == "ok" else {}


def step(eps: float) -> int:
    """Return an eps as the whole number that services count it by."""
    return round(eps * STEPS)


def model_name(row: Row) -> str:
    """Return ``madry/seed0``; a row of cells, of verdicts or a record."""
    return f"{safe(row['defense'])}/seed{int(row['seed'])}"


def curve_name(row: Row) -> str:
    """Return ``madry/seed0/pgd-inhouse-linf``: the curve over eps that a cell is a point of."""
    attack = safe(f"{row['attack']}-{row['library']}-{row['norm']}")
    return f"{model_name(row)}/{attack}"


def verdict_name(row: Row) -> str:
    """Return ``madry/seed0/verdict-linf``."""
    return f"{model_name(row)}/verdict-{safe(row['norm'])}"


def safe(name: str) -> str:
    """Return ``name`` with what some service refuses in the name of a metric replaced."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", str(name))[:100] or "_"


def epochs(record: Row) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the epochs of a model's training, with what the defense logged of each."""
    for i, row in enumerate(record["log"], 1):
        found = numbers(row)
        yield int(found.pop("epoch", i)), {safe(name): value for name, value in found.items()}
