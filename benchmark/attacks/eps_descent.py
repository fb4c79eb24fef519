"""One search that finds, per sample, the smallest eps of a sweep at which it is misclassified.

An adversarial image in a ball is one in every larger ball too, so the search goes from large balls
to small ones:

1. The walk: a few steps outwards from the image, through balls that grow from the smallest to the
   largest.
2. A run of ``steps`` steps in the largest ball, unless the walk already fooled the model.
3. As soon as an iterate fools the model, the search moves on to the next ball that is smaller than
   the iterate's distance. The first steps there go on from that iterate; then the sample starts
   again at a random point of the ball, to leave the valley that it is in.
4. A sample that is still classified correctly after a full run is robust in this ball and below.

Step 4 can be wrong: a defense that purifies what looks noisy may fool an attack in a large ball and
not in a smaller one. In an honest model the lead of the wrong class grows about as the radius. So
if a run gained much less per radius than the walk did nearer to the image, it is not believed, and
the search goes on in the next smaller ball, from the image. An exact sweep
(:func:`benchmark.evaluation.sweep.sweep`) takes nothing over from one eps to the next.

docs/search.md measures what this costs and finds, and where the constants come from.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.losses import Loss, margin
from benchmark.attacks.norms import distance, per_sample, project, steepest_ascent, unit_ball
from benchmark.attacks.precision import search_dtype
from benchmark.attacks.view import AttackView
from benchmark.batching import halved, release
from benchmark.config.threat import reach
from benchmark.seeding import generator

WALK = 0.15
"""The length of the walk from the image, as a share of a run's steps; below two steps there is
none. Its first iterate is the image itself."""

NARROW = 8
"""The walk begins at the smallest eps, or at the largest divided by this where that is less."""

MISLED = 1.5
"""A run is not believed if the walk gained this many times as much per radius."""

WARM = 0.4
"""The share of a run's steps that go on from the iterate that fooled the model in a larger ball."""

FIRST, LAST = 0.25, 0.01
"""Without a step size, a run's steps shrink along half a cosine between these shares of eps; a run
of few steps begins with longer ones (5 / steps), which together reach through the ball."""

STRIDE = {"cuda": 8}
"""Steps between two looks at which samples are done, by device; 1 elsewhere. A look stops a GPU."""


