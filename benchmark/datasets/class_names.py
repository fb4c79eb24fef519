"""Class names that a Parquet mirror may carry: labels mean the same class in every file.

Dataset hubs keep them in the schema's metadata, under ``huggingface``. Files with the same names
in another order would train on one class and test on another, and nothing would crash.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmark.datasets.info import DatasetInfo
from benchmark.errors import UsageError


def check_class_names(files: Sequence[Path], info: DatasetInfo) -> None:
    """Raise a UsageError if two of ``files`` number the classes differently.

    Names that are not the dataset's own at all (WordNet ids, another spelling) are compared
    between the files only. Files without names, or without a readable schema, say nothing here.
    """
    known = (f"{info.name}'s own order", _folded(info.class_names))
    told = [(str(path), names) for path in files if (names := _folded(_names(path)))]
    for where, names in told:
        references = [told[0], known] if set(names) == set(known[1]) else [told[0]]
        for other, expected in references:
            if names != expected:
                label = next(
                    (
                        i
                        for i, pair in enumerate(zip(names, expected, strict=False))
                        if len(set(pair)) > 1
                    ),
                    min(len(names), len(expected)),
                )
                raise UsageError(
                    f"{where}: label {label} is {_at(names, label)}, and {_at(expected, label)} in"
                    f" {other}; number the classes alike in all files"
                )


def _names(path: Path) -> tuple[str, ...]:
    """Return the class names that the file's schema tells; none if it does not."""
    try:
        metadata: Any = pq.read_schema(path).metadata or {}
        about = json.loads(metadata[b"huggingface"])
        names = about["info"]["features"]["label"]["names"]
    except Exception:  # another layout, or a damaged file: the reader of the images says so
        return ()
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _folded(names: Sequence[str]) -> tuple[str, ...]:
    return tuple("".join(c for c in name.lower() if c.isalnum()) for name in names)


def _at(names: Sequence[str], label: int) -> str:
    return repr(names[label]) if label < len(names) else "no class"
