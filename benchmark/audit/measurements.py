"""What several checks look at, measured once: gradients, differences, a short attack.

Everything is asked through the view that the run's attacks used (EOT, BPDA, inside the box), so
that a check judges the gradient that was followed, not one that nobody followed.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.losses import cross_entropy, margin
from benchmark.attacks.norms import per_sample, project, random_start, steepest_ascent, unit_ball
from benchmark.attacks.view import AttackView, attack_view
from benchmark.audit.case import Curve, Finding, Subject
from benchmark.hashing import derive_seed
from benchmark.seeding import generator, seeded

ASKED = 32
"""So many images are asked at most by the checks that need several passes."""

ASKED_OFTEN = 16
"""So many where an image is asked twenty times and more. With 32 the basic audit took 27 % of the
time of a quick STL10 run's PGD on 500 images."""

ASKED_UNDER_EOT, ASKED_OF_SEARCHING = 12, 8
"""So many where a pass is many: under EOT, or where the answer itself is searched for. With 12 of
Defense-GAN the basic audit took 35 % of the time of a quick STL10 run's attacks."""


def searches(subject: Subject) -> bool:
    """Tell whether the defense is of the costly kind that searches for its answer."""
    return subject.bpda or not subject.defense.differentiable


def most_of(subject: Subject) -> int:
    """Return how many images of ``subject`` the checks ask at most."""
    if searches(subject):
        return ASKED_OF_SEARCHING
    return ASKED_UNDER_EOT if subject.eot > 1 else ASKED


def steps_of(subject: Subject) -> int:
    """Return the steps of a check's own short attack."""
    return STEPS // 2 if searches(subject) else STEPS


@contextmanager
def view_of(subject: Subject, rows: int) -> Iterator[AttackView]:
    """Open the view that the run's attacks had, for a batch of ``rows`` images."""
    with attack_view(
        subject.defense, rows, eot=subject.eot, bpda=subject.bpda, inside=subject.inside
    ) as view:
        yield view


def asked(subject: Subject, most: int = ASKED) -> tuple[Tensor, Tensor]:
    """Return the first images that the defense gets right, at most ``most``, and their labels."""
    x, y = subject.standing
    most = min(most, most_of(subject))
    return x[:most], y[:most]


def seed_for(subject: Subject, *parts: object) -> int:
    """Return a seed of the audit of this subject, for the purpose that ``parts`` name."""
    return derive_seed(subject.seed, subject.dataset, "audit", *parts)


# --- plain answers ------------------------------------------------------------------------------

SAME = 1e-3
"""Logits that differ by less, relative to their length, are the same up to rounding. AutoAttack
(https://arxiv.org/abs/2003.01690) takes 1e-4 for repeated forwards; kernels for other batch sizes
and for graphs add in another order."""


def images(subject: Subject, most: int = ASKED) -> Tensor:
    """Return the first images, right or wrong."""
    return subject.x[: min(most, most_of(subject))]


@torch.no_grad()
def logits(subject: Subject, x: Tensor, seed: int | None = None) -> Tensor:
    """Return the defense's logits; under ``seed`` a stochastic defense draws the same noise."""
    with nullcontext() if seed is None else seeded(seed, x.device):
        answer: Tensor = subject.defense(x)
    return answer


def apart(one: Tensor, other: Tensor) -> Tensor:
    """Return how far two batches of logits (N, K) lie apart, relative to the first's length (N,).

    NaN and infinity count as one value: what is no number in both is the same.
    """
    one, other = one.double().nan_to_num(), other.double().nan_to_num()
    length = torch.linalg.vector_norm(one, dim=1).clamp_min(1e-10)
    far: Tensor = torch.linalg.vector_norm(one - other, dim=1) / length
    return far


REPEATS = 4


def repeats(subject: Subject) -> Tensor:
    """Return the logits (R, N, K) of the same images, asked again and again."""
    x = images(subject)
    return torch.stack([logits(subject, x) for _ in range(REPEATS)])


