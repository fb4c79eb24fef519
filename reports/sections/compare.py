"""The defenses compared at each eps: paired tests on the same images, and what they let one say."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from benchmark.results.audit_words import DISTRUSTED
from reports.analysis.flags import flags
from reports.analysis.outcomes import Outcomes, in_order, outcomes
from reports.analysis.pairs import (
    FEWEST,
    LEVEL,
    NEEDED,
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
from reports.sections.worst_case import worst_cases
from reports.tables import grid
from reports.tables.grid import NORM_WORDS, Cell, attack_title, span
from reports.tables.text_table import TextTable

MOST_PAIRS = 200
"""More pairs than that are in the CSV file only: nobody reads a longer table."""

Standings = Mapping[tuple[float, str], Standing]
"""What is robust at (eps, defense)."""


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
    files = {f"{prefix}compare.csv": grid.table_csv(table_of(family)).encode()}
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
        "family": span({c.family for c in compared}),
        "level": LEVEL,
        "several": any(c.seeds > 1 for c in compared),
        "few": any(c.seeds < FEWEST for c in compared),
        "enough": any(c.seeds >= FEWEST for c in compared),
        "absent": [name for name in order if not any(name in (c.a, c.b) for c in compared)],
        "file": f"{prefix}compare",
        "distrusted": [
            (word, names)
            for word in DISTRUSTED
            if (names := sorted({n for (_, n), own in flags(context).items() if own == word}))
        ],
    }
    title = "The defenses compared, image by image"
    return Section("compare", title, "sections/compare.html.j2", view, files)


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
            views.append({"a": a, "b": b, **pair_in_words(own)})
    return views


def pair_in_words(comparisons: Sequence[Comparison]) -> dict[str, str]:
    """Return the ``words`` on one pair, and its ``seeds`` where they are the same at every eps."""
    found = findings(comparisons)
    seeds = {finding.seeds for finding in found if finding.n}
    once = len(seeds) == 1
    words = [f.clause if once else f.sentence_part for f in found]
    words += dict.fromkeys(finding.lacking for finding in found if finding.lacking)
    return {"seeds": seeds.pop() if once else "", "words": "; ".join(words)}


def sentences_table(comparisons: Sequence[Comparison]) -> TextTable:
    """Return all findings, a row per pair and stretch of eps."""
    rows = []
    for scope, members in by_scope(comparisons).items():
        for own in by_pair(members).values():
            for finding in findings(own):
                interval = finding.interval.partition(" in ")[2]
                support = (finding.p, interval, finding.n, finding.seeds)
                rows.append(
                    [
                        scope,
                        finding.verdict.rstrip(","),
                        finding.eps,
                        *(text or "–" for text in support),
                    ]
                )
    compared = [c for c in comparisons if c.n]
    caption = (
        "Paired comparison of the defenses, image by image, with p-values corrected by Holm's"
        " method over the pairs under the same attacks at the same eps"
        f" ({span({c.family for c in compared})})"
    )
    if any(c.seeds >= FEWEST for c in compared):
        caption += (
            "; the difference is the first named minus the second, with its 95 % interval over"
            " images and trainings, for all these pairs together"
        )
    if any(c.seeds < FEWEST for c in compared):
        caption += f"; {NEEDED}"
    header = ["attacks", "verdict", "eps", "p", "difference", "n", "trainings"]
    return TextTable(caption, header, rows)


@dataclass(frozen=True)
class Matrix:
    """Every defense beside every other at one eps; a row’s cell says how it compares."""

    eps: float
    names: list[str]
    rows: list[Row]
    few: bool

    @property
    def caveat(self) -> str:
        """What “here” means, where the words speak of these trainings only."""
        cells = [cell.value for _, cells in self.rows for cell in cells]
        if not any(value.endswith("here") for value in cells):
            return ""
        lacking = f"; {NEEDED}" if self.few else "; other trainings may turn it round"
        return f", “here” being the trainings whose seeds are named{lacking}"

    @property
    def text(self) -> TextTable:
        """The matrix as words."""
        caption = f"Each row's defense beside each column's at eps {self.eps:g}{self.caveat}"
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
    few = any(c.n and c.seeds < FEWEST for c in at.values())
    return Matrix(eps, names, rows, few)


def _full(comparisons: Sequence[Comparison]) -> View:
    """Return the differences of all pairs at all eps."""
    eps = sorted({c.eps for c in comparisons})
    rows = []
    for (a, b), own in by_pair(comparisons).items():
        at = {c.eps: c for c in own}
        if any(c.n for c in own):
            rows.append({"a": a, "b": b, "cells": [difference_cell(at.get(e)) for e in eps]})
    return {"eps": eps, "rows": rows}
