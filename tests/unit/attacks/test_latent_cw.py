"""Latent-space C&W: a generator in closed form, hand-counted queries, failures, settings."""

import pytest
import torch
from toys import TOY, images

from benchmark.attacks.latent_cw import LatentCarliniWagner
from benchmark.attacks.losses import margin
from benchmark.attacks.norms import distance
from benchmark.attacks.view import attack_view
from benchmark.models.defense import Defense
from benchmark.seeding import generator

E = torch.tensor([[0.5, 0.5, -0.5, -0.5], [0.5, -0.5, 0.5, -0.5]])
"""Two orthonormal images of four pixels: what the generator adds to grey."""


class Plane(Defense):
    """G(z) = 1/2 + z E, a plane in the images; label 1 where b + w.x > 0.

    ``seen`` keeps every image that the generator made.
    """

    latent_dim = 2

    def __init__(self, w=(1.0, 0.0), b=-0.25):
        super().__init__(TOY)
        self.w, self.b = torch.tensor(w), b
        self.seen = []
        self.eval()

    def generate(self, z):
        made = (0.5 + z @ E).view(-1, 1, 2, 2)
        self.seen.append(made.detach())
        return made

    def classify_generated(self, x):
        score = (x - 0.5).flatten(1) @ E.T @ self.w + self.b
        return torch.stack([torch.zeros_like(score), score], 1)

    def forward(self, x):
        raise AssertionError("the attack stays behind the generator")


ATTACK = LatentCarliniWagner(
    inversion_restarts=2, inversion_steps=150, steps=300, search_steps=8, lr=0.01
)


def attack(defense, cw, x, y, seed=0):
    """Run ``cw``; return its images and the forwards and backwards per sample."""
    with attack_view(defense, len(x)) as view:
        x_adv = cw.run(view, x, y, generator=generator(seed))
        forwards, backwards = view.counts()
    assert not x_adv.requires_grad
    return x_adv, forwards, backwards


def coordinates(x):
    """The coordinates of images (N, 1, 2, 2) in the plane, and their distance from it."""
    along = (x - 0.5).flatten(1) @ E.T
    return along, (x - 0.5 - (along @ E).view_as(x)).flatten(1).norm(dim=1)


def test_distance_on_a_linear_model_is_the_known_minimum():
    # The nearest point of the plane beyond the boundary z_0 = 1/4: Pythagoras.
    x, model = 0.3 + 0.4 * images(6, (1, 2, 2), seed=1), Plane()
    along, off = coordinates(x)
    assert off.min() > 0.01  # none lies on the plane
    assert (along[:, 0] < 0.25).all()
    x_adv, _, _ = attack(model, ATTACK, x, torch.zeros(6).long())
    assert (margin(model.classify_generated(x_adv), torch.zeros(6).long()) > 0).all()
    least = (off.square() + (0.25 - along[:, 0]).square()).sqrt()
    ratio = distance(x_adv, x, "l2") / least
    assert ratio.min() > 0.999
    assert ratio.max() < 1.02


def test_the_result_is_an_image_of_the_generator():
    x, model = images(5, (1, 2, 2), seed=2), Plane()
    x_adv, _, _ = attack(model, ATTACK, x, torch.zeros(5).long())
    made = torch.cat(model.seen)
    assert all((made == image).flatten(1).all(1).any() for image in x_adv)  # bit by bit
    along, off = coordinates(x_adv)
    assert off.max() < 1e-6
    assert torch.allclose(Plane().generate(along), x_adv, atol=1e-6)
    assert coordinates(x)[1].max() > 0.1  # which the clean images are not


def test_failure_returns_the_closest_attempt():
    # Nothing is of label 1; the score's only slope is along z_0.
    model = Plane(w=(1.0, 0.0), b=-1e3)
    x = torch.full((1, 1, 2, 2), 0.5)
    cw = LatentCarliniWagner(inversion_steps=50, steps=20, search_steps=2, lr=0.1)
    x_adv, _, _ = attack(model, cw, x, torch.zeros(1).long())
    along, off = coordinates(x_adv)
    assert along[0, 0] > 0.5
    assert abs(along[0, 1]) < 0.1
    assert off < 1e-6


