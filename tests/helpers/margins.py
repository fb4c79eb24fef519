"""Keeps tests away from decision boundaries, where the last bit of a logit decides.

A processor, a batch size or a number of threads other than before adds up in another order. A test
that compares predictions across those states that no image it asks about is in doubt.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

MARGIN = 1e-4
"""Far above what orders of summation differ by in float32 for the small models here (1e-6)."""


def lead(logits: Tensor) -> Tensor:
    """Return how far the likeliest class leads the next, (N,), in float64."""
    top = logits.detach().double().topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


@contextmanager
def clear_answers(model: nn.Module, least: float = MARGIN) -> Iterator[None]:
    """Fail unless each image that ``model`` is asked about within the block is clearly of a class.

    ``least`` is the smallest lead of its logits.
    """
    leads: list[float] = []
    forward = model.forward  # not a hook, which ``predict`` goes past

    def watched(x: Tensor) -> Tensor:
        logits: Tensor = forward(x)
        leads.extend(lead(logits).tolist())
        return logits

    model.forward = watched
    try:
        yield
    finally:
        del model.forward
    assert leads, "the model was never asked"
    assert min(leads) >= least, f"{sum(each < least for each in leads)} images in doubt"
