"""Attacks of the Adversarial Robustness Toolbox (https://github.com/Trusted-AI/adversarial-robustness-toolbox).

ART works on NumPy arrays of float32. Every hyper-parameter is set here; docs/attack-libraries.md
lists how its attacks differ from others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.attack import Attack
from benchmark.attacks.peers import Call, Naming, PeerCW, PeerPGD, Served, adapt
from benchmark.errors import unknown_name
from benchmark.libraries import AttackLibrary
from benchmark.view import AttackView

NORMS: Mapping[str, Any] = {"linf": np.inf, "l2": 2}


def classifier(view: AttackView, x: Tensor) -> Any:
    """Return ART's estimator around ``view`` for images like ``x`` (N, C, H, W)."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=Served(view),
        # The sum: dividing by the batch size could underflow the gradient of a confident image.
        loss=nn.CrossEntropyLoss(reduction="sum"),
        input_shape=tuple(x.shape[1:]),
        nb_classes=view.defense.info.n_classes,
        optimizer=None,
        channels_first=True,
        clip_values=(0.0, 1.0),
        preprocessing_defences=None,
        postprocessing_defences=None,
        preprocessing=None,
        device_type="gpu" if x.is_cuda else "cpu",
    )


def generate(attack: Any, view: AttackView, x: Tensor, y: Tensor) -> Tensor:
    """Run an ART attack on ``x`` with labels ``y`` (N,), both brought to NumPy and back."""
    one_hot = F.one_hot(y, view.defense.info.n_classes).cpu().numpy().astype(np.float32)
    found = attack.generate(x=x.detach().cpu().numpy().copy(), y=one_hot)
    return torch.as_tensor(np.asarray(found), device=x.device)


@dataclass(frozen=True, kw_only=True)
class PGD(PeerPGD):
    """ART's ProjectedGradientDescent; ``restarts`` are its random initialisations."""

    library: ClassVar[str] = "art"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"art restarts at random points only, got restarts {self.restarts}")

    def search(
        self, view: AttackView, x: Tensor, y: Tensor, eps: float, generator: torch.Generator
    ) -> Tensor:
        """See :class:`benchmark.attacks.peers.ByBudget`."""
        from art.attacks.evasion import ProjectedGradientDescent

        attack = ProjectedGradientDescent(
            estimator=classifier(view, x),
            norm=NORMS[self.norm],
            eps=eps,
            eps_step=self.step(eps),
            decay=None,
            max_iter=self.steps,
            targeted=False,
            num_random_init=self.restarts if self.random_start else 0,
            batch_size=len(x),
            random_eps=False,
            summary_writer=False,
            verbose=False,
        )
        return generate(attack, view, x, y)


@dataclass(frozen=True, kw_only=True)
class PGDL2(PGD):
    """The same in l2."""

    norm: str = "l2"


@dataclass(frozen=True, kw_only=True)
class FGSM(PGD):
    """One full step from the image."""

    steps: int = 1
    random_start: bool = False


@dataclass(frozen=True, kw_only=True)
class CW(PeerCW):
    """ART's CarliniL2Method: gradient descent with a line search in place of Adam.

    ``lr`` is where the line search starts; it halves and doubles up to ``max_halving`` and
    ``max_doubling`` times in each iteration.
    """

    library: ClassVar[str] = "art"
    fixed: ClassVar[Mapping[str, Any]] = {"abort_early": False}

    abort_early: bool = False
    max_halving: int = 5
    max_doubling: int = 5

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`benchmark.attack.MinimalAttack.run`; where it fails, the clean image."""
        from art.attacks.evasion import CarliniL2Method

        attack = CarliniL2Method(
            classifier=classifier(view, x),
            confidence=self.confidence,
            targeted=self.targeted,
            learning_rate=self.lr,
            binary_search_steps=self.search_steps,
            max_iter=self.steps,
            initial_const=self.initial_c,
            max_halving=self.max_halving,
            max_doubling=self.max_doubling,
            batch_size=len(x),
            verbose=False,
        )
        return generate(attack, view, x, y)


# --- by name -----------------------------------------------------------------------------------

MANAGED = ("estimator", "classifier", "batch_size", "verbose", "targeted", "summary_writer")


def _run(cls: type, call: Call, arguments: dict[str, Any]) -> Tensor:
    estimator = classifier(call.view, call.x)
    ours = {
        "estimator": estimator,
        "classifier": estimator,
        "batch_size": len(call.x),
        "verbose": False,
        "targeted": False,
        "summary_writer": False,
    }
    taken = signature(cls).parameters
    attack = cls(**arguments, **{name: ours[name] for name in MANAGED if name in taken})
    return generate(attack, call.view, call.x, call.y)


@cache
def named(name: str) -> type[Attack]:
    """Return an adapter for ART's evasion attack class ``name``.

    Judged in the class's own ``norm``; without one in l2 if it is minimal or says L2, else linf.
    """
    from art.attacks import evasion
    from art.attacks.attack import EvasionAttack

    known = {
        key: value
        for key, value in vars(evasion).items()
        if isinstance(value, type) and issubclass(value, EvasionAttack)
    }
    if name not in known:
        raise unknown_name("attack of art", name, known)
    cls = known[name]
    minimal = "eps" not in signature(cls).parameters
    l2 = "linf" not in name.lower() and (minimal or "l2" in name.lower())
    naming = Naming("art", MANAGED, NORMS, "eps_step", _run)
    return adapt(naming, cls, "l2" if l2 else "linf")


LIBRARY = AttackLibrary(
    name="art",
    package="art",
    distribution="adversarial-robustness-toolbox",
    install="pip install adversarial-robustness-toolbox",
    attacks={"pgd": PGD, "pgd-l2": PGDL2, "fgsm": FGSM, "cw": CW},
    named=named,
)
