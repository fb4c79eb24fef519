"""What a run keeps of each trained defense, in models/<defense>-seed<seed>.json."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark.io import json_files
from benchmark.io.json_files import write_json
from benchmark.io.paths import own_folder, safe_name
from benchmark.io.typed_json import build, known
from benchmark.results.schema import ResultsError


@dataclass(frozen=True)
class ModelOrigin:
    """What a trained model came from, and what tells it from another
    (:mod:`benchmark.training.origin`).

    ``parts`` are digests of all that its key covers, by name; ``files`` the SHA-256 of the files
    that building and training it read, by path; ``start`` measures its tensors before training, and
    is empty where they are not the same every time; ``weights`` is the SHA-256 of its tensors;
    ``answers`` is what it says of a few images, by method, and ``where`` the processor that said
    so.
    """

    parts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    start: list[Any] = field(default_factory=list)
    weights: str = ""
    answers: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class ModelRecord:
    """One trained defense of a run: how it was made and what was measured on it.

    ``stochastic`` is what the defense says of itself: attacks on it are draws.

    ``log`` has one mapping per epoch (``epoch``, ``seconds``, and whatever the defense logs:
    ``loss``, ``clean_accuracy``, ``adversarial_accuracy``, ...). ``measures`` holds numbers taken
    on the trained model; ``code_distance`` is a mapping with ``value``, ``ci_low``, ``ci_high``,
    ``floor`` and ``n`` (sliced Wasserstein distance of the test embeddings from the prior;
    ``floor`` is what two samples of the prior itself give). ``origin`` is None in records of older
    versions.
    """

    defense: str
    seed: int
    key: str
    options: Mapping[str, Any]
    n_parameters: int
    train_seconds: float
    log: list[dict[str, float]]
    measures: Mapping[str, Any] = field(default_factory=dict)
    stochastic: bool = False
    origin: ModelOrigin | None = None


def write_model(run_dir: Path, record: ModelRecord) -> None:
    """Write one trained defense's record, atomically."""
    own_folder(run_dir / "models", run_dir)
    write_json(model_path(run_dir, record.defense, record.seed), finite(asdict(record)))


def model_path(run_dir: Path, defense: str, seed: int) -> Path:
    """Return where the record of a trained defense lies."""
    return run_dir / "models" / f"{safe_name(defense)}-seed{seed}.json"


def finite(value: Any) -> Any:
    """Return ``value`` with None in place of what JSON cannot hold (NaN, infinities)."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_models(run_dir: Path) -> list[ModelRecord]:
    """Read the records of a run's trained defenses; ResultsError names a damaged one."""
    return [read_model(path) for path in sorted((run_dir / "models").glob("*.json"))]


def read_model(path: Path) -> ModelRecord:
    """Read one trained defense's record; ResultsError if it is damaged."""
    try:
        raw = known(ModelRecord, json_files.read_json(path))
        if isinstance(raw, dict) and "origin" in raw:
            raw["origin"] = known(ModelOrigin, raw["origin"])
        record: ModelRecord = build(ModelRecord, raw, "record")
        for row in record.log:
            if not isinstance(row, Mapping):
                raise TypeError(f"a row of the log is {repr(row)[:40]}")
    except (OSError, ValueError, TypeError) as error:
        raise ResultsError(
            f"{path}: not a model record ({error}); restore it, or delete it: the report then goes"
            " without this training log"
        ) from None
    return record
