"""The two result tables: schema, validation, atomic reading and writing.

A run's folder holds ``spec.json`` (the :class:`~benchmark.spec.RunSpec`), ``run.json`` (where the
numbers come from), ``samples.parquet`` (a row per cell and image), ``cells.parquet`` (a row per
cell) and ``models/<defense>-seed<seed>.json`` (a :class:`ModelRecord` per trained defense).
Accuracies are fractions in [0, 1]; a cell that was skipped or failed keeps its row with a reason
and NaN. Nothing here needs torch.
"""

import logging
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa

from benchmark import json_files, parquet_files
from benchmark.errors import UsageError
from benchmark.files import own_folder, safe_name
from benchmark.numbering import repeated
from benchmark.parquet_files import narrowed
from benchmark.spec import RunSpec
from benchmark.typed import build

log = logging.getLogger(__name__)

Status = Literal["ok", "skipped", "failed"]
STATUSES = ("ok", "skipped", "failed")

CELL_KEY = ["dataset", "defense", "attack", "library", "norm", "eps", "seed"]
"""The columns that name a cell, in both tables."""


def columns(
    *named: tuple[str, pa.DataType], later: Iterable[tuple[str, pa.DataType]] = ()
) -> pa.Schema:
    """Return a table's schema from its columns' names and types.

    Those of ``later`` came after the first tables were written: a reader takes one that is absent
    for null.
    """
    # pandas' NaN is Parquet's null: float columns may hold it, the others may not.
    fields = [pa.field(name, kind, nullable=pa.types.is_floating(kind)) for name, kind in named]
    return pa.schema([*fields, *(pa.field(name, kind, metadata=LATER) for name, kind in later)])


LATER = {"since": "later"}
"""What marks a column that older tables lack."""


def filled(frame: pd.DataFrame, schema: pa.Schema) -> pd.DataFrame:
    """Return ``frame`` with nulls in those later columns of the schema that it lacks."""
    absent = [field for field in schema if field.metadata and field.name not in frame.columns]
    return frame.assign(**{field.name: _nulls(len(frame), field) for field in absent})


def _nulls(n: int, field: pa.Field) -> Any:
    return pa.nulls(n, field.type).to_pandas()


KEY_COLUMNS = [
    ("dataset", pa.string()),
    ("defense", pa.string()),
    ("attack", pa.string()),
    ("library", pa.string()),
    ("norm", pa.string()),
    ("eps", pa.float64()),
    ("seed", pa.int64()),
]
"""The columns of :data:`CELL_KEY` with their types."""

SAMPLES = columns(
    ("run_id", pa.string()),
    ("sample_id", pa.int64()),
    *KEY_COLUMNS,
    ("label", pa.int64()),
    ("pred_clean", pa.int64()),
    ("pred_adv", pa.int64()),
    ("success", pa.bool_()),
    ("distance", pa.float64()),
    ("n_forward", pa.int64()),
    ("n_backward", pa.int64()),
)
"""A row per (cell, image). ``sample_id`` is the image's row in the dataset's test split;
``distance`` is in the cell's norm (0 for a clean error); the query counts are the sample's. Where
one search serves all eps (:mod:`benchmark.sweep`), its one image stands in the rows of all eps
above 0: from outside a ball it may fool the model, which is no success there. Its queries count at
the smallest eps. At eps 0 there is only the clean image: ``pred_adv`` is ``pred_clean``."""

CELLS = columns(
    *KEY_COLUMNS,
    ("eot", pa.int64()),
    ("bpda", pa.bool_()),
    ("status", pa.string()),
    ("reason", pa.string()),
    ("n", pa.int64()),
    ("clean_accuracy", pa.float64()),
    ("robust_accuracy", pa.float64()),
    ("ci_low", pa.float64()),
    ("ci_high", pa.float64()),
    ("median_distance", pa.float64()),
    ("seconds", pa.float64()),
    ("device", pa.string()),
    ("preset", pa.string()),
    ("versions", pa.string()),
    ("git_sha", pa.string()),
    later=[("search_dtype", pa.string())],
)
"""A row per cell. ``reason`` says why a cell was skipped or failed and, for an ok cell, what the
harness noticed. ``median_distance`` is over the images that the attack turned (NaN if none).
``search_dtype`` is what the attack followed the gradient in, float32 or bfloat16
(:mod:`benchmark.precision`); null where nothing was attacked and in older runs."""

