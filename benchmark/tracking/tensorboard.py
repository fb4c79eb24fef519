"""TensorBoard: curves over eps and over epochs, as files in the run's folder.

https://docs.pytorch.org/docs/stable/tensorboard.html
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.io.paths import own_folder
from benchmark.tracking import base
from benchmark.tracking.base import Row

FOLDER = "tensorboard"


class TensorBoard:
    """Writes event files into ``tensorboard/`` in the run's folder; a step is eps * 10,000."""

    def __init__(self) -> None:
        import tensorboard  # torch's own error would name no package
        from torch.utils.tensorboard import SummaryWriter

        del tensorboard
        self._make: Any = SummaryWriter
        self._writer: Any = None

    def start(self, run_id: str, settings: Row, folder: Path) -> None:
        """Open an event file, in place of an earlier one, and put the settings there as text."""
        own_folder(folder / FOLDER, folder)
        for path in (folder / FOLDER).glob("events.out.tfevents.*"):
            path.unlink()  # all that it holds is told again
        self._writer = self._make(log_dir=str(folder / FOLDER))
        text = json.dumps({"run_id": run_id, **settings}, indent=2)
        self._writer.add_text("settings", "    " + text.replace("\n", "\n    "))

    def cell(self, row: Row) -> None:
        """Add a point to each curve of the cell's attack."""
        for name, value in base.measured(row).items():
            self._writer.add_scalar(f"{base.curve_name(row)}/{name}", value, base.step(row["eps"]))
        self._writer.flush()

    def model(self, record: Row) -> None:
        """Add the training curves."""
        for epoch, values in base.epochs(record):
            for name, value in values.items():
                self._writer.add_scalar(f"{base.model_name(record)}/train/{name}", value, epoch)

    def verdict(self, row: Row) -> None:
        """Add the audit's word as text, and its accuracies."""
        self._writer.add_text(base.verdict_name(row), f"{row['verdict']}: {row['reasons']}")
        for name, value in base.numbers(row, base.JUDGED).items():
            self._writer.add_scalar(
                f"{base.verdict_name(row)}/{name}", value, base.step(row["eps"])
            )

    def finish(self, artifacts: Sequence[Path]) -> None:
        """Close the file; the artifacts lie beside it."""
        self._writer.close()
