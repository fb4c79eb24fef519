"""Intervals and paired tests: known values, statsmodels' own, and what must hold for any input."""

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind
from statsmodels.stats import contingency_tables
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from benchmark.stats import (
    crossed_spread,
    holm,
    mcnemar,
    paired_randomization,
    wilson_interval,
    wilson_intervals,
)


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


@pytest.mark.parametrize(("successes", "n"), [(7, 40), (0, 1000), (1000, 1000), (33.5, 100)])
def test_equals_statsmodels_interval(successes, n):
    expected = proportion_confint(successes, n, method="wilson")
    assert wilson_interval(successes, n) == pytest.approx(expected, abs=1e-12)


def test_many_intervals_at_once_are_the_single_ones():
    successes, n = [0, 7, 33.5, 0, 40], [20, 40, 100, 0, 40]
    low, high = wilson_intervals(successes, n)
    single = [wilson_interval(k, total) for k, total in zip(successes, n, strict=True)]
    assert np.array_equal(np.stack([low, high], axis=1), single, equal_nan=True)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_the_confidence_is_the_one_asked_for(confidence):
    expected = proportion_confint(7, 40, alpha=1 - confidence, method="wilson")
    assert wilson_interval(7, 40, confidence) == pytest.approx(expected, abs=1e-12)


def test_a_rounding_error_puts_no_end_beyond_the_estimate():
    # By the closed form alone the lower end would be 3e-17 here.
    low, high = wilson_interval(1e-20, 7)
    assert low <= 1e-20 / 7 <= high


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


# --- McNemar's test


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (5, 0, 1 / 16),  # 2 * 1/32
        (6, 1, 1 / 8),  # 2 * (1 + 7) / 128
        (10, 2, 158 / 4096),  # 2 * (1 + 12 + 66) / 4096
        (4, 4, 1.0),
    ],
)
def test_mcnemar_by_hand(only_a, only_b, p):
    assert mcnemar(only_a, only_b) == pytest.approx(p, abs=1e-15)


def test_mcnemar_equals_statsmodels():
    rng = np.random.default_rng(0)
    pairs = [*rng.integers(0, 40, (40, 2)), *rng.integers(0, 1000, (40, 2)), (0, 700), (512, 512)]
    expected = [
        contingency_tables.mcnemar([[50, int(a)], [int(b), 9]], exact=True).pvalue for a, b in pairs
    ]
    only_a, only_b = np.array(pairs).T
    assert mcnemar(only_a, only_b) == pytest.approx(expected, abs=1e-12)


images = st.integers(0, 10**5)


@settings(deadline=None)
@given(images, images)
def test_mcnemar_is_symmetric_and_a_probability(only_a, only_b):
    p = mcnemar(only_a, only_b)
    assert 0 <= p <= 1
    assert p == mcnemar(only_b, only_a)


@given(st.integers(0, 500), st.integers(0, 500))
def test_mcnemar_finds_more_where_more_images_speak_for_the_better(only_a, only_b):
    a, b = max(only_a, only_b), min(only_a, only_b)
    assert mcnemar(a + 1, b) <= mcnemar(a, b) + 1e-12


@pytest.mark.parametrize("counts", [(-1, 2), (1.5, 2)])
def test_mcnemar_refuses_what_is_no_count(counts):
    with pytest.raises(ValueError, match="whole numbers"):
        mcnemar(*counts)


# --- the randomization test over images


def by_enumeration(better, worse):
    """The test's definition: every assignment of signs, counted."""
    steps = [k for k, (a, b) in enumerate(zip(better, worse, strict=True), 1) for _ in range(a + b)]
    observed = abs(sum(k * (a - b) for k, (a, b) in enumerate(zip(better, worse, strict=True), 1)))
    sums = [
        sum(s * k for s, k in zip(signs, steps, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(steps))
    ]
    return float(Fraction(sum(abs(value) >= observed for value in sums), len(sums)))


few = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=3)


@settings(deadline=None)  # the first call imports scipy
@given(few)
def test_randomization_equals_the_enumeration_of_all_signs(pairs):
    better, worse = [list(side) for side in zip(*pairs, strict=True)]
    expected = by_enumeration(better, worse)
    assert paired_randomization(better, worse) == pytest.approx(expected, abs=1e-12)


