"""The comparison itself: several libraries' attempts on the same images, as tables and offenders.

Pure of files and of the command line: :func:`compare` takes a model, the attacks and the images.
"""

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmark.attacks.base import Attack, MinimalAttack
from benchmark.attacks.loader import load_attack
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import reach
from benchmark.crosscheck.attempts import Attempt, Scene, attempt, new_evidence, warm_up
from benchmark.crosscheck.findings import Evidence, Gap, findings
from benchmark.crosscheck.gradients import Gradients, add_gap
from benchmark.crosscheck.images import Offender, disagreement, worst
from benchmark.crosscheck.results import (
    LIBRARIES,
    LIBRARY_KEYS,
    PAIRS,
    SAMPLES,
    SUCCESS,
    optimality,
    pair_key,
    quantiles,
)
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import first_line
from benchmark.evaluation.scoring import inside_for, predict
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.results.tables import make_table
from benchmark.seeding import seeded
from benchmark.stats import wilson_interval

Row = dict[str, Any]


@dataclass
class Comparison:
    """All that was found, in memory: tables by name, offenders, failures (line, traceback)."""

    tables: dict[str, pd.DataFrame]
    offenders: list[Offender]
    failures: dict[str, tuple[str, str]]
    minimal: bool

    def summary(self) -> Row:
        """Return the part of the ``--json`` object that was measured.

        For a budget attack a pair's numbers are means over the budgets, for a minimal one those
        without a budget.
        """
        pairs = self.tables["pairs"]
        if self.minimal:
            pairs = pairs[np.isinf(pairs["eps"])]
        names = [pair_key(a, b) for a, b in zip(pairs["first"], pairs["second"], strict=True)]
        mean = pairs[["agreement", "bit_identical"]].groupby(np.array(names, dtype=object)).mean()
        rows = self.tables["libraries"].to_dict("records")
        return {
            "libraries": [
                {key: _plain(row[key]) for key in LIBRARY_KEYS}
                for row in rows
                if row["status"] != "skipped"
            ],
            **{
                name: {str(key): _plain(float(share)) for key, share in mean[name].items()}
                for name in ("bit_identical", "agreement")
            },
        }


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: no NaN, no infinity, no array."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return list(value) if isinstance(value, np.ndarray) else value


def compare(
    defense: Defense,
    specs: Sequence[AttackSpec],
    data: ImageDataset,
    *,
    seed_at: Callable[[float], int],
    progress: Progress,
    attacks: Mapping[str, Attack] | None = None,
    remarks: Mapping[str, Sequence[str]] | None = None,
) -> Comparison:
    """Run one attack per library on ``data`` and compare them.

    ``specs`` has one entry per library, all with one threat model; ``attacks``, by library,
    replaces what they name; ``remarks`` are sentences on a library that join its findings. The
    defense must be in evaluation mode and on the data's device. A
    library that raises is left out and keeps its message.
    """
    searched = {spec.library: (attacks or {}).get(spec.library) for spec in specs}
    state = _State(Scene(defense, data, torch.empty(0), 0.0), specs[0], remarks or {})
    with seeded(seed_at(0.0), data.device, defense):
        pred_clean = predict(defense, data)
    state.scene = Scene(defense, data, pred_clean, inside_for(defense, specs[0], data))
    minimal = None
    for spec in specs:
        try:
            attack = searched[spec.library] or load_attack(spec)
            searched[spec.library] = attack
            state.evidence[spec.library] = new_evidence(spec, attack)
            minimal = isinstance(attack, MinimalAttack) if minimal is None else minimal
        except Exception as error:
            state.fail(spec.library, error)
    for spec in specs:
        ready = searched[spec.library]
        if ready is not None and spec.library not in state.failures:
            warm_up(state.scene, spec, ready)
    grid = specs[0].threat.eps
    budgets = (math.inf,) if minimal else tuple(eps for eps in grid if eps > 0)
    with progress.task("attacking", len(data) * len(specs) * len(budgets)) as advance:
        for eps in budgets:
            attempts: dict[str, Attempt] = {}
            for spec in specs:
                library, found = spec.library, searched[spec.library]
                if library in state.failures or found is None:
                    continue
                try:
                    attempts[library] = attempt(
                        state.scene,
                        spec,
                        found,
                        eps,
                        seed_at(eps),
                        state.evidence[library],
                        advance,
                    )
                except Exception as error:
                    progress.say(f"{library}: failed: {state.fail(library, error)}")
            state.add(eps, attempts)
    return state.finish([spec.library for spec in specs], grid, bool(minimal))


