"""The rules of an attack."""

import math
from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmark.attacks.base import Attack, BudgetAttack, MinimalAttack
from benchmark.attacks.losses import cross_entropy
from benchmark.attacks.norms import Eps, distance
from benchmark.attacks.view import attack_view
from benchmark.config.threat import NORMS, TOLERANCE
from benchmark.datasets.info import DatasetInfo
from benchmark.models.contract import kind
from benchmark.models.defense import Defense
from benchmark.seeding import generator, seeded
from benchmark.testing.checks import Check, Inspection
from benchmark.testing.common import GREY, N, Rules, changed_tensors, report, require, snapshot

BUDGETS = {
    "linf": (0.0, 1e-3, 0.03, 0.2),
    "l2": (0.0, 0.02, 0.5, 3.0),
    "l1": (0.0, 0.1, 4.0, 40.0),
    "l0": (0.0, 1.0, 10.0, 100.0),
}
"""Budgets of the check; within the largest every image of :class:`_Linear` is misclassified."""


class _Linear(Defense):
    """Logits W x of fixed random W: closed-form distances, and images far from any boundary.

    Its generator makes every image, so that attacks on a generator's latents can run on it.
    """

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__(info)
        pixels = int(np.prod(info.shape))
        weight = torch.randn(info.n_classes, pixels, generator=generator(20))
        self.weight = torch.nn.Parameter(weight / pixels**0.5)
        self.latent_dim: int = pixels

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T

    def generate(self, z: Tensor) -> Tensor:
        return z.sigmoid().view(-1, *self.info.shape)

    def classify_generated(self, x: Tensor) -> Tensor:
        return self.forward(x)


def check_attack(attack: Attack) -> list[str]:
    """Run ``attack`` on a linear model and check every rule of its family.

    Returns the findings (none so far); AssertionError names a broken rule.
    """
    return report(inspect_attack(attack).findings())


def inspect_attack(attack: Attack) -> "Inspection[AttackCase]":
    """Return the checks of an attack one by one; see :func:`check_attack`."""
    case = AttackCase(attack)
    x, y = case.images, case.labels
    calls: dict[str, tuple[str, Tensor, Tensor, Eps]] = {}
    if isinstance(attack, MinimalAttack):
        largest: Eps = float("inf")
        calls["nearest-image"] = "", x, y, largest
    else:
        for eps in BUDGETS[attack.norm]:
            calls[f"eps-{eps:g}"] = f" at eps {eps:g}", x, y, eps
        largest = BUDGETS[attack.norm][-1]
        each = torch.linspace(0, largest, len(x))
        calls["eps-per-sample"] = " with eps per sample", x, y, each
    wrong = (y + 1) % GREY.n_classes
    calls |= {
        "batch-of-one": (" on a batch of one", x[:1], y[:1], largest),
        "wrong-already": (" on images that the model gets wrong", x, wrong, largest),
        "black-and-white": (" on black and white images", x.round(), y, largest),
    }
    checks = [Check(name, partial(_call, call=call)) for name, call in calls.items()]
    first = (checks[0].name,)
    checks.append(Check("repeats", partial(_repeats, eps=largest), first))
    checks.append(Check("finds-something", partial(_finds, eps=largest), first))
    return Inspection(case, checks)


