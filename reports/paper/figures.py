"""The paper's Figures 2 to 5 in its own panels, drawn from
:func:`reports.paper.measured.paper_tables`.

A panel of which nothing was run keeps its axes and says so. Accuracies are in percent, as in the
paper's Table 1, whose numbers are open marks in Figure 2.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmark.config.threat import eps_key
from benchmark.results.audit_words import DISTRUSTED, DOUBTFUL, RULINGS
from reports.analysis.studies import sequential_styles
from reports.figures.curves import draw_band, line_styles
from reports.figures.drawing import Picture, canvas, render
from reports.figures.embedding_map import COLOURS, bare, code_legend, code_row
from reports.paper import published as paper
from reports.paper.measured import MEASURED, NOT_RUN, by_trust

Look = Mapping[str, Any]

FAIR = "pgd-eot"
"""The attack that averages a noisy defense's gradient, which the paper's figure does not."""
FAIR_NAME = f"RSE, fair attack ({FAIR})"


@dataclass(frozen=True)
class Drawn:
    """A figure, and the runs that it shows."""

    picture: Picture
    runs: tuple[str, ...]


def paper_figures(
    tables: Mapping[str, pd.DataFrame], defenses: Sequence[str] = ()
) -> dict[str, Drawn]:
    """Draw Figures 2 to 5; ``defenses`` are those of the report, whose looks are kept."""
    looks = line_styles([*defenses, *paper.FIGURE2, *paper.FIGURE3])
    return {
        "figure2": _figure2(tables["figure2"], tables["table1"], looks),
        "figure3": _figure3(tables["figure3"], looks),
        "figure4": _figure4(tables["figure4"]),
        "figure5": _figure5(tables["figure5"]),
    }


# --- curves ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Accuracy against eps in percent, NaN where a cell of the run has no number.

    Without any number ``words`` says why; otherwise ``run`` names where the numbers come from and
    ``flag`` is the audit's verdict on them, empty where there is none.
    """

    name: str
    look: Look
    points: pd.DataFrame
    run: str = ""
    words: str = ""
    flag: str = ""


@dataclass(frozen=True)
class Panel:
    """One dataset: its curves, and further ones of which nobody expects a result.

    ``published`` are rows of Table 1.
    """

    dataset: str
    title: str
    curves: Sequence[Curve]
    further: Sequence[Curve] = ()
    published: pd.DataFrame | None = None

    @property
    def drawn(self) -> list[Curve]:
        """The curves that have a point."""
        return [curve for curve in (*self.curves, *self.further) if not curve.words]


def _curve(name: str, look: Look, rows: pd.DataFrame, dataset: str) -> Curve:
    """Make a curve from the most trustworthy run of ``rows``, on the paper's range of eps."""
    rows = rows[rows["eps"].map(eps_key) <= eps_key(paper.grid(dataset)[-1])]
    if not (rows["status"] == MEASURED).any():
        states = {NOT_RUN} if rows.empty else set(rows["status"].str.partition(":")[0])
        word = next(w for w in ("failed", "skipped", NOT_RUN) if w in states)
        return Curve(name, look, rows.iloc[:0], words=word)
    best = by_trust(rows).iloc[0]
    own = rows[(rows["run_id"] == best["run_id"]) & (rows["library"] == best["library"])]
    percent = {key: 100 * own[key].astype(float) for key in ("measured", "ci_low", "ci_high")}
    run = f"{best['run_id']} (preset {best['preset']})"
    words = [word for word in RULINGS if word in set(own["audit"])]
    return Curve(name, look, own.assign(**percent).sort_values("eps"), run, flag="".join(words[:1]))


def _figure(intro: str, panels: Sequence[Panel], looks: Mapping[str, Look], columns: int) -> Drawn:
    """Draw the panels two by two, with the legend of ``looks`` below."""
    words = []
    with canvas((8.4, 7.0)) as figure:
        figure.set_layout_engine("constrained", wspace=0.05)
        grid = figure.subplots(2, 2, sharey=True)
        for panel, axes in zip(panels, grid.flat, strict=True):
            _axes(axes, panel.dataset)
            axes.set_title(f"{panel.title}{_remarks(panel)}", loc="left")
            for curve in panel.drawn:
                _draw(axes, curve)
            if all(curve.words for curve in panel.curves):
                _say(axes, ", ".join(dict.fromkeys(c.words for c in panel.curves)) or NOT_RUN)
            words += [f"{panel.title}:", *_in_words(panel)]
            if panel.published is not None:
                words += _published(axes, panel.published, looks)
        for axes in grid[:, 0]:
            axes.set_ylabel("testing accuracy, %")
        for axes in grid[-1]:
            axes.set_xlabel("eps, l∞ (pixel values in [0, 1])")
        handles = [Line2D([], [], **look) for look in looks.values()]
        style = {"frameon": False, "handlelength": 3, "fontsize": 9.5, "ncols": columns}
        if handles:
            figure.legend(handles, list(looks), loc="outside lower center", **style)
        alt = f"{intro}, in percent, a panel per dataset, with 95 % bands. {' '.join(words)}"
        runs = dict.fromkeys(curve.run for panel in panels for curve in panel.drawn)
        return Drawn(Picture(*render(figure), alt), tuple(runs))


