"""A run's folder while the run goes on: what is there, what is missing, what comes in."""

import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.errors import UsageError
from benchmark.pictures import put_pictures
from benchmark.results import (
    CELL_KEY,
    CELLS,
    SAMPLES,
    read_spec,
    read_table,
    write_atomic,
    write_json,
    write_tables,
)
from benchmark.spec import AttackSpec, DefenseSpec, RunSpec

FINAL = ("ok", "skipped")


@dataclass
class RunFolder:
    """The folder of one spec's run and the tables in it, kept in memory as they are on disk."""

    path: Path
    spec: RunSpec
    cells: pd.DataFrame
    samples: pd.DataFrame

    @classmethod
    def open(cls, out: Path, spec: RunSpec) -> "RunFolder":
        """Read what is there of ``spec``'s run under ``out``, creating nothing.

        UsageError if the folder belongs to another spec or its tables are damaged.
        """
        path = out / spec.run_id
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file; the run needs a folder there: name another --out")
        if path.is_dir() and any(path.iterdir()):
            found = read_spec(path)
            if found != spec:
                raise UsageError(
                    f"{path} was made by another spec ({_difference(found, spec)});"
                    " move it away or name another --out"
                )
        cells = read_table(path / "cells.parquet", CELLS)
        samples = read_table(path / "samples.parquet", SAMPLES)
        # The tables are written one after the other: samples of a cell that is not there, or is
        # there and not ok, are what an interruption left between the two.
        ok = cells.loc[cells["status"] == "ok", CELL_KEY]
        samples = samples.merge(ok, on=CELL_KEY, how="inner")
        return cls(path, spec, cells, samples[SAMPLES.names])

    def begin(self, provenance: Mapping[str, Any]) -> None:
        """Create the folder, or go on in it if the data are the same as when it was begun.

        UsageError if it cannot be written, or if the images behind the dataset's name changed.
        """
        about = self.path / "run.json"
        if about.exists():
            try:
                before = json.loads(about.read_text("utf-8"))["dataset"]
            except (ValueError, KeyError, TypeError):
                raise UsageError(f"{about} is damaged; delete it to go on") from None
            for split in ("train_checksum", "test_checksum"):
                if before.get(split) != provenance["dataset"][split]:
                    raise UsageError(
                        f"{self.path} was begun with other {self.spec.dataset} images"
                        f" ({split.replace('_', ' ')} differs); use the same data or another --out"
                    )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path / "spec.json", self.spec.to_json().encode())
            if not about.exists():
                write_json(about, provenance)
        except OSError as error:
            raise UsageError(
                f"cannot write to {self.path} ({error.strerror}); name a writable folder with --out"
            ) from None

    def is_final(self, seed: int, defense: DefenseSpec, attack: AttackSpec) -> bool:
        """Tell whether every cell of a sweep is there, ok or skipped."""
        own = self.cells[self._of_sweep(self.cells, seed, defense, attack)]
        final = own[own["status"].isin(FINAL)]
        return set(final["eps"]) >= set(attack.threat.eps)

    def put(
        self,
        seed: int,
        defense: DefenseSpec,
        attack: AttackSpec,
        cells: pd.DataFrame,
        samples: pd.DataFrame,
        pictures: pd.DataFrame,
    ) -> None:
        """Replace a sweep's rows in both tables, in memory and on disk; its pictures come first."""
        if len(pictures):
            put_pictures(self.path, pictures)
        others = self.cells[~self._of_sweep(self.cells, seed, defense, attack)]
        self.cells = _concat(others, cells)
        others = self.samples[~self._of_sweep(self.samples, seed, defense, attack)]
        self.samples = _concat(others, samples)
        write_tables(self.path, self.cells, self.samples)

    def keep_traceback(self, stem: str, error: Exception) -> str:
        """Keep a traceback for whoever debugs the plugin; return one line for the results."""
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)
        text = "".join(traceback.format_exception(error))
        write_atomic(self.path / "errors" / f"{name}.txt", text.encode())
        line = str(error).strip().splitlines()
        return f"{type(error).__name__}: {line[0] if line else 'no message'}"

    @staticmethod
    def _of_sweep(
        frame: pd.DataFrame, seed: int, defense: DefenseSpec, attack: AttackSpec
    ) -> "pd.Series[bool]":
        return (
            (frame["seed"] == seed)
            & (frame["defense"] == defense.name)
            & (frame["attack"] == attack.name)
            & (frame["library"] == attack.library)
        )


def _concat(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    if first.empty or second.empty:  # pandas takes an empty frame's dtypes into account
        return (second if first.empty else first).reset_index(drop=True)
    return pd.concat([first, second], ignore_index=True)


def _difference(found: RunSpec, wanted: RunSpec) -> str:
    """Name the first setting in which two specs differ."""
    for name, value in vars(wanted).items():
        if getattr(found, name) != value:
            return f"its {name} differ"
    return "its settings differ"
