"""Judging what an attack returned: is it in the box, is it in the ball, and where not, project it.

Shared by the eps sweep and the cross-check, so that both hold every library to the same rules.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.datasets import ImageDataset
from benchmark.defense import Defense
from benchmark.errors import PluginError
from benchmark.losses import margin
from benchmark.norms import distance, project
from benchmark.spec import AttackSpec
from benchmark.view import INSIDE, attack_view, clamps_input

TOLERANCE = 1e-5
"""How far outside the ball, relative to eps, an image may lie before it counts as outside."""

NOT_A_NUMBER = "not a number, taken as the clean image"
LEFT_BOX = "left the box, projected"
LEFT_BALL = "left the ball, projected"


@dataclass(frozen=True)
class Breach:
    """A rule that ``count`` of a batch's images broke, at worst ``by`` this much."""

    what: str
    count: int
    by: float = 0.0


def slack(eps: float) -> float:
    """How far outside the ball rounding alone may carry an image: relative to eps, plus float32's
    spacing at 1, which exceeds the relative part for the smallest budgets."""
    return eps * TOLERANCE + torch.finfo(torch.float32).eps


def admit(x_adv: Tensor, x: Tensor, eps: float, norm: str) -> tuple[Tensor, list[Breach]]:
    """Return images (N, C, H, W) within the box and the eps-ball, and what was wrong before.

    ``x`` are the clean images. An infinite ``eps`` (a minimal attack) bounds nothing.
    PluginError unless ``x_adv`` are as many images, in floating point.
    """
    breaches: list[Breach] = []

    def note(what: str, which: Tensor, by: Tensor | None = None) -> None:
        if which.any():
            most = 0.0 if by is None else float(by[which].max())
            breaches.append(Breach(what, int(which.sum()), most))

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
        return x_adv, breaches
    excess = distance(x_adv, x, norm) - eps
    left = excess > slack(eps)
    note(LEFT_BALL, left, excess)
    return torch.where(_per_image(left, x), project(x_adv, x, eps, norm), x_adv), breaches


def _per_image(mask: Tensor, x: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (x.dim() - 1))


def inside_for(defense: Defense, spec: AttackSpec, data: ImageDataset) -> float:
    """Return how far inside the box gradients must be taken: 0 unless the defense clamps."""
    few = data.head(min(8, len(data)))
    with attack_view(defense, len(few), eot=spec.eot, bpda=spec.bpda) as view:
        return INSIDE if clamps_input(view, few.x(), few.labels, margin) else 0.0