class AttackCase:
    """An attack, the linear model it runs on, and the rules that hold for every call."""

    def __init__(self, attack: Attack) -> None:
        self.name = name = type(attack).__name__
        if not isinstance(attack, BudgetAttack | MinimalAttack):
            raise AssertionError(f"{name} must be a BudgetAttack or a MinimalAttack of benchmark")
        require(attack.norm in NORMS, f"{name}: norm must be one of {NORMS}, got {attack.norm!r}")
        self.attack = attack
        self.defense = _Linear(GREY).eval()
        # Grey images: within the largest l-inf budget, the box does not bind.
        self.images = 0.3 + 0.4 * torch.rand(N, *GREY.shape, generator=generator(21))
        self.labels = self.defense.predict(self.images)

    def run(self, x: Tensor, y: Tensor, eps: Eps) -> Tensor:
        """Return the images (N, C, H, W) that the attack finds for ``x``, under one seed."""
        with seeded(22), attack_view(self.defense, len(x)) as view:
            if isinstance(self.attack, BudgetAttack):
                found = self.attack.run(view, x, y, eps=eps, generator=generator(23))
            else:
                found = self.attack.run(view, x, y, generator=generator(23))
            modes = [module.training for module in self.defense.modules()]
        require(not any(modes), f"{self.name} must leave the model in evaluation mode")
        return found

    def check(self, where: str, x: Tensor, y: Tensor, eps: Eps) -> None:
        """Check the rules of a call; ``where`` tells it from others in what is said."""
        must = Rules(f"{self.name}{where}")
        clean, labels, kept = x.clone(), y.clone(), snapshot(self.defense)
        found = self.run(x, y, eps)
        must(torch.equal(x, clean), "it must not modify the images it is given")
        must(torch.equal(y, labels), "it must not modify the labels it is given")
        changed = changed_tensors(self.defense, kept)
        must(not changed, f"it must leave the model's parameters alone; changed {changed}")
        must(
            all(p.grad is None for p in self.defense.parameters()),
            "it must leave no gradient on the model's parameters",
        )
        must(
            isinstance(found, Tensor) and found.shape == x.shape,
            f"it must return images of shape {tuple(x.shape)}, got {kind(found)}",
        )
        must(found.dtype == x.dtype, f"it must return {x.dtype}, got {found.dtype}")
        found = found.detach()
        must(torch.isfinite(found).all(), "it returned a pixel that is not finite")
        must(((found >= 0) & (found <= 1)).all(), "it must stay in the box: pixels in [0, 1]")
        if isinstance(self.attack, BudgetAttack):
            budget = torch.as_tensor(eps, dtype=torch.float64).expand(len(x))
            far = distance(found, x, self.attack.norm)
            spacing = torch.finfo(torch.float32).eps
            tolerance = budget * TOLERANCE + spacing * _spread(self.attack, x)
            must(
                (far <= budget + tolerance).all(),
                f"it must stay in the ball: distance {float((far - budget).max()):.2g}"
                " more than eps",
            )
        self._check_no_worse(found, x, y, must)

    def _check_no_worse(self, found: Tensor, x: Tensor, y: Tensor, must: Rules) -> None:
        with torch.no_grad():
            before, after = self.defense(x), self.defense(found)
        was_wrong, wrong = before.argmax(1) != y, after.argmax(1) != y
        must(
            (wrong | ~was_wrong).all(),
            "an image that the model got wrong is right after the attack",
        )
        if isinstance(self.attack, BudgetAttack):
            tolerance = 1e-4 + 1e-4 * cross_entropy(before, y)
            higher = cross_entropy(after, y) >= cross_entropy(before, y) - tolerance
            must(
                (wrong | higher).all(),
                "it must return the best it saw; this is worse than the clean image",
            )


def _call(case: AttackCase, call: tuple[str, Tensor, Tensor, Eps]) -> Iterable[str]:
    where, x, y, eps = call
    # Copies: what one call writes into its images must not reach the next.
    case.check(where, x.clone(), y.clone(), eps)
    return ()


def _repeats(case: AttackCase, eps: Eps) -> Iterable[str]:
    x, y = case.images, case.labels
    require(
        torch.equal(case.run(x, y, eps), case.run(x, y, eps)),
        f"{case.name}: the same generator and seed must give the same images",
    )
    return ()


def _finds(case: AttackCase, eps: Eps) -> Iterable[str]:
    x, y = case.images, case.labels
    fooled = case.defense.predict(case.run(x, y, eps).detach()) != y
    require(
        bool(fooled.any()),
        f"{case.name}: it found an adversarial example for none of {len(x)} images of a linear"
        " model, each of which has one within the budget",
    )
    return ()


def _spread(attack: Attack, x: Tensor) -> float:
    """How often float32's spacing may add up: over all pixels, not at all in l-inf and l0."""
    power = {"linf": 0.0, "l0": 0.0, "l2": 0.5, "l1": 1.0}[attack.norm]
    return math.pow(x[0].numel(), power)
