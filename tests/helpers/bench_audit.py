"""An audit of a defense on the planted set's bench, with a test's small effort."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from maskings import Bench, case_of

from benchmark.attacks.pgd import PGD
from benchmark.audit.attack_harder import attack_harder
from benchmark.audit.case import Curve, Finding
from benchmark.audit.checks import examine
from benchmark.audit.stronger_attacks import Effort
from benchmark.audit.transfer import AttackedModel, transfers
from benchmark.audit.verdict import Verdict, judge
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.evaluation.sweep import sweep
from benchmark.hashing import derive_seed
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.results.audit_words import Level

THREAT = ThreatModel("linf", (0.1, 0.2))
EFFORT = Effort(steps=10, restarts=1, probes=6, eot=3, levels=2, targets=3)


def plain(
    defense: Defense, bench: Bench, threat: ThreatModel = THREAT, steps: int = 10
) -> list[Curve]:
    """A run's own sweep; none where it fails for want of a gradient."""
    spec = AttackSpec("pgd", threat, len(bench.test))
    found = sweep(
        defense,
        PGD(steps=steps),
        spec,
        bench.test,
        seed_at=lambda eps: derive_seed("plain", eps),
        progress=Progress(),
    )
    try:
        outcomes = list(found)
    except RuntimeError:
        return []
    success = torch.stack([outcome.success for outcome in outcomes])
    far = torch.stack([outcome.distance for outcome in outcomes])
    return [Curve("pgd", "inhouse", "linf", threat.eps, success, far)]


def left_of(defense: Defense, bench: Bench) -> list[float]:
    """What PGD leaves of a defense with a gradient."""
    (curve,) = plain(defense, bench)
    return list(curve.robust_accuracy)


def never(verdict: Verdict) -> bool:
    return False


def audit(
    defense: Defense,
    bench: Bench,
    enough: Callable[[Verdict], bool] = never,
    *,
    queries: int = 60,
    level: Level = "basic",
    curves: Sequence[Curve] | None = None,
    threat: ThreatModel = THREAT,
) -> tuple[list[Finding], Verdict]:
    """Ask the checks of ``level`` and attack as an audit in full does, until ``enough``."""
    curves = plain(defense, bench) if curves is None else curves
    case = case_of(defense, bench, curves=curves)
    findings = list(examine(case, level))
    (transfer,) = transfers(
        [AttackedModel("other", bench.other)],
        [AttackedModel("masked", defense)],
        bench.test,
        threat,
        seed_at=lambda name, eps: derive_seed(name, eps),
        progress=Progress(),
        steps=10,
    )
    own: list[Curve] = []
    effort = replace(EFFORT, queries=queries)
    for result in attack_harder(
        case, bench.test, threat, findings, effort=effort, progress=Progress()
    ):
        if result.outcomes:
            own.append(result.curve)
        verdict = judge(
            norm="linf",
            correct=case.correct,
            stochastic=defense.stochastic,
            findings=findings,
            plain=curves,
            own=own,
            transferred=[transfer.curve],
        )
        if enough(verdict):
            break
    return findings, verdict
