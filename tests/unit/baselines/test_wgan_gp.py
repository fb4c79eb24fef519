"""WGAN-GP: networks for every dataset, and the game's updates by hand."""

import dataclasses

import pytest
import torch
from torch import nn

from baselines.wgan_gp import Critic, Game, Generator, channels, gradient_penalty, sizes
from benchmark.datasets import CIFAR10, DIGITS, FASHION_MNIST, MNIST, STL10, TINY_IMAGENET
from benchmark.errors import UsageError
from benchmark.seeding import generator, seeded

INFOS = [s.info for s in (DIGITS, MNIST, FASHION_MNIST, CIFAR10, STL10, TINY_IMAGENET)]


# --- the networks


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_networks_fit_every_dataset(info):
    game, critic = Generator(info, 8, 0.05), Critic(info, 0.05)
    with torch.no_grad():
        made = game(torch.randn(3, 8) * 5)
        scores = critic(made)
    assert made.shape == (3, *info.shape)
    assert made.dtype == torch.float32
    assert made.min() >= 0
    assert made.max() <= 1
    assert scores.shape == (3,)
    assert not [m for m in critic.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_28_pixels_have_the_authors_networks():
    assert sizes(MNIST.info) == [28, 14, 7, 4]
    assert channels(MNIST.info, 1.0) == [1, 64, 128, 256]
    game, critic = Generator(MNIST.info, 128, 1.0), Critic(MNIST.info, 1.0)
    assert (game.first.in_features, game.first.out_features) == (128, 256 * 16)
    layers = [m for m in game.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in layers] == [(256, 128), (128, 64), (64, 1)]
    layers += [m for m in critic.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in layers[3:]] == [64, 128, 256]
    assert {(m.kernel_size, m.stride) for m in layers} == {((5, 5), (2, 2))}


def test_larger_images_add_layers():
    assert sizes(STL10.info) == [96, 48, 24, 12, 6, 3]
    assert channels(STL10.info, 0.5) == [3, 32, 64, 128, 256, 256]
    assert sizes(CIFAR10.info) == [32, 16, 8, 4]


def test_activations_keep_their_scale_from_layer_to_layer():
    # Nothing normalises: with torch's own initial weights the images of all z are nearly equal.
    with seeded(0):
        game = Generator(MNIST.info, 128, 0.5)
        z = torch.randn(256, 128)
    logits = nn.Sequential(*game.rest[:-1])(game.first(z).view(-1, *game.smallest))
    assert 0.3 < logits.std() < 3


def test_oblong_images_are_refused():
    oblong = dataclasses.replace(MNIST.info, shape=(1, 28, 32))
    with pytest.raises(UsageError, match="square images; those of mnist are 28x32"):
        Critic(oblong, 0.1)


# --- WGAN-GP, update by update, on linear players with plain gradient steps

LAM, LR = 10.0, 0.1


class Slope(nn.Module):
    """D(x) = a.x"""

    def __init__(self, *a):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, x):
        return x.flatten(1) @ self.a


class Shift(nn.Module):
    """G(z) = z + b, two pixels."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.tensor([0.5, 0.25]))

    def forward(self, z):
        return (z + self.b).view(-1, 1, 1, 2)


def players(n_critic=2):
    game = Game(
        Shift(),
        Slope(0.6, 1.2),
        latent_dim=2,
        penalty=LAM,
        n_critic=n_critic,
        lr=LR,
        betas=(0.5, 0.9),
        rng=generator(3),
    )
    game.g = torch.optim.SGD(game.generator.parameters(), lr=LR)
    game.d = torch.optim.SGD(game.critic.parameters(), lr=LR)
    return game


X = torch.tensor([[0.2, 0.9], [0.7, 0.1], [0.4, 0.5]]).view(3, 1, 1, 2)


def test_penalty_is_the_squared_distance_of_the_slope_from_one():
    critic = Slope(0.6, 1.2)
    value = gradient_penalty(critic, X, X + 1, generator(0))
    length = (0.36 + 1.44) ** 0.5
    assert value.item() == pytest.approx((length - 1) ** 2, rel=1e-5)
    value.backward()
    expected = 2 * (length - 1) * critic.a.detach() / length
    assert torch.allclose(critic.a.grad, expected, rtol=1e-5)


def test_penalty_is_taken_between_the_pairs_at_random():
    points = []

    class Watching(Slope):
        def forward(self, x):
            points.append(x.detach())
            return super().forward(x)

    real, fake = torch.zeros(200, 1, 1, 2), torch.ones(200, 1, 1, 2)
    gradient_penalty(Watching(1.0, 0.0), real, fake, generator(0))
    share = points[0].flatten(1)
    assert torch.equal(share[:, 0], share[:, 1])  # on the line between the two
    assert 0 <= share.min() < 0.05
    assert 0.95 < share.max() <= 1


def test_critic_descends_its_loss():
    game = players()
    z = torch.randn(3, 2, generator=generator(3))
    made = (z + torch.tensor([0.5, 0.25])).detach()
    report = game.update_critic(X)
    a = torch.tensor([0.6, 1.2])
    gap = X.flatten(1).mean(0) - made.mean(0)
    length = a.norm()
    assert report["wasserstein"].item() == pytest.approx((a @ gap).item(), rel=1e-5)
    assert report["penalty"].item() == pytest.approx((length - 1).square().item(), rel=1e-5)
    assert report["loss"] == LAM * report["penalty"] - report["wasserstein"]
    assert not report["loss"].requires_grad
    expected = a + LR * (gap - LAM * 2 * (length - 1) * a / length)
    assert torch.allclose(game.critic.a, expected, rtol=1e-5)
    assert game.generator.b.tolist() == [0.5, 0.25]


def test_generator_ascends_the_critics_score():
    game = players()
    game.update_generator(5)
    expected = torch.tensor([0.5, 0.25]) + LR * torch.tensor([0.6, 1.2])
    assert torch.allclose(game.generator.b, expected)
    assert torch.allclose(game.critic.a, torch.tensor([0.6, 1.2]))


def test_generator_has_every_nth_turn():
    game, turns = players(n_critic=3), []
    game.update_generator = lambda n: turns.append((game._played, n))
    for _ in range(7):
        game.step(X, torch.zeros(3))
    assert turns == [(3, 3), (6, 3)]


def test_wgan_gp_learns_a_distribution_of_two_pixels():
    with seeded(1):
        game = players(n_critic=5)
        game.critic = nn.Sequential(nn.Flatten(), nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    game.g = torch.optim.SGD(game.generator.parameters(), lr=0.02)
    game.d = torch.optim.Adam(game.critic.parameters(), lr=0.02, betas=(0.5, 0.9))
    rng, shifts = generator(4), []
    for _ in range(1500):  # N((2, -1), I): a shift of the latents
        x = torch.randn(64, 1, 1, 2, generator=rng) + torch.tensor([2.0, -1.0])
        game.step(x, torch.zeros(64))
        shifts.append(game.generator.b.detach().clone())
    around = torch.stack(shifts[750:]).mean(0)  # the players circle the solution
    assert torch.allclose(around, torch.tensor([2.0, -1.0]), atol=0.3)
