"""The site's translation of docstrings. griffe is a stand-in: only `make docs` installs it."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
from paths import ROOT


class UnknownError(Exception):
    """As griffe's NameResolutionError."""


@pytest.fixture
def roles(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    stand_in = SimpleNamespace(
        Extension=object, NameResolutionError=UnknownError, AliasResolutionError=UnknownError
    )
    monkeypatch.setitem(sys.modules, "griffe", stand_in)
    path = ROOT / "docs" / "site_tools" / "docstring_roles.py"
    spec = importlib.util.spec_from_file_location("docstring_roles", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("written", "identifier", "shown"),
    [
        (":class:`Defense`", "Defense", "Defense"),
        (":class:`~benchmark.models.defense.Defense`", None, "Defense"),
        (":meth:`benchmark.attacks.base.BudgetAttack.run`", None, "BudgetAttack.run"),
        (":meth:`.MinimalAttack.run`", "MinimalAttack.run", "MinimalAttack.run"),
        (":func:`benchmark.evaluation.sweep.sweep`", None, "sweep"),
        (":func:`_share_within`", "_share_within", "_share_within"),
        (":data:`DROP`", "DROP", "DROP"),
        (":mod:`benchmark.audit.basic`", None, "benchmark.audit.basic"),
        (":class:`_Linear`", "_Linear", "_Linear"),
    ],
)
def test_a_role_becomes_an_optional_reference(roles, written, identifier, shown) -> None:
    name = written.split("`")[1].lstrip("~")
    text = roles.to_markdown(f"See {written}, too.")
    reference = (
        f'<autoref identifier="{identifier or name}" optional><code>{shown}</code></autoref>'
    )
    assert text == f"See {reference}, too."


def test_a_name_is_looked_up_where_the_docstring_stands(roles) -> None:
    text = roles.to_markdown("As :meth:`forward`.", {"forward": "benchmark.Defense.forward"}.get)
    assert 'identifier="benchmark.Defense.forward"' in text
    assert "<code>forward</code>" in text


def test_code_may_run_over_a_line(roles) -> None:
    assert roles.to_markdown("Is ``a +\n    b`` and ``c``.") == "Is `a + b` and `c`."


def test_single_backticks_and_bold_stay(roles) -> None:
    text = "`x` and **y** at 12:30: see https://example.org/a::b"
    assert roles.to_markdown(text) == text


def test_what_follows_two_colons_is_a_block_as_it_stands(roles) -> None:
    text = "Write::\n\n    def f():\n\n        return ``x``\n\nand call ``f``."
    assert roles.to_markdown(text) == (
        "Write:\n\n```python\ndef f():\n\n    return ``x``\n```\n\nand call `f`."
    )


def test_a_block_may_end_the_docstring(roles) -> None:
    assert roles.to_markdown("So::\n\n    f()") == "So:\n\n```python\nf()\n```\n\n"


def test_the_extension_rewrites_what_is_no_alias(roles) -> None:
    def resolve(name: str) -> str:
        if name == "nothing":
            raise UnknownError
        return f"here.{name}"

    def named(docstring: str | None, alias: bool = False) -> SimpleNamespace:
        text = SimpleNamespace(value=docstring) if docstring else None
        return SimpleNamespace(is_alias=alias, docstring=text, resolve=resolve)

    extension = roles.DocstringRoles()
    one, alias, silent = named(":func:`f` :func:`nothing`"), named("``x``", True), named(None)
    for obj in (one, alias, silent):
        extension.on_object(obj=obj, loader=None)
    assert 'identifier="here.f"' in one.docstring.value
    assert 'identifier="nothing"' in one.docstring.value
    assert alias.docstring.value == "``x``"
    assert silent.docstring is None
