"""A run that the version before the rooms made is read, reported, audited and gone on with."""

import shutil
from pathlib import Path

import pytest
from paths import TESTS

from baselines.undefended import Undefended
from benchmark.cli import main
from benchmark.results import read_run
from benchmark.results.audit_tables import read_audit
from benchmark.results.pictures import read_pictures
from benchmark.results.recovery import contents
from reports.html import write_report

pytestmark = pytest.mark.usefixtures("undrawn")

OLD = next((TESTS / "data" / "run-before-rooms").iterdir())
FIT = Undefended.fit
COMMAND = (
    "run --dataset digits --preset smoke --defenses undefended,madry --attacks pgd,cw,pgd-bpda"
    " --eps 0,0.1,0.3 --n-train 100 --n-test 10 --device cpu --out"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(Undefended, "fit", None)  # nobody may train again
    return shutil.copytree(OLD, tmp_path / "runs" / OLD.name)


def files(folder):
    tables = [*folder.glob("*.parquet"), *folder.glob("models/*.json")]
    return {path.name: path.read_bytes() for path in tables}


def call(*words):
    """Run a command; return its exit code."""
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_it_is_small():
    assert sum(path.stat().st_size for path in OLD.rglob("*")) < 150_000


def test_every_table_is_read_and_nothing_is_damaged(caplog):
    run, audit = read_run(OLD), read_audit(OLD)
    assert len(run.cells) == 38
    assert len(run.samples) == 320
    assert [model.defense for model in run.models] == ["madry", "undefended"]
    assert len(read_pictures(OLD)) == 40
    assert len(audit.findings)
    assert len(audit.verdicts) == 4
    cells, samples, damaged = contents(OLD, run.run_id)
    assert (len(cells), len(samples), damaged) == (38, 320, {})
    assert caplog.text == ""


def test_what_it_does_not_tell_is_null_or_read_out_of_its_prose():
    cells = read_run(OLD).cells
    assert cells["attack_family"].isna().all()
    skipped = cells["status"] == "skipped"
    assert skipped.sum() == 6
    assert set(cells.loc[skipped, "failure_kind"]) == {"skipped"}
    assert cells.loc[~skipped, "failure_kind"].isna().all()


def test_it_is_reported(folder, tmp_path):
    page = write_report([folder], tmp_path / "report")
    text = page.read_text("utf-8")
    assert "undefended" in text
    assert "this defense is differentiable" in text


def test_the_same_command_computes_it_again_and_says_why(folder, capsys, monkeypatch):
    """The built-in defenses import from other modules now: their rows are not taken on trust."""
    monkeypatch.setattr(Undefended, "fit", FIT)
    assert call(*COMMAND.split(), folder.parent) == 0
    said = capsys.readouterr().err
    assert "its code changed" in said
    assert "computed again" in said
    run = read_run(folder)
    assert len(run.cells) == 38
    assert set(run.cells.loc[run.cells["status"] == "ok", "attack_family"]) == {"budget", "minimal"}


def test_its_audit_says_why_it_cannot_go_on(folder, capsys):
    before = read_audit(folder)
    assert call("audit", folder, "--level", "full") in (0, 1)
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    assert "its code changed" in said.err + said.out
    assert len(read_audit(folder).verdicts) == len(before.verdicts)
    assert (Path(folder) / "report" / "report.html").exists()
