"""A wrong plugin costs its own cells, with a reason on one line; every other stays as it is."""

import os
import sys
import threading
import warnings
from dataclasses import replace

import pandas as pd
import pytest
import torch
from plugin_runs import EPS, HONEST, SPEC, TINY, attack, go, own
from toys import Tiny
from wrong_plugins import Brightness

from baselines.rse import Noise
from benchmark.attacks.loader import load_attack
from benchmark.config.spec import DefenseSpec
from benchmark.datasets import DIGITS
from benchmark.errors import PluginError, UsageError
from benchmark.execution.plan import plan
from benchmark.models.contract import check_answers
from benchmark.models.loader import load_defense
from benchmark.models.model_copy import Kept
from benchmark.registry import DEFENSES as DEFENSES_INSTALLED
from benchmark.results import read_run
from benchmark.results.audit_tables import read_audit

pytestmark = pytest.mark.usefixtures("own_cache")

DEFENSES = {
    "ExitsInInit": "training failed: the plugin raised SystemExit: 3; it must not end the process",
    "ExitsInFit": "training failed: the plugin raised SystemExit: no message",
    "RaisesItsOwn": "training failed: the plugin raised Stop: enough",
    "RaisesInFit": "training failed: RuntimeError: first line",
    "RaisesWhatCannotBeShown": "training failed: MuteError: no message",
    "RaisesAtLength": "training failed: ValueError: [31mno end end",
    "RecursesInFit": "training failed: RecursionError: maximum recursion depth exceeded",
    "HangsInFit": "training failed: took longer than 0.01 s (--time-limit)",
    "ReturnsNoLog": "training failed: fit returned a dict; it must return a TrainingLog",
    "SpoilsTheData": "training failed: fit changed the dataset's images or labels",
    "RaisesInMeasure": "training failed: RuntimeError: no measure",
    "MeasuresATensor": "training failed: measure must return plain values for JSON",
    "SpoilsTheTestImages": "training failed: measure or embed changed the dataset's images",
    "RaisesInEmbed": "training failed: RuntimeError: no codes",
    "RaisesInForward": "check failed: RuntimeError: no forward",
    "RaisesInPredict": "check failed: RuntimeError: no label",
    "WarnsAsAnError": "check failed: DeprecationWarning: old",
    "WrongShape": "check failed: forward returned torch.float32 of shape (20, 9) for 20 images",
    "NoTensor": "check failed: forward returned a list for 20 images",
    "Complex": "check failed: forward returned torch.complex64 logits; they must be real numbers",
    "NotANumber": "check failed: forward returned logits that are not finite (NaN or infinite)"
    " for 1 of 20 clean images",
    "Infinite": "check failed: forward returned logits that are not finite",
    "FloatLabels": "check failed: predict returned torch.float32 of shape (2,)",
    "LabelsOfItsOwn": "check failed: predict returned labels from 1",
    "TooFewLabels": "check failed: predict returned torch.int64 of shape (1,) for 2 images",
    "ChangesItsWeights": "check failed: forward changed weights or buffers of the model"
    " (net.1.weight)",
    "ChangesItsBuffers": "check failed: forward changed weights or buffers of the model (seen)",
    "GrowsAParameter": "check failed: forward changed weights or buffers of the model (extra)",
    "ChangesItsInput": "check failed: forward changed its input in place",
    "TrainsOn": "check failed: forward switched the model, net, net.0 and 2 more between training",
    "StopsGradients": "check failed: forward changed whether gradients are recorded",
    "SetsTheDefaultDtype": "check failed: forward changed torch's default dtype",
    "SetsThreads": "check failed: forward changed the number of threads",
    "Seeds": "check failed: forward seeds the global generator of torch",
    "SeedsOthers": "check failed: forward seeds the global generator of numpy.random, random",
    "HangsInForward": "training failed: took longer than 0.01 s (--time-limit)",
}


OTHER_FORMS = {
    "Half": "forward returns float16: attacked in float32",
    "Coarse": "forward returns bfloat16: attacked in float32",
    "Double": "forward returns float64: attacked in float32",
    "Probabilities": "forward returns probabilities: attacked through their logarithm",
    "OneHot": "forward returns one-hot labels: there is no gradient to follow",
    "StraightThrough": "forward returns one-hot labels: attacked through the gradient they pass",
}


UNDER_ATTACK = {
    "WearsOut": "the attack, or forward under attack, changed weights or buffers",
    "BreaksUnderAttack": "forward returned logits that are not finite (NaN or infinite)",
}


