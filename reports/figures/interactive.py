"""Figures that answer to the pointer: plotly's, beside the static ones that print and read aloud.

A chart holds the numbers of a static figure under the same colours, markers and dashes. It goes
into the page as JSON; ``report.js`` draws it with plotly.js, which the page carries once.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle
from plotly.offline import get_plotlyjs

from reports.figures.drawing import plain
from reports.templating import content_policy

Look = Mapping[str, Any]
"""How a line looks, in matplotlib's words: color, marker, linestyle, linewidth, markersize."""

_SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "p": "pentagon",
    "<": "triangle-left",
    "*": "star",
    ">": "triangle-right",
}
_PIXELS = 4 / 3  # of a point, matplotlib's unit
_DOTTED = (1.0, 1.65)  # matplotlib's ":", in line widths
_INK, _SOFT, _GRID = "#1d2329", "#5b6670", "#e4e4e4"
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'


@dataclass(frozen=True)
class Line:
    """A line of a chart: ``y`` against ``x``, broken where y is NaN.

    ``low``, ``high`` (the interval of y) and ``n`` (the number of images) are empty or as long as
    ``x``; so are ``notes``, which the pointer shows like ``note``, but per point. The page's
    switch of ``defense`` hides the line. ``dots`` draws points alone; ``legend`` is False for a
    line that another of the same ``name`` explains.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Look
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    n: Sequence[float] = ()
    defense: str = ""
    note: str = ""
    notes: Sequence[str] = ()
    dots: bool = False
    legend: bool = True


@dataclass(frozen=True)
class Chart:
    """The lines of a figure, with the names of its axes and what the pointer calls ``x``.

    A ``fraction`` runs from 0 to 1. ``steps`` holds each value until the next. ``zero`` starts the
    vertical axis at 0.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_name: str = "eps"
    fraction: bool = False
    steps: bool = False
    zero: bool = False

    def json(self) -> str:
        """Return plotly's figure as JSON that is safe within a ``<script>`` element."""
        bands = [band for line in self.lines if (band := _band(line))]
        figure = go.Figure(
            [*bands, *(self._trace(line) for line in self.lines)],
            self._layout(),
        )
        # plotly escapes <, > and /; its own validators have checked every word.
        text: str = figure.to_json()
        return text

    def _trace(self, line: Line) -> go.Scatter:
        colour = to_hex(line.style["color"])
        mode = "lines+markers" if line.style.get("marker") else "lines"
        low, high = _floats(line.low), _floats(line.high)
        n = _floats(line.n)
        trace = go.Scatter(
            **_common(line),
            name=_plotly_text(line.name),
            x=_floats(line.x),
            y=_floats(line.y),
            mode="markers" if line.dots else mode,
            line={"color": colour, "width": _width(line.style), "dash": _dash(line.style)},
            marker={
                "color": colour,
                "symbol": _SYMBOLS.get(line.style.get("marker") or "o", "circle"),
                "size": 5 if line.dots else 8,
                "opacity": 0.6 if line.dots else 1,
                "line": {"color": "white", "width": 0 if line.dots else 0.8},
            },
            cliponaxis=False,
            showlegend=line.legend and not line.dots,
            hovertemplate=self._hover(line),
        )
        if self.steps:
            trace.line.shape = "hv"
        extras = [column for column in (low, high, n, line.notes) if len(column)]
        if extras:
            trace.customdata = np.stack([np.asarray(c, dtype=object) for c in extras], axis=1)
        if len(low):
            trace.error_y = _bars(_floats(line.y), low, high, colour)
        return trace

    def _hover(self, line: Line) -> str:
        y = "%{y:.3f}" if self.fraction else "%{y:.4~g}"
        columns = {"low": line.low, "high": line.high, "n": line.n, "notes": line.notes}
        known = [name for name, values in columns.items() if len(values)]
        at = {name: f"customdata[{i}]" for i, name in enumerate(known)}
        note = f", {_plotly_text(line.note)}" if line.note else ""
        note += f", %{{{at['notes']}}}" if "notes" in at else ""
        words = f"{_plotly_text(line.name)}{note}, {self.x_name} %{{x:.4~g}}: {y}"
        if "low" in at:
            words += f" [%{{{at['low']}:.3f}}, %{{{at['high']}:.3f}}]"
        if "n" in at:
            words += f", n = %{{{at['n']}}}"
        return f"{words}<extra></extra>"

    def _range(self) -> list[float]:
        """All of x with a margin: no line runs along the axis."""
        x = np.concatenate([_floats(line.x) for line in self.lines])
        low, high = float(np.nanmin(x)), float(np.nanmax(x))
        margin = 0.04 * (high - low) or 0.5
        return [low - margin, high + margin]

    def _layout(self) -> go.Layout:
        axis = {"gridcolor": _GRID, "linecolor": "#888", "zeroline": False, "ticks": "outside"}
        y: dict[str, Any] = {**axis, "title": {"text": _plotly_text(self.y_label, 60)}}
        if self.fraction:
            y |= {"range": [0, 1], "dtick": 0.2}
        elif self.zero:
            y |= {"rangemode": "tozero"}
        return go.Layout(
            template="none",
            meta={"title": self.title},
            font={"family": _FONT, "size": 12, "color": _INK},
            margin={"l": 8, "r": 14, "t": 8, "b": 8},
            xaxis={
                **axis,
                "range": self._range(),
                "title": {"text": _plotly_text(self.x_label, 60), "standoff": 6},
                "automargin": True,
            },
            yaxis={**y, "automargin": True},
            legend={
                "orientation": "h",
                "yref": "container",
                "y": 0,
                "yanchor": "bottom",
                "x": 0,
                "itemwidth": 40,
                "font": {"size": 11.5},
            },
            hovermode="closest",
            hoverlabel={"bgcolor": "white", "font": {"color": _INK}, "namelength": -1},
            paper_bgcolor="white",
            plot_bgcolor="white",
        )