@dataclass(frozen=True)
class Descent:
    """The search's settings, as :class:`benchmark.attacks.pgd.PGD` has them.

    A sample is robust in a ball after ``restarts`` runs of ``steps`` steps. ``step_size`` is in the
    norm's units and the same in every ball; None lets it follow eps.
    """

    norm: str
    loss: Loss
    steps: int
    restarts: int
    step_size: float | None
    random_start: bool

    def run(
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
        """See :meth:`benchmark.attacks.base.SweepAttack.descend`.

        Of a sample that is robust in every ball it returns an iterate of the largest. A sample that
        is done makes room in the batch for the next. When memory runs out, half of the batch waits,
        in the state before the step that failed; torch.OutOfMemoryError if one sample does not fit.
        """
        view.dtype = search_dtype(view, x, y, self.loss)
        found = x.clone()
        ladder = _Ladder.of(budgets, x.device)
        pool = waiting = self._enter(x[:0], y[:0], torch.arange(0), (), ladder)
        entered = 0
        while entered < len(x) or len(pool.rows) or len(waiting.rows):
            room = max(0, batch_size - len(pool.rows))
            if room and len(waiting.rows):
                pool, waiting = pool.joined(waiting.part(0, room)), waiting.part(room)
            elif room := min(room, len(x) - entered):
                rows = torch.arange(entered, entered + room)
                new = self._enter(x[rows], y[rows], rows, seeds[entered : entered + room], ladder)
                pool = pool.joined(new)
                entered += room
            try:
                pool = self._stride(view.select(pool.rows), pool, ladder)
            except (RuntimeError, MemoryError) as error:
                batch_size = halved(len(pool.rows), error)
            else:
                done = ~pool.searching(self._most)
                if done.any():
                    found[pool.rows[done.cpu()].to(x.device)] = pool.best[done]
                    advance(int(done.sum()))
                    pool = pool.selected(~done)
                continue
            release()
            pool, waiting = pool.part(0, batch_size), pool.part(batch_size).joined(waiting)
        return found

    @property
    def _most(self) -> int:
        """Iterates in one ball after which a sample is robust: each run's start, and one a step."""
        return (self.steps + 1) * self.restarts

    def _enter(
        self, x: Tensor, y: Tensor, rows: Tensor, seeds: Sequence[int], ladder: "_Ladder"
    ) -> "_Pool":
        """Start the samples ``rows`` in the largest ball."""
        starts = torch.zeros(len(x), self.restarts + 1, *x.shape[1:])
        if self.random_start:
            for noise, seed in zip(starts, seeds, strict=True):
                # On the CPU, so that a sample's starts are the same on every device.
                noise.copy_(unit_ball(noise, self.norm, generator(seed)))
        pool = _Pool.at(x, y, rows, starts.to(x), ladder.top, self._walk)
        if not self._walk:
            pool.x_adv = pool.best = self._start(pool, ladder, 0)
        return pool

    def _start(self, pool: "_Pool", ladder: "_Ladder", which: int) -> Tensor:
        eps = ladder.eps(pool.level)
        return project(
            pool.x + per_sample(eps, pool.x) * pool.starts[:, which], pool.x, eps, self.norm
        )

    def _stride(self, part: AttackView, pool: "_Pool", ladder: "_Ladder") -> "_Pool":
        """Take the steps between two looks at which samples are done."""
        for _ in range(STRIDE.get(pool.x.device.type, 1)):
            pool = self._step(part, pool, ladder)
        return pool

    def _step(self, part: AttackView, pool: "_Pool", ladder: "_Ladder") -> "_Pool":
        """Judge the iterates, move those that fooled to smaller balls, and take a step there.

        A sample that is done takes part until the pool is cleared, but does not change any more.
        """
        searching = pool.searching(self._most)
        _, logits, gradient = part.gradient(pool.x_adv, pool.y, self.loss)
        far = distance(pool.x_adv, pool.x, self.norm)
        # An iterate that is NaN must not replace one that fools; the image itself is right.
        sound = searching & far.isfinite() & (far > 0)
        last = pool.age + 1 == self._most
        fooled = self._fooled(part, pool, logits, sound, last)
        best = _where(fooled | (sound & (pool.level == ladder.top)), pool.x_adv, pool.best)
        lead = margin(logits, pool.y)
        walked = self._walked(pool, lead, logits, part.dtype)
        pool = replace(pool, walked=walked)
        doubted = searching & last & ~fooled & self._misled(pool, lead, ladder)
        reached = torch.minimum(ladder.smallest(far), pool.level)
        level = torch.where(fooled, reached - 1, pool.level - doubted.long())
        age = torch.where(fooled | doubted, 0, pool.age + searching)
        eps, first_ball = ladder.eps(level), level == ladder.top
        length = self._length(eps, age, first_ball)
        if self._walk:
            walking = age < 0
            radius = ladder.walk(self._walk)[(age + self._walk).clamp_max(self._walk - 1)]
            eps = torch.where(walking, radius, eps)
            # As long as the ball is wide: each step may aim at another point of its border.
            length = _where(walking, eps.view(-1, 1, 1, 1), length)
        start = _where(doubted, pool.x, pool.x_adv)
        step = length * steepest_ascent(gradient, self.norm)
        x_adv = project(start + _where(doubted, 0, step), pool.x, eps, self.norm)
        pool = replace(pool, level=level, age=age, best=best, x_adv=x_adv)
        for when, which in self._fresh_starts():
            again = searching & (age == when)
            if which == 0:  # in a smaller ball the run goes on from where the larger one ended
                again &= first_ball
            if which == 1:  # in the largest ball the run itself began at such a point
                again &= ~first_ball
            if pool.x.is_cuda or again.any():
                pool.x_adv = _where(again, self._start(pool, ladder, which), pool.x_adv)
        return pool

    @staticmethod
    def _fooled(
        part: AttackView, pool: "_Pool", logits: Tensor, sound: Tensor, last: Tensor
    ) -> Tensor:
        """Tell which iterates (B,) fool the model in float32; the ``last`` are always asked."""
        if part.dtype == torch.float32:
            return sound & (logits.argmax(1) != pool.y)
        # Rounding may hide that an iterate fools the model.
        near = margin(logits, pool.y) >= -_rounding(logits, part.dtype)
        fooled = sound & (near | last)
        if fooled.any():
            claimed = fooled.nonzero().flatten()
            exact = part.select(claimed).logits(pool.x_adv[claimed])
            fooled[claimed] = exact.argmax(1) != pool.y[claimed]
        return fooled

    def _walked(self, pool: "_Pool", lead: Tensor, logits: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the leads (B, W) of the wrong class along the walk, this iterate's put in."""
        # Rounding must not pass for a gain.
        gain = torch.where(pool.age > -self._walk, lead - 2 * _rounding(logits, dtype), lead)
        place = torch.arange(-self._walk, 0, device=lead.device)
        now = pool.age[:, None] == place
        return torch.where(now, gain[:, None].to(pool.walked), pool.walked)

    def _misled(self, pool: "_Pool", lead: Tensor, ladder: "_Ladder") -> Tensor:
        """Tell which runs (B,), ending with ``lead``, gained too little compared with the walk.

        The end of the run counts, not its best: on its way it may have passed a better iterate.
        """
        if not self._walk:
            return torch.zeros_like(pool.level, dtype=torch.bool)
        eps, radii = ladder.eps(pool.level), ladder.walk(self._walk)[1:]
        gains = (pool.walked[:, 1:] - pool.walked[:, :1]) / radii
        rate = torch.where(radii < eps[:, None], gains, 0).amax(1)
        return rate * eps > MISLED * (lead - pool.walked[:, 0]).clamp_min(0)

    def _fresh_starts(self) -> Iterator[tuple[int, int]]:
        """Yield (age, which start): after the walk, the warm steps and with further restarts."""
        if self._walk:
            yield 0, 0
        yield self._warm, 1
        for restart in range(1, self.restarts):
            yield restart * (self.steps + 1), restart + 1

    @property
    def _walk(self) -> int:
        """Iterates of the walk: 0 or at least 2."""
        length = round(WALK * self.steps)
        return length if length > 1 else 0

    @property
    def _warm(self) -> int:
        return round(WARM * self.steps)

    def _length(self, eps: Tensor, age: Tensor, first_ball: Tensor) -> Tensor:
        """Return the step's length (B, 1, 1, 1) at ``age`` in the ball of ``eps`` (B,)."""
        if self.step_size is not None:
            return torch.full_like(eps, self.step_size).view(-1, 1, 1, 1)
        warm = self._warm
        # The first iterate of a run is its start; of the warm steps, what fooled the larger ball.
        taken = (age - 1) % (self.steps + 1) / self.steps
        short = torch.where(age < warm, age / max(1, warm), (age - warm - 1) / (self.steps - warm))
        whole = first_ball | (age > self.steps)
        share = torch.where(whole, taken, short)
        first = (5 / torch.where(whole, self.steps, self.steps - warm)).clamp_min(FIRST)
        shrunk = LAST + (first - LAST) * (1 + torch.cos(math.pi * share)) / 2
        return (eps * shrunk).view(-1, 1, 1, 1)


@dataclass(frozen=True)
class _Ladder:
    """The eps of a sweep, ascending: float32 to move in, float64 with its tolerance to judge by."""

    levels: Tensor
    reach: Tensor

    @classmethod
    def of(cls, budgets: Sequence[float], device: torch.device) -> "_Ladder":
        most = [reach(eps) for eps in budgets]
        return cls(
            torch.tensor(budgets, dtype=torch.float32, device=device),
            torch.tensor(most, dtype=torch.float64, device=device),
        )

    @property
    def top(self) -> int:
        """The level of the largest ball."""
        return len(self.levels) - 1

    def eps(self, level: Tensor) -> Tensor:
        """Return the radius (B,) of each sample's ball."""
        return self.levels[level.clamp_min(0)]

    def walk(self, n: int) -> Tensor:
        """Return the distances (n,) of the walk's iterates: 0, then growing towards the top."""
        top = self.levels[-1]
        lowest = torch.minimum(self.levels[0], top / NARROW)
        share = torch.arange(n - 1, device=top.device) / (n - 1)
        return F.pad(lowest * (top / lowest) ** share, (1, 0))

    def smallest(self, far: Tensor) -> Tensor:
        """Return the level of the smallest ball that holds a point at distance ``far`` (B,)."""
        return torch.searchsorted(self.reach, far)


@dataclass
class _Pool:
    """The samples that are being searched: ``rows`` on the host, all else on the device.

    ``level`` (B,) is the ball that each is in, below 0 where there is none left; ``age`` the number
    of iterates there that did not fool, below 0 on the walk; ``starts`` (B, S, C, H, W) are points
    of the unit ball. ``walked`` (B, W) is the wrong class's lead at each iterate of the walk.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    starts: Tensor
    level: Tensor
    age: Tensor
    x_adv: Tensor
    best: Tensor
    walked: Tensor

    @classmethod
    def at(cls, x: Tensor, y: Tensor, rows: Tensor, starts: Tensor, top: int, walk: int) -> "_Pool":
        level = torch.full((len(x),), top, device=x.device)
        low = torch.full((len(x), walk), -torch.inf, device=x.device)
        return cls(rows, x, y, starts, level, torch.full_like(level, -walk), x, x, low)

    def searching(self, most: int) -> Tensor:
        return (self.level >= 0) & (self.age < most)

    def selected(self, mask: Tensor) -> "_Pool":
        kept = {name: value[mask.to(value.device)] for name, value in vars(self).items()}
        return replace(self, **kept)

    def part(self, start: int, stop: int | None = None) -> "_Pool":
        some = {name: value[start:stop] for name, value in vars(self).items()}
        return replace(self, **some)

    def joined(self, other: "_Pool") -> "_Pool":
        both = {
            name: torch.cat([value, getattr(other, name)]) for name, value in vars(self).items()
        }
        return replace(self, **both)


def _rounding(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return by how much rounding to ``dtype`` moves a sample's logits (N,)."""
    return torch.finfo(dtype).eps * logits.abs().amax(1)


def _where(mask: Tensor, one: Tensor | float, other: Tensor) -> Tensor:
    """Choose per image."""
    return torch.where(mask.view(-1, 1, 1, 1), one, other)
