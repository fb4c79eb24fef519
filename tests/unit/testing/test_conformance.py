"""The conformance suite holds for everything registered, and catches what breaks its rules."""

import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.attacks.base import BudgetAttack, MinimalAttack
from benchmark.attacks.pgd import PGD
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.datasets.info import DatasetInfo
from benchmark.evaluation.sweep import sweep
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.registry import ATTACKS, DEFENSES
from benchmark.testing import (
    COLOUR,
    GREY,
    ConformanceWarning,
    check_attack,
    check_defense,
    tiny_dataset,
)
from benchmark.training import TrainingLog

LARGE = DatasetInfo("tiny-large", (3, 96, 96), 10, tuple("0123456789"), augment=True)

EVERY_DEFENSE = pytest.mark.parametrize("name", DEFENSES.names())
EVERY_ATTACK = pytest.mark.parametrize("name", ATTACKS.names())


# --- what is registered ----------------------------------------------------------------------


@EVERY_DEFENSE
@pytest.mark.parametrize("info", [GREY, COLOUR, LARGE], ids=lambda info: info.name)
def test_registered_defenses_conform(name: str, info: DatasetInfo) -> None:
    # As published, Defense-GAN takes 2,000 passes of its generator per image.
    quick = {"gan_epochs": 2, "rec_steps": 5, "rec_restarts": 2} if name == "defense-gan" else {}
    assert check_defense(DEFENSES.load(name), info, **quick) == []


FEW: Mapping[str, int] = {"n_queries": 300, "n_targets": 2}
"""The rules do not depend on how long an attack searches."""

LONG = ("apgd", "ddn", "fmn", "alma", "sigma-zero")


@EVERY_ATTACK
def test_registered_attacks_conform(name: str) -> None:
    cls = ATTACKS.load(name)
    # Where the default is 0 there are no targets at all.
    few = {key: n for key, n in FEW.items() if getattr(cls(), key, 0)}
    if name.startswith(LONG):
        few["steps"] = 15
    assert check_attack(cls(**few)) == []


@pytest.mark.parametrize(
    "attack",
    [
        PGD(norm="l2", steps=10),
        PGD(steps=1),
        PGD(steps=1, norm="l2"),
        PGD(random_start=False),
        PGD(steps=10, restarts=3, early_stop=False),
        PGD(step_size=0.01),
    ],
    ids=str,
)
def test_pgd_conforms_in_every_setting(attack: PGD) -> None:
    assert check_attack(attack) == []


def test_training_that_is_checked_leaves_no_trace() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    check_defense(Good)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


# --- defenses that break a rule --------------------------------------------------------------


class Good(Defense):
    """A linear model that one exact step trains: what the broken ones are derived from."""

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__(info)
        self.linear = nn.Linear(int(np.prod(info.shape)), info.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))

    def fit(self, data, *, seed, progress) -> TrainingLog:
        loss = nn.functional.cross_entropy(Good.forward(self, data.x()), data.labels)
        weight, bias = self.linear.weight, self.linear.bias
        gradients = torch.autograd.grad(loss, (weight, bias))
        with torch.no_grad():
            weight -= 0.01 * gradients[0]
            bias -= 0.01 * gradients[1]
        return TrainingLog([{"epoch": 1, "loss": loss.item()}], 0.0)


class WrongShape(Good):
    def forward(self, x):
        return super().forward(x)[:, :5]


class WrongDtype(Good):
    def forward(self, x):
        return super().forward(x).double()


class NotFinite(Good):
    def forward(self, x):
        return super().forward(x) / x.flatten(1).sum(1, keepdim=True)  # 0 / 0 on a black image


class Squeezed(Good):
    def forward(self, x):
        return super().forward(x).squeeze(0)


class Noisy(Good):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))


class OwnNoise(Good):
    """Keeps its generator, which the harness finds and seeds."""

    stochastic = True

    def __init__(self, info):
        super().__init__(info)
        self.rng = torch.Generator().manual_seed(0)

    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn(x.shape, generator=self.rng))


NOBODYS = torch.Generator()


class HiddenNoise(Good):
    """Draws from a generator where nobody finds it."""

    stochastic = True

    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn(x.shape, generator=NOBODYS))


