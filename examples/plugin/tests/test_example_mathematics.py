"""Each idea against what is known in closed form."""

import math

import pytest
import torch
from example_defenses.momentum_fgsm import MomentumFGSM
from example_defenses.squeezed import Squeezed, fewer_levels, through_jpeg
from example_defenses.three_or_five import THREE_OR_FIVE
from example_defenses.trades import Trades, divergence

from baselines.undefended import Undefended
from benchmark import Defense, UsageError, attack_view
from benchmark.progress import Progress
from benchmark.seeding import generator, seeded
from benchmark.testing import GREY, tiny_dataset
from benchmark.training import TrainingSettings

SHORT = TrainingSettings(epochs=1, batch_size=16, holdout=0, adversary_eps=0.1, adversary_steps=5)


def trained(cls, **options):
    with seeded(0):
        defense = cls(GREY, training=SHORT, width=0.1, **options)
    defense.fit(tiny_dataset(), seed=0, progress=Progress())
    return defense


def test_divergence_is_that_of_two_coins():
    p, q = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert divergence(p.log(), q.log()).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(p.log() + 3, p.log()).item() == pytest.approx(0, abs=1e-6)


def test_trades_without_beta_is_plain_training():
    plain, trades = trained(Undefended), trained(Trades, beta=0.0)
    for name, weight in plain.state_dict().items():
        assert torch.allclose(trades.state_dict()[name], weight, atol=1e-5)


def test_the_furthest_images_lie_in_the_ball_and_further_than_random_ones():
    defense, data = trained(Undefended), tiny_dataset()
    trades = Trades(GREY, training=SHORT, width=0.1)
    trades.load_state_dict(defense.state_dict())
    trades.eval()
    x, y = data.x(), data.labels
    found = trades.furthest(x, y, generator(1))
    assert ((found - x).abs() <= 0.1 + 1e-6).all()
    assert ((found >= 0) & (found <= 1)).all()
    noise = 0.2 * torch.rand(x.shape, generator=generator(2)) - 0.1
    with torch.no_grad():
        clean = trades(x)
        away, beside = (
            divergence(clean, trades(z)).mean() for z in (found, (x + noise).clamp(0, 1))
        )
    assert away > 2 * beside


def test_fewer_levels():
    x = torch.linspace(0, 1, 101)
    assert fewer_levels(x, 1).unique().tolist() == [0, 1]
    assert len(fewer_levels(x, 3).unique()) == 8
    assert torch.allclose(fewer_levels(x, 8), x, atol=0.5 / 255 + 1e-6)


def test_jpeg_keeps_a_flat_image_and_loses_noise():
    flat = torch.full((2, 3, 32, 32), 128 / 255)
    assert torch.allclose(through_jpeg(flat, 75), flat, atol=1.5 / 255)
    noise = torch.rand(2, 1, 28, 28, generator=generator(0))
    assert through_jpeg(noise, 75).shape == noise.shape
    assert (through_jpeg(noise, 10) - noise).abs().mean() > 0.05


def test_the_surrogate_has_forwards_value_and_the_networks_gradient():
    defense = Squeezed(GREY, width=0.1).eval()
    x = tiny_dataset().x(slice(4)).requires_grad_()
    logits = defense.surrogate(x)
    assert torch.allclose(logits, defense(x), atol=1e-5)
    (through,) = torch.autograd.grad(logits.sum(), x)
    behind = defense.squeeze(x).requires_grad_()
    (expected,) = torch.autograd.grad(defense.network(behind).sum(), behind)
    assert torch.allclose(through, expected, atol=1e-6)


class Linear(Defense):
    """Two classes; the loss grows along one direction, so the best attack is known."""

    def __init__(self):
        super().__init__(THREE_OR_FIVE.info)
        self.weight = torch.nn.Parameter(torch.randn(28 * 28, generator=generator(3)) / 28)

    def forward(self, x):
        score = x.flatten(1) @ self.weight
        return torch.stack([-score, score], dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_momentum_finds_the_best_image_of_a_linear_model(norm):
    model, n = Linear(), 6
    x = 0.3 + 0.4 * torch.rand(n, 1, 28, 28, generator=generator(4))
    y = torch.arange(n) % 2
    eps = torch.linspace(0, 0.25, n)  # an eps of its own for each image; the box never binds
    with attack_view(model, n) as view:
        found = MomentumFGSM(norm=norm).run(view, x, y, eps=eps, generator=generator(5))
    uphill = (1 - 2 * y)[:, None] * model.weight.detach()
    direction = uphill.sign() if norm == "linf" else uphill / uphill.norm(dim=1, keepdim=True)
    best = x + (eps[:, None] * direction).view_as(x)
    # Of two images that both fool the model either may come back: only the loss is the best.
    with torch.no_grad():
        assert torch.allclose(model(found), model(best), atol=1e-4)


@pytest.mark.parametrize(("split", "n"), [("train", 265), ("test", 100)])
def test_three_or_five_has_both(split, n):
    data = THREE_OR_FIVE.load(split)
    assert len(data) == n
    assert abs(int(data.labels.sum()) - n / 2) < 3


def test_wrong_settings_are_one_line():
    with pytest.raises(UsageError, match="beta must be at least 0"):
        Trades(GREY, beta=-1.0)
    with pytest.raises(UsageError, match="bits must be 1 to 8"):
        Squeezed(GREY, bits=0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        MomentumFGSM(steps=0)