def test_randomization_by_hand():
    # One image in three more seeds, one in one fewer: |3 - 1| or more in all four sign patterns.
    assert paired_randomization([0, 0, 1], [1, 0, 0]) == pytest.approx(1)
    # Both for A: 4 or more in two of the four.
    assert paired_randomization([1, 0, 1], [0, 0, 0]) == pytest.approx(0.5)


@settings(deadline=None)
@given(images, images)
def test_with_one_seed_randomization_is_mcnemar(only_a, only_b):
    assert paired_randomization([only_a], [only_b]) == mcnemar(only_a, only_b)


def test_equal_means_are_no_difference_whatever_the_number_of_images():
    # Ten images in three seeds against thirty in one: a sign test would call B better.
    assert paired_randomization([0, 0, 10], [30, 0, 0]) == pytest.approx(1)
    assert mcnemar(10, 30) < 0.01


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=1, max_size=4),
)
def test_randomization_is_symmetric_and_a_probability(pairs):
    better, worse = [list(side) for side in zip(*pairs, strict=True)]
    p = paired_randomization(better, worse)
    assert 0 <= p <= 1
    assert p == paired_randomization(worse, better)


def test_randomization_holds_its_level_where_images_depend_over_seeds():
    # An image's outcome is the same in all three seeds: 60 images, not 180 pairs.
    rng = np.random.default_rng(1)
    falls = rng.random((2000, 60)) < 0.5
    p = [paired_randomization([0, 0, int(row.sum())], [0, 0, int((~row).sum())]) for row in falls]
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_no_p_value_is_below_the_least_chance():
    # Long enough for Fourier transforms, whose errors drown a chance of 2**-899.
    assert 2.0**-899 <= paired_randomization([180] * 5, [0] * 5) < 1e-15


@pytest.mark.parametrize(("better", "worse"), [([1], [1, 2]), ([[1]], [[1]])])
def test_randomization_refuses_lists_that_do_not_match(better, worse):
    with pytest.raises(ValueError, match="equal length"):
        paired_randomization(better, worse)


# --- the interval over images and trainings


def made_up(rng, trainings=3, images=40, spread=0.3):
    level = rng.normal(0, 1, images) + rng.normal(0, spread, (trainings, 1))
    return level + rng.normal(0, 0.3, (trainings, images)) > 0


def test_the_variance_over_trainings_is_welchs():
    rng = np.random.default_rng(3)
    a, b = made_up(rng), made_up(rng, trainings=5)
    means = a.mean(axis=1), b.mean(axis=1)
    found, welch = crossed_spread(a, b), ttest_ind(*means, equal_var=False)
    assert found.trainings_df == pytest.approx(welch.df)
    low, high = welch.confidence_interval(0.95)
    assert replace(found, images=0.0).margin(0.95) == pytest.approx((high - low) / 2)


def test_the_variance_over_images_lacks_what_the_trainings_hold_already():
    # Images without an effect of their own: all that differs between them is chance.
    rng = np.random.default_rng(0)
    chance = [crossed_spread(*(rng.random((2, 3, 400)) < 0.5)) for _ in range(200)]
    over_both = np.mean([found.images + found.trainings for found in chance])
    assert over_both == pytest.approx(2 * 0.25 / (3 * 400), rel=0.15)


def test_trainings_that_agree_leave_the_images_own_interval():
    rng = np.random.default_rng(1)
    a, b = (np.repeat(rng.random((1, 300)) < share, 3, axis=0) for share in (0.3, 0.6))
    found = crossed_spread(a, b)
    assert found.trainings == 0
    d = a[0].astype(float) - b[0]
    assert found.margin(0.95) == pytest.approx(1.97 * d.std() / 300**0.5, rel=0.02)


def test_agreement_of_all_images_is_no_certainty():
    found = crossed_spread(np.ones((3, 10)), np.zeros((3, 10)))
    assert 0.1 < found.margin(0.95) < 0.6