def _axes(axes: Any, dataset: str) -> None:
    axes.set(xlim=(0, paper.grid(dataset)[-1]), ylim=(0, 100))
    axes.set_yticks(np.arange(0, 101, 20))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def _draw(axes: Any, curve: Curve) -> None:
    band = curve.points[["eps", "measured", "ci_low", "ci_high"]]
    draw_band(axes, band.to_numpy(dtype=float), curve.look)


def _remarks(panel: Panel) -> str:
    """Name the curves without a point, where others have one, and those that the audit doubts."""
    if all(curve.words for curve in panel.curves):
        return ""
    # Where every curve is undecided, the page says so, and so does each number in its table.
    undecided = {curve.flag for curve in panel.drawn} == {"undecided"}
    doubts = DISTRUSTED if undecided else DOUBTFUL
    found: dict[str, list[str]] = {}
    for curve in panel.curves:
        if word := curve.words or (curve.flag if curve.flag in doubts else ""):
            found.setdefault(word, []).append(curve.name.partition(" (")[0])
    notes = (f"{word}: {', '.join(names)}" for word, names in found.items())
    return "".join(f"\n{textwrap.fill(note, 42)}" for note in notes)


def _say(axes: Any, words: str) -> None:
    """Say in an empty panel why it is empty, where no published point lies."""
    style = {"ha": "center", "va": "center", "fontsize": 12, "style": "italic"}
    axes.text(0.25, 0.13, words, transform=axes.transAxes, color="#7a5200", **style)


