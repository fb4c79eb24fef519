"""Attacks of adv-lib (https://github.com/jeromerony/adversarial-library).

It imports visdom, which does not build with today's setuptools, so it is in no extra of this
package. Every hyper-parameter is set here; docs/attack-libraries.md lists how its attacks differ
from others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmark.attacks.peers.base import PeerCW, PeerPGD, Served
from benchmark.attacks.peers.library import AttackLibrary
from benchmark.attacks.view import AttackView

LOSSES: Mapping[str, str] = {"cross_entropy": "ce", "margin": "dl", "dlr": "dlr"}


@dataclass(frozen=True, kw_only=True)
class PGD(PeerPGD):
    """adv-lib's pgd_linf: returns the latest iterate that fooled the model, else the clean image.

    The iterate after the last step is never looked at. Only samples that no restart has fooled
    the model with are restarted.
    """

    library: ClassVar[str] = "adv-lib"
    fixed: ClassVar[Mapping[str, Any]] = {
        "norm": "linf",
        "early_stop": False,
        "return_last": False,
    }

    return_last: bool = False

    def search(
        self, view: AttackView, x: Tensor, y: Tensor, eps: float, generator: torch.Generator
    ) -> Tensor:
        """See :class:`benchmark.attacks.peers.base.ByBudget`."""
        from adv_lib.attacks import pgd_linf

        found: Tensor = pgd_linf(
            model=Served(view),
            inputs=x,
            labels=y,
            ε=eps,
            targeted=False,
            steps=self.steps,
            random_init=self.random_start,
            restarts=self.restarts,
            loss_function=LOSSES[self.loss],
            absolute_step_size=self.step(eps),
            callback=None,
        )
        return found.detach()


@dataclass(frozen=True, kw_only=True)
class CW(PeerCW):
    """adv-lib's carlini_wagner_l2, a port of the authors' own code."""

    library: ClassVar[str] = "adv-lib"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.abort_early and self.steps < 10:
            raise ValueError(
                f"adv-lib's abort_early needs 10 steps or more, got {self.steps}: set it to false"
            )

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`benchmark.attacks.base.MinimalAttack.run`; where it fails, the clean image."""
        from adv_lib.attacks import carlini_wagner_l2

        found: Tensor = carlini_wagner_l2(
            model=Served(view),
            inputs=x,
            labels=y,
            targeted=self.targeted,
            confidence=self.confidence,
            learning_rate=self.lr,
            initial_const=self.initial_c,
            binary_search_steps=self.search_steps,
            max_iterations=self.steps,
            abort_early=self.abort_early,
            β_1=0.9,
            β_2=0.999,
            callback=None,
        )
        return found.detach()


LIBRARY = AttackLibrary(
    name="adv-lib",
    package="adv_lib",
    distribution="adv-lib",
    install="pip install visdom adv-lib (visdom needs an older setuptools to build)",
    attacks={"pgd": PGD, "cw": CW},
)
