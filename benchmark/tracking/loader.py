"""Trackers by name: entry points of ``defensebench.trackers``, or ``package.module:Class``."""

from collections.abc import Sequence

from benchmark.errors import UsageError, first_line, one_line
from benchmark.registry import Registry
from benchmark.tracking.base import Tracker

TRACKERS = Registry("tracker", "defensebench.trackers")

METHODS = ("start", "cell", "model", "verdict", "finish")


def load_trackers(names: Sequence[str]) -> dict[str, Tracker]:
    """Make the trackers of these names; each imports its library.

    UsageError, in one line, for an unknown name, a library that is not installed (and what to
    install), or a tracker that cannot be made or lacks a method.
    """
    return {name: _load(name) for name in dict.fromkeys(names)}


def _load(name: str) -> Tracker:
    TRACKERS.check(name)
    try:
        made: Tracker = TRACKERS.load(name)()
    except UsageError:
        raise
    except ImportError as error:
        missing = error.name or name
        raise UsageError(
            f"--log {name}: {missing} is not installed; pip install {missing.partition('.')[0]}"
        ) from None
    except Exception as error:
        raise UsageError(f"--log {name}: {one_line(first_line(error))}") from None
    lacking = [method for method in METHODS if not callable(getattr(made, method, None))]
    if lacking:
        raise UsageError(
            f"--log {name}: it has no {lacking[0]}; a tracker has {', '.join(METHODS)}"
            " (benchmark.tracking.base.Tracker)"
        )
    return made
