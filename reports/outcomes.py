"""What became of every image in every cell of a run, as matrices: the worst case, image by image.

Everything that compares images (worst case, paired tests, cost) starts here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmark.numbering import number_groups
from benchmark.results import CELL_KEY
from reports.section import RunContext

ABSENT, FELL, STOOD = -1, 0, 1

Distances = npt.NDArray[np.float64]
Fates = npt.NDArray[np.int8]
"""Images' fates: ``STOOD``, ``FELL`` or, where the attack did not see the image, ``ABSENT``."""


@dataclass(frozen=True)
class Outcomes:
    """The cells of a run that are ok, and their images.

    ``cells`` holds their keys, a row per cell, ``images`` the sample ids, ascending. ``stood`` and
    ``clean`` (cells, images) are the images' fates under attack and without one. ``audited`` maps
    (norm, defense, seed) to the distances (images,) within which the audit's own attacks turned
    them: infinite where they did not, NaN where they did not see the image. It lacks stochastic
    defenses, on which ten attacks more are ten draws more.
    """

    cells: pd.DataFrame
    images: npt.NDArray[np.int64]
    stood: Fates
    clean: Fates
    audited: Mapping[tuple[str, str, int], Distances] = field(default_factory=dict)


def outcomes(context: RunContext) -> Outcomes:
    """Return the fates of all images in the cells of ``context`` that are ok."""
    samples = context.run.samples
    codes, cells = number_groups(samples, CELL_KEY)
    key = ["status", *CELL_KEY]
    known = cells.merge(context.cells[key], on=CELL_KEY, how="left")["status"] == "ok"
    kept = known.to_numpy(dtype=bool) & (cells["dataset"] == context.run.spec.dataset).to_numpy()
    ids, images = pd.factorize(samples["sample_id"].to_numpy(), sort=True)
    stood = np.full((len(cells), len(images)), ABSENT, dtype=np.int8)
    clean = stood.copy()
    stood[codes, ids] = ~samples["success"].to_numpy(dtype=bool)
    clean[codes, ids] = samples["pred_clean"].to_numpy() == samples["label"].to_numpy()
    cells = cells[kept].reset_index(drop=True)
    images = np.asarray(images)
    return Outcomes(cells, images, stood[kept], clean[kept], _audited(context, images))


def _audited(
    context: RunContext, images: npt.NDArray[np.int64]
) -> dict[tuple[str, str, int], Distances]:
    samples = context.audit.samples
    samples = samples[samples["dataset"] == context.run.spec.dataset]
    samples = samples[np.isin(samples["sample_id"].to_numpy(), images)]
    verdicts = context.audit.verdicts
    random = set(verdicts.loc[verdicts["stochastic"].astype(bool), "defense"])
    samples = samples[~samples["defense"].isin(random)]
    found = {}
    key: Any
    for key, own in samples.groupby(["norm", "defense", "seed"], observed=True):
        turned = (own["success"] & (own["pred_clean"] == own["label"])).to_numpy()
        # Rounding may carry an image a hair outside the ball that it was judged in.
        within = np.minimum(own["distance"].to_numpy(dtype=float), own["eps"].to_numpy(dtype=float))
        reach = np.full(len(images), np.nan)
        places = np.searchsorted(images, own["sample_id"].to_numpy())
        np.fmin.at(reach, places, np.where(turned, within, np.inf))
        norm, defense, seed = key
        found[str(norm), str(defense), int(seed)] = reach
    return found


def aligned(a: Outcomes, b: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Return both with the images alone that they share, in the same columns."""
    images, in_a, in_b = np.intersect1d(a.images, b.images, return_indices=True)
    return (
        _chosen(a, images, in_a),
        _chosen(b, images, in_b),
    )


def _chosen(
    found: Outcomes, images: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> Outcomes:
    audited = {key: reach[columns] for key, reach in found.audited.items()}
    fates = found.stood[:, columns], found.clean[:, columns]
    return replace(found, images=images, stood=fates[0], clean=fates[1], audited=audited)


def worst(stood: Fates) -> Fates:
    """Return the fates of the images under all attacks of ``stood`` (attacks, images) together.

    An image that an attack did not see is absent: nobody knows whether it would have stood.
    """
    fate = stood.min(axis=0)  # ABSENT is below FELL is below STOOD
    return np.asarray(fate, dtype=np.int8)


def audit_turned(
    found: Outcomes, norm: str, defense: str, seed: int, eps: float
) -> npt.NDArray[np.bool_]:
    """Tell of each image whether the audit's own attacks turned it within ``eps``.

    An image that they turned at a smaller eps lies in the larger ball too.
    """
    reach = found.audited.get((norm, defense, seed))
    if reach is None:
        return np.zeros(len(found.images), dtype=bool)
    return np.asarray(reach <= eps)


def worst_seen(stood: Fates) -> Fates:
    """Return the fates of every image that one attack or more saw: it fell if one turned it."""
    seen = np.where(stood == ABSENT, STOOD, stood).min(axis=0)
    return np.where((stood == ABSENT).all(axis=0), ABSENT, seen).astype(np.int8)


def net_counts(a: Fates, b: Fates) -> list[tuple[int, int, int, list[int], list[int]]]:
    """Compare stacks of fates (contests, seeds, images), contest by contest.

    Returns the number of images that both have in all seeds; on them how often A stood, and B, over
    all seeds; and on how many A stood in k = 1, 2, ... more seeds than B, and in how many fewer.
    """
    both = (a != ABSENT).all(axis=1) & (b != ABSENT).all(axis=1)
    stood_a, stood_b = (np.where(both, fates.sum(axis=1, dtype=np.int32), 0) for fates in (a, b))
    net = stood_a - stood_b
    steps = range(1, a.shape[1] + 1)
    better = np.stack([(net == k).sum(axis=1) for k in steps], axis=1)
    worse = np.stack([(net == -k).sum(axis=1) for k in steps], axis=1)
    columns = both.sum(axis=1), stood_a.sum(axis=1), stood_b.sum(axis=1), better, worse
    return list(zip(*(column.tolist() for column in columns), strict=True))


def in_order(names: Sequence[str], order: Sequence[str]) -> list[str]:
    """Return the distinct ``names`` in ``order``; those that it lacks stand last, sorted."""
    rank = {name: i for i, name in enumerate(dict.fromkeys(order))}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))
