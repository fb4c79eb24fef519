"""The standard ensemble: attacks in turn, cheapest first, each on the images that still stand.

As AutoAttack (Croce and Hein 2020, https://arxiv.org/abs/2003.01690) it has no settings. Unlike it,
it attacks at every eps of a sweep at once:

1. PGD searches every image from the largest ball downwards (:mod:`benchmark.attacks.eps_descent`),
   in l1 and l0 a minimal attack does.
2. Each later attack is run on an image in the largest ball in which it still stands. Where it
   falls, the same attack goes on in the largest ball that is left; where it does not, the next
   attack has its turn. So an image pays one failed run of each attack, not one at every eps.

docs/search.md has the passes, and the numbers beside AutoAttack's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.apgd import APGD
from benchmark.attacks.base import MinimalAttack, SweepAttack
from benchmark.attacks.fmn import FMN
from benchmark.attacks.losses import margin
from benchmark.attacks.norms import Eps, distance, per_sample, project
from benchmark.attacks.pgd import PGD
from benchmark.attacks.sigma_zero import SigmaZero
from benchmark.attacks.view import AttackView
from benchmark.batching import Batches
from benchmark.config.threat import reach
from benchmark.hashing import derive_seed
from benchmark.seeding import generator

STEPS = 40
"""Steps of PGD, and of APGD towards each class (docs/search.md)."""

TARGETS = 9
"""The likeliest wrong classes that APGD moves towards, as in AutoAttack."""


@dataclass(frozen=True, kw_only=True)
class Standard(SweepAttack):
    """The ensemble in ``norm``; of a stochastic defense its first attack alone."""

    def __post_init__(self) -> None:
        first_of(self.norm)

    @property
    def serves_sweeps(self) -> bool:
        """True: it is made for them."""
        return True

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
        """See :meth:`.SweepAttack.descend`."""
        found = self._first(view, x, y, budgets=budgets, seeds=seeds, batch_size=batch_size)
        # The later attacks judge by the answers that they get, which must not be coarse.
        view.dtype = torch.float32
        standing = _Standing(self.norm, budgets, x, y, found)
        standing.look(view, torch.arange(len(x), device=x.device), found, batch_size)
        advance(len(x) - len(standing.rows))
        left = standing.rows
        # Each image draws for itself, so that no result depends on who is in the batch.
        draws = {
            row: generator(derive_seed(seeds[row], "standard"), x.device) for row in left.tolist()
        }
        for attack in later(self.norm):
            going = standing.rows
            while len(going):

                def search(rows: Tensor, attack: APGD = attack) -> None:
                    part, clean = view.select(rows), x[rows]

                    def noise() -> Tensor:
                        own = (draws[row] for row in rows.tolist())
                        return torch.cat([attack.noise(clean[:1], rng) for rng in own])

                    eps = standing.largest(rows)
                    x_adv = attack.search(part, clean, y[rows], eps=eps, noise=noise)
                    standing.offer(part, rows, x_adv)

                before = standing.stands[going]
                Batches(batch_size).each(going, search)
                # Who fell goes on, in the next ball; who stood has had this attack's full run.
                now = standing.stands[going]
                going = going[(now < before) & (now > 0)]
        advance(len(left))
        return standing.found

    def run(
        self, view: AttackView, x: Tensor, y: Tensor, *, eps: Eps, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`.BudgetAttack.run`: each attack on what the earlier ones left."""
        radius = per_sample(eps, x).flatten()
        first = first_of(self.norm)
        if isinstance(first, MinimalAttack):
            nearest = first.run(view, x, y, generator=generator)
            found = project(nearest, x, radius, self.norm)
            # What was nearest outside the ball may lead nowhere within it.
            worse = margin(view.logits(found), y) < margin(view.logits(x), y)
            found[worse] = x[worse]
        else:
            found = first.run(view, x, y, eps=radius, generator=generator)
        if view.stochastic:
            return found
        for attack in later(self.norm):
            rows = (view.logits(found).argmax(1) == y).nonzero().flatten()
            if len(rows) == 0:
                break
            part = view.select(rows)
            found[rows] = attack.run(
                part, x[rows], y[rows], eps=radius[rows], generator=generator
            ).to(found)
        return found

    def _first(
        self,
        view: AttackView,
        x: Tensor,
        y: Tensor,
        *,
        budgets: Sequence[float],
        seeds: Sequence[int],
        batch_size: int,
    ) -> Tensor:
        first = first_of(self.norm)
        if isinstance(first, SweepAttack):
            return first.descend(
                view,
                *(x, y),
                budgets=budgets,
                seeds=seeds,
                batch_size=batch_size,
                advance=lambda n: None,
            )
        assert isinstance(first, MinimalAttack)
        found = x.clone()

        def search(rows: Tensor) -> None:
            rng = generator(derive_seed(seeds[int(rows[0])], "standard"), x.device)
            found[rows] = first.run(view.select(rows), x[rows], y[rows], generator=rng)

        Batches(batch_size).each(torch.arange(len(x), device=x.device), search)
        return found


