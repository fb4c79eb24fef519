"""The report on the audit: its section, its flags beside the accuracies, and the worst case."""

import io
from dataclasses import replace

import pandas as pd
import pytest
from contexts import context, page_of, run_of, sample
from fake_audit import audit_sample, fake_audit, finding, put_audit, transfer, verdict
from fake_runs import fake_run, fake_spec
from pages import Page

from benchmark.results import SAMPLES, ModelRecord, make_table
from benchmark.results.audit_tables import AuditTables, read_audit
from reports.analysis.check_pages import FOLDERS, explanation, paragraphs, plain_text
from reports.analysis.flags import flagged, flags
from reports.analysis.outcomes import stochastic_defenses
from reports.figures.heat_map import Matrix, heat_map
from reports.html import write_report
from reports.section import RunContext
from reports.sections import accuracy, audit, worst_case
from reports.sections.audit import NOT_MEASURED
from reports.tables import grid

pytestmark = pytest.mark.usefixtures("undrawn")

NAMES = ("undefended", "madry", "<b>gan</b>")


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A run whose undefended model masks its gradient, says a full audit."""
    run_dir = fake_run(tmp_path_factory.mktemp("audited"), fake_spec(NAMES, seeds=(0,)))
    fake_audit(run_dir)
    return run_dir


@pytest.fixture(scope="module")
def page(audited):
    return Page(write_report([audited]).read_text("utf-8"))


def with_samples(run, samples, verdicts=()):
    """The context of a run with samples of an audit, without any file."""
    plain = context(run)
    frames = (
        pd.DataFrame(),
        pd.DataFrame([verdict("madry", **row) for row in (verdicts or [{}])]),
        pd.DataFrame(),
        make_table(samples, SAMPLES),
    )
    return RunContext(**{**vars(plain), "audit": AuditTables(*frames)})


# --- the section


def test_the_section_tells_verdicts_numbers_and_reasons(page):
    for norm in ("l∞", "l2"):  # each norm is counted for itself
        assert f"{norm}: 1 gradient masking {norm}: 2 attacked fairly" in page.words
    row = "undefended l∞ gradient masking no gradient & <none> 0.1 0.950 0.800 0.100 0.200 0.100"
    row += " [0.050, 0.900]"
    assert row in page.words
    assert "<b>gan</b>" in page.words  # shown, not made bold
    assert "alarm: no gradient" in page.words
    assert "measured on 40 images of undefended" in page.words
    assert "audit: 8 s, 22 % of the attacks’ time" in page.words


def test_every_file_is_there_in_three_forms(audited, page):
    folder = audited / "report"
    for name in ("audit", "findings", "transfer-linf-0-1"):
        for end in ("csv", "md", "tex"):
            assert (folder / f"{name}.{end}").stat().st_size
        (folder / f"{name}.tex").read_text("ascii")
    assert (folder / "transfer-linf-0-1.svg").stat().st_size
    whole = pd.read_csv(folder / "transfer.csv")
    assert len(whole) == 9
    kept = pd.read_csv(folder / "audit.csv")
    assert set(kept["verdict"]) == {"gradient masking", "attacked fairly"}


def test_a_run_without_an_audit_says_so_and_flags_nothing(tmp_path):
    whole = context(fake_run(tmp_path, fake_spec(("madry",), seeds=(0,))))
    section = audit.make(whole)
    words = page_of(section).words
    assert "Not audited: madry" in words
    assert "python -m benchmark audit" in words
    assert not section.files
    (linf, _) = accuracy.make(whole).view["attacks"]
    assert linf["table"].flags == {}
    assert "audit" not in linf["table"].csv()


def test_a_basic_audit_names_what_is_missing(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(("madry", "rse"), seeds=(0,)))
    put_audit(run_dir, findings=[finding("madry")], verdicts=[verdict("madry")])
    section = audit.make(context(run_dir))
    page = page_of(section)
    assert "Not audited: rse" in page.words
    (row,) = section.view["verdicts"]["rows"]
    assert row["words"][7:9] == [NOT_MEASURED, NOT_MEASURED]
    assert not section.view["maps"]


def test_seeds_have_rows_of_their_own(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(("madry",), seeds=(0, 1)))
    rows = [verdict("madry", "attacked fairly"), verdict("madry", "attack too weak", seed=1)]
    pairs = transfer(("madry",)) + transfer(("madry",), seed=1, accuracy=0.5)
    put_audit(run_dir, verdicts=rows, pairs=pairs)
    whole = context(run_dir)
    section = audit.make(whole)
    names = {row["words"][0] for row in section.view["verdicts"]["rows"]}
    assert names == {"madry (seed 0)", "madry (seed 1)"}
    (shown,) = section.view["maps"]
    assert shown["table"].rows == [["madry", "0.275"]]  # the mean over seeds
    assert flags(whole)["linf", "madry"] == "attack too weak"  # of several the worst


def test_the_heat_map_says_its_numbers_to_who_cannot_see_it(drawn):
    matrix = Matrix(["a", "b"], ["a", "b"], [[0.1, 0.6], [0.4, float("nan")]])
    picture = heat_map(matrix, "mnist: transfer")
    assert "a: lowest 0.100 on those of a, 0.100 on its own." in picture.alt
    assert "b: lowest 0.600 on those of a." in picture.alt
    assert picture.svg == heat_map(matrix, "mnist: transfer").svg


# --- flags


def test_flags_stand_beside_the_accuracies(audited, page):
    links = [a for a in page.all("a") if "flag" in a.get("class", "")]
    assert {a["class"] for a in links} >= {"flag gradient-masking", "flag attacked-fairly"}
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert all(a["href"][1:] in ids for a in links)
    table = next((audited / "report").glob("01-*.csv")).read_text("utf-8").splitlines()
    assert table[0].startswith("defense,audit,clean")
    assert table[1].startswith("undefended,gradient masking,")
    latex = next((audited / "report").glob("01-*.tex")).read_text("ascii")
    assert r"{undefended {\tiny gradient masking}}" in latex
    alts = " ".join(img["alt"] for img in page.all("img"))
    assert "undefended (gradient masking):" in alts
    assert "madry:" in alts  # a fair verdict needs no flag in a legend
    assert "So it is here, says the audit : gradient masking (undefended)." in page.words


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ({"a": "invalid", "b": "undecided"}, {"a": "a (invalid)", "b": "b (undecided)"}),
        ({"a": "attack too weak"}, {"a": "a (attack too weak)", "b": "b"}),
        ({"a": "undecided", "b": "undecided"}, {"a": "a", "b": "b"}),
        ({"a": "attacked fairly", "b": "undecided"}, {"a": "a", "b": "b (undecided)"}),
        ({"a": "undecided"}, {"a": "a (undecided)", "b": "b"}),
        ({}, {"a": "a", "b": "b"}),
    ],
)
def test_a_legend_names_doubts_unless_all_share_them(words, shown):
    assert flagged(pd.DataFrame({"defense": ["a", "b"]}), words) == shown


def test_a_norm_has_its_own_flag(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(("madry",), seeds=(0,)))
    put_audit(run_dir, verdicts=[verdict("madry", "gradient masking", norm="l2")])
    linf, l2 = grid.accuracy_tables(context(run_dir).pooled, flags(context(run_dir)))
    assert (linf.flags, l2.flags) == ({}, {"madry": "gradient masking"})


# --- the worst case


def worst(samples, audit_samples, **verdicts):
    """The accuracies of the run's attacks, of the audit's as well, and the page."""
    whole = with_samples(run_of(samples), audit_samples, [verdicts])
    section = worst_case.make(whole)
    found = []
    for name in ("worst-case.csv", "worst-case-audited.csv"):
        if name not in section.files:
            found.append({})
            continue
        frame = pd.read_csv(io.BytesIO(section.files[name]))
        frame = frame[frame["status"] == "ok"].set_index("eps")
        found.append(
            {eps: (row["robust_accuracy"], row["images"]) for eps, row in frame.iterrows()}
        )
    return *found, page_of(section).words


def robust(eps, attack="pgd", fallen=(), **options):
    return [sample("madry", attack, i, falls=i in fallen, eps=eps, **options) for i in range(8)]


def test_what_the_audit_turned_stands_apart_over_the_images_that_it_attacked():
    """Two of the four that it attacked, at every eps that reaches them: no other one dilutes it."""
    samples = robust(0.05) + robust(0.1) + robust(0.2, fallen=(2, 7))
    found = [audit_sample("madry", i, falls=i < 2, distance=0.08) for i in range(4)]
    run, audited, words = worst(samples, found)
    assert run == {0.05: (1.0, 8), 0.1: (1.0, 8), 0.2: (0.75, 8)}
    assert audited == {0.05: (1.0, 4), 0.1: (0.5, 4), 0.2: (0.25, 4)}
    assert "2 fooled by the audit alone" in words
    assert "on the 4 images that it attacked" in words
    assert "n=4" in words


def test_a_hair_outside_the_ball_is_within():
    found = [audit_sample("madry", i, falls=i == 0, distance=0.1 + 1e-8) for i in range(8)]
    assert worst(robust(0.1), found)[1] == {0.1: (7 / 8, 8)}


def test_of_a_stochastic_defense_the_lowest_single_attack_counts_everywhere():
    """Attacks turn three images each, and no two the same: the union would be six, or nine."""
    samples = robust(0.1, fallen=(0, 1)) + robust(0.1, "eot", fallen=(2, 3, 4))
    found = [audit_sample("madry", i, falls=i in (5, 6), distance=0.08) for i in range(8)]
    found += [
        audit_sample("madry", i, falls=i in (0, 5, 6, 7), attack="from undefended")
        for i in range(8)
    ]
    run, audited, words = worst(samples, found, stochastic=True)
    assert run == {0.1: (5 / 8, 8)}
    assert audited == {0.1: (4 / 8, 8)}
    assert "the lowest single attack counts" in words
    assert "fooled by the audit alone" not in words
    # What a deterministic one with the same outcomes would have.
    assert worst(samples, found)[:2] == ({0.1: (3 / 8, 8)}, {0.1: (0.0, 8)})


def test_a_draw_at_another_eps_says_nothing_of_a_stochastic_defense():
    found = [audit_sample("madry", i, falls=True, eps=0.05) for i in range(8)]
    assert worst(robust(0.1), found, stochastic=True)[1] == {}


def test_a_stochastic_defense_is_known_without_an_audit(tmp_path):
    record = ModelRecord("madry", 0, "k", {}, 1, 1.0, [], stochastic=True)
    samples = robust(0.1, fallen=(0, 1)) + robust(0.1, "eot", fallen=(2, 3, 4))
    run = replace(run_of(samples), models=[record])
    assert stochastic_defenses(context(run)) == {"madry"}
    frame = pd.read_csv(io.BytesIO(worst_case.make(context(run)).files["worst-case.csv"]))
    assert frame["robust_accuracy"].tolist() == [5 / 8]
    cells = run.cells.assign(eot=10)  # a run made before models said it
    assert stochastic_defenses(context(replace(run, models=[], cells=cells))) == {"madry"}
    assert stochastic_defenses(context(replace(run, models=[]))) == set()


def test_clean_errors_and_other_norms_and_images_add_nothing():
    found = [
        audit_sample("madry", 0, falls=True, pred_clean=5, distance=0.0),
        audit_sample("madry", 1, falls=True, norm="l2"),
        audit_sample("madry", 99, falls=True),
        audit_sample("rse", 2, falls=True),
    ]
    run, audited, _ = worst(robust(0.1), found)
    assert run == {0.1: (1.0, 8)}
    assert audited == {0.1: (1.0, 1)}


def test_the_attack_that_took_more_is_named_with_its_command(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(("madry",), seeds=(0,)))
    line = "python -m benchmark run --attacks 'torchattacks:APGD(steps=100)'"
    put_audit(run_dir, verdicts=[verdict("madry", "attack too weak", rerun=line)])
    words = page_of(audit.make(context(run_dir))).words
    assert f"madry , l∞: {line}" in words


# --- the pages of the checks


def test_markdown_becomes_plain_paragraphs():
    text = "One `code`\nand [a link](x.md).\n\n- first *item*\n- second\n"
    assert paragraphs(text) == ["One code and a link.", "first item", "second"]
    assert plain_text("- a\n  b") == "a b"


def test_the_pages_of_the_checks_are_quoted():
    names = [path.stem for path in FOLDERS[0].glob("*.md") if path.stem != "README"]
    for name in names:
        headings = [heading for heading, body in explanation(name) if body]
        assert "What to do" in headings, name
    assert explanation("no-such-check") == ()


def test_the_page_takes_the_tables_alone(audited):
    assert read_audit(audited).findings["check"].nunique() == 2