_LABELS = ("label", "pred_clean", "pred_adv")
_FRACTIONS = ["clean_accuracy", "robust_accuracy", "ci_low", "ci_high"]


TABLE_FILES = ("samples.parquet", "cells.parquet")

MOST_ROWS = 1_000_000
MOST_SAMPLES = 100_000_000
"""So many rows of a table are read: ten thousand images in ten thousand cells."""


class ResultsError(UsageError):
    """A results folder or table that cannot be read or breaks its schema."""


@dataclass(frozen=True)
class ModelOrigin:
    """What a trained model came from, and what tells it from another (:mod:`benchmark.origin`).

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
    ``floor`` and ``n`` (sliced Wasserstein distance of the test codes from the prior; ``floor``
    is what two samples of the prior itself give). ``origin`` is None in records of older versions.
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


@dataclass(frozen=True)
class Run:
    """A run's folder, read and validated. ``spec`` and the tables are always there.

    ``samples`` is :func:`read_samples`' frame: its words are categories.
    """

    path: Path
    spec: RunSpec
    cells: pd.DataFrame
    samples: pd.DataFrame
    models: list[ModelRecord]
    provenance: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The run's name, which is also its folder's."""
        return self.spec.run_id


def empty_table(schema: pa.Schema) -> pd.DataFrame:
    """Return a table with the schema's columns and no row."""
    frame: pd.DataFrame = schema.empty_table().to_pandas()
    return frame


def make_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pd.DataFrame:
    """Build a table of ``rows`` with the schema's columns, order and dtypes."""
    frame: pd.DataFrame = pa.Table.from_pylist(rows, schema=schema).to_pandas()
    return frame


