"""A stronger attack than the run's, chosen by what the checks found.

Always: PGD on the margin and on the cross-entropy with more steps and restarts, APGD on the
difference of logits ratio (Croce and Hein 2020, https://arxiv.org/abs/2003.01690) and the Square
attack (Andriushchenko et al. 2019, https://arxiv.org/abs/1912.00049), which asks for answers only.
What else, and how the attacks see the defense, hangs on the alarms (:func:`plan_strikes`):

- randomness: every loss is averaged over fresh draws (EOT), and every eps attacked from scratch;
- weights or buffers that change: every question finds the defense as it was trained;
- answers that hang on the batch: all steps are taken on the very batch that is scored;
- outputs that are probabilities: their logarithms, in float64;
- a generator, in l2: C&W in its latent space;
- any other alarm puts the gradient in doubt, and it is replaced (BPDA, Athalye et al. 2018,
  https://arxiv.org/abs/1802.00420): by that of the defense's own stand-in where it has one; across
  what breaks it, with the identity in its place (:mod:`benchmark.audit.bridges` says what that can
  mean for a defense nobody has looked into); and by one estimated from answers alone
  (:mod:`benchmark.audit.estimates`).

Images made against other defenses come on top (:mod:`benchmark.audit.transfer`). All are judged by
the harness, as deployed.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmark.audit.bridges import Bridged, find_bridge
from benchmark.audit.estimates import EvolutionStrategies
from benchmark.audit.registration import doubts_gradient
from benchmark.audit.stand_ins import Around, Restored, Unsquashed
from benchmark.audit.subject import Curve, Finding, Subject
from benchmark.audit.words import STRONGER
from benchmark.datasets import ImageDataset
from benchmark.defense import Defense
from benchmark.plan import load_attack
from benchmark.progress import Progress
from benchmark.seeding import seeded
from benchmark.spec import INHOUSE, AttackSpec, ThreatModel, derive_seed
from benchmark.sweep import Outcome, sweep

RANDOM = "randomness"
MISSING = "missing-gradient"
CHANGING = "state-changes"
BATCHED = "batch-dependence"
PROBABLE = "probability-outputs"

PEERS = "torchattacks"
"""The library of the attacks that the harness has no own of."""

PROBED = 8
"""So many images tell where a bridge can stand."""

LEAST = 10
"""A search of fewer steps is none."""

OTHERS = 1 + 2.5
"""What APGD and Square cost at one level, in runs of a PGD."""

ESTIMATED = f"{EvolutionStrategies.__module__}:{EvolutionStrategies.__name__}"


@dataclass(frozen=True)
class Effort:
    """How hard the audit attacks.

    ``steps`` of every search, ``restarts`` of each PGD, ``queries`` of Square, ``probes`` pairs of
    points per estimated gradient, ``eot`` draws of a random defense. What serves no whole sweep is
    run at ``levels`` of its budgets.
    """

    steps: int = 100
    restarts: int = 2
    queries: int = 500
    probes: int = 10
    eot: int = 10
    levels: int = 3

    @classmethod
    def of(cls, passes: float) -> "Effort":
        """Return the effort that costs about ``passes`` (a forward and a backward each) per image.

        Of a deterministic defense without alarms whose images all stand, the most expensive kind: a
        PGD takes ``restarts`` + 1 runs in all, APGD a run and Square 2.5 at each of 3 levels. Where
        the gradient is in doubt, what replaces it costs up to twice as much again, most of it the
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
        return replace(self, steps=steps, queries=5 * steps)


@dataclass(frozen=True)
class Strike:
    """An attack of the audit before it is run: on ``defense``, a stand-in of the audited one.

    ``why`` says what it is for.
    """

    spec: AttackSpec
    why: str
    defense: Defense

    @property
    def on_stand_in(self) -> bool:
        """Whether an attack of a run would look at something else: the defense as it is."""
        own = self.defense
        return type(own) is not Around or own.stochastic != own.defense.stochastic


