"""The page templates and what they share: escaping on, undefined names an error."""

import base64
import hashlib
from collections.abc import Iterable
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


def script(name: str) -> Markup:
    """Return a script of this package as it stands within a ``<script>`` element."""
    return Markup(f"\n{asset(name).strip()}\n")


def content_policy(scripts: Iterable[str], *, images: str = "data:", fonts: str = "") -> str:
    """Return a page's Content-Security-Policy: ``scripts`` run, and nothing is fetched."""
    digests = (hashlib.sha256(code.encode()).digest() for code in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    font = f"font-src {fonts}; " if fonts else ""
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        f"img-src {images}; {font}base-uri 'none'; form-action 'none'"
    )
