"""What a sweep found, as rows of the tables: one builder for a run and for its audit."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from benchmark.config.spec import AttackSpec, RunSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.machine_errors import out_of_memory
from benchmark.plugins.time_limit import TimeLimitError
from benchmark.results.pictures import PICTURES, encoded, pictured_eps
from benchmark.results.provenance import attack_versions
from benchmark.results.schema import SAMPLES, FailureKind, Status
from benchmark.results.tables import make_table
from benchmark.stats import wilson_interval

FOUND = ("pred_clean", "pred_adv", "success", "distance", "n_forward", "n_backward")
"""The columns of the samples table that a sweep fills, by the names of an outcome's tensors."""


@dataclass(frozen=True)
class Lost:
    """Why cells have no result."""

    reason: str
    kind: FailureKind

    @property
    def status(self) -> Status:
        """What the cells' status is."""
        return "skipped" if self.kind == "skipped" else "failed"


def failure_kind(error: BaseException) -> FailureKind:
    """Return what kind of failure an exception of a plugin's code is."""
    if out_of_memory(error):
        return "memory"
    return "time" if isinstance(error, TimeLimitError) else "error"


def cell_key(
    spec: RunSpec, defense: str, attack: str, library: str, norm: str, eps: float, seed: int
) -> dict[str, Any]:
    """Return the columns that name a cell of the run ``spec``."""
    return {
        "dataset": spec.dataset,
        "defense": defense,
        "attack": attack,
        "library": library,
        "norm": norm,
        "eps": eps,
        "seed": seed,
    }


def sample_rows(
    run_id: str, key: Mapping[str, Any], images: ImageDataset, found: Mapping[str, Tensor | int]
) -> pd.DataFrame:
    """Return a cell's rows of the samples table; ``found`` holds the columns :data:`FOUND`."""
    values = {
        name: value.cpu().numpy() if isinstance(value, Tensor) else value
        for name, value in found.items()
    }
    rows = {
        "run_id": run_id,
        "sample_id": images.sample_ids.cpu().numpy(),
        **key,
        "label": images.labels.cpu().numpy(),
        **values,
    }
    return pd.DataFrame(rows, columns=SAMPLES.names)


def measured(outcome: Any, n: int) -> dict[str, float]:
    """Return the numbers of a cell over ``n`` images.

    The median distance is over the images that the attack itself made adversarial.
    """
    robust = int((~outcome.success).sum())
    low, high = wilson_interval(robust, n)
    moved = outcome.distance[outcome.success & outcome.correct]
    return {
        "clean_accuracy": int(outcome.correct.sum()) / n,
        "robust_accuracy": robust / n,
        "ci_low": low,
        "ci_high": high,
        "median_distance": float(moved.quantile(0.5)) if len(moved) else math.nan,
        "seconds": outcome.seconds,
    }


@dataclass(frozen=True)
class SweepRows:
    """Builds the rows of one sweep: a defense under one seed and one attack.

    An ``outcome`` is a :class:`benchmark.evaluation.sweep.Outcome`.
    ``origin`` is the run's provenance; ``family`` is "budget", "minimal" or None if not known.
    """

    spec: RunSpec
    defense: str
    attack: AttackSpec
    seed: int
    origin: Mapping[str, Any]
    family: str | None

    def ok(self, outcome: Any) -> dict[str, Any]:
        """Return a cell with a result."""
        return self._cell(outcome.eps, "ok", outcome.notes) | {
            **measured(outcome, self.attack.n),
            "search_dtype": outcome.search_dtype or None,
        }

    def lost(self, eps: float, why: Lost) -> dict[str, Any]:
        """Return a cell without a result."""
        return self._cell(eps, why.status, why.reason) | {"failure_kind": why.kind}

    def samples(self, outcome: Any, images: ImageDataset) -> pd.DataFrame:
        """Return a cell's rows of the samples table."""
        found = {name: getattr(outcome, name) for name in FOUND}
        return sample_rows(self.spec.run_id, self._key(outcome.eps), images, found)

    def pictures(
        self, outcomes: Sequence[Any], samples: pd.DataFrame, images: ImageDataset
    ) -> pd.DataFrame:
        """Return the rows of the sweep's pictures: none unless it came to their eps."""
        eps = pictured_eps(self.attack.threat.eps)
        shown = [outcome.pictures for outcome in outcomes if outcome.eps == eps]
        if not shown:
            return make_table([], PICTURES)
        k = len(shown[0])
        clean, adversarial = images.head(k).x().cpu().numpy(), shown[0].numpy()
        # The first samples of a cell are the first of the dataset's order: those pictured.
        rows = samples[samples["eps"] == eps].head(k).to_dict("records")
        return make_table(
            [
                {str(name): value for name, value in row.items() if name in PICTURES.names}
                | encoded(x, x_adv)
                for row, x, x_adv in zip(rows, clean, adversarial, strict=True)
            ],
            PICTURES,
        )

    def _key(self, eps: float) -> dict[str, Any]:
        attack = self.attack
        names = (attack.name, attack.library, attack.threat.norm)
        return cell_key(self.spec, self.defense, *names, eps, self.seed)

    def _cell(self, eps: float, status: Status, reason: str) -> dict[str, Any]:
        versions = {**self.origin["versions"], **attack_versions(self.attack.library)}
        return {
            **self._key(eps),
            "eot": self.attack.eot,
            "bpda": self.attack.bpda,
            "status": status,
            "reason": reason,
            "n": self.attack.n,
            "seconds": 0.0,
            "device": self.spec.device,
            "preset": self.spec.preset,
            "versions": json.dumps(versions, sort_keys=True),
            "git_sha": self.origin["git_sha"],
            "attack_family": self.family,
        }
