"""What images on disk are called."""

import re
from pathlib import Path

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
_SHARD = re.compile(r"[-_. ]\d+[-_. ]?of[-_. ]?\d+$")


def name_of(path: Path) -> str:
    """Return a file's or folder's name; that of the folder around it where it is only a split's."""
    path = path.resolve()
    name = path.name if path.is_dir() else _SHARD.sub("", path.stem)
    return (path.parent.name if name.lower() in SPLITS else name) or "images"
