"""Which class a search moves each image to.

A target shapes what an attack ascends and nothing else: the harness counts every misclassification
as a success, and an image leaves the search as soon as it is misclassified as whatever.
"""

import torch
from torch import Tensor

from benchmark.attacks.view import AttackView
from benchmark.errors import UsageError

UNTARGETED = "untargeted"
NEXT = "next-likely"
LEAST = "least-likely"

Target = str | int
"""``untargeted``, ``next-likely``, ``least-likely`` or a class by its label."""


def check_target(target: Target) -> None:
    """Raise a ValueError unless ``target`` is a :data:`Target`."""
    whole = isinstance(target, int) and not isinstance(target, bool) and target >= 0
    if not whole and target not in (UNTARGETED, NEXT, LEAST):
        raise ValueError(
            f"target must be {UNTARGETED}, {NEXT}, {LEAST} or a label such as 3, got {target!r}"
        )


def wrong_classes(logits: Tensor, y: Tensor) -> Tensor:
    """Return the classes other than the true ones ``y`` (N,), the likeliest first (N, K - 1)."""
    order = logits.argsort(dim=1, descending=True)
    return order[order != y[:, None]].view(len(y), -1)


def targets_of(view: AttackView, x: Tensor, y: Tensor, target: Target) -> Tensor | None:
    """Return the class (N,) that each image ``x`` is to reach; None if untargeted.

    By the logits at ``x``: one forward. An image that is of the target's own class goes to its
    likeliest wrong one. UsageError if the model has no such class, or no two classes.
    """
    if target == UNTARGETED:
        return None
    logits = view.logits(x)
    classes = logits.shape[1]
    if classes < 2:
        raise UsageError("a targeted attack needs a model with at least two classes")
    wrong = wrong_classes(logits, y)
    if target == LEAST:
        return wrong[:, -1]
    if target == NEXT:
        return wrong[:, 0]
    assert isinstance(target, int)
    if target >= classes:
        raise UsageError(f"target {target}: the model's classes are 0 to {classes - 1}")
    return torch.where(y == target, wrong[:, 0], target)
