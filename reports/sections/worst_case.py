"""The worst case: the images that no attack and no library of a run fooled, per defense and eps.

What the audit's attacks fooled is apart, over the images that the audit attacked: the others
would seem to have withstood it. Of a stochastic defense the lowest single attack counts, as in the
audit's verdicts: each further one is one more draw.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from benchmark.config.threat import reach, same_eps
from benchmark.stats import wilson_intervals
from reports.analysis.flags import flagged, flags, flags_of
from reports.analysis.outcomes import (
    ABSENT,
    FOOLED,
    ROBUST,
    Audited,
    Fates,
    Outcomes,
    in_order,
    lowest,
    outcomes,
    worst,
    worst_seen,
)
from reports.analysis.ranges import eps_words, runs_of
from reports.figures import curves
from reports.section import RunContext, Section, View, shown
from reports.tables import grid as tables_grid
from reports.tables.grid import NORM_WORDS, Row, span
from reports.tables.text_table import TextTable

EVERY = {"attack": "every attack", "library": "all libraries"}
AUDITED = {"attack": "every attack and the audit’s", "library": "all libraries"}

Attack = tuple[str, str]
"""An attack's name and its library."""


@dataclass(frozen=True)
class WorstCase:
    """All attacks of a run on a defense within one ball, image by image.

    ``fates`` (seeds, images) are those of the images that every one of ``attacks`` saw; ``seen``
    those of all that were attacked; ``clean`` those without an attack. ``fooled_by`` counts, over
    seeds, the images right without attack that each attack fooled, ``alone`` those that it alone
    did, and ``fooled`` those that any did. ``audited`` are the fates under the audit's attacks as
    well, of the images that they saw too; ``by_audit`` counts those that the audit alone fooled.
    Where the defense is ``stochastic``, all of these are of the lowest single attack, which has no
    others to be alone among.
    """

    norm: str
    eps: float
    defense: str
    seeds: list[int]
    attacks: list[Attack]
    fates: Fates
    seen: Fates
    clean: Fates
    fooled_by: Mapping[Attack, int]
    alone: Mapping[Attack, int]
    fooled: int
    audited: Fates
    by_audit: int = 0
    stochastic: bool = False

    @property
    def by_any_audit(self) -> bool:
        """Whether the audit attacked any of the images."""
        return bool((self.audited != ABSENT).any())


def worst_cases(found: Outcomes) -> list[WorstCase]:
    """Return the worst case of every (norm, eps, defense) that has an ok cell."""
    cells = found.cells
    groups: Mapping[Any, Any] = cells.groupby(["norm", "eps", "defense"], sort=True).indices
    names = list(zip(cells["attack"], cells["library"], strict=True))
    seed_of = cells["seed"].to_numpy()
    return [
        _worst_case(found, norm, eps, defense, rows, names, seed_of)
        for (norm, eps, defense), rows in groups.items()
    ]


def _worst_case(
    found: Outcomes,
    norm: str,
    eps: float,
    defense: str,
    rows: np.ndarray,
    names: list[Attack],
    seed_of: np.ndarray,
) -> WorstCase:
    seeds = sorted(set(seed_of[rows].tolist()))
    attacks = list(dict.fromkeys(names[row] for row in rows))
    fooled_by, alone, fooled = dict.fromkeys(attacks, 0), dict.fromkeys(attacks, 0), 0
    random = defense in found.stochastic
    by_audit = 0
    fates, seen, clean, audited = [], [], [], []
    for seed in seeds:
        own = rows[seed_of[rows] == seed]
        robust = found.robust[own]
        fate, right = lowest(robust) if random else worst(robust), worst_seen(found.clean[own])
        attacked = (robust == FOOLED) & ((fate != ABSENT) & (right == ROBUST))
        single = attacked.sum(axis=0) == 1
        for row, hits in zip(own, attacked, strict=True):
            fooled_by[names[row]] += int(hits.sum())
            alone[names[row]] += int((hits & single).sum())
        fooled += int(((fate == FOOLED) & (right == ROBUST)).sum())
        both = _audited(found.audited.get((norm, defense, seed)), eps, robust, fate, random=random)
        by_audit += 0 if random else int(((both == FOOLED) & (fate == ROBUST)).sum())
        fates.append(fate)
        seen.append(_lowest_seen(robust) if random else worst_seen(robust))
        clean.append(np.where(fate == ABSENT, ABSENT, right).astype(np.int8))
        audited.append(both)
    stacks = np.stack(fates), np.stack(seen), np.stack(clean)
    rest = np.stack(audited), by_audit, random
    return WorstCase(norm, eps, defense, seeds, attacks, *stacks, fooled_by, alone, fooled, *rest)