def test_the_interval_is_symmetric_wider_with_more_confidence_and_does_not_depend_on_order():
    rng = np.random.default_rng(2)
    a, b = made_up(rng), made_up(rng)
    found = crossed_spread(a, b)
    assert found.margin(0.9) < found.margin(0.95) < found.margin(0.999)
    assert crossed_spread(b, a).margin(0.95) == pytest.approx(found.margin(0.95))
    mixed = crossed_spread(a[::-1, ::-1], b[:, ::-1]).margin(0.95)
    assert mixed == pytest.approx(found.margin(0.95))


def test_the_parts_of_the_spread_in_exact_fractions():
    """By hand, on small tables: the residuals' mean square, and the images' variance less it."""
    a = [[1, 1, 0, 0, 1], [1, 1, 0, 0, 1], [1, 1, 1, 0, 1]]
    b = [[0, 1, 0, 1, 0], [0, 1, 0, 1, 1]]
    n, shared, over_trainings = 5, Fraction(0), Fraction(0)
    means_of = []
    for side in (a, b):
        trainings = len(side)
        rows = [Fraction(sum(row), n) for row in side]
        columns = [Fraction(sum(row[j] for row in side), trainings) for j in range(n)]
        mean = sum(rows) / trainings
        rest = [
            side[i][j] - rows[i] - columns[j] + mean for i in range(trainings) for j in range(n)
        ]
        mean_square = sum(r * r for r in rest) / ((trainings - 1) * (n - 1))
        shared += mean_square / (n * trainings)
        over_trainings += sum((row - mean) ** 2 for row in rows) / (trainings - 1) / trainings
        means_of.append(columns)
    apart = [one - other for one, other in zip(*means_of, strict=True)]
    # Half an image more in each of the four cells: two more images, one apart each way.
    squares, total = sum(d * d for d in apart) + 1, sum(apart)
    images = (squares - total**2 / (n + 2)) / Fraction((n + 2) ** 2)
    assert images > shared
    found = crossed_spread(a, b)
    assert found.images == pytest.approx(float(images - shared), rel=1e-12)
    assert found.trainings == pytest.approx(float(over_trainings), rel=1e-12)
    assert found.images_df == n - 1
    assert found.margin(0.95) > found.margin(0.9) > 0


def test_two_trainings_and_two_images_are_enough():
    assert crossed_spread([[1, 0], [1, 1]], [[0, 0], [0, 1]]).images_df == 1


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5])
def test_the_interval_misses_no_more_often_than_it_says(spread):
    rng = np.random.default_rng(0)
    missed, times = 0, 500
    for _ in range(times):
        level = rng.normal(0, 1, 100)
        a, b = (
            level + rng.normal(0, spread, (3, 1)) + rng.normal(0, 0.3, (3, 100)) > 0
            for _ in range(2)
        )
        missed += abs(a.mean() - b.mean()) > crossed_spread(a, b).margin(0.95)
    assert missed / times <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / times)


@pytest.mark.parametrize(
    ("a", "b"), [((1, 9), (3, 9)), ((3, 1), (3, 1)), ((3, 9), (3, 8)), ((9,), (9,))]
)
def test_too_little_for_an_interval_over_trainings_is_refused(a, b):
    with pytest.raises(ValueError, match="two trainings a side"):
        crossed_spread(np.ones(a), np.ones(b))


# --- Holm's method


def test_holm_by_hand():
    # Smallest first: times 4, 3, 2, 1, and never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


p_values = st.lists(st.floats(0, 1), min_size=1, max_size=50)
few_times = settings(max_examples=25, deadline=None)  # statsmodels collects garbage every time


@few_times
@given(p_values)
def test_holm_equals_statsmodels(p):
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-15)


@few_times
@given(p_values)
def test_holm_keeps_the_order_and_only_raises(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p) - 1e-15).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


def test_holm_of_nothing_is_nothing():
    assert len(holm([])) == 0


def test_holm_returns_float64_whatever_it_gets():
    for p in ([0, 1], np.array([0, 1]), np.array([0.25, 1], np.float32)):
        assert holm(p).dtype == np.float64


@pytest.mark.parametrize("p", [[-0.1], [1.1], [math.nan]])
def test_holm_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(p)


def test_importing_is_cheap():
    code = (
        "import sys, benchmark.stats; print({'torch', 'scipy', 'statsmodels'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
