"""Paired comparisons: who is robust on more of the same images, tested, corrected, and in words.

A p-value speaks about other images under these trained models. What the models' methods are worth
shows only over several trainings: below ``FEWEST`` of them no method is called better, and from
there on only where the interval over images and trainings leaves out 0 as well.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmark.stats import Spread, crossed_spread, holm, mcnemar, paired_randomization
from reports.analysis.outcomes import ABSENT, ROBUST, Fates, Outcomes, net_counts
from reports.analysis.ranges import eps_words, runs_of
from reports.tables.grid import Cell, span

LEVEL = 0.05
"""A difference is called one where its adjusted p-value is below."""

FEWEST = 3
"""Trainings a side from which on methods are compared: of two the spread says next to nothing."""

NEEDED = "three seeds are needed to compare the methods"


@dataclass(frozen=True)
class Standing:
    """The fates (seeds, images) of a defense's images at one eps, with the seeds' names.

    ``models`` are the keys of the trained models, one per seed, where they are known: equal keys
    are one and the same training.
    """

    seeds: Sequence[int]
    fates: Fates
    models: Sequence[str] = ()


@dataclass(frozen=True)
class Comparison:
    """A against B on the images that both were attacked on, ``n`` of them, at one eps.

    ``scope`` says which attacks, ``seeds_a`` and ``seeds_b`` which trainings, equally many;
    ``same`` that both sides are the same trained models. ``only_a`` images were robust in more
    seeds under A than under B, ``only_b`` in fewer. ``p`` is the test's p-value, ``adjusted``
    Holm's over the ``family``, the number of comparisons that are read together. ``low`` and
    ``high`` are the interval of the difference over images and trainings, at 95 % for the whole
    family together; NaN where there are too few trainings. Without an image to compare ``n`` is 0.
    """

    scope: str
    eps: float
    a: str
    b: str
    n: int = 0
    seeds_a: tuple[int, ...] = ()
    seeds_b: tuple[int, ...] = ()
    accuracy_a: float = math.nan
    accuracy_b: float = math.nan
    same: bool = False
    only_a: int = 0
    only_b: int = 0
    p: float = math.nan
    adjusted: float = math.nan
    low: float = math.nan
    high: float = math.nan
    family: int = 0

    @property
    def seeds(self) -> int:
        """The number of trainings a side."""
        return len(self.seeds_a)

    @property
    def difference(self) -> float:
        """The accuracy of A minus that of B, on the images compared."""
        return self.accuracy_a - self.accuracy_b

    @property
    def more(self) -> str:
        """``a`` or ``b``, whichever keeps more images under these trained models, or nothing."""
        if not self.adjusted < LEVEL:  # NaN where nothing was compared
            return ""
        return "a" if self.difference > 0 else "b"

    @property
    def verdict(self) -> str:
        """What may be said of the two.

        ``absent``: not compared; ``even``: no difference shown; ``better``: the method of
        :attr:`more` is; else it keeps more images, but only of the ``same`` trained models, with
        too ``few`` trainings to speak of methods, or with an interval over trainings that holds 0
        (``open``).
        """
        if not self.n:
            return "absent"
        if not self.more:
            return "even"
        if self.same:
            return "same"
        if self.seeds < FEWEST:
            return "few"
        return "better" if self.low > 0 or self.high < 0 else "open"


def standings(found: Outcomes) -> dict[tuple[str, str, str, float, str], Standing]:
    """Return what is robust at every (norm, attack, library, eps, defense) of a run."""
    seeds = found.cells["seed"].to_numpy()
    key = ["norm", "attack", "library", "eps", "defense"]
    groups: Mapping[Any, Any] = found.cells.groupby(key).indices
    return {
        values: Standing(seeds[rows].tolist(), found.robust[rows])
        for values, rows in groups.items()
    }


class Counted(NamedTuple):
    """A comparison before its test, as :class:`Comparison`; ``better`` and ``worse`` per seed.

    They are what :func:`benchmark.stats.paired_randomization` takes. Comparisons of one ``family``
    at one eps are read together, and corrected together. ``spread`` is that of the difference over
    images and trainings, where there are enough trainings.
    """

    family: str
    scope: str
    eps: float
    a: str
    b: str
    n: int = 0
    seeds_a: tuple[int, ...] = ()
    seeds_b: tuple[int, ...] = ()
    accuracy_a: float = math.nan
    accuracy_b: float = math.nan
    same: bool = False
    better: Sequence[int] = ()
    worse: Sequence[int] = ()
    spread: Spread | None = None


Contest = tuple[str, str, Standing | None, Standing | None]
"""The names of A and B, and what is robust of each."""


def count(
    scope: str, eps: float, contests: Iterable[Contest], family: str | None = None
) -> Iterator[Counted]:
    """Count the images that tell A from B in each of ``contests``, all at one eps.

    The sides take equally many trainings: those that are the same trained model on both sides, if
    any are; else seeds of the same name, and the others in their order. An image counts that both
    have in all these seeds. ``family`` is the scope itself unless it is given.
    """
    family = scope if family is None else family
    groups: dict[Any, list[Any]] = {}
    for a, b, one, two in contests:
        if one is None or two is None:
            yield Counted(family, scope, eps, a, b)
        else:
            groups.setdefault(_paired_rows(one, two), []).append((a, b, one, two))
    for (rows_a, rows_b, same), group in groups.items():
        fates_a = np.stack([one.fates[list(rows_a)] for _, _, one, _ in group])
        fates_b = np.stack([two.fates[list(rows_b)] for _, _, _, two in group])
        for i, numbers in enumerate(net_counts(fates_a, fates_b)):
            a, b, one, two = group[i]
            n, robust_a, robust_b, better, worse = numbers
            if not n:
                yield Counted(family, scope, eps, a, b)
                continue
            share_a, share_b = (robust / (n * len(rows_a)) for robust in (robust_a, robust_b))
            seeds_a, seeds_b = (
                tuple(int(side.seeds[row]) for row in rows)
                for side, rows in ((one, rows_a), (two, rows_b))
            )
            sides = (seeds_a, seeds_b, share_a, share_b, same, better, worse)
            spread = None if same else _spread(fates_a[i], fates_b[i])
            yield Counted(family, scope, eps, a, b, n, *sides, spread)


def _spread(a: Fates, b: Fates) -> Spread | None:
    both = (a != ABSENT).all(axis=0) & (b != ABSENT).all(axis=0)
    if len(a) < FEWEST or both.sum() < 2:
        return None
    return crossed_spread(a[:, both] == ROBUST, b[:, both] == ROBUST)


Rows = tuple[int, ...]


def _paired_rows(one: Standing, two: Standing) -> tuple[Rows, Rows, bool]:
    """Return the rows of either side to compare, and whether they are the same trained models."""
    ours, theirs = list(one.seeds), list(two.seeds)
    shared = [(ours.index(seed), theirs.index(seed)) for seed in ours if seed in theirs]
    if one.models and two.models:
        equal = [(i, j) for i, j in shared if one.models[i] and one.models[i] == two.models[j]]
        if equal:
            rows_a, rows_b = zip(*equal, strict=True)
            return rows_a, rows_b, True
    rest_a = [i for i, seed in enumerate(ours) if seed not in theirs]
    rest_b = [j for j, seed in enumerate(theirs) if seed not in ours]
    pairs = shared + list(zip(rest_a, rest_b, strict=False))
    return tuple(i for i, _ in pairs), tuple(j for _, j in pairs), False


def tested(found: Iterable[Counted]) -> list[Comparison]:
    """Return the comparisons with their p-values and intervals, corrected within each family.

    A family is what is read together: the comparisons of one :attr:`Counted.family` at one eps.
    Its p-values are adjusted by Holm's method; its intervals hold all together at 95 %
    (Bonferroni).
    """
    counted = list(found)
    families: dict[tuple[str, float], list[int]] = {}
    for i, c in enumerate(counted):
        if c.n:
            families.setdefault((c.family, c.eps), []).append(i)
    only_a, only_b = (
        np.array([sum(side) for side in sides], dtype=np.int64)
        for sides in ([c.better for c in counted], [c.worse for c in counted])
    )
    p = mcnemar(only_a, only_b)
    for i, c in enumerate(counted):
        if len(c.seeds_a) > 1:
            p[i] = paired_randomization(c.better, c.worse)
    p[[not c.n for c in counted]] = math.nan
    adjusted, sizes = np.full(len(counted), math.nan), np.zeros(len(counted), dtype=int)
    for rows in families.values():
        adjusted[rows] = holm(p[rows])
        sizes[rows] = len(rows)
    comparisons = []
    for i, c in enumerate(counted):
        size = int(sizes[i])
        numbers = int(only_a[i]), int(only_b[i]), float(p[i]), float(adjusted[i])
        comparisons.append(Comparison(*c[1:11], *numbers, *_interval(c, size), size))
    return comparisons


def _interval(c: Counted, size: int) -> tuple[float, float]:
    if c.spread is None:
        return math.nan, math.nan
    margin, difference = c.spread.margin(1 - LEVEL / size), c.accuracy_a - c.accuracy_b
    return max(-1.0, difference - margin), min(1.0, difference + margin)


VERDICTS = {
    "better": "{} better",
    "open": "{} keeps more in these trainings",
    "few": "{} keeps more in these trainings",
    "same": "{} keeps more of the same trained models",
    "even": "no difference shown",
    "absent": "not compared",
}


def table_of(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return a row per comparison, for CSV."""
    columns = ["scope", "eps", "a", "b", "n", "seeds", "seeds_a", "seeds_b"]
    columns += ["accuracy_a", "accuracy_b", "difference", "low", "high", "only_a", "only_b"]
    columns += ["p", "adjusted", "family"]
    frame = pd.DataFrame({name: [getattr(c, name) for c in comparisons] for name in columns})
    for name in ("seeds_a", "seeds_b"):
        frame[name] = [" ".join(map(str, seeds)) for seeds in frame[name]]
    frame["verdict"] = [VERDICTS[c.verdict].format(c.more) for c in comparisons]
    return frame.rename(columns={"adjusted": "p_holm"})


