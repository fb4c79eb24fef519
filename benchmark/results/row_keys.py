"""Rows of a large table by their key, a million at a time: repeated, grouped, counted.

What pandas' ``duplicated``, ``ngroup`` and ``nunique`` return, in a fraction of their memory: a run
has millions of samples under a key of eight columns.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Numbers = npt.NDArray[np.int64]

_BLOCK = 1 << 20
_MOST = 2**62


def repeated(frame: pd.DataFrame, names: Sequence[str]) -> bool:
    """Tell whether two rows are equal in the columns ``names``."""
    numbers = _numbers(frame, names)
    numbers.sort()
    return bool((numbers[1:] == numbers[:-1]).any())


def number_groups(frame: pd.DataFrame, names: Sequence[str]) -> tuple[Numbers, pd.DataFrame]:
    """Return each row's group, the groups being numbered as they appear, and the groups' keys.

    Rows of a group are equal in the columns ``names``, which are the columns of the keys.
    """
    numbers = _numbers(frame, names)
    groups = pd.Index(pd.unique(numbers))
    first = np.zeros(len(groups), np.int64)
    for rows in reversed(list(_blocks(len(numbers)))):
        numbers[rows] = groups.get_indexer(pd.Index(numbers[rows]))
        first[numbers[rows][::-1]] = np.arange(rows.start, rows.stop)[::-1]
    return numbers, frame[list(names)].iloc[first].reset_index(drop=True)


def count_distinct(frame: pd.DataFrame, names: Sequence[str], column: str) -> pd.DataFrame:
    """Return the groups of ``names`` with the number of distinct values of ``column`` as ``n``."""
    numbers, keys = number_groups(frame, names)
    size = _add(numbers, frame[column])
    numbers.sort()
    first = np.ones(len(numbers), bool)
    np.not_equal(numbers[1:], numbers[:-1], out=first[1:])
    return keys.assign(n=np.bincount(numbers[first] // max(1, size), minlength=len(keys)))


def _numbers(frame: pd.DataFrame, names: Sequence[str]) -> Numbers:
    """Number the rows so that those that are equal in ``names``, and no others, are equal."""
    numbers = np.zeros(len(frame), np.int64)
    most = 1
    for name in names:
        most *= max(1, len(_values(frame[name])))
        if most > _MOST:  # the next digit might not fit: as few numbers as there are
            numbers, found = pd.factorize(numbers)
            most = len(found) * len(_values(frame[name]))
        _add(numbers, frame[name])
    return numbers


def _add(numbers: Numbers, column: "pd.Series[Any]") -> int:
    """Append the column's values to the ``numbers`` as a digit; return the number of values."""
    values = _values(column)
    words = isinstance(column.dtype, pd.CategoricalDtype)
    numbers *= len(values)
    for rows in _blocks(len(numbers)):
        block = column.iloc[rows]
        numbers[rows] += block.cat.codes if words else values.get_indexer(pd.Index(block))
    return len(values)


def _values(column: "pd.Series[Any]") -> "pd.Index[Any]":
    words = isinstance(column.dtype, pd.CategoricalDtype)
    found: pd.Index[Any] = pd.Index(column.cat.categories if words else column.unique())
    return found


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, rows)) for start in range(0, rows, _BLOCK))
