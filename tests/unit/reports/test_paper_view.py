"""The paper's tables in its own grids: on the page, as CSV, as Markdown and as LaTeX."""

import csv
import io
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from fake_audit import verdict
from fake_runs import fake_codes, fake_run, fake_spec

from benchmark.config.spec import AttackSpec, DefenseSpec
from benchmark.config.threat import ThreatModel
from benchmark.results import make_table, read_run
from benchmark.results.audit_tables import VERDICTS, put_verdicts
from benchmark.stats import wilson_interval
from reports.html import write_report
from reports.paper.dimension import read_dimension
from reports.paper.figures import paper_figures
from reports.paper.grids import paper_grids
from reports.paper.measured import paper_tables
from reports.sections.paper import paper_section
from reports.tables.writers import latex_escape

pytestmark = pytest.mark.usefixtures("undrawn")

# Of ten images 7 stand at 0.1, 7 at 0.2, 3 at 0.3 and 1 at 0.4; 9 before any attack.
REACH = {
    "madry": [0.0, 0.05, 0.05, 0.25, 0.25, 0.25, 0.25, 0.35, 0.35, 9.0],
    "ot-cla-adv": [0.35] * 7 + [9.0] * 3,
}


def pgd(n=10, **options):
    return AttackSpec("pgd", ThreatModel("linf", (0.0, 0.1, 0.2, 0.3, 0.4)), n, **options)


def spec(defenses=("madry", "ot-cla-adv"), attacks=None, **changes):
    made = fake_spec(defenses, seeds=(0,), n=10)
    named = tuple(DefenseSpec(name, {"code_dim": 4}) for name in defenses)
    return replace(made, defenses=named, attacks=attacks or (pgd(),), **changes)


def run(folder, run_spec=None, reach=REACH, **options):
    made = fake_run(folder, run_spec or spec(), reach=reach, models=False, **options)
    return read_run(made)


def grids(runs=(), dimensions=()):
    return {grid.name: grid for grid in paper_grids(paper_tables(runs, dimensions))}


def row(grid, *labels):
    (found,) = [r for block in grid.blocks for r in block.rows if r.labels == labels]
    return found


MADRY = ("MNIST", "Adv. Training (madry)")
OWN = [("madry", MADRY), ("ot-cla-adv", ("MNIST", "OT-CLA+Adv (ot-cla-adv)"))]


def test_the_audits_doubts_mark_the_accuracies_under_attack(tmp_path):
    made = run(tmp_path)
    words = {"madry": "gradient masking", "ot-cla-adv": "undecided"}
    rows = [verdict(name, word) for name, word in words.items()]
    put_verdicts(made.path, make_table(rows, VERDICTS))
    frames = paper_tables([made])
    table = grids([made])["table1"]
    marks = {name: [e.marked[-1] for e in row(table, *labels).entries] for name, labels in OWN}
    clean, *attacked = marks["madry"]
    assert clean != "!"  # no attack, no doubt
    assert attacked == ["!"] * 4
    assert marks["ot-cla-adv"][1:] == ["?"] * 4
    assert "!: the audit" in table.words
    of_madry = frames["table1"].query("defense == 'madry' and status == 'measured'")
    assert of_madry["audit"].tolist() == ["", *["gradient masking"] * 4]
    alt = paper_figures(frames)["figure2"].picture.alt
    assert "Adv. Training (madry) (gradient masking) 90.0 at eps 0" in alt


def test_a_cell_holds_published_measured_interval_and_difference(tmp_path):
    table = grids([run(tmp_path)])["table1"]
    assert [block.columns for block in table.blocks] == [
        ("clean", "eps 0.1", "eps 0.2", "eps 0.3", "eps 0.4"),
        ("clean", "eps 0.015", "eps 0.03", "eps 0.045", "eps 0.06"),
        ("clean", "eps 0.004", "eps 0.01", "eps 0.016", "eps 0.02"),
    ]
    assert sum(len(block.rows) for block in table.blocks) == 8
    entry = row(table, *MADRY).entries[2]
    low, high = (100 * end for end in wilson_interval(7, 10))
    assert entry.lines == ("86.8", "70.0 ≈", f"[{low:.1f}, {high:.1f}]", "-16.8")
    assert row(table, *MADRY).source == "A, 10 images"


