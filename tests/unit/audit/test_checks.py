"""Each check finds the fault planted for it and passes a model without one."""

import random
import re
import sys
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import maskings
import numpy as np
import pytest
import torch
from check_table import README, with_table
from maskings import PLANTED, Around, Bench, case_of, doubled, train_bare
from paths import ROOT
from torch import Tensor
from toys import Function, pixels

from benchmark.attacks.pgd import PGD
from benchmark.audit.budgets import budget, worst_case
from benchmark.audit.case import Case, Curve, Finding
from benchmark.audit.checks import CHECKS, checks_of, examine
from benchmark.audit.gradient_measurements import gradients
from benchmark.audit.registration import REGISTERED, Check, check
from benchmark.audit.surrogates import Restored
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.datasets import DIGITS
from benchmark.evaluation.sweep import sweep
from benchmark.models.contract import check_answers
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.results.audit_words import Role

PAGES = ROOT / "docs" / "checks"
EPS = (0.0, 0.05, 0.1, 0.2, 0.4)
N = 40


@pytest.fixture(scope="module")
def bench() -> Bench:
    """One model, trained once, in both of the bench's places."""
    train, test = doubled(DIGITS.load("train", n=1000)), doubled(DIGITS.load("test", n=N))
    bare = train_bare(train, seed=0, epochs=5)
    return Bench(bare, bare, train, test)


@pytest.fixture(scope="module")
def honest(bench) -> Case:
    """The bare model with a sweep that found what there is to find."""
    spec = AttackSpec("pgd", ThreatModel("linf", EPS), N)
    found = sweep(bench.bare, PGD(), spec, bench.test, seed_at=lambda eps: 0, progress=Progress())
    success, distance = zip(*((cell.success, cell.distance) for cell in found), strict=True)
    curve = Curve("pgd", "inhouse", "linf", EPS, torch.stack(success), torch.stack(distance))
    return case_of(bench.bare, bench, curves=[curve])


def nothing_fell(case: Case, eps=EPS, norm="linf", attack="pgd", library="inhouse") -> Curve:
    """The sweep of an attack that found nothing."""
    success = (~case.correct).repeat(len(eps), 1)
    return Curve(attack, library, norm, eps, success, torch.zeros(success.shape))


def unbroken(case: Case, eps=EPS) -> Case:
    return replace(case, curves=[nothing_fell(case, eps)])


def few(case: Case, n: int) -> Case:
    return replace(case, x=case.x[:n], y=case.y[:n], correct=case.correct[:n])


def answer(name: str, case: Case) -> Finding:
    """The check's worst answer."""
    found = CHECKS[name].run(case)
    order = ("alarm", "undecided", "note", "pass")
    return min(found, key=lambda finding: order.index(finding.answer))


# --- faults that are no part of the planted set --------------------------------------------------


class EdgeBlind(Around):
    """What clamping does to gradients since PyTorch 2.14, in every version."""

    def before(self, x: Tensor) -> Tensor:
        return torch.where((x > 0) & (x < 1), x, x.detach())


class Shrunk(Around):
    """A tenth of the gradient."""

    def before(self, x: Tensor) -> Tensor:
        return x.detach() + 0.1 * (x - x.detach())


class Rippled(Around):
    """Waves too short to move the answer, whose slopes drown the model's."""

    def before(self, x: Tensor) -> Tensor:
        phase = torch.arange(x[0].numel()).view_as(x[0]) * 2.4
        return x + 0.005 * torch.cos(3000 * x + phase)


class OffGrey(Around):
    """Off the stored images half of the pixels' gradients are noise, which the rest hides along
    its own direction."""

    def before(self, x: Tensor) -> Tensor:
        def change(slope: Tensor) -> Tensor:
            return slope + 4 * slope.abs().mean() * torch.randn(slope.shape)

        grey = bool(((x * 255).round() / 255 - x).abs().max() < 1e-6)
        return x if grey else maskings.Misled.apply(x, change)


