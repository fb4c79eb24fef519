"""Command lines in processes of their own that start at once, for tests that kill them.

They are forked from a server that has imported the harness before: importing torch takes longer
than what these tests do. What runs is ``benchmark.cli.main``, as in ``python -m benchmark``, only
without the report, whose figures take longer still.
"""

import io
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    [
        "benchmark.cli",
        "benchmark.execution.runner",
        "defenses",
        "reports.html",
        "sklearn.datasets",
        "torch._dynamo",
    ]
)
PATIENCE = 600
"""Seconds after which a test that hangs gives up: far above what a busy machine takes."""


def start(words: list[str], log: Path, cache: Path, *, stay_at: str = "") -> BaseProcess:
    """Start ``python -m benchmark WORDS`` with its output in ``log`` and its cache in ``cache``.

    Having said ``stay_at``, it stays there until a signal comes, however late.
    """
    process = FORKING.Process(target=_command, args=(words, str(log), str(cache), stay_at))
    process.start()
    return process


class Staying(io.TextIOBase):
    """A stream whose write of ``words`` comes back by an exception only, as a signal raises it."""

    def __init__(self, stream: TextIO, words: str) -> None:
        self.stream, self.words = stream, words
        self.written = ""

    def write(self, text: str) -> int:
        n = self.stream.write(text)
        self.written += text
        if self.words and self.words in self.written:
            self.words = ""
            self.stream.flush()
            while True:
                # Not signal.pause(): the signal may have come just before.
                time.sleep(0.01)
        return n

    def flush(self) -> None:
        self.stream.flush()


def _command(words: list[str], log: str, cache: str, stay_at: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ["BENCHMARK_CACHE_DIR"] = cache
    os.environ.pop("BENCHMARK_DATA_DIR", None)
    sys.argv = ["benchmark", *words]
    # A test run that was itself sent to the background ignores Ctrl-C, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if stay_at:
        sys.stdout, sys.stderr = Staying(sys.stdout, stay_at), Staying(sys.stderr, stay_at)

    import torch

    from benchmark.cli import main
    from reports import html

    torch.set_num_threads(1)
    html.write_report = lambda run_dirs, *rest: run_dirs[0]
    main()


def said(log: Path) -> str:
    """Return what a process has printed so far."""
    return log.read_text("utf-8", "replace") if log.exists() else ""


def wait_for(words: str, log: Path, process: BaseProcess) -> str:
    """Wait until a process has printed ``words`` and return all that it printed."""
    end = time.monotonic() + PATIENCE
    while words not in (text := said(log)):
        assert process.is_alive(), f"it ended with {process.exitcode}: {text}"
        assert time.monotonic() < end, f"it never said {words!r}: {text}"
        process.join(0.005)
    return text


def ended(process: BaseProcess) -> int | None:
    """Wait until a process ends and return its exit code."""
    process.join(PATIENCE)
    return process.exitcode