def test_the_mark_says_on_which_side_the_published_number_lies(tmp_path):
    table = grids([run(tmp_path)])["table1"]
    # Published 99.2, 97.3, 86.8, 35.4, 2.7; measured 90, 70, 70, 30, 10 of ten images.
    marks = [entry.relation for entry in row(table, *MADRY).entries]
    assert marks == ["below", "below", "within", "within", "within"]
    adv = row(table, "MNIST", "OT-CLA+Adv (ot-cla-adv)").entries
    assert [entry.relation for entry in adv][-1] == "below"
    above = grids([run(tmp_path / "b", reach={**REACH, "madry": [9.0] * 10})])["table1"]
    assert row(above, *MADRY).entries[4].relation == "above"
    assert row(above, *MADRY).entries[4].marked == "100.0 ↑"


def test_what_was_not_run_failed_or_was_skipped_says_so(tmp_path):
    states = {("madry", 0.1): ("failed", "boom"), ("madry", 0.3): ("skipped", "unsuited")}
    states[("madry", 0.4)] = ("failed", "boom")
    table = grids([run(tmp_path, states=states)])["table1"]
    entries = row(table, *MADRY).entries
    assert [entry.marked for entry in entries] == [
        *("90.0 ↓", "failed (1)", "70.0 ≈", "skipped (2)", "failed (1)")
    ]
    assert table.reasons == (("1", "boom"), ("2", "unsuited"))
    for entry in row(table, "CIFAR10", "Adv. Training (madry)").entries:
        assert (entry.measured, entry.status, entry.difference) == ("not run", "missing", "–")
    for grid in grids().values():
        cells = [line for b in grid.blocks for r in b.rows for e in r.entries for line in e.lines]
        assert all(cells)
        assert "not run" in cells


def test_of_several_runs_the_most_trustworthy_is_shown_and_the_others_named(tmp_path):
    quick = run(tmp_path / "quick")
    small = run(tmp_path / "small", spec(preset="smoke"), {**REACH, "madry": [9.0] * 10})
    table = grids([small, quick])["table1"]
    found = row(table, *MADRY)
    assert [entry.measured for entry in found.entries][:2] == ["90.0", "70.0"]
    words = dict(table.runs)
    assert words["A"].startswith(f"{quick.run_id}, preset quick, 1 seed")
    assert words["B"].startswith(small.run_id)
    assert found.source == "A, 10 images; also B"
    # Where the better run has no number the other's stands, with its letter.
    broken = {("madry", 0.1): ("failed", "boom")}
    quick = run(tmp_path / "broken", states=broken)
    entries = row(grids([small, quick])["table1"], *MADRY).entries
    assert [entry.marked for entry in entries][:2] == ["90.0 ↓ [A]", "100.0 ≈ [B]"]


def test_table2_has_both_readings(tmp_path):
    reach = {**REACH, "ot-cla-adv": [0.1] * 2 + [1.0] * 5 + [9.0] * 3}
    cw = AttackSpec("cw", ThreatModel("l2", (0.0, 1.0)), 10)
    table = grids([run(tmp_path, spec(("ot-cla-adv",), (cw,)), reach)])["table2"]
    (block,) = table.blocks
    assert block.columns == ("l2 ≤ 0.14", "l2 ≤ 3.92")
    entries = row(table, "OT-CLA+Adv (ot-cla-adv)", "C&W (cw)").entries
    assert [entry.measured for entry in entries] == ["80.0", "30.0"]
    assert [entry.published for entry in entries] == ["99.1", "99.1"]
    methods = [r.labels for r in block.rows]
    assert ("Defense-GAN", "C&W over latents (latent-cw)") in methods
    assert ("Defense-GAN", "C&W with BPDA (cw-bpda)") in methods


def dimension(folder):
    common = {"k1": 6, "k2": 12, "ci_low": 16.5, "ci_high": 18.0}
    estimates = [
        {"average": "mackay", "scaling": "var", "value": 17.25, **common},
        {"average": "levina", "scaling": "none", "value": 23.0, **common},
    ]
    folder = folder / "dimension-cifar10-0123456789"
    folder.mkdir(parents=True)
    value = {"dataset": "cifar10", "n": 1000, "estimates": estimates, "library_estimate": None}
    (folder / "dimension.json").write_text(json.dumps(value), "utf-8")
    return folder


def test_table3_has_both_averages_and_the_embedding(tmp_path):
    found = read_dimension(dimension(tmp_path))
    table = grids([run(tmp_path, spec(("ot-cla",)), {"ot-cla": [9.0] * 10})], [found])["table3"]
    cifar = row(table, "CIFAR10", "3 × 32 × 32").entries
    assert [entry.published for entry in cifar] == ["17", "17", "16"]
    assert cifar[0].lines == ("17", "17.2 ≈", "[16.5, 18.0]", "+0.2")
    assert cifar[2].measured == "not run"
    mnist = row(table, "MNIST", "1 × 28 × 28").entries[2]
    assert mnist.lines == ("4", "4", "–", "0")


