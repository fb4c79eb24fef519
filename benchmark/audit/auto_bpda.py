"""BPDA with the identity, for a defense whose author does not say what to bridge.

Athalye et al. 2018 (https://arxiv.org/abs/1802.00420) replace a part that breaks the gradient by a
differentiable one in the backward pass, the identity where the part returns something like what it
is given. Its author can say which part that is, by ``surrogate``. Where nobody does, the defense's
modules are watched as they work, and the identity replaces

- all that happens between the image and the last module that is still given something like it
  (rounding, compression, a search, a detached copy),
- each module behind it that keeps the shape and whose own gradient does not predict it (a step, a
  sign, a false gradient; where it works element by element, its slope over some width), and
- all that happens behind the first module that gives the logits which decide (probabilities,
  one-hot answers, a scale).

What breaks the gradient outside of any module between these two cannot be bridged so; then
:mod:`benchmark.audit.estimated_gradient` asks for answers only.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.attacks.losses import margin
from benchmark.attacks.norms import random_start
from benchmark.attacks.view import attack_view
from benchmark.audit.surrogates import Around
from benchmark.models.answer_form import LOGITS
from benchmark.models.defense import Defense
from benchmark.seeding import generator, seeded

ALIKE = 0.5
"""Correlation with the image from which on a module counts as given something like it."""

AGREES = 0.9
"""Share of the images on which inner logits must decide as the defense does."""

PREDICTS = 0.5
"""Correlation between what a module's gradient predicts and what the module does, over
:data:`DIRECTIONS` small steps; below it the gradient misleads. Layers of CNNs lie above 0.9."""

ACROSS = 0.5
"""Half the width over which a broken module's slope is taken, in standard deviations likewise."""

SAME_WAY = 0.9
"""Cosine of the gradients with and without a bridge from which on it leads nowhere new."""

DIRECTIONS = 8
STEP = 0.05
"""The length of these steps, in standard deviations of what the module is given."""


_UNHOOKED: type = torch.jit.RecursiveScriptModule  # type: ignore[attr-defined]
"""A scripted module takes no hook: it is crossed as a part of what holds it."""


@dataclass(frozen=True)
class Bridge:
    """Where the identity is: before ``entry``, behind ``exit``, and in place of ``broken`` modules.

    A broken module that works element by element gets, in place of the identity's, the slope of its
    answers over the width that is kept with it.
    """

    entry: nn.Module
    exit: nn.Module
    broken: Mapping[nn.Module, float]

    def __str__(self) -> str:
        names = dict.fromkeys(type(module).__name__ for module in self.broken)
        also = f", and for {', '.join(names)}" if names else ""
        return f"before and behind the inner classifier{also}"


class Bridged(Around):
    """A defense that is differentiated across ``bridge``.

    What is bridged is what decides, :meth:`Defense.predict`, whatever ``forward`` shows. The logits
    are the inner classifier's; where it would decide otherwise the label that was given leads by 1,
    so that a search goes on until the defense itself is fooled.
    """

    def __init__(self, defense: Defense, bridge: Bridge, **known: bool | None) -> None:
        super().__init__(defense, **known)
        self.answer_form = LOGITS  # of the inner classifier
        self._bridge = [bridge]  # in a list: its modules are the defense's

    @property
    def bridge(self) -> Bridge:
        """Where the identity is."""
        return self._bridge[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) with the inner classifier's gradient."""
        with _crossed(self.bridge, x) as inner:
            labels = self.defense.predict(x.detach())
        logits = inner[-1]
        lead = (logits.amax(1) - logits.gather(1, labels[:, None]).squeeze(1)).detach()
        raised = torch.where(lead > 0, lead + 1, 0.0)
        return logits.scatter_add(1, labels[:, None], raised[:, None])


def find_bridge(defense: Defense, x: Tensor) -> Bridge | None:
    """Return how ``defense`` can be bridged, from its answers to a few images ``x`` (N, C, H, W).

    None where no module is given something like the image, or none gives the logits that decide.
    """
    trace = _Trace(x)
    handles = [
        handle
        for module in defense.modules()
        if module is not defense and not isinstance(module, _UNHOOKED)
        for handle in (
            module.register_forward_pre_hook(trace.enter),
            module.register_forward_hook(trace.leave),
        )
    ]
    try:
        decided = defense.predict(x)
    finally:
        for handle in handles:
            handle.remove()
    if trace.entered is None:
        return None
    for module, logits in trace.given[trace.before :]:
        shaped = logits.shape == (len(x), defense.info.n_classes)
        if shaped and float((logits.argmax(1) == decided).double().mean()) >= AGREES:
            slopes = {m: _width(m, u) for m, u in trace.leaves.items() if misleads(m, u)}
            return Bridge(trace.entered, module, slopes)
    return None


def bridges_nothing(
    defense: Defense, across: Bridged, x: Tensor, eps: float, norm: str, *, seed: int
) -> bool:
    """Tell whether the gradient ``across`` a bridge is the defense's own, inside the ball of eps.

    At noisy copies of a few images ``x`` (N, C, H, W), as a median of cosines: an honest model's
    preprocessing is a bridge, too, and needs none.
    """
    with seeded(seed, x.device):
        y = defense.predict(x)
        noisy = random_start(x, eps / 2, norm, generator(seed, x.device))

    def slope(model: Defense) -> Tensor:
        with attack_view(model, len(x)) as view, seeded(seed, x.device):
            return view.gradient(noisy, y, margin)[2].flatten(1).nan_to_num(0, 0, 0)

    alike = nn.functional.cosine_similarity(slope(defense), slope(across), dim=1)
    return bool(len(alike) == 0 or alike.median() > SAME_WAY)


