"""What all figures share: the canvas, its settings, the legend below it, and the files.

Every figure is a file of its own, so that a page can lay them out for its width. Legends stand
below the axes, where they hide nothing.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
    """A drawn figure: vector and raster bytes, and words for who cannot see it."""

    svg: bytes
    png: bytes
    alt: str


@contextmanager
def canvas(size: tuple[float, float] = (5.2, 4.2)) -> Iterator[Figure]:
    """Open a figure on Agg: no window, no pyplot state, and no matplotlibrc of the user's."""
    with matplotlib.style.context(["default", _SETTINGS]):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


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
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=200)
    return svg.getvalue(), png.getvalue()
