"""Which stronger attacks the audit runs: always the same ones, and what the checks found asks for.

Always, the cheapest first, each on the images that those before it did not fool:

- PGD on the margin, and on the cross-entropy, with more steps and restarts;
- the same across a bridge (below), wherever one leads another way than the defense's own gradient;
- APGD on the difference of logits ratio (Croce and Hein 2020, https://arxiv.org/abs/2003.01690),
  and targeted, towards one other class after the other;
- the gradient averaged over noise of the size of eps (:mod:`benchmark.audit.smoothed_gradient`):
  no look at a gradient tells that it holds no waves. At one eps while nothing speaks for them; if
  it fools the defense on more there than a few images, at all of them with more draws;
- the Square attack (Andriushchenko et al. 2019, https://arxiv.org/abs/1912.00049), which asks for
  answers only.

A check's decorator names the remedies that its finding asks for
(:data:`benchmark.audit.registration.Remedy`), and whether its alarm puts the gradient in doubt.
What replaces a doubtful gradient (BPDA, Athalye et al. 2018, https://arxiv.org/abs/1802.00420) goes
first: that of the defense's own surrogate where it has one; across what breaks it, with the
identity in its place (:mod:`benchmark.audit.auto_bpda`); and, last, one estimated from answers
alone (:mod:`benchmark.audit.estimated_gradient`). A generator, in l2, asks for C&W in its latent
space. Images made against other defenses come on top (:mod:`benchmark.audit.transfer`).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmark.audit.auto_bpda import Bridged, bridges_nothing, find_bridge
from benchmark.audit.budgets import shared, telling
from benchmark.audit.case import Case, Finding
from benchmark.audit.checks import known, remedies_for
from benchmark.audit.estimated_gradient import EvolutionStrategies
from benchmark.audit.registration import Remedy
from benchmark.audit.smoothed_gradient import SmoothedGradient
from benchmark.audit.surrogates import Around, Restored, Unsquashed
from benchmark.audit.targeted_pgd import TargetedPGD
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.hashing import derive_seed
from benchmark.machine_errors import out_of_memory
from benchmark.models.defense import Defense
from benchmark.seeding import seeded

PEERS = "torchattacks"
"""The library of the attacks that the harness has no own of."""

PROBED = 8
"""Images that tell where a bridge can be built."""

LEAST = 10
"""A search of fewer steps is none."""

OTHERS = 1 + 2.5
"""What APGD and Square cost at one level, in runs of a PGD."""

ESTIMATED, SMOOTHED, TARGETED = (
    f"{cls.__module__}:{cls.__name__}"
    for cls in (EvolutionStrategies, SmoothedGradient, TargetedPGD)
)


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
        targeted search and the averaged gradient come on top and are paid for by images that were
        fooled before: only one that withstands everything costs up to twice as much. Where the
        gradient is in doubt, what replaces it costs up to twice as much again, most of it the
        estimated gradients. At least :data:`LEAST` steps, at most those of a whole effort.
        """
        return cls()._within(passes / (2 * (cls.restarts + 1) + cls.levels * OTHERS))

    @classmethod
    def of_stochastic(cls, passes: float, *, draws: int) -> "Effort":
        """Return the same where each level is attacked again and every loss averaged over draws.

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
class StrongerAttack:
    """An attack of the audit before it is run: on ``defense``, the audited one or a surrogate.

    ``why`` says what it is for. ``then`` follows if this one fools more images than expected.
    """

    spec: AttackSpec
    why: str
    defense: Defense
    then: "StrongerAttack | None" = None

    @property
    def on_surrogate(self) -> bool:
        """Whether an attack of a run would look at something else: the defense as it is."""
        own = self.defense
        return type(own) is not Around or own.stochastic != own.defense.stochastic

    @property
    def whole_batch(self) -> bool:
        """Whether no image leaves the batch before the others."""
        return self.spec.params.get("early_stop") is False


def plan_attacks(
    case: Case,
    threat: ThreatModel,
    findings: Sequence[Finding],
    *,
    n: int,
    effort: Effort,
) -> list[StrongerAttack]:
    """Choose the attacks on ``n`` images by what the checks found."""
    alarms = [finding for finding in findings if finding.answer == "alarm"]
    asked = remedies_for(alarms, "alarm")
    noted = remedies_for(findings, "alarm", "note")
    noisy = case.defense.stochastic or "fresh draws" in asked
    around = Restored if "fresh state" in noted else Around
    blind = "no gradient" in asked or not case.defense.differentiable
    # Noise is judged draw by draw, at one eps: there the run's own best attack has to have been.
    at = shared(case.curves, threat) if noisy else threat
    levels = telling(case.curves, at, effort.levels)
    plan = _Plan(
        case=case,
        base=around(case.defense, stochastic=noisy, differentiable=not blind),
        n=n,
        # A stochastic defense is attacked again at every eps, so that there a sweep is not free.
        grid=levels if noisy else threat,
        levels=levels,
        eot=max(case.eot, effort.eot) if noisy else 1,
        effort=effort,
        asked=asked,
        doubted=any(known(finding.check).doubts_gradient for finding in alarms),
        logarithms="logarithms" in noted and case.defense.answer_form.kind != "labels",
    )
    return list(plan.attacks())


@dataclass(frozen=True)
class _Plan:
    """What the attacks share, and in which order they come.

    ``grid`` is for attacks that serve a whole sweep, ``levels`` for the others. ``asked`` are the
    remedies of alarms, ``doubted`` tells whether the gradient is in doubt.
    """

    case: Case
    base: Around
    n: int
    grid: ThreatModel
    levels: ThreatModel
    eot: int
    effort: Effort
    asked: Collection[Remedy]
    doubted: bool
    logarithms: bool

    @property
    def how(self) -> str:
        """What is said of an attack that averages over the defense's noise."""
        return " over fresh draws" if self.eot > 1 else ""

    def attacks(self) -> Iterator[StrongerAttack]:
        """Yield the attacks in the order in which they are run."""
        if self.logarithms:
            logs = Unsquashed(self.base, stochastic=self.base.stochastic, differentiable=True)
            yield self._pgd("logarithms", "log-probabilities in float64", defense=logs)
        if self.doubted:
            if type(self.case.defense).surrogate is not Defense.surrogate and not self.case.bpda:
                yield self._pgd("bpda", "the gradient of the defense's own surrogate", bpda=True)
            yield from self._across()
        if self.base.differentiable or self.case.bpda:
            # Where the gradient is flat its mean is, too: then what replaces it goes first.
            promising = self.doubted and "no averaging" not in self.asked
            averaged = self._averaged(whole=promising)
            if promising:
                yield averaged
            yield self._pgd("margin", f"a loss that does not saturate{self.how}")
            if not self.doubted:
                yield from self._across()
            why = f"more steps and restarts{self.how}"
            yield self._pgd("cross-entropy", why, loss="cross_entropy")
            yield from self._apgd()
            if not promising:
                yield averaged
        yield from self._by_answers()

    def _attack(
        self, name: str, why: str, params: dict[str, Any], **options: Any
    ) -> StrongerAttack:
        """Return an attack on ``base``, at the telling budgets, unless ``options`` say else."""
        defense, then = options.pop("defense", self.base), options.pop("then", None)
        given: dict[str, Any] = {"threat": self.levels, "eot": self.eot, "bpda": self.case.bpda}
        spec = AttackSpec(f"audit-{name}", n=self.n, params=params, **(given | options))
        return StrongerAttack(spec, why, defense, then)

    def _pgd(self, name: str, why: str, *, loss: str = "margin", **options: Any) -> StrongerAttack:
        """Return a PGD over the whole grid."""
        effort = self.effort
        params: dict[str, Any] = {"loss": loss, "steps": effort.steps, "restarts": effort.restarts}
        if "whole batches" in self.asked:  # its last state is what is scored
            params |= {"early_stop": False, "return_last": True, "restarts": 1}
        return self._attack(name, why, params, type="pgd", threat=self.grid, **options)

    def _across(self) -> Iterator[StrongerAttack]:
        """PGD across a bridge, unless none is found or, without a doubt, it leads nowhere new."""
        if not self.doubted and (self.case.bpda or not self.case.defense.differentiable):
            return  # a surrogate's pass may be a search, and the run's attacks had one
        try:
            across = self._bridged()
        except Exception as error:  # what cannot be asked part by part is no place for a bridge
            if out_of_memory(error):
                raise
            return
        if across is not None:
            why = f"BPDA with the identity {across.bridge}"
            yield self._pgd("bridge", why, defense=across, bpda=False)

    def _bridged(self) -> Bridged | None:
        case, seed = self.case, derive_seed(self.case.seed, "bridge")
        with torch.no_grad(), seeded(seed, case.device, case.defense):
            bridge = find_bridge(case.defense, case.x[:PROBED])
        if bridge is None:
            return None
        known = {"stochastic": self.base.stochastic, "differentiable": True}
        across = Bridged(self.base, bridge, **known)
        if self.doubted:
            return across
        at = case.attacked[0][:PROBED], self.levels.eps[0], self.levels.norm
        return None if bridges_nothing(case.defense, across, *at, seed=seed) else across

    def _apgd(self) -> Iterator[StrongerAttack]:
        effort, n_classes = self.effort, self.case.defense.info.n_classes
        # Below four classes there is no third logit for the ratio to rest on.
        apgd = {"steps": effort.steps, "loss": "dlr" if n_classes > 3 else "ce"}
        why = f"steps that choose their own length{self.how}"
        yield self._attack("apgd", why, apgd, type="APGD", library=PEERS)
        steps, targets = max(LEAST, effort.steps // 2), min(effort.targets, n_classes - 1)
        why = f"towards {targets} other classes, one after the other{self.how}"
        if n_classes > 3:
            params = {"steps": steps, "n_classes": targets + 1}
            yield self._attack("targeted", why, params, type="APGDT", library=PEERS)
        elif targets > 1:
            params = {"steps": steps, "targets": targets}
            yield self._attack("targeted", why, params, type=TARGETED)

    def _averaged(self, *, whole: bool) -> StrongerAttack:
        """The gradient averaged over noise: at one eps first, or the ``whole`` of it at once."""
        # The attack's own noise asks a random defense again, too.
        draws = max(self.effort.draws, self.eot)
        steps = max(LEAST, self.effort.steps // 2)
        why = "the gradient averaged over noise of half of eps"
        many = {
            "steps": 2 * steps,
            "draws": 2 * draws if "more averaging" in self.asked else draws,
        }
        longer = self._attack("averaged", why, many, type=SMOOTHED, eot=1)
        if self.base.stochastic or whole:
            return longer
        first = telling(self.case.curves, self.levels, 2).eps[0]
        at_one = {"threat": ThreatModel(self.levels.norm, (first,)), "eot": 1, "then": longer}
        few = {"steps": steps, "draws": draws}
        return self._attack("averaged-once", why, few, type=SMOOTHED, **at_one)

    def _by_answers(self) -> Iterator[StrongerAttack]:
        why = f"answers only, no gradient{self.how}"
        square = {"n_queries": self.effort.queries}
        yield self._attack("square", why, square, type="Square", library=PEERS, bpda=False)
        if self.base.latent_dim is not None and self.grid.norm == "l2":
            # A pass through the generator alone is cheap: as long a search as the attack's own.
            why, own = "the latents of the defense's generator", {"threat": self.grid, "eot": 1}
            yield self._attack("latent", why, {}, type="latent-cw", bpda=False, **own)
        if self.doubted:
            why = "a gradient estimated from answers"
            probes = {"steps": self.effort.steps, "probes": self.effort.probes}
            yield self._attack("estimated", why, probes, type=ESTIMATED, bpda=False)
