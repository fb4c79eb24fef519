"""What the site's build adds to the pages."""

import importlib.util
import re
from types import ModuleType, SimpleNamespace

import pytest
import typer.main
from paths import ROOT

import benchmark
from benchmark.cli import app


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    path = ROOT / "docs" / "site_tools" / "hooks.py"
    spec = importlib.util.spec_from_file_location("site_hooks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_check_has_its_page_in_the_navigation(hooks) -> None:
    nav = [{"Start": ["index.md"]}, {"Checks": ["checks/README.md", hooks.CHECKS]}]
    config = hooks.on_config(SimpleNamespace(nav=nav))
    assert config.nav[0] == {"Start": ["index.md"]}
    pages = config.nav[1]["Checks"]
    assert pages[:2] == ["checks/README.md", "checks/batch-dependence.md"]
    assert len(pages) == len(list((ROOT / "docs" / "checks").glob("*.md")))


def test_a_block_with_a_file_gets_a_title(hooks) -> None:
    text = "```python a/b.py\nx\n```\n\n```python\n```\n"
    shown = hooks.on_page_markdown(text, page=None)
    assert shown == '```python title="a/b.py"\nx\n```\n\n```python\n```\n'


def test_the_reference_has_every_command_and_option(hooks) -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text("utf-8")
    shown = hooks.on_page_markdown(page, page=None)
    assert hooks.COMMANDS not in shown
    group = typer.main.get_command(app)
    for name, command in hooks._flat(group.commands):  # type: ignore[attr-defined]
        part = shown.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert all(f"`{option}`" in part for option in parameter.opts)
            else:
                assert parameter.name.upper() in part
        assert len(re.findall(r"^- \*\*`", part, re.MULTILINE)) == len(command.params)


def test_the_commands_of_a_group_stand_one_by_one(hooks) -> None:
    below = SimpleNamespace(commands={"show": "a command"})
    found = dict(hooks._flat({"presets": below, "run": "another"}))
    assert found == {"presets show": "a command", "run": "another"}


def test_every_public_name_has_its_place_in_the_reference() -> None:
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    text = "\n".join(page.read_text("utf-8") for page in pages)
    shown = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    found = re.findall(r"^::: benchmark\.(\w+)$", shown, re.MULTILINE)
    assert {*found, "__version__"} >= set(benchmark.__all__)
