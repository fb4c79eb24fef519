"""Attack a batch and judge the result: the one place for everything that attacks.

:func:`attack_batch` tells the story: an attack searches in a view of the defense, what it left of
its batch is checked, its images are held to the threat model, and ``predict`` decides.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmark.attacks.base import Attack, BudgetAttack, MinimalAttack
from benchmark.attacks.losses import margin
from benchmark.attacks.norms import distance, project
from benchmark.attacks.view import INSIDE, AttackView, attack_view, clamps_input
from benchmark.batching import BATCH_SIZE, Batches
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import reach, tolerance
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import PluginError
from benchmark.models.contract import labels
from benchmark.models.defense import Defense
from benchmark.models.model_copy import check_modes, modes
from benchmark.seeding import seeded

NOT_A_NUMBER = "not a number, taken as the clean image"
LEFT_BOX = "left the box, projected"
LEFT_BALL = "left the ball, projected"

Searching = Callable[[AttackView, Tensor, Tensor], Tensor]
"""Searches adversarial images for images (N, C, H, W) with labels (N,) through a view."""


@dataclass(frozen=True)
class Violation:
    """A rule that ``count`` of a batch's images broke, at worst ``by`` this much."""

    what: str
    count: int
    by: float = 0.0


@dataclass(frozen=True)
class ViewSettings:
    """How an attack sees a defense: draws per query, BPDA, and how far inside the box."""

    eot: int = 1
    bpda: bool = False
    inside: float = 0.0

    @classmethod
    def of(cls, defense: Defense, spec: AttackSpec, data: ImageDataset) -> "ViewSettings":
        """Return those of ``spec`` on ``defense``, inside the box where that clamps ``data``."""
        return cls(spec.eot, spec.bpda, inside_for(defense, spec, data))

    def view(self, defense: Defense, rows: int) -> AbstractContextManager[AttackView]:
        """Open a view of ``defense`` for a batch of ``rows`` images."""
        return attack_view(defense, rows, eot=self.eot, bpda=self.bpda, inside=self.inside)


@dataclass(frozen=True)
class Perturbed:
    """A batch's images within the threat model, and what the search took.

    ``x_adv`` (N, C, H, W) is on the images' device, the rest on the CPU: ``distance`` (N,) float64,
    ``forwards`` and ``backwards`` (N,) int64. ``violations`` were repaired. ``dropped`` counts the
    images whose gradient held NaN or infinity, and ``dtype`` is what the gradient was taken in.
    """

    x_adv: Tensor
    distance: Tensor
    forwards: Tensor
    backwards: Tensor
    violations: tuple[Violation, ...]
    dropped: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Judged(Perturbed):
    """A batch's images as scored: ``pred`` (N,) int64 and ``success`` (N,) bool, on the CPU."""

    pred: Tensor
    success: Tensor


def attack_batch(
    defense: Defense,
    search: Searching,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str,
    n_classes: int,
    settings: ViewSettings | None = None,
    view: AbstractContextManager[AttackView] | None = None,
    batches: Batches | None = None,
) -> Judged:
    """Attack images ``x`` (N, C, H, W) in [0, 1] with labels ``y`` (N,), and judge what comes back.

    An infinite ``eps`` bounds nothing. ``view``, in place of the ``settings``, is a caller's own:
    one that records. ``batches`` are those in which ``predict`` is asked. PluginError if the attack
    or the defense breaks its interface.
    """
    found = search_batch(defense, search, x, y, eps=eps, norm=norm, settings=settings, view=view)
    batches = batches or Batches(BATCH_SIZE)
    parts = batches.each(found.x_adv, lambda part: labels(defense, part, n_classes))
    pred = torch.cat(parts)
    success = adversarial(pred, y.cpu(), found.distance, eps)
    return Judged(**vars(found), pred=pred, success=success)


def search_batch(
    defense: Defense,
    search: Searching,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str,
    settings: ViewSettings | None = None,
    view: AbstractContextManager[AttackView] | None = None,
) -> Perturbed:
    """Do the first half of :func:`attack_batch`: all but asking ``predict``.

    For images made against one defense and scored on another.
    """
    with view or (settings or ViewSettings()).view(defense, len(x)) as opened:
        before = modes(defense)
        given = x.clone(), y.clone()
        returned = search(opened, *given)
        check_batch(opened, given, (x, y), before)
        forwards, backwards = opened.counts()
        dropped, dtype = opened.dropped(), opened.dtype
    x_adv, violations = enforce_threat_model(returned, x, eps, norm)
    far = distance(x_adv, x, norm).cpu()
    return Perturbed(x_adv, far, forwards, backwards, tuple(violations), dropped, dtype)


def searching(attack: Attack, eps: float, rng: torch.Generator) -> Searching:
    """Return how ``attack`` searches a batch: within ``eps``, or as near as it can."""
    if isinstance(attack, BudgetAttack):
        return partial(attack.run, eps=eps, generator=rng)
    assert isinstance(attack, MinimalAttack)
    return partial(attack.run, generator=rng)


