"""Running a plugin's code: whatever it does ends in an ordinary exception, and within its time.

A plugin may call ``sys.exit``, raise a BaseException, change the process's
settings or never return. The run that it is a part of goes on.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.errors import PluginError, first_line
from benchmark.plugins.process_settings import contained
from benchmark.plugins.restart import Names, end, prospect
from benchmark.plugins.time_limit import Renew, time_limit
from benchmark.progress import Progress


@contextmanager
def plugin_code() -> Iterator[None]:
    """Turn what stops more than the plugin (SystemExit and its like) into a PluginError.

    KeyboardInterrupt passes: it is the user's.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        words = first_line(error)
        raise PluginError(f"the plugin raised {words}; it must not end the process") from error


@contextmanager
def limited(seconds: float, hung: Callable[[str], None]) -> Iterator[Renew]:
    """Run plugin code for at most ``seconds`` (see
    :func:`benchmark.plugins.time_limit.time_limit`).

    Only Exceptions come out, and KeyboardInterrupt; the process's settings are as before.
    """
    with plugin_code(), contained(), time_limit(seconds, hung) as renew:
        yield renew


@dataclass(frozen=True)
class Limits:
    """How long each call of plugin code may take in a run, and how the run ends if one hangs.

    ``seconds`` is 0 for any time. ``failed`` names the sweeps that failed in this command.
    """

    seconds: float
    progress: Progress
    failed: set[Names]
    start: Path = field(default_factory=Path.cwd)

    def limited(self, what: str, keep: Callable[[str], None]) -> AbstractContextManager[Renew]:
        """Run ``what`` as :func:`limited` does.

        If it hangs where nothing can interrupt it, ``keep`` writes the cells that failed, with the
        reason, before the process ends or starts again (:func:`benchmark.plugins.restart.end`).
        """

        def hung(reason: str) -> None:
            try:
                os.chdir(self.start)  # the run's folder may be relative to it
                self.progress.say(
                    f"{what}: {reason}, in code that cannot be interrupted; {prospect()}"
                )
                keep(reason)
            finally:
                end(self.failed)

        return limited(self.seconds, hung)
