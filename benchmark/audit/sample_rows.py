"""The audit's own attacks as rows of its tables: an image's samples, and pairs of defenses."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from benchmark.audit.attack_harder import StrongerResult
from benchmark.audit.transfer import Transfer
from benchmark.datasets.dataset import ImageDataset
from benchmark.results.audit_words import STRONGER
from benchmark.results.rows import FOUND, cell_key, sample_rows
from benchmark.results.run_folder import RunFolder
from benchmark.results.schema import SAMPLES
from benchmark.results.tables import make_table


def stronger_samples(
    folder: RunFolder, name: str, seed: int, result: StrongerResult, images: ImageDataset
) -> Iterator[pd.DataFrame]:
    """Yield what one of the stronger attacks left of the defense ``name``, eps by eps."""
    for outcome in result.outcomes:
        attack = (result.spec.name, STRONGER, result.spec.threat.norm)
        key = cell_key(folder.spec, name, *attack, outcome.eps, seed)
        found = {name: getattr(outcome, name) for name in FOUND}
        yield sample_rows(folder.spec.run_id, key, images, found)


def transfer_samples(
    folder: RunFolder, seed: int, found: Transfer, images: ImageDataset
) -> Iterator[pd.DataFrame]:
    """Yield what images made against another defense did, eps by eps: one forward an image."""
    curve = found.curve
    for level, eps in enumerate(curve.eps):
        attack = (curve.attack, STRONGER, curve.norm)
        key = cell_key(folder.spec, found.target, *attack, eps, seed)
        values: dict[str, Tensor | int] = {
            "pred_clean": found.pred_clean,
            "pred_adv": found.pred_adv[level],
            "success": curve.success[level],
            "distance": curve.distance[level],
            "n_forward": 1,
            "n_backward": 0,
        }
        yield sample_rows(folder.spec.run_id, key, images, values)


def transfer_rows(
    folder: RunFolder, seed: int, found: Sequence[Transfer]
) -> Iterator[dict[str, Any]]:
    """Yield rows of transfer.parquet."""
    for one in found:
        for eps, accuracy in zip(one.curve.eps, one.curve.robust_accuracy, strict=True):
            yield {
                "dataset": folder.spec.dataset,
                "seed": seed,
                "norm": one.curve.norm,
                "eps": eps,
                "source": one.source,
                "target": one.target,
                "n": one.curve.success.shape[1],
                "accuracy": accuracy,
            }


def no_samples() -> pd.DataFrame:
    """Return the samples of an audit that attacked nothing."""
    return make_table([], SAMPLES)
