"""The intervals: known values, and the estimate always inside."""

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.stats import wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, table I, method 3 (score method without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_agrees_with_published_intervals(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_solves_the_defining_equation():
    # The ends are the p at which the estimate lies exactly z standard errors away.
    for end in wilson_interval(7, 40):
        assert abs(7 / 40 - end) == pytest.approx(1.959963985 * math.sqrt(end * (1 - end) / 40))


def test_nothing_is_known_of_no_image():
    assert all(math.isnan(end) for end in wilson_interval(0, 0))


@pytest.mark.parametrize(("successes", "n"), [(-1, 10), (11, 10), (math.nan, 10), (1, -1)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


@pytest.mark.parametrize("confidence", [0, 1, 1.5, math.nan])
def test_impossible_confidence_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, confidence)


counts = st.integers(1, 10**6).flatmap(
    lambda n: st.tuples(st.one_of(st.integers(0, n), st.floats(0, n)), st.just(n))
)


@given(counts, st.floats(0.01, 0.999))
def test_the_interval_contains_the_estimate_and_stays_in_the_unit_interval(count, confidence):
    successes, n = count
    low, high = wilson_interval(successes, n, confidence)
    assert 0 <= low <= successes / n <= high <= 1


@given(counts)
def test_more_confidence_is_never_a_narrower_interval(count):
    narrow, wide = wilson_interval(*count, 0.8), wilson_interval(*count, 0.99)
    rounding = 1e-12
    assert wide[0] <= narrow[0] + rounding
    assert narrow[1] <= wide[1] + rounding


def test_importing_is_cheap():
    code = (
        "import sys, benchmark.stats; print({'torch', 'scipy', 'statsmodels'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
