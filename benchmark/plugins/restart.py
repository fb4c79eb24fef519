"""What becomes of a process that hangs where nothing can stop it: it starts its command again.

What is finished lies in the run's folder, so the same command goes on from there. The sweeps that
failed before the restart are not tried again by it: their names go along in the environment.
Where the command is not the process's own (a library call, a test) or the system cannot replace a
process (Windows), the process ends with exit code 1 instead.
"""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from benchmark.console import plain_console

FAILED_BEFORE = "DEFENSEBENCH_FAILED_BEFORE_RESTART"

Names = tuple[int, str, str, str]
"""A sweep's seed, defense, attack and library; of a code map, the last two are empty."""


def can_restart() -> bool:
    """Tell whether the process runs the command line and nothing else."""
    program = Path(sys.argv[0])
    own = program.stem == "defensebench" or program.parts[-2:] == ("benchmark", "__main__.py")
    return own and os.name == "posix"


def prospect() -> str:
    """Return in words what :func:`end` will do."""
    if can_restart():
        return "the command starts again and goes on without it"
    return "stopped; the same command goes on with the other cells first"


def end(failed: Iterable[Names]) -> NoReturn:
    """Replace the process by a new one of the same command, or end it with exit code 1.

    ``failed`` are the sweeps that the new one leaves alone. Whatever the process was in the middle
    of is lost.
    """
    try:
        plain_console(stderr=True).show_cursor()  # a progress bar has hidden it
        sys.stdout.flush()
        sys.stderr.flush()
        if can_restart():
            os.environ[FAILED_BEFORE] = json.dumps(sorted(set(failed)))
            os.execv(sys.executable, sys.orig_argv)
    finally:
        os._exit(1)


def failed_before() -> frozenset[Names]:
    """Return the sweeps that failed before a restart, once: a second call finds none."""
    try:
        told = json.loads(os.environ.pop(FAILED_BEFORE, "[]"))
        return frozenset(
            (int(seed), str(defense), str(attack), str(library))
            for seed, defense, attack, library in told
        )
    except (ValueError, TypeError):
        return frozenset()
