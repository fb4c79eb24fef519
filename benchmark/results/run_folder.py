"""A run's folder while the run goes on: what is there, what is missing, what comes in."""

import json
import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.errors import MachineError, UsageError, first_line
from benchmark.io.atomic import write_atomic
from benchmark.io.json_files import write_json
from benchmark.io.paths import own_folder, safe_name
from benchmark.io.schema_version import NAME, SCHEMA_VERSION
from benchmark.machine_errors import cannot_write, fault_line, out_of_memory
from benchmark.progress import Progress
from benchmark.results.adversarial_images import forget_adversarial
from benchmark.results.audit_tables import VERDICTS, VERDICTS_FILE, forget, read_verdicts
from benchmark.results.embedding_points import CODES, forget_codes, read_codes
from benchmark.results.embedding_points import FILE as CODES_FILE
from benchmark.results.memory_copy import Safekeeping
from benchmark.results.model_records import ModelRecord, model_path, read_model, write_model
from benchmark.results.pictures import forget_pictures, put_pictures
from benchmark.results.recovery import contents, keep_last, repair
from benchmark.results.run import read_origin, read_spec
from benchmark.results.schema import TABLE_FILES, ResultsError
from benchmark.results.tables import empty_table, write_tables

log = logging.getLogger(__name__)

FINAL = ("ok", "skipped")


