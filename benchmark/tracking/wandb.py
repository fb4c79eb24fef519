"""Weights & Biases: https://docs.wandb.ai/ref/python/."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.tracking import base
from benchmark.tracking.base import Row


class Wandb:
    """One run of the project ``defensebench`` (or WANDB_PROJECT), named and resumed by its id."""

    def __init__(self) -> None:
        import wandb

        self._wandb: Any = wandb
        self._run: Any = None
        self._run_id = ""

    def start(self, run_id: str, settings: Row, folder: Path) -> None:
        """Begin the run, or go on with the one of that id."""
        self._run_id = run_id
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", base.PROJECT),
            id=base.safe(run_id),
            name=run_id,
            config=dict(settings),
            resume="allow",
        )

    def cell(self, row: Row) -> None:
        """Add a point to each curve of the cell's attack, over eps."""
        curve = base.curve_name(row)
        found = base.measured(row)
        if found:
            self._run.define_metric(f"{curve}/*", step_metric=f"{curve}/eps")
            points = {f"{curve}/{name}": value for name, value in found.items()}
            self._run.log({**points, f"{curve}/eps": float(row["eps"])})

    def model(self, record: Row) -> None:
        """Add the training curves, over epochs."""
        name = f"{base.model_name(record)}/train"
        self._run.define_metric(f"{name}/*", step_metric=f"{name}/epoch")
        for epoch, values in base.epochs(record):
            points = {f"{name}/{key}": value for key, value in values.items()}
            self._run.log({**points, f"{name}/epoch": epoch})

    def verdict(self, row: Row) -> None:
        """Put the audit's word and its accuracies into the run's summary."""
        name = base.verdict_name(row)
        self._run.summary[name] = row["verdict"]
        self._run.summary[f"{name}/reasons"] = row["reasons"]
        for key, value in base.numbers(row, base.JUDGED).items():
            self._run.summary[f"{name}/{key}"] = value

    def finish(self, artifacts: Sequence[Path]) -> None:
        """Keep the files as an artifact, and end."""
        if artifacts:
            kept = self._wandb.Artifact(base.safe(self._run_id), type="robustness-run")
            for path in artifacts:
                kept.add_file(str(path))
            self._run.log_artifact(kept)
        self._run.finish()