def adversarial(pred: Tensor, y: Tensor, far: Tensor, eps: float) -> Tensor:
    """Return which images (N,) bool are misclassified at a distance ``far`` within ``eps``."""
    return (pred != y) & (far <= reach(eps))


def enforce_threat_model(
    x_adv: Tensor, x: Tensor, eps: float, norm: str
) -> tuple[Tensor, list[Violation]]:
    """Return images (N, C, H, W) within the box and the eps-ball, and what was wrong before.

    ``x`` are the clean images. An infinite ``eps`` (a minimal attack) bounds nothing.
    PluginError unless ``x_adv`` are as many images, in floating point.
    """
    violations: list[Violation] = []

    def note(what: str, which: Tensor, by: Tensor | None = None) -> None:
        if which.any():
            most = 0.0 if by is None else float(by[which].max())
            violations.append(Violation(what, int(which.sum()), most))

    if not isinstance(x_adv, Tensor) or not x_adv.is_floating_point():
        kind = x_adv.dtype if isinstance(x_adv, Tensor) else f"a {type(x_adv).__name__}"
        raise PluginError(
            f"the attack returned {kind}; it must return images in [0, 1] as a float32 tensor"
        )
    # A library may compute in float64, on the CPU or in another memory layout.
    x_adv = x_adv.detach().to(x).contiguous()
    if x_adv.shape != x.shape:
        raise PluginError(f"the attack returned shape {tuple(x_adv.shape)} for {tuple(x.shape)}")
    broken = ~torch.isfinite(x_adv).flatten(1).all(1)
    note(NOT_A_NUMBER, broken)
    x_adv = torch.where(_per_image(broken, x), x, x_adv)
    outside = torch.maximum(-x_adv, x_adv - 1).flatten(1).amax(1)
    note(LEFT_BOX, outside > 0, outside)
    x_adv = x_adv.clamp(0, 1)
    if math.isinf(eps):
        return x_adv, violations
    excess = distance(x_adv, x, norm) - eps
    left = excess > tolerance(eps)
    note(LEFT_BALL, left, excess)
    return torch.where(_per_image(left, x), project(x_adv, x, eps, norm), x_adv), violations


def _per_image(mask: Tensor, x: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (x.dim() - 1))


def inside_for(defense: Defense, spec: AttackSpec, data: ImageDataset) -> float:
    """Return how far inside the box gradients must be taken: 0 unless the defense clamps."""
    few = data.head(min(8, len(data)))
    with attack_view(defense, len(few), eot=spec.eot, bpda=spec.bpda) as view:
        return INSIDE if clamps_input(view, few.x(), few.labels, margin) else 0.0


def check_batch(
    view: AttackView,
    given: tuple[Tensor, Tensor],
    clean: tuple[Tensor, Tensor],
    before: Mapping[str, bool],
) -> None:
    """Check what a search left of the images (N, C, H, W) and labels (N,) that it was ``given``.

    ``clean`` are the same ones, out of its reach, and ``before`` the model's :func:`modes`.
    PluginError if either changed, or if the model answered with NaN or infinity.
    """
    # The distance is measured from x: an attack that moved it would seem to have moved nothing.
    if not all(torch.equal(now, was) for now, was in zip(given, clean, strict=True)):
        raise PluginError(
            "the attack changed the images or labels that it was given; it must work on a copy"
            " (x.clone())"
        )
    check_modes(view.defense, before, "the attack, or forward under attack,")
    broken = view.broken()
    if broken:
        raise PluginError(
            f"forward returned logits that are not finite (NaN or infinite) {broken} times during"
            " the search, for images in [0, 1]; an attack cannot follow them"
        )


def predict(defense: Defense, data: ImageDataset) -> Tensor:
    """Return the defense's labels (n,) for clean images, as deployed; int64, on the CPU."""
    rows = torch.arange(len(data), device=data.device)
    n_classes = data.info.n_classes
    parts = Batches(BATCH_SIZE).each(rows, lambda part: labels(defense, data.x(part), n_classes))
    return torch.cat(parts)


class CleanPredictions:
    """What one trained defense predicts for clean images: asked once per set of images, and kept.

    A stochastic defense is asked again each time, under the caller's seed: each attack on it is
    judged beside predictions of its own draw.
    """

    def __init__(self, defense: Defense) -> None:
        self.defense = defense
        self._kept: dict[str, Tensor] = {}

    def of(self, data: ImageDataset) -> Tensor:
        """Return the labels (n,), int64, on the CPU, of the images of ``data``."""
        if self.defense.stochastic:
            return predict(self.defense, data)
        if data.checksum not in self._kept:
            # One seed for all: undeclared noise must not depend on who asks first.
            with seeded(0, data.device, self.defense):
                self._kept[data.checksum] = predict(self.defense, data)
        return self._kept[data.checksum].clone()