@dataclass
class RunFolder:
    """The folder of one spec's run and the tables in it, kept in memory as they are on disk."""

    path: Path
    spec: RunSpec
    cells: pd.DataFrame
    samples: pd.DataFrame
    damaged: Mapping[Path, str]
    dropped: bool = False
    beside: Safekeeping = field(init=False)

    def __post_init__(self) -> None:
        self.beside = Safekeeping(self.path)
        self.beside.remember()

    @classmethod
    def open(cls, out: Path, spec: RunSpec) -> "RunFolder":
        """Read what is there of ``spec``'s run under ``out``, creating nothing.

        What is damaged counts as not there and is listed in ``damaged`` with what becomes of it
        (:mod:`benchmark.results.recovery`). UsageError if the folder belongs to another spec.
        """
        path = out / spec.run_id
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file; the run needs a folder there: name another --out")
        for name in ("models", "errors"):
            own_folder(path / name, path)
        damaged: dict[Path, str] = {}
        # Locks and what a kill left of unfinished writes begin with a dot.
        if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
            damaged = _damaged_spec(path, spec)
        cells, samples, others = contents(path, spec.run_id)
        return cls(path, spec, cells, samples, damaged | others)

    def repair(self, progress: Progress) -> None:
        """Set aside what is damaged, put in its place what there is of it, and say so.

        Only for the process that holds the folder's lock. UsageError if it cannot be written.
        """
        repair(self.path, self.cells, self.samples, self.damaged, progress)
        self.damaged = {}

    def codes(self) -> pd.DataFrame:
        """Return the run's code map; empty if there is none that can be read."""
        damaged = self.path / CODES_FILE in self.damaged
        return empty_table(CODES) if damaged else read_codes(self.path)

    def verdicts(self) -> pd.DataFrame:
        """Return the audit's verdicts; empty if there are none that can be read."""
        damaged = self.path / VERDICTS_FILE in self.damaged
        return empty_table(VERDICTS) if damaged else read_verdicts(self.path)

    def begin(self, provenance: Mapping[str, Any]) -> None:
        """Create the folder, or go on in it if the data are the same as when it was begun.

        UsageError if it cannot be written, or if the images behind the dataset's name changed.
        """
        about = self.path / "run.json"
        self.check_images(provenance["dataset"])
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_spec()
            if not about.exists():
                write_json(about, {**provenance, "run_id": self.spec.run_id})
        except OSError as error:
            hint = "name a writable folder with --out"
            raise cannot_write(self.path, error, hint) from None
        self.beside.remember()

    def write_spec(self) -> None:
        """Write the run's spec; UsageError if the run there was grown since this one was opened."""
        with suppress(ResultsError):
            there = read_spec(self.path)
            if there != self.spec and there.grown is not None:
                raise UsageError(f"{self.path} was grown meanwhile; give the same command again")
        write_atomic(self.path / "spec.json", spec_file(self.spec))

    def check_images(self, checksums: Mapping[str, Any]) -> None:
        """Refuse other images than those that the run was begun with, with a UsageError.

        ``checksums`` are theirs, by ``train_checksum`` and ``test_checksum``.
        """
        about = self.path / "run.json"
        if not about.exists():
            return
        before = read_origin(self.path, self.spec).get("dataset")
        if not isinstance(before, Mapping):
            raise UsageError(f"{about} names no images; delete it to go on")
        for split in ("train_checksum", "test_checksum"):
            if before.get(split) != checksums[split]:
                raise UsageError(
                    f"{self.path} was begun with other {self.spec.dataset} images"
                    f" ({split.replace('_', ' ')} differs); use the same data or another --out"
                )

    def measured(self) -> list[tuple[DefenseSpec, int]]:
        """Return the defenses, by seed, of which the run has final cells."""
        final = self.cells[self.cells["status"].isin(FINAL)]
        there = set(final[["defense", "seed"]].itertuples(index=False, name=None))
        return [
            (spec, seed)
            for seed in self.spec.seeds
            for spec in self.spec.defenses
            if (spec.name, seed) in there
        ]

    def record(self, name: str, seed: int) -> ModelRecord | None:
        """Return the record of a trained defense; None if there is none that can be read."""
        path = model_path(self.path, name, seed)
        if not path.exists():
            return None
        try:
            return read_model(path)
        except ResultsError:
            return None

    def drop(self, name: str, seed: int) -> int:
        """Delete what is there of a defense under a seed; return how many final cells that were.

        Both tables as they were before are kept beside the new ones, under ``.old``.
        """
        own = (self.cells["defense"] == name) & (self.cells["seed"] == seed)
        there = int((own & self.cells["status"].isin(FINAL)).sum())
        cells = self.cells[~own].reset_index(drop=True)
        samples = self.samples
        own = (samples["defense"] == name) & (samples["seed"] == seed)
        samples = samples[~own].reset_index(drop=True)
        with self._writing():
            if not self.dropped:
                for file in TABLE_FILES:
                    with suppress(FileNotFoundError):
                        data = (self.path / file).read_bytes()
                        write_atomic(self.path / f"{file}.old", data)
            forget(self.path, self.spec.dataset, name, seed)
            forget_codes(self.path, name, seed)
            forget_pictures(self.path, name, seed)
            forget_adversarial(self.path, name, seed)
            write_tables(self.path, cells, samples)
            model_path(self.path, name, seed).unlink(missing_ok=True)
        self.cells, self.samples, self.dropped = cells, samples, True
        self.beside.forget(model_path(self.path, name, seed))
        self.beside.remember()
        return there

    def tidy(self) -> None:
        """Delete what a killed process left half-written; only with the folder's lock held."""
        # Those of spec.json and run.json stay: they are written before the lock is held.
        for pattern in (".*.parquet*-*", "models/.*", "errors/.*"):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def is_final(self, seed: int, defense: DefenseSpec, attack: AttackSpec) -> bool:
        """Tell whether every cell of a sweep is there, ok or skipped."""
        own = self.cells[self._of_sweep(self.cells, seed, defense, attack)]
        final = own[own["status"].isin(FINAL)]
        return set(final["eps"]) >= set(attack.threat.eps)

    def timed_out(self, seed: int, defense: DefenseSpec, attack: AttackSpec) -> bool:
        """Tell whether a cell of a sweep failed because it took too long."""
        own = self.cells[self._of_sweep(self.cells, seed, defense, attack)]
        return bool((own["failure_kind"] == "time").any())

    def put(
        self,
        seed: int,
        defense: DefenseSpec,
        attack: AttackSpec,
        cells: pd.DataFrame,
        samples: pd.DataFrame,
        pictures: pd.DataFrame,
    ) -> bool:
        """Replace a sweep's rows in both tables, on disk and in memory; its pictures come first.

        Return whether the folder had been deleted and was written again. MachineError, with what is
        kept, if it cannot be written.
        """
        others = self.cells[~self._of_sweep(self.cells, seed, defense, attack)]
        kept_cells = _concat(others, cells)
        others = self.samples[~self._of_sweep(self.samples, seed, defense, attack)]
        kept_samples = _concat(others, samples)
        with self._writing():
            restored = self.beside.restore()
            if len(pictures):
                put_pictures(self.path, pictures)
            keep_last(self.path)
            write_tables(self.path, kept_cells, kept_samples)
        self.cells, self.samples = kept_cells, kept_samples
        self.beside.remember()
        return restored

    def put_model(self, record: ModelRecord) -> None:
        """Write a trained defense's record; MachineError, with what is kept, if that fails."""
        with self._writing():
            write_model(self.path, record)
        self.beside.remember()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, MemoryError) as error:
            done = int(self.cells["status"].isin(FINAL).sum())
            raise MachineError(
                f"{fault_line(error) or error}; {done} finished cells are kept in {self.path}"
            ) from error

    def keep_traceback(self, stem: str, error: Exception) -> str:
        """Keep a traceback for debugging the plugin; return one line for the results."""
        text = "".join(traceback.format_exception(error))
        with suppress(OSError):  # where there is no room for it, the line is enough
            write_atomic(self.path / "errors" / f"{safe_name(stem)}.txt", text.encode())
        return fault_line(error) if out_of_memory(error) else first_line(error)

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


def spec_file(spec: RunSpec) -> bytes:
    """Return ``spec`` as its file holds it: its checksum is the run's name."""
    settings = {**json.loads(spec.to_json()), NAME: SCHEMA_VERSION}
    return (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()


def _damaged_spec(path: Path, spec: RunSpec) -> dict[Path, str]:
    """Return what becomes of the folder's spec if it is damaged; UsageError if it is another."""
    file = path / "spec.json"
    try:
        found = read_spec(path)
    except ResultsError as error:
        if not file.exists():
            raise
        log.warning("%s; it is written again", str(error).partition(";")[0])
        return {file: "it is written again"}
    if found != spec:
        raise UsageError(
            f"{path} was made by another spec ({_difference(found, spec)});"
            " move it away or name another --out"
        )
    return {}


def _difference(found: RunSpec, wanted: RunSpec) -> str:
    """Name the first setting in which two specs differ."""
    for name, value in vars(wanted).items():
        if getattr(found, name) != value:
            return f"its {name} differ"
    return "its settings differ"