def validate(frame: pd.DataFrame, schema: pa.Schema, where: str) -> pd.DataFrame:
    """Return ``frame`` in the schema's order and dtypes; ResultsError names the first breach."""
    frame = filled(frame, schema)
    _check_names(frame.columns, schema, where)
    try:
        table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
        table.validate(full=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ResultsError(f"{where}: {str(error).splitlines()[0]}") from None
    # By the schema: the metadata would bring back what the columns were before.
    frame = table.to_pandas(ignore_metadata=True)
    if schema is CELLS:
        _validate_cells(frame, where)
    elif schema is SAMPLES:
        _validate_samples(frame, where)
    return frame.reset_index(drop=True)


def _check_names(found: Iterable[str], schema: pa.Schema, where: str) -> None:
    found = list(found)
    missing = [name for name in schema.names if name not in found]
    if missing:
        raise ResultsError(f"{where}: column {missing[0]!r} is missing")
    extra = [name for name in found if name not in schema.names]
    if extra:
        raise ResultsError(f"{where}: column {extra[0]!r} is not part of the schema")
    if len(found) > len(schema.names):
        twice = next(name for name in schema.names if found.count(name) > 1)
        raise ResultsError(f"{where}: column {twice!r} stands twice in it")


def _validate_cells(cells: pd.DataFrame, where: str) -> None:
    unknown = set(cells["status"]) - set(STATUSES)
    if unknown:
        raise ResultsError(f"{where}: unknown status {sorted(unknown)[0]!r}")
    if cells.duplicated(CELL_KEY).any():
        raise ResultsError(f"{where}: a cell appears twice")
    ok = cells["status"] == "ok"
    fractions = cells[_FRACTIONS]
    if not fractions[ok].apply(lambda column: column.between(0, 1)).all(axis=None):
        raise ResultsError(f"{where}: an accuracy or interval lies outside [0, 1]")
    if fractions[~ok].notna().any(axis=None):
        raise ResultsError(f"{where}: a cell that is not ok carries an accuracy")
    if (cells.loc[~ok, "reason"] == "").any():
        raise ResultsError(f"{where}: a skipped or failed cell has no reason")
    slack = 1e-9
    inside = cells["robust_accuracy"].between(cells["ci_low"] - slack, cells["ci_high"] + slack)
    if not inside[ok].all():
        raise ResultsError(f"{where}: an accuracy lies outside its own interval")
    if not (cells.loc[ok, "n"] > 0).all():
        raise ResultsError(f"{where}: a result over no images")
    if not (cells["eps"] >= 0).all():
        raise ResultsError(f"{where}: an eps is negative or not a number")


def _validate_samples(samples: pd.DataFrame, where: str) -> None:
    if repeated(samples, [*CELL_KEY, "sample_id"]):
        raise ResultsError(f"{where}: an image appears twice in a cell")
    if not (samples["distance"] >= 0).all():
        raise ResultsError(f"{where}: a distance is negative or not a number")
    if (samples[["n_forward", "n_backward"]] < 0).any(axis=None):
        raise ResultsError(f"{where}: a query count is negative")
    if (samples["success"] & (samples["pred_adv"] == samples["label"])).any():
        raise ResultsError(f"{where}: a success whose pred_adv is the label")


# --- files -----------------------------------------------------------------------------------


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # noqa: PTH101 (mkstemp makes a private file)
        Path(temporary).replace(path)
    except BaseException as error:
        with suppress(OSError):  # where the folder has become read-only, the first error tells
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # which a write does not tell by itself
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, an object with its checksum, atomically."""
    write_atomic(path, json_files.seal(value))


def write_tables(run_dir: Path, cells: pd.DataFrame, samples: pd.DataFrame) -> None:
    """Validate and write both tables, samples first: a cell never stands without its samples."""
    for frame, schema, name in ((samples, SAMPLES, "samples"), (cells, CELLS, "cells")):
        path = run_dir / f"{name}.parquet"
        write_table(path, validate(frame, schema, path.name), schema)


def write_table(path: Path, frame: pd.DataFrame, schema: pa.Schema) -> None:
    """Write one valid table with its checksum, atomically."""
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    write_atomic(path, parquet_files.seal(table))


def superseded(old: pd.DataFrame, new: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return ``old`` and then ``new``, without the old rows whose values of ``names`` came anew."""
    if old.empty or new.empty:  # pandas takes an empty frame's dtypes into account
        return (new if old.empty else old).reset_index(drop=True)
    came = pd.MultiIndex.from_frame(new[names])
    kept = ~pd.MultiIndex.from_frame(old[names]).isin(came)
    return pd.concat([old[kept], new], ignore_index=True)


def read_table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """Read and validate one table; an absent one is empty."""
    if not path.exists():
        return empty_table(schema)
    return validate(load_table(path), schema, str(path))


def load_table(path: Path) -> pd.DataFrame:
    """Load a Parquet table as it is; ResultsError if it is not there or not readable."""
    try:
        with parquet_files.opened(path, MOST_ROWS) as file:
            # Without pandas' own notes in the file, which ours do not need and others may forge.
            frame: pd.DataFrame = file.read().replace_schema_metadata().to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return frame


def read_samples(path: Path) -> pd.DataFrame:
    """Read and validate the samples table in little memory; an absent one is empty.

    Its values are :func:`read_table`'s, its dtypes narrower: words are categories in alphabetical
    order, and whole numbers have 32 bits (labels 16) where all of the column's fit.
    """
    if not path.exists():
        return empty_table(SAMPLES)
    words = [column.name for column in SAMPLES if pa.types.is_string(column.type)]
    try:
        with parquet_files.opened(path, MOST_SAMPLES) as file:
            _check_names(file.schema_arrow.names, SAMPLES, str(path))
            for column in file.schema_arrow:
                if pa.types.is_nested(column.type):  # which pyarrow does not find by its name
                    raise ResultsError(f"{path}: column {column.name!r} is {column.type}")
        with parquet_files.opened(path, MOST_SAMPLES, read_dictionary=words) as file:
            found = {}
            # Column by column: only one is there in its file's width.
            for column in SAMPLES:
                values = file.read([column.name])[0]
                found[column.name] = narrowed(values, column, few=column.name in _LABELS)
                pa.default_memory_pool().release_unused()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    frame = pd.DataFrame(found, copy=False)
    _validate_samples(frame, str(path))
    return frame


def _unreadable(path: Path, error: Exception) -> ResultsError:
    return ResultsError(
        f"{path}: not a readable Parquet table ({str(error).splitlines()[0]});"
        " restore it, or delete it and run the same command again"
    )


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


def read_spec(run_dir: Path) -> RunSpec:
    """Read a run folder's spec; ResultsError if the folder is no run or the file is damaged."""
    path = run_dir / "spec.json"
    if not path.exists():
        raise ResultsError(
            f"{run_dir} is not a run folder: it has no spec.json; give the folder that"
            " 'run' printed, for example runs/mnist-quick-0123456789"
        )
    try:
        return RunSpec.from_plain(json_files.read_json(path))
    except (OSError, ValueError, TypeError, UsageError) as error:
        raise ResultsError(
            f"{path}: not a run's spec ({error}); restore it, or give run the same command again"
        ) from None


def read_origin(run_dir: Path, spec: RunSpec) -> Mapping[str, Any]:
    """Read ``run.json``, empty if it is not there; ResultsError if damaged or of another spec."""
    path = run_dir / "run.json"
    try:
        found = json_files.read_json(path) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"{path} is damaged ({error}); restore it, or delete it: where the numbers come from is"
            " then not known, and a run that goes on takes the images of its first day for granted"
        ) from None
    if not isinstance(found, dict):
        found = {}
    named = found.get("run_id", spec.run_id)
    if named != spec.run_id:
        raise ResultsError(
            f"{run_dir / 'spec.json'} was changed: its settings are those of {spec.run_id}, and"
            f" run.json is of {str(named)[:100]!r}; restore it, or give run the same command again"
        )
    return found


