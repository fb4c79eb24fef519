"""The paper's Figure 5: where a defense's embeddings lie, clean and attacked.

A row of panels per defense, drawn from :data:`benchmark.results.embedding_points.CODES`. Correct
points are dots, misclassified ones down triangles. No ten colours tell ten classes apart for
everybody, so that in both panels each class' number is also shown where its clean points lie.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.patheffects
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D

from benchmark.results.embedding_points import CONDITIONS
from reports.figures.drawing import Picture, canvas, legend, plain, render
from reports.tables.grid import number

COLOURS = sns.color_palette("colorblind", 10)


SHOWN = len(COLOURS)
"""At most this many classes are drawn, those with the lowest labels."""


_EDGE = {"edgecolors": "#333333", "linewidths": 0.3}


def code_maps(points: pd.DataFrame) -> Picture | None:
    """Draw one seed of a run's code map, the lowest; None without a point."""
    if points.empty:
        return None
    seed = points["seed"].min()
    points = points[points["seed"] == seed]
    classes = sorted(points["label"].unique())
    colour = dict(zip(classes, COLOURS, strict=False))
    drawn = points[points["label"].isin(list(colour))]
    defenses = list(dict.fromkeys(drawn["defense"]))
    dataset = str(points["dataset"].iloc[0])
    words = []
    with canvas((7.6, 3.3 * len(defenses) + 0.9)) as figure:
        panels = figure.subplots(len(defenses), 2, squeeze=False)
        for row, name in zip(panels, defenses, strict=True):
            words += code_row(row, drawn[drawn["defense"] == name], colour, name)
        many = len(classes) > SHOWN
        some = f" (classes {classes[0]} to {classes[SHOWN - 1]} of {len(classes)})" if many else ""
        title = f"{dataset}: embeddings, t-SNE{some}, seed {seed}"
        figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
        code_legend(figure, colour)
        alt = (
            f"{title}. A point per test image, clean embeddings left, attacked ones right;"
            f" misclassified images are down triangles. {' '.join(words)}"
        )
        return Picture(*render(figure), alt)


def _condition(part: pd.DataFrame, condition: str) -> str:
    if condition == "clean" or part.empty:
        return condition
    return f"{part['attack'].iloc[0]} at eps {part['eps'].iloc[0]:g}"


def code_row(
    panels: Sequence[Any], own: pd.DataFrame, colour: Mapping[Any, Any], name: str
) -> list[str]:
    """Draw one defense's embeddings, clean in the first panel and attacked in the second.

    ``colour`` maps each label of ``own`` to its colour. Returns a sentence per panel.
    """
    words = []
    # One fit, one plane: both panels show the same part of it.
    limits = [_limits(own[axis]) for axis in ("x", "y")]
    places = own[own["condition"] == "clean"].groupby("label")[["x", "y"]].median()
    places = _apart(places, [0.07 * (high - low) for low, high in limits])
    for axes, condition in zip(panels, CONDITIONS, strict=True):
        part = own[own["condition"] == condition]
        title = f"{plain(name, 26)}, {_condition(part, condition)}"
        accuracy = f"{number(100 * float((part['pred'] == part['label']).mean()), 1)} %"
        axes.set_title(f"{title}: {accuracy} correct", loc="left", fontsize=9.5)
        _panel(axes, part, colour, places)
        axes.set(xlim=limits[0], ylim=limits[1])
        bare(axes)
        words.append(f"{name}, {condition}: {accuracy} of {len(part)} correct.")
    return words


def bare(axes: Any) -> None:
    """Leave only the frame of a plane whose axes mean nothing."""
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color="#cccccc")


def _limits(values: pd.Series) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _apart(places: pd.DataFrame, gap: Sequence[float]) -> pd.DataFrame:
    """Move numbers that would cover each other apart, to a distance of ``gap`` along x and y."""
    at = places.to_numpy(dtype=float) / gap
    for _ in range(30):
        away = at[:, None] - at[None, :]
        distance = np.linalg.norm(away, axis=2)
        # Numbers at the very same place part sideways.
        away[distance == 0] = (1, 0)
        overlap = np.triu(np.clip(1 - distance, 0, None) / 2, 1)
        push = away * (overlap / np.where(distance == 0, 1, distance))[..., None]
        at = at + push.sum(axis=1) - push.sum(axis=0)
    return pd.DataFrame(at * gap, index=places.index, columns=places.columns)


def _panel(axes: Any, part: pd.DataFrame, colour: Mapping[Any, Any], places: pd.DataFrame) -> None:
    wrong = part["pred"] != part["label"]
    for chosen, marker, size in ((part[~wrong], "o", 13), (part[wrong], "v", 20)):
        colours = [colour[label] for label in chosen["label"]]
        look: dict[str, Any] = {"s": size, "c": colours, "marker": marker, "alpha": 0.85, **_EDGE}
        axes.scatter(chosen["x"], chosen["y"], **look)
    halo = [matplotlib.patheffects.withStroke(linewidth=2.5, foreground="white")]
    for label, place in places.iterrows():
        style = {"ha": "center", "va": "center", "fontsize": 11, "fontweight": "bold"}
        axes.text(place["x"], place["y"], str(label), path_effects=halo, **style)


def code_legend(figure: Any, colour: Mapping[Any, Any]) -> None:
    """Say below the panels what colours and marks mean."""
    dot: dict[str, Any] = {"linestyle": "", "markeredgecolor": "#333333", "markeredgewidth": 0.3}
    handles = [Line2D([], [], marker="o", color=c, **dot) for c in colour.values()]
    names = [f"class {label}" for label in colour]
    handles += [
        Line2D([], [], marker=m, color="white", **dot | {"markeredgewidth": 0.8}) for m in "ov"
    ]
    legend(figure, handles, [*names, "correct", "misclassified"], most=6)
