"""Figures of a run: security curves with their intervals.

Each defense keeps its colour, marker and line style over all figures of a report; the three
together tell lines apart without colour.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.figures.drawing import Picture, canvas, finish, frame, render
from reports.figures.interactive import Chart, Line, alone
from reports.tables.grid import NORM_WORDS, attack_title, number

# Each at least 3:1 against white, and any two at least 13 apart in CIELAB as seen by normal eyes
# and with protanopia, deuteranopia or tritanopia. The lengths of the three cycles share no factor
# two by two: 8 * 9 * 5 defenses differ.
_COLOURS = (
    *("#0173b2", "#d55e00", "#029e73", "#222222"),
    *("#cc78bc", "#8c564b", "#999933", "#aa3377"),
)
_MARKERS = ("o", "s", "^", "D", "v", "p", "<", "*", ">")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (8, 3)),
)

UNITS = {
    "linf": "pixel values in [0, 1]",
    "l2": "Euclidean length",
    "l1": "sum of all changes",
    "l0": "values changed",
}
"""What eps measures, by norm."""


def line_styles(defenses: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Give each defense its colour, marker and dashes, in the order of first appearance."""
    return {
        name: {
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": _DASHES[i % len(_DASHES)],
            "linewidth": 1.6,
            "markersize": 5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
        }
        for i, name in enumerate(dict.fromkeys(defenses))
    }


def security_curves(
    pooled: pd.DataFrame,
    cells: pd.DataFrame,
    styles: Mapping[str, Mapping[str, Any]],
    subject: str = "",
    switches: Mapping[str, str] = MappingProxyType({}),
    labels: Mapping[str, str] = MappingProxyType({}),
) -> Picture | None:
    """Draw robust accuracy against eps under one attack; None where no cell is ok.

    ``pooled`` and ``cells`` are the attack's rows of :func:`reports.tables.grid.pool` and
    :func:`reports.tables.grid.grid`. Where a cell is not ok its line is broken, not bridged.
    ``subject`` is what the title names beside the dataset. ``switches`` names the defense that a
    line belongs to where the frames call it otherwise, ``labels`` what the legend calls it, such as
    with the audit's verdict.
    """
    if not (pooled["status"] == "ok").any():
        return None
    attack: dict[Any, Any] = pooled.iloc[0].to_dict()
    words = []
    lines: list[Line] = []
    with canvas() as figure:
        axes = figure.add_subplot()
        drawn: dict[str, Mapping[str, Any]] = {}
        for name in dict.fromkeys(pooled["defense"]):
            points = pooled[pooled["defense"] == name].sort_values("eps")
            if not (points["status"] == "ok").any():
                continue
            label = labels.get(name, name)
            drawn[label] = styles[name]
            words.append(_in_words(label, points))
            defense = switches.get(name, name)
            band = points[["eps", "robust_accuracy", "ci_low", "ci_high"]]
            draw_band(axes, band.to_numpy(dtype=float), styles[name])
            lines.append(_line(label, points, styles[name], defense))
            own = cells[(cells["defense"] == name) & (cells["status"] == "ok")]
            if own["seed"].nunique() > 1:
                lines.append(_seeds(label, own, styles[name], defense))
                dots: dict[str, Any] = {"s": 7, "alpha": 0.55, "linewidths": 0, "zorder": 3}
                color = [styles[name]["color"]]
                axes.scatter(own["eps"], own["robust_accuracy"], color=color, **dots)
        norm = NORM_WORDS.get(attack["norm"], attack["norm"])
        x_label = f"eps, {norm} ({UNITS.get(attack['norm'], '?')})"
        frame(axes, x_label, "robust accuracy", fraction=True)
        title = f"{attack['dataset']}{subject and ', '}{subject}: {attack_title(attack)}"
        finish(figure, axes, title, list(drawn), drawn)
        alt = f"Robust accuracy against eps on {title}. {' '.join(words)}"
        chart = Chart(title, x_label, "robust accuracy", lines, fraction=True)
        return Picture(*render(figure), alt, chart.json())


def _line(name: str, points: pd.DataFrame, style: Mapping[str, Any], defense: str) -> Line:
    columns = ("eps", "robust_accuracy", "ci_low", "ci_high", "images")
    x, y, low, high, n = (points[column].to_list() for column in columns)
    return Line(name, x, y, style, low, high, n, defense)


def _seeds(name: str, own: pd.DataFrame, style: Mapping[str, Any], defense: str) -> Line:
    """The single seeds as dots, each with its own interval under the pointer."""
    columns = ("eps", "robust_accuracy", "ci_low", "ci_high", "n")
    x, y, low, high, n = (own[column].to_list() for column in columns)
    notes = [f"seed {seed}" for seed in own["seed"]]
    return Line(name, x, y, style, low, high, n, defense, notes=notes, dots=True)


def draw_band(axes: Any, points: npt.NDArray[np.float64], style: Mapping[str, Any]) -> None:
    """Draw a curve with its interval: a band, and a bar where a point has no neighbours.

    ``points`` (N, 4) are eps, mean and the interval's two ends.
    """
    eps, mean, low, high = points.T
    axes.plot(eps, mean, zorder=4, clip_on=False, **style)
    axes.fill_between(eps, low, high, color=style["color"], alpha=0.14, linewidth=0, zorder=1)
    lone = alone(mean)
    bars = np.maximum(np.stack([mean - low, high - mean])[:, lone], 0)
    axes.errorbar(
        eps[lone], mean[lone], bars, fmt="none", ecolor=style["color"], capsize=3, elinewidth=1.2
    )


def _in_words(name: str, points: pd.DataFrame) -> str:
    ok = points[points["status"] == "ok"]
    parts = [
        f"{number(row['robust_accuracy'])} at eps {row['eps']:g}"
        for row in (ok.iloc[0], *([ok.iloc[-1]] if len(ok) > 1 else []))
    ]
    absent = len(points) - len(ok)
    if absent:
        parts.append(f"no result at {absent} of {len(points)} eps")
    return f"{name}: {', '.join(parts)}."


def distance_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], labels: tuple[str, str]
) -> Picture | None:
    """Draw the accuracy that each library leaves against distance; None without a curve.

    ``curves`` maps a library to the distances and accuracies of its steps, ``labels`` are the
    horizontal axis' and the title.
    """
    if not curves:
        return None
    styles = line_styles(curves)
    words = []
    lines: list[Line] = []
    end = max(x[-1] for x, _ in curves.values())
    with canvas() as figure:
        axes = figure.add_subplot()
        for name, (x, y) in curves.items():
            style = dict(styles[name])
            if len(x) > 20:
                style["markevery"] = max(1, len(x) // 8)
            axes.plot([*x, end], [*y, y[-1]], drawstyle="steps-post", alpha=0.9, **style)
            words.append(f"{name} ends at {number(y[-1])}.")
            many = {"marker": ""} if len(x) > 20 else {}
            lines.append(Line(name, [*x, end], [*y, y[-1]], {**styles[name], **many}))
        frame(axes, labels[0], "accuracy left", fraction=True)
        finish(figure, axes, labels[1], list(curves), styles)
        alt = f"Accuracy against {labels[0]}. {' '.join(words)}"
        x_name = labels[0].partition(",")[0]
        chart = Chart(
            labels[1], labels[0], "accuracy left", lines, x_name, fraction=True, steps=True
        )
        return Picture(*render(figure), alt, chart.json())