def read_models(run_dir: Path) -> list[ModelRecord]:
    """Read the records of a run's trained defenses; ResultsError names a damaged one."""
    return [read_model(path) for path in sorted((run_dir / "models").glob("*.json"))]


def read_model(path: Path) -> ModelRecord:
    """Read one trained defense's record; ResultsError if it is damaged."""
    try:
        record: ModelRecord = build(ModelRecord, json_files.read_json(path), "record")
        for row in record.log:
            if not isinstance(row, Mapping):
                raise TypeError(f"a row of the log is {repr(row)[:40]}")
    except (OSError, ValueError, TypeError) as error:
        raise ResultsError(
            f"{path}: not a model record ({error}); restore it, or delete it: the report then goes"
            " without this training log"
        ) from None
    return record


def read_run(run_dir: Path) -> Run:
    """Read a whole run folder, complete or not; say which files carry no checksum."""
    spec = read_spec(run_dir)
    origin = read_origin(run_dir, spec)
    cells = read_table(run_dir / "cells.parquet", CELLS)
    samples = read_samples(run_dir / "samples.parquet")
    models = read_models(run_dir)
    say_unsealed(run_dir)
    return Run(run_dir, spec, cells, samples, models, origin)


def say_unsealed(run_dir: Path) -> None:
    """Say which of a run's readable files carry no checksum, as older versions made them."""
    tables = [run_dir / name for name in TABLE_FILES]
    texts = [run_dir / "run.json", *sorted((run_dir / "models").glob("*.json"))]
    bare = [path for path in tables if path.exists() and not parquet_files.is_sealed(path)]
    bare += [path for path in texts if path.exists() and not json_files.is_sealed(path)]
    names = [path.relative_to(run_dir).as_posix() for path in bare]
    if names:
        log.warning(
            "%s: no checksum in %s, which an older version made: read as they are",
            *(run_dir, ", ".join(names)),
        )
