"""The eps sweep: one attack, one defense, every budget, every sample's outcome.

Each batch is attacked and judged by :func:`benchmark.evaluation.scoring.attack_batch`. A sample
that the model gets wrong without any attack counts as a success at distance 0, and the denominator
is always n.

An image that fools a deterministic defense at eps fools it at every larger eps, so it is kept and
not searched again. How much that saves depends on the attack:

- An attack that serves sweeps (:class:`~benchmark.attacks.base.SweepAttack`, such as PGD) searches
  every sample once, from the largest ball downwards (:mod:`benchmark.attacks.eps_descent`).
- Any other budget attack, such as another library's, is run at each eps in ascending order over
  the samples that are still classified correctly.
- A minimal-distortion attack runs once.
- A stochastic defense is attacked from scratch at every eps, because keeping each lucky draw would
  count them up. An ``exact`` sweep does so with every defense, as other libraries would.

What runs once is judged at every eps by its distance, and its queries count in the first cell. At
eps 0 every attack has the clean image and nothing else.

Batches are halved when memory runs out (:mod:`benchmark.batching`). An attack that draws its random
numbers from the sweep's generator has batches of one size on every device, so that its draws do not
depend on how much memory happens to be free.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.base import Attack, MinimalAttack, SweepAttack
from benchmark.attacks.losses import margin
from benchmark.batching import BATCH_SIZE, Batches, gpu_batch_size
from benchmark.config.spec import AttackSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import PluginError
from benchmark.evaluation.nearest import NearestImages
from benchmark.evaluation.scoring import (
    NOT_A_NUMBER,
    CleanPredictions,
    Judged,
    Searching,
    ViewSettings,
    Violation,
    adversarial,
    attack_batch,
    searching,
)
from benchmark.hashing import derive_seed
from benchmark.models.defense import Defense
from benchmark.progress import Advance, Progress
from benchmark.results.pictures import PICTURED
from benchmark.seeding import generator, seeded

CHUNK = 16
"""Batches that a sweeping attack receives at once; it refills its own from among them."""


@dataclass(frozen=True)
class Outcome:
    """One cell: what became of every sample at one eps. All tensors (n,), on the CPU.

    ``pred_clean``, ``pred_adv`` and the query counts are int64, ``correct`` (without attack) and
    ``success`` bool and ``distance`` float64 in the attack's norm. ``pictures`` (k, C, H, W),
    float32 in [0, 1], are the scored images of the first
    :data:`~benchmark.results.pictures.PICTURED` samples. ``notes`` is what the harness noticed, for
    the cell's reason. ``search_dtype`` is what the attack followed the gradient in, empty where
    nothing was attacked.
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
    search_dtype: str = ""


@dataclass
class _Images:
    """How images were scored and what they cost, on the CPU; of the first ones, the pixels too."""

    pred: Tensor
    distance: Tensor
    forwards: Tensor
    backwards: Tensor
    pixels: Tensor

    def put(self, rows: Tensor, judged: Judged) -> None:
        """Take over a batch; ``rows`` ascend, so the pictured images are its first."""
        self.pred[rows] = judged.pred
        self.distance[rows] = judged.distance
        self.forwards[rows] = judged.forwards
        self.backwards[rows] = judged.backwards
        pictured = rows[rows < PICTURED]
        self.pixels[pictured] = judged.x_adv[: len(pictured)].cpu()

    def keep(self, fooled: Tensor, before: "_Images") -> None:
        """Take over what was misclassified before (a mask over all images), at no new cost."""
        self.pred[fooled], self.distance[fooled] = before.pred[fooled], before.distance[fooled]
        first = fooled[: len(self.pixels)]
        self.pixels[first] = before.pixels[first]


