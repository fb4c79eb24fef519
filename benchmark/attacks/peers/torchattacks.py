"""Attacks of torchattacks (https://github.com/Harry24k/adversarial-attacks-pytorch).

Its attack objects hold eps as mutable state, so each run makes a new one. Every hyper-parameter
is set here; docs/attack-libraries.md lists how its attacks differ from others.
"""

import io
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmark.attacks.base import Attack
from benchmark.attacks.peers.base import Call, Naming, PeerCW, PeerPGD, Served, adapt, variants
from benchmark.attacks.peers.library import AttackLibrary
from benchmark.attacks.view import AttackView
from benchmark.errors import UsageError, unknown_name

NORMS: Mapping[str, Any] = {"linf": "Linf", "l2": "L2"}


def build(cls: Any, view: AttackView, x: Tensor, **settings: Any) -> Any:
    """Return a torchattacks object on ``view`` for images on the device of ``x``."""
    with redirect_stdout(io.StringIO()):  # it prints where a model has no parameters
        attack = cls(Served(view), **settings)
    attack.set_device(x.device)
    attack.set_model_training_mode(
        model_training=False, batchnorm_training=False, dropout_training=False
    )
    return attack


@dataclass(frozen=True, kw_only=True)
class PGD(PeerPGD):
    """torchattacks' PGD, in l2 its PGDL2."""

    library: ClassVar[str] = "torchattacks"
    fixed: ClassVar[Mapping[str, Any]] = {**PeerPGD.fixed, "restarts": 1}

    def search(
        self, view: AttackView, x: Tensor, y: Tensor, eps: float, generator: torch.Generator
    ) -> Tensor:
        """See :class:`benchmark.attacks.peers.base.ByBudget`."""
        import torchattacks

        settings: dict[str, Any] = {
            "eps": eps,
            "alpha": self.step(eps),
            "steps": self.steps,
            "random_start": self.random_start,
        }
        if self.norm == "linf":
            attack = build(torchattacks.PGD, view, x, **settings)
        else:
            attack = build(torchattacks.PGDL2, view, x, eps_for_division=1e-10, **settings)
        found: Tensor = attack(x, y)
        return found.detach()


PGDL2, FGSM = variants(PGD)


@dataclass(frozen=True, kw_only=True)
class CW(PeerCW):
    """torchattacks' CW: one constant c, ``initial_c``, and no search for a better one.

    It aborts on the batch's total cost, always; ``confidence`` is its kappa.
    """

    library: ClassVar[str] = "torchattacks"
    fixed: ClassVar[Mapping[str, Any]] = {"search_steps": 1, "abort_early": True}

    search_steps: int = 1
    initial_c: float = 1.0

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`benchmark.attacks.base.MinimalAttack.run`; where it fails, the clean image."""
        import torchattacks

        attack = build(
            torchattacks.CW,
            view,
            x,
            c=self.initial_c,
            kappa=self.confidence,
            steps=self.steps,
            lr=self.lr,
        )
        if self.targeted:
            attack.set_mode_targeted_by_label(quiet=True)
        found: Tensor = attack(x, y)
        return found.detach()


# --- by name -----------------------------------------------------------------------------------

MANAGED = ("model", "verbose")


UNABLE: Mapping[str, str] = {
    "LGV": "it trains models of its own, on training images that the harness does not give it",
    "MultiAttack": "it combines other attacks, given as Python objects",
}
"""Attacks that nothing in this harness can run, and why."""


def _run(cls: type, call: Call, arguments: dict[str, Any]) -> Tensor:
    taken = signature(cls).parameters
    if "verbose" in taken:
        arguments["verbose"] = False
    for name, value in (("n_classes", call.view.defense.info.n_classes), ("seed", None)):
        if name in taken and arguments[name] == taken[name].default:
            # The default is 10 classes, and a seed that is fixed or the time of day.
            arguments[name] = _seed(call.generator) if name == "seed" else value
    attack, y = build(cls, call.view, call.x, **arguments), call.y
    if cls.__name__ == "JSMA":  # it aims at the next of ten classes, however many there are
        attack.set_mode_targeted_by_label(quiet=True)
        y = (y + 1) % call.view.defense.info.n_classes
    found: Tensor = attack(call.x, y)
    return found.detach()


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator, device=generator.device))


@cache
def classes() -> Mapping[str, type]:
    """Return the attack classes of torchattacks by name."""
    import torchattacks
    from torchattacks.attack import Attack as Base

    return {
        key: value
        for key, value in vars(torchattacks).items()
        if isinstance(value, type) and issubclass(value, Base) and value is not Base
    }


@cache
def named(name: str) -> type[Attack]:
    """Return an adapter for torchattacks' class ``name``; UsageError if it cannot run here.

    Judged in the class's own ``norm``; without one in the first that its docstring names under
    "Distance Measure" and the harness knows, else in linf.
    """
    known = classes()
    if name not in known:
        able = [key for key in known if key not in UNABLE]
        raise unknown_name("attack of torchattacks", name, able)
    if name in UNABLE:
        raise UsageError(f"torchattacks:{name} cannot run here: {UNABLE[name]}")
    cls = known[name]
    measure = re.search(r"Distance Measure\s*:(.*)", cls.__doc__ or "")
    words = re.findall(r"linf|l2", measure[1].lower()) if measure else []
    naming = Naming("torchattacks", MANAGED, NORMS, "alpha", _run)
    return adapt(naming, cls, words[0] if words else "linf")


LIBRARY = AttackLibrary(
    name="torchattacks",
    package="torchattacks",
    distribution="torchattacks",
    install="pip install torchattacks",
    attacks={"pgd": PGD, "pgd-l2": PGDL2, "fgsm": FGSM, "cw": CW},
    named=named,
    classes=classes,
)
