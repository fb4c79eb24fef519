"""What a gradient attack ascends: losses per sample, higher where the model is closer to failing.

Each maps logits (N, K) and labels (N,) to a loss (N,).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


TIED = 1e-6
"""Logits that differ by less than this share of the largest one tie (docs/constants.md)."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy; in float32 its gradient dies out on confident models."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the best other logit minus the true one; its gradient does not saturate.

    Positive where the model errs (Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644).
    """
    true = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - true


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference of logits ratio (Croce and Hein 2020, https://arxiv.org/abs/2003.01690).

    The margin over the range from the largest to the third largest logit, so that scaling all
    logits changes nothing. Below four classes the third logit may be the smallest, or missing, and
    the range may come down to the margin itself, a constant loss without gradient. There the range
    is that of all logits, taken as a constant: scale-free still, and its gradient the margin's.

    The same holds where the second and the third logit tie up to rounding. Where all logits that
    count tie, the margin itself is the loss.
    """
    rounding = TIED * logits.detach().abs().amax(1)
    if logits.shape[1] > 3:
        top = logits.topk(3, dim=1).values
        spread = top[:, 0] - top[:, 2]
        spread = torch.where(top[:, 1] - top[:, 2] > rounding, spread, spread.detach())
    else:
        spread = (logits.amax(1) - logits.amin(1)).detach()
    return margin(logits, y) / torch.where(spread > rounding, spread, 1)


LOSSES: Mapping[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}


# --- towards a class -----------------------------------------------------------------------------

TargetedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps logits (N, K), labels (N,) and the classes to reach (N,) to a loss (N,)."""


def targeted_cross_entropy(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return the log-probability of the class to reach."""
    return -F.cross_entropy(logits, target, reduction="none")


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return the logit of the class to reach minus the true one."""
    pair = logits.gather(1, torch.stack([target, y], 1))
    return pair[:, 0] - pair[:, 1]


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return the targeted difference of logits ratio (Croce and Hein 2020, as :func:`dlr`).

    The lead of the class to reach over the range from the largest logit to the mean of the third
    and the fourth. Below four classes, and where the range is nothing but rounding, the range of
    all logits taken as a constant, as in :func:`dlr`.
    """
    rounding = TIED * logits.detach().abs().amax(1)
    spread = (logits.amax(1) - logits.amin(1)).detach()
    if logits.shape[1] > 3:
        top = logits.topk(4, dim=1).values
        own = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
        spread = torch.where(own > rounding, own, spread)
    lead = targeted_margin(logits, y, target)
    return lead / torch.where(spread > rounding, spread, 1)


TARGETED: Mapping[str, TargetedLoss] = {
    "cross_entropy": targeted_cross_entropy,
    "margin": targeted_margin,
    "dlr": targeted_dlr,
}
"""The losses of ``LOSSES`` for a class to reach."""


def towards(name: str, target: Tensor | None) -> Loss:
    """Return the loss ``name``, for the classes ``target`` (N,) if there are any to reach."""
    if target is None:
        return LOSSES[name]
    return lambda logits, y: TARGETED[name](logits, y, target)