@dataclass
class _State:
    """What accumulates over the budgets; images are held for one budget at a time."""

    scene: Scene
    spec: AttackSpec
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    attempts: dict[tuple[str, float], Attempt] = field(default_factory=dict)
    samples: list[pd.DataFrame] = field(default_factory=list)
    pairs: list[Row] = field(default_factory=list)
    offenders: list[Offender] = field(default_factory=list)

    def fail(self, library: str, error: Exception) -> str:
        """Leave ``library`` out from now on; return its message in one line."""
        line = first_line(error)
        self.failures[library] = (line, "".join(traceback.format_exception(error)))
        return line

    def add(self, eps: float, attempts: dict[str, Attempt]) -> None:
        """Take in all libraries' attempts under one budget."""
        digests = {name: found.digests() for name, found in attempts.items()}
        attacked = self.scene.correct.numpy()
        n = len(attacked)
        for first, second in combinations(attempts, 2):
            same = np.array(digests[first]) == np.array(digests[second])
            for at in self._judged_at(eps):
                one, two = (self.success(attempts[name], at) for name in (first, second))
                self.pairs.append(
                    {
                        "first": first,
                        "second": second,
                        "eps": at,
                        "n": n,
                        "n_attacked": int(attacked.sum()),
                        "agreement": float((one == two).double().mean()),
                        "bit_identical": float(same[attacked].mean())
                        if attacked.any()
                        else math.nan,
                    }
                )
        for name, found in attempts.items():
            self.samples.append(self._samples(name, eps, found, digests[name]))
            self._compare_with_others(name, attempts)
            self._compare_gradients(name, attempts, digests)
            few = torch.empty(0)  # images go, numbers stay
            gone = {"images": few, "gradients": Gradients.none(few)}
            self.attempts[name, eps] = Attempt(**{**vars(found), **gone})
        self._find_offenders(eps, attempts)

    def _judged_at(self, eps: float) -> tuple[float, ...]:
        if not math.isinf(eps):
            return (eps,)
        return (eps, *(at for at in self.spec.threat.eps if at > 0))

    def success(self, found: Attempt, eps: float) -> Tensor:
        """Return which images are adversarial within ``eps`` (n,): clean errors are at any."""
        return ~self.scene.correct | (found.success & (found.distance <= reach(eps)))

    def _samples(self, name: str, eps: float, found: Attempt, digests: list[str]) -> pd.DataFrame:
        columns = {
            "sample_id": self.scene.data.sample_ids.cpu().numpy(),
            "library": name,
            "eps": eps,
            "label": self.scene.labels.numpy(),
            "pred_clean": self.scene.pred_clean.numpy(),
            "pred_adv": found.pred.numpy(),
            "success": found.success.numpy(),
            "distance": found.distance.numpy(),
            "n_forward": found.forwards.numpy(),
            "n_backward": found.backwards.numpy(),
            "tried_better": found.tried_better.numpy(),
            "image_digest": digests,
        }
        return pd.DataFrame(columns, columns=SAMPLES.names)

    def _compare_with_others(self, name: str, attempts: dict[str, Attempt]) -> None:
        """Note where another library solved what ``name`` did not, or solved it nearer."""
        evidence, own = self.evidence[name], attempts[name]
        others = [a for other, a in attempts.items() if other != name]
        if not others:
            return
        best = torch.stack([a.distance.where(a.success, torch.inf) for a in others]).amin(0)
        open_ = self.scene.correct
        evidence.gave_up += best[open_ & ~own.success & best.isfinite()].tolist()
        if evidence.minimal:
            ratio = own.distance / torch.minimum(best, own.distance).clamp_min(1e-12)
            evidence.beaten += ratio[open_ & own.success].tolist()

    def _compare_gradients(
        self, name: str, attempts: dict[str, Attempt], digests: dict[str, list[str]]
    ) -> None:
        """Note how large the gradients of ``name`` are beside every other library's."""
        evidence, own = self.evidence[name], attempts[name].gradients
        if evidence.minimal:
            return  # it weighs its gradient against the distance, each library in its own way
        for other, found in attempts.items():
            if other != name:
                same = torch.from_numpy(np.array(digests[name]) == np.array(digests[other]))
                gap = evidence.gaps.setdefault(other, Gap())
                add_gap(gap, own, found.gradients, same)

    def _find_offenders(self, eps: float, attempts: dict[str, Attempt]) -> None:
        if len(attempts) < 2:
            return
        data, found = self.scene.data, list(self.offenders)
        for i in self.scene.correct.nonzero().flatten().tolist():
            success = {name: bool(a.success[i]) for name, a in attempts.items()}
            far = {name: float(a.distance[i]) for name, a in attempts.items()}
            score = disagreement(success, far if math.isinf(eps) else dict.fromkeys(far, eps))
            if score == 0:
                continue
            answers = {
                name: (a.images[i], int(a.pred[i]), success[name], far[name])
                for name, a in attempts.items()
            }
            found.append(
                Offender(
                    sample_id=int(data.sample_ids[i]),
                    label=int(data.labels[i]),
                    eps=eps,
                    score=score,
                    original=data.x(torch.tensor([i], device=data.device))[0].cpu(),
                    answers=answers,
                )
            )
        self.offenders = [
            replace(  # views would keep all images alive
                offender,
                answers={
                    name: (image.clone(), pred, success, away)
                    for name, (image, pred, success, away) in offender.answers.items()
                },
            )
            for offender in worst(found)
        ]

    def finish(self, libraries: list[str], grid: Sequence[float], minimal: bool) -> Comparison:
        """Return the tables; a library that failed at any budget is a failed row, nothing else."""
        alive = [name for name in libraries if name not in self.failures]
        evidence = {name: self.evidence[name] for name in alive}
        far = {name: self._distances(name) for name in alive}
        best = np.min(list(far.values()), axis=0) if far else np.empty(0)
        n = len(self.scene.correct)
        rows = []
        for name in libraries:
            if name in self.failures:
                rows.append(empty_row(name, "failed", self.failures[name][0], n))
                continue
            own = [found for (library, _), found in self.attempts.items() if library == name]
            attacked = max(1, int(self.scene.correct.sum()) * len(own))
            rows.append(
                {
                    "library": name,
                    "version": "",
                    "status": "ok",
                    "reason": "",
                    "n": n,
                    "success": float(np.isfinite(far[name]).mean()),
                    **quantiles(far[name].tolist()),
                    "optimality": optimality(far[name].tolist(), best.tolist()),
                    "forwards": float(sum(int(a.forwards.sum()) for a in own)) / attacked,
                    "backwards": float(sum(int(a.backwards.sum()) for a in own)) / attacked,
                    "seconds": sum(a.seconds for a in own),
                    "findings": [
                        *findings(name, self.evidence[name], evidence),
                        *self.remarks.get(name, ()),
                    ],
                }
            )
        samples = [s for s in self.samples if s["library"].iloc[0] in alive]
        pairs = [p for p in self.pairs if p["first"] in alive and p["second"] in alive]
        for offender in self.offenders:
            offender.answers = {k: a for k, a in offender.answers.items() if k in alive}
        tables = {
            "samples": pd.concat(samples, ignore_index=True)
            if samples
            else make_table([], SAMPLES),
            "libraries": make_table(rows, LIBRARIES),
            "success": make_table(self._success_rows(alive, grid, minimal), SUCCESS),
            "pairs": make_table(pairs, PAIRS),
        }
        return Comparison(tables, self.offenders, self.failures, minimal)

    def _distances(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return each image's distance (n,), as LIBRARIES defines it."""
        far = torch.full((len(self.scene.correct),), torch.inf, dtype=torch.float64)
        for (library, eps), found in self.attempts.items():
            if library == name:
                at = found.distance if math.isinf(eps) else torch.full_like(far, eps)
                far = torch.minimum(far, at.where(found.success, torch.inf))
        return far.where(self.scene.correct, 0.0).numpy()

    def _success_rows(
        self, alive: Sequence[str], grid: Sequence[float], minimal: bool
    ) -> list[Row]:
        rows = []
        n = len(self.scene.correct)
        for name in alive:
            for eps in grid:
                found = self.attempts.get((name, math.inf if minimal else eps))
                success = ~self.scene.correct if found is None else self.success(found, eps)
                low, high = wilson_interval(int(success.sum()), n)
                row = {"library": name, "eps": eps, "n": n, "success": int(success.sum()) / n}
                rows.append({**row, "ci_low": low, "ci_high": high})
        return rows


def empty_row(library: str, status: str, reason: str, n: int) -> Row:
    """Return the row of a library without a result, every number missing."""
    numbers = [name for name in LIBRARIES.names if LIBRARIES.field(name).type == "double"]
    return {
        **dict.fromkeys(numbers, math.nan),
        **{"library": library, "version": "", "status": status, "reason": reason, "n": n},
        "findings": [f"failed: {reason}"] if status == "failed" else [],
    }
