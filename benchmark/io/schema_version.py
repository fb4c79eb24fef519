"""The version of the tables and JSON files that this code writes.

A file says its version. A newer one is read as far as this code knows its columns or keys, and a
line says so; an older one has its absent columns filled with null.
"""

import logging
from functools import cache

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
"""1: files without a version. 2: cells have ``attack_family`` and ``failure_kind``."""

NAME = "schema_version"


def check_version(found: object, where: object) -> None:
    """Say, once a process, that the file ``where`` is of a newer version than this code."""
    try:
        version = int(str(found))
    except ValueError:
        return
    if version > SCHEMA_VERSION:
        _say_newer(str(where), version)


@cache
def _say_newer(where: str, version: int) -> None:
    _log.warning(
        "%s: written by a newer defensebench (schema version %s, this one knows %s): what this one"
        " does not know of it is left out",
        *(where, version, SCHEMA_VERSION),
    )
