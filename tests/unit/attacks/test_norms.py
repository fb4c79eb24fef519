"""Distances, projections, steps and random starts: closed forms, then properties."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from toys import images

from benchmark.attacks.norms import (
    SPARSE,
    distance,
    dual_length,
    per_sample,
    project,
    random_start,
    spread,
    steepest_ascent,
    unit_ball,
)
from benchmark.config.threat import reach

NORMS = ("linf", "l2", "l1", "l0")
BALLS = ("linf", "l2", "l1")
few = settings(max_examples=40, deadline=None)
norms = st.sampled_from(NORMS)
seeds = st.integers(0, 2**31 - 1)
budgets = st.floats(0, 2).map(lambda eps: 0.0 if eps < 1e-3 else eps)


def wild(seed: int, n: int = 5) -> torch.Tensor:
    """Points within and far outside the box."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 3, 3, generator=rng) * 2


def clean(seed: int, n: int = 5) -> torch.Tensor:
    return images(n, (1, 3, 3), seed)


def inside(x_adv, x, eps, norm):
    return (distance(x_adv, x, norm) <= torch.as_tensor(eps).double() + 1e-6).all()


# --- closed forms


def test_distance_by_hand():
    x = torch.zeros(2, 1, 1, 2)
    x_adv = torch.tensor([[0.3, -0.4], [0.0, 0.0]]).view(2, 1, 1, 2)
    assert distance(x_adv, x, "l2").tolist() == pytest.approx([0.5, 0], rel=1e-6)
    assert distance(x_adv, x, "linf").tolist() == pytest.approx([0.4, 0], rel=1e-6)
    assert distance(x_adv, x, "l1").tolist() == pytest.approx([0.7, 0], rel=1e-6)
    assert distance(x_adv, x, "l0").tolist() == [2, 0]


def test_distance_is_computed_in_float64():
    x = torch.zeros(1, 1, 1, 3)
    # In float32 the squares of 2**-80 underflow, and 2**-30 is lost beside 1.
    assert distance(x + 2.0**-80, x, "l2").item() == pytest.approx(math.sqrt(3) * 2.0**-80)
    x_adv = torch.tensor([1.0, 2.0**-15, 0]).view_as(x)
    assert distance(x_adv, x, "l2").item() == math.sqrt(1 + 2.0**-30) > 1
    assert distance(x_adv, x, "l2").dtype == distance(x_adv, x, "linf").dtype == torch.float64


def test_l2_projection_scales_towards_the_image():
    x = torch.full((1, 1, 1, 2), 0.5)
    x_adv = torch.tensor([0.8, 0.9]).view(1, 1, 1, 2)  # 0.5 away
    assert torch.allclose(
        project(x_adv, x, 0.25, "l2").flatten(), torch.tensor([0.65, 0.7]), atol=1e-6
    )


def test_l2_length_goes_over_all_channels():
    x = torch.full((2, 3, 1, 1), 0.5)
    delta = torch.tensor([[0.2, 0.2, 0.1], [0.02, 0.02, 0.01]]).view_as(x)  # 0.3 and 0.03 away
    moved = project(x + delta, x, 0.15, "l2") - x
    expected = torch.stack([delta[0] / 2, delta[1]])
    assert torch.allclose(moved, expected, rtol=0, atol=1e-6)


def test_linf_projection_by_hand():
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    x_adv = torch.tensor([-0.4, 0.9, 1.5]).view(1, 1, 1, 3)
    expected = torch.tensor([0.0, 0.6, 1.0])
    assert torch.allclose(project(x_adv, x, 0.1, "linf").flatten(), expected)


@pytest.mark.parametrize("norm", NORMS)
def test_eps_0_projects_onto_the_image(norm):
    x = clean(0)
    assert torch.equal(project(wild(1), x, 0.0, norm), x)
    assert torch.equal(random_start(x, 0.0, norm, torch.Generator().manual_seed(0)), x)


def test_per_sample_broadcasts_over_any_image():
    x = torch.zeros(3, 2, 4, 5)
    assert per_sample(0.1, x).shape == (3, 1, 1, 1)
    assert per_sample(torch.tensor([0.1, 0.2, 0.3]), x)[2].item() == pytest.approx(0.3)


