"""The checks as pytest's items: one for each check of each plugin that the command names.

``pytest --defense my_package:MyDefense`` needs no test file. ``--defense``, ``--attack`` and
``--dataset`` take a registered name or a path and may be repeated. A failure is the rule's
sentence, or what the plugin raised and where; no traceback of the harness. A finding is a warning
in pytest's summary. Tests that the command names besides run as well; without any, only the checks
do. ``-k surrogate`` picks a check.
"""

import ast
import functools
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmark
from benchmark.attacks.base import Attack
from benchmark.config.attack_syntax import split_words
from benchmark.errors import UsageError, first_line, unknown_name
from benchmark.registry import ATTACKS, DATASETS, DEFENSES
from benchmark.testing.attacks import inspect_attack
from benchmark.testing.checks import Inspection
from benchmark.testing.common import COLOUR, GREY, ConformanceWarning
from benchmark.testing.datasets import inspect_dataset
from benchmark.testing.defenses import inspect_defense

IMAGES = {"grey": GREY, "colour": COLOUR}

Asked = Mapping[str, list[str]]
"""The values of each option of :mod:`defensebench_pytest`, by the option's name."""


def collectors(session: pytest.Session, asked: Asked) -> list[pytest.Collector]:
    """Return a collector for each plugin that is ``asked`` for; nothing is imported yet."""
    here = str(session.config.invocation_params.dir)
    if not {"", here} & set(sys.path):
        sys.path.append(here)  # where the command line looks for plugins, too
    kinds: dict[str, type[Plugin]] = {
        "--defense": DefensePlugin,
        "--attack": AttackPlugin,
        "--dataset": DatasetPlugin,
    }
    return [
        kind.from_parent(session, name=name, nodeid=f"{option[2:]} {name}", asked=asked)
        for option, kind in kinds.items()
        for name in asked[option]
    ]


def keywords(option: str, texts: Iterable[str]) -> dict[str, Any]:
    """Return ``k=v,...`` as keywords; a value that is no Python literal is a word.

    >>> keywords("--defense-options", ["beta=6.0,architecture=conv4"])
    {'beta': 6.0, 'architecture': 'conv4'}
    """
    found: dict[str, Any] = {}
    for word in (word for text in texts for word in split_words(text)):
        key, equals, value = word.partition("=")
        if not equals or not key.strip().isidentifier():
            raise UsageError(f"{option} {word!r}: write it as key=value,key=value")
        try:
            found[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[key.strip()] = value.strip()
    return found


class Plugin(pytest.Collector):
    """One plugin: the items are its checks."""

    def __init__(self, asked: Asked, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.asked = asked

    @functools.cached_property
    def inspection(self) -> Inspection[Any]:
        """The plugin's checks; loading it raises whatever its import raises."""
        raise NotImplementedError

    def collect(self) -> Iterator[pytest.Item]:
        """Load the plugin, and yield an item for each check."""
        try:
            checks = self.inspection.checks
        except Exception as error:
            raise self.CollectError(said(error)) from None
        for name in checks:
            yield CheckItem.from_parent(self, name=name)


class DefensePlugin(Plugin):
    """``--defense``."""

    @functools.cached_property
    def inspection(self) -> Inspection[Any]:
        """See :class:`Plugin`."""
        images = (self.asked["--defense-images"] or ["grey"])[-1]
        if images not in IMAGES:
            raise unknown_name("value of --defense-images", images, IMAGES)
        options = keywords("--defense-options", self.asked["--defense-options"])
        return inspect_defense(DEFENSES.load(self.name), IMAGES[images], **options)


class AttackPlugin(Plugin):
    """``--attack``."""

    @functools.cached_property
    def inspection(self) -> Inspection[Any]:
        """See :class:`Plugin`."""
        cls = ATTACKS.load(self.name)
        if not (isinstance(cls, type) and issubclass(cls, Attack)):
            raise UsageError(f"{cls!r} is not a subclass of BudgetAttack or MinimalAttack")
        return inspect_attack(cls(**keywords("--attack-options", self.asked["--attack-options"])))


class DatasetPlugin(Plugin):
    """``--dataset``."""

    @functools.cached_property
    def inspection(self) -> Inspection[Any]:
        """See :class:`Plugin`."""
        return inspect_dataset(DATASETS.load(self.name))


class CheckItem(pytest.Item):
    """One check."""

    parent: Plugin

    def runtest(self) -> None:
        """Run the check, unless it ran for another's sake; warn of its findings."""
        outcome = self.parent.inspection.outcome(self.name)
        if outcome.skipped:
            pytest.skip(outcome.skipped)
        if outcome.failure is not None:
            raise outcome.failure
        for finding in outcome.findings:
            warnings.warn_explicit(
                ConformanceWarning(finding), None, filename=self.parent.nodeid, lineno=1
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """Return the failure on one line."""
        return said(excinfo.value)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return where pytest says that the check is: the plugin's name."""
        return self.config.rootpath / self.parent.nodeid, None, f"{self.parent.name} {self.name}"


OURS = (*benchmark.__path__, *torch.__path__, functools.__file__)
"""Where no line of a plugin is."""


def said(error: BaseException) -> str:
    """Return a rule's sentence as it is; of any other error its kind and the plugin's own line."""
    if isinstance(error, AssertionError | UsageError) and str(error):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    # What comes before our first frame is pytest's.
    inside = dropwhile(lambda frame: not frame.filename.startswith(OURS), frames)
    own = [frame for frame in inside if not frame.filename.startswith((*OURS, "<"))]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{first_line(error)}{where}"
