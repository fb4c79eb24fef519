"""``run --add ... --to RUN_DIR``: which of ``run``'s options go with it, and the grown spec."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UsageError

if TYPE_CHECKING:
    from benchmark.config.spec import RunSpec


def grown_spec(
    add: Sequence[str],
    to: Path | None,
    *,
    given: Mapping[str, Any],
    preset: str,
    changes: Mapping[str, Any],
    libraries: Sequence[str],
) -> "RunSpec":
    """Grow the run in ``to`` and return its spec; ``given`` are options that it has from birth."""
    from benchmark.execution.grow import Additions, grow
    from benchmark.progress import ConsoleProgress

    if not add or to is None:
        raise UsageError(
            "--add and --to go together: run --add defenses=rse --to runs/mnist-quick-0123456789"
        )
    for option, value in given.items():
        if value:
            raise UsageError(f"--add: {option} is the run's own already; leave it out")
    return grow(
        to,
        Additions.parse(add),
        preset=preset,
        changes=changes,
        libraries=libraries,
        progress=ConsoleProgress(),
    )
