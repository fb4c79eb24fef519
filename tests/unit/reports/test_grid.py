"""Tables of words in their three forms, and the figures that set libraries side by side."""

import csv
import io
from dataclasses import replace

import pytest
from contexts import context, page_of
from fake_runs import LINF, fake_run, fake_spec

from benchmark.config.spec import AttackSpec, DefenseSpec
from benchmark.config.threat import ThreatModel
from reports.sections import libraries
from reports.tables import grid
from reports.tables.text_table import TextTable

pytestmark = pytest.mark.usefixtures("undrawn")

HOSTILE = ("a|b", "[x]", "50 % & more_", "l∞ ≤ 1 − 2")


def test_a_text_table_says_the_same_in_every_form():
    table = TextTable(
        "Caption with 100 %", ["name", "value"], [[name, "0.100"] for name in HOSTILE]
    )
    read = list(csv.reader(io.StringIO(table.csv())))
    assert read == [["name", "value"], *([name, "0.100"] for name in HOSTILE)]
    tex = table.latex()
    assert tex.isascii()
    assert r"\caption{Caption with 100 \%}" in tex
    assert r"{[x]} & 0.100 \\" in tex
    assert r"{l$\infty$ $\leq$ 1 $-$ 2}" in tex
    assert tex.count("\\\\\n") == 1 + 2 + len(HOSTILE)
    assert table.markdown().count("\n") == 2 + len(HOSTILE)
    assert set(table.files("t")) == {"t.md", "t.tex"}


def test_the_accuracy_table_as_markdown_reads_as_its_csv(tmp_path):
    states = {("a", 0.1): ("failed", "boom")}
    whole = context(fake_run(tmp_path, fake_spec(("a", "b|c")), states=states))
    table, _ = grid.accuracy_tables(whole.pooled)
    lines = table.markdown().splitlines()
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines]
    plain = list(csv.reader(io.StringIO(table.csv())))
    assert [len(row) for row in (cells[0], *cells[2:])] == [len(row) for row in plain]
    assert "failed" in lines[2]
    assert "b\\|c" in lines[3]


def several(tmp_path, defenses, names=("inhouse", "art")):
    spec = fake_spec(defenses, seeds=(0,))
    attacks = tuple(AttackSpec("pgd", ThreatModel("linf", LINF), 40, library=n) for n in names)
    return fake_run(tmp_path, replace(spec, attacks=attacks))


def test_libraries_that_ran_the_same_attack_share_a_figure(tmp_path):
    section = libraries.make(context(several(tmp_path, ("a", "<b>"))))
    alts = [figure["alt"] for figure, _ in section.view["figures"]]
    assert len(alts) == 2
    assert all("inhouse: " in alt and "art: " in alt for alt in alts)
    assert "mnist, <b>: pgd" in alts[1]
    assert len(page_of(section).all("img")) == 2


def test_figures_left_out_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(libraries, "FEWEST", 1)
    monkeypatch.setattr(libraries, "WORK", 0)
    section = libraries.make(context(several(tmp_path, ("a", "b"))))
    words = page_of(section).words
    assert "the first 1 of 2" in words
    assert "Not drawn: b under pgd" in words


def test_one_library_is_nothing_to_compare(tmp_path):
    assert libraries.make(context(several(tmp_path, ("a", "b"), ("inhouse",)))) is None


def test_defenses_stay_in_the_runs_order(tmp_path):
    spec = replace(fake_spec(("z",)), defenses=(DefenseSpec("z"), DefenseSpec("a")))
    whole = context(fake_run(tmp_path, spec))
    assert [row[0] for row in grid.accuracy_tables(whole.pooled)[0].rows] == ["z", "a"]


@pytest.mark.parametrize(("remark", "note"), [("1 of 2 attacks", "1 of 2 attacks"), ("", "")])
def test_a_remark_is_part_of_the_note(tmp_path, remark, note):
    whole = context(fake_run(tmp_path, fake_spec(("a",))))
    table = grid.accuracy_tables(whole.pooled.assign(remark=remark))[0]
    assert table.rows[0][2][0].note == note
