"""The examples of README and docs: which run, which say why not, and how one page's are run."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from paths import ROOT

RUN = ("python", "console")
"""The languages whose blocks are examples."""

_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^>]*?) -->\n\n?)?```(?P<language>\w+) ?(?P<file>\S*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


_ENVIRONMENT = re.compile(r"\b(pip|venv|make|apt-get|conda|uv)\b")


class Example(NamedTuple):
    """A block of a page.

    ``file`` is the one that it names after its language ("" if none): then it is written, not run.
    ``reason`` says why it is not run, ``given`` what it takes for granted.
    """

    language: str
    file: str
    text: str
    line: int
    reason: str
    given: tuple[str, ...]


def examples(markdown: str) -> list[Example]:
    """Return the page's blocks of Python and of the console, in order."""
    found = []
    for match in _FENCE.finditer(markdown):
        if match["language"] not in RUN:
            continue
        kind, _, words = (match["mark"] or "").partition(": ")
        line = markdown.count("\n", 0, match.start("language")) + 1
        reason = words if kind == "not run" else ""
        given = tuple(re.split(r",\s*", words)) if kind == "given" else ()
        found.append(Example(*match.group("language", "file", "text"), line, reason, given))
    return found


def commands(console: str) -> list[str]:
    """Return the commands of a console block: what follows ``$``, up to where its lines end."""
    joined = console.replace("\\\n", " ")
    return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]


def run_python(example: Example, page: Path, namespace: dict[str, Any]) -> str:
    """Run a block in ``namespace`` and return what it prints; errors name the page's line."""
    source = "\n" * example.line + example.text
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(source, str(page), "exec"), namespace)
    return printed.getvalue()


def run_command(command: str, folder: Path) -> str:
    """Run a line of a console block in ``folder`` and return what it prints.

    One that would change the environment is refused: its block has to say that it is not run.
    """
    assert not _ENVIRONMENT.search(command), f"mark this block as not run: {command}"
    names = (str(ROOT), os.environ.get("PYTHONPATH"))
    path = (str(Path(sys.executable).parent), os.environ["PATH"])
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={
            **os.environ,
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": os.pathsep.join(filter(None, names)),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in ``folder`` and import from there; what was imported is forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("BENCHMARK_CACHE_DIR", str(folder / "cache"))
        yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
