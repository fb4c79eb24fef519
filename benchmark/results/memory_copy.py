"""The files beside a run's tables, kept in memory in case somebody deletes the folder.

Both tables are in memory while a run goes on; the spec, the origin, the models' records and the
other tables are small, and with them the whole folder can be written again.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.io.atomic import write_atomic

SIGN = "spec.json"
"""The first file of a run's folder: where it is gone, the folder was deleted."""

BESIDE = ("*.json", "*.parquet", "models/*.json")
LARGE = ("cells.parquet", "samples.parquet", "adversarial.parquet")
"""The run holds the first two itself; the images of the third would fill the memory."""


@dataclass
class Safekeeping:
    """The small files of a run's ``folder``, as they were last seen."""

    folder: Path
    files: dict[Path, bytes] = field(default_factory=dict)

    def remember(self) -> None:
        """Take in what is there now; what is gone stays in memory."""
        for pattern in BESIDE:
            for path in self.folder.glob(pattern):
                if not (path.name.startswith(".") or path.name in LARGE):  # locks, drafts
                    with suppress(OSError):
                        self.files[path] = path.read_bytes()

    def forget(self, path: Path) -> None:
        """Let go of a file that was deleted on purpose."""
        self.files.pop(path, None)

    def restore(self) -> bool:
        """Write everything again if the folder was deleted, and tell whether it was."""
        if not self.files or (self.folder / SIGN).exists():
            return False
        for path, data in self.files.items():
            write_atomic(path, data)
        return True
