"""The audit's tables, beside a run's others: findings, verdicts, transfer and its own samples.

The report reads them; nothing here needs torch. The attacks of the audit leave samples in the
schema of samples.parquet, in a file of their own: what the run itself was asked for stays as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa

from benchmark.results.audit_words import ANSWERS, LEVELS, RULINGS, Ruling
from benchmark.results.schema import SAMPLES, ResultsError, columns
from benchmark.results.tables import (
    empty_table,
    forget_rows,
    load_table,
    read_samples,
    read_table,
    superseded,
    validate,
    write_table,
)

FINDINGS = columns(
    ("dataset", pa.string()),
    ("defense", pa.string()),
    ("seed", pa.int64()),
    ("attack", pa.string()),
    ("library", pa.string(), ""),
    ("level", pa.string()),
    ("check", pa.string()),
    ("answer", pa.string()),
    ("value", pa.float64()),
    ("threshold", pa.float64()),
    ("reason", pa.string()),
    ("evidence", pa.string()),
    ("question", pa.string()),
    ("seconds", pa.float64()),
)
"""A row per answer of a check: a :class:`benchmark.audit.case.Finding`, what the check asks, and
the seconds that it took (in its first row, if it has several: one per sweep). ``attack`` and
``library`` name the sweep that an answer is about, empty where it is about the defense itself."""

VERDICTS = columns(
    ("dataset", pa.string()),
    ("defense", pa.string()),
    ("seed", pa.int64()),
    ("norm", pa.string()),
    ("level", pa.string()),
    ("verdict", pa.string()),
    ("reasons", pa.string()),
    ("remarks", pa.string()),
    ("stochastic", pa.bool_()),
    ("eps", pa.float64()),
    ("n", pa.int64()),
    ("clean_accuracy", pa.float64()),
    ("plain_accuracy", pa.float64()),
    ("stronger_accuracy", pa.float64()),
    ("transfer_accuracy", pa.float64()),
    ("headline_accuracy", pa.float64()),
    ("headline_low", pa.float64()),
    ("headline_high", pa.float64()),
    ("p_value", pa.float64()),
    ("attacks", pa.string()),
    ("beaten_by", pa.string(), ""),
    ("rerun", pa.string(), ""),
    ("seconds", pa.float64()),
)
"""A row per (defense, seed, norm): :class:`benchmark.audit.verdict.Verdict`. ``reasons`` says why
an accuracy is not believed, or what a verdict lacks; ``remarks`` what a reader of a fair one should
know. Accuracies are at ``eps``, where they differ most, over the same ``n`` images: under all of
the run's own attacks (plain), the audit's (stronger), of which images made against the other
defenses (transfer), and under all of them together (headline, with its Wilson interval): per image,
or, where the defense is ``stochastic``, under the lowest one. The robust accuracy is at most the
headline. NaN where nothing was measured. ``p_value`` is that of the drop, over all eps; ``attacks``
names the audit's own, ``seconds`` is what they took. Where the drop is one, ``beaten_by`` names the
attack that took most and ``rerun`` is the command that runs it again, or the strongest that a run
can do and that takes as much as the rule asks; else they are empty.
"""

TRANSFER = columns(
    ("dataset", pa.string()),
    ("seed", pa.int64()),
    ("norm", pa.string()),
    ("eps", pa.float64()),
    ("source", pa.string()),
    ("target", pa.string()),
    ("n", pa.int64()),
    ("accuracy", pa.float64()),
)
"""A row per pair of defenses: the accuracy of ``target`` on adversarial images made against
``source``, clean errors counting against it; source and target alike is the attack on itself."""

CHECK_KEY = ["dataset", "defense", "seed", "check"]
VERDICTS_KEY = ["dataset", "defense", "seed", "norm"]
TRANSFER_KEY = ["dataset", "seed", "norm", "eps", "source", "target"]

VERDICTS_FILE = "verdicts.parquet"

_FILES = {
    "findings": "audit.parquet",
    "verdicts": VERDICTS_FILE,
    "transfer": "transfer.parquet",
    "samples": "audit_samples.parquet",
}
_FRACTIONS = [name for name in VERDICTS.names if name.endswith(("accuracy", "_low", "_high"))]


@dataclass(frozen=True)
class AuditTables:
    """What was found so far; tables that are not there are empty."""

    findings: pd.DataFrame
    verdicts: pd.DataFrame
    transfer: pd.DataFrame
    samples: pd.DataFrame

    @property
    def seconds(self) -> float:
        """The time that the audit took: its checks and its attacks."""
        spent = self.findings["seconds"].sum() + self.verdicts["seconds"].sum()
        return float(spent)


def readers(run_dir: Path) -> list[tuple[Path, Callable[[], object]]]:
    """Return the paths of the audit's tables, each with what reads and validates it."""
    return [
        (run_dir / _FILES["findings"], partial(read_findings, run_dir)),
        (run_dir / _FILES["verdicts"], partial(read_verdicts, run_dir)),
        (run_dir / _FILES["transfer"], partial(_read, run_dir, "transfer", TRANSFER)),
        (run_dir / _FILES["samples"], partial(read_samples, run_dir / _FILES["samples"])),
    ]


