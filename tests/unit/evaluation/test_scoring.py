"""One place attacks and judges: a fault is treated alike wherever an attack is run."""

from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch
from counting import Counting
from sweeps import outcomes
from toys import Function, Linear, Noisy, Scripted, dataset, pixels

from benchmark.audit.case import Case
from benchmark.audit.checks.outcomes import black_box
from benchmark.audit.transfer import AttackedModel, transfers
from benchmark.config.spec import AttackSpec, CodeMapSpec, DefenseSpec, RunSpec
from benchmark.config.threat import ThreatModel
from benchmark.crosscheck.compare import compare
from benchmark.datasets import DIGITS
from benchmark.errors import PluginError
from benchmark.evaluation import embedding_map as map_module
from benchmark.evaluation.embedding_map import embedding_map
from benchmark.evaluation.scoring import (
    LEFT_BALL,
    LEFT_BOX,
    CleanPredictions,
    ViewSettings,
    attack_batch,
    predict,
    search_batch,
)
from benchmark.execution.runner import run
from benchmark.progress import Progress
from benchmark.seeding import seeded

EPS = 0.1
# Label 1 above a half; within 0.1 only the second image falls.
X, Y = pixels(0.2, 0.45, 0.9), torch.tensor([0, 0, 1])
DATA = dataset(X, Y)


class Step(Linear):
    """One pixel, label 1 above a half; its embedding is the pixel, twice."""

    def __init__(self):
        super().__init__(torch.ones(1), b=-0.5)

    def embed(self, x):
        return torch.cat([x.flatten(1), x.flatten(1)], 1)


class BadLabels(Step):
    """Predicts a class that there is not, for any image that no test set holds."""

    def predict(self, x):
        clean = torch.isin((x * 255).round() / 255, DATA.x()).flatten(1).all(1)
        near = (x * 255 - (x * 255).round()).abs().flatten(1).amax(1) < 1e-3
        return torch.where(clean & near, super().predict(x), 7)


def leaves_the_ball(view, x, y, eps):
    return (x + 0.9 * (1 - 2 * y.view(-1, 1, 1, 1))).clamp(0, 1)


def in_place(view, x, y, eps):
    return x.add_(eps * (1 - 2 * y.view(-1, 1, 1, 1))).clamp_(0, 1)


def relabels(view, x, y, eps):
    y.fill_(1)
    return x.clone()


def switches_modes(view, x, y, eps):
    view.defense.training = True
    return x.clone()


def moves(view, x, y, eps):
    return (x + 0.9 * eps * (1 - 2 * y.view(-1, 1, 1, 1))).clamp(0, 1)


# --- every place that runs an attack: it returns the images' success, or raises


def by_batch(defense, script, monkeypatch):
    def search(view, x, y):
        return script(view, x, y, EPS)

    judged = attack_batch(defense, search, DATA.x(), Y, eps=EPS, norm="linf", n_classes=2)
    return judged.success.tolist()


def by_sweep(defense, script, monkeypatch):
    (found,) = outcomes(defense, Scripted(script=script), DATA, [EPS])
    return found.success.tolist()


def by_crosscheck(defense, script, monkeypatch):
    spec = AttackSpec("toy", ThreatModel("linf", (EPS,)), 3, library="it")
    attacks = {"it": Scripted(script=script)}
    found = compare(
        defense, [spec], DATA, seed_at=lambda _: 0, progress=Progress(), attacks=attacks
    )
    if found.failures:
        raise PluginError(found.failures["it"][0])
    return found.tables["samples"]["success"].tolist()


def by_embedding_map(defense, script, monkeypatch):
    monkeypatch.setattr(map_module, "load_attack", lambda spec: Scripted(script=script))
    spec = AttackSpec("toy", ThreatModel("linf", (EPS,)), 3)
    points = embedding_map(defense, spec, DATA, name="step", seed=0)
    attacked = points[points["condition"] == "attacked"]
    return (attacked["pred"] != attacked["label"]).tolist()


