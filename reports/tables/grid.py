"""Numbers of a run as tables: the grid it asked for, pooled over seeds, as CSV and LaTeX.

A cell that is not ok reads ``failed``, ``skipped`` or ``not run``: never blank, never 0.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from benchmark.config.threat import eps_key
from benchmark.results.row_keys import count_distinct
from benchmark.results.run import Run
from benchmark.results.schema import CELL_KEY, CELLS
from benchmark.results.tables import empty_table
from benchmark.stats import wilson_intervals
from reports.tables.writers import csv_text, latex_escape, latex_tabular, markdown_table

STATUS_WORDS = {"ok": "ok", "failed": "failed", "skipped": "skipped", "missing": "not run"}
ATTACK_KEY = ["dataset", "attack", "library", "norm"]
LATEX_BLOCK = 5  # eps columns side by side on a page of text
LATEX_ROWS = 16  # rows of a page

Row = dict[Any, Any]


def number(value: Any, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` decimals, or a dash where there is none."""
    return f"{value:.{digits}f}" if is_number(value) else "–"


def is_number(value: Any) -> bool:
    """Tell whether ``value`` is a finite number (a log may hold None or anything else)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _key(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    # Parquet and JSON both keep floats exactly; this only forgives hand-made tables.
    return tuple(eps_key(row[name]) if name == "eps" else row[name] for name in CELL_KEY)


def grid(run: Run) -> pd.DataFrame:
    """Return every cell that the spec asks for, in its order, then any that it does not.

    The columns are those of the cells table. A cell without a row there has the status
    ``missing`` and NaN for every measurement.
    """
    spec = run.spec
    found = {_key(row): row for row in run.cells.to_dict("records")}
    rows: dict[tuple[Any, ...], Mapping[Any, Any]] = {}
    for attack in spec.attacks:
        for defense in spec.defenses:
            for eps in attack.threat.eps:
                for seed in spec.seeds:
                    values = (spec.dataset, defense.name, attack.name, attack.library)
                    values_eps = (attack.threat.norm, eps, seed)
                    row: Row = dict(zip(CELL_KEY, values + values_eps, strict=True))
                    absent = {**row, "status": "missing", "reason": "not run yet", "n": 0}
                    rows[_key(row)] = found.get(_key(row), absent)
    rows |= {key: row for key, row in found.items() if key not in rows}
    if not rows:
        return empty_table(CELLS)
    return pd.DataFrame(list(rows.values()), columns=list(CELLS.names))


def pool(cells: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """Pool the seeds of :func:`grid`'s cells: one row per (attack, eps, defense), in its order.

    ``robust_accuracy`` is the mean over the seeds that are ok (by images, which is the mean over
    seeds where each attacked as many). Its interval is over *distinct* images: models of several
    seeds attacked on the same 100 images tell about 100 images, not about 300; that is what
    ``images`` counts. ``seed_low`` and ``seed_high`` are the extremes over seeds.
    """
    keys = [*ATTACK_KEY, "defense", "eps"]
    ok = cells["status"] == "ok"
    groups = cells.assign(ok=ok, rank=cells["status"].map(_RANK)).groupby(keys, sort=False)
    rows = groups.agg(seeds=("ok", "size"), seeds_ok=("ok", "sum"), rank=("rank", "min"))
    rows["status"] = rows.pop("rank").map(dict(enumerate(_RANK)))
    own = cells[ok].assign(
        right=lambda own: own["robust_accuracy"] * own["n"],
        clean=lambda own: own["clean_accuracy"] * own["n"],
    )
    found = own.groupby(keys, sort=False).agg(
        n=("n", "max"),
        total=("n", "sum"),
        right=("right", "sum"),
        clean=("clean", "sum"),
        seed_low=("robust_accuracy", "min"),
        seed_high=("robust_accuracy", "max"),
        median_distance=("median_distance", "mean"),
        **{f"one_{name}": (name, "first") for name in _RECORDED},
    )
    found["images"] = found["n"]
    if cells["seed"].nunique() > 1 and len(samples):
        found["images"] = _images(samples, keys).reindex(found.index).fillna(found["n"])
    rows = rows.join(found)
    for column, hits, low, high in (
        ("robust_accuracy", "right", "ci_low", "ci_high"),
        ("clean_accuracy", "clean", "clean_low", "clean_high"),
    ):
        rows[column] = (rows[hits] / rows["total"]).clip(0, 1)
        known = rows[column].notna()
        rows[low] = rows[high] = math.nan
        images = rows.loc[known, "images"]
        rows.loc[known, [low, high]] = np.stack(
            wilson_intervals(rows.loc[known, column] * images, images), axis=1
        )
    single = rows["seeds_ok"] == 1  # what the run recorded, to the last digit
    for name in _RECORDED:
        rows[name] = rows[name].where(~single, rows[f"one_{name}"])
    columns = [
        *(*keys, "status", "seeds", "seeds_ok", "n", "images"),
        *("robust_accuracy", "ci_low", "ci_high", "seed_low", "seed_high"),
        *("clean_accuracy", "clean_low", "clean_high", "median_distance"),
    ]
    return rows.reset_index()[columns]


_RANK = {"ok": 0, "failed": 1, "missing": 2, "skipped": 3}
"""The first of these that a seed has is the cell's. Skipped last: no seed will have a result."""

