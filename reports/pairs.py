"""Paired comparisons: who stands on more of the same images, tested, corrected, and in words."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmark.stats import holm, mcnemar, paired_randomization
from reports.outcomes import Fates, Outcomes, net_counts
from reports.tables import Cell, span
from reports.words import eps_words, runs_of

LEVEL = 0.05
"""A difference is called one where its adjusted p-value is below."""


@dataclass(frozen=True)
class Standing:
    """The fates (seeds, images) of a defense's images at one eps, with the seeds' names."""

    seeds: Sequence[int]
    fates: Fates


@dataclass(frozen=True)
class Comparison:
    """A against B on the images that both were attacked on, ``n`` of them, at one eps.

    ``scope`` says which attacks. ``only_a`` images stood in more seeds under A than under B,
    ``only_b`` in fewer. ``p`` is the test's p-value, ``adjusted`` Holm's over the whole family.
    Without an image to compare ``n`` is 0 and both are NaN.
    """

    scope: str
    eps: float
    a: str
    b: str
    n: int = 0
    seeds: int = 0
    accuracy_a: float = math.nan
    accuracy_b: float = math.nan
    only_a: int = 0
    only_b: int = 0
    p: float = math.nan
    adjusted: float = math.nan

    @property
    def difference(self) -> float:
        """The accuracy of A minus that of B, on the images compared."""
        return self.accuracy_a - self.accuracy_b

    @property
    def verdict(self) -> str:
        """``a`` or ``b``, whichever is better; ``even``: no difference shown; ``absent``."""
        if not self.n:
            return "absent"
        if not self.adjusted < LEVEL:
            return "even"
        return "a" if self.difference > 0 else "b"


def standings(found: Outcomes) -> dict[tuple[str, str, str, float, str], Standing]:
    """Return what stands at every (norm, attack, library, eps, defense) of a run."""
    seeds = found.cells["seed"].to_numpy()
    key = ["norm", "attack", "library", "eps", "defense"]
    groups: Mapping[Any, Any] = found.cells.groupby(key).indices
    return {
        values: Standing(seeds[rows].tolist(), found.stood[rows]) for values, rows in groups.items()
    }


class Counted(NamedTuple):
    """A comparison before its test, as :class:`Comparison`; ``better`` and ``worse`` per seed.

    They are what :func:`benchmark.stats.paired_randomization` takes.
    """

    scope: str
    eps: float
    a: str
    b: str
    n: int = 0
    seeds: int = 0
    accuracy_a: float = math.nan
    accuracy_b: float = math.nan
    better: Sequence[int] = ()
    worse: Sequence[int] = ()


Contest = tuple[str, str, Standing | None, Standing | None]
"""The names of A and B, and what stands of each."""


def count(scope: str, eps: float, contests: Iterable[Contest]) -> Iterator[Counted]:
    """Count the images that tell A from B in each of ``contests``, all at one eps.

    Seeds are paired by name; where the two share none, in their order. An image counts that both
    have in all these seeds.
    """
    groups: dict[Any, list[Any]] = {}
    for a, b, one, two in contests:
        if one is None or two is None:
            yield Counted(scope, eps, a, b)
        else:
            groups.setdefault(_paired_rows(one.seeds, two.seeds), []).append((a, b, one, two))
    for (rows_a, rows_b), group in groups.items():
        fates_a = np.stack([one.fates[list(rows_a)] for _, _, one, _ in group])
        fates_b = np.stack([two.fates[list(rows_b)] for _, _, _, two in group])
        for (a, b, _, _), numbers in zip(group, net_counts(fates_a, fates_b), strict=True):
            n, stood_a, stood_b, better, worse = numbers
            if not n:
                yield Counted(scope, eps, a, b)
                continue
            seeds = len(rows_a)
            share_a, share_b = stood_a / (n * seeds), stood_b / (n * seeds)
            yield Counted(scope, eps, a, b, n, seeds, share_a, share_b, better, worse)


def _paired_rows(
    ours: Sequence[int], theirs: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shared = [seed for seed in ours if seed in theirs]
    if shared:
        return tuple(map(ours.index, shared)), tuple(map(theirs.index, shared))
    rows = tuple(range(min(len(ours), len(theirs))))
    return rows, rows


def tested(found: Iterable[Counted]) -> list[Comparison]:
    """Return the comparisons with their p-values, adjusted over all of them as one family."""
    counted = list(found)
    rows = [i for i, c in enumerate(counted) if c.n]
    only_a, only_b = (
        np.array([sum(side) for side in sides], dtype=np.int64)
        for sides in ([c.better for c in counted], [c.worse for c in counted])
    )
    p = mcnemar(only_a, only_b)
    for i, c in enumerate(counted):
        if c.seeds > 1:
            p[i] = paired_randomization(c.better, c.worse)
    p[[not c.n for c in counted]] = math.nan
    adjusted = np.full(len(counted), math.nan)
    adjusted[rows] = holm(p[rows])
    numbers = zip(counted, only_a.tolist(), only_b.tolist(), p.tolist(), adjusted, strict=True)
    return [Comparison(*c[:8], a, b, raw, float(holms)) for c, a, b, raw, holms in numbers]


def table_of(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return a row per comparison, for CSV."""
    columns = ["scope", "eps", "a", "b", "n", "seeds", "accuracy_a", "accuracy_b", "difference"]
    columns += ["only_a", "only_b", "p", "adjusted", "verdict"]
    verdicts = {"a": "a better", "b": "b better", "even": "no difference shown"}
    frame = pd.DataFrame({name: [getattr(c, name) for c in comparisons] for name in columns})
    frame["verdict"] = frame["verdict"].map(lambda word: verdicts.get(word, "not compared"))
    return frame.rename(columns={"adjusted": "p_holm"})


