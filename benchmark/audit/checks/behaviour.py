"""Checks of what the defense does when it is asked: does one image have one answer, and its own?

An attack assumes that the model is a fixed function of one image, whose logits it may
differentiate. What breaks that assumption need not be wrong, but the attack has to know of it.

Where each threshold comes from, and what honest models show, is on the check's page under
docs/checks.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from benchmark.attacks.norms import random_start
from benchmark.attacks.view import attack_view
from benchmark.audit.budgets import budget
from benchmark.audit.case import Case, Finding, alarm_if, undecided
from benchmark.audit.hidden_state import State
from benchmark.audit.measurements import (
    REPEATS,
    SAME,
    TWICE,
    apart,
    images,
    is_random,
    logits,
    repeats,
    same,
    seed_for,
)
from benchmark.audit.registration import check
from benchmark.seeding import generator, seeded

ONE = 1e-4
DISTINCT = 0.5
DISAGREE = 0.05
DISAGREE_BY_CHANCE = 0.5
PASSES = 10

QUESTIONS = 32
"""Times that a defense whose Python objects change is asked once more."""


# --- the form of the outputs ---------------------------------------------------------------------


@check(
    "probability-outputs",
    level="basic",
    needs=["scores"],
    role="invalid",
    remedies=["logarithms"],
)
def probability_outputs(case: Case) -> Finding:
    """Tell whether the outputs are probabilities, or one-hot, where logits are asked for."""
    name = "probability-outputs"
    outputs = logits(case, images(case)).double()
    off = torch.maximum((outputs.sum(1) - 1).abs(), (-outputs).amax(1))
    share, n = float((off < ONE).double().mean()), len(outputs)
    hot = float(((outputs - outputs.round()).abs().amax(1) < ONE).double().mean())
    evidence = f"the outputs of {share:.0%} of {n} images are at least 0 and sum to 1"
    details = {"one_hot": hot}
    reason = "outputs are probabilities"
    if share == 1 and hot > DISTINCT:
        evidence += f", {hot:.0%} of them one-hot"
        reason = "outputs are one-hot"
    if share == 1 and case.defense.answer_form.kind == "probabilities":
        evidence += "; the attacks follow their logarithm"
        return Finding(name, "note", share, 1.0, evidence, reason, details=details)
    return alarm_if(share == 1, name, share, 1.0, evidence, reason, details=details)


@check("quantised-outputs", level="basic", needs=["scores"])
def quantised_outputs(case: Case) -> Finding:
    """Tell whether the outputs take few values only, so that small steps change nothing."""
    name = "quantised-outputs"
    outputs = logits(case, images(case))
    values = len(set(outputs.flatten().tolist()))
    share = values / outputs.numel()
    evidence = (
        f"{outputs.numel()} outputs of {len(outputs)} images take {values} values"
        f" ({share:.0%}); trusted from {DISTINCT:.0%}"
    )
    return alarm_if(share < DISTINCT, name, share, DISTINCT, evidence, "outputs are quantised")


# --- one image, one answer -----------------------------------------------------------------------


@check(
    "randomness",
    level="basic",
    role="invalid",
    doubts_gradient=False,
    remedies=["fresh draws"],
)
def randomness(case: Case) -> Finding:
    """Tell whether the same images get other logits when they are asked for again."""
    name = "randomness"
    answers = case.once(repeats)
    far = float(torch.stack([apart(answers[0], other) for other in answers[1:]]).max())
    labels = answers.argmax(2)
    flipped = float((labels != labels[0]).any(0).double().mean())
    n = answers.shape[1]
    details = {"labels_changed": flipped}
    evidence = (
        f"{REPEATS} forwards of {n} images differ by {far:.2g} of the logits' length at most and"
        f" change {flipped:.0%} of the labels; the same up to {SAME:g}"
    )
    if far <= SAME:
        return Finding(name, "pass", far, SAME, evidence, details=details)
    if not case.defense.stochastic:
        evidence += "; the defense says that it is deterministic"
        return Finding(name, "alarm", far, SAME, evidence, "undeclared randomness", details=details)
    evidence += f"; the attacks averaged over {case.eot} draws"
    reason = "random, attacked with EOT" if case.eot > 1 else "random, attacked without EOT"
    return Finding(name, "note", far, SAME, evidence, reason, details=details)


@check(
    "batch-dependence",
    level="basic",
    role="invalid",
    doubts_gradient=False,
    remedies=["whole batches"],
)
def batch_dependence(case: Case) -> Finding:
    """Tell whether an image's logits depend on the other images of its batch."""
    name = "batch-dependence"
    x = images(case)
    half = len(x) // 2
    if half == 0:
        return undecided(name, "one image has no others beside it", SAME)
    seed = seed_for(case, name)
    own = logits(case, x, seed)[:half]
    if not same(own, logits(case, x, seed)[:half]):
        return undecided(name, f"{TWICE}: what the rest of its batch does is hidden", SAME)
    mates = [torch.zeros_like(x[half:]), 1 - x[half:], x[:1].expand_as(x[half:])]
    answers = [logits(case, torch.cat([x[:half], other]), seed)[:half] for other in mates]
    far = float(torch.stack([apart(own, answer) for answer in answers]).max())
    what = "other images beside them"
    if not is_random(case):  # alone it draws other noise
        few = min(half, 4)
        alone = torch.cat([logits(case, x[i : i + 1]) for i in range(few)])
        far = max(far, float(apart(own[:few], alone).max()))
        what += ", or alone,"
    evidence = (
        f"the logits of {half} images with {what} differ by {far:.2g} of their length at most; the"
        f" same up to {SAME:g}"
    )
    return alarm_if(far > SAME, name, far, SAME, evidence, "answers depend on the batch")


