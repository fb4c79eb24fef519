"""Trackers during one run: told of each new cell, and of the rest when it ends, also on Ctrl-C.

A tracker that raises is left out with one line; nothing that was computed is lost by it. What each
knows is kept in the run's folder, so that a resumed run logs only what is new.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.config.spec import RunSpec
from benchmark.errors import UsageError, first_line, one_line
from benchmark.results.audit_tables import VERDICTS_FILE, read_verdicts
from benchmark.results.model_records import read_models
from benchmark.results.schema import CELLS
from benchmark.results.tables import read_table
from benchmark.tracking.base import Tracker
from benchmark.tracking.memory import FILE, Memory, mark

KEPT = (
    *("spec.json", "run.json", "cells.parquet", "samples.parquet", VERDICTS_FILE, "audit.parquet"),
    "report/report.html",
)
"""The files of a run's folder that a tracker is given, where they are there."""


LONGEST = 200
"""Characters of an error that are said."""


@dataclass
class Session:
    """The trackers of one run that have not failed, and what each of them knows."""

    trackers: dict[str, Tracker]
    spec: RunSpec
    folder: Path
    say: Callable[[str], None]
    begun: bool = False
    memory: Memory = field(init=False)

    def tell(self, method: str, *words: Any) -> None:
        """Call a method of every tracker; one that raises is left out and said."""
        for name in list(self.trackers):
            self._tell(name, method, *words)

    def _tell(self, name: str, method: str, *words: Any) -> bool:
        try:
            with redirect_stdout(sys.stderr):  # standard output may be the command's JSON
                getattr(self.trackers[name], method)(*words)
        except (Exception, SystemExit) as error:
            del self.trackers[name]
            why = one_line(first_line(error))[:LONGEST]
            self.say(f"--log {name}: left out from here on ({method}: {why}); the run goes on")
            return False
        return True

    def begin(self) -> None:
        """Begin the run in every tracker, and say which of them know of it already."""
        self.begun = True
        try:
            self.memory = Memory.read(self.folder)
        except ValueError as error:
            self.memory = Memory(self.folder / FILE)
            self.say(f"--log: {FILE} cannot be read ({error}); all of the run is logged again")
        for name, tracker in self.trackers.items():
            if getattr(tracker, "starts_over", False):
                self.memory.of(name).clear()
            elif known := len(self.memory.of(name)):
                self.say(
                    f"--log {name}: goes on with {self.spec.run_id}; the {known} results that it"
                    f" has are not logged again (delete {FILE} in the run's folder to log all)"
                )
        self.tell("start", self.spec.run_id, json.loads(self.spec.to_json()), self.folder)

    def results(self, method: str, rows: Iterable[Mapping[Any, Any]]) -> None:
        """Tell each tracker of the results that it does not know, and remember that."""
        for row in rows:
            marked = mark(method, row)
            for name in list(self.trackers):
                known = self.memory.of(name)
                if marked not in known and self._tell(name, method, row):
                    known.add(marked)
        try:
            self.memory.write()
        except OSError as error:
            self.say(f"--log: {FILE} cannot be written ({error}); a resumed run logs all again")

    def cells(self, rows: pd.DataFrame) -> None:
        """Tell of these rows of cells.parquet; the first call begins the run in every tracker."""
        if not self.trackers:
            return
        if not self.begun:
            self.begin()
        self.results("cell", rows.to_dict("records"))

    def end(self) -> None:
        """Tell of all that lies in the run's folder and was not told, and finish."""
        if not self.trackers or not (self.begun or (self.folder / "cells.parquet").is_file()):
            return
        try:
            self.cells(read_table(self.folder / "cells.parquet", CELLS))
            self.results("model", map(asdict, read_models(self.folder)))
            self.results("verdict", read_verdicts(self.folder).to_dict("records"))
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
