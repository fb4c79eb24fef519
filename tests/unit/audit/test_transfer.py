"""The transfer matrix, against linear models whose answers can be counted by hand."""

import pytest
import torch
from toys import Function, Linear, Noisy, dataset, pixels

from benchmark.audit.transfer import (
    AttackedModel,
    from_others,
    substitute_for,
    transfers,
    undefended_first,
)
from benchmark.config.threat import ThreatModel
from benchmark.execution.plan import plan
from benchmark.hashing import derive_seed
from benchmark.progress import Progress

EPS = (0.1, 0.3)


def matrix(sources, targets, data, eps=EPS, norm="linf"):
    return list(
        transfers(
            sources,
            targets,
            data,
            ThreatModel(norm, eps),
            seed_at=lambda name, eps: derive_seed(name, eps),
            progress=Progress(),
            steps=10,
        )
    )


def right_of_half(at=0.5):
    """One pixel: label 1 above ``at``."""
    return Linear(torch.ones(1), -at)


def test_images_that_cross_one_models_boundary_cross_anothers_that_lies_before_it():
    data = dataset(pixels(0.55, 0.7, 0.95, 0.2), torch.tensor([1, 1, 1, 0]))
    near, far = AttackedModel("near", right_of_half(0.45)), AttackedModel("far", right_of_half(0.3))
    rows = {(t.source, t.target): t for t in matrix([near, far], [near, far], data)}
    assert set(rows) == {(a, b) for a in ("near", "far") for b in ("near", "far")}
    # 0.55 falls to 0.45, the rest is too far; at 0.3 also 0.7 (to 0.4) and 0.2 (to 0.5).
    assert rows["near", "near"].curve.success.tolist() == [[1, 0, 0, 0], [1, 1, 0, 1]]
    # All steps are taken: 0.55 goes to the ball's edge at 0.25, past both boundaries.
    assert rows["near", "far"].curve.success.tolist() == [[0, 0, 0, 0], [1, 0, 0, 1]]
    assert rows["near", "far"].curve.attack == "from near"
    assert rows["near", "far"].curve.library == "transfer"


def test_a_source_of_no_gradient_is_differentiated_as_the_run_did():
    class Cut(Linear):
        def forward(self, x):
            return super().forward(x.detach())

        def surrogate(self, x):
            return Linear.forward(self, x)

    data = dataset(pixels(0.55), torch.tensor([1]))
    source = AttackedModel("cut", Cut(torch.ones(1), -0.5), bpda=True)
    (row,) = matrix([source], [AttackedModel("plain", right_of_half())], data, eps=(0.1,))
    assert row.curve.success.tolist() == [[True]]


def test_clean_errors_fall_at_distance_0_and_eps_0_changes_nothing():
    data = dataset(pixels(0.4, 0.9), torch.tensor([1, 1]))
    (row,) = matrix(
        [AttackedModel("a", right_of_half())],
        [AttackedModel("b", right_of_half())],
        data,
        eps=(0.0,),
    )
    assert row.curve.success.tolist() == [[True, False]]
    assert row.curve.distance.tolist() == [[0.0, 0.0]]


def test_a_defense_is_not_its_own_transfer():
    a, b = AttackedModel("a", right_of_half()), AttackedModel("b", right_of_half(0.4))
    data = dataset(pixels(0.9), torch.tensor([1]))
    found = from_others("a", matrix([a, b], [a, b], data))
    assert [one.curve.attack for one in found] == ["from b"]


def test_the_same_seed_gives_the_same_matrix_whatever_else_is_scored():
    x = torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    data = dataset(x, (x.flatten(1).sum(1) > 2).long())
    one, other = Linear(torch.tensor([1.0, 1, 1, 1]), -2), Linear(torch.tensor([1.0, 2, 0, 1]), -2)
    noisy = AttackedModel("noisy", Noisy(torch.ones(4), [0.1, -0.1, 0.2], -2))
    alone = matrix([AttackedModel("one", one)], [AttackedModel("other", other)], data)
    beside = matrix([AttackedModel("one", one)], [noisy, AttackedModel("other", other)], data)
    assert torch.equal(alone[0].pred_adv, beside[1].pred_adv)
    assert torch.equal(alone[0].curve.distance, beside[1].curve.distance)


def test_l2_images_stay_in_their_ball():
    x = torch.full((3, 1, 2, 2), 0.5)
    data = dataset(x, torch.tensor([1, 1, 1]))
    source = AttackedModel(
        "a", Function(lambda x: torch.stack([0 * x[:, 0, 0, 0], x.mean((1, 2, 3))], 1))
    )
    (row,) = matrix([source], [source], data, eps=(0.25,), norm="l2")
    assert row.curve.distance.max() <= 0.25 * (1 + 1e-5)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [(["madry"], "undefended"), (["madry", "rse"], None), (["undefended"], None)],
)
def test_a_run_of_one_defense_gets_a_substitute(names, wanted):
    spec = plan(dataset="digits", preset="smoke", device="cpu", defenses=names)
    found = substitute_for(spec)
    assert (found and found.name) == wanted


def test_the_undefended_model_is_asked_first():
    assert undefended_first(["madry", "undefended", "e-cla"]) == ["undefended", "madry", "e-cla"]
