"""What the adapters for other libraries share.

An adapter takes the settings of the in-house attack of the same name. ``fixed`` holds those that
its library has no parameter for, with the value that it works by: another value is refused, not
ignored. A library is imported when an attack runs.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, make_dataclass
from inspect import Parameter, signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.attacks.base import Attack, BudgetAttack, MinimalAttack
from benchmark.attacks.cw import CWSettings
from benchmark.attacks.norms import Eps, per_sample
from benchmark.attacks.pgd import PGDSettings
from benchmark.attacks.view import AttackView
from benchmark.config.eps import check_step


class Served(nn.Module):
    """A view as other libraries take it: images of any floating-point dtype, gradients contiguous.

    Some compute in float64 what the model takes in float32, and some call ``view`` on a gradient,
    which fails on the channels-last gradients of many models.
    """

    def __init__(self, view: AttackView) -> None:
        super().__init__()
        self.view = view
        self.training = False

    def train(self, mode: bool = True) -> "Served":
        """Stay in evaluation mode, as the view does."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the view's logits (N, K) of images ``x`` (N, C, H, W); float32."""
        x = x.to(torch.float32).contiguous()
        if x.requires_grad:
            x = x.view_as(x)  # an alias: the hook is this query's alone
            x.register_hook(lambda gradient: gradient.contiguous())  # type: ignore[no-untyped-call]
        logits: Tensor = self.view(x)
        return logits


def check_fixed(attack: Attack, fixed: Mapping[str, Any]) -> None:
    """Raise a ValueError if ``attack`` asks for what its library does not do."""
    for name, value in fixed.items():
        if getattr(attack, name) != value:
            raise ValueError(
                f"{attack.library} has no setting {name}: it works as with {name} = {value!r},"
                f" got {getattr(attack, name)!r}"
            )


