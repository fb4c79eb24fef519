"""``benchmark.evaluate``: the five lines, what they give, and what is said where they cannot."""

import json
import math
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import benchmark
from benchmark import Evaluation, UsageError
from benchmark.config.threat import reach
from benchmark.results import read_run
from benchmark.results.adversarial_images import FILE as IMAGES_FILE

N, SIDE = 40, 4
EPS = (0.0, 0.05, 0.1, 0.2)


class Brightness(nn.Module):
    """Class 1 from a mean of 0.5 on: in l-inf the nearest adversarial image is |mean - 0.5| off."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, x):
        above = self.scale * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-above, above], 1)


def grey(level):
    """Images (n, 1, SIDE, SIDE) of one level each, n levels."""
    return torch.as_tensor(level, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)


# Distances from the boundary of 0.01, 0.02, ..., each 0.005 away from every budget.
OFF = np.arange(1, N + 1) * 0.01 + 0.005
LEVELS = 0.5 + OFF * np.where(np.arange(N) % 2, 1, -1)
LABELS = (LEVELS > 0.5).astype(np.int64)


@pytest.fixture
def data():
    return grey(LEVELS).clone(), torch.from_numpy(LABELS)


def go(model, data, **options):
    return benchmark.evaluate(model, data, **{"eps": EPS, "verbose": False, **options})


def test_accuracies_are_the_closed_form(data):
    found = go(Brightness(), data, attacks="pgd", audit="off")
    expected = [float((eps < OFF).mean()) for eps in EPS]
    assert found.worst_case["robust_accuracy"].to_list() == pytest.approx(expected)
    assert found.table["robust_accuracy"].to_list() == pytest.approx(expected)
    assert found.clean_accuracy == 1
    assert found.accuracy(0.1) == pytest.approx(expected[2])
    assert (found.norm, found.eps, found.n, found.model) == ("linf", EPS, N, "Brightness")
    low, high = (found.worst_case[name] for name in ("ci_low", "ci_high"))
    assert ((low <= expected) & (expected <= high)).all()


def test_the_worst_case_is_per_image_over_all_attacks(data):
    found = go(Brightness(), data, attacks="pgd,fgsm", audit="off")
    fooled = found.samples.groupby(["eps", "sample_id"], observed=True)["success"].any()
    left = 1 - fooled.groupby(level="eps").mean()
    assert found.worst_case["robust_accuracy"].to_list() == pytest.approx(left.to_list())
    assert set(found.to_frame()["attack"]) == {"pgd", "fgsm", "worst case"}


def test_the_adversarial_images_fool_the_model_within_the_budget(data):
    model = Brightness()
    found = go(model, data, attacks="pgd,fgsm", audit="off")
    for eps in EPS[1:]:
        images = found.adversarial(eps)
        assert len(images) == (eps >= OFF).sum()
        x_adv = torch.from_numpy(images.images)
        assert (model(x_adv).argmax(1).numpy() == images.predictions).all()
        assert (images.predictions != images.labels).all()
        far = (x_adv - data[0][images.sample_ids]).abs().flatten(1).amax(1)
        assert far.max() <= reach(eps)
        assert far.numpy() == pytest.approx(images.distances, abs=1e-6)
    assert len(found.adversarial(0.0)) == 0
    assert found.adversarial(0.0).images.shape[1:] == (1, 4, 4)


def test_the_model_is_left_as_it_was(data):
    model = nn.Sequential(Brightness(), nn.Dropout(0.5)).train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    go(model, data, attacks="pgd", n=8)
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_nothing_stays_without_out(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = go(Brightness(), data, attacks="pgd", n=8)
    folder = found.run.path
    assert folder.exists()
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="name a folder"):
        found.report()
    del found
    assert not folder.exists()


def test_out_is_a_run_folder_that_goes_on(data, tmp_path, monkeypatch):
    first = go(Brightness(), data, attacks="pgd", n=8, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [first.run.run_id]
    run = read_run(tmp_path / first.run.run_id)
    assert run.spec.handed_over is not None
    assert run.spec.n_train == 0
    from benchmark.execution import runner

    monkeypatch.setattr(runner, "sweep", None)  # nothing is attacked again
    again = go(Brightness(), data, attacks="pgd", n=8, out=tmp_path)
    pd.testing.assert_frame_equal(first.samples, again.samples)
    pd.testing.assert_frame_equal(first.table, again.table)


def test_other_weights_images_and_settings_are_other_runs(data, tmp_path):
    brighter = Brightness()
    with torch.no_grad():
        brighter.scale.fill_(21.0)
    images, labels = data
    names = {
        go(
            model, given, **{"attacks": "pgd", "audit": "off", "n": 8, "out": tmp_path, **options}
        ).run.run_id
        for model, given, options in (
            (Brightness(), data, {}),
            (brighter, data, {}),
            (Brightness(), (images / 2 + 0.25, labels), {}),
            (Brightness(), data, {"eps": (0, 0.1)}),
            (Brightness(), data, {"seed": 1}),
            (Brightness(), data, {"n": 9}),
            (Brightness(), data, {"mean": 0.01, "std": 1.0}),
        )
    }
    assert len(names) == 7


def test_saved_and_loaded_it_says_the_same(data, tmp_path):
    found = go(Brightness(), data, attacks="pgd", n=12)
    path = found.save(tmp_path / "kept")
    loaded = Evaluation.load(path)
    assert repr(loaded) == repr(found)
    pd.testing.assert_frame_equal(loaded.samples, found.samples)
    assert np.array_equal(loaded.adversarial(0.1).images, found.adversarial(0.1).images)
    assert loaded.report().read_text("utf-8").startswith("<!doctype html>")
    with pytest.raises(UsageError, match="exists already"):
        found.save(path)


def test_a_function_is_asked_for_answers_only(data):
    model = Brightness()

    def scores(x):
        assert isinstance(x, np.ndarray)
        assert x.dtype == np.float32
        return model(torch.from_numpy(x)).detach().numpy()

    found = go(scores, data, n=6, eps=(0, 0.2))
    assert found.skipped["attack"].to_list() == ["standard"]
    assert "only scores can be had" in found.skipped["reason"][0]
    assert found.verdict.word == "undecided"
    assert "its gradient (only scores are given)" in found.verdict.reasons
    assert found.accuracy(0.2) < 1


def test_labels_alone_are_attacked_by_decisions(data):
    def labels(x):
        return (x.mean((1, 2, 3)) > 0.5).astype(np.int64)

    found = go(labels, data, n=8, eps=(0, 0.5))
    assert found.verdict.word == "undecided"
    assert "its gradient (only labels are given)" in found.verdict.reasons
    assert found.table["attack"].str.startswith("HopSkipJump").all()
    assert found.accuracy(0.5) < 1


def test_a_full_audit_judges(data, tmp_path):
    found = go(Brightness(), data, attacks="pgd", n=20, eps=(0, 0.1, 0.2), audit="full")
    assert found.verdict.level == "full"
    assert found.verdict.word == "attacked fairly"


def test_chance_is_said_with_its_likely_causes(data, capsys):
    images, labels = data
    benchmark.evaluate(
        Brightness(), (images, 1 - labels), attacks="pgd", n=20, eps=EPS, audit="off"
    )
    said = capsys.readouterr().err
    assert "accuracy without an attack is 0.000 on 20 images, no better than chance" in said
    assert "classes in another order" in said


def test_plain_data_for_json_hold_no_nan(data):
    found = go(lambda x: x.mean((1, 2, 3))[:, None] * [[-1.0, 1.0]], data, n=8, attacks="pgd")
    assert math.isnan(found.clean_accuracy)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["accuracy"] == []
    assert plain["skipped"][0]["attack"] == "pgd"
    assert "no attack gave a number" in repr(found)
    assert "no attack gave a number" in html(found)


def html(found):
    return found._repr_html_()


def test_the_notebook_sees_numbers_curve_and_verdict(data):
    found = go(Brightness(), data, attacks="pgd", name="<b>mine</b>")
    shown = html(found)
    assert "&lt;b&gt;mine&lt;/b&gt;" in shown
    assert "<b>mine" not in shown
    assert "<svg" in shown
    assert "95 % interval" in shown
    assert found.verdict.word in shown
    assert repr(found).splitlines()[-1] == f"verdict: {found.verdict}"


def test_damaged_or_several_models_are_refused(tmp_path):
    from fake_runs import fake_run

    with pytest.raises(UsageError, match="not a run folder"):
        Evaluation.load(tmp_path)
    with pytest.raises(UsageError, match="a run of several models"):
        Evaluation.load(fake_run(tmp_path / "run"))


WRONG = {
    "norm": ({"norm": "l7"}, "unknown norm"),
    "eps word": ({"eps": "a lot"}, "eps: 'a lot' is not a number, nor a fraction"),
    "eps zero": ({"eps": 0}, "give a budget above 0"),
    "eps negative": ({"eps": -1.0}, "eps"),
    "attack": ({"attacks": "pdg"}, "did you mean"),
    "other norm": ({"attacks": "pgd-l2"}, "is one in l2, and the evaluation is in linf"),
    "audit": ({"audit": "deep"}, "unknown audit level"),
    "argument": ({"resise": 4}, "did you mean 'resize'"),
    "log": ({"log": "tensorbord"}, "did you mean 'tensorboard'"),
    "n": ({"n": 0}, "at least 1"),
    "too many": ({"n": N + 1}, str(N)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_gets_one_line(name, data):
    options, line = WRONG[name]
    with pytest.raises(UsageError, match=line) as caught:
        go(Brightness(), data, **options)
    assert "\n" not in str(caught.value)


class Listener:
    """A tracker that remembers what it was told."""

    told: ClassVar[list[str]] = []

    def __getattr__(self, method):
        return lambda *words: self.told.append(method)


def test_trackers_are_told(data, tmp_path):
    listener = f"{__name__}:Listener"
    with pytest.raises(UsageError, match="name a folder with out="):
        go(Brightness(), data, attacks="pgd", n=4, log=listener)
    go(Brightness(), data, attacks="pgd", n=4, log=listener, out=tmp_path, audit="off")
    assert Listener.told[0] == "start"
    assert Listener.told.count("cell") == len(EPS)
    assert Listener.told[-1] == "finish"


def test_the_images_are_kept_beside_the_tables(data, tmp_path):
    found = go(Brightness(), data, attacks="pgd", n=8, out=tmp_path)
    path = found.run.path / IMAGES_FILE
    assert path.exists()
    path.write_bytes(b"damaged")
    again = go(Brightness(), data, attacks="pgd", n=8, out=tmp_path, audit="full")
    assert (found.run.path / f"{IMAGES_FILE}.damaged").exists()
    assert len(again.adversarial(0.2)) == 0