class Lookup(Around):
    """The bare model on the stored images, one label everywhere else."""

    def __init__(self, bare: Defense, stored: Tensor) -> None:
        super().__init__(bare)
        self.stored = stored

    def forward(self, x: Tensor) -> Tensor:
        known = torch.stack([(self.stored == image).flatten(1).all(1).any() for image in x])
        elsewhere = torch.arange(10.0).expand(len(x), 10)
        return torch.where(known[:, None], super().forward(x), elsewhere)


class Forgetful(Around):
    """Turns its own mode around when asked."""

    def before(self, x: Tensor) -> Tensor:
        self.bare.train()
        return x


class Voting(Around):
    """Twelve passes for an answer."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.bare(x) for _ in range(12)]).mean(0)


def banded() -> Case:
    """Wrong in a narrow band only, through which the loss leads."""
    rises = Function(lambda x: torch.stack([torch.zeros(len(x)), _band(x.flatten())], 1))
    x, y = pixels(*[0.1 + 0.01 * i for i in range(16)]), torch.zeros(16, dtype=torch.int64)
    right = torch.ones(16, dtype=torch.bool)
    return Case(rises, "toy", 0, x, y, right, x.byte())


def _band(x: Tensor) -> Tensor:
    return torch.where((x > 0.5) & (x < 0.56), x, x - 1)


Build = Callable[[Bench], Case]


def of(cls: type[Around]) -> Build:
    return lambda bench: case_of(cls(bench.bare), bench)


def looked_up(bench: Bench) -> Case:
    return case_of(Lookup(bench.bare, bench.test.x()), bench)


def known_images(bench: Bench) -> Case:
    case = case_of(bench.bare, bench)
    return replace(case, train_images=torch.cat([bench.train.images, bench.test.images]))


def lost(bench: Bench) -> Case:
    case = banded()
    return replace(case, curves=[nothing_fell(case, (0.0, 0.6), library="art")])


def purified(bench: Bench) -> Case:
    """Broken in small balls; what comes from larger ones looks noisy and is purified."""
    defense = maskings.NoisyPurifier(bench.bare, 0.0)
    maskings.between(defense, bench.test.x(), 0.33)
    return unbroken(case_of(defense, bench), (0.0, 0.4))


FAULTS: dict[str, list[tuple[Build, str]]] = {
    "probability-outputs": [
        (of(maskings.Probabilities), "outputs are"),
        (of(maskings.OneHot), "outputs are one-hot"),
    ],
    "quantised-outputs": [(of(maskings.RoundedLogits), "outputs are quantised")],
    "randomness": [(of(maskings.Jitter), "undeclared randomness")],
    "batch-dependence": [(of(maskings.BatchStatistics), "answers depend on the batch")],
    "gradient-mode": [(of(maskings.Watchful), "answers otherwise when differentiated")],
    "two-answers": [(of(maskings.TwoFaced), "attacked function is not the judged")],
    "state-changes": [
        (of(maskings.Drifting), "changes when asked"),
        (of(Forgetful), "changes when asked"),
        (of(maskings.Remembering), "changes when asked"),
    ],
    "inference-search": [(of(maskings.Purified), "optimises at inference")],
    "missing-gradient": [
        (of(maskings.Detached), "no gradient"),
        (of(maskings.NoGrad), "no gradient"),
    ],
    "nan-gradient": [(of(maskings.NotANumber), "gradient NaN or infinite")],
    "zero-gradient": [
        (of(maskings.BitDepth), "zero gradient"),
        (of(maskings.Vanishing), "zero gradient"),
    ],
    "saturated-loss": [(of(maskings.ScaledLogits), "loss saturated")],
    "edge-gradient": [
        (lambda bench: replace(of(EdgeBlind)(bench), inside=0.0), "gradient lost at the box's edge")
    ],
    "gradient-size": [(of(Shrunk), "gradient of the wrong size")],
    "gradient-sign": [(of(maskings.WrongSign), "gradient of the wrong sign")],
    "gradient-directions": [(of(maskings.NoiseGradient), "gradient not predictive")],
    "gradient-steps": [(of(Rippled), "gradient not predictive")],
    "gradient-scale": [
        (of(Rippled), "gradient not predictive at the scale of eps"),
        (of(maskings.FalseOffImage), "gradient not predictive at the scale of eps"),
        (of(maskings.OscillatingLogits), "gradient not predictive at the scale of eps"),
        (of(OffGrey), "gradient not predictive at the scale of eps"),
    ],
    "shifted-images": [(looked_up, "holds only at the stored images")],
    "noisy-images": [(looked_up, "holds only at the stored images")],
    "logit-jumps": [(looked_up, "holds only at the stored images")],
    "train-test-overlap": [(known_images, "100% of the test images are among the training images")],
    "rising-loss": [(of(maskings.WrongSign), "loss does not rise")],
    "lost-on-the-way": [(lost, "success lost on the way")],
    "unbounded-attack": [(of(maskings.WrongSign), "unbounded attack fails")],
    "flat-in-eps": [(lambda bench: unbroken(of(maskings.BitDepth)(bench)), "flat in eps")],
    "rises-with-eps": [(purified, "accuracy rises with eps")],
    "random-noise": [
        (lambda bench: unbroken(of(maskings.WrongSign)(bench)), "random noise beats the attack")
    ],
    "longer-attack": [(lambda bench: unbroken(case_of(bench.bare, bench)), "attack not converged")],
    "black-box": [
        (
            lambda bench: few(unbroken(of(maskings.WrongSign)(bench), (0.0, 0.2)), 8),
            "black box beats the attack",
        )
    ],
}


NOTED = {"repeatable-noise"}
"""Checks that never raise an alarm, with tests of their own below."""


def test_every_check_has_a_planted_fault():
    assert set(FAULTS) | NOTED == set(CHECKS)


def test_roles_say_what_an_alarm_counts_for():
    of_role = {role: {n for n, c in CHECKS.items() if c.role == role} for role in get_args(Role)}
    assert of_role["symptom"] >= {"rising-loss", "flat-in-eps", "longer-attack", "black-box"}
    interface = {"probability-outputs", "two-answers", "state-changes", "batch-dependence"}
    assert of_role["invalid"] >= {"train-test-overlap", "randomness", *interface}
    assert of_role["cause"] >= {"zero-gradient", "gradient-sign", "missing-gradient"}


@pytest.mark.parametrize(
    ("name", "build", "reason"),
    [(name, *fault) for name, faults in FAULTS.items() for fault in faults],
    ids=[f"{name}-{i}" for name, faults in FAULTS.items() for i in range(len(faults))],
)
def test_finds_the_planted_fault(bench, name, build, reason):
    found = answer(name, build(bench))
    assert found.answer == "alarm", found.evidence
    assert found.reason.startswith(reason)
    assert found.evidence[-1] != "."
    assert any(character.isdigit() for character in found.evidence)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_passes_a_model_without_a_fault(honest, name):
    found = answer(name, honest)
    assert found.answer == "pass", found.evidence
    assert found.reason == ""


def test_of_a_stochastic_defense_the_lowest_single_attack_counts(bench):
    fell = torch.zeros(1, N, dtype=torch.bool)
    parts = [(0, 3), (3, 8)]
    curves = []
    for i, (first, last) in enumerate(parts):
        success = fell.clone()
        success[:, first:last] = True
        far = torch.where(success, 0.1, 9.0).double()
        curves.append(Curve(f"a{i}", "inhouse", "linf", (0.1,), success, far))
    for defense, expected in ((bench.bare, 8), (Declared(bench.bare), 5)):
        found = worst_case(case_of(defense, bench, curves=curves))
        assert int(found.success.sum()) == expected


# --- what is no fault, or not of the attack ------------------------------------------------------


class Declared(maskings.Jitter):
    stochastic = True


class WithSurrogate(maskings.Detached):
    """No gradient of its own, and says so."""

    differentiable = False

    def surrogate(self, x: Tensor) -> Tensor:
        return self.bare(x)


class PurifiedWithSurrogate(maskings.Purified):
    differentiable = False

    def surrogate(self, x: Tensor) -> Tensor:
        return self.bare(x)


class Kept:
    """An object with attributes of its own."""

    def __init__(self) -> None:
        self.items: list[float] = []


class Counting(Around):
    """Keeps ``memory`` of its questions, and answers by it if ``told``."""

    total = 0

    def __init__(self, bare: Defense, memory: str, *, told: bool) -> None:
        super().__init__(bare)
        self.memory, self.told = memory, told
        self.number, self.items, self.queue = 0, [], deque(maxlen=5)
        self.table, self.names, self.counts = {"asked": 0}, set(), Counter()
        self.kept, self.array, self.tensor = Kept(), np.zeros(1), torch.zeros(1)
        self.nested = {"deep": ([],)}

    def ask(self) -> float:
        """Remember one question more, and return something that changes with it."""
        match self.memory:
            case "number":
                self.number += 1
                return self.number
            case "list":
                self.items.append(1)
                return len(self.items)
            case "queue":
                self.queue.append(len(self.queue) + 1)
                return sum(self.queue)
            case "dict":
                self.table["asked"] += 1
                return self.table["asked"]
            case "set":
                self.names.add(len(self.names))
                return len(self.names)
            case "counter":
                self.counts["asked"] += 1
                return self.counts["asked"]
            case "object":
                self.kept.items.append(1.0)
                return len(self.kept.items)
            case "array":
                self.array[0] += 1
                return float(self.array[0])
            case "tensor":
                self.tensor.data += 1
                return float(self.tensor)
            case "nested":
                self.nested["deep"][0].append(1)
                return len(self.nested["deep"][0])
            case "new":
                self.late = getattr(self, "late", 0) + 1
                return self.late
            case _:
                type(self).total += 1
                return type(self).total

    def after(self, logits: Tensor) -> Tensor:
        asked = self.ask()
        return logits * (1 + 0.1 * min(asked, 50)) if self.told else logits


def test_probabilities_are_a_note_where_the_attacks_follow_their_logarithm(bench):
    by_name = {planted.name: planted.build for planted in PLANTED}
    soft, hard = by_name["Probabilities"](bench), by_name["OneHot"](bench)
    assert answer("probability-outputs", case_of(soft, bench)).answer == "alarm"
    for defense, expected in ((soft, "note"), (hard, "alarm")):
        check_answers(defense, bench.test, 0)
        found = answer("probability-outputs", case_of(defense, bench))
        assert found.answer == expected, found.evidence


MEMORIES = (
    *("number", "list", "queue", "dict", "set", "counter", "object", "array", "tensor"),
    *("nested", "new", "class"),
)


@pytest.mark.parametrize("memory", MEMORIES)
def test_state_in_python_objects_is_state(bench, memory):
    defense, x = Counting(bench.bare, memory, told=True), bench.test.x()[:2]
    found = answer("state-changes", case_of(defense, bench))
    assert (found.answer, found.reason) == ("alarm", "changes when asked")
    restored = Restored(defense)
    first = restored(x)
    for _ in range(3):
        restored(x)
    assert torch.equal(restored(x), first)


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_count_that_no_answer_depends_on_is_a_note(bench, memory):
    found = answer("state-changes", case_of(Counting(bench.bare, memory, told=False), bench))
    assert (found.answer, found.reason) == ("note", "keeps count of questions")


def test_what_a_question_changed_is_put_back(bench):
    defense = Counting(bench.bare, "dict", told=True)
    case = case_of(defense, bench)
    before = defense.table["asked"]
    CHECKS["state-changes"].run(case)
    assert defense.table["asked"] == before > 0


def test_declared_randomness_is_a_note(bench):
    found = answer("randomness", case_of(Declared(bench.bare), bench, eot=10))
    assert (found.answer, found.reason) == ("note", "random, attacked with EOT")
    found = answer("randomness", case_of(Declared(bench.bare), bench))
    assert (found.answer, found.reason) == ("note", "random, attacked without EOT")


def test_noise_that_a_seed_stills_is_no_fault_of_gradients_or_batches(bench):
    case = case_of(Declared(bench.bare), bench, eot=4)
    names = ["batch-dependence", "gradient-mode", "gradient-size", "gradient-sign", "two-answers"]
    assert [answer(name, case).answer for name in names] == ["pass"] * len(names)


def test_noise_that_no_seed_stills_leaves_differences_undecided(bench):
    rng = torch.Generator().manual_seed(0)

    class Own(Around):
        stochastic = True

        def before(self, x: Tensor) -> Tensor:
            return x + 0.1 * torch.randn(x.shape, generator=rng)

    case = case_of(Own(bench.bare), bench)
    doubted = ("gradient-mode", "gradient-size", "gradient-steps", "logit-jumps")
    for name in ("batch-dependence", *doubted):
        assert answer(name, case).answer == "undecided"
    found = answer("repeatable-noise", case)
    assert (found.answer, "cannot be repeated" in found.reason) == ("note", True)


def test_noise_from_a_generator_of_its_own_is_stilled_by_the_harness(bench):
    class Own(Around):
        stochastic = True

        def __init__(self, bare):
            super().__init__(bare)
            self.rng = torch.Generator().manual_seed(0)

        def before(self, x: Tensor) -> Tensor:
            return x + 0.1 * torch.randn(x.shape, generator=self.rng)

    case = case_of(Own(bench.bare), bench, eot=4)
    names = ["batch-dependence", "gradient-mode", "gradient-size", "repeatable-noise"]
    assert [answer(name, case).answer for name in names] == ["pass"] * len(names)
    assert answer("gradient-steps", case).answer != "alarm"


def test_noise_that_turns_labels_is_not_taken_for_a_move(bench):
    class Careless(Around):
        """Wrong of every third image, whatever it shows."""

        stochastic = True

        def after(self, logits: Tensor) -> Tensor:
            return torch.where(torch.rand(len(logits), 1) < 0.33, -logits, logits)

    class CarelessLookup(Lookup):
        stochastic = True

        def after(self, logits: Tensor) -> Tensor:
            return logits + 1e-3 * torch.randn(logits.shape)

    for name in ("shifted-images", "noisy-images"):
        found = answer(name, case_of(Careless(bench.bare), bench))
        assert found.answer == "pass"
        assert "unmoved" in found.evidence
        found = answer(name, case_of(CarelessLookup(bench.bare, bench.test.x()), bench))
        assert found.answer == "alarm"


def test_what_bpda_has_treated_is_a_note(bench):
    case = case_of(WithSurrogate(bench.bare), bench, bpda=True)
    found = answer("missing-gradient", case)
    assert (found.answer, found.reason) == ("note", "no gradient of its own")
    assert answer("gradient-steps", case).answer == "pass"
    assert answer("gradient-size", case).answer == "pass"
    found = answer("inference-search", case_of(PurifiedWithSurrogate(bench.bare), bench, bpda=True))
    assert (found.answer, found.reason) == ("note", "optimises at inference")


def test_a_surrogate_that_leads_nowhere_is_an_alarm(bench):
    class Useless(WithSurrogate):
        def surrogate(self, x: Tensor) -> Tensor:
            return -self.bare(x)

    found = answer("gradient-steps", case_of(Useless(bench.bare), bench, bpda=True))
    assert (found.answer, found.reason) == ("alarm", "surrogate's gradient not predictive")


def test_gradients_taken_inside_the_box_make_a_clamp_a_note(bench):
    found = answer("edge-gradient", replace(of(EdgeBlind)(bench), inside=1e-6))
    assert (found.answer, found.reason) == ("note", "clamped input")


def test_many_passes_at_inference_are_a_note(bench):
    found = answer("inference-search", case_of(Voting(bench.bare), bench))
    assert (found.answer, found.reason) == ("note", "many passes at inference")
    assert found.details["passes"] == 12


def test_without_a_gradient_nothing_is_compared(bench):
    case = case_of(maskings.Detached(bench.bare), bench)
    for name in ("nan-gradient", "zero-gradient", "gradient-sign", "rising-loss", "longer-attack"):
        found = answer(name, case)
        assert found.answer == "undecided"
        assert "no gradient reaches the image" in found.evidence


def test_a_best_iterate_that_is_kept_makes_a_lost_one_a_note():
    case = banded()
    found = answer("lost-on-the-way", replace(case, curves=[nothing_fell(case, (0.0, 0.6))]))
    assert found.answer == "note"
    assert found.details["unconfirmed"] == 0


# --- flat in eps ---------------------------------------------------------------------------------


def test_one_flat_curve_beside_one_that_falls_is_a_note(honest):
    flat = nothing_fell(honest, (0.0, 5.0), norm="l2", attack="cw")
    found = CHECKS["flat-in-eps"].run(replace(honest, curves=[*honest.curves, flat]))
    assert [(f.attack, f.answer) for f in found] == [("pgd", "pass"), ("cw", "note")]


def test_a_grid_that_ends_early_says_nothing(honest):
    found = answer("flat-in-eps", unbroken(honest, (0.0, 0.1)))
    assert found.answer == "undecided"
    assert "0.4" in found.evidence


# --- budgets -------------------------------------------------------------------------------------


def test_the_worst_case_joins_curves_at_shared_budgets(honest):
    n = len(honest.y)
    one = torch.zeros(3, n, dtype=torch.bool)
    other = torch.zeros(2, n - 5, dtype=torch.bool)
    one[:, 0], other[1, 1] = True, True
    curves = [
        Curve("a", "inhouse", "linf", (0.0, 0.1, 0.2), one, one.double()),
        Curve("b", "inhouse", "linf", (0.0, 0.2), other, other.double()),
    ]
    joined = worst_case(replace(honest, curves=curves))
    assert joined.eps == (0.0, 0.2)
    assert joined.success.shape == (2, n - 5)
    assert joined.success.sum(1).tolist() == [1, 2]


def test_the_budget_is_where_half_of_the_images_stand(honest):
    success = torch.zeros(4, N, dtype=torch.bool)
    for row, share in enumerate((0.0, 0.1, 0.55, 1.0)):
        success[row, : round(share * N)] = True
    curve = Curve("pgd", "inhouse", "linf", (0.0, 0.1, 0.2, 0.3), success, success.double())
    at = budget(replace(honest, curves=[curve], correct=torch.ones(N, dtype=torch.bool)))
    assert (at.eps, at.attack, int(at.robust.sum())) == (0.2, "pgd", N - round(0.55 * N))


def test_the_budget_is_the_largest_where_nothing_fell(honest):
    assert budget(unbroken(honest)).eps == 0.4
    at = budget(replace(honest, curves=[]))
    assert (at.norm, at.eps, at.attack) == ("linf", 0.1, "")


# --- how checks are run --------------------------------------------------------------------------


def test_levels():
    basic, full = checks_of("basic"), checks_of("full")
    assert set(basic) < set(full)
    assert {each.name for each in full} == set(CHECKS)


def test_what_a_check_needs_and_lacks_makes_it_undecided(honest):
    none = replace(honest, correct=torch.zeros_like(honest.correct))
    assert "none of the 40 images" in answer("zero-gradient", none).evidence
    assert "no sweep" in answer("flat-in-eps", replace(honest, curves=[])).evidence


def test_an_overlap_with_no_known_training_images_is_undecided(honest):
    found = answer("train-test-overlap", replace(honest, train_images=honest.train_images[:0]))
    assert found.answer == "undecided"
    assert "no training images are known" in found.evidence


def test_an_overlap_is_seen_between_float_images_too(bench):
    case = known_images(bench)
    found = answer("train-test-overlap", replace(case, train_images=case.train_images / 255))
    assert found.answer == "alarm"
    assert found.value == 1


def test_a_defense_that_fails_under_a_question_has_not_answered(honest):
    class Failing(Around):
        def before(self, x: Tensor) -> Tensor:
            raise ValueError("one line\nand another")

    found = list(examine(replace(honest, defense=Failing(honest.defense)), "basic"))
    # One of the curves, and one of the training images, is answered without asking the defense.
    assert {f.check for f in found if f.answer != "undecided"} == {
        "flat-in-eps",
        "train-test-overlap",
    }
    assert "ValueError: one line" in found[0].evidence
    assert "another" not in found[0].evidence


def test_a_check_can_be_added_by_one_function(honest):
    try:

        @check("always", level="full", needs=["correct"])
        def always(case: Case) -> Finding:
            """Say yes.

            And nothing more.
            """
            return Finding("always", "pass", 0.0, 0.0, "yes")

        added = CHECKS["always"]
        assert isinstance(added, Check)
        assert added.summary == "Say yes."
        assert added.page == "docs/checks/always.md"
        assert [f.evidence for f in added.run(honest)] == ["yes"]
    finally:
        REGISTERED.pop("always", None)


def test_checks_leave_everything_as_it_was(bench):
    case = case_of(maskings.Drifting(bench.bare), bench)
    before = {k: v.clone() for k, v in case.defense.state_dict().items()}
    profile, state = sys.getprofile(), (torch.get_rng_state(), random.getstate())
    for name in ("state-changes", "inference-search"):
        CHECKS[name].run(case)
    assert sys.getprofile() is profile
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    CHECKS["state-changes"].run(case)
    assert not any(module.training for module in case.defense.modules())
    asked = case.defense.state_dict()["asked"]
    CHECKS["state-changes"].run(case)
    assert torch.equal(case.defense.state_dict()["asked"], asked)
    assert set(before) == set(case.defense.state_dict())


def test_the_same_subject_gets_the_same_answers(bench):
    first, second = (
        [f for name in ("gradient-directions", "random-noise") for f in CHECKS[name].run(case)]
        for case in (case_of(bench.bare, bench), case_of(bench.bare, bench))
    )
    assert first == second


def test_what_several_checks_look_at_is_measured_once(bench):
    case = case_of(bench.bare, bench)
    assert case.once(gradients) is case.once(gradients)


# --- the pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", get_args(Role))
def test_the_overview_names_the_checks_of_each_role(role):
    rows = re.findall(r"^\| \[(.+?)\].*$", README.read_text("utf-8"), re.MULTILINE)
    assert rows == list(CHECKS)
    lines = README.read_text("utf-8").splitlines()
    listed = {line.split("]")[0][3:] for line in lines if f" | {role} | " in line}
    assert listed == {name for name, own in CHECKS.items() if own.role == role}


def test_the_table_of_checks_is_what_their_decorators_and_pages_say():
    text = README.read_text("utf-8")
    assert text == with_table(text)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_every_check_has_a_page(name):
    page = (PAGES / f"{name}.md").read_text("utf-8")
    assert page.startswith(f"# {name}\n")
    for part in ("## What it measures", "## Why it matters", "## What to do", "## Threshold"):
        assert part in page
    assert f"\n{CHECKS[name].summary} (level: {CHECKS[name].level})\n" in page


def test_the_list_of_checks_is_complete():
    listed = (PAGES / "README.md").read_text("utf-8")
    rows = [line for line in listed.splitlines() if line.startswith("| [")]
    assert [row.split("]")[0].removeprefix("| [") for row in rows] == list(CHECKS)
    for row, each in zip(rows, CHECKS.values(), strict=True):
        assert f"| {each.level} |" in row
    assert {path.stem for path in PAGES.glob("*.md")} == {*CHECKS, "README"}
