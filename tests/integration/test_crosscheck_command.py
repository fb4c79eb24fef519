"""The cross-check from the command line: what is asked of each library, the files and the page."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from fake_runs import fake_run
from toys import Nearest

from benchmark import registry
from benchmark.attacks.peers.library import AttackLibrary
from benchmark.attacks.pgd import PGD
from benchmark.cli import main
from benchmark.crosscheck.plan import plan_crosscheck
from benchmark.crosscheck.results import LIBRARY_KEYS, OBJECT, read_crosscheck
from benchmark.errors import UsageError
from benchmark.registry import Registry

# --- planning ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ToyPGD(PGD):
    fixed: ClassVar = {"early_stop": False}
    early_stop: bool = False


@dataclass(frozen=True, kw_only=True)
class Sloppy(ToyPGD):
    """Returns nothing but what it began with."""

    def run(self, view, x, y, *, eps, generator):
        super().run(view, x, y, eps=eps, generator=generator)
        return x.clone()


@dataclass(frozen=True, kw_only=True)
class Single(ToyPGD):
    fixed: ClassVar = {"early_stop": False, "steps": 3}


TOYS = {
    "toy": AttackLibrary("toy", "json", "pip", "pip install toy", {"pgd": ToyPGD}),
    "sloppy": AttackLibrary("sloppy", "json", "pip", "pip install sloppy", {"pgd": Sloppy}),
    "single": AttackLibrary("single", "json", "pip", "pip install single", {"pgd": Single}),
    "absent": AttackLibrary("absent", "no_such_package", "none", "pip install absent", {}),
    "other": AttackLibrary("other", "json", "pip", "pip install other", {"cw": Nearest}),
}


@pytest.fixture
def toys(monkeypatch):
    """The toy libraries in place of those that are installed."""
    entries, load = Registry.entries, Registry.load

    def toy_entries(self):
        return dict.fromkeys(TOYS) if self is registry.LIBRARIES else entries(self)

    def toy_load(self, name):
        return TOYS[name] if self is registry.LIBRARIES else load(self, name)

    monkeypatch.setattr(Registry, "entries", toy_entries)
    monkeypatch.setattr(Registry, "load", toy_load)
    monkeypatch.setattr("benchmark.attacks.peers.library.entry_points", lambda group: [group])


def plan_toy(**options):
    asked = {"dataset": "digits", "defense": "undefended", "attack": "pgd"}
    return plan_crosscheck(**{**asked, "preset": "smoke", "device": "cpu", **options})


def test_settings_are_matched(toys) -> None:
    plan = plan_toy(n=30)
    assert [a.library for a in plan.spec.attacks] == ["inhouse", "toy", "sloppy", "single"]
    for attack in plan.spec.attacks[:3]:
        assert attack.n == plan.spec.n_test == 30
        assert attack.params["steps"] == 10
        assert attack.params["random_start"] is False
        assert attack.params["early_stop"] is False
    assert plan.spec.attacks[0].params["return_last"] is True
    assert plan.spec.attacks[3].params["steps"] == 3
    assert "works as with steps = 3 where 10 was asked for" in plan.remarks["single"][0]
    assert plan.absent["absent"] == "the library absent is not installed: pip install absent"
    assert "pgd" in plan.absent["other"]
    assert plan_toy(random_start=True).spec.attacks[1].params["random_start"] is True
    assert plan_toy(best_iterate=True).spec.attacks[0].params["return_last"] is False
    assert plan_toy().spec.n_test == 200  # as many as the preset has, up to 256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"libraries": ["inhouse", "tyo"]}, "unknown library 'tyo'; did you mean 'toy'?"),
        ({"libraries": ["absent"]}, "absent is not installed: pip install absent"),
        ({"libraries": ["other"]}, "unknown attack of other 'pgd'"),
        ({"attack": "pdg"}, "unknown attack 'pdg'; did you mean 'pgd'?"),
        ({"defense": "undefnded"}, "unknown defense 'undefnded'; did you mean"),
        ({"defense": "all"}, "unknown defense 'all'"),
        ({"dataset": "digit"}, "unknown dataset 'digit'; did you mean 'digits'?"),
        ({"eps": [0.0]}, "eps 0 alone"),
        ({"n": 0}, "--n must be at least 1"),
    ],
)
def test_wrong_words_are_refused(toys, options, message) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        plan_toy(**options)


# --- end to end ----------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, monkeypatch, capsys, toys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


WORDS = (
    *("crosscheck", "--dataset", "digits", "--defense", "undefended", "--attack", "pgd"),
    *("--preset", "smoke", "--n", "24", "--eps", "0,0.1", "--device", "cpu"),
)


def test_command_from_tables_to_page_and_back(call, tmp_path, monkeypatch) -> None:
    code, out, err = call(*WORDS, "--json")
    assert code == 0, err
    value = json.loads(out)
    assert tuple(value) == OBJECT
    assert (value["attack"], value["dataset"], value["n"]) == ("pgd", "digits", 24)
    assert [row["library"] for row in value["libraries"]] == ["inhouse", "toy", "sloppy", "single"]
    assert all(tuple(row) == LIBRARY_KEYS for row in value["libraries"])
    by_name = {row["library"]: row for row in value["libraries"]}
    assert by_name["inhouse"]["success"] == by_name["toy"]["success"] > 0.2
    assert by_name["inhouse"]["backwards"] == 10
    assert "inhouse|toy" in value["agreement"]
    assert value["agreement"]["inhouse|toy"] == 1
    assert value["bit_identical"]["inhouse|sloppy"] == 0
    assert any("returned the clean image" in text for text in by_name["sloppy"]["findings"])
    assert any("gave up on" in text for text in by_name["sloppy"]["findings"])
    assert any("has no setting steps" in text for text in by_name["single"]["findings"])
    assert "absent: not run: the library absent is not installed: pip install absent" in err

    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("crosscheck-digits-undefended-pgd-")
    found = read_crosscheck(folder)
    assert found.result == value
    assert len(found.tables["samples"]) == 4 * 24
    assert found.tables["libraries"]["status"].tolist() == ["ok"] * 4 + ["skipped"] * 2
    assert found.offenders
    for offender in found.offenders:
        for answer in offender["libraries"]:
            assert (folder / answer["image"]).read_bytes().startswith(b"\x89PNG")
    assert found.provenance["dataset"]["source"] == "embedded"

    page = (folder / "crosscheck.html").read_text("utf-8")
    assert "gave up on" in page
    assert "pip install absent" in page
    assert page.count("<img") == page.count('alt="') > 6
    shown = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # code names addresses
    assert "://" not in shown

    # The same command again computes nothing, and prints for people as well.
    monkeypatch.setattr("benchmark.crosscheck.compare", None)
    again, out, err = call(*WORDS)
    assert again == 0
    assert "nothing was computed" in err
    assert "- sloppy gave up on" in out
    assert "share of bit-identical images" in out
    assert json.loads(call(*WORDS, "--json")[1]) == value
    # The report command takes its folder, too, alone or beside a run's.
    code, out, _ = call("report", folder)
    assert code == 0
    assert out.strip() == str(folder / "crosscheck.html")
    run = fake_run(tmp_path / "runs")
    code, out, _ = call("report", run, folder)
    assert code == 0
    (address,) = re.findall(r'href="([^"]*crosscheck\.html)"', Path(out.strip()).read_text("utf-8"))
    assert (Path(out.strip()).parent / address).resolve() == (folder / "crosscheck.html").resolve()


def test_a_failed_library_is_exit_code_one_and_tried_again(call, tmp_path, monkeypatch) -> None:
    def fails(self, *args, **kwargs):
        raise RuntimeError("no luck")

    run = Sloppy.run
    monkeypatch.setattr(Sloppy, "run", fails)
    words = (*WORDS, "--libraries", "inhouse,sloppy")
    code, out, err = call(*words, "--json")
    assert code == 1
    assert "sloppy: failed: RuntimeError: no luck" in err
    assert json.loads(out)["libraries"][1]["findings"] == ["failed: RuntimeError: no luck"]
    (folder,) = (tmp_path / "runs").iterdir()
    assert "Traceback" in (folder / "errors" / "sloppy.txt").read_text("utf-8")
    monkeypatch.setattr(Sloppy, "run", run)
    assert call(*words)[0] == 0


def test_refusals_are_one_line_and_exit_code_two(call, tmp_path) -> None:
    code, out, err = call(*WORDS, "--libraries", "inhouse,absent")
    assert (code, out) == (2, "")
    assert err.strip().endswith("pip install absent")
    code, out, err = call(*WORDS, "--libraries", "inhoose")
    assert (code, out) == (2, "")
    assert "did you mean 'inhouse'?" in err
    assert not (tmp_path / "runs").exists()


def test_help_names_the_command(call) -> None:
    assert "crosscheck" in call("--help")[1]
