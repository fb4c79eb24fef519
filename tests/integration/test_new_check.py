"""A check is one function and one page: everything else takes it from there."""

import sys
from dataclasses import replace

import pytest
import torch
from check_table import README, check_table
from pages import Page
from toys import Linear

from benchmark.audit import checks
from benchmark.audit.case import Case
from benchmark.audit.checks import CHECKS
from benchmark.audit.registration import REGISTERED
from benchmark.audit.stronger_attacks import Effort, plan_attacks
from benchmark.audit.surrogates import Restored
from benchmark.cli.verdicts import print_verdicts
from benchmark.config.threat import ThreatModel
from benchmark.execution.plan import plan
from benchmark.execution.runner import run
from benchmark.progress import Progress
from benchmark.results.audit_tables import read_audit
from reports.analysis import check_pages
from reports.html import write_report

pytestmark = pytest.mark.usefixtures("undrawn")

FUNCTION = '''
from benchmark.audit.case import Case, Finding
from benchmark.audit.registration import check


@check(
    "left-handed", level="basic", role="invalid", doubts_gradient=False, remedies=["fresh state"]
)
def left_handed(case: Case) -> Finding:
    """Tell whether the defense is left-handed."""
    evidence = f"{len(case.x)} images are held in the left hand"
    return Finding("left-handed", "alarm", 1.0, 0.5, evidence, "holds images left")
'''
PAGE = """# left-handed

Tell whether the defense is left-handed. (level: basic)

## What it measures

Which hand holds the images.

## Threshold

- alarm: any left hand
- source: definition
"""


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """One function in a module of its own, and one page; the folder of the page."""
    functions, folder = tmp_path / "functions", tmp_path / "pages"
    for path, name, text in ((functions, "left.py", FUNCTION), (folder, "left-handed.md", PAGE)):
        path.mkdir()
        (path / name).write_text(text)
    monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(functions)])
    monkeypatch.setattr(check_pages, "FOLDERS", (*check_pages.FOLDERS, folder))
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    check_pages.explanation.cache_clear()
    checks.discover()
    yield folder
    del REGISTERED["left-handed"], sys.modules["benchmark.audit.checks.left"], checks.left
    check_pages.explanation.cache_clear()


def test_console_verdict_and_report_treat_it_like_a_built_in_one(pages, tmp_path, capsys):
    options = {"device": "cpu", "n_train": 200, "n_test": 20, "eps": (0.0, 0.1)}
    spec = plan(
        dataset="digits", preset="smoke", defenses=("undefended",), attacks=("pgd",), **options
    )
    attack = replace(spec.attacks[0], params={**spec.attacks[0].params, "steps": 3})
    spec = replace(spec, attacks=(attack,))
    found = run(spec, out=tmp_path / "out", command="test", progress=Progress())
    findings = read_audit(found.path).findings.set_index("check")
    row = findings.loc["left-handed"]
    assert (row["answer"], row["reason"], row["level"]) == ("alarm", "holds images left", "basic")
    assert row["question"] == "Tell whether the defense is left-handed."
    (verdict,) = read_audit(found.path).verdicts.to_dict("records")
    assert verdict["verdict"] == "invalid"
    assert verdict["reasons"].startswith("holds images left")
    print_verdicts(found.path)
    assert "invalid: holds images left" in capsys.readouterr().out
    words = Page(write_report([found.path]).read_text("utf-8")).words
    assert "20 images are held in the left hand" in words
    assert "Tell whether the defense is left-handed." in words
    assert "Which hand holds the images." in words
    assert "invalid" in words


def test_the_docs_table_has_it_from_its_decorator_and_page(pages):
    *_, last = check_table(CHECKS, [README.parent, pages]).splitlines()
    link = "[left-handed](left-handed.md)"
    assert last == f"| {link} | basic | invalid | no | any left hand | definition |"


def test_the_stronger_attacks_do_what_it_asks_for(pages):
    x, y = torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64)
    case = Case(Linear(torch.ones(4), -2), "toy", 0, x, y, y == 0, torch.empty(0))
    findings = CHECKS["left-handed"].run(case)
    assert [finding.role for finding in findings] == ["invalid"]
    planned = plan_attacks(case, ThreatModel("linf", (0.1,)), findings, n=4, effort=Effort(steps=3))
    assert {type(each.defense) for each in planned} == {Restored}
    assert "audit-estimated" not in {each.spec.name for each in planned}  # no doubt of the gradient
    doubtful = [replace(findings[0], check="of another version")]
    again = plan_attacks(case, ThreatModel("linf", (0.1,)), doubtful, n=4, effort=Effort(steps=3))
    assert again[-1].spec.name == "audit-estimated"


def test_no_other_place_names_a_check():
    """Names of checks are written in their own module and page alone."""
    from paths import ROOT

    names = {f'"{name}"' for name in CHECKS if "-" in name} | {'"randomness"'}
    for folder in ("benchmark", "reports"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.parent.name != "checks":
                text = path.read_text("utf-8")
                assert not [name for name in names if name in text], path
