"""Trackers during one run: told of each new cell, and of the rest when it ends, also on Ctrl-C.

A tracker that raises is left out with one line; nothing that was computed is lost by it.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.config.spec import RunSpec
from benchmark.errors import UsageError, first_line, one_line
from benchmark.results.audit_tables import VERDICTS_FILE, read_verdicts
from benchmark.results.model_records import read_models
from benchmark.results.schema import CELL_KEY, CELLS
from benchmark.results.tables import read_table
from benchmark.tracking.base import Tracker

KEPT = (
    *("spec.json", "run.json", "cells.parquet", "samples.parquet", VERDICTS_FILE, "audit.parquet"),
    "report/report.html",
)
"""The files of a run's folder that a tracker is given, where they are there."""


LONGEST = 200
"""Characters of an error that are said."""


@dataclass
class Session:
    """The trackers of one run that have not failed, and the cells that they know."""

    trackers: dict[str, Tracker]
    spec: RunSpec
    folder: Path
    say: Callable[[str], None]
    begun: bool = False
    told: set[tuple[Any, ...]] = field(default_factory=set)

    def tell(self, method: str, *words: Any) -> None:
        """Call a method of every tracker; one that raises is left out and said."""
        for name, tracker in list(self.trackers.items()):
            try:
                with redirect_stdout(sys.stderr):  # standard output may be the command's JSON
                    getattr(tracker, method)(*words)
            except (Exception, SystemExit) as error:
                del self.trackers[name]
                why = one_line(first_line(error))[:LONGEST]
                self.say(f"--log {name}: left out from here on ({method}: {why}); the run goes on")

    def cells(self, rows: pd.DataFrame) -> None:
        """Tell of these rows of cells.parquet; the first call begins the run in every tracker."""
        if not self.trackers:
            return
        if not self.begun:
            self.begun = True
            settings = json.loads(self.spec.to_json())
            self.tell("start", self.spec.run_id, settings, self.folder)
        for row in rows.to_dict("records"):
            self.told.add(tuple(row[name] for name in CELL_KEY))
            self.tell("cell", row)

    def end(self) -> None:
        """Tell of all that lies in the run's folder and was not told, and finish."""
        if not self.trackers or not (self.begun or (self.folder / "cells.parquet").is_file()):
            return
        try:
            cells = read_table(self.folder / "cells.parquet", CELLS)
            keys = cells[CELL_KEY].itertuples(index=False, name=None)
            self.cells(cells[[key not in self.told for key in keys]])
            for record in read_models(self.folder):
                self.tell("model", asdict(record))
            for row in read_verdicts(self.folder).to_dict("records"):
                self.tell("verdict", row)
        except (UsageError, OSError, ValueError) as error:
            self.say(f"--log: not all of {self.folder} could be read ({one_line(str(error))})")
        self.tell("finish", [path for name in KEPT if (path := self.folder / name).is_file()])


@contextmanager
def tracked(
    trackers: Mapping[str, Tracker], spec: RunSpec, out: Path, say: Callable[[str], None]
) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Log the run of ``spec`` under ``out`` to every tracker until the block is left.

    Yields the function to call with new rows of cells.parquet; its first call, also without rows,
    begins the run in the trackers. What lies in the folder and was not told is told at the end.
    """
    session = Session(dict(trackers), spec, out / spec.run_id, say)
    try:
        yield session.cells
    finally:
        session.end()