ATTACKS = {
    "RaisesInRun": "RuntimeError: out of luck",
    "ExitsInRun": "the plugin raised SystemExit: bye",
    "HangsInRun": "took longer than 0.01 s (--time-limit)",
    "HangsForAllEps": "took longer than 0.01 s (--time-limit)",
    "ReturnsNothing": "the attack returned a NoneType; it must return images",
    "ReturnsFewer": "the attack returned shape (1, 1, 28, 28) for (",
    "ReturnsBytes": "the attack returned torch.uint8; it must return images",
    "ReturnsNoNumber": "the attack returned NaN or infinity for all ",
    "MovesTheCleanImages": "the attack changed the images or labels that it was given",
    "Relabels": "the attack changed the images or labels that it was given",
    "ChangesTheModel": "the attack, or forward under attack, changed weights or buffers",
    "SwitchesToTraining": "switched the model, net, net.0 and 1 more between training",
    "SwitchesGradientsOff": "changed whether gradients are recorded (True before, False now)",
    "TakesTheThreads": "changed the number of threads",
    "RaisesWhenBuilt": "RuntimeError: no such device",
}


DATA = DIGITS.load("test", n=20)


def ambient() -> tuple[object, ...]:
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        os.getcwd(),  # noqa: PTH109
        list(warnings.filters),
        threading.active_count(),
    )


@pytest.fixture(scope="module")
def by_defense(tmp_path_factory, untouched):  # after it, which imports what it needs
    names = [*DEFENSES, *UNDER_ATTACK, *OTHER_FORMS, "LeavesTheFolder"]
    wrong = tuple(DefenseSpec(f"wrong_plugins:{name}") for name in names)
    before = ambient()
    result = go(replace(SPEC, defenses=(*wrong, TINY)), tmp_path_factory.mktemp("defenses"))
    assert ambient() == before
    return read_run(result.path)


@pytest.mark.parametrize("name", DEFENSES)
def test_a_wrong_defense_fails_its_own_cells(by_defense, name):
    cells = own(by_defense.cells, defense=f"wrong_plugins:{name}")
    assert cells["eps"].tolist() == list(EPS)
    assert set(cells["status"]) == {"failed"}
    (reason,) = set(cells["reason"])
    assert reason.startswith(DEFENSES[name])
    assert reason.isprintable()
    assert len(reason) <= 320
    assert cells[["clean_accuracy", "robust_accuracy", "ci_low", "ci_high"]].isna().all(axis=None)


@pytest.mark.parametrize("name", UNDER_ATTACK)
def test_a_defense_that_breaks_under_attack_fails_there(by_defense, name):
    cells = own(by_defense.cells, defense=f"wrong_plugins:{name}")
    failed = cells[cells["status"] == "failed"]
    assert failed["eps"].tolist() == list(EPS[1:])  # at eps 0 there is nothing to search
    assert failed["reason"].str.startswith(UNDER_ATTACK[name]).all()


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_answers_in_another_form_are_attacked_and_the_cells_say_so(by_defense, name):
    cells = own(by_defense.cells, defense=f"wrong_plugins:{name}")
    assert set(cells["status"]) == {"ok"}
    assert cells["reason"].str.contains(OTHER_FORMS[name], regex=False).all()
    audit = read_audit(by_defense.path)
    assert f"wrong_plugins:{name}" in set(audit.verdicts["defense"])


def test_no_wrong_defense_changes_an_honest_cell(by_defense, untouched):
    honest = own(by_defense.cells, defense="toys:Tiny")
    pd.testing.assert_frame_equal(honest, untouched)
    assert set(by_defense.cells["defense"]) - {"toys:Tiny"} == {
        f"wrong_plugins:{name}"
        for name in (*DEFENSES, *UNDER_ATTACK, *OTHER_FORMS, "LeavesTheFolder")
    }


def test_settings_that_fit_changes_are_taken_back(by_defense):
    cells = own(by_defense.cells, defense="wrong_plugins:LeavesTheFolder")
    assert set(cells["status"]) == {"ok"}


def test_failed_training_keeps_its_traceback(by_defense):
    (kept,) = (by_defense.path / "errors").glob("*raisesinfit*training*")
    assert "second line" in kept.read_text("utf-8")


@pytest.fixture(scope="module")
def by_attack(tmp_path_factory, untouched):
    wrong = tuple(attack(name, f"wrong_plugins:{name}") for name in (*ATTACKS, "Nothing"))
    before = ambient()
    result = go(replace(SPEC, attacks=(*wrong, HONEST)), tmp_path_factory.mktemp("attacks"))
    assert ambient() == before
    return result.cells


