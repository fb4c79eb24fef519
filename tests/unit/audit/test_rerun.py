"""The command that a verdict names: it gives a run the very attack of the audit."""

import shlex
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from toys import Function
from typer.testing import CliRunner

from benchmark import cli
from benchmark.attacks.loader import attack_class, load_attack
from benchmark.audit.attack_harder import StrongerResult
from benchmark.audit.case import Case, Finding
from benchmark.audit.comparison import Comparison
from benchmark.audit.full import FullAudit, _Seed
from benchmark.audit.rerun import COMMAND, command_for, setting_of, words_of
from benchmark.audit.stronger_attacks import Effort, plan_attacks
from benchmark.audit.verdict import Verdict
from benchmark.config.attack_syntax import parse_named
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.errors import UsageError
from benchmark.execution.plan import plan
from benchmark.progress import Progress

OPTIONS = {"dataset": "digits", "preset": "smoke", "device": "cpu", "n_train": 150, "n_test": 30}
RUN = plan(**OPTIONS, defenses=("undefended", "rse"), attacks=("pgd",), eps=(0.0, 0.1), seeds=(3,))


def result(spec, *, on_surrogate=False):
    return StrongerResult(spec, "for a reason", (), on_surrogate=on_surrogate)


def attack(cls, *, norm="linf", library="inhouse", eot=1, bpda=False, **params):
    threat = ThreatModel(norm, (0.1, 0.2))
    return AttackSpec("audit-it", threat, 20, cls, library, eot, bpda, params)


def planned(command, monkeypatch):
    """The spec that the command line makes of the command."""
    seen = []

    def stop(spec, **_):
        seen.append(spec)
        raise UsageError("enough")

    monkeypatch.setattr("benchmark.execution.runner.run", stop)
    assert command.startswith(f"{COMMAND} ")
    words = shlex.split(command.removeprefix("python -m benchmark "))
    CliRunner().invoke(cli.app, [*words, "--device", "cpu"])
    return seen[0]


@pytest.mark.parametrize(
    "wanted",
    [
        attack("pgd", loss="margin", steps=100, restarts=2),
        attack("pgd", norm="l2", loss="cross_entropy", steps=10, eot=10),
        attack("pgd", bpda=True, steps=10, early_stop=False, return_last=True),
        attack("APGD", library="torchattacks", loss="dlr", steps=50),
        attack("Square", library="torchattacks", norm="l2", n_queries=500),
    ],
    ids=setting_of,
)
def test_the_command_gives_a_run_the_same_attack(wanted, monkeypatch):
    command = command_for(RUN, "rse", 3, result(wanted), 0.2)
    spec = planned(command, monkeypatch)
    (found,) = spec.attacks
    assert (found.type, found.library, found.eot, found.bpda) == (
        wanted.type,
        wanted.library,
        wanted.eot,
        wanted.bpda,
    )
    assert found.threat == ThreatModel(wanted.threat.norm, (0.2,))
    assert load_attack(found) == load_attack(replace(wanted, name=found.name))
    # The same model, on the same images.
    assert spec.defenses == RUN.defenses[1:]
    for name in ("dataset", "preset", "n_train", "n_test", "seeds"):
        assert getattr(spec, name) == getattr(RUN, name)


@pytest.mark.parametrize(
    "one",
    [
        result(attack("pgd", steps=10), on_surrogate=True),
        result(attack("benchmark.audit.estimated_gradient:EvolutionStrategies", steps=10)),
    ],
    ids=["surrogate", "by module"],
)
def test_what_no_run_can_do_has_no_command_and_its_words(one):
    assert command_for(RUN, "undefended", 3, one, 0.2) == ""
    assert one.spec.type in words_of(one)
    assert ("on a surrogate (for a reason)" in words_of(one)) == one.on_surrogate


def test_an_attack_of_the_harness_is_named_with_its_hyphen():
    command = command_for(RUN, "undefended", 3, result(attack("latent-cw", norm="l2")), 0.2)
    assert command.endswith("--attacks \"inhouse:latent-cw(norm='l2')\"")


def test_a_member_of_a_study_is_run_with_its_study():
    defense = replace(RUN.defenses[0], name="undefended[width=2]")
    study = replace(RUN, defenses=(defense,), study="width")
    command = command_for(study, defense.name, 3, result(attack("pgd")), 0.1)
    assert "--defenses undefended --study width" in command


def test_attacks_on_what_the_defense_does_not_call_itself_are_on_a_surrogate():
    defense = Function(lambda x: x.flatten(1)[:, :2])
    x = torch.rand(4, 1, 2, 2)
    y = torch.zeros(4, dtype=torch.int64)
    case = Case(defense, "toy", 0, x, y, y == 0, torch.empty(0))
    threat = ThreatModel("linf", (0.1,))
    random = Finding("randomness", "alarm", 1.0, 0.0, "measured", "undeclared randomness")
    for findings, expected in (((), False), ((random,), True)):
        attacks = plan_attacks(case, threat, findings, n=4, effort=Effort())
        assert {each.on_surrogate for each in attacks} == {expected}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("inhouse:pgd(eot=1.5)", "eot must be a whole number"),
        ("inhouse:pgd(eot=True)", "eot must be a whole number"),
        ("inhouse:pgd(bpda=1)", "bpda must be True or False"),
        ("inhouse:pgd(n=1)", "n is not set here"),
    ],
)
def test_eot_and_bpda_are_given_as_what_they_are(words, message):
    named = parse_named(words)
    with pytest.raises(UsageError, match=message):
        named.settings(attack_class(named.cls, named.library))


def test_where_the_strongest_cannot_be_rerun_the_next_one_is_that_beat_the_run(tmp_path):
    """80 % stand under the run's; a surrogate leaves 20, margin 50, APGD 75: too little."""
    left = {"audit-bridge": 0.2, "audit-margin": 0.5, "audit-apgd": 0.75}
    numbers = dict.fromkeys(("own", "transferred", "low", "high"), 0.0)
    counts = {"n": 100, "only_plain": 0, "only_stronger": 0}
    at = Comparison(eps=0.1, plain=0.8, stronger=0.2, headline=0.2, left=left, **numbers, **counts)
    verdict = Verdict("attack too weak", ("it",), "linf", 1.0, (at,), at, 0.0, (), "audit-bridge")
    done = {
        "audit-bridge": result(attack("pgd", steps=11), on_surrogate=True),
        "audit-margin": result(attack("pgd", steps=12)),
        "audit-apgd": result(attack("APGD", library="torchattacks")),
    }
    audit = FullAudit(SimpleNamespace(spec=RUN), None, {}, (None, None), Progress())
    line = _Seed(audit, 3, [])._rerun("undefended", verdict, done)
    assert "inhouse:pgd(steps=12)" in line
    del done["audit-margin"]
    assert _Seed(audit, 3, [])._rerun("undefended", verdict, done) == ""
    fair = replace(verdict, beaten_by="")
    assert _Seed(audit, 3, [])._rerun("undefended", fair, done) == ""
