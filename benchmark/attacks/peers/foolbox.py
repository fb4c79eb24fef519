"""Attacks of Foolbox (https://github.com/bethgelab/foolbox).

Every hyper-parameter is set here; docs/attack-libraries.md lists how its attacks differ from
others.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmark.attacks.norms import random_start
from benchmark.attacks.peers.base import PeerCW, PeerPGD, Served, variants
from benchmark.attacks.peers.library import AttackLibrary
from benchmark.attacks.view import AttackView


def model(view: AttackView, x: Tensor) -> Any:
    """Return Foolbox's model around ``view``, on the device of ``x``."""
    from foolbox import PyTorchModel

    return PyTorchModel(Served(view), bounds=(0, 1), device=x.device, preprocessing=None)


@dataclass(frozen=True, kw_only=True)
class PGD(PeerPGD):
    """Foolbox's LinfPGD and L2PGD.

    A random start follows the law that Foolbox uses, uniform in the ball, but is drawn from the
    harness's generator.
    """

    library: ClassVar[str] = "foolbox"
    shares_start: ClassVar[bool] = True

    def search(
        self, view: AttackView, x: Tensor, y: Tensor, eps: float, generator: torch.Generator
    ) -> Tensor:
        """See :class:`benchmark.attacks.peers.base.ByBudget`."""
        from foolbox import Misclassification
        from foolbox.attacks import L2PGD, LinfPGD

        base = LinfPGD if self.norm == "linf" else L2PGD
        attack = base(
            rel_stepsize=None,
            abs_stepsize=self.step(eps),
            steps=self.steps,
            random_start=self.random_start,
        )
        attack.get_random_start = lambda x0, epsilon: type(x0)(
            random_start(x0.raw, epsilon, self.norm, generator)
        )
        attack = attack.repeat(self.restarts)
        found: Tensor = attack(model(view, x), x, Misclassification(y), epsilons=eps)[0]
        return found.detach()


PGDL2, FGSM = variants(PGD)


@dataclass(frozen=True, kw_only=True)
class CW(PeerCW):
    """Foolbox's L2CarliniWagnerAttack.

    Where it fails it returns a black image, which a model may misclassify although nothing was
    found; the clean image is returned instead.
    """

    library: ClassVar[str] = "foolbox"

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`benchmark.attacks.base.MinimalAttack.run`; where it fails, the clean image."""
        from foolbox import Misclassification, TargetedMisclassification
        from foolbox.attacks import L2CarliniWagnerAttack

        attack = L2CarliniWagnerAttack(
            binary_search_steps=self.search_steps,
            steps=self.steps,
            stepsize=self.lr,
            confidence=self.confidence,
            initial_const=self.initial_c,
            abort_early=self.abort_early,
        )
        criterion = TargetedMisclassification(y) if self.targeted else Misclassification(y)
        found: Tensor = attack(model(view, x), x, criterion, epsilons=None)[0].detach()
        black = (found == 0).flatten(1).all(1).view(-1, *[1] * (x.dim() - 1))
        return torch.where(black, x, found)


LIBRARY = AttackLibrary(
    name="foolbox",
    package="foolbox",
    distribution="foolbox",
    install="pip install foolbox",
    attacks={"pgd": PGD, "pgd-l2": PGDL2, "fgsm": FGSM, "cw": CW},
)
