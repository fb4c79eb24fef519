"""The runner: tables, going on, failures that stay where they are, and the model cache."""

import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from toys import Broken, Scripted, Tiny

from benchmark.attacks.pgd import PGD
from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.config.threat import ThreatModel
from benchmark.errors import UsageError
from benchmark.execution import runner
from benchmark.io.json_files import write_json
from benchmark.progress import Progress
from benchmark.results import CELL_KEY, SAMPLES, read_run
from benchmark.results.pictures import PICTURED, decoded, pictured_eps, read_pictures
from benchmark.training import supply

EPS = (0.0, 0.02, 0.3)
DEFENSES = (DefenseSpec("toys:Tiny"), DefenseSpec("toys:Coded"))
UNSTABLE = ["seconds", "versions", "git_sha"]


def attack(name="pgd", n=30, library="inhouse", **params):
    return AttackSpec(name, ThreatModel("linf", EPS), n, library=library, params=params)


SPEC = RunSpec(
    dataset="digits",
    preset="smoke",
    n_train=100,
    n_test=40,
    seeds=(0,),
    device="cpu",
    defenses=DEFENSES,
    attacks=(attack(steps=2),),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(Tiny, "fits", 0)


@pytest.fixture
def go(tmp_path):
    def run(spec=SPEC, out="runs", progress=None):
        return runner.run(
            spec,
            out=tmp_path / out,
            command="python -m benchmark run",
            progress=progress or Progress(),
        )

    return run


def numbers(run, **which):
    """A run's tables without what a clock decides, in a fixed order."""
    cells, samples = run.cells.drop(columns=UNSTABLE), run.samples.drop(columns="run_id")
    for column, value in which.items():
        cells, samples = cells[cells[column] == value], samples[samples[column] == value]
    # Which categories a column has depends on the other cells of the table.
    words = list(samples.select_dtypes("category"))
    samples = samples.astype(dict.fromkeys(words, object))
    return (
        cells.sort_values(CELL_KEY, ignore_index=True),
        samples.sort_values([*CELL_KEY, "sample_id"], ignore_index=True),
    )


def same(first, second, **which):
    for one, other in zip(numbers(first, **which), numbers(second, **which), strict=True):
        pd.testing.assert_frame_equal(one, other)
    return True


def fingerprint(path):
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return {
        p.relative_to(path): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in files
    }


@pytest.fixture
def attacks_by(monkeypatch):
    """Let the attack of a name run a function (view, x, y, eps) instead of PGD."""

    def replace_by(**scripts):
        original = runner.load_attack

        def load(spec):
            script = scripts.get(spec.name)
            return Scripted(script=script) if script else original(spec)

        monkeypatch.setattr(runner, "load_attack", load)

    return replace_by


# --- a run


def test_a_run_leaves_two_valid_tables_and_their_origin(go):
    result = go()
    assert not result.was_complete
    assert result.n_failed == 0
    assert result.path.name == SPEC.run_id
    run = read_run(result.path)  # validates both tables
    assert run.spec == SPEC
    assert len(run.cells) == 2 * 3
    assert len(run.samples) == 2 * 3 * 30
    assert set(run.cells["status"]) == {"ok"}
    assert set(run.cells["n"]) == {30}
    assert set(run.samples["run_id"]) == {SPEC.run_id}
    for _, cell in run.cells.iterrows():
        own = run.samples.merge(cell[CELL_KEY].to_frame().T.astype(run.cells[CELL_KEY].dtypes))
        assert len(own) == 30
        assert cell["robust_accuracy"] == pytest.approx(1 - own["success"].mean())
        right = own["pred_clean"] == own["label"]
        assert cell["clean_accuracy"] == pytest.approx(right.mean())
        turned = own.loc[own["success"] & right, "distance"]
        assert cell["median_distance"] == pytest.approx(turned.median(), nan_ok=True)
        assert cell["ci_low"] <= cell["robust_accuracy"] <= cell["ci_high"]
        assert json.loads(cell["versions"])["torch"] == torch.__version__.partition("+")[0]
    assert run.provenance["dataset"]["source"] == "embedded"
    assert [model.defense for model in run.models] == ["toys:Coded", "toys:Tiny"]
    coded, tiny = run.models
    assert set(coded.measures["code_distance"]) == {"value", "ci_low", "ci_high", "floor", "n"}
    assert coded.measures["code_distance"]["n"] == 40
    assert tiny.measures == {}
    assert tiny.n_parameters == 7850
    assert [row["epoch"] for row in tiny.log] == [1, 2]


def test_what_a_defense_measures_on_itself_is_kept(go, monkeypatch):
    def measure(self, data):
        return {"n_seen": len(data), "draw": torch.rand(()).item(), "notes": ["as it is"]}

    monkeypatch.setattr(Tiny, "measure", measure)
    first, second = (read_run(go(out=out).path).models for out in ("one", "two"))
    coded, tiny = (model.measures for model in first)
    assert set(coded) == {"n_seen", "draw", "notes", "code_distance"}
    assert tiny["n_seen"] == 40
    assert tiny["notes"] == ["as it is"]
    assert [model.measures for model in second] == [coded, tiny]  # drawn from the model's seed


def test_samples_are_the_first_images_of_the_test_split(go):
    run = read_run(go().path)
    from benchmark.datasets import DIGITS

    expected = DIGITS.load("test", n=30)
    own = run.samples[(run.samples["defense"] == "toys:Tiny") & (run.samples["eps"] == 0.02)]
    assert own["sample_id"].tolist() == expected.sample_ids.tolist()
    assert own["label"].tolist() == expected.labels.tolist()


def test_pictures_show_the_first_samples_as_they_were_scored(go):
    run = read_run(go().path)
    kept = read_pictures(run.path)
    shared = [name for name in SAMPLES.names if name in kept]
    eps = pictured_eps(EPS)
    for defense in ("toys:Coded", "toys:Tiny"):
        of_it = run.samples[(run.samples["defense"] == defense) & (run.samples["eps"] == eps)]
        of_it = of_it.head(PICTURED).reset_index(drop=True)[shared]
        own = kept[kept["defense"] == defense].reset_index(drop=True)
        pd.testing.assert_frame_equal(own[shared], of_it.astype(own[shared].dtypes))
        for row in own.to_dict("records"):
            moved = np.abs(decoded(row).difference).max()
            assert moved == pytest.approx(row["distance"], abs=1e-3)


def test_a_second_call_computes_nothing_and_changes_no_byte(go, monkeypatch):
    before = fingerprint(go().path)
    monkeypatch.setattr(supply, "trained", None)
    monkeypatch.setattr(runner, "sweep", None)
    result = go()
    assert result.was_complete
    assert len(result.cells) == 6
    assert fingerprint(result.path) == before


def test_two_runs_from_scratch_agree(go, tmp_path, monkeypatch):
    first = go()
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "other cache"))
    second = go(out="other")
    assert Tiny.fits == 2  # Coded counts its own
    assert same(read_run(first.path), read_run(second.path))


