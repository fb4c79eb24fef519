"""An audit of a defense on the planted set's bench, and the two tables of docs/audit.md.

``python tests/helpers/bench_audit.py planted [NAMES]`` audits the planted maskings and the
purifiers on MNIST; ``... quick [DATASETS]`` makes runs of the preset quick with a full audit. Both
print a Markdown table. MNIST lies in BENCHMARK_DATA_DIR.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from maskings import PLANTED, PURIFIERS, Bench, Planted, between, case_of, make_bench

from benchmark.attacks.pgd import PGD
from benchmark.attacks.view import MissingGradientError
from benchmark.audit.attack_harder import attack_harder
from benchmark.audit.case import Curve, Finding
from benchmark.audit.checks import examine
from benchmark.audit.stronger_attacks import Effort
from benchmark.audit.transfer import AttackedModel, transfers
from benchmark.audit.verdict import Verdict, judge
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.evaluation.sweep import sweep
from benchmark.execution.audit_run import audit_run
from benchmark.execution.plan import choose_device, plan
from benchmark.execution.runner import run
from benchmark.hashing import derive_seed
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.results.audit_tables import read_audit
from benchmark.results.audit_words import Level
from benchmark.training.supply import Trained

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
    except MissingGradientError:
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
    effort: Effort = EFFORT,
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
    options = {"effort": replace(effort, queries=queries), "progress": Progress()}
    for result in attack_harder(case, bench.test, threat, findings, **options):
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


# --- the tables of docs/audit.md -----------------------------------------------------------------

IMAGES = 60
WHOLE = Effort(steps=50, restarts=1, queries=500, levels=2)
RUN_STEPS = 40
"""Of the run's own PGD, and of that by who knows a masking."""

PURIFIED_AT = 0.15
"""From noise of this size on half of the images are purified: between the two eps."""

PLANTED_HEAD = ("planted", "the run's PGD", "PGD by who knows it", "everything", "verdict")
QUICK_HEAD = (
    *("dataset, norm", "defense", "eps", "n", "run", "stronger", "transfer", "at most"),
    "verdict",
)


def planted_rows(names: Sequence[str]) -> Iterator[list[str]]:
    """Yield a row per masking: accuracies in percent, at both eps."""
    bench = make_bench(IMAGES, Path(os.environ["BENCHMARK_DATA_DIR"]))

    def purifier(name: str) -> Callable[[Bench], Defense]:
        return lambda b: between(PURIFIERS[name](b), b.test.x(), PURIFIED_AT)

    bare = Planted("Bare", lambda b: b.bare, ())
    purifiers = [Planted(name, purifier(name), ()) for name in PURIFIERS]
    for planted in (bare, *PLANTED, *purifiers):
        if names and planted.name not in names:
            continue
        defense = planted.build(bench)
        curves = plain(defense, bench, steps=RUN_STEPS)
        known = plain(planted.oracle(bench), bench, steps=RUN_STEPS)
        target = known[0].robust_accuracy if known else (0.0, 0.0)
        options = {"queries": WHOLE.queries, "curves": curves, "effort": WHOLE}
        _, verdict = audit(defense, bench, partial(_close, target), **options)
        left = [one.headline for one in verdict.comparisons]
        run, by_knowing = (
            _percent(found[0].robust_accuracy) if found else "fails" for found in (curves, known)
        )
        yield [planted.name, run, by_knowing, _percent(left), verdict.ruling]


def quick_rows(datasets: Sequence[str], defenses: Sequence[str], out: Path) -> Iterator[list[str]]:
    """Yield a row per defense and norm of runs of the preset quick, in percent; runs go on where
    they were stopped."""
    folder = os.environ.get("BENCHMARK_DATA_DIR")
    supply, device = Trained(Path(folder) if folder else None), choose_device("auto")
    for dataset in datasets:
        spec = plan(dataset=dataset, preset="quick", device=device, defenses=defenses)
        found = run(spec, out=out, command="bench_audit", progress=Progress(), supply=supply)
        audit_run(found.path, level="full", progress=Progress(), supply=supply)
        names = ("plain_accuracy", "stronger_accuracy", "transfer_accuracy", "headline_accuracy")
        for row in read_audit(found.path).verdicts.to_dict("records"):
            why = row["reasons"].partition(";")[0] if row["verdict"] == "gradient masking" else ""
            yield [
                f"{dataset}, {row['norm']}",
                row["defense"],
                f"{row['eps']:g}",
                str(row["n"]),
                *("–" if math.isnan(row[name]) else f"{100 * row[name]:.1f}" for name in names),
                row["verdict"] + (f": {why}" if why else ""),
            ]


def _close(target: Sequence[float], verdict: Verdict) -> bool:
    """Tell whether no more is left than ten points beyond ``target``, at both eps."""
    left = [one.headline for one in verdict.comparisons]
    return len(left) == len(target) and all(map(lambda a, b: a <= b + 0.1, left, target))


def _percent(accuracies: Sequence[float]) -> str:
    return " / ".join(f"{100 * accuracy:.0f}" for accuracy in accuracies)


def main() -> None:
    """Print one of the tables, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=["planted", "quick"])
    parser.add_argument("names", nargs="*", help="maskings, or datasets")
    parser.add_argument("--defenses", nargs="*", default=["all"], help="of quick")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of quick's runs")
    given = parser.parse_args()
    if given.table == "planted":
        head, rows = PLANTED_HEAD, planted_rows(given.names)
    else:
        datasets = given.names or ["mnist", "cifar10", "stl10"]
        head, rows = QUICK_HEAD, quick_rows(datasets, given.defenses, given.out)
    for row in chain((head, ["---"] * len(head)), rows):
        sys.stdout.write(f"| {' | '.join(row)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
