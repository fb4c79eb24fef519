"""A limit on how long a plugin may take, for what hangs in Python and for what hangs in C.

On the main thread a timer's signal raises :class:`TookTooLong` wherever Python code is running,
again every second until the code has ended: no ``except Exception`` of a plugin swallows it.
Code in C hears no signal before it returns. After a grace period a second thread takes over: it
has the failed cells written and the process ended, or started again
(:mod:`benchmark.plugins.restart`). Only C code that also keeps the interpreter's lock stops that
thread too, and nothing within the process can end it.

Where there is no such timer (Windows, any other thread than the main one) the thread is alone.
"""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType

from benchmark.errors import PluginError, UsageError

OPTION = "(--time-limit)"
"""Ends the reason of every cell that took too long: what the user can change."""

DEFAULT_SECONDS = 86_400.0
"""A day: a cell of the paper's size takes hours on a GPU."""

MOST_SECONDS = 1e8
"""The longest limit, three years: timers take no much larger number (docs/constants.md)."""

GRACE = 60.0
"""Seconds, or a tenth of the limit if that is more, that C code has to return after it."""

AGAIN = 1.0
"""Seconds from one signal to the next, should a plugin have swallowed it."""

Renew = Callable[[], None]


class TookTooLong(BaseException):
    """Raised inside plugin code; not an Exception, so that ``except Exception`` lets it pass."""


class TimeLimitError(PluginError):
    """A plugin took longer than its limit."""


def check_seconds(seconds: float) -> None:
    """Raise a UsageError unless ``seconds`` can be a time limit; 0 is no limit."""
    if not (math.isfinite(seconds) and 0 <= seconds <= MOST_SECONDS):
        raise UsageError(
            f"--time-limit {seconds:g}: give seconds from 0 (no limit) to {MOST_SECONDS:.0f}"
        )


def reason(seconds: float) -> str:
    """Return why a cell failed that was not done after ``seconds``."""
    return f"took longer than {seconds:g} s {OPTION}"


@contextmanager
def time_limit(seconds: float, hung: Callable[[str], None]) -> Iterator[Renew]:
    """Allow the block ``seconds`` (0: any time); the value is a function that starts them again.

    TimeLimitError if it takes longer. ``hung`` is called from another thread, with the reason, when
    the block cannot be stopped; it must end the process.
    """
    if not seconds:
        yield lambda: None
        return
    watch = _Watch(seconds, hung)
    token = _running.set(watch)
    try:
        watch.renew()
        yield watch.renew
    except TookTooLong as stopped:
        watch.close()
        raise TimeLimitError(reason(watch.seconds)) from stopped
    finally:
        watch.close()
        _running.reset(token)


@contextmanager
def paused() -> Iterator[None]:
    """Stop the clock for the block, which waits for another process; then the seconds start again.

    Nothing where no limit runs.
    """
    watch = _running.get()
    if watch is None:
        yield
        return
    watch.stop()
    yield
    watch.renew()


class _Watch:
    """The timer and the thread of one block."""

    def __init__(self, seconds: float, hung: Callable[[str], None]) -> None:
        self.seconds = seconds
        self.hung = hung
        self.over = False
        self.lock = threading.Lock()
        self.thread = threading.Timer(0, self._give_up)
        self.signals = (
            hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
        )
        if self.signals:
            self.handler = signal.signal(signal.SIGALRM, self._interrupt)

    def renew(self) -> None:
        """Start the seconds again."""
        self.stop()
        self.thread = threading.Timer(self.seconds + max(GRACE, self.seconds / 10), self._give_up)
        self.thread.daemon = True
        self.thread.start()
        if self.signals:
            signal.setitimer(signal.ITIMER_REAL, self.seconds, AGAIN)

    def stop(self) -> None:
        """Stop the clock."""
        self.thread.cancel()
        if self.signals:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def close(self) -> None:
        """Stop both; if the thread has taken over already, wait for the end that it makes."""
        while not self.over:
            # A signal may arrive at this very moment: it is late.
            with suppress(TookTooLong), self.lock:
                self.over = True
        self.stop()
        if self.signals:
            signal.signal(signal.SIGALRM, self.handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self.over:
            raise TookTooLong

    def _give_up(self) -> None:
        with self.lock:
            if self.over or threading.current_thread() is not self.thread:
                return
            if self.signals:  # a timer outlives even the process's program
                signal.setitimer(signal.ITIMER_REAL, 0)
            self.hung(reason(self.seconds))


_running: ContextVar[_Watch | None] = ContextVar("running", default=None)