# --- in words ----------------------------------------------------------------------------------


def seed_words(c: Comparison) -> str:
    """Return ``seed 0 each``, or of sides that differ ``run 1: seed 0, run 2: seed 7``."""
    if c.same:
        return f"the same trained models ({_seeds(c.seeds_a)})"
    if c.seeds_a == c.seeds_b:
        return f"{_seeds(c.seeds_a)} each"
    return f"{c.a}: {_seeds(c.seeds_a)}, {c.b}: {_seeds(c.seeds_b)}"


def _seeds(seeds: Sequence[int]) -> str:
    names = [str(seed) for seed in sorted(seeds)]
    words = " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
    return f"seed{'s' if len(names) > 1 else ''} {words}"


@dataclass(frozen=True)
class Finding:
    """What holds between A and B over a stretch of eps.

    ``verdict`` names them, ``brief`` follows their names, ``seeds`` names the trainings.
    ``interval`` is that of the difference, the first named in the verdict minus the second.
    ``lacking`` says what it would take to say more.
    """

    verdict: str
    brief: str
    eps: str
    p: str
    n: str
    seeds: str = ""
    interval: str = ""
    lacking: str = ""

    @property
    def sentence(self) -> str:
        """``madry beats undefended at eps 0.1 (p < 0.001, n = 1000, seeds 0, 1 and 2 each)``."""
        return "; ".join(filter(None, [self._with_support(self.verdict), self.lacking]))

    @property
    def clause(self) -> str:
        """The sentence where the pair and its seeds were named before: ``no difference shown …``.

        What is lacking is left to the end of all clauses.
        """
        return self._with_support(self.brief, seeds="")

    @property
    def sentence_part(self) -> str:
        """The clause with its seeds."""
        return self._with_support(self.brief)

    def _with_support(self, words: str, seeds: str | None = None) -> str:
        seeds = self.seeds if seeds is None else seeds
        support = [self.p, self.interval, f"n = {self.n}"] if self.n else []
        support += [seeds] if seeds not in words else []
        inside = ", ".join(filter(None, support))
        return f"{words} at eps {self.eps}" + (f" ({inside})" if inside else "")


