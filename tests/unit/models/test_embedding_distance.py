"""The distance of embeddings from the prior."""

import numpy as np
import pytest

from benchmark.models import embedding_distance as module
from benchmark.models.embedding_distance import (
    distance_from_prior,
    embedding_distance,
    sliced_distance,
)


def prior(n=1000, k=4, seed=1):
    return np.random.default_rng(seed).standard_normal((n, k))


@pytest.mark.parametrize("k", [1, 4, 16])
def test_a_pure_shift_has_a_closed_form(k):
    # W2 of a shift m along theta is |<m, theta>|, and E<m, theta>^2 = |m|^2 / k.
    z, shift = prior(200, k), np.full(k, 3 / np.sqrt(k))  # |m| = 3
    assert sliced_distance(z + shift, z, seed=0) == pytest.approx(3 / np.sqrt(k), rel=0.1)
    assert sliced_distance(z, z, seed=0) == pytest.approx(0, abs=1e-6)


def test_a_scaling_of_one_dimension_has_a_closed_form():
    z = prior(500, 1)
    rms = float(np.sqrt(np.mean(z**2)))
    assert sliced_distance(2 * z, z, seed=0) == pytest.approx(rms, rel=1e-6)


def test_the_prior_itself_lies_at_the_floor():
    found = embedding_distance(prior(), seed=0)
    assert found["n"] == 1000
    assert 0 < found["floor"] < 0.1
    assert found["value"] < 2 * found["floor"]


def test_grows_with_the_shift():
    values = [embedding_distance(prior(300) + m, seed=0)["value"] for m in (0, 0.5, 1, 2)]
    assert values == sorted(values)
    # Far from the prior the shift alone decides: |m| / sqrt(k) = 2.
    assert values[-1] == pytest.approx(2, rel=0.1)


def test_collapsed_codes_are_far():
    assert embedding_distance(np.zeros((300, 4)), seed=0)["value"] == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("m", [0.0, 1.0])
def test_the_interval_contains_the_value_and_shrinks_with_n(m):
    small, large = (embedding_distance(prior(n) + m, seed=2) for n in (50, 1000))
    for found in (small, large):
        assert 0 <= found["ci_low"] <= found["value"] <= found["ci_high"]
    assert large["ci_high"] - large["ci_low"] < small["ci_high"] - small["ci_low"]


def test_depends_on_embeddings_and_seed_alone():
    z, state = prior(100), np.random.get_state()[1].tolist()
    assert embedding_distance(z, seed=3) == embedding_distance(z, seed=3)
    assert embedding_distance(z, seed=3) != embedding_distance(z, seed=4)
    assert np.random.get_state()[1].tolist() == state


def test_over_the_epochs_nothing_but_the_embeddings_moves_the_distance():
    z = prior(200)
    assert distance_from_prior(z, seed=3) == distance_from_prior(z.copy(), seed=3)
    assert distance_from_prior(z, seed=3) == embedding_distance(z, seed=3)["value"]
    # With the same prior sample a small move of the embeddings is a small move of the distance.
    path = [distance_from_prior(z + m, seed=3) for m in np.linspace(1, 2, 11)]
    assert np.diff(path) == pytest.approx(0.5 * 0.1 * 2, rel=0.1)  # |m| / sqrt(k) = m


def test_a_single_image_has_a_distance():
    assert distance_from_prior(np.zeros((1, 3)), seed=0) > 0


def test_the_bootstrap_resamples_the_same_distance(monkeypatch):
    z, target = prior(50, 3), prior(50, 3, seed=2)
    monkeypatch.setattr(module, "RESAMPLES", 5)
    found = module._standard_error(z, target, 7, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    resampled = [sliced_distance(z[rng.integers(50, size=50)], target, 7) for _ in range(5)]
    assert found == pytest.approx(np.std(resampled, ddof=1))
