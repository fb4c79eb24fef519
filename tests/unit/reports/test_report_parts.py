"""The report on what was skipped, what defenses measure on themselves, and how they trained."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_runs import fake_run, fake_spec
from matplotlib.axes import Axes
from pages import Page

from benchmark.config.spec import DefenseSpec
from benchmark.results import read_run
from reports.figures import curves as figures_curves
from reports.html import write_report
from reports.sections.models import words
from reports.sections.training import CURVES, training_curves
from reports.tables import grid
from reports.tables.writers import latex_escape

pytestmark = pytest.mark.usefixtures("undrawn")

# --- what was skipped

GRADIENT, NOISE = "it follows the gradient", "EOT averages over noise & <i>none</i>"
TRIO = ("undefended", "madry", "<gan>")


@pytest.fixture(scope="module")
def skipping(tmp_path_factory):
    """A run in which cw is skipped on two of three defenses, and its page."""
    skipped = {("undefended", "cw"): NOISE, ("madry", "cw"): NOISE, ("<gan>", "pgd"): GRADIENT}
    spec = fake_spec(TRIO)
    run_dir = fake_run(tmp_path_factory.mktemp("skipping"), spec, skipped=skipped)
    path = write_report([run_dir])
    page = Page(path.read_text("utf-8"))
    return SimpleNamespace(run=read_run(run_dir), path=path, words=page.words)


def accuracy(run, cells=None):
    cells = grid.grid(run) if cells is None else cells
    return grid.accuracy_tables(grid.pool(cells, run.samples))


def test_a_defense_that_an_attack_skipped_has_no_row_but_a_sentence(skipping):
    pgd, cw = accuracy(skipping.run)
    assert [row[0] for row in pgd.rows] == ["undefended", "madry"]
    assert (pgd.skipped, [row[0] for row in cw.rows]) == (["<gan>"], ["<gan>"])
    assert cw.skipped == ["undefended", "madry"]
    assert "Skipped: undefended, madry – see What did not run, and why" in skipping.words
    for table, number_ in ((pgd, "01"), (cw, "02")):
        (csv,) = skipping.path.parent.glob(f"{number_}-*.csv")
        (tex,) = skipping.path.parent.glob(f"{number_}-*.tex")
        named = [line.split(",")[0] for line in csv.read_text("utf-8").splitlines()[1:]]
        assert named == [row[0] for row in table.rows]
        remark, body = tex.read_text("ascii").split("\\begin{table}")
        assert remark.endswith(f"% skipped: {latex_escape(', '.join(table.skipped))}\n")
        assert not any(f"{{{latex_escape(name)}}}" in body for name in table.skipped)
    # The file of all numbers hides nothing.
    everything = (skipping.path.parent / "accuracy.csv").read_text("utf-8")
    assert everything.count(",skipped,") == 5 + 2 * 3


@pytest.mark.parametrize("other", ["ok", "failed", "missing"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_single_cell_that_was_not_skipped_keeps_the_row(skipping, other, seeds):
    cells = grid.grid(skipping.run)
    own = (cells["defense"] == "madry") & (cells["attack"] == "cw") & (cells["eps"] == 1.0)
    cells.loc[own & cells["seed"].isin(seeds), "status"] = other
    cells.loc[own, ["n", "robust_accuracy", "clean_accuracy"]] = [40, 0.5, 1.0]
    _, cw = accuracy(skipping.run, cells)
    assert [row[0] for row in cw.rows] == ["madry", "<gan>"]
    assert cw.skipped == ["undefended"]
    word = {"ok": "0.500", "missing": "not run"}.get(other, other)
    assert [cell.value for cell in cw.rows[0][2]] == ["skipped", word, "skipped"]


def test_an_attack_that_was_skipped_on_all_still_has_a_line(tmp_path):
    spec = fake_spec(TRIO, seeds=(0,))
    run_dir = fake_run(tmp_path, spec, skipped=dict.fromkeys(((d, "cw") for d in TRIO), NOISE))
    path = write_report([run_dir])
    page = Page(path.read_text("utf-8"))
    line = "cw (art, l2) Skipped on every defense: undefended, madry, <gan> – see What did not run"
    assert line in page.words
    assert f"cw (art, l2) undefended, madry, <gan> all 0 skipped {NOISE}" in page.words
    assert not list(path.parent.glob("02-*"))
    links = [a["href"] for a in page.all("a") if not a["href"].startswith("#")]
    assert all((path.parent / link).is_file() for link in links)


def test_equal_reasons_are_one_row_over_defenses_and_over_attacks(skipping, tmp_path):
    words_ = skipping.words
    assert f"cw (art, l2) undefended, madry all 0, 1 skipped {NOISE}" in words_
    assert f"pgd (inhouse, l∞) <gan> all 0, 1 skipped {GRADIENT}" in words_
    assert words_.count(NOISE) == 2  # in the panel, and in the table of what did not run
    skipped = {(d, a): NOISE for d in TRIO[1:] for a in ("pgd", "cw")}
    page = Page(
        write_report([fake_run(tmp_path, fake_spec(TRIO), skipped=skipped)]).read_text("utf-8")
    )
    assert f"pgd (inhouse, l∞), cw (art, l2) madry, <gan> all 0, 1 skipped {NOISE}" in page.words


def test_what_differs_is_not_grouped(tmp_path):
    states = {("madry", 0.1): ("failed", "boom"), ("undefended", 0.1): ("skipped", "boom")}
    states |= {("<gan>", 0.2): ("failed", "boom")}
    page = Page(
        write_report([fake_run(tmp_path, fake_spec(TRIO), states=states)]).read_text("utf-8")
    )
    for row in ("madry 0.1 0, 1 failed boom", "<gan> 0.2 0, 1 failed boom"):
        assert f"pgd (inhouse, l∞) {row}" in page.words
    assert "pgd (inhouse, l∞) undefended 0.1 0, 1 skipped boom" in page.words


# --- what defenses measure on themselves, and their notes

NOTE = "Defense-GAN on <b>stl10</b> is beyond what its paper claims"
MEASURES = {
    "reconstruction_error": {"value": 0.01043, "ci_low": 0.0102, "ci_high": 0.01066, "n": 200},
    "clean_accuracy": {"value": 0.125, "ci_low": 0.0861, "ci_high": 0.178, "n": 200},
    "notes": [NOTE],
    "<i>latents</i>": 128,
    "layers": {"first_layer": {"value": 2.5}, "norms": [1.0, 20.0], "spectral": True},
}


@pytest.fixture(scope="module")
def measuring(tmp_path_factory):
    gan = [{"gan_epoch": i, "critic_loss": -2.0 * i, "wasserstein": 3.0 * i} for i in (1, 2, 3)]
    before = [{"epoch": i, "loss": 9.0, "clean_accuracy": 0.1} for i in (-1, 0)]
    logs, measures = {"<gan>": gan, "ot-cla": before}, {"<gan>": MEASURES}
    spec = fake_spec(("<gan>", "ot-cla"))
    folder = tmp_path_factory.mktemp("measuring")
    run_dir = fake_run(folder, spec, logs=logs, measures=measures, codes=("ot-cla",))
    path = write_report([run_dir])
    html = path.read_text("utf-8")
    return SimpleNamespace(run=read_run(run_dir), path=path, html=html, page=Page(html))


def test_what_a_defense_measures_is_shown_under_its_name(measuring):
    shown = measuring.page.words
    for row in (
        "reconstruction error 0.0104 [0.0102, 0.0107] 200 –",
        "clean accuracy 0.125 [0.086, 0.178] 200 –",
        "<i>latents</i> 128 – – –",
        "layers: first layer 2.500 – – –",
        "layers: norms 1.000, 20.0 – – –",
        "layers: spectral yes – – –",
    ):
        assert f"<gan> 0 {row}" in shown
        assert f"<gan> 1 {row}" in shown
    assert "<i>" not in measuring.html


def test_notes_stand_at_the_top_and_beside_the_model(measuring):
    shown = measuring.page.words
    line = f"Note on <gan>: {NOTE}"
    assert shown.count(line) == 2  # not once more for the second seed
    assert shown.index(line) < shown.index("32 cells")
    beside = shown.split("Trained models: the last values")[1].split("Measured on")[0]
    assert line in beside
    assert beside.index("<gan> 0") < beside.index(line) < beside.index("ot-cla 0")
    assert "<b>stl10" not in measuring.html


def test_without_notes_nothing_is_said(skipping):
    assert "Note on" not in skipping.words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((None, "–"), (math.nan, "–"), (True, "yes"), ("a word", "a word"), (12345, "12,345")),
        *((0.0, "0.000"), (1.0, "1.000"), (0.5, "0.500"), (-0.25, "-0.250"), (0.0123, "0.0123")),
        *((12.34, "12.3"), (5432.1, "5,432"), (1e-12, "1e-12"), (1e20, "1e+20")),
        *((math.inf, "inf"), ([1, [2.0]], "1, 2.000"), (list(range(20)), "(20 values)")),
    ],
)
def test_any_value_has_words(value, shown):
    assert words(value).endswith(shown)


# --- training logs


def test_only_the_defenses_own_epochs_count(measuring):
    shown = measuring.page.words
    assert "<gan> 0 123,456 12.3 6 + 3 GAN 0.383 0.900 0.717" in shown
    assert "ot-cla 0 123,456 12.3 6 + 2 pretraining 0.383 0.900 0.717" in shown


def curves(run):
    styles = figures_curves.line_styles(model.defense for model in run.models)
    return {curve.key: training_curves(run.models, curve, styles, "mnist") for curve in CURVES}


def test_each_phase_of_the_training_has_its_curves(measuring, skipping):
    drawn = curves(measuring.run)
    assert all(drawn.values())
    assert drawn["loss"].alt.startswith("mnist: training loss against epoch (pretraining up to 0).")
    for key, end in (("critic_loss", "-6.000"), ("wasserstein", "9.000")):
        assert "against epoch of the GAN." in drawn[key].alt
        assert f"<gan> (seed 1) ends at {end}." in drawn[key].alt
        assert "ot-cla" not in drawn[key].alt
    assert "ot-cla (seed 0) ends at 0.400. Its floor is 0.050." in drawn["code_distance"].alt
    assert "<gan>" not in drawn["code_distance"].alt
    names = {path.name for path in measuring.path.parent.glob("training-*.svg")}
    assert {f"training-{key.replace('_', '-')}.svg" for key in drawn} == names
    plain = curves(skipping.run)
    assert [key for key in plain if plain[key] is None] == [
        "code_distance",
        "critic_loss",
        "wasserstein",
    ]


def test_a_pretraining_does_not_join_the_training(measuring, monkeypatch):
    lines = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: lines.append(a[1:]) or plot(*a, **k))
    curves(measuring.run)
    x, y = next(line for line in lines if -1 in line[0])
    assert x == (-1, 0, 0.5, 1, 2, 3, 4, 5, 6)
    assert [i for i, value in enumerate(y) if math.isnan(value)] == [2]


def test_the_floor_is_a_dotted_line_in_the_models_colour(measuring, monkeypatch):
    floors = []
    monkeypatch.setattr(Axes, "axhline", lambda self, y, **look: floors.append((y, look)))
    curves(measuring.run)
    styles = figures_curves.line_styles(model.defense for model in measuring.run.models)
    assert [y for y, _ in floors] == [0.05, 0.05]  # a model per seed, and only with codes
    for _, look in floors:
        assert (look["linestyle"], look["color"]) == (":", styles["ot-cla"]["color"])


# --- several datasets, studies and dimensions on one page


def test_datasets_studies_and_dimensions_share_a_page(tmp_path):
    one = fake_run(
        tmp_path, fake_spec(("madry", "<gan>"), seeds=(0,)), measures={"<gan>": MEASURES}
    )
    spec = replace(fake_spec(("madry",), seeds=(0,)), dataset="stl10")
    two = fake_run(tmp_path, spec, skipped={("madry", "cw"): NOISE})
    names = ("ot-cla[code_dim=2]", "ot-cla[code_dim=13]")
    members = [
        DefenseSpec(name, {"code_dim": dim}, type="ot-cla")
        for name, dim in zip(names, (2, 13), strict=True)
    ]
    spec = replace(fake_spec(names), defenses=tuple(members), study="embedding-dim")
    study = fake_run(tmp_path, spec, codes=names)
    dimension = tmp_path / "dimension-cifar10-0123456789"
    dimension.mkdir()
    estimate = {"average": "mackay", "scaling": "var", "k1": 6, "k2": 12, "value": 17.25}
    estimates = [estimate | {"ci_low": 16.5, "ci_high": 18.0}]
    found = {"dataset": "cifar10", "n": 1000, "estimates": estimates, "library_estimate": None}
    (dimension / "dimension.json").write_text(json.dumps(found | {"library": None}), "utf-8")
    path = write_report([one, two, study, dimension], tmp_path / "all")
    page = Page(path.read_text("utf-8"))
    own = {section["id"].split("-")[0] for section in page.all("section")}
    assert own >= {"run1", "run2", "run3", "paper"}
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert page.words.count(f"mnist, preset quick): {NOTE}") == 1
    assert page.words.count("Skipped on every defense: madry") == 1
    alts = " ".join(img["alt"] for img in page.all("img"))
    for start in ("stl10: training loss against", "mnist: training loss against"):
        assert start in alts
    assert "code_dim = 2:" in alts
    assert "intrinsic dimension" in page.words
    for link in [a["href"] for a in page.all("a")]:
        assert link[1:] in ids if link.startswith("#") else (path.parent / link).is_file()
