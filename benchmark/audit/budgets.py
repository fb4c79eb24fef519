"""At which eps the audit attacks: where the run's own attacks leave most to tell."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.audit.case import Case, Curve
from benchmark.config.threat import NORMS, ThreatModel

FALLBACK = {1: 0.1, 3: 8 / 255}
"""l-inf budgets by the number of channels, where the run has no sweep to choose from."""


@dataclass(frozen=True)
class Budget:
    """A norm, an eps, and which of the case's images the run's attacks did not fool there.

    ``robust`` (N,) bool holds these; ``attack`` of ``library`` is the one of the run that left
    fewest, "" where there is none: then they are the images that are right without an attack.
    """

    norm: str
    eps: float
    robust: Tensor
    attack: str = ""
    library: str = ""


def worst_case(case: Case) -> Curve | None:
    """Return the curve of the best of the run's attacks per sample, in the first norm that has one.

    Of a stochastic defense that of the lowest single attack at each eps, because each further one
    is one more draw. Only over budgets that every attack of the norm saw, and over the case's
    images; None if there is no curve that saw any.
    """
    for norm in NORMS:
        curves = [curve for curve in case.curves if curve.norm == norm]
        common = set.intersection(*(set(curve.eps) for curve in curves)) if curves else set()
        if not common:
            continue
        n = min(len(case.y), *(curve.success.shape[1] for curve in curves))
        grid = tuple(sorted(common))
        rows = []
        for eps in grid:
            fooled = torch.stack([curve.success[curve.eps.index(eps), :n] for curve in curves])
            single = case.defense.stochastic
            rows.append(fooled[fooled.sum(1).argmax()] if single else fooled.any(0))
        success = torch.stack(rows)
        return Curve("worst case", "", norm, grid, success, torch.full(success.shape, torch.nan))
    return None


def budget(case: Case) -> Budget:
    """Choose the budget at which about half of the images that are right are still right.

    There an attack can both succeed and fail. Where the run's attacks left more at every budget,
    that is the largest one, and where they left as much less at several, the smallest of these.
    """
    curve = worst_case(case)
    if curve is None or curve.eps[-1] == 0:
        eps = FALLBACK.get(case.x.shape[1], FALLBACK[3])
        return Budget("linf", eps, case.correct)
    n = curve.success.shape[1]
    clean = int(case.correct[:n].sum())
    left = [int((~row & case.correct[:n].cpu()).sum()) for row in curve.success.cpu()]

    def distance(place: int) -> tuple[float, int]:
        return abs(left[place] - clean / 2), place if left[place] < clean / 2 else -place

    place = min((place for place, eps in enumerate(curve.eps) if eps > 0), key=distance)
    eps = curve.eps[place]
    robust = torch.zeros_like(case.correct)
    robust[:n] = ~curve.success[place].to(robust.device) & case.correct[:n]
    best = max(
        (other for other in case.curves if other.norm == curve.norm),
        key=lambda other: float(other.success[other.eps.index(eps)].double().mean()),
    )
    return Budget(curve.norm, eps, robust, best.attack, best.library)


def telling(curves: Sequence[Curve], threat: ThreatModel, most: int) -> ThreatModel:
    """Return at most ``most`` of the budgets above 0: those at which an attack can tell most.

    The one at which the run left about half of the images that it left at its smallest budget, the
    largest, and others between and around as evenly as they come; without sweeps, or where no
    accuracy falls, spread over the grid.
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
    middle = max(left.values()) / 2
    known = [eps for eps in grid if eps in left]
    return min(known, key=lambda eps: abs(left[eps] - middle), default=None)
