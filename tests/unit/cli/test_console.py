"""What is printed is the text itself: a class name is no emoji, a study's member no markup."""

import ast

import pandas as pd
import pytest
from paths import ROOT
from rich.console import Console
from rich.table import Table

from benchmark.console import plain_console, print_accuracies, print_table
from benchmark.progress import ConsoleProgress

NAMES = ("toys:car:", "toys:Smile: training", "ot-cla[code_dim=2]", "[red]:dog:[/red]", ":+1:")


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain_console().print(name)
    table = Table(name)
    table.add_row(name)
    print_table(name, table)
    cells = {"norm": "linf", "attack": name, "library": "inhouse", "status": "ok", "eps": 0.1}
    print_accuracies(pd.DataFrame([{**cells, "defense": name, "robust_accuracy": 0.5}]))
    assert capsys.readouterr().out.count(name) == 6
    ConsoleProgress().say(name)
    assert capsys.readouterr().err == f"{name}\n"


@pytest.mark.parametrize("name", NAMES)
def test_bars_show_names_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Any console may be given; this one would make emoji of what it prints.
    console = Console(force_terminal=True, stderr=True, width=200)
    progress = ConsoleProgress(console)
    with progress.task(name, 1) as advance:
        advance(1, name)
        progress.say(name)
    assert capsys.readouterr().err.count(name) >= 3


def test_every_console_is_the_plain_one() -> None:
    made = []
    for path in sorted((ROOT / "benchmark").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Console"):
                made.append(path.relative_to(ROOT).as_posix())
    assert made == ["benchmark/console.py"]