def _width(module: nn.Module, u: Tensor) -> float:
    """Return the width over which a module's slope is taken, 0 where it is no function per element.

    It is one if an element's answer stays when all others are replaced.
    """
    with torch.no_grad():
        keep = torch.rand(u.shape, generator=torch.Generator().manual_seed(0)).to(u) < 0.5
        mixed = torch.where(keep, u, u.flip(0) + 1)
        alone = torch.equal(module(mixed)[keep], module(u.clone())[keep])
    return ACROSS * float(u.std()) if alone else 0.0


def misleads(module: nn.Module, u: Tensor) -> bool:
    """Tell whether a module that keeps the shape of ``u`` has a gradient that does not predict it.

    A fixed random combination of its outputs is compared with what its gradient says of it, at
    small steps along random directions. A module that does not move says nothing against it.
    """
    rng = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(u.shape, generator=rng).to(u)

    length = STEP * float(u.std())
    if not length > 0:
        return False
    weights, slope = draw(), None
    with torch.enable_grad():
        leaf = u.clone().requires_grad_()
        out = module(leaf.clone())  # which it may change in place
        if out.requires_grad:
            (slope,) = torch.autograd.grad((out * weights).sum(), leaf, allow_unused=True)
    said, done = [], []
    with torch.no_grad():
        for _ in range(DIRECTIONS):
            step = length * draw()
            rise = ((module(u + step) - module(u - step)) * weights).flatten(1).sum(1)
            done.append(rise)
            told = torch.zeros_like(rise) if slope is None else 2 * (slope * step).flatten(1).sum(1)
            said.append(told)
    moved, predicted = torch.cat(done).double(), torch.cat(said).double()
    if not moved.any():
        return False
    if not predicted.isfinite().all() or not predicted.any():
        return True
    return bool((moved * predicted).sum() < PREDICTS * moved.norm() * predicted.norm())


@dataclass
class _Trace:
    """What a defense's modules were given and gave in one pass.

    ``entered`` is the last module that was given something like the image, ``before`` how many had
    answered by then. ``given`` is what modules gave, in order, ``leaves`` what the innermost ones
    that keep the shape were given since, ``asked`` what those were given that have not answered.
    """

    x: Tensor
    entered: nn.Module | None = None
    before: int = 0
    given: list[tuple[nn.Module, Tensor]] = field(default_factory=list)
    leaves: dict[nn.Module, Tensor] = field(default_factory=dict)
    asked: dict[nn.Module, Tensor] = field(default_factory=dict)

    def enter(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor) and _alike(given[0], self.x):
            self.entered, self.before = module, len(self.given)
            self.leaves.clear()
        if len(given) == 1 and isinstance(given[0], Tensor) and not list(module.children()):
            self.asked[module] = given[0].detach().clone()  # before it is changed in place

    def leave(self, module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        if not isinstance(out, Tensor):
            return
        # Of what is no answer only the place in the order is kept: features are large.
        self.given.append((module, out.detach().clone() if out.dim() == 2 else out[:0]))
        asked = self.asked.pop(module, None)
        if asked is not None and asked.shape == out.shape:
            self.leaves[module] = asked


def _alike(u: Tensor, x: Tensor) -> bool:
    if u.shape != x.shape or not u.is_floating_point():
        return False
    pair = torch.stack([u.detach().flatten(), x.flatten()]).double()
    return bool(torch.corrcoef(pair)[0, 1] > ALIKE)


@contextmanager
def _crossed(bridge: Bridge, x: Tensor) -> Iterator[list[Tensor]]:
    """Run a pass over ``x.detach()`` inside; the list then holds the inner logits, connected to x.

    A defense may differentiate for itself meanwhile, or ask the inner classifier several times:
    what it is given keeps its own graph, and the identity comes on top.
    """
    before = torch.is_grad_enabled()
    wanted = before and x.requires_grad
    inner: list[Tensor] = []
    spared: dict[nn.Module, Tensor] = {}
    modes: list[bool] = []

    def enter(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not (wanted and given and isinstance(given[0], Tensor) and given[0].shape == x.shape):
            return None
        modes.append(torch.is_grad_enabled())
        torch.set_grad_enabled(True)
        return (given[0] + (x - x.detach()), *given[1:])

    def leave(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        if modes:
            torch.set_grad_enabled(modes.pop())
        inner.append(out)

    def spare(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        spared[module] = given[0]
        return (given[0].clone(),)  # which it may change in place

    def straight(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
        u = spared.pop(module)
        width = bridge.broken[module]
        with torch.no_grad():  # past the hooks, of which this is one
            rise = module.forward(u + width) - module.forward(u - width) if width else 1.0
        slope = rise / (2 * width) if width else 1.0
        return out.detach() + slope * (u - u.detach())

    handles = [
        bridge.entry.register_forward_pre_hook(enter),
        bridge.exit.register_forward_hook(leave),
        *(module.register_forward_pre_hook(spare) for module in bridge.broken),
        *(module.register_forward_hook(straight) for module in bridge.broken),
    ]
    torch.set_grad_enabled(False)  # a defense may look whether it is being differentiated
    try:
        yield inner
    finally:
        torch.set_grad_enabled(before)
        for handle in handles:
            handle.remove()