def is_random(subject: Subject) -> bool:
    """Tell whether the same images get other logits when asked again, or the defense says so."""
    answers = subject.once(repeats)
    differ = any(bool((apart(answers[0], other) > SAME).any()) for other in answers[1:])
    return differ or subject.defense.stochastic


FEW = 8
"""So many images tell whether a seed stills the noise."""


def still(subject: Subject) -> bool:
    """Tell whether a seed stills the defense: under the same one it answers twice alike."""
    x, seed = images(subject, FEW), seed_for(subject, "still")
    return bool((apart(logits(subject, x, seed), logits(subject, x, seed)) <= SAME).all())


# --- gradients at the images ---------------------------------------------------------------------


@dataclass(frozen=True)
class Gradients:
    """Loss gradients (N, C, H, W) at the first images that stand, or why there are none.

    ``gap`` (N,) is the true logit minus the best other one.
    """

    cross_entropy: Tensor
    margin: Tensor
    gap: Tensor
    error: str = ""


def gradients(subject: Subject) -> Gradients:
    """Take the gradients of the cross-entropy and the margin; 2 passes an image."""
    x, y = asked(subject)
    nothing = torch.full_like(x, torch.nan)
    try:
        with view_of(subject, len(x)) as view, seeded(seed_for(subject, "gradients"), x.device):
            view.drops = False
            by_margin = view.gradient(x, y, margin)
            by_entropy = view.gradient(x, y, cross_entropy)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # autograd's, where no graph leads back to the image
        return Gradients(nothing, nothing, nothing[:, 0, 0, 0], str(error).partition("\n")[0])
    return Gradients(by_entropy[2], by_margin[2], -by_margin[0])


NO_GRADIENT = "no gradient reaches the image: there is nothing to follow"


def unanswerable(name: str, subject: Subject) -> Finding | None:
    """Return that the check ``name`` cannot tell, where no gradient is there or it is no number."""
    found = subject.once(gradients)
    if found.error:
        return Finding(name, "undecided", torch.nan, torch.nan, NO_GRADIENT)
    if found.margin.isfinite().all():
        return None
    evidence = "the gradient holds NaN or infinity: there is nothing to follow"
    return Finding(name, "undecided", torch.nan, torch.nan, evidence)


# --- gradients against differences ---------------------------------------------------------------

SCALES = (1e-4, 1e-3, 1e-2)
"""Steps per pixel. Small ones stay on one linear piece of a ReLU network; large ones stand above
float32's rounding of the logits. A gradient need only agree at one of them."""

DIRECTIONS = 4
"""Random directions per image, each a sign per pixel."""


@dataclass(frozen=True)
class Differences:
    """Slopes of the margin loss as autograd has them and as central differences have them.

    ``length`` (N,) is autograd's slope along the gradient's own sign, ``along`` (S, N) the
    difference at each of the S scales. ``expected`` (N, K) are autograd's slopes in K random
    directions and ``measured`` (S, N, K) the differences. ``still`` tells whether the same images
    gave the same logits under the same seed: else the noise does not cancel.
    """

    length: Tensor
    along: Tensor
    expected: Tensor
    measured: Tensor
    still: bool


def differences(subject: Subject) -> Differences:
    """Compare slopes just inside the box; 2 S (K + 1) forwards and 1 pass an image.

    Every query draws the same noise: seeded alike, a stochastic defense is a fixed function, and
    needs no averaging.
    """
    x, y = asked(subject, ASKED_OFTEN)
    x = x.clamp(2 * SCALES[-1], 1 - 2 * SCALES[-1])
    seed = seed_for(subject, "differences")
    rng = generator(seed, x.device)
    with attack_view(subject.defense, len(x), inside=subject.inside) as view:

        def loss(at: Tensor) -> Tensor:
            with seeded(seed, x.device):
                return margin(view.logits(at), y)

        with seeded(seed, x.device):
            gradient = view.gradient(x, y, margin)[2]
        still = torch.equal(loss(x), loss(x))
        own = gradient.sign()
        draws = torch.randint(0, 2, (DIRECTIONS, *x.shape), generator=rng, device=x.device)
        signs = draws.to(x) * 2 - 1

        def slope(direction: Tensor, scale: float) -> Tensor:
            return (loss(x + scale * direction) - loss(x - scale * direction)) / (2 * scale)

        along = torch.stack([slope(own, scale) for scale in SCALES])
        measured = torch.stack(
            [torch.stack([slope(sign, scale) for sign in signs], 1) for scale in SCALES]
        )
    expected = (gradient * signs).flatten(2).sum(2).T
    return Differences(gradient.flatten(1).abs().sum(1), along, expected, measured, still)


