"""An evaluation as the shell names it: words and paths, from which model and images come again.

They lie in the run's folder (``handed_over.json``), so that ``audit`` can go on with them.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError
from benchmark.given.evaluate import Subject, prepare
from benchmark.given.model_sources import load_model, parse_args
from benchmark.io.json_files import read_json, write_json
from benchmark.io.typed_json import build
from benchmark.results.schema import ResultsError

FILE = "handed_over.json"


@dataclass(frozen=True)
class Source:
    """Where a model and images come from; everything as on the command line of ``evaluate``."""

    model: str
    data: str
    model_args: str = ""
    weights: str = ""
    split: str = "test"
    n: int | None = None
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    resize: int | None = None
    crop: int | None = None
    outputs: str = "auto"
    n_classes: int | None = None
    device: str = "auto"
    data_dir: str = ""
    name: str = ""

    def subject(self, say: Callable[[str], None]) -> Subject:
        """Load both and bring them into the harness's forms; UsageError where one will not do.

        Normalisation and size are the model's own, as its library tells them, unless given here.
        """
        weights = Path(self.weights) if self.weights else None
        loaded = load_model(self.model, args=parse_args(self.model_args), weights=weights)
        for note in loaded.notes:
            say(note)
        sized = self.resize is None and self.crop is None and Path(self.data).is_dir()
        size = loaded.size if sized else None
        return prepare(
            loaded.model,
            self.data,
            n=self.n,
            mean=self.mean or loaded.mean or None,
            std=self.std or loaded.std or None,
            outputs=self.outputs,
            n_classes=self.n_classes,
            device=self.device,
            name=self.name or loaded.name,
            say=say,
            split=self.split,
            resize=min(size) if size else self.resize,
            crop=size or self.crop,
            data_dir=Path(self.data_dir) if self.data_dir else None,
        )

    def write(self, run_dir: Path) -> None:
        """Keep it in a run's folder."""
        write_json(run_dir / FILE, asdict(self))

    @classmethod
    def read(cls, run_dir: Path) -> "Source":
        """Read it; UsageError where the model came from Python or the file is damaged."""
        path = run_dir / FILE
        if not path.exists():
            raise UsageError(
                f"{run_dir}: its model was handed over from Python; call benchmark.evaluate again"
                ' with the same model, data and out, and audit="full"'
            )
        try:
            found: Source = build(cls, read_json(path), path.name)
        except (OSError, ValueError, TypeError) as error:
            raise ResultsError(f"{path} is damaged ({error}); evaluate again") from None
        return found


def absolute_model(text: str) -> str:
    """Return the word for a model with the path in it, if there is one, made absolute."""
    scheme, _, rest = text.partition(":")
    if scheme in ("hf", "onnx"):
        return f"{scheme}:{absolute(rest)}"
    where, _, name = text.rpartition(":")
    return f"{absolute(where)}:{name}" if where.endswith(".py") else text


def absolute(path: str) -> str:
    """Return a path that holds from any folder; a word that is no path as it is."""
    return str(Path(path).expanduser().resolve()) if path and Path(path).exists() else path


def as_plain(value: Any) -> list[float]:
    """Return the numbers of ``0.5,0.5,0.5``; UsageError unless each is one."""
    words = [word.strip() for word in str(value).split(",") if word.strip()]
    try:
        return [float(word) for word in words]
    except ValueError:
        raise UsageError(f"{value!r}: write numbers such as 0.485,0.456,0.406") from None
