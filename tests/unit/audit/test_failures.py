"""A defense that fails under the audit: what is an error is no missing gradient, and no memory is
no answer."""

from dataclasses import replace

import pytest
import torch
from maskings import Bare, Detached
from toys import Function, dataset

from benchmark.attacks.losses import margin
from benchmark.attacks.view import MissingGradientError, attack_view
from benchmark.audit.attack_harder import attack_harder
from benchmark.audit.case import Case
from benchmark.audit.checks import CHECKS, examine
from benchmark.audit.gradient_measurements import gradients
from benchmark.audit.stronger_attacks import Effort, plan_attacks
from benchmark.audit.verdict import judge
from benchmark.config.threat import ThreatModel
from benchmark.datasets import DatasetInfo
from benchmark.progress import Progress
from benchmark.seeding import generator, seeded

SMALL = DatasetInfo("toy", (1, 8, 8), 4, tuple("abcd"), augment=False)
THREAT = ThreatModel("linf", (0.1, 0.2))
EFFORT = Effort(steps=3, restarts=1, queries=10, probes=2, levels=1)
GRADIENT = ("missing-gradient", "nan-gradient", "zero-gradient", "gradient-sign", "rising-loss")


class Boom(torch.autograd.Function):
    """The identity, whose backward pass raises."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        raise RuntimeError("boom")


class BoomBackward(Bare):
    def forward(self, x):
        return super().forward(Boom.apply(x))


class NoMemory(Bare):
    """Memory runs out in every forward, or only where a gradient is asked for."""

    always = True

    def forward(self, x):
        if self.always or torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().forward(x)


def case_of(cls, **options) -> Case:
    """A case whose images the defense gets right, as asked before it fails."""
    with seeded(0):
        defense = cls(SMALL).eval().requires_grad_(False)
    x = torch.rand(6, 1, 8, 8, generator=generator(1))
    with torch.no_grad():
        y = Bare.forward(defense, x).argmax(1)
    right = torch.ones(6, dtype=torch.bool)
    return Case(defense, "toy", 0, x, y, right, torch.empty(0, 1, 8, 8), **options)


def harder(case):
    images = dataset(case.x, case.y, 4)
    return list(attack_harder(case, images, THREAT, [], effort=EFFORT, progress=Progress()))


# --- errors --------------------------------------------------------------------------------------


def test_an_error_in_the_backward_pass_is_no_missing_gradient():
    case = case_of(BoomBackward)
    for name in GRADIENT:
        (found,) = CHECKS[name].run(case)
        assert (found.answer, found.reason) == ("undecided", "")
        assert found.evidence == "the check failed: RuntimeError: boom"
    alarms = {found.check for found in examine(case, "basic") if found.answer == "alarm"}
    assert not alarms & set(GRADIENT)


def test_with_a_surrogate_an_error_of_the_defenses_own_gradient_is_an_error():
    class Bridged(BoomBackward):
        def surrogate(self, x):
            return Bare.forward(self, x)

    (found,) = CHECKS["missing-gradient"].run(case_of(Bridged, bpda=True))
    assert (found.answer, found.evidence[-4:]) == ("undecided", "boom")


def told(case, results):
    """The verdict on attacks that left as much as the run's own, but for those that failed."""
    curves = [result.curve for result in results if result.outcomes]
    return judge(
        norm="linf",
        correct=case.correct,
        stochastic=False,
        findings=[],
        plain=curves,
        own=curves,
        missing=[result.failure for result in results if result.failure],
    )


def test_an_attack_that_meets_the_error_says_it_and_the_verdict_lacks_it():
    case = case_of(BoomBackward)
    results = harder(case)
    failures = {result.spec.name: result.failure for result in results}
    assert failures["audit-margin"] == "RuntimeError: boom"
    verdict = told(case, results)
    assert verdict.ruling == "undecided"
    assert "RuntimeError: boom" in verdict.reasons


def cut_off(x):
    return (x.detach().flatten(1)[:, :2] + torch.zeros(2, requires_grad=True)) * 1.0


@pytest.mark.parametrize(
    "defense",
    [Function(lambda x: x.detach().flatten(1)[:, :2]), Function(cut_off)],
    ids=["no graph", "a graph that leads elsewhere"],
)
def test_a_graph_that_does_not_lead_to_the_image_is_a_missing_gradient(defense):
    x = torch.rand(3, 1, 2, 2)
    with attack_view(defense, 3) as view, pytest.raises(MissingGradientError):
        view.gradient(x, torch.zeros(3, dtype=torch.int64), margin)


def test_a_missing_gradient_is_an_alarm():
    with seeded(0):
        defense = Detached(Bare(SMALL).eval().requires_grad_(False))
    case = replace(case_of(Bare), defense=defense)
    assert case.once(gradients).missing
    (found,) = CHECKS["missing-gradient"].run(case)
    assert (found.answer, found.reason) == ("alarm", "no gradient")


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["randomness", "two-answers", "inference-search", *GRADIENT])
def test_out_of_memory_passes_through_a_check(name):
    with pytest.raises(torch.OutOfMemoryError, match="2 GiB"):
        CHECKS[name].run(case_of(NoMemory))


def test_out_of_memory_passes_through_the_search_for_a_bridge():
    case = case_of(NoMemory)
    alarm = replace(CHECKS["zero-gradient"].run(case_of(Bare))[0], answer="alarm")
    with pytest.raises(torch.OutOfMemoryError):
        plan_attacks(case, THREAT, [alarm], n=6, effort=EFFORT)


def test_an_attack_without_memory_leaves_the_verdict_undecided():
    class Sometimes(NoMemory):
        always = False

    case = case_of(Sometimes, bpda=True)  # so that no bridge is looked for, which would need one
    results = harder(case)
    failures = [result.failure for result in results if result.failure]
    assert failures
    assert all(words.startswith("memory ran out (") for words in failures)
    verdict = told(case, results)
    assert verdict.ruling == "undecided"
    assert "memory ran out" in str(verdict)
