"""One step of gradient descent, which every update of Algorithm 1 is."""

from torch import Tensor
from torch.optim import Optimizer


def descend(loss: Tensor, *optimizers: Optimizer) -> None:
    """Move what the ``optimizers`` hold by one step of each against the gradient of ``loss``."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