def subject(defense):
    correct = torch.ones(3, dtype=torch.bool)
    return Case(defense, "toy", 0, DATA.x(), Y, correct, DATA.images)


def by_black_box(defense, script, monkeypatch):
    from benchmark.attacks.peers import torchattacks
    from benchmark.audit.checks import outcomes as checks

    def named(_):
        return lambda *, norm, n_queries: Scripted(norm=norm, script=script)

    monkeypatch.setattr(torchattacks, "named", named)
    asked = subject(defense)
    everything = torch.ones(3, dtype=torch.bool)
    asked.measured[checks.budget] = checks.Budget("linf", EPS, everything, "pgd", "inhouse")
    return black_box(asked).value * 3  # images that fell


PLACES = {
    "batch": by_batch,
    "sweep": by_sweep,
    "crosscheck": by_crosscheck,
    "embedding map": by_embedding_map,
    "black box": by_black_box,
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_an_image_outside_the_ball_is_projected_before_it_counts(place, monkeypatch):
    # As returned all three images would be misclassified.
    found = place(Step(), leaves_the_ball, monkeypatch)
    assert found in ([False, True, False], pytest.approx(1))


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("script", [in_place, relabels], ids=["images", "labels"])
def test_an_attack_that_changes_what_it_was_given_is_refused(place, script, monkeypatch):
    before = DATA.images.clone(), Y.clone()
    with pytest.raises(PluginError, match="changed the images or labels that it was given"):
        place(Step(), script, monkeypatch)
    assert torch.equal(DATA.images, before[0])
    assert torch.equal(Y, before[1])


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_an_attack_that_switches_the_models_mode_is_refused(place, monkeypatch):
    with pytest.raises(PluginError, match="between training and evaluation mode"):
        place(Step(), switches_modes, monkeypatch)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_labels_that_no_class_has_are_refused(place, monkeypatch):
    with pytest.raises(PluginError, match="predict returned labels from"):
        place(BadLabels(), moves, monkeypatch)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_logits_that_are_not_finite_are_refused(place, monkeypatch):
    def asks(view, x, y, eps):
        view.logits(moves(view, x, y, eps))
        return x.clone()

    class Breaks(Step):
        def forward(self, x):
            asked = (x * 255 - (x * 255).round()).abs().flatten(1).amax(1) > 1e-3
            return torch.where(asked[:, None], torch.nan, super().forward(x))

    with pytest.raises(PluginError, match="logits that are not finite"):
        place(Breaks(), asks, monkeypatch)


def test_transfer_holds_its_sources_and_targets_to_the_same_rules():
    def row(source, target):
        models = [AttackedModel("source", source)], [AttackedModel("target", target)]
        threat = ThreatModel("linf", (EPS,))
        options = {"seed_at": lambda name, eps: 0, "progress": Progress(), "steps": 2}
        return list(transfers(*models, DATA, threat, **options))

    assert row(Step(), Step())[0].curve.success.tolist() == [[False, True, False]]
    with pytest.raises(PluginError, match="predict returned labels from"):
        row(Step(), BadLabels())
    # The square root's gradient is no number at 0, and neither is the value below it.
    broken = Function(lambda x: torch.cat([0 * x.flatten(1), (x - 0.46).sqrt().flatten(1)], 1))
    with pytest.raises(PluginError, match="logits that are not finite"):
        row(broken, Step())


# --- the batch itself


def test_what_a_batch_tells():
    def search(view, x, y):
        view.gradient(x, y, lambda logits, _: logits[:, 1])
        return torch.cat([x[:1] - 0.5, x[1:] + 0.2])

    judged = attack_batch(
        *(Step(), search, DATA.x(), Y),
        eps=EPS,
        norm="linf",
        n_classes=2,
        settings=ViewSettings(eot=2),
    )
    assert judged.success.tolist() == [False, True, False]
    assert judged.pred.tolist() == [0, 1, 1]
    assert judged.distance.tolist() == pytest.approx([EPS, EPS, 1 - 230 / 255], rel=1e-5)
    assert judged.distance.dtype == torch.float64
    assert judged.forwards.tolist() == judged.backwards.tolist() == [2, 2, 2]
    assert [(v.what, v.count) for v in judged.violations] == [(LEFT_BOX, 2), (LEFT_BALL, 2)]
    assert judged.dtype == torch.float32
    found = search_batch(Step(), search, DATA.x(), Y, eps=EPS, norm="linf")
    assert torch.equal(found.x_adv, judged.x_adv)


def test_an_infinite_eps_bounds_nothing():
    def search(view, x, y):
        return 1 - x

    judged = attack_batch(Step(), search, DATA.x(), Y, eps=torch.inf, norm="l2", n_classes=2)
    assert judged.success.all()
    assert judged.violations == ()


# --- clean predictions


@dataclass
class Asked:
    """Counts the images that a defense was asked to predict."""

    images: int = 0


def counting(cls, *args):
    """An instance of ``cls`` and what counts the images that it predicts."""
    asked = Asked()

    class Counted(cls):
        def predict(self, x):
            asked.images += len(x)
            return super().predict(x)

    return Counted(*args), asked


def test_clean_predictions_are_asked_once_for_each_set_of_images():
    model, asked = counting(Step)
    clean = CleanPredictions(model)
    for _ in range(3):
        assert clean.of(DATA).tolist() == predict(Step(), DATA).tolist()
        assert clean.of(DATA.head(2)).tolist() == [0, 0]
    assert asked.images == 3 + 2
    clean.of(DATA).fill_(5)  # what is kept is out of the caller's reach
    assert clean.of(DATA).tolist() == [0, 0, 1]


def test_a_random_defense_is_asked_again_under_the_callers_seed():
    class Coin(Noisy):
        def predict(self, x):
            return torch.randint(2, (len(x),))

    data = dataset(pixels(*[0.2] * 40), torch.zeros(40).long())
    clean = CleanPredictions(Coin(torch.ones(1), [0.0]))

    def draw(seed):
        with seeded(seed):
            return clean.of(data).tolist()

    assert draw(1) == draw(1) != draw(2)


def test_undeclared_noise_does_not_depend_on_who_asks_first():
    class Secret(Step):
        def predict(self, x):
            return torch.randint(2, (len(x),))

    data = dataset(pixels(*[0.2] * 40), torch.zeros(40).long())
    found = []
    for seed in (1, 2):
        with seeded(seed):
            found.append(CleanPredictions(Secret()).of(data).tolist())
    assert found[0] == found[1]


def test_a_run_asks_a_deterministic_model_for_its_clean_predictions_once(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    threat = ThreatModel("linf", (0.05, 0.1))
    pgd = AttackSpec("pgd", threat, 20, params={"steps": 2})
    attacks = (pgd, replace(pgd, name="again"), replace(pgd, name="fgsm", type="fgsm", params={}))
    once = replace(pgd, threat=ThreatModel("linf", (0.1,)))
    spec = RunSpec(
        dataset="digits",
        preset="smoke",
        defenses=(DefenseSpec("counting:Counting"),),
        attacks=attacks,
        seeds=(0,),
        device="cpu",
        n_train=60,
        n_test=20,
        code_map=CodeMapSpec(("counting:Counting",), once),
    )
    Counting.asked.clear()
    found = run(spec, out=tmp_path, command="test", progress=Progress())
    assert found.n_failed == 0
    assert len(pd.read_parquet(found.path / "codes.parquet")) == 40
    clean = DIGITS.load("test", n=20).x().numpy().tobytes()
    # Three sweeps, the audit and the map of embeddings look at these images.
    assert Counting.asked[clean] == 1
