"""What each tracker was told of a run, kept in its folder: a resumed run logs only what is new."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.hashing import digest
from benchmark.io.json_files import read_json, write_json
from benchmark.results.schema import CELL_KEY
from benchmark.tracking import base
from benchmark.tracking.base import Row

FILE = "trackers.json"

CHARACTERS = 16
"""Of a digest; 64 bits tell the results of one run apart."""


def mark(method: str, row: Row) -> str:
    """Return what tells this result from others, and from itself once its numbers changed."""
    return digest(method, json.dumps(_content(method, row), sort_keys=True))[:CHARACTERS]


def _content(method: str, row: Row) -> list[Any]:
    if method == "cell":
        return [[str(row[name]) for name in CELL_KEY], str(row["status"]), base.measured(row)]
    if method == "model":
        return [base.model_name(row), list(base.epochs(row))]
    words = [str(row[name]) for name in ("defense", "seed", "norm", "eps", "verdict", "reasons")]
    return [words, base.numbers(row, base.JUDGED)]


@dataclass
class Memory:
    """The marks of what each tracker knows, by its name."""

    path: Path
    known: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Memory":
        """Read the memory of a run's folder: empty where there is none. ValueError if damaged."""
        path = folder / FILE
        try:
            raw = read_json(path)
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise ValueError(str(error)) from None
        if not isinstance(raw, Mapping) or not all(
            isinstance(marks, list) and all(isinstance(each, str) for each in marks)
            for marks in raw.values()
        ):
            raise ValueError("it does not hold lists of marks")
        return cls(path, {name: set(marks) for name, marks in raw.items()})

    def of(self, name: str) -> set[str]:
        """Return the marks that the tracker of this name knows, to be added to."""
        return self.known.setdefault(name, set())

    def write(self) -> None:
        """Write it into the run's folder, atomically; OSError if that fails."""
        write_json(self.path, {name: sorted(marks) for name, marks in self.known.items()})