@check("gradient-mode", level="basic")
def gradient_mode(case: Case) -> Finding:
    """Tell whether the logits differ when someone is about to differentiate them."""
    name = "gradient-mode"
    x, seed = images(case), seed_for(case, "gradient-mode")
    plain = logits(case, x, seed)
    if not same(plain, logits(case, x, seed)):
        return undecided(name, f"{TWICE}: no other change can be told", SAME)
    with attack_view(case.defense, len(x)), seeded(seed, x.device), torch.enable_grad():
        watched = case.defense(x.detach().clone().requires_grad_()).detach()
    far = float(apart(plain, watched).max())
    evidence = (
        f"the logits of {len(x)} images with and without a gradient differ by {far:.2g} of their"
        f" length at most; the same up to {SAME:g}"
    )
    return alarm_if(far > SAME, name, far, SAME, evidence, "answers otherwise when differentiated")


@check("two-answers", level="basic", role="invalid")
def two_answers(case: Case) -> Finding:
    """Tell how often predict, which judges, and forward, which is attacked, name two labels."""
    name = "two-answers"
    x = images(case)
    at = case.once(budget)
    rng = generator(seed_for(case, name), x.device)
    x = torch.cat([x, random_start(x, at.eps, at.norm, rng)])
    share = float((case.defense.predict(x) != logits(case, x).argmax(1)).double().mean())
    most = DISAGREE_BY_CHANCE if is_random(case) else DISAGREE
    evidence = (
        f"predict and forward name different labels for {share:.0%} of {len(x)} images, half of"
        f" them noisy; trusted up to {most:.0%}"
    )
    return alarm_if(
        share > most, name, share, most, evidence, "attacked function is not the judged"
    )


# --- what a question leaves behind ---------------------------------------------------------------


