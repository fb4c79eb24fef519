"""Shards that count themselves: ``train-00001-of-00003.parquet`` promises two more files.

A set with a file missing would be read as a smaller, often unbalanced dataset, and a mix of two
sets would hold images twice. Neither would crash.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmark.errors import UsageError

_COUNTED = re.compile(r"(.*?)(\d+)([-_. ]?of[-_. ]?)(\d+)(?!\d)", re.IGNORECASE)
NAMED = 5
"""The most missing files that are named; the rest are counted."""
KEEP = "images would count twice; keep one set of files in the folder"


@dataclass(frozen=True)
class _Shard:
    path: Path
    stem: str
    index: int
    total: int


def check_shards(files: Iterable[Path]) -> None:
    """Raise a UsageError unless every numbered set among ``files`` is whole and there once.

    Sets are told apart by the words before the number (``train``, ``train_extra``). Indices start
    at 0, as dataset hubs write them, or at 1; leading zeros do not count. A file without a number
    beside a numbered set of the same name is refused as well: it may hold the same images.
    """
    files = list(files)
    shards = list(_shards(files))
    for stem in dict.fromkeys(shard.stem for shard in shards):
        own = [shard for shard in shards if shard.stem == stem]
        _check_one_total(own)
        _check_each_once(own)
        _check_whole(own)
        for path in files:
            if path.stem.rstrip("-_. ") == stem:
                raise UsageError(
                    f"{path}: lies beside {own[0].path.name}, which is one of {own[0].total} files"
                    f" of that name; {KEEP}"
                )


def _shards(files: Sequence[Path]) -> Iterator[_Shard]:
    for path in files:
        if match := _COUNTED.match(path.stem):
            stem = match[1].rstrip("-_. ")
            yield _Shard(path, stem, int(match[2]), int(match[4]))


def _check_one_total(own: Sequence[_Shard]) -> None:
    first = own[0]
    for other in own:
        if other.total != first.total:
            raise UsageError(
                f"{other.path}: one of {other.total} files beside {first.path.name}, one of"
                f" {first.total}; {KEEP}"
            )


def _check_each_once(own: Sequence[_Shard]) -> None:
    seen: dict[int, _Shard] = {}
    for shard in own:
        if other := seen.get(shard.index):
            raise UsageError(
                f"{shard.path}: number {shard.index} of {shard.total} is there twice, the other is"
                f" {other.path.name}; {KEEP}"
            )
        seen[shard.index] = shard


def _check_whole(own: Sequence[_Shard]) -> None:
    first, total = own[0], own[0].total
    there = {shard.index for shard in own}
    start = 1 if total in there and 0 not in there else 0
    beyond = [shard for shard in own if not start <= shard.index < start + total]
    if beyond:
        raise UsageError(
            f"{beyond[0].path}: number {beyond[0].index} of {total} cannot be, as the files count"
            f" from {start}; fetch the set again"
        )
    n_missing = total - len(there)
    if n_missing:
        missing = (index for index in range(start, start + total) if index not in there)
        names = [_sibling(first.path, index) for index in islice(missing, NAMED)]
        more = f" and {n_missing - len(names):,} more" if n_missing > len(names) else ""
        raise UsageError(
            f"{first.path.parent}: {n_missing:,} of {total:,} files are missing:"
            f" {', '.join(names)}{more}, as {first.path.name} says; fetch what is missing"
        )


def _sibling(path: Path, index: int) -> str:
    """Return the name of the shard ``index`` of the same set, as far as names tell."""
    match = _COUNTED.match(path.stem)
    assert match is not None
    number = str(index).zfill(len(match[2]))
    return f"{match[1]}{number}{match[3]}{match[4]}{path.suffix}"
