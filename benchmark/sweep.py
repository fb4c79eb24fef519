"""The eps sweep: one attack, one defense, every budget, every sample's outcome.

The harness judges here: it scores the images that the attack returned with ``predict``, checks
that they lie in the box and in the ball, and projects what does not. A sample that the model gets
wrong without any attack counts as a success at distance 0, and the denominator is always n.

Budgets are swept in ascending order over the samples that still stand: an image that fools a
deterministic defense at eps fools it at every larger eps, so it is kept and not attacked again.
A stochastic defense is attacked from scratch at every eps, because keeping each lucky draw would
count them up. A minimal-distortion attack runs once and is judged at every eps.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.attack import Attack, BudgetAttack, MinimalAttack
from benchmark.datasets import ImageDataset
from benchmark.defense import Defense
from benchmark.judge import admit, inside_for, slack
from benchmark.norms import distance
from benchmark.pictures import PICTURED
from benchmark.progress import Advance, Progress
from benchmark.seeding import generator, seeded
from benchmark.spec import AttackSpec
from benchmark.view import AttackView, attack_view

BATCH_SIZE = 256


@dataclass(frozen=True)
class Outcome:
    """One cell: what became of every sample at one eps. All tensors (n,), on the CPU.

    ``pred_clean``, ``pred_adv`` and the query counts are int64, ``correct`` (without attack) and
    ``success`` bool and ``distance`` float64 in the attack's norm. ``pictures`` (k, C, H, W),
    float32 in [0, 1], are the scored images of the first :data:`~benchmark.pictures.PICTURED`
    samples. ``notes`` is what the harness noticed, for the cell's reason.
    """

    eps: float
    pred_clean: Tensor
    pred_adv: Tensor
    correct: Tensor
    success: Tensor
    distance: Tensor
    n_forward: Tensor
    n_backward: Tensor
    pictures: Tensor
    seconds: float
    notes: str


@dataclass
class _Images:
    """How images were scored and what they cost, on the CPU; of the first ones, the pixels too."""

    pred: Tensor
    distance: Tensor
    forwards: Tensor
    backwards: Tensor
    pixels: Tensor

    @classmethod
    def clean(cls, pred: Tensor, data: ImageDataset) -> "_Images":
        zeros = torch.zeros_like(pred)
        pixels = data.head(min(PICTURED, len(data))).x().cpu()
        return cls(pred.clone(), zeros.double(), zeros, zeros.clone(), pixels)

    def put(self, rows: Tensor, scored: "_Images") -> None:
        """Take over what a batch gave; ``rows`` ascend, so those with pixels are its first."""
        self.pred[rows] = scored.pred
        self.distance[rows] = scored.distance
        self.forwards[rows] = scored.forwards
        self.backwards[rows] = scored.backwards
        self.pixels[rows[: len(scored.pixels)]] = scored.pixels

    def keep(self, fell: Tensor, before: "_Images") -> None:
        """Take over the images that fell before (a mask over all), at no new cost."""
        self.pred[fell], self.distance[fell] = before.pred[fell], before.distance[fell]
        first = fell[: len(self.pixels)]
        self.pixels[first] = before.pixels[first]


def predict(defense: Defense, data: ImageDataset) -> Tensor:
    """Return the defense's labels (n,) for clean images, as deployed; int64, on the CPU."""
    return torch.cat([defense.predict(data.x(rows)).cpu() for rows in data.batches(BATCH_SIZE)])


def sweep(
    defense: Defense,
    attack: Attack,
    spec: AttackSpec,
    data: ImageDataset,
    *,
    seed_at: Callable[[float], int],
    progress: Progress,
) -> Iterator[Outcome]:
    """Attack the images of ``data`` at every eps of ``spec``; yield an outcome per eps, ascending.

    ``seed_at`` maps eps to the cell's seed. The defense must be in evaluation mode and on the
    data's device. Whatever the attack raises passes through.
    """
    with seeded(seed_at(0.0), data.device):
        pred_clean = predict(defense, data)
    correct = pred_clean == data.labels.cpu()
    search = _Search(defense, attack, spec, data, inside_for(defense, spec, data))
    budgets = spec.threat.eps
    cells = _minimal_cells if isinstance(attack, MinimalAttack) else _budget_cells
    with progress.task("attacking", len(budgets) * len(data)) as advance:
        start = time.perf_counter()
        for eps, found in cells(search, pred_clean, correct, budgets, seed_at, advance):
            fooled = (found.pred != data.labels.cpu()) & (found.distance <= slack(eps) + eps)
            yield Outcome(
                eps=eps,
                pred_clean=pred_clean,
                pred_adv=found.pred,
                correct=correct,
                success=~correct | fooled,
                distance=found.distance,
                n_forward=found.forwards,
                n_backward=found.backwards,
                pictures=found.pixels,
                seconds=time.perf_counter() - start,
                notes=search.take_notes(),
            )
            start = time.perf_counter()