# --- projections


@few
@given(norms, seeds, budgets)
def test_projection_lies_in_ball_and_box(norm, seed, eps):
    x = clean(seed)
    once = project(wild(seed + 1), x, eps, norm)
    assert inside(once, x, eps, norm)
    assert once.min() >= 0
    assert once.max() <= 1


@few
@given(norms, seeds, budgets)
def test_projection_is_idempotent(norm, seed, eps):
    x = clean(seed)
    once = project(wild(seed + 1), x, eps, norm)
    assert torch.allclose(project(once, x, eps, norm), once, rtol=0, atol=1e-6)


@few
@given(norms, seeds, st.floats(0.01, 2))
def test_projection_leaves_alone_what_is_inside(norm, seed, eps):
    x = clean(seed)
    rng = torch.Generator().manual_seed(seed)
    x_adv = x + (random_start(x, eps, norm, rng) - x) * 0.99
    assert torch.allclose(project(x_adv, x, eps, norm), x_adv, rtol=0, atol=2e-7)


@few
@given(seeds, budgets)
def test_linf_projection_is_the_nearest_point(seed, eps):
    x, outside = clean(seed).double(), wild(seed + 1).double()
    nearest = torch.maximum(torch.minimum(outside, (x + eps).clamp_max(1)), (x - eps).clamp_min(0))
    assert torch.allclose(project(outside, x, eps, "linf"), nearest, rtol=0, atol=1e-12)


