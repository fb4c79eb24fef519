"""What the checks of defenses and of attacks share: tiny data, rules, findings."""

import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.info import DatasetInfo
from benchmark.models.defense import Defense
from benchmark.seeding import generator, seeded
from benchmark.training.settings import TrainingSettings

GREY = DatasetInfo("tiny-grey", (1, 28, 28), 10, tuple("0123456789"), augment=False)
COLOUR = DatasetInfo("tiny-colour", (3, 32, 32), 10, tuple("0123456789"), augment=True)

SHORT = TrainingSettings(epochs=1, batch_size=16, holdout=4, adversary_steps=2)
"""Training of the check: the default of a defense that takes ``training``."""

WIDTH = 0.1
"""Width of the check: the default of a defense that takes ``width``."""

N = 8
"""Images of a check."""

AMBIENT = 1_597_463_007
"""Seed of the global random state that a check starts from; unlikely to be a plugin's own."""


class ConformanceWarning(UserWarning):
    """Something that a plugin may do, but that its author should know."""


def tiny_dataset(info: DatasetInfo = GREY, n: int = 40, seed: int = 0) -> ImageDataset:
    """Return ``n`` images of noise around a brightness per class: quick to make and to learn."""
    rng = generator(seed)
    labels = torch.arange(n) % info.n_classes
    centre = (labels * 255 // max(1, info.n_classes - 1)).view(n, 1, 1, 1)
    noise = torch.randint(-64, 65, (n, *info.shape), generator=rng)
    images = (centre + noise).clamp(0, 255).to(torch.uint8)
    return ImageDataset.from_tensors(
        info, images, labels, torch.arange(n), source="embedded", n_available=n
    )


def require(holds: bool | Tensor, rule: str) -> None:
    """Raise an AssertionError that names ``rule`` unless it ``holds``."""
    # No assert statement: the rules must hold under python -O, too.
    if not holds:
        raise AssertionError(rule)


@dataclass(frozen=True)
class Rules:
    """The rules of what is checked, which each message names first: ``who``."""

    who: str

    def __call__(self, holds: bool | Tensor, rule: str) -> None:
        """See :func:`require`."""
        require(holds, self.named(rule))

    def named(self, rule: str) -> str:
        """Return ``rule`` after the name of what is checked."""
        return f"{self.who}: {rule}"


def report(findings: Iterable[str]) -> list[str]:
    """Return the findings, each raised as a ConformanceWarning too."""
    found = list(findings)
    for finding in found:
        warnings.warn(finding, ConformanceWarning, stacklevel=3)
    return found


def snapshot(defense: Defense) -> dict[str, Tensor]:
    """Return a copy of a defense's whole state."""
    return {name: tensor.clone() for name, tensor in defense.state_dict().items()}


def changed_tensors(defense: Defense, before: dict[str, Tensor]) -> str:
    """Return the names of the tensors that differ from ``before``, separated by commas."""
    now = defense.state_dict()
    differ = [
        name for name in before if name not in now or not torch.equal(now[name], before[name])
    ]
    return ", ".join([*differ, *(name for name in now if name not in before)])


@contextmanager
def moved_generators() -> Iterator[list[str]]:
    """Yield a list that names, after the block, the global generators that it moved.

    Python's, NumPy's and torch's.
    """
    states: dict[str, Callable[[], Any]] = {
        "random": random.getstate,
        "numpy.random": lambda: [repr(part) for part in np.random.get_state()],
        "torch": lambda: torch.get_rng_state().tolist(),
    }
    moved: list[str] = []
    # A state of its own: otherwise a fit that seeds globally might set the seed that is there.
    with seeded(AMBIENT):
        before = {name: state() for name, state in states.items()}
        yield moved
        moved += [name for name, state in states.items() if state() != before[name]]
