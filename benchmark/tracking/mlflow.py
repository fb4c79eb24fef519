"""MLflow: https://mlflow.org/docs/latest/api_reference/python_api/mlflow.html."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.tracking import base
from benchmark.tracking.base import Row

TAG = "defensebench_run"
PARAMS = ("dataset", "preset", "n_train", "n_test", "seeds", "device", "study")


class MLflow:
    """One run of the experiment ``defensebench`` (or MLFLOW_EXPERIMENT_NAME), found by its tag.

    Where it goes is MLflow's own MLFLOW_TRACKING_URI. A step is eps * 10,000.
    """

    def __init__(self) -> None:
        import mlflow

        self._mlflow: Any = mlflow

    def start(self, run_id: str, settings: Row, folder: Path) -> None:
        """Begin the run, or go on with the one that has its tag; settings become parameters."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", base.PROJECT)
        self._mlflow.set_experiment(name)
        found = self._mlflow.search_runs(
            experiment_names=[name],
            filter_string=f"tags.{TAG} = '{base.safe(run_id)}'",
            max_results=1,
            output_format="list",
        )
        if found:
            self._mlflow.start_run(run_id=found[0].info.run_id)
        else:
            self._mlflow.start_run(run_name=run_id, tags={TAG: base.safe(run_id)})
        self._mlflow.log_params({key: settings[key] for key in PARAMS if key in settings})
        self._mlflow.log_dict(dict(settings), "settings.json")

    def cell(self, row: Row) -> None:
        """Add a point to each curve of the cell's attack."""
        for name, value in base.measured(row).items():
            key = f"{base.curve_name(row)}/{name}"
            self._mlflow.log_metric(key, value, step=base.step(row["eps"]))

    def model(self, record: Row) -> None:
        """Add the training curves."""
        for epoch, values in base.epochs(record):
            named = {f"{base.model_name(record)}/train/{key}": x for key, x in values.items()}
            self._mlflow.log_metrics(named, step=epoch)

    def verdict(self, row: Row) -> None:
        """Set the audit's word as a tag, and log its accuracies."""
        name = base.verdict_name(row)
        self._mlflow.set_tag(name, row["verdict"])
        for key, value in base.numbers(row, base.JUDGED).items():
            self._mlflow.log_metric(f"{name}/{key}", value, step=base.step(row["eps"]))

    def finish(self, artifacts: Sequence[Path]) -> None:
        """Keep the files as artifacts, and end."""
        for path in artifacts:
            self._mlflow.log_artifact(str(path))
        self._mlflow.end_run()
