"""What ``dimension`` left in its folders, for the paper's Table 3."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.io.json_files import read_json
from benchmark.results.schema import ResultsError
from reports.tables.grid import is_number

FILE = "dimension.json"
ESTIMATE = ("average", "scaling", "k1", "k2", "value", "ci_low", "ci_high")


@dataclass(frozen=True)
class DimensionResult:
    """A folder's object: the estimates as mappings with the keys of ``ESTIMATE``.

    ``library`` is the well-kept library's number, if it was there, and ``library_words`` says which
    library and which of the estimates it compares with.
    """

    path: Path
    dataset: str
    n: int
    estimates: tuple[Mapping[str, Any], ...]
    library: float | None
    library_words: str

    @property
    def result_id(self) -> str:
        """The folder's name."""
        return self.path.resolve().name


def is_dimension(path: Path) -> bool:
    """Tell whether ``path`` is a folder that ``dimension`` made."""
    return (path / FILE).is_file()


def read_dimension(path: Path) -> DimensionResult:
    """Read a folder; ResultsError says what is wrong with it."""
    file = path / FILE
    try:
        raw = read_json(file)
        estimates = tuple({key: row[key] for key in ESTIMATE} for row in raw["estimates"])
        found = raw.get("library_estimate")
        about = raw.get("library") or {}
        dataset, n = str(raw["dataset"]), int(raw["n"])
        named = [about.get(key) for key in ("name", "version", "average", "scaling")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{file}: not a dimension's record ({error})") from None
    words = ", ".join(str(word) for word in named if word)
    return DimensionResult(path, dataset, n, estimates, found if is_number(found) else None, words)
