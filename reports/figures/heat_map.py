"""A matrix of accuracies as a figure: each square has its number, which the colour only repeats."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps

from reports.figures.drawing import Picture, canvas, plain, render
from reports.tables.grid import number

_WIDTH = 16  # characters of a name beside the axes


@dataclass(frozen=True)
class Matrix:
    """``values[i][j]`` in [0, 1], or NaN, is what ``columns[j]`` gets on ``rows[i]``'s images."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]


def heat_map(matrix: Matrix, title: str) -> Picture:
    """Draw the accuracy of each column's defense on images made against each row's."""
    values = np.array(matrix.values, dtype=float)
    n_rows, n_columns = values.shape
    size = (2.0 + 0.72 * n_columns, 1.9 + 0.5 * n_rows)
    with canvas((max(4.0, size[0]), size[1])) as figure:
        axes = figure.add_subplot()
        colours = colormaps["cividis"].with_extremes(bad="#ffffff")
        axes.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(n_columns), [_name(name) for name in matrix.columns])
        axes.set_yticks(range(n_rows), [_name(name) for name in matrix.rows])
        axes.tick_params(axis="x", rotation=35)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        for (i, j), value in np.ndenumerate(values):
            # Cividis is darker than mid-grey below 0.5: each side has its own ink.
            ink = "white" if value < 0.5 else "#1d2329"
            own = matrix.rows[i] == matrix.columns[j]
            weight = "bold" if own else "normal"
            axes.text(j, i, number(value, 2), ha="center", va="center", color=ink, weight=weight)
        axes.set_xlabel("accuracy of")
        axes.set_ylabel("on images made against")
        axes.set_title(plain(title, 60), loc="left")
        return Picture(*render(figure), _in_words(matrix, title))


def _name(name: str) -> str:
    return plain(name, _WIDTH)


def _in_words(matrix: Matrix, title: str) -> str:
    """Say for each defense which images lower it most, and how far its own attack does."""
    words = []
    for j, target in enumerate(matrix.columns):
        column = {
            source: row[j]
            for source, row in zip(matrix.rows, matrix.values, strict=True)
            if not math.isnan(row[j])
        }
        if not column:
            continue
        lowest = min(column, key=lambda source: column[source])
        own = f", {number(column[target])} on its own" if target in column else ""
        words.append(f"{target}: lowest {number(column[lowest])} on those of {lowest}{own}.")
    return f"Accuracy of each defense on images made against each, {title}. {' '.join(words)}"
