"""Scoring what an attack returned: predictions, the box, the ball, and what breaks a rule.

Shared by everything that attacks, so that all hold every attack to the same rules.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.losses import margin
from benchmark.attacks.norms import distance, project
from benchmark.attacks.view import INSIDE, AttackView, attack_view, clamps_input
from benchmark.batching import BATCH_SIZE, Batches
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import tolerance
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import PluginError
from benchmark.models.contract import labels
from benchmark.models.defense import Defense
from benchmark.models.model_copy import check_modes

NOT_A_NUMBER = "not a number, taken as the clean image"


LEFT_BOX = "left the box, projected"


LEFT_BALL = "left the ball, projected"


@dataclass(frozen=True)
class Violation:
    """A rule that ``count`` of a batch's images broke, at worst ``by`` this much."""

    what: str
    count: int
    by: float = 0.0


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
    data: ImageDataset,
    rows: Tensor,
    given: tuple[Tensor, Tensor],
    before: Mapping[str, bool],
) -> None:
    """Check what a search left of the images (N, C, H, W) and labels (N,) that it was ``given``.

    ``rows`` (N,) are where they stand in ``data``, ``before`` the model's :func:`modes`.
    PluginError if either is another now, or if the model answered with what is no number.
    """
    # The distance is measured from x: an attack that moved it would seem to have moved nothing.
    x, y = given
    if not (torch.equal(x, data.x(rows)) and torch.equal(y, data.labels[rows])):
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