class ByBudget(BudgetAttack):
    """Runs a library that takes one eps per call once for every distinct eps of the batch."""

    def run(
        self, view: AttackView, x: Tensor, y: Tensor, *, eps: Eps, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`benchmark.attacks.base.BudgetAttack.run`; where eps is 0, the clean image."""
        x_adv = x.clone()
        each = per_sample(eps, x).flatten()
        for value in sorted(set(each[each > 0].tolist())):
            rows = (each == value).nonzero().flatten()
            part = view if len(rows) == len(x) else view.select(rows)
            x_adv[rows] = self.search(part, x[rows], y[rows], value, generator).to(x)
        return x_adv

    @abstractmethod
    def search(
        self, view: AttackView, x: Tensor, y: Tensor, eps: float, generator: torch.Generator
    ) -> Tensor:
        """Return what the library makes of ``x`` (N, C, H, W) with one budget above 0."""


@dataclass(frozen=True, kw_only=True)
class PeerPGD(PGDSettings, ByBudget):
    """PGD of another library.

    ``shares_start`` tells whether a random start is drawn from ``generator`` as the in-house
    attack draws it, so that two libraries can begin at the same images.
    """

    fixed: ClassVar[Mapping[str, Any]] = {
        "early_stop": False,
        "loss": "cross_entropy",
        "return_last": True,
    }
    shares_start: ClassVar[bool] = False

    early_stop: bool = False
    return_last: bool = True

    def __post_init__(self) -> None:
        check_fixed(self, self.fixed)
        super().__post_init__()

    def step(self, eps: float) -> float:
        """Return the step size at ``eps``, to the last bit the float32 of the in-house attack."""
        if self.step_size is not None:
            return self.step_size
        return float(2.5 / self.steps * torch.tensor(eps, dtype=torch.float32))


def variants(pgd: type[PeerPGD]) -> tuple[type[PeerPGD], type[PeerPGD]]:
    """Return a library's ``pgd`` in l2, and as FGSM: one full step from the image."""

    def preset(name: str, **defaults: Any) -> type[PeerPGD]:
        return make_dataclass(
            name,
            [(key, type(value), value) for key, value in defaults.items()],
            bases=(pgd,),
            namespace={"__module__": pgd.__module__},
            frozen=True,
            kw_only=True,
        )

    return preset("PGDL2", norm="l2"), preset("FGSM", steps=1, random_start=False)


@dataclass(frozen=True, kw_only=True)
class PeerCW(CWSettings):
    """C&W of another library."""

    fixed: ClassVar[Mapping[str, Any]] = {}

    initial_c: float = 1e-2

    def __post_init__(self) -> None:
        check_fixed(self, {"norm": "l2", **self.fixed})
        if not self.initial_c:
            raise ValueError(f"{self.library} needs an initial_c above 0, got {self.initial_c}")
        super().__post_init__()


# --- any attack of a library, by its class name ------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One run of a library's attack class: what it is given besides the user's parameters."""

    view: AttackView
    x: Tensor
    y: Tensor
    eps: float | None
    generator: torch.Generator


Runner = Callable[[type, Call, dict[str, Any]], Tensor]
"""Builds an attack of the class with the arguments and runs it on the call's images."""


@dataclass(frozen=True)
class Naming:
    """How a library's constructors name what the harness decides.

    ``managed`` are the parameters that the adapter sets itself; ``norms`` are the library's words
    for linf and l2; ``step_size`` is the name of the step, which the library states as a constant:
    left out, it keeps the library's default proportion to eps.
    """

    library: str
    managed: Collection[str]
    norms: Mapping[str, Any]
    step_size: str
    run: Runner


def adapt(naming: Naming, cls: type, norm: str) -> type[Attack]:
    """Return an adapter class whose fields are the parameters of ``cls`` that a user may set.

    A class that takes ``eps`` is a budget attack, any other a minimal one. ``norm`` is the norm
    it is judged in, unless its own parameter ``norm`` has another default.
    """
    parameters = {
        name: p
        for name, p in list(signature(cls).parameters.items())
        if p.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
    }
    takes_norm = False
    if "norm" in parameters:
        for word, value in naming.norms.items():
            if parameters["norm"].default == value:
                norm, takes_norm = word, True
    own = [
        (name, Any, _field(p.default))
        for name, p in parameters.items()
        if name not in naming.managed and name not in ("norm", "eps")
    ]
    step, eps = parameters.get(naming.step_size), parameters.get("eps")
    share = None
    if step and eps and step.default is not Parameter.empty and eps.default is not Parameter.empty:
        share = step.default / eps.default
        own = [(n, t, field(default=None) if n == naming.step_size else f) for n, t, f in own]

    def arguments(attack: Attack, at: float | None) -> dict[str, Any]:
        given = {name: getattr(attack, name) for name, _, _ in own}
        if takes_norm:
            given["norm"] = naming.norms[attack.norm]
        if at is not None:
            given["eps"] = at
            if share is not None and given[naming.step_size] is None:
                given[naming.step_size] = share * at
        return given

    def search(self: Attack, view: AttackView, x: Tensor, y: Tensor, at: float, rng: Any) -> Tensor:
        return naming.run(cls, Call(view, x, y, at, rng), arguments(self, at))

    def run(
        self: Attack, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        return naming.run(cls, Call(view, x, y, None, generator), arguments(self, None)).to(x)

    def check(self: Attack) -> None:
        step = getattr(self, naming.step_size, None)
        check_step(step if isinstance(step, int | float) else None, self.norm)

    base, method = (ByBudget, {"search": search}) if eps else (MinimalAttack, {"run": run})
    return make_dataclass(
        cls.__name__,
        [("norm", str, field(default=norm)), *own],
        bases=(base,),
        # A library's attacks do not say whether they follow the gradient; none is skipped for it.
        namespace={
            **method,
            "__post_init__": check,
            "library": naming.library,
            "needs_gradient": False,
            "__doc__": cls.__doc__,
        },
        frozen=True,
        kw_only=True,
    )


def _field(default: Any) -> Any:
    if default is Parameter.empty:
        return field()
    return field(default_factory=lambda: default)  # a default may be a list