@dataclass(frozen=True, kw_only=True)
class StandardL2(Standard):
    """The ensemble in l2 under a name of its own."""

    norm: str = "l2"


@dataclass(frozen=True, kw_only=True)
class StandardL1(Standard):
    """The ensemble in l1 under a name of its own."""

    norm: str = "l1"


@dataclass(frozen=True, kw_only=True)
class StandardL0(Standard):
    """The ensemble in l0 under a name of its own."""

    norm: str = "l0"


def first_of(norm: str) -> SweepAttack | MinimalAttack:
    """Return the attack that every image is searched by; ValueError for an unknown norm."""
    by_norm: dict[str, SweepAttack | MinimalAttack] = {
        "linf": PGD(steps=STEPS),
        "l2": PGD(norm="l2", steps=STEPS),
        "l1": FMN(norm="l1"),
        "l0": SigmaZero(norm="l0"),
    }
    if norm not in by_norm:
        raise ValueError(f"it attacks in {', '.join(by_norm)}, got norm {norm!r}")
    return by_norm[norm]


def later(norm: str) -> tuple[APGD, ...]:
    """Return the attacks on the images that still stand, in their order."""
    if norm == "l0":
        return ()
    settings: dict[str, Any] = {"norm": norm, "steps": STEPS, "loss": "margin"}
    return (APGD(**settings, n_targets=TARGETS),)


class _Standing:
    """In how many of the balls each image still stands, and the nearest that was found for it.

    ``stands`` (N,) int64 counts the budgets, smallest first, in which nothing was found.
    """

    def __init__(
        self, norm: str, budgets: Sequence[float], x: Tensor, y: Tensor, found: Tensor
    ) -> None:
        self.norm, self.x, self.y = norm, x, y
        self.budgets = torch.tensor(budgets, device=x.device, dtype=torch.float64)
        self.reaches = torch.tensor([reach(eps) for eps in budgets], device=x.device).double()
        self.found = found.clone()
        self.stands = torch.full((len(x),), len(budgets), device=x.device)

    @property
    def rows(self) -> Tensor:
        """The images that stand in one ball at least."""
        return (self.stands > 0).nonzero().flatten()

    def largest(self, rows: Tensor) -> Tensor:
        """Return the largest budget in which each of ``rows`` stands."""
        return self.budgets[self.stands[rows] - 1].to(self.x.dtype)

    def look(self, view: AttackView, rows: Tensor, x_adv: Tensor, batch_size: int) -> None:
        """Offer what an attack left of all images, in batches."""
        Batches(batch_size).each(
            rows, lambda part: self.offer(view.select(part), part, x_adv[part])
        )

    def offer(self, view: AttackView, rows: Tensor, x_adv: Tensor) -> None:
        """Take over images of ``rows`` that fool the model in a smaller ball than before."""
        fooled = view.logits(x_adv).argmax(1) != self.y[rows]
        far = distance(x_adv, self.x[rows], self.norm).to(self.reaches)
        # The balls that are too small for it are those in which it still stands.
        left = (self.reaches[None] < far[:, None]).sum(1)
        better = fooled & (left < self.stands[rows])
        self.found[rows[better]] = x_adv[better].to(self.found)
        self.stands[rows[better]] = left[better]
