"""Trackio, Hugging Face's local tracker: https://huggingface.co/docs/trackio."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.tracking import base
from benchmark.tracking.base import Row


class Trackio:
    """One run of the project ``defensebench`` (or TRACKIO_PROJECT); a step is eps * 10,000."""

    def __init__(self) -> None:
        import trackio

        self._trackio: Any = trackio

    def start(self, run_id: str, settings: Row, folder: Path) -> None:
        """Begin the run, or go on with the one of that name."""
        self._trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", base.PROJECT),
            name=run_id,
            config=dict(settings),
            resume="allow",
        )

    def cell(self, row: Row) -> None:
        """Add a point to each curve of the cell's attack."""
        found = base.measured(row)
        if found:
            points = {f"{base.curve_name(row)}/{name}": value for name, value in found.items()}
            self._trackio.log(points, step=base.step(row["eps"]))

    def model(self, record: Row) -> None:
        """Add the training curves."""
        for epoch, values in base.epochs(record):
            named = {f"{base.model_name(record)}/train/{key}": x for key, x in values.items()}
            if named:
                self._trackio.log(named, step=epoch)

    def verdict(self, row: Row) -> None:
        """Log the audit's word and its accuracies."""
        name = base.verdict_name(row)
        found = {f"{name}/{key}": x for key, x in base.numbers(row, base.JUDGED).items()}
        self._trackio.log({name: str(row["verdict"]), **found}, step=base.step(row["eps"]))

    def finish(self, artifacts: Sequence[Path]) -> None:
        """Put where the files lie into the log, and end: they stay in the run's folder."""
        if artifacts:
            self._trackio.log({"files": ", ".join(str(path) for path in artifacts)})
        self._trackio.finish()