def _lowest_seen(robust: Fates) -> Fates:
    """Return the lowest draw among those that saw most images."""
    counts = (robust != ABSENT).sum(axis=1)
    return lowest(list(robust[counts == counts.max()]))


def _audited(
    audit: Audited | None, eps: float, robust: Fates, fate: Fates, *, random: bool
) -> Fates:
    """Return the fates under the run's attacks and the audit's, where both saw the image."""
    nobody = np.full_like(fate, ABSENT)
    if audit is None:
        return nobody
    if random:
        own = [fates for (_, at), fates in audit.draws.items() if same_eps(at, eps)]
        return lowest([*robust, *own]) if own else nobody
    fooled_by = np.where(audit.reach <= reach(eps), FOOLED, fate)
    return np.where((fate == ABSENT) | ~audit.seen, ABSENT, fooled_by).astype(np.int8)


def make(context: RunContext) -> Section | None:
    """Return the section; None where no cell of the run is ok."""
    found = outcomes(context)
    cases = worst_cases(found)
    if not cases:
        return None
    files: dict[str, bytes] = {}
    parts = _tables(context, cases, f"{context.prefix}worst-case", files)
    audited = _tables(context, cases, f"{context.prefix}worst-case-audited", files, audited=True)
    for norm, part in parts.items():
        own = [case for case in cases if case.norm == norm]
        part["attacks"] = _attacks_in_words(context, own)
        part["audited"] = audited.get(norm)
        part["images_audited"] = span(_count(case.audited) for case in own if case.by_any_audit)
    view: View = {"parts": list(parts.values()), "seeds": len(context.run.spec.seeds)}
    view["csv"] = f"{context.prefix}worst-case.csv"
    view["audited_csv"] = f"{context.prefix}worst-case-audited.csv" if audited else ""
    view["stochastic"] = in_order(
        [case.defense for case in cases if case.stochastic],
        [defense.name for defense in context.run.spec.defenses],
    )
    strongest = _strongest(context, cases)
    if strongest.rows:
        files |= strongest.files(f"{context.prefix}strongest")
        files[f"{context.prefix}strongest.csv"] = tables_grid.table_csv(_shares(cases)).encode()
    view["strongest"] = strongest
    view["strongest_file"] = f"{context.prefix}strongest"
    template = "sections/worst_case.html.j2"
    return Section("worst-case", "The worst case over all attacks", template, view, files)


def _tables(
    context: RunContext,
    cases: Sequence[WorstCase],
    name: str,
    files: dict[str, bytes],
    *,
    audited: bool = False,
) -> dict[str, View]:
    """Return, by norm, the table and the curves of the run's attacks, or of the audit's as well."""
    if audited:
        cases = [_with_audit(case) for case in cases if case.by_any_audit]
        if not cases:
            return {}
    pooled, single = _frames(context, cases, audited=audited)
    files[f"{name}.csv"] = tables_grid.table_csv(pooled).encode()
    parts: dict[str, View] = {}
    for table in tables_grid.accuracy_tables(pooled, flags(context)):
        norm = table.attack["norm"]
        file = f"{name}-{norm}"
        files[f"{file}.csv"] = table.csv().encode()
        files[f"{file}.md"] = table.markdown().encode()
        files[f"{file}.tex"] = table.latex().encode()
        own = pooled[pooled["norm"] == norm], single[single["norm"] == norm]
        labels = flagged(own[0], flags_of(context, norm))
        picture = curves.security_curves(*own, context.styles, labels=labels)
        parts[norm] = {
            "table": table,
            "norm": NORM_WORDS.get(norm, norm),
            "file": file,
            "figure": shown(file, picture, files) if picture else None,
        }
    return parts


def _with_audit(case: WorstCase) -> WorstCase:
    """Return the case over the images that the audit attacked, with those that it fooled."""
    clean = np.where(case.audited == ABSENT, ABSENT, case.clean).astype(np.int8)
    return replace(case, fates=case.audited, seen=case.audited, clean=clean)


