"""What every source of a dataset hands over: a split whose images are decoded on demand.

Labels come first and whole, because the selection needs them all; images come afterwards, and
only the chosen rows of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmark.errors import UsageError

SplitName = Literal["train", "test"]


Rows = npt.NDArray[np.int64]


Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DatasetInfo:
    """What a network needs to know of a dataset.

    ``shape`` is (C, H, W), with C 1 (grey) or 3 (RGB). ``augment`` asks training for a random
    crop (padding 4) and a horizontal flip: meant for colour photographs, wrong for digits.
    """

    name: str
    shape: tuple[int, int, int]
    n_classes: int
    class_names: tuple[str, ...]
    augment: bool

    def __post_init__(self) -> None:
        if len(self.class_names) != self.n_classes:
            raise ValueError(
                f"{self.name}: {len(self.class_names)} class names for {self.n_classes} classes"
            )


@dataclass(frozen=True, eq=False)
class RawSplit:
    """One split at its source.

    ``labels`` is (N,) int64, checked. ``read(rows)`` decodes the images of ``rows`` ((n,) int64,
    any order) into (n, C, H, W) uint8, in that order; UsageError if one cannot be decoded.
    ``source`` is "embedded", "mirror" or "download".
    """

    labels: Rows
    read: Callable[[Rows], Pixels]
    source: str


def check_labels(labels: npt.NDArray[Any], info: DatasetInfo, where: str) -> Rows:
    """Return ``labels`` (N,) as int64; UsageError unless they are integers in [0, n_classes)."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(f"{where}: labels are {labels.dtype}, not integers")
    wrong = np.flatnonzero((labels < 0) | (labels >= info.n_classes))
    if len(wrong):
        raise UsageError(
            f"{where}: row {wrong[0]} has label {labels[wrong[0]]};"
            f" {info.name} labels are 0 to {info.n_classes - 1}"
        )
    return labels.astype(np.int64)