def findings(comparisons: Sequence[Comparison]) -> list[Finding]:
    """Return the findings on one pair, of comparisons in the order of eps.

    Comparisons that could not be made are last, and part no stretch; the words tell the gaps.
    """
    grid = [c.eps for c in comparisons]
    compared = [c for c in comparisons if c.n]
    absent = [c for c in comparisons if not c.n]
    groups = runs_of(compared, lambda c: (c.verdict, c.more, seed_words(c)))
    return [_finding(group, grid) for _, group in groups] + (
        [_finding(absent, grid)] if absent else []
    )


def _finding(group: Sequence[Comparison], grid: Sequence[float]) -> Finding:
    c = group[0]
    winner, loser = (c.b, c.a) if c.more == "b" else (c.a, c.b)
    eps = eps_words([c.eps for c in group], grid)
    if c.verdict == "absent":
        return Finding(f"{c.a} and {c.b} not compared", "not compared", eps, "", "")
    seeds = seed_words(c)
    these = f"of these {_NUMBERS.get(2 * c.seeds, '')} trainings ({seeds})".replace("  ", " ")
    words, brief = {
        "better": (f"{winner} beats {loser}", f"{winner} beats {loser}"),
        "even": (f"no difference shown between {c.a} and {c.b}", "no difference shown"),
        "same": _keeps(f"of {seeds}", winner, loser),
        "few": _keeps(these, winner, loser),
        "open": _keeps(these, winner, loser, ", other trainings may not,"),
    }[c.verdict]
    lacking = NEEDED if c.verdict == "few" else ""
    p = p_words([c.adjusted for c in group], largest=bool(c.more))
    n = span(c.n for c in group)
    return Finding(words, brief, eps, p, n, seeds, _interval_words(group), lacking)


