"""Accuracies under the run's attacks and the audit's, eps by eps, over the same images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmark.audit.case import Curve
from benchmark.config.threat import reach, same_eps
from benchmark.stats import wilson_interval


@dataclass(frozen=True)
class Comparison:
    """The accuracies at one ``eps``, all over the same ``n`` images; NaN where not measured.

    ``plain`` is under all of the run's attacks, ``own`` under the audit's, ``transferred`` under
    images made against other defenses, ``stronger`` under both, ``headline`` under all, with
    Wilson's 95 % interval ``low`` to ``high``. ``only_plain`` images withstand the plain attack
    alone, ``only_stronger`` the stronger one alone. ``left`` maps each attack of the audit to the
    share of the images that it did not fool itself.
    """

    eps: float
    n: int
    plain: float
    own: float
    transferred: float
    stronger: float
    headline: float
    low: float
    high: float
    only_plain: int
    only_stronger: int
    left: Mapping[str, float] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The single attack of the audit that leaves the lowest accuracy; "" without one."""
        return min(self.left, key=lambda name: self.left[name], default="")

    @property
    def drop(self) -> float:
        """How much lower the accuracy is under the stronger attack; NaN where one is missing."""
        return self.plain - self.stronger


@dataclass(frozen=True)
class Attacks:
    """The attacks that a verdict compares: the run's (``plain``), the audit's own, transfer."""

    plain: Sequence[Curve]
    own: Sequence[Curve]
    transferred: Sequence[Curve]
    stochastic: bool

    @property
    def stronger(self) -> list[Curve]:
        """All that the audit adds."""
        return [*self.own, *self.transferred]

    def comparable(self, n: int) -> int:
        """Return how many of the first ``n`` images every side saw."""
        for side in (self.plain, self.own, self.transferred):
            n = min(n, max(map(_seen, side), default=n))
        if self.stochastic and self.plain:  # one attack counts, and it may be any
            n = min(n, *map(_seen, self.plain))
        return n

    def compare(self, correct: Tensor) -> tuple[Comparison, ...]:
        """Return the comparisons over as many images as ``correct``, eps by eps.

        ``correct`` (n,) bool tells which images the defense gets right without an attack. The grid
        is that of the audit's attacks, without any the run's.
        """
        plain, own, transferred = (
            {eps for curve in side for eps in curve.eps}
            for side in (self.plain, self.own, self.transferred)
        )
        grid = sorted((own or transferred or plain) - {0.0})
        return tuple(self._at(eps, correct.cpu()) for eps in grid)

    def _at(self, eps: float, correct: Tensor) -> Comparison:
        n, every = len(correct), [*self.plain, *self.stronger]
        plain, own, transferred, stronger, headline = (
            self._robust(side, eps, correct)
            for side in (self.plain, self.own, self.transferred, self.stronger, every)
        )
        low = high = math.nan
        if headline is not None and n:
            low, high = wilson_interval(int(headline.sum()), n)
        both = plain is not None and stronger is not None
        return Comparison(
            eps=eps,
            n=n,
            plain=_share(plain),
            own=_share(own),
            transferred=_share(transferred),
            stronger=_share(stronger),
            headline=_share(headline),
            low=low,
            high=high,
            only_plain=int((plain & ~stronger).sum()) if both else 0,  # type: ignore[operator]
            only_stronger=int((stronger & ~plain).sum()) if both else 0,  # type: ignore[operator]
            left={
                curve.attack: _share(correct & ~found)
                for curve in self.stronger
                if (found := self._fooled(curve, eps, n, by_itself=True)) is not None
            },
        )

    def _robust(self, side: Sequence[Curve], eps: float, correct: Tensor) -> Tensor | None:
        """Return which images (n,) withstand these attacks; None where none was run at ``eps``."""
        n = len(correct)
        found = [(curve, self._fooled(curve, eps, n)) for curve in side]
        fooled = [one for _, one in found if one is not None]
        if not fooled:
            return None
        if self.stochastic:
            # An attack that saw a part of the images says nothing about the others.
            whole = [one for curve, one in found if one is not None and _seen(curve) >= n]
            return ~max(whole or fooled, key=lambda one: int(one.sum()))
        return correct & ~torch.stack(fooled).any(0)

    def _fooled(
        self, curve: Curve, eps: float, n: int, *, by_itself: bool = False
    ) -> Tensor | None:
        """Return which of the first ``n`` images an attack fooled within ``eps``: bool (n,), False
        for those that it did not see. None where it has nothing to say about this eps.

        An image that fools a deterministic defense does so at every eps that reaches it, whichever
        it was found at; of a stochastic one only the draws at this very eps count. ``by_itself``
        leaves out what attacks before it had found.
        """
        own = curve.new if by_itself and curve.new is not None else curve.success
        success = own[:, :n]
        if self.stochastic:
            at = [i for i, own_eps in enumerate(curve.eps) if same_eps(own_eps, eps)]
            if not at:
                return None
            fooled = success[at[0]]
        else:
            if min(curve.eps) > reach(eps):
                return None
            fooled = (success & (curve.distance[:, :n] <= reach(eps))).any(0)
        return torch.cat([fooled, torch.zeros(n - len(fooled), dtype=torch.bool)])


def _seen(curve: Curve) -> int:
    return curve.success.shape[1]


def _share(robust: Tensor | None) -> float:
    return float(robust.double().mean()) if robust is not None and len(robust) else math.nan