def _in_words(panel: Panel) -> list[str]:
    """Say where each curve starts, passes and ends."""
    sentences = [f"{curve.name} {curve.words}." for curve in panel.curves if curve.words]
    for curve in panel.drawn:
        known = curve.points.dropna(subset=["measured"])
        rows = known.iloc[sorted({0, len(known) // 2, len(known) - 1})]
        numbers = [f"{row.measured:.1f} at eps {row.eps:g}" for row in rows.itertuples()]
        if absent := len(curve.points) - len(known):
            numbers.append(f"no number at {absent} of {len(curve.points)} eps")
        doubt = f" ({curve.flag})" if curve.flag in DOUBTFUL else ""
        sentences.append(f"{curve.name}{doubt} {', '.join(numbers)}.")
    return sentences or [f"{NOT_RUN}."]


# --- figures 2 to 4 ----------------------------------------------------------------------------


def _figure2(frame: pd.DataFrame, table1: pd.DataFrame, looks: Mapping[str, Look]) -> Drawn:
    thin = {**looks["rse"], "linewidth": 0.9, "marker": "", "linestyle": "-"}
    panels = []
    for dataset in paper.DATASETS:
        fair = _curve(FAIR_NAME, thin, _rows(frame, dataset, "rse", FAIR), dataset)
        published = table1[table1["dataset"] == dataset].drop_duplicates(["defense", "eps"])
        curves = _defenses(frame, dataset, paper.FIGURE2, looks)
        further = [] if fair.words else [fair]
        title = paper.DATASET_NAMES[dataset]
        panels.append(Panel(dataset, title, curves, further, published))
    shown = {paper.named(name): looks[name] for name in paper.FIGURE2}
    if any(panel.further for panel in panels):
        shown[FAIR_NAME] = thin
    for name in dict.fromkeys(table1["defense"]):
        shown[_published_name(name)] = _open(looks[name])
    intro = (
        "Figure 2: testing accuracy against eps under l-inf PGD; open marks are Table 1's numbers"
    )
    return _figure(intro, panels, shown, 3)


def _defenses(
    frame: pd.DataFrame, dataset: str, defenses: Sequence[str], looks: Mapping[str, Look]
) -> list[Curve]:
    return [
        _curve(paper.named(name), looks[name], _rows(frame, dataset, name, "pgd"), dataset)
        for name in defenses
    ]


def _rows(frame: pd.DataFrame, dataset: str, defense: str, attack: str) -> pd.DataFrame:
    """The points of a curve; an eps of the paper's that no run asked for breaks no line."""
    own = (frame["defense"] == defense) & (frame["attack"] == attack)
    return frame[own & (frame["dataset"] == dataset) & (frame["run_id"] != "")]


def _published_name(defense: str) -> str:
    return f"{paper.DEFENSE_NAMES[defense]}, published"


def _open(look: Look) -> Look:
    """The look of a published point: the curve's own mark, larger and empty."""
    size = {"linestyle": "", "markersize": 9, "markeredgewidth": 1.5}
    colours = {"markerfacecolor": "none", "markeredgecolor": look["color"]}
    return {"color": look["color"], "marker": look["marker"], **size, **colours}


def _published(axes: Any, rows: pd.DataFrame, looks: Mapping[str, Look]) -> list[str]:
    words = []
    for defense, own in rows.groupby("defense", sort=False):
        name = _published_name(str(defense))
        values = 100 * own["published"]
        axes.plot(own["eps"], values, zorder=5, clip_on=False, **looks[name])
        points = zip(own["eps"], values, strict=True)
        words.append(f"{name}: {', '.join(f'{v:.1f} at eps {eps:g}' for eps, v in points)}.")
    return words


def _figure3(frame: pd.DataFrame, looks: Mapping[str, Look]) -> Drawn:
    panels = [
        Panel(d, paper.DATASET_NAMES[d], _defenses(frame, d, paper.FIGURE3, looks))
        for d in paper.DATASETS
    ]
    shown = {paper.named(name): looks[name] for name in paper.FIGURE3}
    intro = "Figure 3: testing accuracy of E-CLA and of OT-Classifier against eps under l-inf PGD"
    return _figure(intro, panels, shown, 2)


def _figure4(frame: pd.DataFrame) -> Drawn:
    frame = frame[(frame["attack"] == "pgd") & (frame["run_id"] != "")]
    looks = sequential_styles([_k(value) for value in sorted(set(frame["code_dim"]))])
    panels = []
    for dataset in paper.DATASETS:
        own = frame[frame["dataset"] == dataset]
        intrinsic, used = paper.TABLE3[dataset]
        title = f"{paper.DATASET_NAMES[dataset]} (intrinsic {intrinsic}, paper uses {used})"
        curves = [
            _curve(_k(value), looks[_k(value)], rows, dataset)
            for value, rows in own.groupby("code_dim")
        ]
        panels.append(Panel(dataset, title, curves))
    intro = (
        "Figure 4: testing accuracy of OT-Classifier against eps under l-inf PGD at several"
        " embedding dimensions k"
    )
    return _figure(intro, panels, looks, 6)


def _k(value: Any) -> str:
    return f"k = {value:g}"


# --- figure 5 ----------------------------------------------------------------------------------


def _figure5(frame: pd.DataFrame) -> Drawn:
    """Codes in the plane: rows E-CLA and OT-Classifier, columns clean and attacked per dataset."""
    datasets, defenses = paper.FIGURE5["datasets"], paper.FIGURE5["defenses"]
    colour = dict(enumerate(COLOURS))
    words, runs = [], []
    with canvas((12.6, 7.2)) as figure:
        grid = figure.subplots(len(defenses), 2 * len(datasets), squeeze=False)
        for row, defense in zip(grid, defenses, strict=True):
            row[0].set_ylabel(paper.named(defense), fontsize=11)
            for i, dataset in enumerate(datasets):
                pair, name = row[2 * i : 2 * i + 2], paper.DATASET_NAMES[dataset]
                own = _codes(frame, dataset, defense)
                if len(own):
                    sentences = code_row(pair, own, colour, name)
                    runs.append(str(own["run_id"].iloc[0]))
                else:
                    sentences = [f"{name}: {NOT_RUN}."]
                    _empty_planes(pair, name)
                words += [f"{paper.named(defense)}, {sentence}" for sentence in sentences]
        code_legend(figure, colour)
        alt = (
            "Figure 5: t-SNE of test embeddings; rows E-CLA and OT-Classifier, columns clean"
            " and under l-inf PGD for MNIST and for CIFAR10; misclassified images are down"
            " triangles."
            f" {' '.join(words)}"
        )
        return Drawn(Picture(*render(figure), alt), tuple(dict.fromkeys(runs)))


def _empty_planes(pair: Sequence[Any], name: str) -> None:
    for axes, condition in zip(pair, ("clean", "under PGD"), strict=True):
        axes.set_title(f"{name}, {condition}", loc="left", fontsize=9.5)
        _say(axes, NOT_RUN)
        bare(axes)


def _codes(frame: pd.DataFrame, dataset: str, defense: str) -> pd.DataFrame:
    """Return the points of the most trustworthy run's lowest seed."""
    own = frame[(frame["dataset"] == dataset) & (frame["defense"] == defense)]
    own = own[own["status"] == MEASURED]
    if own.empty:
        return own
    by_run = own.groupby("run_id", sort=False)
    counts = {"n": by_run["sample_id"].nunique(), "seeds": by_run["seed"].nunique()}
    runs = own.drop_duplicates("run_id").set_index("run_id", drop=False).assign(**counts)
    own = own[own["run_id"] == by_trust(runs).iloc[0]["run_id"]]
    own = own[(own["seed"] == own["seed"].min()) & (own["label"] < len(COLOURS))]
    points: pd.DataFrame = own.astype({"label": int, "pred": int})
    return points
