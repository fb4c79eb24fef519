"""The conformance kit as a pytest plugin: ``pytest --defense my_package:MyDefense``.

Every pytest run beside an installed defensebench imports this module, so it does nothing but add
options. It lies outside ``benchmark`` because a project of that name may be what is tested.
"""

from collections.abc import Generator
from typing import Any

import pytest

OPTIONS = {
    "--defense": ("SPEC", "check a defense: a registered name, or package.module:Class"),
    "--attack": ("SPEC", "check an attack: a registered name, or package.module:Class"),
    "--dataset": ("SPEC", "check a dataset: a registered name, or package.module:SOURCE"),
    "--defense-options": ("K=V,...", "keywords for the constructor of every --defense"),
    "--attack-options": ("K=V,...", "keywords for every --attack"),
    "--defense-images": ("grey|colour", "images of --defense: 28x28 grey (default) or 32x32"),
}
KINDS = ("--defense", "--attack", "--dataset")


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser) -> Generator[None, Any, Any]:
    """Add the options last: where a project has one of these names already, its own counts."""
    result = yield
    group = parser.getgroup("defensebench", "defensebench: conformance of plugins")
    for option, (metavar, text) in OPTIONS.items():
        if _is_free(parser, option):
            group.addoption(
                option,
                action="append",
                dest=_dest(option),
                default=[],
                metavar=metavar,
                help=f"{text} (repeatable)" if option in KINDS else text,
            )
    return result


def _is_free(parser: pytest.Parser, option: str) -> bool:
    probe = f"{option}=probe"
    try:
        return probe in parser.parse_known_and_unknown_args([probe])[1]
    except pytest.UsageError:  # a project's option of this name that takes no such value
        return False


def _dest(option: str) -> str:
    return "defensebench_" + option.strip("-").replace("-", "_")


def _asked(config: pytest.Config) -> bool:
    return any(config.getoption(_dest(option), None) for option in KINDS)


def pytest_configure(config: pytest.Config) -> None:
    """Leave out the project's own tests where the command names a plugin and no tests."""
    if not _asked(config):
        return
    words = [str(word).partition("=")[0] for word in config.invocation_params.args]
    if config.args_source is not pytest.Config.ArgsSource.ARGS and set(words) & set(KINDS):
        config.option.defensebench_alone = True  # with the options, it reaches xdist's workers
    if getattr(config.option, "defensebench_alone", False):
        config.args = []


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Add the checks behind what was collected otherwise."""
    report = yield
    if isinstance(collector, pytest.Session) and _asked(collector.config) and report.passed:
        from benchmark.testing.items import collectors

        option = collector.config.getoption
        asked = {name: option(_dest(name), None) or [] for name in OPTIONS}
        report.result = [*report.result, *collectors(collector, asked)]
    return report
