"""Which defense is better, at each eps: paired tests on the same images, and their verdicts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from benchmark.audit.words import DISTRUSTED
from reports import tables
from reports.flags import flags
from reports.outcomes import Outcomes, in_order, outcomes
from reports.pairs import (
    LEVEL,
    Comparison,
    Counted,
    Standing,
    by_pair,
    by_scope,
    count,
    difference_cell,
    findings,
    standings,
    table_of,
    tested,
    turned_round,
    verdict_cell,
)
from reports.section import RunContext, Section, View
from reports.tables import NORM_WORDS, Cell, attack_title
from reports.text_table import TextTable
from reports.worst_case import worst_cases

MOST_PAIRS = 200
"""More pairs than that stand in the CSV file only: nobody reads a longer table."""

Standings = Mapping[tuple[float, str], Standing]
"""What stands at (eps, defense)."""


Row = tuple[str, list[Cell]]


def make(context: RunContext) -> Section | None:
    """Return the section; None where the run has no two defenses to compare."""
    found = outcomes(context)
    order = in_order(list(found.cells["defense"]), [d.name for d in context.run.spec.defenses])
    worst = _worst_scopes(found)
    scopes = worst | _attack_scopes(found)
    family = tested(
        pair for scope, standing in scopes.items() for pair in _pairs(scope, standing, order)
    )
    compared = [c for c in family if c.n]
    if not compared:
        return None
    prefix = context.prefix
    files = {f"{prefix}compare.csv": tables.table_csv(table_of(family)).encode()}
    files |= sentences_table(family).files(f"{prefix}compare")
    parts = []
    for i, (scope, own) in enumerate(by_scope(family).items(), 1):
        if not any(c.n for c in own):
            continue
        part: View = {"scope": scope, "pairs": in_words(own), "matrix": None}
        if scope in worst:
            part["matrix"] = _matrix(own, order)
            part["file"] = f"{prefix}compare-{i}"
            text = part["matrix"].text
            files |= text.files(part["file"]) | {f"{part['file']}.csv": text.csv().encode()}
            part["full"] = _full(own) if len(by_pair(own)) <= MOST_PAIRS else None
        parts.append(part)
    view = {
        "parts": parts,
        "family": len(compared),
        "level": LEVEL,
        "seeds": max(c.seeds for c in compared),
        "absent": [name for name in order if not any(name in (c.a, c.b) for c in compared)],
        "file": f"{prefix}compare",
        "distrusted": [
            (word, names)
            for word in DISTRUSTED
            if (names := sorted({n for (_, n), own in flags(context).items() if own == word}))
        ],
    }
    return Section("compare", "Which defense is better", "sections/compare.html.j2", view, files)


def _worst_scopes(found: Outcomes) -> dict[str, Standings]:
    scopes: dict[str, dict[tuple[float, str], Standing]] = {}
    for case in worst_cases(found):
        scope = f"every attack, {NORM_WORDS.get(case.norm, case.norm)}"
        scopes.setdefault(scope, {})[case.eps, case.defense] = Standing(case.seeds, case.fates)
    return dict(sorted(scopes.items(), key=lambda item: "∞" not in item[0]))


def _attack_scopes(found: Outcomes) -> dict[str, Standings]:
    """Single attacks, of the norms that have several: alone, one is every attack."""
    key = ["norm", "attack", "library"]
    several = found.cells[key].drop_duplicates().groupby("norm").size()
    scopes: dict[str, dict[tuple[float, str], Standing]] = {}
    for (norm, attack, library, eps, defense), standing in standings(found).items():
        if several[norm] > 1:
            scope = attack_title({"norm": norm, "attack": attack, "library": library})
            scopes.setdefault(scope, {})[eps, defense] = standing
    return dict(scopes)


def _pairs(scope: str, standing: Standings, order: Sequence[str]) -> Iterator[Counted]:
    """Compare every two defenses of ``scope`` at every eps at which one of them has a result."""
    present = {defense for _, defense in standing}
    names = [name for name in order if name in present]
    for eps in sorted({eps for eps, _ in standing}):
        at = {name: standing.get((eps, name)) for name in names}
        contests = ((a, b, at[a], at[b]) for a, b in combinations(names, 2) if at[a] or at[b])
        yield from count(scope, eps, contests)


# --- what is read ------------------------------------------------------------------------------


def in_words(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return, per pair that could be compared, its findings in words."""
    views = []
    for (a, b), own in by_pair(comparisons).items():
        if any(c.n for c in own):
            words = "; ".join(finding.clause for finding in findings(own))
            views.append({"a": a, "b": b, "words": words})
    return views


def sentences_table(comparisons: Sequence[Comparison]) -> TextTable:
    """Return all findings, a row per pair and stretch of eps."""
    rows = []
    for scope, members in by_scope(comparisons).items():
        for own in by_pair(members).values():
            for finding in findings(own):
                support = [finding.p or "–", finding.n or "–"]
                rows.append([scope, finding.verdict, finding.eps, *support])
    family = sum(c.n > 0 for c in comparisons)
    caption = (
        "Paired comparison of the defenses, image by image, with p-values corrected by Holm's"
        f" method over {family} comparisons"
    )
    return TextTable(caption, ["attacks", "verdict", "eps", "p", "n"], rows)


@dataclass(frozen=True)
class Matrix:
    """Every defense beside every other at one eps; a row's cell says how it stands."""

    eps: float
    names: list[str]
    rows: list[Row]

    @property
    def text(self) -> TextTable:
        """The matrix as words."""
        caption = f"Each row's defense beside each column's at eps {self.eps:g}"
        rows = [[name, *(cell.text for cell in cells)] for name, cells in self.rows]
        return TextTable(caption, ["defense", *self.names], rows)


def _matrix(comparisons: Sequence[Comparison], order: Sequence[str]) -> Matrix:
    """Return the matrix in the middle of the eps at which most pairs were compared."""
    counts = {c.eps: 0 for c in comparisons}
    for c in comparisons:
        counts[c.eps] += c.n > 0
    best = sorted(eps for eps, count in counts.items() if count == max(counts.values()))
    eps = best[len(best) // 2]
    at = {(c.a, c.b): c for c in comparisons if c.eps == eps}
    at |= {(c.b, c.a): turned_round(c) for c in at.values()}
    names = [name for name in order if any(name in pair and c.n for pair, c in at.items())]
    rows = [
        (a, [Cell("–") if a == b else verdict_cell(at.get((a, b))) for b in names]) for a in names
    ]
    return Matrix(eps, names, rows)


def _full(comparisons: Sequence[Comparison]) -> View:
    """Return the differences of all pairs at all eps."""
    eps = sorted({c.eps for c in comparisons})
    rows = []
    for (a, b), own in by_pair(comparisons).items():
        at = {c.eps: c for c in own}
        if any(c.n for c in own):
            rows.append({"a": a, "b": b, "cells": [difference_cell(at.get(e)) for e in eps]})
    return {"eps": eps, "rows": rows}