class NoisyVotes(Good):
    def predict(self, x):
        return torch.randint(10, (len(x),))


class BatchDependent(Good):
    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True))


class CountsCalls(Good):
    def __init__(self, info):
        super().__init__(info)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if not self.training:
            self.calls += 1
        return super().forward(x)


class SwitchesMode(Good):
    def forward(self, x):
        self.train()
        return super().forward(x)


class InPlace(Good):
    def forward(self, x):
        if not x.requires_grad:
            x.mul_(0.5)
        return super().forward(x)


class ProbabilityLabels(Good):
    def predict(self, x):
        return self(x).softmax(1)


class Int32Labels(Good):
    def predict(self, x):
        return super().predict(x).int()


class LabelsFromOne(Good):
    def predict(self, x):
        return torch.full((len(x),), 10)


class Detached(Good):
    def forward(self, x):
        return super().forward(x).detach()


class Quantised(Good):
    def forward(self, x):
        return super().forward((x * 4).round() / 4)


class BadSurrogate(Good):
    def surrogate(self, x):
        return super().surrogate(x).sum(1)


class FlatEmbeddings(Good):
    def embed(self, x):
        return x.flatten()


class HiddenState(Good):
    scale = 1.0

    def forward(self, x):
        return super().forward(x) * self.scale

    def fit(self, data, *, seed, progress):
        log = super().fit(data, seed=seed, progress=progress)
        self.scale = 3.0
        return log


class ExtraState(Good):
    def get_extra_state(self):
        return {"scale": 3.0}

    def set_extra_state(self, state):
        pass


class GrowingState(Good):
    """A state whose shape fit decides cannot be loaded into a new instance."""

    def __init__(self, info):
        super().__init__(info)
        self.register_buffer("seen", torch.zeros(0))

    def fit(self, data, *, seed, progress):
        self.seen = torch.ones(len(data))
        return super().fit(data, seed=seed, progress=progress)


class NoLog(Good):
    def fit(self, data, *, seed, progress):
        super().fit(data, seed=seed, progress=progress)


class Diverges(Good):
    def fit(self, data, *, seed, progress):
        self.linear.bias.data[0] = torch.inf
        return TrainingLog()


class Freezes(Good):
    def fit(self, data, *, seed, progress):
        self.requires_grad_(False)
        return TrainingLog()


class SeedsGlobally(Good):
    def fit(self, data, *, seed, progress):
        torch.manual_seed(seed)
        return super().fit(data, seed=seed, progress=progress)


class DrawsFromNumpy(Good):
    def fit(self, data, *, seed, progress):
        np.random.rand()
        return super().fit(data, seed=seed, progress=progress)


class IgnoresSeed(Good):
    trained = 0

    def fit(self, data, *, seed, progress):
        IgnoresSeed.trained += 1
        self.linear.bias.data += IgnoresSeed.trained
        return TrainingLog()


class SpoilsData(Good):
    def fit(self, data, *, seed, progress):
        data.images.zero_()
        return TrainingLog()


