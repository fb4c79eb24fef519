"""The paper's figures: every panel is there, with its curves, its marks and its words."""

import re
from dataclasses import replace

import pytest
from fake_runs import fake_codes, fake_run, fake_spec

from benchmark.config.spec import AttackSpec, DefenseSpec
from benchmark.config.threat import ThreatModel
from benchmark.results import read_run
from reports.paper import figures as drawn
from reports.paper.figures import FAIR_NAME, paper_figures
from reports.paper.measured import paper_tables

REACH = {
    "undefended": [0.05] * 10,
    "madry": [0.15] * 3 + [0.25] * 4 + [9.0] * 3,
    "rse": [0.15] * 10,
    "ot-cla": [0.25] * 10,
    "ot-cla-adv": [0.35] * 10,
    "e-cla": [0.05] * 10,
}
PGD = AttackSpec("pgd", ThreatModel("linf", (0.0, 0.1, 0.2, 0.3, 0.4)), 10)
DEFENSES = ("undefended", "madry", "rse", "ot-cla", "ot-cla-adv", "e-cla")


def spec(defenses=DEFENSES, attacks=(PGD,), **changes):
    return replace(fake_spec(defenses, seeds=(0,), n=10), attacks=attacks, **changes)


def run(folder, run_spec=None, reach=REACH, **options):
    return read_run(fake_run(folder, run_spec or spec(), reach=reach, models=False, **options))


class Recorder:
    """What each figure put into its panels, kept when it is rendered."""

    def __init__(self, monkeypatch):
        self.figures = []
        monkeypatch.setattr(drawn, "render", self.keep)

    def keep(self, figure):
        self.figures.append(figure)
        return b"<svg/>", b"\x89PNG"

    def panels(self, i):
        return self.figures[i].axes

    def labels(self, i):
        (legend,) = self.figures[i].legends
        return [text.get_text() for text in legend.get_texts()]


@pytest.fixture
def record(monkeypatch):
    return Recorder(monkeypatch)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_nothing_run_still_has_every_panel(record):
    figures = paper_figures(paper_tables([]))
    assert [len(record.panels(i)) for i in range(4)] == [4, 4, 4, 8]
    for i in range(4):
        for axes in record.panels(i):
            assert texts(axes) == ["not run"]
    for axes, end in zip(record.panels(0), (0.4, 0.06, 0.06, 0.02), strict=True):
        assert axes.get_xlim() == (0, end)
        assert axes.get_ylim() == (0, 100)
    assert all(figure.runs == () for figure in figures.values())
    assert "CIFAR10: No defense (undefended) not run." in figures["figure2"].picture.alt


def lines(axes):
    return {tuple(line.get_ydata()) for line in axes.lines}


def test_figure2_draws_curves_and_published_points(tmp_path, record):
    figures = paper_figures(paper_tables([run(tmp_path)]), DEFENSES)
    mnist, cifar = record.panels(0)[:2]
    assert texts(mnist) == []
    assert (100, 100, 70, 30, 30) in lines(mnist)  # madry, of ten images
    assert pytest.approx((99.1, 98.7, 97.2, 94.9, 71.1)) in [list(y) for y in lines(mnist)]
    assert pytest.approx((82.6, 68.0, 42.3, 21.6, 12.0)) in [list(y) for y in lines(cifar)]
    assert record.labels(0) == [
        *("No defense (undefended)", "Adv. Training (madry)", "RSE", "OT-Classifier (ot-cla)"),
        *("OT-CLA+Adv (ot-cla-adv)", "Adv. Training, published", "OT-CLA+Adv, published"),
    ]
    alt = figures["figure2"].picture.alt
    assert "Adv. Training (madry) 100.0 at eps 0, 70.0 at eps 0.2, 30.0 at eps 0.4." in alt
    assert "Adv. Training, published: 82.6 at eps 0, 68.0 at eps 0.015" in alt


def test_open_marks_are_the_curves_own(tmp_path, record):
    paper_figures(paper_tables([run(tmp_path)]), DEFENSES)
    mnist = record.panels(0)[0]
    (marks,) = [line for line in mnist.lines if pytest.approx(71.1) == line.get_ydata()[-1]]
    (curve,) = [line for line in mnist.lines if tuple(line.get_ydata()) == (100, 100, 100, 100, 0)]
    assert marks.get_linestyle() == "None"
    assert marks.get_markerfacecolor() == "none"
    assert (marks.get_marker(), marks.get_color()) == (curve.get_marker(), curve.get_color())