@dataclass(frozen=True)
class Struck:
    """What an attack of the audit left, eps by eps; without outcomes ``failure`` says why.

    ``stand_in`` tells whether it looked at another function than an attack of a run does.
    """

    spec: AttackSpec
    why: str
    outcomes: tuple[Outcome, ...]
    failure: str = ""
    stand_in: bool = False

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
        )

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
    costlier attacks take some. The results hang on the subject's seed alone. An attack that raises
    is told as a failure, and the next one runs.
    """
    for each in plan_strikes(subject, threat, findings, n=len(images), effort=effort):
        yield replace(_run(each, subject, images, progress), stand_in=each.on_stand_in)


def _run(each: Strike, subject: Subject, images: ImageDataset, progress: Progress) -> Struck:
    spec = each.spec

    def seed_at(eps: float) -> int:
        return derive_seed(subject.seed, subject.dataset, "audit", spec.name, eps)

    try:
        found = sweep(
            each.defense, load_attack(spec), spec, images, seed_at=seed_at, progress=progress
        )
        outcomes = tuple(found)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        return Struck(spec, each.why, (), f"{type(error).__name__}: {first}")
    return Struck(spec, each.why, outcomes)


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
    seen: type[Around] = Restored if CHANGING in alarms else Around
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
    return [*_by_alarm(plan, subject, alarms), *_always(plan, subject)]


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
    ) -> Strike:
        """An attack ``cls`` of ``library`` that serves no sweep, at the telling budgets."""
        spec = AttackSpec(
            name=f"audit-{name}",
            type=cls,
            library=library,
            threat=self.levels,
            n=self.n,
            eot=self.eot,
            bpda=bpda,
            params=params,
        )
        return Strike(spec, why, self.base)


def _always(plan: _Plan, subject: Subject) -> Iterator[Strike]:
    effort = plan.effort
    how = " over fresh draws" if plan.eot > 1 else ""
    if plan.base.differentiable or plan.bpda:
        yield plan.pgd("margin", "margin", f"a loss that does not saturate{how}")
        yield plan.pgd("cross-entropy", "cross_entropy", f"more steps and restarts{how}")
        # Below four classes there is no third logit for the ratio to rest on.
        loss = "dlr" if subject.defense.info.n_classes > 3 else "ce"
        apgd = {"steps": effort.steps, "loss": loss}
        why = f"steps that choose their own length{how}"
        yield plan.at_levels("apgd", "APGD", why, apgd, library=PEERS, bpda=plan.bpda)
    square = {"n_queries": effort.queries}
    why = f"answers only, no gradient{how}"
    yield plan.at_levels("square", "Square", why, square, library=PEERS)
    if plan.base.latent_dim is not None and plan.grid.norm == "l2":
        # A pass through the generator alone is cheap: as long a search as the attack's own.
        spec = AttackSpec("audit-latent", plan.grid, plan.n, "latent-cw")
        yield Strike(spec, "the latents of the defense's generator", plan.base)


def _by_alarm(plan: _Plan, subject: Subject, alarms: Collection[str]) -> Iterator[Strike]:
    defense = plan.base
    known = {"stochastic": defense.stochastic, "differentiable": True}
    if PROBABLE in alarms and subject.defense.answer_form.kind != "labels":
        logs = Unsquashed(defense, **known)
        yield plan.pgd("logarithms", "margin", "log-probabilities in float64", defense=logs)
    if not any(map(doubts_gradient, alarms)):
        return
    if type(subject.defense).surrogate is not Defense.surrogate and not subject.bpda:
        yield plan.pgd("bpda", "margin", "the gradient of the defense's own stand-in", bpda=True)
    seed = derive_seed(subject.seed, "bridge")
    with torch.no_grad(), seeded(seed, subject.device, subject.defense):
        bridge = find_bridge(subject.defense, subject.x[:PROBED])
    if bridge is not None:
        across = Bridged(defense, bridge, **known)
        why = f"BPDA with the identity {bridge}"
        yield plan.pgd("bridge", "margin", why, defense=across, bpda=False)
    probes = {"steps": plan.effort.steps, "probes": plan.effort.probes}
    yield plan.at_levels("estimated", ESTIMATED, "a gradient estimated from answers", probes)
