"""Accuracy under attack: a table and a figure per attack of a run."""

from collections.abc import Mapping

import pandas as pd

from reports.analysis.flags import flagged, flags, flags_of
from reports.analysis.studies import study_curves
from reports.figures import curves
from reports.section import RunContext, Section, shown, slug
from reports.tables import grid
from reports.tables.grid import ATTACK_KEY


def make(context: RunContext) -> Section:
    """Return the section; a run without attacks has one that says so."""
    spec, prefix = context.run.spec, context.prefix
    files = {f"{prefix}accuracy.csv": grid.table_csv(context.pooled).encode()}
    attacks = []
    for i, table in enumerate(grid.accuracy_tables(context.pooled, flags(context)), 1):
        name = f"{prefix}{i:02d}-{slug(*(table.attack[key] for key in ATTACK_KEY))}"
        if table.rows:
            files[f"{name}.csv"] = table.csv().encode()
            files[f"{name}.md"] = table.markdown().encode()
            files[f"{name}.tex"] = table.latex().encode()
        own = _rows_of(context.pooled, table.attack), _rows_of(context.cells, table.attack)
        words = flags_of(context, table.attack["norm"])
        picture = study_curves(*own, spec, words) if spec.study else None
        picture = picture or curves.security_curves(
            *own, context.styles, labels=flagged(own[0], words)
        )
        figure = shown(name, picture, files) if picture else None
        attacks.append({"table": table, "file": name, "figure": figure})
    view = {
        "attacks": attacks,
        "seeds": len(spec.seeds),
        "seed": spec.seeds[0],
        "csv": f"{prefix}accuracy.csv",
    }
    template = "sections/accuracy.html.j2"
    return Section("accuracy", "Accuracy under attack", template, view, files)


def _rows_of(frame: pd.DataFrame, attack: Mapping[str, str]) -> pd.DataFrame:
    mask = pd.Series(True, index=frame.index)
    for key, value in attack.items():
        mask &= frame[key] == value
    return frame[mask]
