"""What a run's tables say of one trained defense, as the audit needs it."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from benchmark.attacks.loader import load_attack
from benchmark.audit.case import Curve
from benchmark.datasets.dataset import ImageDataset
from benchmark.evaluation.scoring import CleanPredictions
from benchmark.models.defense import Defense
from benchmark.results.run_folder import RunFolder


@dataclass(frozen=True)
class Target:
    """A trained defense of a run, under a seed, in evaluation mode.

    ``clean`` keeps its clean predictions.
    """

    name: str
    seed: int
    defense: Defense
    clean: CleanPredictions | None = None


def norms_of(folder: RunFolder, name: str, seed: int) -> list[str]:
    """Return the norms in which a defense has an accuracy, or failed to get one; there is nothing
    to say of one whose attacks were all skipped. Without any, all of the run's."""
    cells = folder.cells
    own = cells[(cells["defense"] == name) & (cells["seed"] == seed)]
    tried = set(own.loc[own["status"] != "skipped", "norm"])
    norms = list(dict.fromkeys(attack.threat.norm for attack in folder.spec.attacks))
    return [norm for norm in norms if norm in tried] or norms


def seen_through(folder: RunFolder, target: Target) -> tuple[int, bool]:
    """Return the most draws (EOT) that an attack of the run averaged, and whether one used BPDA."""
    cells = folder.cells
    own = cells[rows_of(cells, target) & (cells["status"] == "ok")]
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
    own = samples[rows_of(samples, target) & (samples["norm"] == norm)]
    queries = own.groupby(["attack", "library", "sample_id"], observed=True)[
        ["n_forward", "n_backward"]
    ].sum()
    queries = queries[[key[:2] in attacks for key in queries.index]]
    return float(queries.sum(axis=1).max()) / 2 if len(queries) else 0.0


def curves_of(folder: RunFolder, target: Target, test_set: ImageDataset) -> list[Curve]:
    """Return the run's sweeps of a defense, image by image in the test set's order."""
    samples = folder.samples
    own = samples[rows_of(samples, target)]
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
    own = samples[rows_of(samples, target) & (samples["norm"] == norm)]
    right = dict(zip(own["sample_id"], own["pred_clean"] == own["label"], strict=True))
    ids = test_set.sample_ids.tolist()[: len(right)]
    return torch.tensor([bool(right[sample]) for sample in ids], dtype=torch.bool)


def rows_of(frame: pd.DataFrame, target: Target) -> "pd.Series[bool]":
    """Return which rows of a table are about a defense under its seed."""
    return (frame["defense"] == target.name) & (frame["seed"] == target.seed)
