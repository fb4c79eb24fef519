"""How a defense is trained: the settings that a preset gives per dataset and defense."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from benchmark.attacks.pgd import PGD
from benchmark.config.eps import check_eps, check_step
from benchmark.errors import UsageError, unknown_name


@dataclass(frozen=True)
class TrainingSettings:
    """How a defense is trained; a preset sets it per dataset and refines it per defense.

    ``adversary_*`` describe the l-inf PGD that adversarial training trains on and whose success
    every defense's progress shows: ``adversary_eps`` and ``adversary_step_size`` in [0, 1] pixel
    units. Learning rates halve every ``halve_every`` epochs (0: never). ``holdout`` training
    images, at most a tenth of them, are set aside to follow progress.
    """

    epochs: int = 10
    batch_size: int = 100
    lr: float = 1e-3
    halve_every: int = 30
    augment: bool = True
    holdout: int = 500
    adversary_eps: float = 0.03
    adversary_steps: int = 10
    adversary_step_size: float | None = None

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.adversary_steps) < 1:
            raise UsageError("training: epochs, batch_size and adversary_steps must be at least 1")
        if not self.lr > 0:
            raise UsageError(f"training: lr must be above 0, got {self.lr}")
        try:
            check_eps(self.adversary_eps, "linf")
            check_step(self.adversary_step_size, "linf")
        except (UsageError, ValueError) as error:
            raise UsageError(f"training: adversary: {error}") from None

    @classmethod
    def build(cls, params: Mapping[str, Any]) -> "TrainingSettings":
        """Build settings from a preset's table; UsageError names an unknown one."""
        known = [f.name for f in fields(cls)]
        for key in params:
            if key not in known:
                raise unknown_name("training setting", key, known)
        return cls(**params)

    @property
    def adversary(self) -> PGD:
        """The attack of adversarial training.

        It takes every step: the published inner loop (Madry et al. 2017) maximises the loss,
        where an evaluation may stop at the first iterate that fools the model.
        """
        return PGD(
            steps=self.adversary_steps,
            step_size=self.adversary_step_size,
            early_stop=False,
        )