def _common(line: Line) -> dict[str, Any]:
    return {"legendgroup": _plotly_text(line.name), "meta": {"defense": line.defense}}


def _band(line: Line) -> go.Scatter | None:
    """The interval as an area, one closed outline per stretch without a gap."""
    low, high = _floats(line.low), _floats(line.high)
    stretches = [part for part in _stretches(low + high) if part.stop - part.start > 1]
    if not stretches:
        return None
    x = _floats(line.x)
    outlines_x = [[*x[part], *x[part][::-1], None] for part in stretches]
    outlines_y = [[*high[part], *low[part][::-1], None] for part in stretches]
    red, green, blue = (int(to_hex(line.style["color"])[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        **_common(line),
        x=list(chain.from_iterable(outlines_x)),
        y=list(chain.from_iterable(outlines_y)),
        fill="toself",
        fillcolor=f"rgba({red}, {green}, {blue}, 0.14)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )


def _bars(y: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> Mapping[str, Any]:
    """Intervals of the points without neighbours, where a band has no width."""
    lone = alone(y)
    return {
        "type": "data",
        "symmetric": False,
        "array": np.where(lone, high - y, np.nan),
        "arrayminus": np.where(lone, y - low, np.nan),
        "color": colour,
        "thickness": 1.5,
        "visible": bool(lone.any()),
    }


def _stretches(values: np.ndarray) -> list[slice]:
    """Return the runs of values without a NaN among them."""
    known = np.concatenate([[False], ~np.isnan(values), [False]])
    edges = np.flatnonzero(known[1:] != known[:-1])
    return [slice(start, stop) for start, stop in edges.reshape(-1, 2)]


def alone(y: np.ndarray) -> np.ndarray:
    """Tell of each value whether it is known while those beside it are NaN or absent."""
    lone = np.zeros(len(y), dtype=bool)
    lone[[part.start for part in _stretches(y) if part.stop - part.start == 1]] = True
    return lone


def _floats(values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, dtype=float)


def _plotly_text(text: str, width: int = 34) -> str:
    """Escape a name for plotly, which reads tags, entities and ``%{...}`` in every label."""
    return html.escape(plain(text, width), quote=False).replace("%{", "&#37;{")


# --- the look of a line ------------------------------------------------------------------------


def _width(style: Look) -> float:
    return round(float(style.get("linewidth", 1.5)) * _PIXELS, 2)


def _dash(style: Look) -> str:
    """Return matplotlib's line style as plotly's: lengths in pixels."""
    pattern = style.get("linestyle", "-")
    if pattern == "-":
        return "solid"
    lengths = _DOTTED if pattern == ":" else pattern[1]
    # matplotlib counts in line widths.
    return ",".join(f"{length * _width(style):.1f}px" for length in lengths)


def swatch(style: Look) -> Markup:
    """Draw a short piece of the line, for the page's switches."""
    colour, dash = to_hex(style["color"]), _dash(style)
    dashes = "" if dash == "solid" else f' stroke-dasharray="{dash.replace("px", "")}"'
    marker = MarkerStyle(style.get("marker") or "o")
    path = marker.get_path().transformed(marker.get_transform())
    outline = np.asarray(path.to_polygons()[0], dtype=float)
    points = " ".join(f"{21 + 9 * x:.1f},{8 - 9 * y:.1f}" for x, y in outline)
    return Markup(
        '<svg class="swatch" width="42" height="16" viewBox="0 0 42 16" aria-hidden="true">'
        f'<path d="M0 8H42" stroke="{colour}" stroke-width="{_width(style)}"{dashes}/>'
        f'<polygon points="{points}" fill="{colour}" stroke="#fff" stroke-width=".8"/></svg>'
    )


def switches(styles: Mapping[str, Look]) -> list[dict[str, Any]]:
    """Return each defense with a piece of its line, as the ``toolbar`` macro takes them."""
    return [{"name": name, "swatch": swatch(style)} for name, style in styles.items()]


# --- what the page carries ---------------------------------------------------------------------


@cache
def scripts() -> tuple[Markup, ...]:
    """Return plotly.js and the page's own script, safe within ``<script>`` elements."""
    own = files("reports").joinpath("report.js").read_text("utf-8")
    # Both are code of packages, never of a plugin.
    return tuple(Markup(f"\n{code.strip()}\n") for code in (get_plotlyjs(), own))


@cache
def policy() -> str:
    """Return the page's Content-Security-Policy: these scripts run, and nothing is fetched."""
    return content_policy(scripts(), images="data: blob:", fonts="data:")