@pytest.mark.parametrize(
    ("cls", "rule"),
    [
        (nn.Linear, "not a subclass of benchmark.Defense"),
        (WrongShape, r"logits of shape \(8, 10\), got torch.float32 of shape \(8, 5\)"),
        (WrongDtype, "forward must return float32, got torch.float64"),
        (NotFinite, "a logit that is not finite"),
        (Squeezed, r"forward of one image must return logits of shape \(1, 10\)"),
        (Noisy, "set stochastic = True"),
        (HiddenNoise, "must draw its noise from torch's global generator"),
        (NoisyVotes, "predict differs between two calls"),
        (BatchDependent, "depend on the other images of its batch"),
        (CountsCalls, "in evaluation mode must not change calls"),
        (SwitchesMode, "stay in evaluation mode"),
        (InPlace, "forward must not modify its input"),
        (ProbabilityLabels, r"predict must return labels of shape \(8,\)"),
        (Int32Labels, "predict must return int64, got torch.int32"),
        (LabelsFromOne, "predict must return labels from 0 to 9"),
        (Detached, "surrogate must be differentiable"),
        (Quantised, "attacks would be blind"),
        (BadSurrogate, "surrogate must return logits of shape"),
        (FlatEmbeddings, r"embed must return None or embeddings of shape \(8, k\)"),
        (HiddenState, "what fit learns must be parameters or buffers"),
        (ExtraState, "the state dict's _extra_state is not a tensor"),
        (GrowingState, "its state dict cannot be kept: .*size mismatch for seen"),
        (NoLog, "fit must return a TrainingLog, got a NoneType"),
        (Diverges, "after fit, linear.bias is not finite"),
        (Freezes, "requires_grad as it was; changed: linear.weight, linear.bias"),
        (SeedsGlobally, "fit changed the global random state of torch"),
        (DrawsFromNumpy, "fit changed the global random state of numpy.random"),
        (IgnoresSeed, "fit must depend on its seed alone; linear.bias differs"),
        (SpoilsData, "fit changed the training images"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_defense_is_caught(cls: type[Defense], rule: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){rule}") as caught:
        check_defense(cls)
    assert cls is nn.Linear or str(caught.value).startswith(f"{cls.__name__}: ")


def test_a_generator_that_the_defense_keeps_is_seeded():
    check_defense(OwnNoise)


def test_good_defense_passes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_defense(Good) == []
        assert check_defense(Good, COLOUR) == []


def test_honest_noise_passes() -> None:
    class HonestNoise(Noisy):
        stochastic = True

    assert check_defense(HonestNoise) == []


def test_clamping_is_a_finding_where_it_hides_gradients() -> None:
    class Clamps(Good):
        def forward(self, x):
            return super().forward(x.clamp(0, 1))

    edge = torch.ones(1, requires_grad=True)
    edge.clamp(0, 1).sum().backward()
    if edge.grad:
        pytest.skip("this release of torch passes the gradient at clamp's bounds")
    with pytest.warns(ConformanceWarning, match="clamps its input"):
        assert len(check_defense(Clamps)) == 1


def test_surrogate_of_its_own_is_accepted_and_asks_for_bpda() -> None:
    class QuantisedWithSurrogate(Quantised):
        def surrogate(self, x):
            return Good.forward(self, x)

    with pytest.warns(ConformanceWarning, match="differentiable = False"):
        assert len(check_defense(QuantisedWithSurrogate)) == 1


def test_harness_hands_no_plugin_an_empty_batch() -> None:
    class CountsBatches(Good):
        sizes: ClassVar[list[int]] = []

        def forward(self, x):
            self.sizes.append(len(x))
            return super().forward(x)

    defense = CountsBatches(GREY).eval()
    data = tiny_dataset(GREY, 8)
    data.labels.copy_((defense.predict(data.x()) + 1) % 10)  # every image has fallen already
    spec = AttackSpec("pgd", ThreatModel("linf", (0.0, 0.1, 0.2)), n=8)
    outcomes = list(sweep(defense, PGD(), spec, data, seed_at=lambda eps: 0, progress=Progress()))
    assert [bool(outcome.success.all()) for outcome in outcomes] == [True] * 3
    assert min(defense.sizes) > 0


# --- attacks that break a rule ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Start(BudgetAttack):
    """PGD, with a step after it that breaks something."""

    def run(self, view, x, y, *, eps, generator):
        found = PGD(norm=self.norm, steps=10).run(view, x, y, eps=eps, generator=generator)
        return self.spoil(view, x, y, found, eps)

    def spoil(self, view, x, y, found, eps):
        return found


class LeavesBall(Start):
    def spoil(self, view, x, y, found, eps):
        return (found + 0.001).clamp(0, 1)


class LeavesBox(Start):
    def spoil(self, view, x, y, found, eps):
        return torch.where(x == 0, -1e-7, found)


class IgnoresEpsPerSample(Start):
    def run(self, view, x, y, *, eps, generator):
        eps = float(torch.as_tensor(eps).max())
        return super().run(view, x, y, eps=eps, generator=generator)


class Doubles(Start):
    def spoil(self, view, x, y, found, eps):
        return found.double()


class Flattens(Start):
    def spoil(self, view, x, y, found, eps):
        return found.flatten(1)


class OneOnly(Start):
    def spoil(self, view, x, y, found, eps):
        return found.squeeze(0)


class NoNumber(Start):
    def spoil(self, view, x, y, found, eps):
        return found * torch.nan


class WritesImages(Start):
    def spoil(self, view, x, y, found, eps):
        x.copy_(found)
        return found


class WritesLabels(Start):
    def spoil(self, view, x, y, found, eps):
        y.zero_()
        return found


class MovesWeights(Start):
    def spoil(self, view, x, y, found, eps):
        view.defense.weight.data.mul_(1.1)
        return found


class LeavesGradients(Start):
    def spoil(self, view, x, y, found, eps):
        view.defense.requires_grad_(True)
        view.defense(x).sum().backward()
        return found


class TrainsModel(Start):
    def spoil(self, view, x, y, found, eps):
        view.defense.train()
        return found


class Descends(Start):
    def run(self, view, x, y, *, eps, generator):
        _, _, gradient = view.gradient(x, y, lambda z, t: nn.functional.cross_entropy(z, t))
        eps = torch.as_tensor(eps, dtype=x.dtype).expand(len(x)).view(-1, 1, 1, 1)
        return (x - eps * gradient.sign()).clamp(0, 1)


class DoesNothing(Start):
    def run(self, view, x, y, *, eps, generator):
        return x.clone()


class OwnRandomness(Start):
    rng: ClassVar[torch.Generator] = torch.Generator().manual_seed(0)

    def spoil(self, view, x, y, found, eps):
        return x + (found - x) * (1 - 1e-3 * torch.rand((), generator=self.rng))


@dataclass(frozen=True, kw_only=True)
class LineSearch(MinimalAttack):
    """Follows one gradient as far as it takes."""

    def run(self, view, x, y, *, generator):
        _, logits, gradient = view.gradient(x, y, nn.CrossEntropyLoss(reduction="none"))
        best, done = x.clone(), logits.argmax(1) != y
        for step in torch.linspace(0, 1, 50)[1:]:
            there = (x + step * gradient.sign()).clamp(0, 1)
            fell = ~done & (view.logits(there).argmax(1) != y)
            best[fell] = there[fell]
            done |= fell
        return best


class BlackOnWrong(LineSearch):
    def run(self, view, x, y, *, generator):
        found = super().run(view, x, y, generator=generator)
        wrong = view.logits(x).argmax(1) != y
        right_again = (2 * view.defense.weight[y]).sign().view_as(x).clamp(0, 1)
        return torch.where(wrong.view(-1, 1, 1, 1), right_again, found)


@pytest.mark.parametrize(
    ("attack", "rule"),
    [
        (object(), "must be a BudgetAttack or a MinimalAttack"),
        (PGD(norm="l3"), "norm must be one of"),
        (LeavesBall(), "stay in the ball: distance 0.001 more than eps"),
        (LeavesBall(norm="l2"), "stay in the ball"),
        (LeavesBox(), "stay in the box"),
        (IgnoresEpsPerSample(), "with eps per sample: it must stay in the ball"),
        (Doubles(), "must return torch.float32, got torch.float64"),
        (Flattens(), r"must return images of shape \(8, 1, 28, 28\)"),
        (OneOnly(), "on a batch of one: it must return images of shape"),
        (NoNumber(), "a pixel that is not finite"),
        (WritesImages(), "not modify the images"),
        (WritesLabels(), "not modify the labels"),
        (MovesWeights(), "parameters alone; changed weight"),
        (LeavesGradients(), "no gradient on the model's parameters"),
        (TrainsModel(), "leave the model in evaluation mode"),
        (Descends(), "worse than the clean image"),
        (DoesNothing(), "found an adversarial example for none of 8 images"),
        (OwnRandomness(), "the same generator and seed must give the same images"),
        (BlackOnWrong(), "that the model got wrong is right after the attack"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_broken_attack_is_caught(attack: object, rule: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){rule}") as caught:
        check_attack(attack)
    assert str(caught.value).startswith(type(attack).__name__)


def test_good_attacks_pass() -> None:
    assert check_attack(Start()) == []
    assert check_attack(Start(norm="l2")) == []
    assert check_attack(LineSearch()) == []