def no_audit() -> AuditTables:
    """Return the tables of a run that was not audited."""
    return AuditTables(*map(empty_table, (FINDINGS, VERDICTS, TRANSFER, SAMPLES)))


def read_audit(run_dir: Path) -> AuditTables:
    """Read and validate a run's audit; ResultsError names the first violation."""
    return AuditTables(
        _read(run_dir, "findings", FINDINGS),
        _read(run_dir, "verdicts", VERDICTS),
        _read(run_dir, "transfer", TRANSFER),
        read_samples(run_dir / _FILES["samples"]),
    )


def read_findings(run_dir: Path) -> pd.DataFrame:
    """Read and validate the findings alone."""
    return _read(run_dir, "findings", FINDINGS)


def read_verdicts(run_dir: Path) -> pd.DataFrame:
    """Read and validate the verdicts alone."""
    return _read(run_dir, "verdicts", VERDICTS)


def put_findings(run_dir: Path, rows: pd.DataFrame) -> None:
    """Write ``rows`` in place of the findings of the same checks."""
    _put(run_dir, "findings", FINDINGS, rows, CHECK_KEY)


def put_verdicts(run_dir: Path, rows: pd.DataFrame) -> None:
    """Write ``rows`` in place of the verdicts on the same defenses, seeds and norms."""
    _put(run_dir, "verdicts", VERDICTS, rows, VERDICTS_KEY)


def put_transfer(run_dir: Path, rows: pd.DataFrame) -> None:
    """Write ``rows`` in place of the same pairs' at the same eps."""
    _put(run_dir, "transfer", TRANSFER, rows, TRANSFER_KEY)


def put_samples(run_dir: Path, rows: pd.DataFrame) -> None:
    """Write ``rows`` in place of the audit's samples of the same defenses, seeds and norms."""
    path = run_dir / _FILES["samples"]
    rows = validate(rows, SAMPLES, path.name)
    before = read_table(path, SAMPLES)
    write_table(path, superseded(before, rows, VERDICTS_KEY), SAMPLES)


def forget(run_dir: Path, dataset: str, defense: str, seed: int) -> None:
    """Delete what was found about a defense that is about to be attacked again."""
    for what, schema in (
        ("findings", FINDINGS),
        ("verdicts", VERDICTS),
        ("samples", SAMPLES),
        ("transfer", TRANSFER),
    ):
        path = run_dir / _FILES[what]
        if not path.exists():
            continue
        table = read_table(path, SAMPLES) if what == "samples" else _read(run_dir, what, schema)
        of_defense = [
            table[name] == defense for name in ("defense", "source", "target") if name in table
        ]
        own = (table["dataset"] == dataset) & (table["seed"] == seed)
        forget_rows(path, table, own & pd.concat(of_defense, axis=1).any(axis=1), schema)


