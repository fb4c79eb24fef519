"""Which models of many runs may stand in one ranking, and in what order.

A worst case says something beside another only where the images, the norm and the eps are the
same, so the models are grouped by these first. No page and no file here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from benchmark.config.threat import eps_key
from benchmark.hashing import digest
from benchmark.results.audit_tables import read_audit
from benchmark.results.audit_words import DISTRUSTED
from benchmark.results.run import Run
from benchmark.stats import wilson_interval
from reports.analysis.flags import flags
from reports.analysis.outcomes import ABSENT, Outcomes, outcomes
from reports.section import RunContext
from reports.sections.worst_case import WorstCase, summary, worst_cases
from reports.tables import grid

NOT_AUDITED = "not audited"
SHOWN = 3  # eps of a ranking, unless the user names others

Order = Literal["worst", "clean"]
ORDERS: tuple[Order, ...] = ("worst", "clean")


@dataclass(frozen=True)
class Share:
    """A fraction of ``n`` distinct images, its Wilson interval, and the extremes over seeds."""

    value: float
    low: float
    high: float
    n: int
    seed_low: float
    seed_high: float


@dataclass(frozen=True)
class Entry:
    """One model of a run in one norm: what it has at every eps above 0 that it was attacked at.

    ``worst`` is, by eps, the accuracy under all attacks together, image by image, ``clean`` that
    on the same images. ``images`` tells these from others: a checksum of the test images and of
    which of them were attacked. ``verdict`` is the audit's word.
    """

    run: Run
    defense: str
    norm: str
    worst: Mapping[float, Share]
    clean: Share
    images: str
    seeds: int
    attacks: Sequence[str]
    verdict: str

    @property
    def believed(self) -> bool:
        """Whether the audit, if there was one, lets its numbers stand."""
        return self.verdict not in DISTRUSTED

    @property
    def n(self) -> int:
        """The images that every attack saw."""
        return self.clean.n

    @property
    def date(self) -> str:
        """The day on which the run was begun, ``2026-11-23``; empty where it is not known."""
        return str(self.run.provenance.get("started", ""))[:10]

    def mean(self, eps: Iterable[float]) -> float:
        """Return the mean of the worst cases at ``eps``."""
        values = [self.worst[each].value for each in eps]
        return sum(values) / len(values)


@dataclass(frozen=True)
class Ranking:
    """Entries with the same dataset, norm, images and eps, best first; those without a rank last.

    ``ranks`` are 1 for the best, equal for equal numbers, and None where the audit does not believe
    the number.
    """

    dataset: str
    norm: str
    eps: Sequence[float]
    entries: Sequence[Entry]
    ranks: Sequence[int | None]


@dataclass(frozen=True)
class Standings:
    """The rankings, and what none of them holds: (run, defense, reason)."""

    rankings: Sequence[Ranking]
    left_out: Sequence[tuple[str, str, str]]


def entries_of(run: Run) -> list[Entry]:
    """Return an entry per (norm, defense) of the run that was attacked at an eps above 0."""
    cells = grid.grid(run)
    context = RunContext(run, cells, pd.DataFrame(), {}, "", "", audit=read_audit(run.path))
    found = outcomes(context)
    words = flags(context)
    cases: dict[tuple[str, str], list[WorstCase]] = {}
    for case in worst_cases(found):
        if case.eps > 0 and (case.fates != ABSENT).any():
            cases.setdefault((case.norm, case.defense), []).append(case)
    return [
        _entry(run, found, own, words.get(key, NOT_AUDITED)) for key, own in sorted(cases.items())
    ]


def _entry(run: Run, found: Outcomes, cases: Sequence[WorstCase], verdict: str) -> Entry:
    rows = [summary(case)[0] for case in cases]
    attacks = dict.fromkeys(attack for case in cases for attack in case.attacks)
    names = [name if library == "inhouse" else f"{name} ({library})" for name, library in attacks]
    # Where a large eps was tried on fewer images, its own set of them tells the entry apart.
    seen = {(case.fates != ABSENT).any(axis=0).tobytes() for case in cases}
    which = [found.images[(case.fates != ABSENT).any(axis=0)].tobytes().hex() for case in cases]
    data: Any = run.provenance.get("dataset")
    checksum = data.get("test_checksum") if isinstance(data, Mapping) else None
    # Without the checksum nobody knows whether another run had the same images.
    images = digest(str(checksum or run.path), *(which[:1] if len(seen) == 1 else which))
    return Entry(
        run=run,
        defense=cases[0].defense,
        norm=cases[0].norm,
        worst={
            eps_key(case.eps): _share(row, "robust_accuracy", row["seed_low"], row["seed_high"])
            for case, row in zip(cases, rows, strict=True)
        },
        clean=_share(
            rows[0], "clean_accuracy", rows[0]["clean_accuracy"], rows[0]["clean_accuracy"]
        ),
        images=images,
        seeds=max(len(case.seeds) for case in cases),
        attacks=names,
        verdict=verdict,
    )


def _share(row: Mapping[Any, Any], name: str, seed_low: float, seed_high: float) -> Share:
    n, value = int(row["images"]), float(row[name])
    return Share(value, *wilson_interval(min(value * n, n), n), n, seed_low, seed_high)


def standings(
    entries: Sequence[Entry], *, eps: Sequence[float] = (), sort: Order = "worst"
) -> Standings:
    """Group ``entries`` by dataset, norm and images, choose their eps, and rank them.

    Without ``eps`` those are shown that all of a group share, up to three in the middle of their
    range. Where they share none, those with equal eps are ranked together. With ``eps``, entries
    that lack one of them are left out.
    """
    wanted = tuple(eps_key(each) for each in eps)
    left_out: list[tuple[str, str, str]] = []
    groups: dict[tuple[str, str, int, str], list[Entry]] = {}
    for entry in entries:
        lacking = [each for each in wanted if each not in entry.worst]
        if lacking:
            grid_ = ", ".join(f"{each:g}" for each in sorted(entry.worst))
            words = ", ".join(f"{each:g}" for each in lacking)
            why = f"not attacked at {entry.norm} eps {words}; it has {grid_}"
            left_out.append((entry.run.run_id, entry.defense, why))
            continue
        key = (entry.run.spec.dataset, entry.norm, -entry.n, entry.images)
        groups.setdefault(key, []).append(entry)
    rankings = []
    for (dataset, norm, _, _), own in sorted(groups.items(), key=lambda item: item[0]):
        for grid_eps, members in _by_eps(own, wanted):
            rankings.append(_ranked(dataset, norm, grid_eps, members, sort))
    return Standings(rankings, left_out)


def _by_eps(
    entries: Sequence[Entry], wanted: tuple[float, ...]
) -> list[tuple[tuple[float, ...], list[Entry]]]:
    shared = set(entries[0].worst).intersection(*(entry.worst for entry in entries))
    if wanted or shared:
        return [(wanted or _three(sorted(shared)), list(entries))]
    groups: dict[tuple[float, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(tuple(sorted(entry.worst)), []).append(entry)
    return [(_three(all_eps), own) for all_eps, own in groups.items()]


def _three(eps: Sequence[float]) -> tuple[float, ...]:
    """Return up to three of ascending ``eps``, at the quarters of their order.

    At the smallest eps all models stand and at the largest all fall: the first of them would rank
    undefended models above defended ones, by their clean accuracy.
    """
    if len(eps) <= SHOWN:
        return tuple(eps)
    return tuple(dict.fromkeys(eps[round((len(eps) - 1) * part)] for part in (0.25, 0.5, 0.75)))


def _ranked(
    dataset: str, norm: str, eps: tuple[float, ...], entries: Sequence[Entry], sort: Order
) -> Ranking:
    def value(entry: Entry) -> tuple[float, float]:
        numbers = (entry.mean(eps), entry.clean.value)
        first, second = numbers if sort == "worst" else numbers[::-1]
        return round(first, 9), round(second, 9)

    order = sorted(
        entries,
        key=lambda e: (not e.believed, *(-x for x in value(e)), e.defense, e.run.run_id),
    )
    believed = [value(entry)[0] for entry in order if entry.believed]
    ranks = [
        1 + sum(other > value(entry)[0] for other in believed) if entry.believed else None
        for entry in order
    ]
    return Ranking(dataset, norm, eps, order, ranks)