# --- in words ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """What holds between A and B over a stretch of eps.

    ``verdict`` names them, ``brief`` stands after their names.
    """

    verdict: str
    brief: str
    eps: str
    p: str
    n: str

    @property
    def sentence(self) -> str:
        """``madry beats undefended at eps 0.1 to 0.3 (each p < 0.001, n = 1000)``."""
        return self._with_support(self.verdict)

    @property
    def clause(self) -> str:
        """The sentence where the pair was named before: ``no difference shown at eps 0 (…)``."""
        return self._with_support(self.brief)

    def _with_support(self, words: str) -> str:
        support = f" ({self.p}, n = {self.n})" if self.n else ""
        return f"{words} at eps {self.eps}{support}"


def findings(comparisons: Sequence[Comparison]) -> list[Finding]:
    """Return the findings on one pair, of comparisons in the order of eps.

    Comparisons that could not be made stand last, and part no stretch; the words tell the gaps.
    """
    grid = [c.eps for c in comparisons]
    compared = [c for c in comparisons if c.n]
    absent = [c for c in comparisons if not c.n]
    groups = runs_of(compared, lambda c: c.verdict)
    return [_finding(verdict, group, grid) for verdict, group in groups] + (
        [_finding("absent", absent, grid)] if absent else []
    )


def _finding(verdict: str, group: Sequence[Comparison], grid: Sequence[float]) -> Finding:
    a, b = group[0].a, group[0].b
    words, brief = {
        "a": (f"{a} beats {b}",) * 2,
        "b": (f"{b} beats {a}",) * 2,
        "even": (f"no difference shown between {a} and {b}", "no difference shown"),
        "absent": (f"{a} and {b} not compared", "not compared"),
    }[verdict]
    eps = eps_words([c.eps for c in group], grid)
    if verdict == "absent":
        return Finding(words, brief, eps, "", "")
    p = p_words([c.adjusted for c in group], largest=verdict != "even")
    return Finding(words, brief, eps, p, span(c.n for c in group))


def p_words(values: Sequence[float], *, largest: bool) -> str:
    """Return ``p = 0.012``, or of several ``each p ≤ 0.012`` (``largest``) or ``each p ≥ 0.31``.

    Rounded so that the bound holds, and never onto the level from below it.
    """
    bound = max(values) if largest else min(values)
    each = "each " if len(values) > 1 else ""
    if bound < 0.001:
        return f"{each}p < 0.001"
    if len(values) == 1 or min(values) == max(values):
        if bound < LEVEL and f"{bound:.3f}" == f"{LEVEL:.3f}":
            return f"{each}p < {LEVEL:g}"
        return f"{each}p = {f'{bound:.3f}' if bound < 1 else '1'}"
    slack = 1e-9
    if largest:
        return f"{each}p ≤ {math.ceil(bound * 1000 - slack) / 1000:g}"
    return f"{each}p ≥ {math.floor(bound * 1000 + slack) / 1000:g}"


def verdict_cell(comparison: Comparison | None) -> Cell:
    """Return A's place beside B as a cell of the matrix: better, worse or no difference shown."""
    if comparison is None or comparison.verdict == "absent":
        return Cell("not compared", status="missing")
    words = {"a": "better", "b": "worse", "even": "no difference shown"}
    return Cell(words[comparison.verdict], *_support(comparison))


def difference_cell(comparison: Comparison | None) -> Cell:
    """Return the difference with its p-value as a cell of the full table."""
    if comparison is None or comparison.verdict == "absent":
        return Cell("not compared", status="missing")
    _, _, note = _support(comparison)
    p = p_words([comparison.adjusted], largest=True)
    return Cell(signed(comparison.difference), p, note=note)


def _support(comparison: Comparison) -> tuple[str, str, str]:
    p = p_words([comparison.adjusted], largest=True)
    return f"{signed(comparison.difference)}, {p}", "", f"n = {comparison.n}"


def signed(value: float) -> str:
    """Return ``+0.120``, ``−0.120`` or ``0.000``."""
    text = f"{abs(value):.3f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"


def turned_round(comparison: Comparison) -> Comparison:
    """Return the same comparison of B with A."""
    c = comparison
    return replace(
        c,
        a=c.b,
        b=c.a,
        accuracy_a=c.accuracy_b,
        accuracy_b=c.accuracy_a,
        only_a=c.only_b,
        only_b=c.only_a,
    )


def by_pair(comparisons: Iterable[Comparison]) -> Mapping[tuple[str, str], list[Comparison]]:
    """Return the comparisons of each pair, in the order of eps."""
    pairs: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in sorted(comparisons, key=lambda c: c.eps):
        pairs.setdefault((comparison.a, comparison.b), []).append(comparison)
    return pairs


def by_scope(comparisons: Iterable[Comparison]) -> Mapping[str, list[Comparison]]:
    """Return the comparisons of each scope, in their order."""
    scopes: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        scopes.setdefault(comparison.scope, []).append(comparison)
    return scopes
