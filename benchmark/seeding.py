"""Reproducible randomness for code that takes no generator (layers' initial weights, dropout).

Our own code passes ``torch.Generator`` objects. What cannot take one runs inside
:func:`seeded`, which leaves the caller's global random state as it was.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed Python, NumPy and torch with ``seed`` inside the block and restore them after it."""
    device = torch.device(device)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on ``device``, seeded."""
    return torch.Generator(device=device).manual_seed(seed)