@few
@given(seeds, st.floats(0.01, 9))
def test_l1_projection_is_the_nearest_point(seed, eps):
    # The optimality conditions: all entries are shortened by the same t, within their room.
    x, outside = clean(seed).double(), wild(seed + 1).double()
    size, sign = (outside - x).abs(), (outside - x).sign()
    low, high = torch.zeros(5, 1, 1, 1).double(), size.flatten(1).amax(1).view(-1, 1, 1, 1)

    def moved(t):
        return (x + sign * (size - t).clamp_min(0)).clamp(0, 1)

    for _ in range(100):
        middle = (low + high) / 2
        far = (distance(moved(middle), x, "l1") > eps).view(low.shape)
        low, high = torch.where(far, middle, low), torch.where(far, high, middle)
    enough = (distance(moved(torch.zeros_like(low)), x, "l1") <= eps).view(low.shape)
    nearest = moved(torch.where(enough, 0, high))
    assert torch.allclose(project(outside, x, eps, "l1"), nearest, rtol=0, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(seeds, st.floats(0.05, 3))
def test_no_solver_finds_a_point_nearer_in_l1(seed, eps):
    x, outside = images(1, (1, 2, 2), seed).double(), wild(seed + 1, 1)[:, :, :2, :2].double()
    flat, target = x.flatten().numpy(), outside.flatten().numpy()
    # Steps up and down as variables of their own make the ball linear.
    bounds = [(0, 1 - value) for value in flat] + [(0, value) for value in flat]
    solved = minimize(
        lambda v: ((flat + v[:4] - v[4:] - target) ** 2).sum(),
        np.zeros(8),
        bounds=bounds,
        constraints={"type": "ineq", "fun": lambda v: eps - v.sum()},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    own = (project(outside, x, eps, "l1") - outside).square().sum().item()
    assert own <= solved.fun + 1e-6


@few
@given(seeds, st.integers(0, 4))
def test_l0_projection_is_the_nearest_point(seed, eps):
    x, outside = images(3, (1, 2, 2), seed), wild(seed + 1, 3)[:, :, :2, :2]
    found = (project(outside, x, eps, "l0") - outside).flatten(1).norm(dim=1)
    every = []
    for chosen in itertools.combinations(range(4), eps):
        point = x.flatten(1).clone()
        point[:, chosen] = outside.flatten(1).clamp(0, 1)[:, chosen]
        every.append((point - outside.flatten(1)).norm(dim=1))
    assert torch.allclose(found, torch.stack(every).amin(0), rtol=0, atol=1e-6)


def test_l0_counts_the_channels_of_a_pixel_apart():
    x = torch.zeros(1, 3, 1, 2)
    grey = x.clone()
    grey[:, :, 0, 0] = torch.tensor([0.5, 0.4, 0.3])
    assert distance(grey, x, "l0").item() == 3
    kept = project(grey, x, 2.9, "l0")  # rounded down
    assert kept[0, :, 0, 0].tolist() == pytest.approx([0.5, 0.4, 0])


def test_many_small_changes_stay_within_an_l1_ball_to_the_tolerance():
    x = images(20, (3, 32, 32), 1)
    for eps in (0.05, 1.0, 12.0):
        start = random_start(x, eps, "l1", torch.Generator().manual_seed(0))
        assert (distance(start, x, "l1") <= reach(eps)).all()


@few
@given(seeds, st.floats(0.01, 5))
def test_l2_projection_is_the_nearest_point(seed, eps):
    # The nearest point is clip(x + t (x_adv - x)) for the largest t <= 1 within the ball.
    x, outside = clean(seed).double(), wild(seed + 1).double()
    low, high = torch.zeros(5, 1, 1, 1).double(), torch.ones(5, 1, 1, 1).double()
    for _ in range(100):
        middle = (low + high) / 2
        far = (x + middle * (outside - x)).clamp(0, 1) - x
        far = far.flatten(1).norm(dim=1).view(low.shape) > eps
        low, high = torch.where(far, low, middle), torch.where(far, middle, high)
    nearest = (x + low * (outside - x)).clamp(0, 1)
    assert torch.allclose(project(outside, x, eps, "l2"), nearest, rtol=0, atol=1e-9)


@few
@given(norms, seeds, st.lists(budgets, min_size=5, max_size=5))
def test_eps_per_sample_equals_single_calls(norm, seed, eps):
    x, outside = clean(seed), wild(seed + 1)
    together = project(outside, x, torch.tensor(eps), norm)
    for i, own in enumerate(eps):
        alone = project(outside[i : i + 1], x[i : i + 1], own, norm)
        assert torch.allclose(together[i : i + 1], alone, rtol=0, atol=1e-7)


@few
@given(seeds, st.floats(0.01, 1))
def test_saturated_neighbours_change_no_bit_of_a_projection(seed, eps):
    # The second image is white: its pixels can go down, and the box stops them on the way up.
    x = torch.stack([torch.full((1, 3, 3), 0.5), torch.ones(1, 3, 3)])
    step = wild(seed, 2).clamp(-2, 2) / 5
    free, stopped = (
        project(x + torch.stack([step[0], side * step[1].abs()]), x, eps, "l2") for side in (-1, 1)
    )
    assert torch.equal(free[0], stopped[0])


# --- random starts


@few
@given(norms, seeds, st.lists(budgets, min_size=5, max_size=5))
def test_random_start_lies_in_ball_and_box(norm, seed, eps):
    x, eps = clean(seed), torch.tensor(eps)
    start = random_start(x, eps, norm, torch.Generator().manual_seed(seed))
    assert inside(start, x, eps, norm)
    assert start.min() >= 0
    assert start.max() <= 1


@pytest.mark.parametrize("norm", BALLS)
def test_random_start_is_uniform_in_the_ball(norm):
    x = torch.full((4000, 1, 1, 2), 0.5)
    start = random_start(x, 0.4, norm, torch.Generator().manual_seed(0))
    # Half of the radius holds a quarter of a ball in two dimensions.
    share = (distance(start, x, norm) < 0.2).double().mean().item()
    assert share == pytest.approx(0.25, abs=0.035)  # five standard errors
    assert (start - x).flatten(1).mean(0).abs().max() < 0.025


def test_random_start_is_uniform_over_all_channels():
    """Half of the radius holds an eighth of a ball in three dimensions, be they channels."""
    x = torch.full((4000, 3, 1, 1), 0.5)
    start = random_start(x, 0.4, "l2", torch.Generator().manual_seed(0))
    share = (distance(start, x, "l2") < 0.2).double().mean().item()
    assert share == pytest.approx(1 / 8, abs=0.027)  # five standard errors


def test_linf_starts_reach_the_corners():
    x = torch.full((4000, 1, 1, 2), 0.5)
    start = random_start(x, 0.4, "linf", torch.Generator().manual_seed(0))
    # Beyond the l2-ball of the same radius; a quarter of either coordinate's way, independently.
    share = ((start - x).abs() > 0.3).flatten(1).all(1).double().mean().item()
    assert share == pytest.approx(1 / 16, abs=0.02)  # five standard errors


@pytest.mark.parametrize("norm", NORMS)
def test_one_image_alone_has_a_start(norm):
    x, eps = clean(0, 1), 3.0 if norm == "l0" else 0.3
    start = random_start(x, eps, norm, torch.Generator().manual_seed(0))
    assert inside(start, x, eps, norm)
    assert not torch.equal(start, x)


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_does_not_depend_on_the_default_dtype(norm):
    x = clean(0)

    def start():
        return random_start(x, 1.3, norm, torch.Generator().manual_seed(0))

    expected = start()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # as a plugin may
    try:
        found = start()
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_are_drawn_on_the_images_device(norm):
    # The meta device holds no numbers and stands for any that is not the CPU.
    x = torch.empty(2, 1, 3, 3, device="meta")
    assert unit_ball(x, norm, None).device == x.device
    assert per_sample(0.1, x).device == x.device


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_depends_on_the_generator_alone(norm):
    x = clean(0)
    first, again, other = (
        random_start(x, 1.3, norm, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- steps


@few
@given(seeds, st.sampled_from([1e-38, 1e-30, 1e-12, 1.0, 1e12, 1e30]))
def test_l2_step_has_length_one_whatever_the_scale(seed, scale):
    gradient = wild(seed) * scale
    step = steepest_ascent(gradient, "l2")
    assert torch.allclose(step.flatten(1).norm(dim=1), torch.ones(5), atol=1e-5)
    cosine = (step.double() * gradient.double()).flatten(1).sum(1)
    assert torch.allclose(cosine, gradient.double().flatten(1).norm(dim=1), rtol=1e-4)


def test_l2_steps_do_not_depend_on_the_neighbours_scale():
    scales = torch.tensor([1e-30, 1.0, 1e30]).view(3, 1, 1, 1)
    step = steepest_ascent(wild(0, 3) * scales, "l2")
    assert torch.allclose(step.flatten(1).norm(dim=1), torch.ones(3), atol=1e-5)


def test_dual_length_is_the_rise_along_the_steepest_direction():
    gradient = torch.tensor([3.0, -4.0]).view(1, 1, 1, 2)
    assert [dual_length(gradient, norm).item() for norm in BALLS] == [7, 5, 4]


@pytest.mark.parametrize("scale", [1e-38, 1.0, 1e30])
def test_l1_step_goes_to_the_largest_twentieth(scale):
    gradient = wild(0, 1).repeat(2, 5, 3, 3) * scale
    step = steepest_ascent(gradient, "l1")
    moved = step != 0
    assert moved.flatten(1).sum(1).tolist() == [round(SPARSE * 405)] * 2
    assert gradient[moved].abs().min() >= gradient[~moved].abs().max()
    assert torch.equal(step.sign()[moved], gradient.sign()[moved])
    assert torch.allclose(step.flatten(1).abs().sum(1), torch.ones(2), atol=1e-5)


def test_spread_has_the_length_it_says():
    x, eps = torch.full((1, 1, 4, 4), 0.5), torch.tensor(0.4)
    for norm in BALLS:
        moved = x + spread(eps, x, norm)
        assert distance(moved, x, norm).item() == pytest.approx(0.4, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_linf_step_is_the_sign(scale):
    gradient = torch.tensor([-2.0, 0.0, 3.0]).view(1, 1, 1, 3) * scale
    assert steepest_ascent(gradient, "linf").flatten().tolist() == [-1, 0, 1]


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_no_step(norm):
    gradient = torch.zeros(2, 1, 3, 3)
    gradient[1, 0, 1, 1] = 1e-30
    step = steepest_ascent(gradient, norm)
    assert torch.equal(step[0], torch.zeros(1, 3, 3))
    assert step[1].norm().item() == pytest.approx(1)


@pytest.mark.parametrize("norm", NORMS)
def test_an_empty_batch_has_starts_too(norm):
    x = torch.empty(0, 1, 4, 4)
    assert random_start(x, 0.1, norm, torch.Generator()).shape == x.shape
