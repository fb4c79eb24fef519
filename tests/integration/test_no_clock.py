"""No test is decided by a clock: it would fail on a slow machine, or beside other work."""

import ast

import pytest
from paths import TESTS

LEAST = 300
"""Seconds that a limit against hanging must leave."""

CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time", "time", "getrusage", "sleep"}
MAY_READ_CLOCKS = {
    "processes.py": "waits for other processes, until they hang",
    "soak.py": "kills at random moments; whenever they come, the result must be the same",
    "test_sweep.py": "what the cells took adds up to no more than the whole",
}
LIMITS = {"join", "poll", "wait", "result", "get"}
"""Methods whose one argument may be a number of seconds."""


def number(node: ast.expr | None) -> float | None:
    known = isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    return float(node.value) if known and not isinstance(node.value, bool) else None


def faults(source: str, *, may_read_clocks: bool = False) -> list[str]:
    """Return the lines of ``source`` in which a clock may decide."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        of_module = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name)
        if not may_read_clocks:
            bare = isinstance(called, ast.Name) and name in CLOCKS - {"time"}
            if bare or (of_module and called.value.id in ("time", "resource") and name in CLOCKS):
                found.append(f"{node.lineno}: reads or waits for a clock by {name}")
            if name in LIMITS and isinstance(called, ast.Attribute) and len(node.args) == 1:
                seconds = number(node.args[0])
                if seconds is not None and seconds < LEAST:
                    found.append(f"{node.lineno}: {name} waits {seconds:g} s at most")
        for keyword in node.keywords:
            seconds = number(keyword.value)
            if keyword.arg in ("timeout", "deadline") and seconds is not None and seconds < LEAST:
                found.append(f"{node.lineno}: {keyword.arg} is {seconds:g} s")
    return found


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.name)
def test_no_clock_decides(path):
    source = path.read_text("utf-8")
    assert faults(source, may_read_clocks=path.name in MAY_READ_CLOCKS) == []


def test_the_exceptions_are_in_use():
    for name in MAY_READ_CLOCKS:
        assert faults(next(TESTS.rglob(name)).read_text("utf-8")), f"{name} needs no exception"


@pytest.mark.parametrize(
    "planted",
    [
        "assert time.perf_counter() - start < 2",
        "import time; time.sleep(1)",
        "from time import sleep; sleep(0.1)",
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)",
        "subprocess.run(command, timeout=60)",
        "thread.join(5)",
        "told.wait(0.5)",
        "@settings(max_examples=9, deadline=200)\ndef test(): ...",
    ],
)
def test_the_search_for_clocks_finds_them(planted):
    assert faults(planted)


@pytest.mark.parametrize(
    "sound",
    [
        "subprocess.run(command, timeout=600)",
        "thread.join(PATIENCE)",
        "' '.join(words)",
        "told.get('seconds')",
        "@settings(deadline=None)\ndef test(): ...",
        "datetime.time(1, 2)",
    ],
)
def test_what_no_clock_decides_is_left_alone(sound):
    assert faults(sound) == []