def _frames(
    context: RunContext, cases: Iterable[WorstCase], *, audited: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return frames as :func:`~reports.tables.grid.pool` and ``grid`` make them."""
    by_key = {(case.norm, case.defense, case.eps): case for case in cases}
    known = context.pooled
    known = known[known["status"] != "skipped"]
    asked = known.groupby(["norm", "defense"])[["attack", "library"]]
    wanted = {key: len(group.drop_duplicates()) for key, group in asked}
    rows: list[Row] = []
    seeds: list[Row] = []
    stretches: Any = context.pooled.groupby(["norm", "defense", "eps"], sort=False)
    told = {(case.norm, case.defense) for case in by_key.values()}
    for (norm, defense, eps), group in stretches:
        if audited and (norm, defense) not in told:
            continue
        what = AUDITED if audited else EVERY
        key: Row = {"dataset": context.run.spec.dataset, **what, "norm": norm}
        key |= {"defense": defense, "eps": eps, "seeds": int(group["seeds"].max())}
        case = by_key.get((norm, defense, eps))
        if case is None:
            order = ("failed", "missing", "skipped")
            status = next((word for word in order if word in set(group["status"])), "missing")
            status = "missing" if audited else status
            rows.append({**key, "status": status, "seeds_ok": 0})
            continue
        row, own = summary(case)
        of = wanted[norm, defense]
        notes = [f"{len(case.attacks)} of {of} attacks"] if len(case.attacks) < of else []
        if not row["images"]:
            notes.append("no image that every attack saw")
        elif row["images"] < row["images_seen"]:
            notes.append(f"{row['images']} of {row['images_seen']} images")
        if audited:
            notes = [f"n={row['images']}"]
            if case.by_audit:
                notes.append(f"{case.by_audit} fooled by the audit alone")
        rows.append({**key, **row, "remark": ", ".join(notes)})
        seeds += [{**key, **one} for one in own]
    columns = [
        *("dataset", "attack", "library", "norm", "defense", "eps", "status", "seeds", "seeds_ok"),
        *("n", "images", "robust_accuracy", "ci_low", "ci_high", "seed_low", "seed_high"),
        *("clean_accuracy", "clean_low", "clean_high", "images_seen", "accuracy_seen"),
        *("attacks", "remark"),
    ]
    pooled = pd.DataFrame(rows, columns=columns)
    cells = pd.DataFrame(seeds, columns=[*columns[:7], "seed", "n", "robust_accuracy"])
    for frame, count, whats in (
        (pooled, "images", (("robust_accuracy", "ci"), ("clean_accuracy", "clean"))),
        (cells, "n", (("robust_accuracy", "ci"),)),
    ):
        ok = (frame["status"] == "ok") & (frame[count] > 0)
        n = frame.loc[ok, count].to_numpy(dtype=float)
        for share, ends in whats:
            successes = np.minimum(frame.loc[ok, share].to_numpy(dtype=float) * n, n)
            frame.loc[ok, f"{ends}_low"], frame.loc[ok, f"{ends}_high"] = wilson_intervals(
                successes, n
            )
    return pooled, cells


def summary(case: WorstCase) -> tuple[Row, list[Row]]:
    """Return the row of all seeds, and one per seed; intervals come later, all at once."""
    per_seed = [_share(fate) for fate in case.fates]
    images = _count(case.fates)
    values = [value for value, _ in per_seed]
    row = {
        "status": "ok",
        "seeds_ok": len(case.seeds),
        "n": max(n for _, n in per_seed),
        "images": images,
        "robust_accuracy": _share(case.fates)[0],
        "seed_low": min(values),
        "seed_high": max(values),
        "clean_accuracy": _share(case.clean)[0],
        "images_seen": _count(case.seen),
        "accuracy_seen": _share(case.seen)[0],
        "attacks": ", ".join(f"{attack} ({library})" for attack, library in case.attacks),
    }
    own = [
        {"status": "ok", "seed": seed, "n": n, "robust_accuracy": value}
        for seed, (value, n) in zip(case.seeds, per_seed, strict=True)
        if n
    ]
    return row, own


def _count(fates: Fates) -> int:
    """Return how many images were attacked under any seed."""
    return int((fates != ABSENT).any(axis=0).sum())


def _share(fates: Fates) -> tuple[float, int]:
    """Return the robust share of the attacked images, and their number."""
    n = int((fates != ABSENT).sum())
    return (int((fates == ROBUST).sum()) / n if n else float("nan")), n


def _attacks_in_words(context: RunContext, cases: Iterable[WorstCase]) -> list[tuple[str, str]]:
    """Return, per defense, the attacks that went in and the images that each saw."""
    pooled = context.pooled[context.pooled["status"] == "ok"]
    seen = pooled.groupby(["norm", "defense", "attack", "library"])["images"]
    numbers = {key: span(group) for key, group in seen}
    words: dict[str, dict[Attack, str]] = {}
    for case in cases:
        for attack, library in case.attacks:
            n = numbers[case.norm, case.defense, attack, library]
            text = f"{attack} ({library}, {n} images)"
            words.setdefault(case.defense, {})[attack, library] = text
    order = in_order(list(words), [d.name for d in context.run.spec.defenses])
    return [(name, ", ".join(words[name].values())) for name in order]


# --- which attack is strongest where -----------------------------------------------------------


def _shares(cases: Iterable[WorstCase]) -> pd.DataFrame:
    """Return what each attack contributes to the worst case, a row per attack; several only."""
    rows = [
        {
            "norm": case.norm,
            "defense": case.defense,
            "eps": case.eps,
            "attack": attack,
            "library": library,
            "images": int((case.fates != ABSENT).sum()),
            "fooled_by_any": case.fooled,
            "fooled": case.fooled_by[attack, library],
            "only_it": case.alone[attack, library],
        }
        for case in cases
        if len(case.attacks) > 1
        for attack, library in case.attacks
    ]
    columns = ["norm", "defense", "eps", "attack", "library", "images"]
    columns += ["fooled_by_any", "fooled", "only_it"]
    return pd.DataFrame(rows, columns=columns)


def _strongest(context: RunContext, cases: Iterable[WorstCase]) -> TextTable:
    """Return, per defense and stretch of eps, the attack that fooled most images."""
    several: dict[tuple[str, str], list[WorstCase]] = {}
    for case in cases:
        if len(case.attacks) > 1 and case.fooled:
            several.setdefault((case.norm, case.defense), []).append(case)
    asked = [defense.name for defense in context.run.spec.defenses]
    order = in_order([defense for _, defense in several], asked)
    rows = []
    for norm, defense in sorted(several, key=lambda key: (key[0] != "linf", order.index(key[1]))):
        own = several[norm, defense]
        grid = [case.eps for case in own]
        for winners, group in runs_of(own, _winners):
            random = group[0].stochastic  # whose fallen are the strongest attack's own
            reached = [case.fooled_by[winners[0]] / case.fooled for case in group]
            only = [sum(case.alone[attack] for attack in winners) for case in group]
            others = [case.fooled - case.fooled_by[winners[0]] for case in group]
            rows.append(
                [
                    defense,
                    NORM_WORDS.get(norm, norm),
                    eps_words([case.eps for case in group], grid),
                    " and ".join(f"{attack} ({library})" for attack, library in winners)
                    + (" alike" if len(winners) > 1 else ""),
                    "–" if random else _ends(reached, "{:.3f}"),
                    "–" if random else _ends(only, "{:d}"),
                    "–" if random else _ends(others, "{:d}"),
                    _ends([int((case.fates != ABSENT).sum()) for case in group], "{:d}"),
                ]
            )
    header = ["defense", "norm", "eps", "strongest attack", "share of the fooled images"]
    header += ["only it fooled", "only others fooled", "n"]
    caption = (
        "Where several attacks went in: which fooled the model on most images that were right"
        " without an attack, and how much of the worst case it reaches alone"
    )
    return TextTable(caption, header, rows)


def _winners(case: WorstCase) -> tuple[Attack, ...]:
    most = max(case.fooled_by.values())
    return tuple(attack for attack in case.attacks if case.fooled_by[attack] == most)


def _ends(values: Iterable[float], form: str) -> str:
    """Return ``low to high``, or the one value."""
    listed = sorted(set(values))
    ends = dict.fromkeys(form.format(value) for value in (listed[0], listed[-1]))
    return " to ".join(ends)