# --- CSV, Markdown, LaTeX


def test_csv_and_markdown_hold_the_grid(tmp_path):
    table = grids([run(tmp_path)])["table1"]
    lines = list(csv.reader(io.StringIO(table.csv())))
    head = [line for line in lines if line[0] == "Data"]
    assert len(head) == 3
    assert lines[2][2:7] == ["measured", "90.0 ↓", "70.0 ↓", "70.0 ≈", "30.0 ≈"]
    text = table.markdown()
    assert text.count("| Data ") == 3
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| MNIST")}
    assert widths == {8}
    assert "reproduces nothing" in text


HOSTILE = "a_b & 50% $x$ #1 {y} ~ ^ \\end{table} <i>|é`"


def test_latex_is_balanced_and_escaped(tmp_path):
    states = {("madry", 0.1): ("failed", HOSTILE)}
    for grid in grids(
        [run(tmp_path, states=states)], [read_dimension(dimension(tmp_path))]
    ).values():
        text = grid.latex()
        assert text.isascii()
        body = text.split("\n", 1)[1]  # without the comment that names the package
        assert len(re.findall(r"\\begin\{", body)) == len(re.findall(r"\\end\{", body)) == 2
        bare = re.sub(r"\\[\\{}&%$#_]", "", body)
        assert bare.count("{") == bare.count("}")
        assert bare.count("$") % 2 == 0
        assert not set("%#~^_|<>") & set(bare.replace("\\", ""))
        tabular = body[body.index(r"\toprule") : body.index(r"\bottomrule")]
        rows = [line for line in tabular.splitlines() if line.endswith(r" \\")]
        columns = re.search(r"\\begin\{tabular\}\{([lc]+)\}", body).group(1)
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in rows} == {len(columns)}
        # A row that began with [ or * would be read as an option of the line break before it.
        assert not [line for line in rows if line.lstrip().startswith(("[", "*"))]


def test_every_mark_has_its_latex():
    assert latex_escape("↑ ↓ ≈ ≤ × – l∞") == (
        r"$\uparrow$ $\downarrow$ $\approx$ $\leq$ $\times$ -- l$\infty$"
    )


# --- the page


def test_the_report_holds_every_items_files(tmp_path):
    made = run(tmp_path, spec(("madry", "ot-cla")), {**REACH, "ot-cla": [0.2] * 10})
    fake_codes(made.path)
    page = write_report([made.path, dimension(tmp_path)], tmp_path / "report")
    tables = [f"table{i}{end}" for i in (1, 2, 3) for end in ("-runs.csv", ".csv", ".md", ".tex")]
    figures = [f"figure{i}.{kind}" for i in (2, 3, 4, 5) for kind in ("csv", "png", "svg")]
    files = {path.name: path for path in (page.parent / "paper").iterdir()}
    assert sorted(files) == sorted([*tables, *figures])
    frames = paper_tables([made], [read_dimension(tmp_path / "dimension-cifar10-0123456789")])
    for name, frame in frames.items():
        found = pd.read_csv(files[f"{name}{'-runs' * name.startswith('table')}.csv"])
        assert found.columns.tolist() == frame.columns.tolist()
        assert len(found) == len(frame)
        assert found["status"].notna().all()
    html = page.read_text("utf-8")
    assert ">The paper, side by side</h2>" in html
    assert "reproduces nothing" in html
    assert {f"paper/{name}" for name in files} <= set(re.findall(r'href="([^"]+)"', html))
    for i in (2, 3, 4, 5):
        assert html.count(f'alt="Figure {i}:') == 1


def test_reasons_are_escaped_on_the_page(tmp_path):
    made = run(tmp_path, states={("madry", 0.1): ("failed", "<b>boom</b>")})
    text = write_report([made.path]).read_text("utf-8")
    assert "<b>boom" not in text
    assert "&lt;b&gt;boom" in text


def test_dimensions_alone_make_a_report(tmp_path):
    folder = dimension(tmp_path)
    page = write_report([folder])
    assert page == folder / "report" / "report.html"
    assert "17.2" in page.read_text("utf-8")


@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist"])
def test_other_datasets_have_no_section(tmp_path, dataset):
    made = run(tmp_path, spec(dataset=dataset))
    assert paper_section(paper_tables([made])) is None
    page = write_report([made.path])
    assert not (page.parent / "paper").exists()
    assert 'id="paper"' not in page.read_text("utf-8")