_NUMBERS = {2: "two", 4: "four"}


def _keeps(which: str, winner: str, loser: str, but: str = "") -> tuple[str, str]:
    brief = f"{which} {winner} keeps more images"
    return f"{brief} than {loser}{but}", f"{brief}{but}"


def _interval_words(group: Sequence[Comparison]) -> str:
    """Return ``difference in [+0.1, +0.3]``, of several ``differences in`` what spans them all."""
    turn = -1 if group[0].more == "b" else 1
    ends = [sorted((turn * c.low, turn * c.high)) for c in group if not math.isnan(c.low)]
    if len(ends) < len(group):
        return ""
    words = "differences in" if len(ends) > 1 else "difference in"
    return f"{words} {interval_words(min(e[0] for e in ends), max(e[1] for e in ends))}"


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
    tolerance = 1e-9
    if largest:
        shown = math.ceil(bound * 1000 - tolerance) / 1000
        if bound < LEVEL <= shown:
            return f"{each}p < {LEVEL:g}"
        return f"{each}p ≤ {shown:g}"
    return f"{each}p ≥ {math.floor(bound * 1000 + tolerance) / 1000:g}"


def verdict_cell(comparison: Comparison | None) -> Cell:
    """Return A's place beside B as a cell of the matrix: better or worse only as a method."""
    if comparison is None or comparison.verdict == "absent":
        return Cell("not compared", status="missing")
    c = comparison
    if c.verdict == "better":
        words = "better" if c.more == "a" else "worse"
    elif c.more:
        words = "keeps more here" if c.more == "a" else "keeps fewer here"
    else:
        words = "no difference shown"
    p = p_words([c.adjusted], largest=True)
    return Cell(words, f"{_with_interval(c)}, {p}", note=f"n = {c.n}, {seed_words(c)}")


def difference_cell(comparison: Comparison | None) -> Cell:
    """Return the difference with its p-value as a cell of the full table."""
    if comparison is None or comparison.verdict == "absent":
        return Cell("not compared", status="missing")
    p = p_words([comparison.adjusted], largest=True)
    return Cell(_with_interval(comparison), p, note=f"n = {comparison.n}")


def _with_interval(c: Comparison) -> str:
    if math.isnan(c.low):
        return signed(c.difference)
    return f"{signed(c.difference)} {interval_words(c.low, c.high)}"


def signed(value: float) -> str:
    """Return ``+0.120``, ``−0.120`` or ``0.000``."""
    text = f"{abs(value):.3f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"


def interval_words(low: float, high: float) -> str:
    """Return ``[+0.013, +0.120]``; an end beside 0 is not rounded onto it."""
    ends = []
    for value in (low, high):
        text = signed(value)
        sign = "+" if value > 0 else "−"
        ends.append(f"{sign}{abs(value):.1g}" if value and text == "0.000" else text)
    return f"[{', '.join(ends)}]"


def turned_round(comparison: Comparison) -> Comparison:
    """Return the same comparison of B with A."""
    c = comparison
    return replace(
        c,
        a=c.b,
        b=c.a,
        seeds_a=c.seeds_b,
        seeds_b=c.seeds_a,
        accuracy_a=c.accuracy_b,
        accuracy_b=c.accuracy_a,
        only_a=c.only_b,
        only_b=c.only_a,
        low=-c.high,
        high=-c.low,
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
