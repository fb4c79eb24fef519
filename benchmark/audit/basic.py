"""The basic audit of one trained defense in a run: its checks, and what they say of its sweeps.

An audit never fails a run and decides none of its numbers: it is no part of the run's settings. A
check that cannot answer leaves an undecided finding, and a defense without an answer an undecided
verdict. What is there is not found again; when a sweep of the defense is run anew, what was found
is forgotten first.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmark.attacks.loader import load_attack
from benchmark.audit.case import Curve, Finding, Subject
from benchmark.audit.checks import Check, checks_of
from benchmark.audit.registration import role_of
from benchmark.audit.trained_models import recall
from benchmark.audit.verdict import Verdict, judge
from benchmark.config.spec import AttackSpec, DefenseSpec
from benchmark.config.threat import ThreatModel
from benchmark.datasets.dataset import ImageDataset
from benchmark.evaluation.scoring import CleanPredictions, inside_for
from benchmark.hashing import derive_seed
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

IMAGES = 128
"""So many test images at most are given to the checks; most ask fewer of them."""


@dataclass(frozen=True)
class Target:
    """A trained defense of a run, under a seed, in evaluation mode.

    ``clean`` keeps its clean predictions.
    """

    name: str
    seed: int
    defense: Defense
    clean: CleanPredictions | None = None


def audit_defense(
    folder: RunFolder,
    target: Target,
    train_set: ImageDataset,
    test_set: ImageDataset,
    progress: Progress,
) -> None:
    """Ask the basic checks that were not asked yet, judge without a stronger attack, keep both."""
    subject = subject_of(folder, target, train_set, test_set)
    findings = ask(folder, target, subject, "basic", progress)
    rows = []
    for norm in norms_of(folder, target.name, target.seed):
        verdict = judge(
            norm=norm,
            correct=correct_of(folder, target, test_set, norm),
            stochastic=target.defense.stochastic,
            findings=findings,
            plain=subject.curves,
        )
        rows.append(verdict_row(folder, target, verdict, "basic"))
        progress.say(f"{target.name}: audit, {norm}: {verdict}")
    put_verdicts(folder.path, make_table(rows, VERDICTS))


def audit_rest(
    folder: RunFolder,
    records: Iterable[ModelRecord],
    train_set: ImageDataset,
    test_set: ImageDataset,
    progress: Progress,
    *,
    may_train: bool,
) -> None:
    """Audit what was attacked and has no verdict, as after an interruption, with the run's models.

    A defense that cannot be audited is undecided, with the reason.
    """
    known = {(record.defense, record.seed): record for record in records}
    for spec, seed in unaudited(folder):
        sets = known.get((spec.name, seed)), train_set, test_set
        try:
            with plugin_code():
                model = recall(spec, *sets, seed=seed, progress=progress, may_train=may_train)
                target = Target(spec.name, seed, model)
                audit_defense(folder, target, train_set, test_set, progress)
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
    rows = [
        {
            **dict.fromkeys(VERDICTS.names),
            **_key(folder, name, seed),
            "norm": norm,
            "level": "basic",
            "verdict": "undecided",
            "reasons": f"the audit failed: {reason}",
            "remarks": "",
            "stochastic": False,
            "n": 0,
            "attacks": "",
            "beaten_by": "",
            "rerun": "",
            "seconds": 0.0,
        }
        for norm in norms_of(folder, name, seed)
    ]
    put_verdicts(folder.path, make_table(rows, VERDICTS))


def norms_of(folder: RunFolder, name: str, seed: int) -> list[str]:
    """Return the norms in which a defense has an accuracy, or failed to get one; there is nothing
    to say of one whose attacks were all skipped. Without any, all of the run's."""
    cells = folder.cells
    own = cells[(cells["defense"] == name) & (cells["seed"] == seed)]
    tried = set(own.loc[own["status"] != "skipped", "norm"])
    norms = list(dict.fromkeys(attack.threat.norm for attack in folder.spec.attacks))
    return [norm for norm in norms if norm in tried] or norms


# --- what is asked -------------------------------------------------------------------------------


def ask(
    folder: RunFolder, target: Target, subject: Subject, level: Level, progress: Progress
) -> list[Finding]:
    """Return the findings of ``level``: those that are kept, and now the others, which are kept."""
    before = read_findings(folder.path)
    before = before[_own(before, target)]
    asked = set(before["check"])
    left = [check for check in checks_of(level) if check.name not in asked]
    findings = [_finding(row) for row in before.to_dict("records")]
    with progress.task(f"auditing {target.name}", len(left)) as advance:
        for check in left:
            start = time.perf_counter()
            found = check.run(subject)
            seconds = time.perf_counter() - start
            rows = list(_rows(folder, target, check, found, seconds))
            put_findings(folder.path, make_table(rows, FINDINGS))
            findings += found
            advance(1, check.name)
    return findings


