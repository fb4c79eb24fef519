"""docs/reliability.md names a test for every fault: each of them must exist."""

import re

import pytest
from paths import ROOT, TESTS

PAGE = ROOT / "docs" / "reliability.md"
ROW = re.compile(r"^\|(?!---)(.+)\|$", re.MULTILINE)
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def rows():
    return [row for row in ROW.findall(PAGE.read_text("utf-8")) if not row.startswith(" fault ")]


@pytest.mark.parametrize("row", rows())
def test_every_row_names_tests_that_exist(row):
    named = NAMED.findall(row)
    assert named
    for file, name in named:
        assert re.search(
            rf"^def {name}\(", next(TESTS.rglob(file)).read_text("utf-8"), re.MULTILINE
        ), name
