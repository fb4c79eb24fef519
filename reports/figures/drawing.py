"""What all figures share: the canvas, its settings, the legend below it, and the files.

Every figure is a file of its own, so that a page can lay them out for its width. Legends are
below the axes, where they hide nothing.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

_SETTINGS = {
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same on every machine
    "font.size": 10,
    "axes.titlesize": 10.5,
    "text.parse_math": False,  # a plugin's name may hold $
    "text.usetex": False,
    "svg.hashsalt": "defensebench",  # equal tables give equal bytes
    "svg.fonttype": "path",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure: vector and raster bytes, and words for who cannot see it.

    ``chart`` is :meth:`reports.figures.interactive.Chart.json` of the same numbers, or empty.
    """

    svg: bytes
    png: bytes
    alt: str
    chart: str = ""


@contextmanager
def canvas(size: tuple[float, float] = (5.2, 4.2)) -> Iterator[Figure]:
    """Open a figure on Agg: no window, no pyplot state, and no matplotlibrc of the user's."""
    with matplotlib.style.context(["default", _SETTINGS]):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def frame(axes: Any, x: str, y: str, *, fraction: bool) -> None:
    """Name the axes; that of a ``fraction`` runs from 0 to 1."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], min_n_ticks=2))
    if fraction:
        axes.set_ylim(0, 1.0)
        axes.set_yticks(np.linspace(0, 1, 6))


def finish(
    figure: Figure,
    axes: Any,
    title: str,
    names: Sequence[str],
    styles: Mapping[str, Mapping[str, Any]],
) -> None:
    """Put the title above and the legend of ``names`` below, and make room for both."""
    axes.set_title(plain(title, 60), loc="left")
    # Proxies, so that the legend keeps full colours.
    lines = legend(figure, [Line2D([], [], **styles[name]) for name in names], names)
    # Many defenses with long names: the legend grows downwards, not into the axes.
    figure.set_size_inches(5.2, 3.7 + 0.2 * lines)


def legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], most: int = 3) -> int:
    """Put the legend below the axes, ``most`` entries a line; return the number of its lines."""
    # The space lets a name start with "_".
    labels = [" " * name.startswith("_") + plain(name, 34) for name in names]
    longest = max(map(len, labels))
    columns = min(most if longest <= 14 else 2 if longest <= 26 else 1, len(labels))
    style = {"frameon": False, "handlelength": 3, "fontsize": 9}
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, **style)
    return -(-len(labels) // columns)


def plain(text: str, width: int) -> str:
    """Cut ``text`` to ``width`` and keep out what an SVG cannot hold."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= width else text[: width - 1] + "…"


def render(figure: Figure) -> tuple[bytes, bytes]:
    """Return the figure as SVG and as PNG."""
    svg, png = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks shows boxes; the page itself spells it out.
        warnings.filterwarnings("ignore", message="Glyph")
        # Laid out once for both files, not once for each.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=200)
    return svg.getvalue(), png.getvalue()
