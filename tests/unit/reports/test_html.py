"""The report: honest about whatever a run's folder holds, and safe against any name in it."""

import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_runs import DEFENSES, LINF, fake_codes, fake_run, fake_spec
from pages import Page
from paths import ROOT

from benchmark.errors import UsageError
from benchmark.io.json_files import write_json
from benchmark.results import ResultsError, read_run
from benchmark.stats import wilson_interval
from reports.figures import curves
from reports.html import write_report
from reports.tables import grid as tables_grid
from reports.tables.writers import latex_escape

pytestmark = pytest.mark.usefixtures("undrawn")

STATES = {
    ("madry", 0.1): ("failed", "CUDA out of memory <b>now</b>"),
    ("madry", 0.2): ("failed", "CUDA out of memory <b>now</b>"),
    ("ot-cla-adv", 0.2): ("skipped", "the surrogate is off"),
    ("undefended", 0.4): ("ok", "the gradient is zero on 12 % of the images"),
}
MISSING = [("a_b%$#", 0.4)]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A run in which everything happens, its report, and the page."""
    run_dir = fake_run(tmp_path_factory.mktemp("runs"), states=STATES, missing=MISSING)
    fake_codes(run_dir)
    path = write_report([run_dir])
    html = path.read_text("utf-8")
    return SimpleNamespace(run_dir=run_dir, path=path, html=html, page=Page(html))


def files(folder):
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# --- the page


def test_the_page_stands_in_the_runs_folder_with_its_files_beside_it(report):
    assert report.path == report.run_dir / "report" / "report.html"
    links = [a["href"] for a in report.page.all("a")]
    ids = [attrs["id"] for _, attrs in report.page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for link in links:
        assert link[1:] in ids if link.startswith("#") else (report.path.parent / link).is_file()
    suffixes = {Path(link).suffix for link in links if not link.startswith("#")}
    assert suffixes == {".svg", ".png", ".csv", ".md", ".tex"}


def test_the_page_needs_no_network(report):
    # Code names addresses; that it asks for none is the browser test's to show.
    shown = re.sub(r"<script>.*?</script>", "", report.html, flags=re.DOTALL)
    assert not re.search(r"https?://", shown)
    assert not any("src" in script for script in report.page.all("script"))
    assert all(img["src"].startswith("data:image/") for img in report.page.all("img"))
    assert all(link["href"].startswith("data:") for link in report.page.all("link"))


def test_names_and_reasons_are_escaped(report):
    assert "<script>alert(1)</script>" in report.page.words
    assert "CUDA out of memory <b>now</b>" in report.page.words
    assert "<b>now" not in report.html


def test_codes_and_the_papers_numbers_are_on_the_page(report):
    words = report.page.words
    assert "The embeddings in the plane" in words
    assert "published 97.3 failed (1) published 86.8 failed (1)" in words
    assert "published 97.2 skipped (2)" in words
    alts = [img["alt"] for img in report.page.all("img")]
    assert any("ot-cla, attacked: 75.0 % of 100 correct" in alt for alt in alts)


def test_the_page_is_accessible(report):
    page = report.page
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert all(th["scope"] in ("col", "row") for th in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(len(img["alt"]) > 40 for img in page.all("img"))
    assert page.all("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))


def test_provenance_stands_first(report):
    head = report.page.words.split("Robust accuracy is the share")[0]
    for word in (
        *("mnist", "quick", "1000 of 60000", "200 of 10000", "0, 1", "AMD EPYC", "2 threads"),
        *("torch 2.15.0", "0123456789abcdef", "torchvision's download", "0f" * 32),
        *("2026-11-23T01:00:00Z", "python -m benchmark run --defenses all"),
    ):
        assert word in head
    # 5 defenses, 5 + 3 eps, 2 seeds; the states name eps of the l-inf grid.
    for word in ("80 cells", "72 ok", "4 failed", "2 skipped", "2 not run"):
        assert word in head


def test_reasons_are_grouped_over_eps_and_seeds(report):
    words = report.page.words
    assert "pgd (inhouse, l∞) madry 0.1, 0.2 0, 1 failed CUDA out of memory" in words
    assert "pgd (inhouse, l∞) ot-cla-adv 0.2 0, 1 skipped the surrogate is off" in words
    assert "pgd (inhouse, l∞) a_b%$# 0.4 0, 1 not run not run yet" in words
    assert "pgd (inhouse, l∞) undefended 0.4 0, 1 ok the gradient is zero on 12 %" in words


def test_codes_models_and_settings_are_listed(report):
    words = report.page.words
    row = "ot-cla-adv 0 code distance 0.310 [0.280, 0.340] 200 floor 0.050, value / floor 6.2"
    assert row in words
    assert "undefended 0 123,456 12.3 6 0.383 0.900 –" in words
    assert "epochs = 6, schedule.halve_every = 30, width = 8" in words
    assert "cw cw art l2 0, 1, 2 40 10 no defaults" in words


def test_equal_tables_give_equal_bytes(report, tmp_path, drawn):
    first, second = (
        shutil.copytree(report.run_dir, tmp_path / place / report.run_dir.name)
        for place in ("first", "second")
    )
    shutil.rmtree(second / "report")
    assert files(write_report([first]).parent) == files(write_report([second]).parent)


def test_several_runs_share_a_page(report, tmp_path):
    one = fake_run(tmp_path, fake_spec(("madry", "undefended"), seeds=(0,)))
    path = write_report([report.run_dir, one, one])
    assert path.parent.parent == report.run_dir
    assert path.parent.name.startswith("report-")
    page = Page(path.read_text("utf-8"))
    ids = [section["id"] for section in page.all("section")]
    own = [id_ for id_ in ids if id_.startswith("run")]
    assert {id_.split("-")[0] for id_ in own} == {"runs", "run1", "run2"}
    assert (path.parent / "run2-accuracy.csv").is_file()
    # The order of the runs decides nothing about where a run's numbers stand.
    assert write_report([one], tmp_path / "x" / "mine.html") == tmp_path / "x" / "mine.html"
    alone = (tmp_path / "x" / "accuracy.csv").read_bytes()
    assert alone == (path.parent / "run2-accuracy.csv").read_bytes()


def test_reports_never_load_torch(report, tmp_path):
    code = (
        "import sys; from pathlib import Path; from reports.html import write_report;"
        "write_report([Path(sys.argv[1])], Path(sys.argv[2]));"
        "print(sorted({'torch', 'torchvision'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(report.run_dir), str(tmp_path)]
    root = ROOT
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


# --- runs that are not as one would wish


def test_an_empty_run_says_so(tmp_path):
    (tmp_path / "spec.json").write_text(fake_spec().to_json(), "utf-8")
    page = Page(write_report([tmp_path]).read_text("utf-8"))
    assert "This run has no results yet" in page.words
    assert "80 not run" in page.words
    assert "No trained model is recorded" in page.words
    assert not page.all("img")
    assert "not recorded" in page.words


def test_a_run_that_failed_throughout_says_so(tmp_path):
    everywhere = {(d, eps): ("failed", "boom") for d in DEFENSES for eps in (*LINF, 1.0, 2.0)}
    page = Page(write_report([fake_run(tmp_path, states=everywhere)]).read_text("utf-8"))
    assert "No cell of this run ended well" in page.words
    assert "pgd (inhouse, l∞), cw (art, l2) undefended, madry, ot-cla-adv" in page.words
    assert "all 0, 1 failed boom" in page.words
    table = page.words.split("before the attack.")[1].split("CSV")[0]
    assert not re.search(r"\d\.\d\d\d", table)


def test_a_run_without_attacks_says_so(tmp_path):
    spec = json.loads(fake_spec().to_json()) | {"attacks": [], "defenses": []}
    (tmp_path / "spec.json").write_text(json.dumps(spec), "utf-8")
    page = Page(write_report([tmp_path]).read_text("utf-8"))
    assert "The run names no attack and no defense" in page.words


@pytest.mark.parametrize("provenance", [{}, [], {"dataset": None, "device": "cpu", "versions": 3}])
def test_provenance_may_lack_anything(tmp_path, provenance):
    spec = fake_spec(("madry",), seeds=(0,))
    run_dir = fake_run(tmp_path, spec, provenance=provenance, models=False)
    assert "not recorded" in write_report([run_dir]).read_text("utf-8")


def test_logs_and_measures_may_lack_anything(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(("madry",), seeds=(0,)))
    (path,) = (run_dir / "models").iterdir()
    record = json.loads(path.read_text("utf-8"))
    for log, measures in (
        ([], {}),
        ([{"loss": None}, {"epoch": 2}], {"code_distance": None}),
        ([{"loss": "high", "epoch": None}], {"code_distance": {"value": 1.0}}),
        ([{"loss": 1.0}], {"code_distance": {"value": 1.0, "floor": 0}}),
    ):
        write_json(path, record | {"log": log, "measures": measures})
        Page(write_report([run_dir]).read_text("utf-8"))


def test_what_is_no_run_is_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="at least one"):
        write_report([])
    with pytest.raises(ResultsError, match="not a run folder"):
        write_report([tmp_path])


# --- the numbers


@pytest.fixture(scope="module")
def pooled(report):
    run = read_run(report.run_dir)
    cells = tables_grid.grid(run)
    return SimpleNamespace(run=run, cells=cells, rows=tables_grid.pool(cells, run.samples))


def test_the_grid_holds_every_cell_of_the_spec_once(pooled):
    assert len(pooled.cells) == 5 * (5 + 3) * 2
    assert pooled.cells["status"].value_counts().to_dict() == {
        "ok": 72,
        "failed": 4,
        "skipped": 2,
        "missing": 2,
    }


def test_cells_that_the_spec_does_not_ask_for_are_kept(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(("madry",), seeds=(0,)))
    other = fake_spec(("undefended",), seeds=(0,))
    (run_dir / "spec.json").write_text(other.to_json(), "utf-8")
    cells = tables_grid.grid(read_run(run_dir))
    assert cells["status"].tolist() == ["missing"] * 8 + ["ok"] * 8
    Page(write_report([run_dir]).read_text("utf-8"))


def test_seeds_are_averaged_and_an_image_counts_once(pooled):
    rows = pooled.rows.set_index(["attack", "defense", "eps"])
    row = rows.loc[("pgd", "madry", 0.3)]
    cells = pooled.cells.query("attack == 'pgd' and defense == 'madry' and eps == 0.3")
    mean = cells["robust_accuracy"].mean()
    assert row["robust_accuracy"] == pytest.approx(mean)
    assert row["images"] == 40
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(wilson_interval(mean * 40, 40))
    assert row["seed_low"] == cells["robust_accuracy"].min()


def test_seeds_that_attacked_other_images_add_up(pooled):
    samples = pooled.run.samples.copy()
    samples["sample_id"] += 1000 * samples["seed"]
    assert set(tables_grid.pool(pooled.cells, samples)["images"].dropna()) == {80}


def test_a_single_seed_keeps_the_runs_own_interval(tmp_path):
    run = read_run(fake_run(tmp_path, fake_spec(("madry",), seeds=(3,))))
    row = tables_grid.pool(tables_grid.grid(run), run.samples).iloc[1]
    assert row[["ci_low", "ci_high"]].tolist() == run.cells.iloc[1][["ci_low", "ci_high"]].tolist()


def test_a_seed_that_failed_is_not_hidden(pooled):
    cells = pooled.cells.copy()
    lost = (cells["defense"] == "undefended") & (cells["seed"] == 1)
    cells.loc[lost, "status"] = "failed"
    table = tables_grid.accuracy_tables(tables_grid.pool(cells, pooled.run.samples))[0]
    assert table.rows[0][2][0].text.endswith("(1 of 2 seeds)")


def test_no_cell_is_blank(pooled, report):
    pgd = tables_grid.accuracy_tables(pooled.rows)[0]
    by_name = {name: [cell.value for cell in cells] for name, _, cells in pgd.rows}
    assert by_name["madry"][1:3] == ["failed", "failed"]
    assert by_name["ot-cla-adv"][2] == "skipped"
    assert by_name["a_b%$#"][4] == "not run"
    assert re.fullmatch(
        r"0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\] \(seeds 0\.\d{3}–[01]\.\d{3}\)", pgd.rows[0][2][1].text
    )
    (path,) = report.path.parent.glob("01-*.csv")
    assert path.read_text("utf-8") == pgd.csv()
    assert pgd.csv().splitlines()[0] == "defense,clean,eps 0,eps 0.1,eps 0.2,eps 0.3,eps 0.4"


def test_latex_escapes_every_special_character():
    assert latex_escape(r"a_b%$#&{}") == r"a\_b\%\$\#\&\{\}"
    assert latex_escape("\\~^<>") == (
        r"\textbackslash{}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}"
    )
    assert latex_escape("漢\n") == "??"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    names = ("[t]", "*", "a_b%$#&{}\\~^", "<|>", "“漢”–--", '"q"', "madry")
    states = {("*", eps): ("failed", "boom") for eps in (*LINF, 1.0, 2.0)}
    grid = [i / 40 for i in range(17)]
    run_dir = fake_run(tmp_path, fake_spec(names, grid), states=states)
    parts = sorted(write_report([run_dir]).parent.glob("*.tex"))
    body = "\n".join(path.read_text("ascii") for path in parts)
    source = tmp_path / "all.tex"
    source.write_text(
        rf"\documentclass{{article}}\usepackage{{booktabs,longtable}}\begin{{document}}{body}\end{{document}}"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", source.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:]


# --- figures


def test_each_defense_has_a_look_of_its_own_in_every_figure():
    names = [f"d{i}" for i in range(40)]
    styles = curves.line_styles([*names, *names])
    looks = {(tuple(s["color"]), s["marker"], str(s["linestyle"])) for s in styles.values()}
    assert len(looks) == len(names)
    assert curves.line_styles(names[:3]) == {name: styles[name] for name in names[:3]}


def test_a_figure_survives_any_name(pooled, drawn):
    names = {"madry": "_hidden", "undefended": "a -- b\x01\n$x^$", "ot-cla-adv": "x" * 200}
    rows = pooled.rows.replace({"defense": names})
    rows = rows[rows["attack"] == "pgd"]
    styles = curves.line_styles(rows["defense"])
    picture = curves.security_curves(rows, pooled.cells.iloc[:0], styles)
    assert picture.png.startswith(b"\x89PNG")
    assert b"\x01" not in picture.svg
    assert b"_hidden" in picture.svg  # in the legend: text drawn as paths keeps a comment
    assert "no result at 2 of 5 eps" in picture.alt
