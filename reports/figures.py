"""Figures of a run: security curves with their intervals.

Each defense keeps its colour, marker and line style over all figures of a report; the three
together tell lines apart without colour.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns

from reports.drawing import Picture, canvas, finish, frame, render
from reports.tables import NORM_WORDS, attack_title, number

# Without the palette's yellow and light pink, which vanish on white. The lengths of the three
# cycles share no factor two by two: 8 * 9 * 5 defenses differ.
_COLOURS = [sns.color_palette("colorblind")[i] for i in (0, 3, 2, 1, 4, 9, 5, 7)]
_MARKERS = ("o", "s", "^", "D", "v", "p", "<", "*", ">")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (8, 3)),
)


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
) -> Picture | None:
    """Draw robust accuracy against eps under one attack; None where no cell is ok.

    ``pooled`` and ``cells`` are the attack's rows of :func:`reports.tables.pool` and
    :func:`reports.tables.grid`. Where a cell is not ok its line is broken, not bridged. ``subject``
    is what the title names beside the dataset.
    """
    if not (pooled["status"] == "ok").any():
        return None
    attack: dict[Any, Any] = pooled.iloc[0].to_dict()
    words = []
    with canvas() as figure:
        axes = figure.add_subplot()
        drawn = []
        for name in dict.fromkeys(pooled["defense"]):
            points = pooled[pooled["defense"] == name].sort_values("eps")
            if not (points["status"] == "ok").any():
                continue
            drawn.append(name)
            words.append(_in_words(name, points))
            _curve(axes, points, styles[name])
            own = cells[(cells["defense"] == name) & (cells["status"] == "ok")]
            if own["seed"].nunique() > 1:
                dots: dict[str, Any] = {"s": 7, "alpha": 0.55, "linewidths": 0, "zorder": 3}
                color = [styles[name]["color"]]
                axes.scatter(own["eps"], own["robust_accuracy"], color=color, **dots)
        unit = "pixel values in [0, 1]" if attack["norm"] == "linf" else "Euclidean length"
        norm = NORM_WORDS.get(attack["norm"], attack["norm"])
        frame(axes, f"eps, {norm} ({unit})", "robust accuracy", fraction=True)
        title = f"{attack['dataset']}{subject and ', '}{subject}: {attack_title(attack)}"
        finish(figure, axes, title, drawn, styles)
        alt = f"Robust accuracy against eps on {title}. {' '.join(words)}"
        return Picture(*render(figure), alt)


def _curve(axes: Any, points: pd.DataFrame, style: Mapping[str, Any]) -> None:
    eps, mean, low, high = (
        points[column].to_numpy(dtype=float)
        for column in ("eps", "robust_accuracy", "ci_low", "ci_high")
    )
    axes.plot(eps, mean, zorder=4, clip_on=False, **style)
    axes.fill_between(eps, low, high, color=style["color"], alpha=0.14, linewidth=0, zorder=1)
    # A band has no width at a point without neighbours: draw its interval as a bar.
    known = np.concatenate([[False], ~np.isnan(mean), [False]])
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    bars = np.maximum(np.stack([mean - low, high - mean])[:, alone], 0)
    axes.errorbar(
        eps[alone], mean[alone], bars, fmt="none", ecolor=style["color"], capsize=3, elinewidth=1.2
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
    end = max(x[-1] for x, _ in curves.values())
    with canvas() as figure:
        axes = figure.add_subplot()
        for name, (x, y) in curves.items():
            style = dict(styles[name])
            if len(x) > 20:
                style["markevery"] = max(1, len(x) // 8)
            axes.plot([*x, end], [*y, y[-1]], drawstyle="steps-post", alpha=0.9, **style)
            words.append(f"{name} ends at {number(y[-1])}.")
        frame(axes, labels[0], "accuracy left", fraction=True)
        finish(figure, axes, labels[1], list(curves), styles)
        return Picture(*render(figure), f"Accuracy against {labels[0]}. {' '.join(words)}")
