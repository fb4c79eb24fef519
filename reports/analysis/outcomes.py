"""What became of every image in every cell of a run, as matrices: the worst case, image by image.

Everything that compares images (worst case, paired tests, cost) starts here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmark.results.row_keys import number_groups
from benchmark.results.schema import CELL_KEY
from reports.section import RunContext

ABSENT, FOOLED, ROBUST = -1, 0, 1

Distances = npt.NDArray[np.float64]
Fates = npt.NDArray[np.int8]
"""Images' fates: ``ROBUST``, ``FOOLED`` or, where the attack did not see the image, ``ABSENT``."""


@dataclass(frozen=True)
class Audited:
    """What the audit's own attacks did to a defense in one norm, under one seed.

    ``reach`` (images,) are the distances within which they fooled the images: infinite where they
    did not, NaN where they did not see the image. ``draws`` are the fates (images,) under each
    attack at each eps that it was run at.
    """

    reach: Distances
    draws: Mapping[tuple[str, float], Fates]

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """Which images the audit attacked."""
        return ~np.isnan(self.reach)


@dataclass(frozen=True)
class Outcomes:
    """The cells of a run that are ok, and their images.

    ``cells`` holds their keys, a row per cell, ``images`` the sample ids, ascending. ``robust`` and
    ``clean`` (cells, images) are the images' fates under attack and without one. ``audited`` are
    those under the audit's own attacks, ``stochastic`` the defenses on which each further attack is
    one more draw.
    """

    cells: pd.DataFrame
    images: npt.NDArray[np.int64]
    robust: Fates
    clean: Fates
    audited: Mapping[tuple[str, str, int], Audited]
    stochastic: frozenset[str]


def outcomes(context: RunContext) -> Outcomes:
    """Return the fates of all images in the cells of ``context`` that are ok."""
    samples = context.run.samples
    codes, cells = number_groups(samples, CELL_KEY)
    key = ["status", *CELL_KEY]
    known = cells.merge(context.cells[key], on=CELL_KEY, how="left")["status"] == "ok"
    kept = known.to_numpy(dtype=bool) & (cells["dataset"] == context.run.spec.dataset).to_numpy()
    ids, images = pd.factorize(samples["sample_id"].to_numpy(), sort=True)
    robust = np.full((len(cells), len(images)), ABSENT, dtype=np.int8)
    clean = robust.copy()
    robust[codes, ids] = ~samples["success"].to_numpy(dtype=bool)
    clean[codes, ids] = samples["pred_clean"].to_numpy() == samples["label"].to_numpy()
    cells = cells[kept].reset_index(drop=True)
    images = np.asarray(images)
    audited, random = _audited(context, images), stochastic_defenses(context)
    return Outcomes(cells, images, robust[kept], clean[kept], audited, random)


def stochastic_defenses(context: RunContext) -> frozenset[str]:
    """Return the defenses that answer at random: they, the audit or an attack with EOT says so."""
    verdicts, cells = context.audit.verdicts, context.cells
    declared = {model.defense for model in context.run.models if model.stochastic}
    judged = set(verdicts.loc[verdicts["stochastic"].astype(bool), "defense"])
    # Runs made before models said it: EOT is skipped on a defense without noise.
    averaged = set(cells.loc[(cells["status"] == "ok") & (cells["eot"] > 1), "defense"])
    return frozenset(declared | judged | averaged)


def _audited(
    context: RunContext, images: npt.NDArray[np.int64]
) -> dict[tuple[str, str, int], Audited]:
    samples = context.audit.samples
    samples = samples[samples["dataset"] == context.run.spec.dataset]
    samples = samples[np.isin(samples["sample_id"].to_numpy(), images)]
    found = {}
    key: Any
    for key, own in samples.groupby(["norm", "defense", "seed"], observed=True):
        fooled = (own["success"] & (own["pred_clean"] == own["label"])).to_numpy()
        # Rounding may carry an image a hair outside the ball that it was judged in.
        within = np.minimum(own["distance"].to_numpy(dtype=float), own["eps"].to_numpy(dtype=float))
        reach = np.full(len(images), np.nan)
        places = np.searchsorted(images, own["sample_id"].to_numpy())
        np.fmin.at(reach, places, np.where(fooled, within, np.inf))
        norm, defense, seed = key
        draws = _draws(own.assign(place=places), len(images))
        found[str(norm), str(defense), int(seed)] = Audited(reach, draws)
    return found


def _draws(samples: pd.DataFrame, n: int) -> dict[tuple[str, float], Fates]:
    draws: dict[tuple[str, float], Fates] = {}
    key: Any
    for key, own in samples.groupby(["attack", "eps"], observed=True):
        fates = np.full(n, ABSENT, dtype=np.int8)
        fates[own["place"]] = ~own["success"].to_numpy(dtype=bool)
        draws[str(key[0]), float(key[1])] = fates
    return draws


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
    audited = {
        key: Audited(
            own.reach[columns], {name: fates[columns] for name, fates in own.draws.items()}
        )
        for key, own in found.audited.items()
    }
    fates = found.robust[:, columns], found.clean[:, columns]
    return replace(found, images=images, robust=fates[0], clean=fates[1], audited=audited)


def worst(robust: Fates) -> Fates:
    """Return the fates of the images under all attacks together; ``robust`` is (attacks, images).

    An image that an attack did not see is absent: nobody knows whether it would have stayed robust.
    """
    fate = robust.min(axis=0)  # ABSENT is below FOOLED is below ROBUST
    return np.asarray(fate, dtype=np.int8)


def lowest(draws: Sequence[Fates]) -> Fates:
    """Return the fates under the single attack that left fewest of the images that all saw.

    That is the worst case of a stochastic defense: an image that falls in one of ten draws would
    fall to one of ten attacks, whatever they do. Images that an attack did not see are absent.
    """
    whole = np.stack(draws)
    every = (whole != ABSENT).all(axis=0)
    left = (whole[:, every] == ROBUST).sum(axis=1)
    return np.where(every, whole[int(left.argmin())], ABSENT).astype(np.int8)


def worst_seen(robust: Fates) -> Fates:
    """Return the fates of every image that some attack saw: fooled if one of them fooled it."""
    seen = np.where(robust == ABSENT, ROBUST, robust).min(axis=0)
    return np.where((robust == ABSENT).all(axis=0), ABSENT, seen).astype(np.int8)


def net_counts(a: Fates, b: Fates) -> list[tuple[int, int, int, list[int], list[int]]]:
    """Compare stacks of fates (contests, seeds, images), contest by contest.

    Returns the number of images that both have in all seeds; on them how often A was robust, and B,
    over all seeds; and on how many A was robust in k = 1, 2, ... more seeds than B, and in how many
    fewer.
    """
    both = (a != ABSENT).all(axis=1) & (b != ABSENT).all(axis=1)
    robust_a, robust_b = (np.where(both, fates.sum(axis=1, dtype=np.int32), 0) for fates in (a, b))
    net = robust_a - robust_b
    steps = range(1, a.shape[1] + 1)
    better = np.stack([(net == k).sum(axis=1) for k in steps], axis=1)
    worse = np.stack([(net == -k).sum(axis=1) for k in steps], axis=1)
    columns = both.sum(axis=1), robust_a.sum(axis=1), robust_b.sum(axis=1), better, worse
    return list(zip(*(column.tolist() for column in columns), strict=True))


def in_order(names: Sequence[str], order: Sequence[str]) -> list[str]:
    """Return the distinct ``names`` in ``order``; those that it lacks stand last, sorted."""
    rank = {name: i for i, name in enumerate(dict.fromkeys(order))}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))