def test_seeds_train_and_attack_once_each(go):
    run = read_run(go(replace(SPEC, seeds=(0, 7), defenses=DEFENSES[:1])).path)
    assert Tiny.fits == 2
    assert run.cells.groupby("seed").size().to_dict() == {0: 3, 7: 3}
    assert [model.seed for model in run.models] == [0, 7]
    assert run.models[0].key != run.models[1].key
    assert same(run, read_run(go(replace(SPEC, defenses=DEFENSES[:1])).path), seed=0)


# --- going on


def test_an_interrupted_run_goes_on_to_the_same_tables(go, monkeypatch):
    whole = read_run(go(out="whole").path)
    calls, original = [], PGD.run

    def stopped(self, view, x, y, *, eps, generator):
        calls.append(eps)
        if len(calls) == 4:  # the second defense, its second budget
            raise KeyboardInterrupt
        return original(self, view, x, y, eps=eps, generator=generator)

    monkeypatch.setattr(PGD, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        go()
    (folder,) = (go_path for go_path in (whole.path.parents[1] / "runs").iterdir())
    partial = read_run(folder)  # valid as it lies there
    assert 3 <= len(partial.cells) < 6
    assert (partial.cells["status"] == "ok").all()
    monkeypatch.setattr(PGD, "run", original)
    result = go()
    assert not result.was_complete
    assert same(read_run(result.path), whole)
    assert go().was_complete


def test_samples_without_their_cell_are_dropped(go):
    whole = read_run(go().path)
    (whole.path / "cells.parquet").unlink()
    result = go()
    assert not result.was_complete
    assert same(read_run(result.path), whole)


def test_a_folder_of_another_spec_is_refused_untouched(go):
    result = go()
    other = replace(SPEC, n_test=39)
    os.rename(result.path, result.path.parent / other.run_id)  # noqa: PTH104
    before = fingerprint(result.path.parent)
    with pytest.raises(UsageError, match=r"made by another spec \(its n_test differ\)"):
        go(other)
    assert fingerprint(result.path.parent) == before


def test_other_images_under_the_same_name_are_refused(go):
    result = go()
    about = result.path / "run.json"
    told = json.loads(about.read_text("utf-8"))
    told["dataset"]["test_checksum"] = "0" * 64
    write_json(about, told)
    (result.path / "cells.parquet").unlink()
    with pytest.raises(UsageError, match="was begun with other digits images"):
        go()


# --- failures


def test_an_attack_that_raises_fails_alone_and_is_tried_again(go, attacks_by):
    def fails_at_large_eps(view, x, y, eps):
        if eps > 0.2:
            raise RuntimeError("out of luck\nsecond line")
        return x

    spec = replace(SPEC, attacks=(attack("bad", steps=2), *SPEC.attacks))
    bad = replace(spec.attacks[0], type="pgd")
    spec = replace(spec, attacks=(bad, *SPEC.attacks))
    attacks_by(bad=fails_at_large_eps)
    result = go(spec)
    assert result.n_failed == 2
    run = read_run(result.path)
    failed = run.cells[run.cells["status"] == "failed"]
    assert set(failed["reason"]) == {"RuntimeError: out of luck"}
    assert set(failed["eps"]) == {0.3}
    assert failed[["clean_accuracy", "robust_accuracy", "ci_low", "ci_high"]].isna().all(axis=None)
    assert (run.cells.loc[run.cells["attack"] == "pgd", "status"] == "ok").all()
    assert len(run.samples) == 2 * (2 + 3) * 30
    kept = list((result.path / "errors").iterdir())
    assert len(kept) == 2
    assert "second line" in kept[0].read_text("utf-8")

    good = numbers(run, attack="pgd")
    attacks_by(bad=lambda view, x, y, eps: x)
    result = go(spec)
    assert result.n_failed == 0
    assert not result.was_complete
    for before, after in zip(good, numbers(read_run(result.path), attack="pgd"), strict=True):
        pd.testing.assert_frame_equal(before, after)
    assert go(spec).was_complete


def test_an_attack_that_raises_at_once_leaves_every_budget_failed(go, attacks_by):
    def fails(view, x, y, eps):
        raise ValueError

    attacks_by(pgd=fails)
    cells = go(replace(SPEC, defenses=DEFENSES[:1])).cells
    # At eps 0 there is nothing to search: that cell stands.
    assert cells["status"].tolist() == ["ok", "failed", "failed"]
    assert set(cells["reason"][1:]) == {"ValueError: no message"}


def test_training_that_breaks_fails_that_defense_alone(go):
    spec = replace(SPEC, defenses=(DefenseSpec("toys:Broken"), *DEFENSES))
    result = go(spec)
    run = read_run(result.path)
    broken = run.cells[run.cells["defense"] == "toys:Broken"]
    assert (broken["status"] == "failed").all()
    assert broken["reason"].str.startswith("training failed: Broken: the loss is not finite").all()
    assert broken["eps"].tolist() == list(EPS)
    assert (run.cells.loc[run.cells["defense"] != "toys:Broken", "status"] == "ok").all()
    assert [model.defense for model in run.models] == ["toys:Coded", "toys:Tiny"]
    assert result.n_failed == 3


def test_a_defense_that_cannot_be_made_fails_alone(go):
    wrong = DefenseSpec("toys:Tiny", {"colour": "blue"})
    run = read_run(go(replace(SPEC, defenses=(wrong, DEFENSES[1]))).path)
    own = run.cells[run.cells["defense"] == "toys:Tiny"]
    assert own["reason"].str.contains("training failed: TypeError: .*colour").all()
    assert (run.cells.loc[run.cells["defense"] == "toys:Coded", "status"] == "ok").all()


def test_what_the_harness_notices_is_the_reason_of_an_ok_cell(go, attacks_by):
    attacks_by(pgd=lambda view, x, y, eps: x + 0.7)
    cells = go(replace(SPEC, defenses=DEFENSES[:1])).cells
    assert (cells["status"] == "ok").all()
    assert cells["reason"][0] == ""
    assert "left the box, projected" in cells["reason"][1]
    assert "left the ball, projected" in cells["reason"][1]


# --- attacks that do not suit a defense


def test_an_attack_that_does_not_suit_a_defense_is_skipped_with_the_reason(go, monkeypatch):
    eot = AttackSpec("pgd-eot", ThreatModel("linf", EPS), 30, type="pgd", eot=4)
    bpda = AttackSpec("pgd-bpda", ThreatModel("linf", EPS), 30, type="pgd", bpda=True)
    said = []

    class Listening(Progress):
        def say(self, text):
            said.append(text)

    spec = replace(SPEC, defenses=DEFENSES[:1], attacks=(eot, bpda, *SPEC.attacks))
    result = go(spec, progress=Listening())
    assert result.n_failed == 0
    run = read_run(result.path)
    skipped = run.cells[run.cells["status"] == "skipped"]
    assert skipped.groupby("attack")["eps"].apply(list).to_dict() == {
        "pgd-bpda": list(EPS),
        "pgd-eot": list(EPS),
    }
    reasons = skipped.groupby("attack")["reason"].unique()
    assert "all 4 draws are equal" in reasons["pgd-eot"].item()
    assert "this defense is differentiable" in reasons["pgd-bpda"].item()
    assert skipped[["clean_accuracy", "robust_accuracy", "ci_low", "ci_high"]].isna().all(axis=None)
    assert (skipped["seconds"] == 0).all()
    assert set(run.samples["attack"]) == {"pgd"}
    assert any("pgd-eot (inhouse): skipped: EOT" in line for line in said)
    assert same(read_run(go(replace(SPEC, defenses=DEFENSES[:1])).path), run, attack="pgd")

    before = fingerprint(result.path)
    monkeypatch.setattr(supply, "trained", None)
    assert go(spec).was_complete
    assert fingerprint(result.path) == before


def test_a_defense_that_no_attack_suits_is_trained_all_the_same(go):
    eot = AttackSpec("pgd-eot", ThreatModel("linf", EPS), 30, type="pgd", eot=4)
    run = read_run(go(replace(SPEC, defenses=DEFENSES[:1], attacks=(eot,))).path)
    assert set(run.cells["status"]) == {"skipped"}
    assert run.samples.empty
    assert Tiny.fits == 1
    assert [row["epoch"] for row in run.models[0].log] == [1, 2]


def test_the_trained_instance_decides_not_its_class(go, monkeypatch):
    made = Tiny.__init__

    def noisy(self, *args, **options):
        made(self, *args, **options)
        self.stochastic = True

    monkeypatch.setattr(Tiny, "__init__", noisy)
    eot = AttackSpec("pgd-eot", ThreatModel("linf", EPS), 30, type="pgd", eot=2)
    assert set(go(replace(SPEC, defenses=DEFENSES[:1], attacks=(eot,))).cells["status"]) == {"ok"}


# --- several defenses of one type


def test_members_of_one_type_are_models_of_their_own_name(go):
    names = ("tiny[epochs=1]", "tiny[epochs=2]")
    members = tuple(
        DefenseSpec(name, {"training": {"epochs": epochs}}, type="toys:Tiny")
        for epochs, name in enumerate(names, 1)
    )
    run = read_run(go(replace(SPEC, defenses=members)).path)
    assert Tiny.fits == 2
    assert set(run.cells["status"]) == {"ok"}
    assert set(run.cells["defense"]) == set(run.samples["defense"]) == set(names)
    assert {model.defense: len(model.log) for model in run.models} == dict(
        zip(names, (1, 2), strict=True)
    )
    alone = read_run(go(replace(SPEC, defenses=members[1:])).path)
    assert Tiny.fits == 2
    assert same(alone, run, defense=names[1])
    # The seed hangs on the name: of the same options, another name is another draw.
    go(replace(SPEC, defenses=(replace(members[1], name="tiny"),)))
    assert Tiny.fits == 3


# --- one cell never changes another


def test_adding_an_attack_or_a_defense_changes_no_number(go):
    alone = read_run(go(replace(SPEC, defenses=DEFENSES[:1])).path)
    # Random starts, so that the seeds matter.
    more = (attack("pgd-more", steps=1), *SPEC.attacks)
    more = (replace(more[0], type="pgd"), *more[1:])
    together = read_run(go(replace(SPEC, attacks=more, defenses=DEFENSES[::-1])).path)
    assert len(together.cells) == 12
    for one, other in zip(
        numbers(alone),
        (frame[frame["defense"] == "toys:Tiny"] for frame in numbers(together, attack="pgd")),
        strict=True,
    ):
        pd.testing.assert_frame_equal(one, other.reset_index(drop=True))


# --- the model cache


def test_trained_models_are_reused(go):
    first = read_run(go().path)
    assert Tiny.fits == 1
    result = go(replace(SPEC, n_test=39))  # another run, the same models
    assert Tiny.fits == 1
    second = read_run(result.path)
    assert [m.key for m in second.models] == [m.key for m in first.models]
    assert second.models[1].log == first.models[1].log
    assert second.models[1].train_seconds == first.models[1].train_seconds
    assert same(first, second)
    go(replace(SPEC, n_train=99))
    assert Tiny.fits == 2


def test_a_reused_model_is_in_evaluation_mode_and_equal(tmp_path):
    from benchmark.datasets import DIGITS

    data = DIGITS.load("train", n=60), DIGITS.load("test", n=20)
    models = [supply.trained(DEFENSES[0], *data, seed=3, progress=Progress())[0] for _ in range(2)]
    assert Tiny.fits == 1
    assert not models[1].training
    assert torch.equal(models[0].net[1].weight, models[1].net[1].weight)


def test_a_cache_that_cannot_be_written_costs_no_model(go, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "file"))
    said = []

    class Listening(Progress):
        def say(self, text):
            said.append(text)

    result = go(replace(SPEC, defenses=DEFENSES[:1]), progress=Listening())
    assert result.n_failed == 0
    assert any("not kept in" in line for line in said)


def test_broken_training_is_not_cached(go, tmp_path):
    go(replace(SPEC, defenses=(DefenseSpec("toys:Broken"),)))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    Broken.fits = 0
    assert go(replace(SPEC, defenses=(DefenseSpec("toys:Broken"),))).n_failed == 3
    assert Broken.fits == 1  # tried again


def test_the_global_random_state_is_untouched(go):
    state = torch.get_rng_state()
    go()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_watcher_is_told_of_rows_once_they_are_on_disk(tmp_path):
    told = []

    def watch(rows):
        path = tmp_path / "runs" / SPEC.run_id
        there = len(read_run(path).cells) if len(rows) else 0
        told.append((len(rows), there))

    options = {"out": tmp_path / "runs", "command": "", "progress": Progress(), "audit": False}
    runner.run(SPEC, **options, watch=watch)
    assert told == [(0, 0), (3, 3), (3, 6)]
    told.clear()
    runner.run(SPEC, **options, watch=watch)  # complete: nobody computes, nobody is told
    assert told == []
