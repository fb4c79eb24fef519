"""A dataset of two classes: the threes and the fives among scikit-learn's digits."""

import numpy as np

from benchmark.datasets import DIGITS, DatasetInfo, DatasetSource, RawSplit, SplitName

DIGITS_KEPT = (3, 5)


def open_split(info: DatasetInfo, split: SplitName) -> RawSplit:
    """Open ``split``: its labels at once, its images (uint8) when their rows are asked for."""
    assert DIGITS.embedded is not None
    all_digits = DIGITS.embedded(DIGITS.info, split)
    rows = np.flatnonzero(np.isin(all_digits.labels, DIGITS_KEPT))
    labels = np.searchsorted(DIGITS_KEPT, all_digits.labels[rows])  # 0 for a three, 1 for a five
    return RawSplit(labels, lambda wanted: all_digits.read(rows[wanted]), all_digits.source)


# augment=False: a mirrored digit is no digit.
INFO = DatasetInfo("three-or-five", (1, 28, 28), 2, ("three", "five"), augment=False)
THREE_OR_FIVE = DatasetSource(INFO, embedded=open_split)