def sweep(
    defense: Defense,
    attack: Attack,
    spec: AttackSpec,
    data: ImageDataset,
    *,
    seed_at: Callable[[float], int],
    progress: Progress,
    exact: bool = False,
    clean: CleanPredictions | None = None,
    nearest: NearestImages | None = None,
) -> Iterator[Outcome]:
    """Attack the images of ``data`` at every eps of ``spec``; yield an outcome per eps, ascending.

    An ``exact`` sweep attacks every image from scratch at every eps. ``seed_at`` maps eps to the
    cell's seed, ``clean`` keeps the defense's clean predictions from sweep to sweep, and
    ``nearest`` collects the adversarial images. The defense must be in evaluation mode and on the
    data's device. Whatever the attack raises passes through.
    """
    clean = clean or CleanPredictions(defense)
    with seeded(seed_at(0.0), data.device, defense):
        pred_clean = clean.of(data)
    search = _Search(defense, attack, spec, data, pred_clean, nearest)
    cells = _cells_of(attack, defense, exact=exact)
    with progress.task("attacking", len(spec.threat.eps) * len(data)) as advance:
        start = time.perf_counter()
        for eps, found in cells(search, seed_at, advance):
            if eps == 0:  # there is only the clean image, at the cost of the search
                found = replace(search.clean(), forwards=found.forwards, backwards=found.backwards)
            fooled = adversarial(found.pred, search.labels, found.distance, eps)
            yield Outcome(
                eps=eps,
                pred_clean=pred_clean,
                pred_adv=found.pred,
                correct=search.correct,
                success=~search.correct | fooled,
                distance=found.distance,
                n_forward=found.forwards,
                n_backward=found.backwards,
                pictures=found.pixels,
                seconds=time.perf_counter() - start,
                notes=search.take_notes(),
                search_dtype=search.dtype.removeprefix("torch."),
            )
            start = time.perf_counter()


_Cells = Iterator[tuple[float, _Images]]


def _cells_of(attack: Attack, defense: Defense, *, exact: bool) -> Callable[..., _Cells]:
    """Choose the schedule of the sweep (see the module's docstring)."""
    if isinstance(attack, MinimalAttack):
        return _single_cells
    if exact or defense.stochastic:
        return partial(_separate_cells, keep=False)
    if isinstance(attack, SweepAttack) and attack.serves_sweeps:
        return _single_cells
    return partial(_separate_cells, keep=True)


def _separate_cells(
    search: "_Search", seed_at: Callable[[float], int], advance: Advance, *, keep: bool
) -> _Cells:
    """Search at each eps by itself; ``keep`` what was misclassified at a smaller one, or not."""
    before = search.clean()
    for eps in search.spec.threat.eps:
        found = search.clean()
        fooled = before.pred != search.labels
        found.keep(fooled, before)
        remaining = (search.correct & ~fooled).nonzero().flatten()
        advance(len(fooled) - len(remaining), f"eps {eps:g}")
        search.fill(found, remaining, eps, seed_at(eps), advance)
        before = found if keep else before
        yield eps, found


def _single_cells(search: "_Search", seed_at: Callable[[float], int], advance: Advance) -> _Cells:
    """Search every sample once; the queries count in the first cell."""
    found, n = search.clean(), len(search.data)
    remaining = search.correct.nonzero().flatten()
    advance(n - len(remaining), "nearest adversarial images")
    search.fill(found, remaining, math.inf, seed_at(math.inf), advance)
    for index, eps in enumerate(search.spec.threat.eps):
        if index:
            advance(n)
            zeros = torch.zeros_like(found.forwards)
            found = replace(found, forwards=zeros, backwards=zeros.clone())
        yield eps, found


