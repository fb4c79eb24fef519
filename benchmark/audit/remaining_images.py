"""Which images are still classified correctly while one attack after the other is run.

An image that fools a deterministic defense does so whoever found it, and at every eps that reaches
it. So each attack of an ensemble is run on the images that the ones before it did not fool, as
AutoAttack does (Croce and Hein 2020, https://arxiv.org/abs/2003.01690), and what it then says of an
eps is what it and those before it leave together.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.base import Attack, BudgetAttack, SweepAttack
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel, reach
from benchmark.datasets.dataset import ImageDataset
from benchmark.evaluation.scoring import predict
from benchmark.evaluation.sweep import Outcome, sweep
from benchmark.models.defense import Defense
from benchmark.progress import Progress


class RemainingImages:
    """The nearest adversarial image known of each of ``images``: its distance and its label.

    ``pred`` (n,) int64 are the defense's labels without an attack, ``reach`` (n,) float64 the
    distance of the nearest adversarial image: 0 for a clean error, infinite while none is known.
    """

    def __init__(self, defense: Defense, images: ImageDataset) -> None:
        self.images = images
        self.pred = predict(defense, images)
        self.correct = self.pred == images.labels.cpu()
        self.reach = torch.where(self.correct, torch.inf, 0.0).double()
        self._pred_adv = self.pred.clone()

    def robust(self, eps: float) -> Tensor:
        """Return which images (n,) bool withstood all attacks so far at ``eps``."""
        return self.reach > reach(eps)

    def attack(
        self,
        defense: Defense,
        attack: Attack,
        spec: AttackSpec,
        *,
        seed_at: Callable[[float], int],
        progress: Progress,
    ) -> Iterator[Outcome]:
        """Attack what is robust at each eps of ``spec``; yield what is left so far, eps by eps.

        The queries of an image that was not attacked again are 0, and no pictures are kept.
        """
        once = not isinstance(attack, BudgetAttack) or (
            isinstance(attack, SweepAttack) and attack.serves_sweeps
        )
        budgets = spec.threat.eps
        above = [eps for eps in budgets if eps > 0]
        options: dict[str, Any] = {"seed_at": seed_at, "progress": progress}
        if once and above:
            rows = self.robust(above[0]).nonzero().flatten()
            found = [*self._attack(defense, attack, spec, rows, **options)]
            costs = {outcome.eps: outcome for outcome in found}
            for eps in budgets:
                yield self._told(eps, rows, costs.get(eps))
            return
        for eps in budgets:
            rows = self.robust(eps).nonzero().flatten() if eps > 0 else torch.arange(0)
            own = replace(spec, threat=ThreatModel(spec.threat.norm, (eps,)))
            cells = [*self._attack(defense, attack, own, rows, **options)]
            yield self._told(eps, rows, cells[-1] if cells else None)

    def _attack(
        self,
        defense: Defense,
        attack: Attack,
        spec: AttackSpec,
        rows: Tensor,
        seed_at: Callable[[float], int],
        progress: Progress,
    ) -> Iterator[Outcome]:
        """Attack ``rows`` and keep adversarial images that are nearer than those known."""
        if not len(rows):
            return
        part = self.images.select(rows.to(self.images.device))
        for cell in sweep(defense, attack, spec, part, seed_at=seed_at, progress=progress):
            nearer = cell.success & (cell.distance < self.reach[rows])
            self.reach[rows[nearer]] = cell.distance[nearer]
            self._pred_adv[rows[nearer]] = cell.pred_adv[nearer]
            yield cell

    def _told(self, eps: float, rows: Tensor, cell: Outcome | None) -> Outcome:
        """Return the outcome at ``eps`` over all images; ``cell`` is the one over ``rows``."""
        fooled = ~self.robust(eps)
        queries = torch.zeros(2, len(self.pred), dtype=torch.int64)
        far = torch.where(fooled, self.reach, 0.0)
        pred = torch.where(fooled, self._pred_adv, self.pred)
        if cell is not None:
            queries[:, rows] = torch.stack([cell.n_forward, cell.n_backward])
            where = ~fooled[rows]
            left = rows[where]
            far[left], pred[left] = cell.distance[where], cell.pred_adv[where]
        return Outcome(
            eps=eps,
            pred_clean=self.pred,
            pred_adv=pred,
            correct=self.correct,
            success=fooled,
            distance=far,
            n_forward=queries[0],
            n_backward=queries[1],
            pictures=self.images.x(slice(0)).cpu(),
            seconds=cell.seconds if cell is not None else 0.0,
            notes=cell.notes if cell is not None else "",
        )
