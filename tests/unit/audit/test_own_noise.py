"""A defense with a generator of its own gives the same numbers again, and is not accused."""

import pandas as pd
import pytest

from benchmark.execution.audit_run import audit_run
from benchmark.execution.plan import plan
from benchmark.execution.runner import run
from benchmark.progress import Progress
from benchmark.results import read_run
from benchmark.results.audit_tables import read_audit
from benchmark.seeding import UNREPEATABLE

OPTIONS = {"dataset": "digits", "preset": "smoke", "device": "cpu", "n_train": 400, "n_test": 30}


class Said(Progress):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def start(name, out, attacks=("pgd", "pgd-eot"), eps=(0.0, 0.05, 0.1)):
    spec = plan(**OPTIONS, defenses=(f"noisy:{name}",), attacks=attacks, eps=eps)
    said = Said()
    found = run(spec, out=out, command="test", progress=said)
    assert found.n_failed == 0, found.cells["reason"].tolist()
    return found.path, said.lines


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))


def same(one, other, drop=("seconds",)):
    keep = [name for name in one if name not in drop]
    pd.testing.assert_frame_equal(one[keep], other[keep])


def test_the_same_run_twice_gives_the_same_numbers(tmp_path):
    one, said = start("OwnNoise", tmp_path / "one")
    other, _ = start("OwnNoise", tmp_path / "other")
    same(read_run(one).samples, read_run(other).samples)
    found, again = read_audit(one), read_audit(other)
    same(found.findings, again.findings)
    same(found.verdicts, again.verdicts)
    assert not any(UNREPEATABLE in line for line in said)
    assert found.findings.set_index("check").loc["repeatable-noise", "answer"] == "pass"
    accused = found.findings[found.findings["answer"] == "alarm"]
    assert not accused["reason"].str.contains("gradient").any()


def test_the_audit_in_full_gives_the_same_numbers_too(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.audit.full.FACTOR", 0.1)
    monkeypatch.setattr("benchmark.audit.full.LEVELS", 1)
    found = []
    for name in ("one", "other"):
        path, _ = start("OwnNoise", tmp_path / name, attacks=("pgd",), eps=(0.0, 0.1))
        audit_run(path, level="full", progress=Progress())
        found.append(read_audit(path))
    same(found[0].samples, found[1].samples)
    same(found[0].transfer, found[1].transfer)


def test_noise_that_nobody_can_seed_is_told_and_accused_of_nothing(tmp_path):
    path, said = start("HiddenNoise", tmp_path)
    assert f"noisy:HiddenNoise: {UNREPEATABLE}" in said
    found = read_audit(path)
    answers = found.findings.set_index("check")["answer"]
    assert answers["repeatable-noise"] == "note"
    assert answers["gradient-steps"] == "undecided"
    accused = found.findings[found.findings["answer"] == "alarm"]
    assert not accused["reason"].str.contains("gradient").any()
