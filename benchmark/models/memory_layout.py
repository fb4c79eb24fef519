"""In which memory layout a defense computes: channels-last where it works, else contiguous.

Channels-last convolutions are up to twice as fast, on the CPU and on a GPU, and their answers
differ by rounding alone. But ``view`` cannot flatten what they return. A network that does so
raises, and is then kept contiguous; so are the images that it is given.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from benchmark.models.defense import Defense

Result = TypeVar("Result")

CONTIGUOUS = (
    "the network does not work in channels-last memory (it takes a view of a convolution's output):"
    " kept contiguous, which may be slower; flatten(1) or reshape would do in place of view"
)


def lay_out(
    defense: Defense, device: torch.device, layout: torch.memory_format = torch.channels_last
) -> None:
    """Move ``defense`` to ``device`` and its convolutions' weights to the memory ``layout``."""
    defense.to(device, memory_format=layout)  # type: ignore[call-overload]


def is_layout_error(error: BaseException) -> bool:
    """Tell whether ``error`` says that a tensor's memory layout allows no ``view``."""
    return isinstance(error, RuntimeError) and "view size is not compatible" in str(error)


def in_layout(
    defense: Defense, device: torch.device, do: Callable[[], Result], say: Callable[[str], None]
) -> Result:
    """Return ``do()``; where channels-last memory makes it raise, from a contiguous ``defense``.

    ``say`` then gets a line that says why.
    """
    try:
        return do()
    except RuntimeError as error:
        if not is_layout_error(error):
            raise
    lay_out(defense, device, torch.contiguous_format)
    result = do()  # where it raises again, the layout was not the reason
    say(CONTIGUOUS)
    return result


def differentiate(defense: Defense, x: Tensor) -> bool:
    """Tell whether a gradient that is not zero reaches images ``x`` (N, C, H, W) from forward.

    A surrogate of the defense's own is differentiated, too: the layout may fail there alone.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        if type(defense).surrogate is not Defense.surrogate:
            _slope(defense.surrogate(x), x)
        return _slope(defense(x), x)


def _slope(answer: Tensor, x: Tensor) -> bool:
    if not answer.requires_grad:
        return False
    # No plain sum: that of probabilities is constant.
    weights = torch.arange(1, answer.shape[1] + 1, device=answer.device)
    (slope,) = torch.autograd.grad((answer.float() * weights).sum(), x, allow_unused=True)
    return slope is not None and bool(slope.any())
