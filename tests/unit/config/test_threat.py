"""When two eps are the same, and when an image counts as within eps."""

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmark.config.threat import eps_key, reach, same_eps, tolerance

EPS = st.floats(0, 1e4, allow_nan=False)


@given(EPS, EPS, EPS)
def test_sameness_is_an_equivalence(a, b, c):
    assert same_eps(a, a)
    assert same_eps(a, b) == same_eps(b, a) == (eps_key(a) == eps_key(b))
    if same_eps(a, b) and same_eps(b, c):
        assert same_eps(a, c)


@given(EPS)
def test_the_key_is_the_eps_itself_but_for_rounding(eps):
    assert eps_key(eps) == pytest.approx(eps, rel=1e-8, abs=0)
    assert eps_key(eps_key(eps)) == eps_key(eps)


@given(EPS, EPS)
def test_the_key_keeps_the_order(a, b):
    small, large = sorted((a, b))
    assert eps_key(small) <= eps_key(large)


@given(st.integers(0, 255), st.sampled_from([10, 16, 20, 255]))
def test_ways_to_compute_an_eps_give_the_same(k, n):
    """A sum of steps, a quotient, a product and what was typed in nine decimals."""
    exact = float(Fraction(k, n))
    total = math.fsum([1 / n] * k)
    for other in (sum([1 / n] * k), total, k * (1 / n), float(f"{exact:.12g}")):
        assert same_eps(exact, other)


@given(EPS, st.floats(1e-4, 1))
def test_other_budgets_are_others(eps, further):
    assume(further > 1e-7 * eps)
    assert not same_eps(eps, eps + further)


def test_infinity_has_its_own_key():
    assert same_eps(math.inf, math.inf)
    assert not same_eps(math.inf, 1e4)
    assert reach(math.inf) == math.inf
    assert not same_eps(0.0, 1e-12)


@given(EPS)
def test_reach_is_eps_and_a_little(eps):
    assert reach(eps) == eps + tolerance(eps)
    assert eps < reach(eps) <= eps * (1 + 2e-5) + 1e-6


@given(EPS, EPS)
def test_reach_grows_with_eps(a, b):
    small, large = sorted((a, b))
    assert reach(small) <= reach(large)
