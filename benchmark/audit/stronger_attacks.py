"""A stronger attack than the run's, chosen by what the checks found.

Always, the cheapest first, each on the images that those before it left standing:

- PGD on the margin, and on the cross-entropy, with more steps and restarts;
- the same across a bridge (below), wherever one leads another way than the defense's own gradient;
- APGD on the difference of logits ratio (Croce and Hein 2020, https://arxiv.org/abs/2003.01690),
  and targeted, towards one other class after the other;
- the gradient averaged over noise of the size of eps (:mod:`benchmark.audit.smoothed_gradient`):
nobody can
  tell by looking that a gradient holds no waves. At one eps while nothing speaks for them; if it
  turns more there than a few images, at all of them with more draws;
- the Square attack (Andriushchenko et al. 2019, https://arxiv.org/abs/1912.00049), which asks for
  answers only.

What else, and how the attacks see the defense, depends on the alarms (:func:`plan_strikes`):

- randomness: every loss is averaged over fresh draws (EOT), and every eps attacked from scratch;
- state that changes: every question finds the defense as it was trained;
- answers that depend on the batch: all steps are taken on the very batch that is scored;
- outputs that are probabilities: their logarithms, in float64;
- a generator, in l2: C&W in its latent space;
- any other alarm puts the gradient in doubt, and what replaces it (BPDA, Athalye et al. 2018,
  https://arxiv.org/abs/1802.00420) goes first: that of the defense's own stand-in where it has one;
  across what breaks it, with the identity in its place (:mod:`benchmark.audit.auto_bpda` says what
  that can mean for a defense nobody has looked into); and, last, one estimated from answers alone
  (:mod:`benchmark.audit.estimated_gradient`).

Images made against other defenses come on top (:mod:`benchmark.audit.transfer`). All are judged by
the harness, as deployed.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.loader import load_attack
from benchmark.audit.auto_bpda import Bridge, Bridged, bridges_nothing, find_bridge
from benchmark.audit.case import Curve, Finding, Subject
from benchmark.audit.estimated_gradient import EvolutionStrategies
from benchmark.audit.registration import doubts_gradient
from benchmark.audit.remaining_images import Standing
from benchmark.audit.smoothed_gradient import SmoothedGradient
from benchmark.audit.surrogates import Around, Restored, Unsquashed
from benchmark.audit.targeted_pgd import TargetedPGD
from benchmark.config.spec import INHOUSE, AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.datasets.dataset import ImageDataset
from benchmark.evaluation.sweep import Outcome, sweep
from benchmark.hashing import derive_seed
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.results.audit_words import STRONGER
from benchmark.seeding import seeded

RANDOM = "randomness"
MISSING = "missing-gradient"
CHANGING = "state-changes"
BATCHED = "batch-dependence"
PROBABLE = "probability-outputs"
SCALE = "gradient-scale"
FLAT = ("zero-gradient", MISSING)
"""Alarms that say that there is nothing to average."""

PEERS = "torchattacks"
"""The library of the attacks that the harness has no own of."""

PROBED = 8
"""So many images tell where a bridge can stand."""

LEAST = 10
"""A search of fewer steps is none."""

OTHERS = 1 + 2.5
"""What APGD and Square cost at one level, in runs of a PGD."""

ESTIMATED, SMOOTHED, TARGETED = (
    f"{cls.__module__}:{cls.__name__}"
    for cls in (EvolutionStrategies, SmoothedGradient, TargetedPGD)
)

SURPRISING = 0.05
"""The share of images that a short attack has to turn for the long one to follow."""


@dataclass(frozen=True)
class Effort:
    """How hard the audit attacks.

    ``steps`` of every search, ``restarts`` of each PGD, ``queries`` of Square, ``probes`` pairs of
    points per estimated gradient, ``draws`` of noise per averaged one, ``targets`` of the targeted
    search, ``eot`` draws of a random defense. What serves no whole sweep is run at ``levels`` of
    its budgets.
    """

    steps: int = 100
    restarts: int = 2
    queries: int = 500
    probes: int = 10
    eot: int = 10
    levels: int = 3
    draws: int = 8
    targets: int = 9

    @classmethod
    def of(cls, passes: float) -> "Effort":
        """Return the effort that costs about ``passes`` (a forward and a backward each) per image.

        A PGD takes ``restarts`` + 1 runs in all, APGD a run and Square 2.5 at each of 3 levels. The
        targeted search and the averaged gradient come on top and are paid for by images that fell
        before: only one that stands everything, everywhere, costs up to twice as much. Where the
        gradient is in doubt, what replaces it costs up to twice as much again, most of it the
        estimated gradients. At least :data:`LEAST` steps, at most those of a whole effort.
        """
        return cls()._within(passes / (2 * (cls.restarts + 1) + cls.levels * OTHERS))

    @classmethod
    def of_stochastic(cls, passes: float, *, draws: int) -> "Effort":
        """Return the same where each level is attacked anew and every loss averaged over draws.

        Where ``passes`` do not suffice, restarts go before steps, and of the draws those go that
        are more than ``draws``, which the run's attacks averaged.
        """
        once = cls.levels * (2 + OTHERS)
        draws, most = max(1, draws), max(draws, cls.eot)
        again = cls.levels * 2 * (cls.restarts - 1)
        if passes >= LEAST * most * (once + again):
            return cls(eot=most)._within(passes / (most * (once + again)))
        most = min(most, max(draws, int(passes / (LEAST * once))))
        return cls(restarts=1, eot=most)._within(passes / (most * once))

    def _within(self, steps: float) -> "Effort":
        steps = min(self.steps, max(LEAST, round(steps)))
        targets = min(self.targets, max(3, steps // 10))
        return replace(self, steps=steps, queries=5 * steps, targets=targets)


@dataclass(frozen=True)
class Strike:
    """An attack of the audit before it is run: on ``defense``, a stand-in of the audited one.

    ``why`` says what it is for. ``then`` follows if this one turns more images than expected.
    """

    spec: AttackSpec
    why: str
    defense: Defense
    then: "Strike | None" = None

    @property
    def on_stand_in(self) -> bool:
        """Whether an attack of a run would look at something else: the defense as it is."""
        own = self.defense
        return type(own) is not Around or own.stochastic != own.defense.stochastic


@dataclass(frozen=True)
class Struck:
    """What an attack of the audit left, eps by eps; without outcomes ``failure`` says why.

    Of a deterministic defense the outcomes are what the attack and those before it left together;
    ``new`` (len(eps), n) bool tells which images it turned itself, of those that stood before.
    ``stand_in`` tells whether it looked at another function than an attack of a run does.
    """

    spec: AttackSpec
    why: str
    outcomes: tuple[Outcome, ...]
    failure: str = ""
    stand_in: bool = False
    new: Tensor | None = None

    @property
    def curve(self) -> Curve:
        """The outcomes per image, as those of a sweep of the run."""
        return Curve(
            self.spec.name,
            STRONGER,
            self.spec.threat.norm,
            tuple(outcome.eps for outcome in self.outcomes),
            torch.stack([outcome.success for outcome in self.outcomes]),
            torch.stack([outcome.distance for outcome in self.outcomes]),
            self.new,
        )

    @property
    def turned(self) -> int:
        """The images that the attack turned itself, at any eps."""
        return 0 if self.new is None else int(self.new.any(0).sum())

    @property
    def seconds(self) -> float:
        """The time that the attack took."""
        return sum(outcome.seconds for outcome in self.outcomes)

    @property
    def passes(self) -> float:
        """Passes per image: half of the forwards and backwards, over all eps."""
        queries = [outcome.n_forward + outcome.n_backward for outcome in self.outcomes]
        return float(torch.stack(queries).sum(0).double().mean()) / 2 if queries else 0.0


def strike(
    subject: Subject,
    images: ImageDataset,
    threat: ThreatModel,
    findings: Sequence[Finding],
    *,
    effort: Effort,
    progress: Progress,
) -> Iterator[Struck]:
    """Run the stronger attacks on the subject's defense and yield what each left, as it is done.

    ``images`` are the test images to attack, ``threat`` the norm and the budgets, of which the
    costlier attacks take some. The results depend on the subject's seed alone. An attack that
    raises is told as a failure, and the next one runs.
    """
    plan = plan_strikes(subject, threat, findings, n=len(images), effort=effort)
    # One lucky draw fells no image, and one that fell in its batch may stand in another.
    alone = any(each.defense.stochastic or _whole_batch(each.spec) for each in plan)
    standing = None if alone else Standing(subject.defense, images)
    for each in plan:
        done = _run(each, subject, images, standing, progress)
        yield done
        if each.then is not None and done.turned > SURPRISING * len(images):
            yield _run(each.then, subject, images, standing, progress)


def _whole_batch(spec: AttackSpec) -> bool:
    return spec.params.get("early_stop") is False


def _run(
    each: Strike,
    subject: Subject,
    images: ImageDataset,
    standing: Standing | None,
    progress: Progress,
) -> Struck:
    spec = each.spec

    def seed_at(eps: float) -> int:
        return derive_seed(subject.seed, subject.dataset, "audit", spec.name, eps)

    options: dict[str, Any] = {"seed_at": seed_at, "progress": progress}
    before = [] if standing is None else [standing.stands(eps) for eps in spec.threat.eps]
    try:
        attack = load_attack(spec)
        if standing is None:
            outcomes = tuple(sweep(each.defense, attack, spec, images, **options))
        else:
            outcomes = tuple(standing.attack(each.defense, attack, spec, **options))
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        failure = f"{type(error).__name__}: {first}"
        return Struck(spec, each.why, (), failure, each.on_stand_in)
    new = [was & outcome.success for was, outcome in zip(before, outcomes, strict=False)]
    turned = torch.stack(new) if new else None
    return Struck(spec, each.why, outcomes, "", each.on_stand_in, turned)


# --- the plan ----------------------------------------------------------------------------------


def plan_strikes(
    subject: Subject,
    threat: ThreatModel,
    findings: Sequence[Finding],
    *,
    n: int,
    effort: Effort,
) -> list[Strike]:
    """Choose the attacks on ``n`` images by what the checks found."""
    alarms = {finding.check for finding in findings if finding.answer == "alarm"}
    noisy = subject.defense.stochastic or RANDOM in alarms
    told = {finding.check for finding in findings if finding.answer in ("alarm", "note")}
    seen: type[Around] = Restored if CHANGING in told else Around
    blind = MISSING in alarms or not subject.defense.differentiable
    base = seen(subject.defense, stochastic=noisy, differentiable=not blind)
    # Noise is judged draw by draw, at one eps: there the run's own best attack has to have been.
    at = shared(subject.curves, threat) if noisy else threat
    levels = telling(subject.curves, at, effort.levels)
    plan = _Plan(
        base=base,
        n=n,
        # A stochastic defense is attacked anew at every eps, so that there a sweep is not free.
        grid=levels if noisy else threat,
        levels=levels,
        eot=max(subject.eot, effort.eot) if noisy else 1,
        bpda=subject.bpda,
        effort=effort,
        whole_batch=BATCHED in alarms,
    )
    return list(_strikes(plan, subject, alarms, told))


def telling(curves: Sequence[Curve], threat: ThreatModel, most: int) -> ThreatModel:
    """Return at most ``most`` of the budgets above 0: those at which an attack can tell most.

    The one at which the run left about half of the images standing that stood at its smallest
    budget, the largest, and others between and around as evenly as they come; without sweeps, or
    where no accuracy falls, spread over the grid.
    """
    grid = [eps for eps in threat.eps if eps > 0]
    if len(grid) <= most:
        return ThreatModel(threat.norm, tuple(grid or threat.eps))
    chosen = [grid[-1]]
    if most > 1 and (half := _half(curves, threat.norm, grid)) is not None:
        chosen = sorted({half, grid[-1]})
    while len(chosen) < most:
        rest = [eps for eps in grid if eps not in chosen]
        ends = [0.0, *chosen]
        chosen.append(max(rest, key=lambda eps: (min(abs(eps - end) for end in ends), -eps)))
    return ThreatModel(threat.norm, tuple(sorted(chosen)))


def shared(curves: Sequence[Curve], threat: ThreatModel) -> ThreatModel:
    """Return the budgets above 0 at which every sweep in the norm was run; without any, all."""
    grids = [set(curve.eps) for curve in curves if curve.norm == threat.norm]
    common = [eps for eps in threat.eps if eps > 0 and all(eps in grid for grid in grids)]
    return ThreatModel(threat.norm, tuple(common)) if common else threat


def _half(curves: Sequence[Curve], norm: str, grid: Sequence[float]) -> float | None:
    left: dict[float, float] = {}
    for curve in curves:
        for eps, accuracy in zip(curve.eps, curve.robust_accuracy, strict=True):
            if curve.norm == norm:
                left[eps] = min(accuracy, left.get(eps, 1.0))
    if not left or min(left.values()) > 0.5 * max(left.values()):
        return None
    known = [eps for eps in grid if eps in left]
    middle = max(left.values()) / 2
    return min(known, key=lambda eps: abs(left[eps] - middle), default=None)


@dataclass(frozen=True)
class _Plan:
    """What the strikes share."""

    base: Around
    n: int
    grid: ThreatModel
    levels: ThreatModel
    eot: int
    bpda: bool
    effort: Effort
    whole_batch: bool

    def pgd(self, name: str, loss: str, why: str, **options: Any) -> Strike:
        """PGD over the whole grid, on ``defense`` and with ``bpda`` where they are given."""
        params: dict[str, Any] = {
            "loss": loss,
            "steps": self.effort.steps,
            "restarts": self.effort.restarts,
        }
        if self.whole_batch:  # nobody leaves the batch, and its last state is what is scored
            params |= {"early_stop": False, "return_last": True, "restarts": 1}
        spec = AttackSpec(
            name=f"audit-{name}",
            type="pgd",
            threat=self.grid,
            n=self.n,
            eot=self.eot,
            bpda=options.get("bpda", self.bpda),
            params=params,
        )
        return Strike(spec, why, options.get("defense", self.base))

    def at_levels(
        self,
        name: str,
        cls: str,
        why: str,
        params: dict[str, Any],
        *,
        library: str = INHOUSE,
        bpda: bool = False,
        eot: int | None = None,
        threat: ThreatModel | None = None,
        then: Strike | None = None,
    ) -> Strike:
        """An attack ``cls`` of ``library`` that serves no sweep, at the telling budgets."""
        spec = AttackSpec(
            name=f"audit-{name}",
            type=cls,
            library=library,
            threat=threat or self.levels,
            n=self.n,
            eot=self.eot if eot is None else eot,
            bpda=bpda,
            params=params,
        )
        return Strike(spec, why, self.base, then)


def _strikes(
    plan: _Plan, subject: Subject, alarms: Collection[str], told: Collection[str]
) -> Iterator[Strike]:
    doubted = any(map(doubts_gradient, alarms))
    followed = plan.base.differentiable or plan.bpda
    if PROBABLE in told and subject.defense.answer_form.kind != "labels":
        known = {"stochastic": plan.base.stochastic, "differentiable": True}
        logs = Unsquashed(plan.base, **known)
        yield plan.pgd("logarithms", "margin", "log-probabilities in float64", defense=logs)
    if doubted:
        yield from _own_stand_in(plan, subject)
        yield from _across(plan, subject, doubted=True)
    if followed:
        how = " over fresh draws" if plan.eot > 1 else ""
        # Where the gradient is flat its mean is, too: then what replaces it goes first.
        promising = doubted and not set(alarms) & set(FLAT)
        averaged = _averaged(plan, subject, alarms, whole=promising)
        if promising:
            yield averaged
        yield plan.pgd("margin", "margin", f"a loss that does not saturate{how}")
        if not doubted:
            yield from _across(plan, subject, doubted=False)
        yield plan.pgd("cross-entropy", "cross_entropy", f"more steps and restarts{how}")
        yield from _apgd(plan, subject, how)
        if not promising:
            yield averaged
    yield from _by_answers(plan, doubted=doubted)


def _own_stand_in(plan: _Plan, subject: Subject) -> Iterator[Strike]:
    if type(subject.defense).surrogate is not Defense.surrogate and not subject.bpda:
        yield plan.pgd("bpda", "margin", "the gradient of the defense's own stand-in", bpda=True)


def _across(plan: _Plan, subject: Subject, *, doubted: bool) -> Iterator[Strike]:
    """PGD across a bridge, unless none can be found or, without a doubt, it leads nowhere new."""
    if not doubted and (subject.bpda or not subject.defense.differentiable):
        return  # a stand-in's pass may be a search, and the run's attacks had one
    bridge = _bridge(subject)
    if bridge is None:
        return
    across = Bridged(plan.base, bridge, stochastic=plan.base.stochastic, differentiable=True)
    x, eps = subject.standing[0][:PROBED], plan.levels.eps[0]
    if not doubted and bridges_nothing(
        subject.defense, across, x, eps, plan.levels.norm, seed=derive_seed(subject.seed, "bridge")
    ):
        return
    yield plan.pgd(
        "bridge", "margin", f"BPDA with the identity {bridge}", defense=across, bpda=False
    )


def _bridge(subject: Subject) -> Bridge | None:
    try:
        seed = derive_seed(subject.seed, "bridge")
        with torch.no_grad(), seeded(seed, subject.device, subject.defense):
            return find_bridge(subject.defense, subject.x[:PROBED])
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a module that cannot be asked by itself is no place for a bridge
        return None


def _apgd(plan: _Plan, subject: Subject, how: str) -> Iterator[Strike]:
    effort, n_classes = plan.effort, subject.defense.info.n_classes
    # Below four classes there is no third logit for the ratio to rest on.
    apgd = {"steps": effort.steps, "loss": "dlr" if n_classes > 3 else "ce"}
    why = f"steps that choose their own length{how}"
    yield plan.at_levels("apgd", "APGD", why, apgd, library=PEERS, bpda=plan.bpda)
    steps, targets = max(LEAST, effort.steps // 2), min(effort.targets, n_classes - 1)
    why = f"towards {targets} other classes, one after the other{how}"
    if n_classes > 3:
        params = {"steps": steps, "n_classes": targets + 1}
        yield plan.at_levels("targeted", "APGDT", why, params, library=PEERS, bpda=plan.bpda)
    elif targets > 1:
        params = {"steps": steps, "targets": targets}
        yield plan.at_levels("targeted", TARGETED, why, params, bpda=plan.bpda)


def _averaged(plan: _Plan, subject: Subject, alarms: Collection[str], *, whole: bool) -> Strike:
    """The gradient averaged over noise: at one eps, or the ``whole`` of it at all."""
    # The attack's own noise asks a random defense again, too.
    draws = max(plan.effort.draws, plan.eot)
    many = 2 * draws if SCALE in alarms else draws
    options: dict[str, Any] = {"bpda": plan.bpda, "eot": 1}
    steps = max(LEAST, plan.effort.steps // 2)
    why = "the gradient averaged over noise of half of eps"
    longer = plan.at_levels(
        "averaged", SMOOTHED, why, {"steps": 2 * steps, "draws": many}, **options
    )
    if plan.base.stochastic or whole:
        return longer
    first = telling(subject.curves, plan.levels, 2).eps[0]
    return plan.at_levels(
        "averaged-once",
        SMOOTHED,
        why,
        {"steps": steps, "draws": draws},
        threat=ThreatModel(plan.levels.norm, (first,)),
        then=longer,
        **options,
    )


def _by_answers(plan: _Plan, *, doubted: bool) -> Iterator[Strike]:
    how = " over fresh draws" if plan.eot > 1 else ""
    square = {"n_queries": plan.effort.queries}
    why = f"answers only, no gradient{how}"
    yield plan.at_levels("square", "Square", why, square, library=PEERS)
    if plan.base.latent_dim is not None and plan.grid.norm == "l2":
        # A pass through the generator alone is cheap: as long a search as the attack's own.
        spec = AttackSpec("audit-latent", plan.grid, plan.n, "latent-cw")
        yield Strike(spec, "the latents of the defense's generator", plan.base)
    if doubted:
        probes = {"steps": plan.effort.steps, "probes": plan.effort.probes}
        yield plan.at_levels("estimated", ESTIMATED, "a gradient estimated from answers", probes)
