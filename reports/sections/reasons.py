"""Why cells have no result or call for a second look, grouped: each reason is read once."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmark.config.spec import RunSpec
from reports.section import RunContext, Section, View
from reports.tables.grid import STATUS_WORDS, attack_title

CELL = ["status", "reason", "attack", "library", "norm", "defense"]


def make(context: RunContext) -> Section:
    """Return the section; a run in which every cell has a result has one that says so."""
    cells, spec = context.cells, context.run.spec
    view = {
        "troubles": reasons(cells, spec, ok=False),
        "notices": reasons(cells, spec, ok=True),
    }
    return Section("reasons", "What did not run, and why", "sections/reasons.html.j2", view)


def reasons(cells: pd.DataFrame, spec: RunSpec, *, ok: bool) -> list[View]:
    """Return the reasons of cells that are not ok, or the notices of those that are, for the page.

    Cells of an attack and a defense that share their reason are one entry, with the lists of their
    eps and seeds. Defenses that agree in everything else under an attack share a row, then
    attacks that agree in everything else.
    """
    chosen = cells[(cells["status"] == "ok") == ok]
    chosen = chosen[chosen["reason"].fillna("") != ""]
    seeds: dict[tuple[Any, ...], list[Any]] = {}
    for values, group in chosen.groupby([*CELL, "seed"], sort=False):
        seeds.setdefault((*values[:-1], tuple(group["eps"])), []).append(values[-1])
    defenses: dict[tuple[Any, ...], list[str]] = {}
    for (*key, defense, eps), found in seeds.items():
        defenses.setdefault((*key, _eps(key[2:], eps, spec), tuple(found)), []).append(defense)
    attacks: dict[tuple[Any, ...], list[str]] = {}
    for (status, reason, *attack, eps, found), names in defenses.items():
        title = attack_title(dict(zip(CELL[2:5], attack, strict=True)))
        attacks.setdefault((status, reason, tuple(names), eps, found), []).append(title)
    rows = [
        _row(dict(zip(("status", "reason", "defenses", "eps", "seeds"), key, strict=True)), titles)
        for key, titles in attacks.items()
    ]
    order = list(STATUS_WORDS)
    return sorted(rows, key=lambda row: order.index(row["class"]))


def _row(row: Mapping[str, Any], attacks: Sequence[str]) -> View:
    return {
        "attacks": list(attacks),
        "defenses": ", ".join(row["defenses"]),
        "eps": row["eps"],
        "seeds": ", ".join(map(str, row["seeds"])),
        "class": row["status"],
        "status": STATUS_WORDS[row["status"]],
        "reason": row["reason"],
    }


def _eps(attack: Sequence[str], values: Sequence[float], spec: RunSpec) -> str:
    """List ``values``, or say ``all`` where they are the whole grid of the attack."""
    asked = {(a.name, a.library, a.threat.norm): a.threat.eps for a in spec.attacks}
    name, library, norm = attack
    grid = asked.get((name, library, norm), ())
    if len(grid) > 1 and set(grid) <= set(values):
        return "all"
    return ", ".join(f"{value:.4g}" for value in values)