def subject_of(
    folder: RunFolder, target: Target, train_set: ImageDataset, test_set: ImageDataset
) -> Subject:
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
    return Subject(
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
    try:
        return inside_for(defense, spec, images)
    except RuntimeError:  # no graph leads to the image, which a check tells
        return 0.0


def seen_through(folder: RunFolder, target: Target) -> tuple[int, bool]:
    """Return the most draws (EOT) that an attack of the run averaged, and whether one used BPDA."""
    cells = folder.cells
    own = cells[_own(cells, target) & (cells["status"] == "ok")]
    return int(own["eot"].max()) if len(own) else 1, bool(own["bpda"].any())


def passes_of(folder: RunFolder, target: Target, norm: str) -> float:
    """Return the passes (a forward and a backward each) that the run's attacks in ``norm`` spent on
    the image that cost one of them most, over all eps.

    Those through a generator alone do not count: they cost next to nothing beside the defense's.
    """
    samples = folder.samples
    attacks = {
        (spec.name, spec.library)
        for spec in folder.spec.attacks
        if not load_attack(spec).needs_generator
    }
    own = samples[_own(samples, target) & (samples["norm"] == norm)]
    queries = own.groupby(["attack", "library", "sample_id"], observed=True)[
        ["n_forward", "n_backward"]
    ].sum()
    queries = queries[[key[:2] in attacks for key in queries.index]]
    return float(queries.sum(axis=1).max()) / 2 if len(queries) else 0.0


def curves_of(folder: RunFolder, target: Target, test_set: ImageDataset) -> list[Curve]:
    """Return the run's sweeps of a defense, image by image in the test set's order."""
    samples = folder.samples
    own = samples[_own(samples, target)]
    place = {int(sample): i for i, sample in enumerate(test_set.sample_ids.tolist())}
    found = []
    for (attack, library, norm), rows in own.groupby(
        ["attack", "library", "norm"], sort=False, observed=True
    ):
        eps = sorted(set(rows["eps"]))
        at = [eps.index(value) for value in rows["eps"]], rows["sample_id"].map(place).to_list()
        n = rows["sample_id"].nunique()
        success = torch.zeros(len(eps), n, dtype=torch.bool)
        distance = torch.zeros(len(eps), n, dtype=torch.float64)
        success[at] = torch.tensor(rows["success"].to_numpy(dtype=bool))
        distance[at] = torch.tensor(rows["distance"].to_numpy(dtype=float))
        found.append(Curve(str(attack), str(library), str(norm), tuple(eps), success, distance))
    return found


def correct_of(folder: RunFolder, target: Target, test_set: ImageDataset, norm: str) -> Tensor:
    """Return which images (n,) were right without an attack, over all that one in ``norm`` saw."""
    samples = folder.samples
    own = samples[_own(samples, target) & (samples["norm"] == norm)]
    right = dict(zip(own["sample_id"], own["pred_clean"] == own["label"], strict=True))
    ids = test_set.sample_ids.tolist()[: len(right)]
    return torch.tensor([bool(right[sample]) for sample in ids], dtype=torch.bool)


# --- rows ----------------------------------------------------------------------------------------


def verdict_row(
    folder: RunFolder,
    target: Target,
    verdict: Verdict,
    level: Level,
    attacks: Sequence[str] = (),
    seconds: float = 0.0,
) -> dict[str, Any]:
    """Return a row of verdicts.parquet."""
    at = verdict.at
    return {
        **_key(folder, target.name, target.seed),
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
            "attack": finding.attack,
            "library": finding.library,
            "level": check.level,
            "check": check.name,
            "answer": finding.answer,
            "value": finding.value,
            "threshold": finding.threshold,
            "reason": finding.reason,
            "evidence": finding.evidence,
            "question": check.summary,
            "seconds": 0.0 if i else seconds,
        }


def _finding(row: dict[Any, Any]) -> Finding:
    names = ("check", "answer", "value", "threshold", "evidence", "reason", "attack", "library")
    return Finding(**{name: row[name] for name in names}, role=role_of(row["check"]))


def _key(folder: RunFolder, name: str, seed: int) -> dict[str, Any]:
    return {"dataset": folder.spec.dataset, "defense": name, "seed": seed}


def _own(frame: pd.DataFrame, target: Target) -> "pd.Series[bool]":
    return (frame["defense"] == target.name) & (frame["seed"] == target.seed)