# --- the budget that the checks attack at --------------------------------------------------------

FALLBACK = {1: 0.1, 3: 8 / 255}
"""l-inf budgets by the number of channels, where the run has no sweep to choose from."""


@dataclass(frozen=True)
class Budget:
    """A norm, an eps, and which of the subject's images stood there in the run (N,) bool.

    ``attack`` of ``library`` is the one of the run that left fewest standing, "" where there is
    none: then ``standing`` are the images that stand without attack.
    """

    norm: str
    eps: float
    standing: Tensor
    attack: str = ""
    library: str = ""


def worst_case(subject: Subject) -> Curve | None:
    """Return the curve of the best of the run's attacks per sample: l-inf if there is one, else l2.

    Of a stochastic defense that of the lowest single attack at each eps, because each further one
    is one more draw. Only over budgets that every attack of the norm saw, and over the subject's
    images; None if there is no curve that saw any.
    """
    for norm in ("linf", "l2"):
        curves = [curve for curve in subject.curves if curve.norm == norm]
        shared = set.intersection(*(set(curve.eps) for curve in curves)) if curves else set()
        if not shared:
            continue
        n = min(len(subject.y), *(curve.success.shape[1] for curve in curves))
        grid = tuple(sorted(shared))
        rows = []
        for eps in grid:
            fell = torch.stack([curve.success[curve.eps.index(eps), :n] for curve in curves])
            single = subject.defense.stochastic
            rows.append(fell[fell.sum(1).argmax()] if single else fell.any(0))
        success = torch.stack(rows)
        return Curve("worst case", "", norm, grid, success, torch.full(success.shape, torch.nan))
    return None


def budget(subject: Subject) -> Budget:
    """Choose the budget at which about half of the images that stood clean still stand.

    There an attack can both succeed and fail. Where the run's attacks left more at every budget,
    that is the largest one, and where they left as much less at several, the smallest of these.
    """
    curve = worst_case(subject)
    if curve is None or curve.eps[-1] == 0:
        eps = FALLBACK.get(subject.x.shape[1], FALLBACK[3])
        return Budget("linf", eps, subject.correct)
    n = curve.success.shape[1]
    clean = int(subject.correct[:n].sum())
    left = [int((~row & subject.correct[:n].cpu()).sum()) for row in curve.success.cpu()]
    places = [place for place, eps in enumerate(curve.eps) if eps > 0]
    place = min(
        places,
        key=lambda place: (
            abs(left[place] - clean / 2),
            place if left[place] < clean / 2 else -place,
        ),
    )
    eps = curve.eps[place]
    stood = torch.zeros_like(subject.correct)
    stood[:n] = ~curve.success[place].to(stood.device) & subject.correct[:n]
    best = max(
        (other for other in subject.curves if other.norm == curve.norm),
        key=lambda other: float(other.success[other.eps.index(eps)].double().mean()),
    )
    return Budget(curve.norm, eps, stood, best.attack, best.library)


# --- gradients at the scale of eps ---------------------------------------------------------------

FRACTIONS = (1 / 8, 1 / 4, 1 / 2)
"""Steps as shares of eps: what an attack moves by at a time."""

PLACES = 3
"""So many points of the ball are looked at, drawn within half of eps: an attack stays at the stored
image for one step only."""


