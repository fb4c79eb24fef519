"""The audit's own attacks as rows of the samples table, for the worst case per image."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from torch import Tensor

from benchmark.audit.stronger_attacks import Struck
from benchmark.audit.transfer import Transfer
from benchmark.datasets.dataset import ImageDataset
from benchmark.results.audit_words import STRONGER
from benchmark.results.run_folder import RunFolder
from benchmark.results.schema import SAMPLES
from benchmark.results.tables import make_table


def struck_samples(
    folder: RunFolder, name: str, seed: int, struck: Struck, images: ImageDataset
) -> Iterator[pd.DataFrame]:
    """Yield what one of the stronger attacks left of the defense ``name``, eps by eps."""
    for outcome in struck.outcomes:
        key = _key(folder, name, seed, struck.spec.name, struck.spec.threat.norm, outcome.eps)
        yield _frame(
            key,
            images,
            pred_clean=outcome.pred_clean,
            pred_adv=outcome.pred_adv,
            success=outcome.success,
            distance=outcome.distance,
            n_forward=outcome.n_forward,
            n_backward=outcome.n_backward,
        )


def transfer_samples(
    folder: RunFolder, seed: int, found: Transfer, images: ImageDataset
) -> Iterator[pd.DataFrame]:
    """Yield what images made against another defense did, eps by eps: one forward an image."""
    curve = found.curve
    for level, eps in enumerate(curve.eps):
        key = _key(folder, found.target, seed, curve.attack, curve.norm, eps)
        yield _frame(
            key,
            images,
            pred_clean=found.pred_clean,
            pred_adv=found.pred_adv[level],
            success=curve.success[level],
            distance=curve.distance[level],
            n_forward=1,
            n_backward=0,
        )


def no_samples() -> pd.DataFrame:
    """Return the samples of an audit that attacked nothing."""
    return make_table([], SAMPLES)


def _key(
    folder: RunFolder, name: str, seed: int, attack: str, norm: str, eps: float
) -> dict[str, Any]:
    return {
        "run_id": folder.spec.run_id,
        "dataset": folder.spec.dataset,
        "defense": name,
        "attack": attack,
        "library": STRONGER,
        "norm": norm,
        "eps": eps,
        "seed": seed,
    }


def _frame(key: dict[str, Any], images: ImageDataset, **values: Tensor | int) -> pd.DataFrame:
    own = {
        name: value.cpu().numpy() if isinstance(value, Tensor) else value
        for name, value in values.items()
    }
    columns = {
        **key,
        "sample_id": images.sample_ids.cpu().numpy(),
        "label": images.labels.cpu().numpy(),
        **own,
    }
    return pd.DataFrame(columns, columns=SAMPLES.names)