def test_queries_are_hand_counted():
    cw = LatentCarliniWagner(inversion_restarts=3, inversion_steps=5, steps=7, search_steps=4)
    _, forwards, backwards = attack(Plane(), cw, images(4, (1, 2, 2)), torch.zeros(4).long())
    assert forwards.tolist() == [3 * (5 + 1) + 4 * (7 + 1)] * 4
    assert backwards.tolist() == [3 * 5 + 4 * 7] * 4


def test_inversion_in_parts_counts_the_same_and_finds_the_same(monkeypatch):
    cw = LatentCarliniWagner(inversion_restarts=2, inversion_steps=200, steps=50)
    x, y = images(5, (1, 2, 2), seed=3), torch.zeros(5).long()
    together = attack(Plane(), cw, x, y)
    monkeypatch.setattr("benchmark.attacks.latent_cw.CHUNK", 4)  # two images at a time
    parts = attack(Plane(), cw, x, y)
    assert torch.equal(parts[1], together[1])
    assert torch.equal(parts[2], together[2])
    assert torch.allclose(parts[0], together[0], atol=0.02)


def test_inversion_finds_the_nearest_image_of_the_generator():
    x, model = images(6, (1, 2, 2), seed=4), Plane()
    with attack_view(model, 6) as view:
        z = ATTACK._invert(view, x, generator(0))
    assert torch.allclose(z, coordinates(x)[0], atol=1e-2)


class Folded(Plane):
    """Beyond z_0 = 1 the generator folds into a second valley, far from every image."""

    def generate(self, z):
        first = torch.where(z[:, :1] > 1, 5 + (z[:, :1] - 3).square(), z[:, :1])
        return super().generate(torch.cat([first, z[:, 1:]], 1))


def test_the_best_restart_is_taken():
    # One restart in six starts in the wrong valley, and stays there.
    x = torch.full((40, 1, 2, 2), 0.5)
    far = {}
    for restarts in (1, 8):
        cw = LatentCarliniWagner(inversion_restarts=restarts, inversion_steps=100)
        with attack_view(Folded(), 40) as view:
            z = cw._invert(view, x, generator(0))
            far[restarts] = distance(view.generate(z), x, "l2") > 1
    assert 2 <= far[1].sum() <= 14
    assert not far[8].any()


def test_confidence_is_the_lead_over_the_true_class():
    x, y, model = images(4, (1, 2, 2), seed=5), torch.zeros(4).long(), Plane()
    leads = []
    for confidence in (0.0, 0.5):
        cw = LatentCarliniWagner(steps=200, search_steps=6, lr=0.02, confidence=confidence)
        leads.append(margin(model.classify_generated(attack(model, cw, x, y)[0]), y))
    assert (leads[0] > 0).all()
    assert (leads[1] >= 0.5).all()
    assert (leads[1] > leads[0]).all()


def test_the_same_generator_gives_the_same_images():
    x, y, cw = images(3, (1, 2, 2)), torch.zeros(3).long(), LatentCarliniWagner(steps=20)
    first, again, other = (attack(Plane(), cw, x, y, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_defense_without_a_generator_is_refused():
    class Plain(Plane):
        latent_dim = None

    with pytest.raises(ValueError, match="Plain has no generator"):
        attack(Plain(), ATTACK, images(1, (1, 2, 2)), torch.zeros(1).long())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "linf"}, "l2 only"),
        ({"steps": 0}, "at least 1, got 10, 200, 0, 5"),
        ({"inversion_restarts": 0}, "inversion_restarts"),
        ({"lr": 0.0}, "above 0"),
        ({"confidence": -1.0}, "at least 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        LatentCarliniWagner(**settings)