def test_the_looks_are_those_of_the_report(tmp_path, record):
    order = ("plugin", *reversed(DEFENSES))
    paper_figures(paper_tables([run(tmp_path)]), order)
    from reports.figures.curves import line_styles

    styles = line_styles(order)
    (curve,) = [
        line for line in record.panels(1)[0].lines if tuple(line.get_ydata()) == (100, 0, 0, 0, 0)
    ]
    assert curve.get_marker() == styles["e-cla"]["marker"]


def test_what_lacks_in_a_panel_is_named_above_it(tmp_path, record):
    states = {("rse", eps): ("failed", "boom") for eps in (0.0, 0.1, 0.2, 0.3, 0.4)}
    states[("madry", 0.2)] = ("failed", "boom")
    some = spec(("madry", "rse", "ot-cla"))
    figures = paper_figures(paper_tables([run(tmp_path, some, states=states)]))
    title = record.panels(0)[0].get_title(loc="left")
    assert title == "MNIST\nnot run: No defense, OT-CLA+Adv\nfailed: RSE"
    alt = figures["figure2"].picture.alt
    assert "RSE failed." in alt
    one = spec(("madry",))
    paper_figures(paper_tables([run(tmp_path / "one", one)]))
    title = record.panels(4)[0].get_title(loc="left")
    assert max(map(len, title.splitlines())) <= 42  # as wide as a panel
    assert "no number at 1 of 5 eps" in alt


def test_the_fair_attack_is_a_line_of_its_own(tmp_path, record):
    fair = replace(PGD, name="pgd-eot", type="pgd", eot=10)
    paper_figures(paper_tables([run(tmp_path, spec(attacks=(PGD, fair)))]))
    assert FAIR_NAME in record.labels(0)
    widths = sorted(
        line.get_linewidth() for line in record.panels(0)[0].lines if len(line.get_xdata()) == 5
    )
    assert widths[0] < 1


def study(folder, values=(13, 2, 4)):
    members = tuple(
        DefenseSpec(f"ot-cla[code_dim={k}]", {"code_dim": k}, type="ot-cla") for k in values
    )
    reach = {member.name: [0.02 * member.params["code_dim"]] * 10 for member in members}
    return run(folder, replace(spec(), defenses=members, study="embedding-dim"), reach)


def test_figure4_has_a_curve_per_dimension(tmp_path, record):
    figures = paper_figures(paper_tables([study(tmp_path)]))
    assert record.labels(2) == ["k = 2", "k = 4", "k = 13"]
    titles = [axes.get_title(loc="left") for axes in record.panels(2)]
    assert titles[0] == "MNIST (intrinsic 13, paper uses 4)"
    assert [texts(axes) for axes in record.panels(2)] == [[], *[["not run"]] * 3]
    assert (
        "k = 13 100.0 at eps 0, 100.0 at eps 0.2, 0.0 at eps 0.4." in figures["figure4"].picture.alt
    )


def test_the_better_run_is_drawn_whole(tmp_path, record):
    small = run(tmp_path / "a", spec(preset="smoke"), {**REACH, "madry": [9.0] * 10})
    figures = paper_figures(paper_tables([small, run(tmp_path / "b")]))
    assert (100, 100, 70, 30, 30) in lines(record.panels(0)[0])
    assert (100, 100, 100, 100, 100) not in lines(record.panels(0)[0])
    assert [name for name in figures["figure2"].runs if "smoke" in name] == []


def test_figure5_has_its_rows_and_columns(tmp_path, record):
    made = run(tmp_path)
    fake_codes(made.path, ("ot-cla",), n=40, classes=12)
    figures = paper_figures(paper_tables([made]))
    panels = record.panels(3)
    said = [texts(axes) == ["not run"] for axes in panels]
    assert said == [True] * 4 + [False, False, True, True]
    assert [panels[i].get_ylabel() for i in (0, 4)] == ["E-CLA", "OT-Classifier (ot-cla)"]
    alt = figures["figure5"].picture.alt
    assert re.search(r"OT-Classifier \(ot-cla\), MNIST, attacked: \d+\.\d % of 34 correct\.", alt)
    assert "E-CLA, CIFAR10: not run." in alt
