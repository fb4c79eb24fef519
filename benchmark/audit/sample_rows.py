"""The audit's own attacks as rows of the samples table, for the worst case per image."""

from collections.abc import Iterator

import pandas as pd
from torch import Tensor

from benchmark.audit.stronger_attacks import Struck
from benchmark.audit.transfer import Transfer
from benchmark.datasets.dataset import ImageDataset
from benchmark.results.audit_words import STRONGER
from benchmark.results.rows import FOUND, cell_key, sample_rows
from benchmark.results.run_folder import RunFolder
from benchmark.results.schema import SAMPLES
from benchmark.results.tables import make_table


def struck_samples(
    folder: RunFolder, name: str, seed: int, struck: Struck, images: ImageDataset
) -> Iterator[pd.DataFrame]:
    """Yield what one of the stronger attacks left of the defense ``name``, eps by eps."""
    for outcome in struck.outcomes:
        attack = (struck.spec.name, STRONGER, struck.spec.threat.norm)
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


def no_samples() -> pd.DataFrame:
    """Return the samples of an audit that attacked nothing."""
    return make_table([], SAMPLES)