@pytest.mark.parametrize("name", ATTACKS)
def test_a_wrong_attack_fails_its_own_cells(by_attack, name):
    cells = own(by_attack, attack=name)
    failed = cells[cells["status"] == "failed"]
    # At eps 0 there is nothing to search, unless one search serves all.
    searched_once = name in ("HangsForAllEps", "RaisesWhenBuilt")
    assert failed["eps"].tolist() == list(EPS if searched_once else EPS[1:])
    assert failed["reason"].str.contains(ATTACKS[name], regex=False).all()
    assert failed[["clean_accuracy", "robust_accuracy"]].isna().all(axis=None)


def test_no_wrong_attack_changes_an_honest_cell(by_attack, untouched):
    pd.testing.assert_frame_equal(own(by_attack, attack="honest"), untouched)
    assert set(own(by_attack, attack="Nothing")["status"]) == {"ok"}


def test_a_model_is_set_back_whatever_was_done_to_it():
    model = Tiny(DATA.info).eval()
    kept, weights = Kept.of(model), model.net[1].weight
    before = weights.detach().clone()
    weights.data = torch.zeros(3)
    model.net[1].weight.requires_grad_(False)
    model.net.add_module("more", torch.nn.ReLU())
    model.net[1].bias = torch.nn.Parameter(torch.ones(10))
    model.train()
    with pytest.raises(PluginError, match="between training and evaluation mode"):
        kept.check("it", {})
    kept.restore()
    kept.check("it", {})
    assert model.net[1].weight is weights
    assert torch.equal(weights, before)
    assert weights.requires_grad
    assert len(model.net) == 2


def test_honest_models_pass_and_leave_no_trace():
    """Among them a noisy one, which draws and seeds nothing, and one that keeps its dropout on."""
    noisy = Brightness(DATA.info).eval()
    noisy.net.extend([Noise(0.1), torch.nn.Dropout(0.1).train()])
    noisy.stochastic = True
    untrained = Brightness(DATA.info).eval()
    untrained.seen.fill_(torch.nan)  # NaN is not another NaN's change
    honest = noisy, untrained, Tiny(DATA.info).eval()
    state = torch.get_rng_state()
    for model in honest:
        before = Kept.of(model)
        check_answers(model, DATA, 0)
        before.check("it", {})
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", DEFENSES_INSTALLED.names())
def test_own_defenses_pass(name):
    (spec,) = plan(dataset="digits", preset="smoke", device="cpu", defenses=[name]).defenses
    params = {key: value for key, value in spec.params.items() if key != "training"}
    few = {"rec_steps": 2, "rec_restarts": 1} if name == "defense-gan" else {}
    model = load_defense(name)(DATA.info, **{**params, **few}).eval()
    check_answers(model, DATA, 0)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no accelerator')", "RuntimeError: no accelerator"),
        ("import sys\nsys.exit(0)", "the plugin raised SystemExit: 0"),
        ("def f(): f()\nf()", "RecursionError"),
        ("x = (", "SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_fails_its_own_cells(
    tmp_path, monkeypatch, source, reason
):
    (tmp_path / "unimportable.py").write_text(source, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "unimportable", raising=False)
    spec = plan(
        dataset="digits",
        preset="smoke",
        device="cpu",
        defenses=["unimportable:Defense", "toys:Tiny"],
        attacks=["unimportable.Attack".replace(".", ":"), "fgsm"],
        eps=[0.0, 0.1],
        n_train=60,
        n_test=20,
    )
    cells = go(replace(spec, code_map=None), tmp_path).cells
    ok = (cells["defense"] == "toys:Tiny") & (cells["attack"] == "fgsm")
    assert ok.sum() == 2
    assert set(cells.loc[ok, "status"]) == {"ok"}
    assert set(cells.loc[~ok, "status"]) == {"failed"}
    assert cells.loc[~ok, "reason"].str.contains(reason, regex=False).all()


def test_what_is_no_attack_is_refused():
    with pytest.raises(UsageError, match=r"no subclass of benchmark\.BudgetAttack"):
        load_attack(attack("x", "wrong_plugins:Brightness"))


def test_an_attack_that_cannot_be_built_fails_its_own_cells():
    asked = {"dataset": "digits", "preset": "smoke", "device": "cpu", "defenses": ["toys:Tiny"]}
    spec = plan(**asked, attacks=["wrong_plugins:RaisesWhenBuilt", "pgd"])
    assert [a.name for a in spec.attacks] == ["wrong_plugins:RaisesWhenBuilt", "pgd"]