@dataclass(frozen=True)
class Strides:
    """What the margin loss does across shares of eps, inside the ball.

    ``kept`` (F, N) is the rise along the gradient's own direction across each of the F fractions,
    as a share of what the gradient promised, over all places of an image. ``expected`` and
    ``measured`` (N, P) are the rises in one random direction at each place, across a quarter of
    eps. ``still`` tells whether the same images gave the same logits under the same seed.
    """

    kept: Tensor
    expected: Tensor
    measured: Tensor
    still: bool
    budget: Budget


def strides(subject: Subject) -> Strides:
    """Compare gradients in the ball with what steps of shares of eps do; P (2 F + 2) forwards and P
    passes an image.

    As in :func:`differences` every query draws the same noise.
    """
    x, y = asked(subject, ASKED_OFTEN)
    at = subject.once(budget)
    seed = seed_for(subject, "strides")
    rng = generator(seed, x.device)
    with attack_view(subject.defense, len(x), inside=subject.inside) as view:

        def loss(point: Tensor) -> Tensor:
            with seeded(seed, x.device):
                return margin(view.logits(point), y).double()

        def rise(point: Tensor, gradient: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            """Return what the gradient promises (N,) from one side to the other, and the rise."""
            above, below = (point + step).clamp(0, 1), (point - step).clamp(0, 1)
            promise = (gradient * (above - below)).flatten(1).double().sum(1)
            return promise, loss(above) - loss(below)

        still = torch.equal(loss(x), loss(x))
        promised = torch.zeros(len(FRACTIONS), len(x), dtype=torch.float64, device=x.device)
        risen = torch.zeros_like(promised)
        beside = []
        for _ in range(PLACES):
            point = project(x + at.eps / 2 * unit_ball(x, at.norm, rng), x, at.eps, at.norm)
            with seeded(seed, x.device):
                gradient = view.gradient(point, y, margin)[2]
            own = steepest_ascent(gradient, at.norm)
            for i, share in enumerate(FRACTIONS):
                promise, risen_by = rise(point, gradient, share * at.eps * own)
                promised[i] += promise
                risen[i] += risen_by
            other = steepest_ascent(unit_ball(x, at.norm, rng), at.norm)
            beside.append(rise(point, gradient, at.eps / 4 * other))
    kept = risen / promised.clamp_min(torch.finfo(torch.float64).tiny)
    expected, measured = (torch.stack(part, 1) for part in zip(*beside, strict=True))
    return Strides(kept, expected, measured, still, at)


# --- a short attack, step by step ----------------------------------------------------------------

STEPS = 20


@dataclass(frozen=True)
class Climb:
    """The iterates' losses of a short PGD: ``loss`` (T + 1, N) the margin, ``fooled`` (T + 1, N).

    ``x_adv`` (N, C, H, W) are the last iterates and ``best`` those that the attack would return.
    """

    loss: Tensor
    fooled: Tensor
    x_adv: Tensor
    best: Tensor
    budget: Budget


def climb(subject: Subject) -> Climb:
    """Ascend the cross-entropy as the run's PGD does; T passes and 1 forward an image."""
    x, y = asked(subject, ASKED_OFTEN)
    steps = steps_of(subject)
    at = subject.once(budget)
    seed = seed_for(subject, "climb")
    losses, fooled = [], []
    with view_of(subject, len(x)) as view, seeded(seed, x.device):
        x_adv = random_start(x, at.eps, at.norm, generator(seed, x.device))
        best, found = x_adv, torch.zeros_like(y, dtype=torch.bool)
        for step in range(steps + 1):
            if step < steps:
                _, logits, gradient = view.gradient(x_adv, y, cross_entropy)
            else:
                logits = view.logits(x_adv)
            losses.append(margin(logits, y))
            fooled.append(logits.argmax(1) != y)
            best = torch.where(per_sample(fooled[-1].to(x), x) > 0, x_adv, best)
            found |= fooled[-1]
            if step < steps:
                x_adv = x_adv + 2.5 * at.eps / steps * steepest_ascent(gradient, at.norm)
                x_adv = project(x_adv, x, at.eps, at.norm)
    best = torch.where(per_sample(found.to(x), x) > 0, best, x_adv)
    return Climb(torch.stack(losses), torch.stack(fooled), x_adv, best, at)
