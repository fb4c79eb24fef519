"""Figures of the training logs: a line per model, and what each phase of the training logs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import MaxNLocator

from benchmark.results.model_records import ModelRecord
from reports.analysis.options import mapping
from reports.figures.drawing import Picture, canvas, finish, frame, render
from reports.figures.interactive import Chart, Line
from reports.section import RunContext, Section, figure_section, slug
from reports.sections.models import ordered
from reports.tables.grid import is_number, number

MANY = 12
"""Lines of more points have no markers."""


@dataclass(frozen=True)
class Curve:
    """A measure of the log, ``key``, drawn against the epochs that ``epoch`` counts.

    ``floor`` names the measure of the trained model whose ``floor`` is drawn as a dotted line.
    """

    key: str
    label: str
    caption: str = "A line per model."
    epoch: str = "epoch"
    fraction: bool = False
    floor: str = ""


CURVES = (
    Curve("loss", "training loss"),
    Curve("clean_accuracy", "held-out clean accuracy", fraction=True),
    Curve("adversarial_accuracy", "held-out adversarial accuracy", fraction=True),
    Curve(
        "code_distance",
        "distance of held-out embeddings from the prior",
        "A line per model. Dotted in its colour: the floor below which its trained embeddings,"
        " those of the test images, cannot be told from the prior.",
        floor="code_distance",
    ),
    Curve("critic_loss", "the GAN's critic loss", epoch="gan_epoch"),
    Curve("wasserstein", "the critic's Wasserstein estimate", epoch="gan_epoch"),
)


def make(context: RunContext) -> Section | None:
    """Return the section, with a figure per measure that some model logs; None without one."""
    models = ordered(context.run)
    figures = {}
    for curve in CURVES:
        picture = training_curves(models, curve, context.styles, context.run.spec.dataset)
        if picture:
            figures[f"{context.prefix}training-{slug(curve.key)}"] = picture, curve.caption
    return figure_section("training", "Training", figures)


def training_curves(
    models: Sequence[ModelRecord],
    curve: Curve,
    styles: Mapping[str, Mapping[str, Any]],
    dataset: str,
) -> Picture | None:
    """Draw ``curve`` of every model of a run whose log has it; None where none has.

    Epochs up to 0 are a pretraining's: their line does not join that of the training proper.
    """
    words: list[str] = []
    drawn: list[str] = []
    lines: list[Line] = []
    with canvas() as figure:
        axes = figure.add_subplot()
        pretrained = False
        for model in models:
            points = [(row.get(curve.epoch), row.get(curve.key)) for row in model.log]
            known: list[Any] = [point for point in points if all(map(is_number, point))]
            if not known:
                continue
            before, own = ([p for p in known if (p[0] > 0) == after] for after in (False, True))
            pretrained |= bool(before)
            gap = [(0.5, math.nan)] if before else []
            x, y = zip(*before, *gap, *own, strict=True)
            markers = {"marker": ""} if len(known) > MANY else {}
            look = {**styles[model.defense], "linewidth": 1.2, "alpha": 0.9, **markers}
            axes.plot(x, y, **look)
            seed, first = f"seed {model.seed}", model.defense not in drawn
            name = model.defense
            lines.append(Line(name, x, y, look, defense=name, note=seed, legend=first))
            words.append(f"{model.defense} (seed {model.seed}) ends at {number(known[-1][1])}.")
            floor: Any = mapping(mapping(model.measures).get(curve.floor)).get("floor")
            if is_number(floor):
                axes.axhline(floor, color=look["color"], linestyle=":", linewidth=1.1, alpha=0.9)
                dotted = {**look, "linestyle": ":", "marker": ""}
                ends, flat, note = (x[0], x[-1]), (floor, floor), f"{seed}, floor"
                lines.append(Line(name, ends, flat, dotted, defense=name, note=note, legend=False))
                words.append(f"Its floor is {number(floor)}.")
            if model.defense not in drawn:
                drawn.append(model.defense)
        if not drawn:
            return None
        x_label = "epoch of the GAN" if curve.epoch == "gan_epoch" else "epoch"
        x_label += " (pretraining up to 0)" if pretrained else ""
        frame(axes, x_label, curve.label, fraction=curve.fraction)
        if curve.floor:
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        title = f"{dataset}: {curve.label}"
        finish(figure, axes, title, drawn, styles)
        alt = f"{title} against {x_label}. {' '.join(words)}"
        chart = Chart(
            title,
            x_label,
            curve.label,
            lines,
            "epoch",
            fraction=curve.fraction,
            zero=bool(curve.floor),
        )
        return Picture(*render(figure), alt, chart.json())
