"""What became of every image in every cell of a run, as matrices: the worst case, image by image.

Everything that compares images (worst case, paired tests, cost) starts here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmark.numbering import number_groups
from benchmark.results import CELL_KEY
from reports.section import RunContext

ABSENT, FELL, STOOD = -1, 0, 1

Fates = npt.NDArray[np.int8]
"""Images' fates: ``STOOD``, ``FELL`` or, where the attack did not see the image, ``ABSENT``."""


@dataclass(frozen=True)
class Outcomes:
    """The cells of a run that are ok, and their images.

    ``cells`` holds their keys, a row per cell, ``images`` the sample ids, ascending. ``stood`` and
    ``clean`` (cells, images) are the images' fates under attack and without one.
    """

    cells: pd.DataFrame
    images: npt.NDArray[np.int64]
    stood: Fates
    clean: Fates


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
    return Outcomes(cells, np.asarray(images), stood[kept], clean[kept])


def aligned(a: Outcomes, b: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Return both with the images alone that they share, in the same columns."""
    images, in_a, in_b = np.intersect1d(a.images, b.images, return_indices=True)
    return (
        replace(a, images=images, stood=a.stood[:, in_a], clean=a.clean[:, in_a]),
        replace(b, images=images, stood=b.stood[:, in_b], clean=b.clean[:, in_b]),
    )


def worst(stood: Fates) -> Fates:
    """Return the fates of the images under all attacks of ``stood`` (attacks, images) together.

    An image that an attack did not see is absent: nobody knows whether it would have stood.
    """
    fate = stood.min(axis=0)  # ABSENT is below FELL is below STOOD
    return np.asarray(fate, dtype=np.int8)


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