_RECORDED = ("robust_accuracy", "ci_low", "ci_high")


def _images(samples: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """Count the distinct images of each group, over its seeds."""
    return count_distinct(samples, keys, "sample_id").set_index(list(keys))["n"]


def table_csv(frame: pd.DataFrame) -> str:
    """Return ``frame`` as CSV whose numbers do not depend on the machine's last bit."""
    return str(frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


# --- the accuracy table of one attack ----------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A cell as it is read: ``0.974`` ``[0.958, 0.984]``, or only a status word.

    ``spread`` holds the lowest and the highest seed; ``note`` says if some seeds are lacking.
    """

    value: str
    interval: str = ""
    spread: str = ""
    note: str = ""
    status: str = "ok"

    @property
    def text(self) -> str:
        """Everything on one line."""
        spread = f"(seeds {self.spread})" if self.spread else ""
        note = f"({self.note})" if self.note else ""
        return " ".join(part for part in (self.value, self.interval, spread, note) if part)


@dataclass(frozen=True)
class AccuracyTable:
    """Robust accuracy under one attack: a row per defense (clean first), a column per eps.

    Defenses of which every cell was skipped have no row; ``skipped`` names them. ``flags`` are the
    audit's words for defenses, empty where the run was not audited.
    """

    attack: Mapping[str, str]
    eps: list[float]
    rows: list[tuple[str, Cell, list[Cell]]]
    skipped: list[str]
    images: str
    seeds: int
    flags: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The attack's name, library and norm."""
        return attack_title(self.attack)

    def csv(self) -> str:
        """Return the table as it reads, comma-separated."""
        return csv_text([self._header(), *self._words()])

    def markdown(self) -> str:
        """Return the table as it reads, with pipes."""
        return markdown_table(self._header(), self._words())

    def _header(self) -> list[str]:
        audit = ["audit"] if self.flags else []
        return ["defense", *audit, "clean", *(f"eps {eps:g}" for eps in self.eps)]

    def _words(self) -> list[list[str]]:
        return [
            [name, *self._flag(name), *(cell.text for cell in (clean, *cells))]
            for name, clean, cells in self.rows
        ]

    def _flag(self, name: str) -> list[str]:
        return [self.flags.get(name, "not audited")] if self.flags else []

    def latex(self) -> str:
        """Return a LaTeX table for the booktabs package; long grids are broken into blocks."""
        blocks = []
        for start in range(0, len(self.eps), LATEX_BLOCK):
            part = slice(start, start + LATEX_BLOCK)
            header = ["defense", "clean", *(rf"$\varepsilon={eps:g}$" for eps in self.eps[part])]
            body = [
                [self._latex_name(name), *map(_latex_cell, [clean, *cells[part]])]
                for name, clean, cells in self.rows
            ]
            blocks.append(latex_tabular(header, body, "l" + "c" * (len(header) - 1)))
        caption = (
            f"Robust accuracy on {latex_escape(self.attack['dataset'])} under"
            f" {latex_escape(self.title)}, with Wilson 95\\,\\% intervals over"
            f" {self.images} images, not over trainings"
            + (f"; below, the lowest and highest of {self.seeds} seeds" if self.seeds > 1 else "")
        )
        # A float cannot be broken: as many blocks as a page holds, then another float.
        per_page = max(1, LATEX_ROWS // max(1, len(self.rows)))
        lines = ["% needs \\usepackage{booktabs}"]
        if self.skipped:
            lines.append(f"% skipped: {latex_escape(', '.join(self.skipped))}")
        for start in range(0, len(blocks), per_page):
            continued = " (continued)" if start else ""
            lines += [
                "\\begin{table}",
                "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}",
                f"\\caption{{{caption}{continued}.}}",
                "\n\\medskip\n\n".join(blocks[start : start + per_page]) + "\\end{table}",
            ]
        return "\n".join([*lines, ""])

    def _latex_name(self, name: str) -> str:
        flags = [rf" {{\tiny {latex_escape(word)}}}" for word in self._flag(name)]
        return latex_escape(name) + "".join(flags)


def attack_title(attack: Mapping[str, Any]) -> str:
    """Return ``pgd (inhouse, l∞)``."""
    return f"{attack['attack']} ({attack['library']}, {NORM_WORDS.get(attack['norm'], '?')})"


NORM_WORDS = {"linf": "l∞", "l2": "l2", "l1": "l1", "l0": "l0"}


def accuracy_tables(
    pooled: pd.DataFrame, flags: Mapping[tuple[str, str], str] = MappingProxyType({})
) -> list[AccuracyTable]:
    """Return a table per attack, in the run's order, of :func:`pool`'s rows.

    A column ``remark``, if there is one, adds to the cells' notes. ``flags`` are the audit's words
    for (norm, defense).
    """
    tables = []
    for values, group in pooled.groupby(ATTACK_KEY, sort=False):
        attack: Row = dict(zip(ATTACK_KEY, values, strict=True))
        eps = sorted(set(group["eps"]))
        by_key = {(row["defense"], row["eps"]): row for row in group.to_dict("records")}
        rows, skipped = [], []
        for name in dict.fromkeys(group["defense"]):
            own = [by_key.get((name, value), {"status": "missing"}) for value in eps]
            if all(row["status"] == "skipped" for row in own):
                skipped.append(name)
            else:
                rows.append((name, _clean(own), [_robust(row) for row in own]))
        images = group.loc[group["status"] == "ok", "images"]
        tables.append(
            AccuracyTable(
                attack=attack,
                eps=eps,
                rows=rows,
                skipped=skipped,
                images=span(images) or "no",
                seeds=int(group["seeds"].max()),
                flags={
                    name: word for (norm, name), word in flags.items() if norm == attack["norm"]
                },
            )
        )
    return tables


def span(values: Iterable[float]) -> str:
    """Return ``100``, or ``50 to 100`` where they differ."""
    distinct = sorted(set(values))
    ends = distinct[:1] + distinct[1:][-1:]
    return " to ".join(f"{value:g}" for value in ends)


def _robust(row: Mapping[Any, Any]) -> Cell:
    if row["status"] != "ok":
        return Cell(STATUS_WORDS[row["status"]], status=row["status"])
    interval = f"[{number(row['ci_low'])}, {number(row['ci_high'])}]"
    several = row["seeds_ok"] > 1
    spread = f"{number(row['seed_low'])}–{number(row['seed_high'])}" if several else ""
    lacking = row["seeds_ok"] < row["seeds"]
    notes = [f"{row['seeds_ok']} of {row['seeds']} seeds"] if lacking else []
    notes += [row["remark"]] if row.get("remark") else []
    return Cell(number(row["robust_accuracy"]), interval, spread, ", ".join(notes))


def _clean(rows: Sequence[Mapping[Any, Any]]) -> Cell:
    """Clean accuracy on the attacked images: of the first ok cell, for all share the images."""
    row = next((row for row in rows if row["status"] == "ok"), None)
    if row is None:
        return _robust(rows[0])
    interval = f"[{number(row['clean_low'])}, {number(row['clean_high'])}]"
    return Cell(number(row["clean_accuracy"]), interval)


def _latex_cell(cell: Cell) -> str:
    if not cell.interval:
        return f"\\emph{{{latex_escape(cell.value)}}}"
    # Braces again: the interval's bracket must not become an option of \\.
    lines = [cell.value, f"{{\\tiny {cell.interval}}}"]
    extras = (cell.spread, cell.note)
    lines += [f"{{\\tiny {latex_escape(extra)}}}" for extra in extras if extra]
    stack = "\\\\ ".join(lines) + "\\rule[-4pt]{0pt}{4pt}"
    return f"\\begin{{tabular}}[t]{{@{{}}c@{{}}}}{stack}\\end{{tabular}}"