class _Search:
    """Runs the attack batch by batch."""

    def __init__(
        self,
        defense: Defense,
        attack: Attack,
        spec: AttackSpec,
        data: ImageDataset,
        pred_clean: Tensor,
        nearest: NearestImages | None,
    ) -> None:
        self.defense = defense
        self.attack = attack
        self.spec = spec
        self.data = data
        self.labels = data.labels.cpu()
        self.pred_clean = pred_clean
        self.nearest = nearest
        self.correct = pred_clean == self.labels
        self.settings = ViewSettings.of(defense, spec, data)
        self.notes: dict[str, tuple[int, float]] = {}
        self.dropped = 0
        self.dtype = ""
        self.batches = Batches(BATCH_SIZE)

    def clean(self) -> _Images:
        """Return the images as they are before any search, at no cost."""
        zeros = torch.zeros_like(self.pred_clean)
        pixels = self.data.head(min(PICTURED, len(self.data))).x().cpu()
        return _Images(self.pred_clean.clone(), zeros.double(), zeros, zeros.clone(), pixels)

    def fill(
        self, found: _Images, remaining: Tensor, eps: float, seed: int, advance: Advance
    ) -> None:
        """Put what the attack finds for the rows ``remaining`` into ``found``.

        ``eps`` is the budget, infinite where one search serves all.
        """
        once = math.isinf(eps) and isinstance(self.attack, SweepAttack)
        budgets = [budget for budget in self.spec.threat.eps if budget > 0]
        # At eps 0 there is only the clean image, and no plugin has to cope with an empty batch.
        if eps == 0 or len(remaining) == 0 or (once and not budgets):
            advance(len(remaining))
            return
        device = self.data.device
        rng = generator(seed, device)

        def search(rows: Tensor) -> None:
            self._attack(found, rows, eps, searching(self.attack, eps, rng))
            advance(len(rows))

        # For libraries that take no generator, and for the defense's own noise.
        with seeded(seed, device, self.defense):
            if once:
                self._descend(found, remaining, budgets, seed, advance)
            else:
                self.batches.each(remaining, search, rng=rng)
        if self.notes.get(NOT_A_NUMBER, (0, 0.0))[0] == len(remaining):
            raise PluginError(
                f"the attack returned NaN or infinity for all {len(remaining)} images that it was"
                " given"
            )

    def _attack(self, found: _Images, rows: Tensor, eps: float, search: Searching) -> None:
        """Put what ``search`` finds for ``rows`` into ``found``, judged."""
        on_device = rows.to(self.data.device)
        judged = attack_batch(
            self.defense,
            search,
            self.data.x(on_device),
            self.data.labels[on_device],
            eps=eps,
            norm=self.spec.threat.norm,
            n_classes=self.data.info.n_classes,
            settings=self.settings,
            batches=self.batches,
        )
        found.put(rows, judged)
        if self.nearest is not None:
            self.nearest.put(rows, judged)
        self.dropped += judged.dropped
        if self.dtype != str(torch.bfloat16):  # one batch that was searched coarsely tells
            self.dtype = str(judged.dtype)
        self._note(judged.violations)

    def _descend(
        self,
        found: _Images,
        remaining: Tensor,
        budgets: Sequence[float],
        seed: int,
        advance: Advance,
    ) -> None:
        """Search for all of ``budgets`` at once."""
        attack = self.attack
        assert isinstance(attack, SweepAttack)
        size = self._size(remaining)
        for rows in torch.split(remaining, CHUNK * size):
            samples = self.data.sample_ids[rows.to(self.data.device)].tolist()
            options: dict[str, Any] = {
                "budgets": budgets,
                "seeds": [derive_seed(seed, sample) for sample in samples],
                "batch_size": size,
                "advance": advance,
            }
            self._attack(found, rows, math.inf, partial(attack.descend, **options))

    def _size(self, remaining: Tensor) -> int:
        """Return how many images are searched at a time where results do not depend on it."""
        device = self.data.device
        if device.type != "cuda":
            return BATCH_SIZE

        def probe(n: int) -> None:
            rows = remaining[:n].to(device)
            with self.settings.view(self.defense, n) as view:
                view.gradient(self.data.x(rows), self.data.labels[rows], margin)

        return gpu_batch_size(device, len(remaining), probe)

    def _note(self, violations: Sequence[Violation]) -> None:
        for violation in violations:
            count, largest = self.notes.get(violation.what, (0, 0.0))
            self.notes[violation.what] = (count + violation.count, max(largest, violation.by))

    def take_notes(self) -> str:
        """Return what was noticed since the last call, as one line."""
        lines = [
            f"images {what}: {count}" + (f" (by up to {by:.2g})" if by else "")
            for what, (count, by) in self.notes.items()
        ]
        if self.defense.stochastic and isinstance(self.attack, MinimalAttack):
            lines.append(
                "the nearest adversarial image lies on the boundary, where this defense's noise"
                " decides again: a high accuracy here says that the attack stopped short"
            )
        if self.dropped:
            lines.append(
                f"the gradient held NaN or infinity at {self.dropped} images: NaN was taken as 0,"
                " infinities by their sign"
            )
        if inside := self.settings.inside:
            lines.append(
                f"the defense clamps its input: gradients were taken {inside:g} inside the box"
            )
        if self.defense.answer_form.note:
            lines.append(self.defense.answer_form.note)
        if self.batches.halved:
            lines.append(f"memory ran out: batches of {self.batches.size} images from there on")
        self.notes.clear()
        self.dropped = 0
        return "; ".join(lines)
