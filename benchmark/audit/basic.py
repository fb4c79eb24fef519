"""The basic audit of one trained defense in a run: its checks, and what they say of its sweeps.

An audit never fails a run and decides none of its numbers: it is no part of the run's settings. A
check that cannot answer leaves an undecided finding, and a defense without an answer an undecided
verdict. What is there is not found again; when a sweep of the defense is run again, what was found
is forgotten first.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from benchmark.attacks.view import MissingGradientError
from benchmark.audit.case import Case, Finding
from benchmark.audit.checks import Check, checks_of, known
from benchmark.audit.run_results import (
    Target,
    correct_of,
    curves_of,
    norms_of,
    rows_of,
    seen_through,
)
from benchmark.audit.verdict import Verdict, judge
from benchmark.config.spec import AttackSpec, DefenseSpec
from benchmark.config.threat import ThreatModel
from benchmark.datasets.dataset import ImageDataset
from benchmark.evaluation.scoring import CleanPredictions, inside_for
from benchmark.hashing import derive_seed
from benchmark.machine_errors import out_of_memory
from benchmark.models.defense import Defense
from benchmark.plugins.containment import plugin_code
from benchmark.progress import Progress
from benchmark.results.audit_tables import (
    FINDINGS,
    VERDICTS,
    put_findings,
    put_verdicts,
    read_findings,
)
from benchmark.results.audit_words import Level
from benchmark.results.model_records import ModelRecord
from benchmark.results.run_folder import RunFolder
from benchmark.results.tables import make_table
from benchmark.seeding import seeded
from benchmark.training.supply import Sets, Supply

IMAGES = 128
"""Test images that are given to the checks, at most; most checks ask fewer of them."""


def audit_defense(
    folder: RunFolder,
    target: Target,
    train_set: ImageDataset,
    test_set: ImageDataset,
    progress: Progress,
) -> None:
    """Ask the basic checks that were not asked yet, judge without a stronger attack, keep both."""
    case = case_of(folder, target, train_set, test_set)
    findings = ask(folder, target, case, "basic", progress)
    rows = []
    for norm in norms_of(folder, target.name, target.seed):
        verdict = judge(
            norm=norm,
            correct=correct_of(folder, target, test_set, norm),
            stochastic=target.defense.stochastic,
            findings=findings,
            plain=case.curves,
            missing=out_of_reach(target.defense),
        )
        rows.append(verdict_row(folder, target.name, target.seed, verdict, "basic"))
        progress.say(f"{target.name}: audit, {norm}: {verdict}")
    put_verdicts(folder.path, make_table(rows, VERDICTS))


def out_of_reach(defense: Defense) -> list[str]:
    """Return what no attack could have of a model that was handed over as a function."""
    return (
        [] if defense.gives == "gradients" else [f"its gradient (only {defense.gives} are given)"]
    )


def audit_rest(
    folder: RunFolder,
    supply: Supply,
    records: Iterable[ModelRecord],
    sets: Sets,
    progress: Progress,
    *,
    may_train: bool,
) -> None:
    """Audit what was attacked and has no verdict, as after an interruption, with the run's models.

    A defense that cannot be audited is undecided, with the reason.
    """
    recorded = {(record.defense, record.seed): record for record in records}
    for spec, seed in unaudited(folder):
        record = recorded.get((spec.name, seed))
        try:
            with plugin_code():
                model = supply.recall(
                    *(spec, record, sets), seed=seed, progress=progress, may_train=may_train
                )
                audit_defense(folder, Target(spec.name, seed, model), *sets, progress)
        except Exception as error:
            reason = folder.keep_traceback(f"{spec.name}-seed{seed}-audit", error)
            progress.say(f"{spec.name} (seed {seed}): no audit: {reason}")
            audit_failed(folder, spec.name, seed, reason)


def unaudited(folder: RunFolder) -> list[tuple[DefenseSpec, int]]:
    """Return the defenses, by seed, that have a result and no verdict."""
    cells = folder.cells[folder.cells["status"] == "ok"]
    attacked = set(cells[["defense", "seed"]].itertuples(index=False, name=None))
    verdicts = folder.verdicts()[["defense", "seed"]]
    lacking = attacked - set(verdicts.itertuples(index=False, name=None))
    return [
        (spec, seed)
        for seed in folder.spec.seeds
        for spec in folder.spec.defenses
        if (spec.name, seed) in lacking
    ]


def audit_failed(folder: RunFolder, name: str, seed: int, reason: str) -> None:
    """Keep that a defense could not be audited, so that it is neither silent nor tried for ever."""
    reasons = (f"the audit failed: {reason}",)
    rows = [
        verdict_row(folder, name, seed, Verdict("undecided", reasons, norm), "basic")
        for norm in norms_of(folder, name, seed)
    ]
    put_verdicts(folder.path, make_table(rows, VERDICTS))


def ask(
    folder: RunFolder, target: Target, case: Case, level: Level, progress: Progress
) -> list[Finding]:
    """Return the findings of ``level``: those that are kept, and now the others, which are kept."""
    before = read_findings(folder.path)
    before = before[rows_of(before, target)]
    asked = set(before["check"])
    left = [check for check in checks_of(level) if check.name not in asked]
    findings = [_finding(row) for row in before.to_dict("records")]
    with progress.task(f"auditing {target.name}", len(left)) as advance:
        for check in left:
            start = time.perf_counter()
            found = check.run(case)
            seconds = time.perf_counter() - start
            rows = list(_rows(folder, target, check, found, seconds))
            put_findings(folder.path, make_table(rows, FINDINGS))
            findings += found
            advance(1, check.name)
    return findings


def case_of(
    folder: RunFolder, target: Target, train_set: ImageDataset, test_set: ImageDataset
) -> Case:
    """Return what the checks are given: the defense as the run attacked it, and its sweeps."""
    defense = target.defense
    images = test_set.head(min(IMAGES, len(test_set)))
    parts = (images.info.name, folder.spec.seed_name(target.name), "audit")
    clean = target.clean or CleanPredictions(defense)
    with seeded(derive_seed(target.seed, *parts), images.device, defense):
        pred = clean.of(images)
    eot, bpda = seen_through(folder, target)
    labels = images.labels
    spec = AttackSpec("audit", ThreatModel("linf", (0.1,)), len(images), eot=eot, bpda=bpda)
    return Case(
        defense=defense,
        dataset=images.info.name,
        seed=target.seed,
        x=images.x(),
        y=labels,
        correct=pred.to(labels.device) == labels,
        train_images=train_set.images,
        eot=eot,
        bpda=bpda,
        inside=_inside(defense, spec, images),
        curves=curves_of(folder, target, test_set),
    )


def _inside(defense: Defense, spec: AttackSpec, images: ImageDataset) -> float:
    """Return how far inside the box gradients are taken; 0 where there are none to take.

    Whatever else the backward pass raises, the checks of the gradient meet and say it, too.
    """
    try:
        return inside_for(defense, spec, images)
    except MissingGradientError:
        return 0.0
    except Exception as error:
        if out_of_memory(error):
            raise
        return 0.0


# --- rows ----------------------------------------------------------------------------------------


def verdict_row(
    folder: RunFolder,
    name: str,
    seed: int,
    verdict: Verdict,
    level: Level,
    attacks: Sequence[str] = (),
    seconds: float = 0.0,
) -> dict[str, Any]:
    """Return a row of verdicts.parquet."""
    at = verdict.at
    return {
        **_key(folder, name, seed),
        "norm": verdict.norm,
        "level": level,
        "verdict": verdict.ruling,
        "reasons": "; ".join(verdict.reasons),
        "remarks": "; ".join(verdict.remarks),
        "stochastic": verdict.stochastic,
        "eps": at.eps if at else None,
        "n": at.n if at else 0,
        "clean_accuracy": verdict.clean,
        "plain_accuracy": at.plain if at else None,
        "stronger_accuracy": at.stronger if at else None,
        "transfer_accuracy": at.transferred if at else None,
        "headline_accuracy": at.headline if at else None,
        "headline_low": at.low if at else None,
        "headline_high": at.high if at else None,
        "p_value": verdict.p_value,
        "attacks": ", ".join(attacks),
        "beaten_by": verdict.beaten_by,
        "rerun": "",
        "seconds": seconds,
    }


def _rows(
    folder: RunFolder, target: Target, check: Check, found: Iterable[Finding], seconds: float
) -> Iterable[dict[str, Any]]:
    for i, finding in enumerate(found):
        yield {
            **_key(folder, target.name, target.seed),
            **{name: getattr(finding, name) for name in STORED},
            "level": check.level,
            "question": check.summary,
            "seconds": 0.0 if i else seconds,
        }


STORED = ("check", "answer", "value", "threshold", "evidence", "reason", "attack", "library")
"""The attributes of a finding that are columns of audit.parquet."""


def _finding(row: dict[Any, Any]) -> Finding:
    return Finding(**{name: row[name] for name in STORED}, role=known(row["check"]).role)


def _key(folder: RunFolder, name: str, seed: int) -> dict[str, Any]:
    return {"dataset": folder.spec.dataset, "defense": name, "seed": seed}
