"""The two families of attacks.

Attacks are frozen dataclasses of hyper-parameters. They search; the harness judges: success, the
box and the ball are checked outside (:mod:`benchmark.evaluation.sweep`), never by the attack.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmark.attacks.norms import Eps
from benchmark.attacks.view import AttackView
from benchmark.errors import UsageError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Attack:
    """What both families share: the norm and the library that an attack comes from."""

    library: ClassVar[str] = "inhouse"

    needs_gradient: ClassVar[bool] = True
    """Whether the attack follows the gradient from the logits back to the image. One that only asks
    for answers runs on every defense as it is."""

    needs_generator: ClassVar[bool] = False
    """Whether the attack searches the latents of the defense's generator."""

    norm: str = "linf"


@dataclass(frozen=True, kw_only=True)
class BudgetAttack(Attack, ABC):
    """Searches within a ball of radius ``eps``; run once for every eps of a sweep."""

    @abstractmethod
    def run(
        self, view: AttackView, x: Tensor, y: Tensor, *, eps: Eps, generator: torch.Generator
    ) -> Tensor:
        """Return the best images (N, C, H, W) found for ``x`` in [0, 1] with labels ``y`` (N,).

        ``eps`` is a float or a tensor (N,). The result lies in the ball and in the box; where the
        search failed it is the best iterate seen, not the clean image.
        """


@dataclass(frozen=True, kw_only=True)
class SweepAttack(BudgetAttack, ABC):
    """A budget attack that can also search for all eps of a sweep at once."""

    @property
    @abstractmethod
    def serves_sweeps(self) -> bool:
        """Whether it does so with its settings."""

    @abstractmethod
    def descend(
        self,
        view: AttackView,
        x: Tensor,
        y: Tensor,
        *,
        budgets: Sequence[float],
        seeds: Sequence[int],
        batch_size: int,
        advance: Callable[[int], None],
    ) -> Tensor:
        """Return, per sample, an adversarial image (N, C, H, W) in the smallest ball with one.

        ``x`` in [0, 1] are images that the deterministic model gets right, ``y`` (N,) their labels,
        ``budgets`` the sweep's eps, ascending and above 0; the result is judged at each by its
        distance. ``seeds`` (N,) draw each sample's random numbers and ``batch_size`` samples are
        searched at a time; neither that nor the order may change a sample's result. ``advance``
        takes how many samples were finished.
        """


@dataclass(frozen=True, kw_only=True)
class MinimalAttack(Attack, ABC):
    """Searches the nearest adversarial image; run once and judged at every eps."""

    @abstractmethod
    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the nearest adversarial images (N, C, H, W) found for ``x`` in [0, 1]."""


def build_attack(cls: Any, name: str, norm: str, params: Mapping[str, Any]) -> Attack:
    """Build an attack from a preset's settings; UsageError names a wrong one."""
    known = [field.name for field in fields(cls)]
    for key in params:
        if key not in known:
            raise unknown_name(f"parameter of attack {name}", key, known)
    try:
        attack: Attack = cls(norm=norm, **params)
    except (TypeError, ValueError) as error:
        raise UsageError(f"attack {name}: {error}") from None
    return attack
