"""The audit inside a run and after it: its tables, what is done again and what is not."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from fake_audit import audit_sample, finding, put_audit, transfer, verdict
from fake_runs import fake_run, fake_spec
from toys import Linear

from benchmark import cli
from benchmark.audit import basic
from benchmark.audit.basic import unaudited
from benchmark.audit.case import Finding
from benchmark.audit.checks import checks_of
from benchmark.audit.registration import Check
from benchmark.audit.run_results import Target, curves_of, norms_of, passes_of
from benchmark.audit.verdict import judge
from benchmark.cli.verdicts import audit_line, print_verdicts
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.datasets.load import load_images
from benchmark.errors import UsageError
from benchmark.execution.audit_run import audit_run
from benchmark.execution.plan import plan
from benchmark.execution.runner import run
from benchmark.progress import Progress
from benchmark.results import (
    ResultsError,
    audit_tables,
    read_models,
    read_run,
    read_spec,
    write_model,
)
from benchmark.results.audit_tables import read_audit
from benchmark.results.recovery import contents
from benchmark.results.run_folder import RunFolder
from benchmark.training.recall import OtherModelError, recall

# --- tables


def test_what_is_written_is_read(tmp_path):
    put_audit(
        tmp_path,
        findings=[finding("a"), finding("a", "other", attack="pgd"), finding("b")],
        verdicts=[verdict("a", "gradient masking"), verdict("b")],
        pairs=transfer(("a", "b")),
        samples=[audit_sample("a", 0, falls=True)],
    )
    found = read_audit(tmp_path)
    assert (len(found.findings), len(found.verdicts), len(found.transfer)) == (3, 2, 4)
    assert found.seconds == 3 * 0.5 + 2 * 1.0
    assert len(found.samples) == 1


def test_what_comes_anew_takes_the_place_of_the_old(tmp_path):
    put_audit(tmp_path, findings=[finding("a", attack="pgd"), finding("b")])
    put_audit(tmp_path, findings=[finding("a", answer="alarm", attack="cw")])
    own = read_audit(tmp_path).findings.set_index("defense")
    assert own.loc["a", ["answer", "attack"]].tolist() == ["alarm", "cw"]
    assert len(own) == 2


def test_one_defense_is_forgotten(tmp_path):
    rows = [verdict("a"), verdict("a", seed=1), verdict("b")]
    put_audit(
        tmp_path,
        findings=[finding("a"), finding("b")],
        verdicts=rows,
        samples=[audit_sample(name, 0, falls=True) for name in "ab"],
    )
    audit_tables.forget(tmp_path, "mnist", "a", 0)
    found = read_audit(tmp_path)
    assert set(found.findings["defense"]) == {"b"}
    assert list(zip(found.verdicts["defense"], found.verdicts["seed"], strict=True)) == [
        ("a", 1),
        ("b", 0),
    ]
    assert set(found.samples["defense"]) == {"b"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"findings": [finding("a", answer="maybe")]}, "unknown answer 'maybe'"),
        ({"findings": [finding("a"), finding("a")]}, "a check's answer appears twice"),
        ({"findings": [finding("a", answer="alarm", evidence="")]}, "has no evidence"),
        ({"verdicts": [verdict("a", "robust")]}, "unknown verdict 'robust'"),
        ({"verdicts": [verdict("a", "invalid", reasons="")]}, "has no reason"),
        ({"verdicts": [verdict("a", plain_accuracy=1.5)]}, "outside"),
        (
            {"verdicts": [verdict("a", "attacked fairly", stronger_accuracy=math.nan)]},
            "without the stronger attack",
        ),
        ({"pairs": [*transfer(("a",)), *transfer(("a",))]}, "a pair appears twice"),
    ],
)
def test_a_table_that_says_nonsense_is_refused(tmp_path, wrong, words):
    with pytest.raises(ResultsError, match=words):
        put_audit(tmp_path, **wrong)


@pytest.mark.parametrize(
    ("reasons", "ruling"),
    [
        ("zero gradient; 95 % stand at eps 0.2 under the run's attack", "gradient masking"),
        ("the run's attack falls short; 95 % stand", "attack too weak"),
        ("flat in eps; 95 % stand", "attack too weak"),
        ("zero gradient; tested on training images; 95 % stand", "invalid"),
    ],
)
def test_an_audit_of_an_older_version_is_read(tmp_path, reasons, ruling):
    rows = [verdict("a", "invalid", reasons=reasons), verdict("b")]
    put_audit(tmp_path, findings=[finding("a", attack="pgd")], verdicts=rows)
    for name, lacking in (("audit", ["library"]), ("verdicts", ["beaten_by", "rerun"])):
        path = tmp_path / f"{name}.parquet"
        old = pd.read_parquet(path).drop(columns=lacking)
        if name == "verdicts":
            old["verdict"] = old["verdict"].replace("invalid", "masked")
        old.to_parquet(path, index=False)
    found = read_audit(tmp_path)
    assert found.verdicts["verdict"].tolist() == [ruling, "undecided"]
    assert found.verdicts["rerun"].tolist() == ["", ""]
    assert found.findings["library"].tolist() == [""]
    put_audit(tmp_path, verdicts=[verdict("b", "attacked fairly")])  # what is old is kept
    audit_tables.forget(tmp_path, "mnist", "b", 0)
    assert read_audit(tmp_path).verdicts["verdict"].tolist() == [ruling]


# --- inside a run

OPTIONS = {"dataset": "digits", "preset": "smoke", "device": "cpu", "n_train": 200, "n_test": 20}


def small(**options):
    asked = {"defenses": ("undefended",), "attacks": ("pgd",), "eps": (0.0, 0.1, 0.2)}
    spec = plan(**{**OPTIONS, **asked, **options})
    attacks = [replace(a, params={**a.params, "steps": 3}) for a in spec.attacks]
    return replace(spec, attacks=tuple(attacks))


def start(spec, out, **options):
    options = {"command": "test", "progress": Progress(), **options}
    return run(spec, out=out, **options)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A finished run with its basic audit, and the cache that holds its model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("out")
        yield start(small(), out).path


def test_a_run_audits_its_defenses(audited):
    found = read_audit(audited)
    assert set(found.findings["check"]) == {check.name for check in checks_of("basic")}
    assert set(found.findings["level"]) == {"basic"}
    (row,) = found.verdicts.to_dict("records")
    # A basic audit attacks no harder, and never says that it did.
    assert row["verdict"] in ("undecided", "gradient masking")
    assert "stronger attack" in row["reasons"]
    assert math.isnan(row["stronger_accuracy"])
    assert not math.isnan(row["plain_accuracy"])
    assert "% of the attacks' time" in audit_line(audited)


def test_the_audit_is_no_part_of_the_runs_settings_or_tables(audited, tmp_path):
    plainly = start(small(), tmp_path, audit=False).path
    assert plainly.name == audited.name
    assert read_audit(plainly).findings.empty
    assert audit_line(plainly) == ""
    columns = ["sample_id", "eps", "pred_adv", "success", "distance"]
    pd.testing.assert_frame_equal(
        read_run(plainly).samples[columns], read_run(audited).samples[columns]
    )


def test_a_finished_run_is_audited_later_and_only_once(audited, tmp_path, monkeypatch):
    spec = small()
    start(spec, tmp_path, audit=False)
    assert not start(spec, tmp_path).was_complete
    before = read_audit(tmp_path / spec.run_id)
    monkeypatch.setattr(Check, "run", lambda *_: pytest.fail("asked again"))
    assert start(spec, tmp_path).was_complete
    pd.testing.assert_frame_equal(read_audit(tmp_path / spec.run_id).findings, before.findings)


def test_checks_that_were_answered_are_not_asked_again(audited, tmp_path, monkeypatch):
    spec, asked = small(), []
    ask = Check.run

    def some(self, case):
        asked.append(self.name)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return ask(self, case)

    monkeypatch.setattr(Check, "run", some)
    with pytest.raises(KeyboardInterrupt):
        start(spec, tmp_path)
    start(spec, tmp_path)
    names = [check.name for check in checks_of("basic")]
    assert asked == names[:4] + names[3:]
    assert len(read_audit(tmp_path / spec.run_id).verdicts) == 1


def test_a_check_that_raises_is_undecided_and_fails_no_run(audited, tmp_path, monkeypatch):
    first = checks_of("basic")[0]

    def broken(case):
        raise ValueError("what now")

    monkeypatch.setattr(
        basic, "checks_of", lambda level: [replace(first, needs=(), measure=broken)]
    )
    result = start(small(), tmp_path)
    assert result.n_failed == 0
    (row,) = read_audit(result.path).findings.to_dict("records")
    assert (row["answer"], "what now" in row["evidence"]) == ("undecided", True)


def test_an_audit_that_fails_is_told_and_fails_no_run(audited, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("no case")

    monkeypatch.setattr(basic, "case_of", broken)
    result = start(small(), tmp_path)
    assert result.n_failed == 0
    (row,) = read_audit(result.path).verdicts.to_dict("records")
    assert row["verdict"] == "undecided"
    assert "no case" in row["reasons"]
    assert start(small(), tmp_path).was_complete


def test_an_alarm_makes_the_verdict(audited, tmp_path, monkeypatch):
    alarm = Finding("zero-gradient", "alarm", 1.0, 0.5, "all of 20 images", "no gradient")
    check = Check("zero-gradient", "basic", (), lambda case: alarm)
    monkeypatch.setattr(basic, "checks_of", lambda level: [check])
    (row,) = read_audit(start(small(), tmp_path).path).verdicts.to_dict("records")
    assert (row["verdict"], row["reasons"].startswith("no gradient")) == ("gradient masking", True)


def test_memory_that_runs_out_leaves_the_verdict_undecided(audited, tmp_path, monkeypatch):
    """The checks that were answered are kept; the one that was not is asked again later."""
    ask, spec = Check.run, small()

    def exhausted(self, case):
        if self.name == "zero-gradient":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return ask(self, case)

    monkeypatch.setattr(Check, "run", exhausted)
    result = start(spec, tmp_path)
    assert result.n_failed == 0
    found = read_audit(result.path)
    (row,) = found.verdicts.to_dict("records")
    assert row["verdict"] == "undecided"
    assert "memory ran out (CUDA out of memory" in row["reasons"]
    names = [check.name for check in checks_of("basic")]
    assert found.findings["check"].tolist() == names[: names.index("zero-gradient")]
    audit_run(result.path, level="full", progress=Progress())
    (row,) = read_audit(result.path).verdicts.to_dict("records")
    assert row["verdict"] == "undecided"
    assert "memory ran out" in row["reasons"]
    monkeypatch.setattr("benchmark.audit.full.FACTOR", 0.1)
    monkeypatch.setattr("benchmark.audit.full.LEVELS", 1)
    monkeypatch.setattr(Check, "run", ask)
    audit_run(result.path, level="full", progress=Progress())
    found = read_audit(result.path)
    assert "memory" not in found.verdicts["reasons"].item()
    assert set(found.findings["check"]) == {check.name for check in checks_of("full")}


def test_curves_are_the_runs_own_image_by_image(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(("madry",), seeds=(0,)))
    spec = read_spec(run_dir)
    folder = RunFolder(run_dir, spec, *contents(run_dir, spec.run_id))

    class Images:
        sample_ids = torch.arange(40).flip(0)

    pgd, cw = curves_of(folder, Target("madry", 0, Linear(torch.ones(4))), Images())
    own = folder.samples[(folder.samples["attack"] == "pgd") & (folder.samples["eps"] == 0.1)]
    assert (pgd.norm, cw.norm, cw.library) == ("linf", "l2", "art")
    assert pgd.success[1].tolist() == own["success"].tolist()[::-1]
    assert pgd.distance[1].tolist() == own["distance"].tolist()[::-1]
    assert unaudited(folder) == [(spec.defenses[0], 0)]


def test_two_libraries_have_a_finding_each_and_the_audit_is_not_lost(audited, tmp_path):
    spec = small(attacks=("pgd",), libraries=("inhouse", "torchattacks"))
    assert [attack.library for attack in spec.attacks] == ["inhouse", "torchattacks"]
    found = read_audit(start(spec, tmp_path).path)
    flat = found.findings[found.findings["check"] == "flat-in-eps"]
    assert sorted(zip(flat["attack"], flat["library"], strict=True)) == [
        ("pgd", "inhouse"),
        ("pgd", "torchattacks"),
    ]
    (row,) = found.verdicts.to_dict("records")
    assert "failed" not in row["reasons"]
    assert row["n"] > 0


# --- afterwards


def test_the_full_audit_judges_every_defense(audited, tmp_path, monkeypatch):
    """Two defenses attack each other; what is judged is not judged again."""

    def judging(**given):
        # A finding about a sweep in the other norm is known by that sweep.
        assert {curve.norm for curve in given["plain"]} == {"linf", "l2"}
        return judge(**given)

    monkeypatch.setattr("benchmark.audit.full.FACTOR", 0.1)
    monkeypatch.setattr("benchmark.audit.full.LEVELS", 1)
    monkeypatch.setattr(basic, "IMAGES", 8)
    monkeypatch.setattr("benchmark.audit.full.judge", judging)
    spec = small(defenses=("undefended", "e-cla"), attacks=("pgd", "pgd-l2"))
    l2 = replace(spec.attacks[1], threat=ThreatModel("l2", (1.0,)))
    spec = replace(spec, attacks=(spec.attacks[0], l2))
    path = start(spec, tmp_path).path
    cells = (path / "cells.parquet").read_bytes()
    audit_run(path, level="full", progress=Progress())
    found = read_audit(path)
    assert set(found.verdicts["level"]) == {"full"}
    assert not found.verdicts["stronger_accuracy"].isna().any()
    assert (found.verdicts["headline_accuracy"] <= found.verdicts["plain_accuracy"]).all()
    pairs = set(zip(found.transfer["source"], found.transfer["target"], strict=True))
    names = ("undefended", "e-cla")
    assert pairs == {(a, b) for a in names for b in names}
    attacks = set(found.samples["attack"])
    assert attacks > {"from undefended", "from e-cla"}
    assert set(found.findings["level"]) == {"basic", "full"}
    assert (path / "cells.parquet").read_bytes() == cells
    monkeypatch.setattr("benchmark.audit.full._Seed.run", lambda self: pytest.fail("again"))
    audit_run(path, level="full", progress=Progress())


def test_a_model_that_is_gone_leaves_the_verdict_undecided(audited, tmp_path, monkeypatch):
    spec = small()
    path = start(spec, tmp_path).path
    (record,) = read_models(path)
    write_model(path, replace(record, key="0" * 64))
    audit_run(path, level="full", progress=Progress())
    (row,) = read_audit(path).verdicts.to_dict("records")
    assert row["verdict"] == "undecided"
    assert "it would be another one" in row["reasons"]


def test_a_model_is_taken_by_its_recorded_key_or_trained_again(audited, monkeypatch, tmp_path):
    spec, (record,) = read_spec(audited), read_models(audited)
    sets, said = load_images(spec, None), []
    progress = Progress()
    progress.say = said.append
    options = {"seed": 0, "progress": progress}
    one = recall(spec.defenses[0], record, *sets, **options)
    assert not said
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path))
    with pytest.raises(OtherModelError, match="not in the cache"):
        recall(spec.defenses[0], record, *sets, may_train=False, **options)
    two = recall(spec.defenses[0], record, *sets, **options)
    assert any("training it again" in line for line in said)
    same = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    with pytest.raises(OtherModelError, match="no record"):
        recall(spec.defenses[0], None, *sets, **options)


def test_other_images_are_refused(tmp_path):
    run_dir = fake_run(tmp_path, replace(fake_spec(("madry",), seeds=(0,)), dataset="digits"))
    with pytest.raises(UsageError, match="other digits images"):
        audit_run(run_dir, level="full", progress=Progress())


# --- the command line


@pytest.mark.parametrize(
    "command", [["run", "--dataset", "digits", "--audit"], ["audit", ".", "--level"]]
)
def test_a_misspelt_level_is_named(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "ful"])
    assert stop.value.code == 2
    assert "did you mean 'full'" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["audit", str(tmp_path)])
    assert stop.value.code == 2
    assert "not a run folder" in capsys.readouterr().err


def test_the_command_prints_the_verdicts(audited, capsys):
    print_verdicts(audited)
    out = capsys.readouterr().out
    assert "undefended" in out
    assert "stronger attack" in out
    assert "at most" in out
    assert "undecided: what is missing" in out


def test_the_line_counts_verdicts_in_each_norm(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(("a", "b"), seeds=(0,)))
    rows = [verdict("a", "invalid"), verdict("b"), verdict("a", norm="l2"), verdict("b", norm="l2")]
    put_audit(run_dir, verdicts=rows)
    assert audit_line(run_dir).endswith("; linf: 1 invalid, 1 undecided; l2: 2 undecided")


def test_passes_through_a_generator_alone_do_not_count():
    threat, types = ThreatModel("l2", (0.5, 1.0)), {"cw-bpda": "cw", "latent-cw": "latent-cw"}
    attacks = [AttackSpec(name, threat, 2, type=kind) for name, kind in types.items()]
    rows = [
        ("cw-bpda", 0, 0.5, 30, 10),
        ("cw-bpda", 0, 1.0, 20, 0),
        ("cw-bpda", 1, 0.5, 10, 10),
        ("latent-cw", 0, 0.5, 3000, 3000),
    ]
    names = ["attack", "sample_id", "eps", "n_forward", "n_backward"]
    samples = pd.DataFrame(rows, columns=names).assign(
        defense="gan", seed=0, norm="l2", library="inhouse"
    )
    folder = SimpleNamespace(samples=samples, spec=SimpleNamespace(attacks=attacks))
    target = SimpleNamespace(name="gan", seed=0)
    assert passes_of(folder, target, "l2") == 30
    assert passes_of(folder, target, "linf") == 0


def test_a_norm_in_which_all_was_skipped_has_no_verdict():
    attacks = [AttackSpec("pgd", ThreatModel("linf", (0.1,)), 2)]
    attacks.append(AttackSpec("latent-cw", ThreatModel("l2", (0.5,)), 2))
    rows = [
        ("cnn", "linf", "ok"),
        ("cnn", "l2", "skipped"),
        ("gan", "linf", "skipped"),
        ("gan", "l2", "failed"),
        ("odd", "linf", "skipped"),
        ("odd", "l2", "skipped"),
    ]
    cells = pd.DataFrame(rows, columns=["defense", "norm", "status"]).assign(seed=0)
    folder = SimpleNamespace(cells=cells, spec=SimpleNamespace(attacks=attacks))
    assert norms_of(folder, "cnn", 0) == ["linf"]
    assert norms_of(folder, "gan", 0) == ["l2"]
    assert norms_of(folder, "odd", 0) == ["linf", "l2"]
