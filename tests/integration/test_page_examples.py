"""Every example of README and docs runs, or says in a comment before it why it does not.

The blocks of one page run in order, in one folder and one namespace; a block that names a file
is written there. Before a block, ``<!-- not run: REASON -->`` leaves it out, and
``<!-- given: NAMES -->`` asks for what a reader has and the page does not make
(:mod:`given_examples`).
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from given_examples import give
from markdown_pages import PAGES
from page_examples import Example, commands, examples, inside, run_command, run_python
from paths import ROOT

import benchmark
from benchmark.cli import app

pytestmark = pytest.mark.usefixtures("undrawn")

GROUP: Any = typer.main.get_command(app)
COMMANDS = {
    name: {option for one in command.params for option in one.opts} | {"--help"}
    for name, command in GROUP.commands.items()
}
WITH_EXAMPLES = [page for page in PAGES if examples(page.read_text("utf-8"))]


def called(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def skip_before_evaluate() -> None:
    """Skip where the pages are ahead of the package."""
    if not hasattr(benchmark, "evaluate"):
        pytest.skip("benchmark.evaluate is not there")


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=called)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    text = page.read_text("utf-8")
    found = examples(text)
    if re.search(r"benchmark(\.| import .*| )evaluate", text):
        skip_before_evaluate()
    namespace: dict[str, Any] = {"__name__": "__example__"}
    with inside(tmp_path):
        for example in found:
            give(example.given, namespace, tmp_path)
            if example.file:
                path = tmp_path / example.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(example.text, "utf-8")
            elif example.reason:
                continue
            elif example.language == "python":
                run_python(example, page, namespace)
            else:
                for command in commands(example.text):
                    run_command(command, tmp_path)


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=called)
def test_what_does_not_run_is_at_least_well_formed(page: Path) -> None:
    for example in examples(page.read_text("utf-8")):
        if example.language == "python":
            compile("\n" * example.line + example.text, str(page), "exec")
        else:
            assert commands(example.text), f"{called(page)}:{example.line}: no line begins with $"


def words_of(example: Example) -> list[list[str]]:
    """Return the words behind ``python -m benchmark`` of each such command."""
    found = []
    for command in commands(example.text):
        words = shlex.split(command, comments=True)
        if words[:3] == ["python", "-m", "benchmark"]:
            found.append(words[3:])
        elif words[:1] == ["defensebench"]:
            found.append(words[1:])
    return found


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=called)
def test_every_command_has_the_options_that_a_page_gives_it(page: Path) -> None:
    for example in examples(page.read_text("utf-8")):
        if example.language != "console":
            continue
        for command, *words in words_of(example):
            if command.startswith("--"):
                continue
            options = [word.partition("=")[0] for word in words if word.startswith("--")]
            known = COMMANDS.get(command, set()) | SUBCOMMANDS.get(command, set())
            wrong = [option for option in options if option not in known]
            if wrong or command not in COMMANDS:
                skip_before_evaluate()
            assert command in COMMANDS, f"{called(page)}:{example.line}: no command {command}"
            assert not wrong, f"{called(page)}:{example.line}: {command} has no {wrong}"


SUBCOMMANDS: dict[str, set[str]] = {
    name: {option for sub in command.commands.values() for one in sub.params for option in one.opts}
    for name, command in GROUP.commands.items()
    if hasattr(command, "commands")
}
"""The options below a command that has commands of its own."""


# --- the reader of the pages ---------------------------------------------------------------------

PAGE = """# A page

```python
one = 1
```

<!-- not run: needs a GPU -->
```console
$ python -m benchmark run --dataset mnist \\
      --preset paper   # hours
printed
$ ls
```

<!-- given: model, images -->

```python
two = one + 1
```

```python my_file.py
x = 1
```

<!-- a remark -->
```text
no example
```
"""


def test_a_page_is_read_block_by_block() -> None:
    one, console, two, file = examples(PAGE)
    assert (one.text, one.reason, one.given, one.line) == ("one = 1\n", "", (), 3)
    assert console.reason == "needs a GPU"
    assert commands(console.text) == [
        "python -m benchmark run --dataset mnist        --preset paper   # hours",
        "ls",
    ]
    assert words_of(console) == [["run", "--dataset", "mnist", "--preset", "paper"]]
    assert two.given == ("model", "images")
    assert file.file == "my_file.py"


def test_an_error_names_the_line_of_the_page(tmp_path: Path) -> None:
    (wrong,) = examples("# A page\n\n```python\nfine = 1\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        run_python(wrong, tmp_path / "page.md", {})
    assert error.traceback[-1].lineno == 4  # counted from 0


def test_a_command_that_fails_is_no_example(tmp_path: Path) -> None:
    assert run_command("echo one; echo two >&2", tmp_path) == "one\n"
    with pytest.raises(AssertionError, match="no such option"):
        run_command("echo no such option >&2; false", tmp_path)


def test_nothing_stays_of_a_page(tmp_path: Path) -> None:
    import sys

    (tmp_path / "only_here.py").write_text("x = 1\n")
    with inside(tmp_path):
        import only_here

        assert only_here.x == 1
    assert "only_here" not in sys.modules
    assert str(tmp_path) not in sys.path
    assert Path.cwd() != tmp_path