def check_findings(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the table in its schema's order and dtypes; ResultsError names the first violation."""
    rows = validate(rows, FINDINGS, where)
    _known(rows, "answer", ANSWERS, where)
    _known(rows, "level", LEVELS, where)
    _single(rows, [*CHECK_KEY, "attack", "library"], "a check's answer", where)
    if (rows.loc[rows["answer"] != "pass", "evidence"] == "").any():
        raise ResultsError(f"{where}: a finding other than a pass has no evidence")
    return rows


def check_verdicts(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the table in its schema's order and dtypes; ResultsError names the first violation."""
    rows = validate(rows, VERDICTS, where)
    _known(rows, "verdict", RULINGS, where)
    _known(rows, "level", LEVELS, where)
    _single(rows, VERDICTS_KEY, "a verdict", where)
    _fractions(rows, _FRACTIONS, where)
    fair = rows["verdict"] == "attacked fairly"
    if (rows.loc[~fair, "reasons"] == "").any():
        raise ResultsError(f"{where}: a verdict other than 'attacked fairly' has no reason")
    if rows.loc[fair, "stronger_accuracy"].isna().any():
        raise ResultsError(f"{where}: 'attacked fairly' without the stronger attack")
    return rows


def check_transfer(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the table in its schema's order and dtypes; ResultsError names the first violation."""
    rows = validate(rows, TRANSFER, where)
    _single(rows, TRANSFER_KEY, "a pair", where)
    _fractions(rows, ["accuracy"], where)
    return rows


_CHECKS = {"findings": check_findings, "verdicts": check_verdicts, "transfer": check_transfer}


def _read(run_dir: Path, what: str, schema: pa.Schema) -> pd.DataFrame:
    path = run_dir / _FILES[what]
    if not path.exists():
        return empty_table(schema)
    return _CHECKS[what](_of_today(load_table(path, schema), what), str(path))


OLD_INVALID = (
    *("tested on training images", "attacked function is not the judged", "changes when asked"),
    *("outputs are probabilities", "outputs are one-hot", "answers hang on the batch"),
    *("undeclared randomness", "holds only at the stored images"),
)
OLD_TOO_WEAK = (
    *("the run's attack falls short", "loss does not rise", "success lost on the way"),
    *("unbounded attack fails", "flat in eps", "random noise beats the attack"),
    *("attack not converged", "black box beats the attack"),
)
"""What an older version, which said ``masked`` of three things, gave as the first reason."""


def _of_today(frame: pd.DataFrame, what: str) -> pd.DataFrame:
    """Return a table as this version writes it."""
    if what == "verdicts" and {"verdict", "reasons"} <= set(frame):
        old = frame["verdict"] == "masked"
        frame.loc[old, "verdict"] = frame.loc[old, "reasons"].map(_ruling_of_masked)
    return frame


def _ruling_of_masked(reasons: str) -> Ruling:
    words = str(reasons).split("; ")
    if set(words) & set(OLD_INVALID):
        return "invalid"
    return "attack too weak" if words[0] in OLD_TOO_WEAK else "gradient masking"


def _put(
    run_dir: Path, what: str, schema: pa.Schema, rows: pd.DataFrame, key: Sequence[str]
) -> None:
    path = run_dir / _FILES[what]
    rows = _CHECKS[what](rows, path.name)
    write_table(path, superseded(_read(run_dir, what, schema), rows, list(key)), schema)


def _known(rows: pd.DataFrame, column: str, words: Sequence[str], where: str) -> None:
    unknown = sorted(set(rows[column]) - set(words))
    if unknown:
        raise ResultsError(f"{where}: unknown {column} {unknown[0]!r}")


def _single(rows: pd.DataFrame, key: Sequence[str], what: str, where: str) -> None:
    if rows.duplicated(list(key)).any():
        raise ResultsError(f"{where}: {what} appears twice")


def _fractions(rows: pd.DataFrame, names: Sequence[str], where: str) -> None:
    if not rows[names].apply(lambda column: column.between(0, 1) | column.isna()).all(axis=None):
        raise ResultsError(f"{where}: an accuracy lies outside [0, 1]")