_Cells = Iterator[tuple[float, _Images]]


def _budget_cells(
    search: "_Search",
    pred_clean: Tensor,
    correct: Tensor,
    budgets: Sequence[float],
    seed_at: Callable[[float], int],
    advance: Advance,
) -> _Cells:
    """Attack the standing samples at each eps; keep what fell (see the module's docstring)."""
    kept = _Images.clean(pred_clean, search.data)
    labels = search.data.labels.cpu()
    for eps in budgets:
        found = _Images.clean(pred_clean, search.data)
        standing = correct.nonzero().flatten()
        if not search.defense.stochastic:
            fell = kept.pred != labels
            found.keep(fell, kept)
            standing = (correct & ~fell).nonzero().flatten()
        advance(len(labels) - len(standing), f"eps {eps:g}")
        if eps == 0:  # the only image in the ball is the clean one
            advance(len(standing))
        else:
            for rows, images in search.run(standing, eps, seed_at(eps), advance):
                found.put(rows, images)
        kept = found
        yield eps, found


def _minimal_cells(
    search: "_Search",
    pred_clean: Tensor,
    correct: Tensor,
    budgets: Sequence[float],
    seed_at: Callable[[float], int],
    advance: Advance,
) -> _Cells:
    """Attack every sample once; the queries count in the first cell."""
    found = _Images.clean(pred_clean, search.data)
    standing = correct.nonzero().flatten()
    advance(len(correct) - len(standing), "nearest adversarial images")
    for rows, images in search.run(standing, math.inf, seed_at(math.inf), advance):
        found.put(rows, images)
    for index, eps in enumerate(budgets):
        if index:
            advance(len(correct))
            found = replace(
                found,
                forwards=torch.zeros_like(found.forwards),
                backwards=torch.zeros_like(found.backwards),
            )
        yield eps, found


class _Search:
    """Runs the attack batch by batch and judges what it returns."""

    def __init__(
        self,
        defense: Defense,
        attack: Attack,
        spec: AttackSpec,
        data: ImageDataset,
        inside: float,
    ) -> None:
        self.defense = defense
        self.attack = attack
        self.spec = spec
        self.data = data
        self.inside = inside
        self.notes: dict[str, tuple[int, float]] = {}

    def run(
        self, standing: Tensor, eps: float, seed: int, advance: Advance
    ) -> Iterator[tuple[Tensor, _Images]]:
        """Attack the rows ``standing`` with budget ``eps`` (infinite: a minimal attack)."""
        if len(standing) == 0:  # an empty batch is more than a plugin has to cope with
            return
        device = self.data.device
        rng = generator(seed, device)
        with seeded(seed, device):  # for libraries and defenses that take no generator
            for rows in torch.split(standing, BATCH_SIZE):
                on_device = rows.to(device)
                x, y = self.data.x(on_device), self.data.labels[on_device]
                with attack_view(
                    self.defense,
                    len(x),
                    eot=self.spec.eot,
                    bpda=self.spec.bpda,
                    inside=self.inside,
                ) as view:
                    x_adv = self._search(view, x, y, eps, rng)
                    forwards, backwards = view.counts()
                x_adv = self._admit(x_adv, x, eps)
                pred = self.defense.predict(x_adv).cpu()
                far = distance(x_adv, x, self.spec.threat.norm).cpu()
                pixels = x_adv[: int((rows < PICTURED).sum())].cpu()
                yield rows, _Images(pred, far, forwards, backwards, pixels)
                advance(len(rows))

    def _search(
        self, view: AttackView, x: Tensor, y: Tensor, eps: float, rng: torch.Generator
    ) -> Tensor:
        if isinstance(self.attack, BudgetAttack):
            return self.attack.run(view, x, y, eps=eps, generator=rng)
        assert isinstance(self.attack, MinimalAttack)
        return self.attack.run(view, x, y, generator=rng)

    def _admit(self, x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
        """Return images within the box and the ball, noting those that were not."""
        x_adv, breaches = admit(x_adv, x, eps, self.spec.threat.norm)
        for breach in breaches:
            count, largest = self.notes.get(breach.what, (0, 0.0))
            self.notes[breach.what] = (count + breach.count, max(largest, breach.by))
        return x_adv

    def take_notes(self) -> str:
        """Return what was noticed since the last call, as one line."""
        lines = [
            f"images {what}: {count}" + (f" (by up to {by:.2g})" if by else "")
            for what, (count, by) in self.notes.items()
        ]
        if self.defense.stochastic and isinstance(self.attack, MinimalAttack):
            lines.append(
                "the nearest adversarial image stands on the boundary, where this defense's noise"
                " decides anew: a high accuracy here says that the attack stopped short"
            )
        if self.inside:
            lines.append(
                f"the defense clamps its input: gradients were taken {self.inside:g} inside the box"
            )
        self.notes.clear()
        return "; ".join(lines)
