"""The page templates and what they share: escaping on, undefined names an error."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@cache
def environment() -> Environment:
    """Return the environment of this package: each template lies beside what fills it."""
    return Environment(
        loader=PackageLoader("reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(name: str) -> Markup:
    """Return a file of this package, such as a style sheet, unchanged."""
    templates = environment()
    assert templates.loader is not None
    return Markup(templates.loader.get_source(templates, name)[0])
