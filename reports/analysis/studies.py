"""Figures of a study: one option of a defense over several values (the paper's Figure 4)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns

from benchmark.config.spec import DefenseSpec, RunSpec
from reports.analysis.flags import flagged
from reports.figures.curves import line_styles, security_curves
from reports.figures.drawing import Picture
from reports.tables.grid import is_number


def member(defense: DefenseSpec) -> tuple[str, Any] | None:
    """Return the option and the value of a study's member; None for any other defense.

    A member is named ``type[option=value]`` (:func:`benchmark.config.studies.member_name`).
    """
    head, tail = f"{defense.type}[", "]"
    if not (defense.name.startswith(head) and defense.name.endswith(tail)):
        return None
    option = defense.name[len(head) : -len(tail)].partition("=")[0]
    return (option, defense.params[option]) if option in defense.params else None


def study_curves(
    pooled: pd.DataFrame,
    cells: pd.DataFrame,
    spec: RunSpec,
    flags: Mapping[str, str] = MappingProxyType({}),
) -> Picture | None:
    """Draw robust accuracy against eps under one attack, a curve per value, in their order.

    ``pooled`` and ``cells`` are as for :func:`reports.figures.curves.security_curves`. The colours
    go from dark to light with the value. ``flags`` are the audit's words for members. None where no
    cell of a member is ok.
    """
    found = {defense.name: member(defense) for defense in spec.defenses}
    members = {name: values for name, values in found.items() if values is not None}
    names = sorted(members, key=lambda name: _rank(members[name][1]))
    types = {defense.type for defense in spec.defenses if defense.name in members}
    several = len(types) > 1
    labels = {name: name if several else "{} = {}".format(*members[name]) for name in names}
    order = {name: i for i, name in enumerate(names)}
    pooled, cells = (_members(frame, order, labels) for frame in (pooled, cells))
    if pooled.empty:
        return None
    styles = sequential_styles(list(labels.values()))
    subject = "" if several else types.pop()
    switches = {label: name for name, label in labels.items()}
    words = {label: flags[name] for name, label in labels.items() if name in flags}
    return security_curves(pooled, cells, styles, subject, switches, flagged(pooled, words))


def sequential_styles(names: list[str]) -> dict[str, Mapping[str, Any]]:
    """Give each name its look, the colour from dark to light; line and marker differ as well."""
    # Without the palette's lightest part, which vanishes on white.
    palette = sns.color_palette("viridis", as_cmap=True)
    colours = palette(np.linspace(0, 0.78, max(2, len(names))))
    looks = line_styles(names)
    return {
        name: looks[name] | {"color": tuple(colour)}
        for name, colour in zip(names, colours, strict=False)
    }


def _rank(value: Any) -> tuple[int, Any]:
    return (0, value) if is_number(value) else (1, str(value))


def _members(
    frame: pd.DataFrame, order: Mapping[str, int], labels: Mapping[str, str]
) -> pd.DataFrame:
    own = frame[frame["defense"].isin(list(order))]
    own = own.sort_values("defense", key=lambda names: names.map(order), kind="stable")
    return own.assign(defense=own["defense"].map(labels))