@check(
    "state-changes",
    level="basic",
    role="invalid",
    doubts_gradient=False,
    remedies=["fresh state"],
)
def state_changes(case: Case) -> Finding:
    """Tell whether asking changes weights, buffers or modes, or other state and the answers."""
    name, defense, x = "state-changes", case.defense, images(case, 8)
    with attack_view(defense, len(x)):
        state = State(defense)
        try:
            _ask(defense, x)
            changed, other = state.changed()
            moved = _moved(case, state, x) if other and not changed else 0.0
        finally:
            state.restore()
    n = len(changed) + len(other)
    if not n:
        evidence = f"weights, buffers, modes and Python objects are as before (n={len(x)})"
        return Finding(name, "pass", 0.0, 0.0, evidence)
    what = [f"{len(changed)} weights, buffers or modes ({changed[0]})"] if changed else []
    what += [f"{len(other)} Python objects ({other[0]})"] if other else []
    evidence = f"forwards and a backward of {len(x)} images change {' and '.join(what)}"
    if changed or moved > SAME:
        if not changed:
            evidence += (
                f", and with them the logits, by {moved:.2g} of their length after {QUESTIONS}"
                f" questions; the same up to {SAME:g}"
            )
        return Finding(name, "alarm", float(n), 0.0, evidence, "changes when asked")
    evidence += f", but after {QUESTIONS} questions no answer"
    return Finding(name, "note", float(n), 0.0, evidence, "keeps count of questions")


def _moved(case: Case, state: State, x: Tensor) -> float:
    """Return how far the logits are from the first ones after :data:`QUESTIONS` questions.

    0 where noise that no seed repeats would hide it: that is for the check randomness.
    """
    seed = seed_for(case, "state-changes")
    answers = []
    for _ in range(2):
        state.restore()
        answers.append(logits(case, x, seed))
    if not same(*answers):
        return 0.0
    far = []
    for question in range(QUESTIONS):
        answer = logits(case, x if question % 8 == 7 else x[:1], seed)
        far.append(apart(answers[0][: len(answer)], answer).max())
    return float(torch.stack(far).max())


def _ask(defense: nn.Module, x: Tensor) -> None:
    """Ask with and without a graph, and go back through it where there is one."""
    defense.predict(x)  # type: ignore[operator]
    with torch.enable_grad():
        answer = defense(x.detach().clone().requires_grad_())
        if answer.requires_grad:
            answer.sum().backward()


@check("inference-search", level="basic")
def inference_search(case: Case) -> Finding:
    """Tell whether answering takes gradients, or many passes through the same layers."""
    name, x = "inference-search", images(case, 2)
    with _watched() as seen, torch.no_grad():
        case.defense.predict(x)
        backwards = seen.backwards
        seen.calls.clear()
        case.defense(x)
        most = max(seen.calls.values(), default=0)
        backwards = max(backwards, seen.backwards - backwards)
    details = {"backwards": float(backwards), "passes": float(most)}
    evidence = (
        f"an answer takes {backwards} backward passes and up to {most} passes through one layer"
        f" (n={len(x)})"
    )
    if backwards and case.bpda:
        evidence += "; the run's attacks took a surrogate's gradient (BPDA)"
        reason = "optimises at inference"
        return Finding(name, "note", float(backwards), 0.0, evidence, reason, details=details)
    if backwards:
        reason = "optimises at inference"
        return Finding(name, "alarm", float(backwards), 0.0, evidence, reason, details=details)
    if most >= PASSES:
        reason = "many passes at inference"
        return Finding(name, "note", float(most), PASSES, evidence, reason, details=details)
    return Finding(name, "pass", 0.0, 0.0, evidence, details=details)


class _Seen:
    """What happened inside a defense: backward passes, and calls of each layer by its identity."""

    def __init__(self) -> None:
        self.backwards = 0
        self.calls: Counter[int] = Counter()

    def profile(self, frame: FrameType, event: str, arg: Any) -> None:
        """Count autograd's engine being started, by whatever name the defense calls it."""
        if event == "c_call" and getattr(arg, "__name__", "") == "run_backward":
            self.backwards += 1

    def layer(self, module: nn.Module, inputs: Any) -> None:
        """Count a layer's call; containers pass theirs on."""
        if not any(True for _ in module.children()):
            self.calls[id(module)] += 1


@contextmanager
def _watched() -> Iterator[_Seen]:
    seen, before = _Seen(), sys.getprofile()
    hook = register_module_forward_pre_hook(seen.layer)
    sys.setprofile(seen.profile)
    try:
        yield seen
    finally:
        sys.setprofile(before)
        hook.remove()
