"""Defense-GAN: the search for latents, both phases of training, what is measured, both attacks."""

import gc

import pytest
import torch
from torch import nn
from toys import images

from baselines.defense_gan import DefenseGAN
from benchmark.attacks.latent_cw import LatentCarliniWagner
from benchmark.attacks.norms import distance
from benchmark.attacks.pgd import PGD
from benchmark.attacks.view import attack_view
from benchmark.datasets import CIFAR10, DIGITS, FASHION_MNIST, MNIST, STL10, TINY_IMAGENET
from benchmark.errors import PluginError, UsageError
from benchmark.progress import Progress
from benchmark.registry import ATTACKS, DEFENSES
from benchmark.seeding import generator, seeded
from benchmark.training import TrainingSettings

INFOS = [s.info for s in (DIGITS, MNIST, FASHION_MNIST, CIFAR10, STL10, TINY_IMAGENET)]
SHORT = TrainingSettings(epochs=2, batch_size=20, holdout=10, adversary_steps=1)
SMALL = {"training": SHORT, "width": 0.05, "latent_dim": 8, "rec_steps": 5, "rec_restarts": 3}


def build(info=DIGITS.info, **options):
    with seeded(0):
        return DefenseGAN(info, **SMALL | {"gan_epochs": 2} | options).eval()


def test_both_are_registered():
    assert DEFENSES.load("defense-gan") is DefenseGAN
    assert ATTACKS.load("latent-cw") is LatentCarliniWagner


# --- the search


class Bowl(nn.Module):
    """G(z) = (z, 0): the nearest image of (a, b) is (a, 0)."""

    def forward(self, z):
        return torch.cat([z, torch.zeros_like(z)], 1).view(len(z), 1, 1, -1)


class TwoValleys(nn.Module):
    """A pixel in [0, 1/2] for z < 0, in (1/2, 1] for z > 0; flat far from 0."""

    def forward(self, z):
        return torch.sigmoid(8 * z).view(-1, 1, 1, 1)


def searching(module, **options):
    model = build(MNIST.info, **{"latent_dim": 1} | options)
    model.generator = module
    return model


def test_search_takes_the_gradient_steps_with_momentum_of_the_mean_square():
    model = searching(Bowl(), rec_steps=5, rec_restarts=1, rec_lr=0.5)
    x = torch.tensor([[0.3, 0.8], [0.9, 0.1]]).view(2, 1, 1, 2)
    with seeded(7):
        found = model.reconstruct(x)
    with seeded(7):
        z = torch.randn(2, 1)  # latent_dim is 1
    speed = torch.zeros_like(z)
    for t in range(5):
        speed = 0.7 * speed + (z - x[:, 0, 0, :1])  # of ((z - a)^2 + b^2) / 2
        z = z - (0.05 if t == 4 else 0.5) * speed
    assert torch.allclose(found.flatten(1), torch.cat([z, torch.zeros_like(z)], 1), atol=1e-6)


def test_search_finds_the_nearest_image_of_the_generator():
    model = searching(Bowl(), rec_steps=60, rec_restarts=2, rec_lr=0.5)
    x = torch.rand(5, 1, 1, 2, generator=generator(0))
    expected = torch.cat([x[..., :1], torch.zeros(5, 1, 1, 1)], 3)
    assert torch.allclose(model.reconstruct(x), expected, atol=1e-3)


def test_first_latents_are_as_wide_as_the_authors():
    model = searching(Bowl(), latent_dim=400, rec_steps=1, rec_lr=1e-9, rec_restarts=1)
    with seeded(0):
        first = model.reconstruct(torch.zeros(1, 1, 1, 800)).flatten()[:400]
    assert first.std().item() == pytest.approx(1 / 20, rel=0.15)


def test_best_restart_is_taken():
    # One step moves z hardly: the best of many draws must come close to the wanted pixel.
    x = torch.full((30, 1, 1, 1), 0.9)
    far = {}
    for restarts in (1, 40):
        model = searching(TwoValleys(), rec_steps=1, rec_lr=1e-6, rec_restarts=restarts)
        with seeded(1):
            far[restarts] = (model.reconstruct(x) - x).abs().mean().item()
    assert far[40] < far[1] / 5


def test_chunks_bound_the_memory_and_change_nothing(monkeypatch):
    x, sizes_seen = images(7, (1, 1, 2)), []

    class Watching(Bowl):
        def forward(self, z):
            sizes_seen.append(len(z))
            return super().forward(z)

    model = searching(Watching(), rec_steps=60, rec_restarts=3, rec_lr=0.5)
    whole = model.reconstruct(x)
    assert max(sizes_seen) == 21
    sizes_seen.clear()
    monkeypatch.setattr("baselines.defense_gan.CHUNK", 8)  # two images of three restarts
    assert torch.allclose(model.reconstruct(x), whole, atol=1e-3)
    assert max(sizes_seen) == 6
    monkeypatch.setattr("baselines.defense_gan.CHUNK", 1)  # an image's restarts stay together
    sizes_seen.clear()
    model.reconstruct(x)
    assert set(sizes_seen) == {3}


def test_search_leaves_no_graph_behind():
    model, x = build(), images(2, DIGITS.info.shape)
    with torch.no_grad():
        model(x)
    gc.collect()
    before = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
    for _ in range(3):
        found = model.reconstruct(x.requires_grad_())
        assert not found.requires_grad
        assert found.grad_fn is None
    del found
    gc.collect()
    assert sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()) <= before
    assert all(p.grad is None for p in model.parameters())


# --- the defense


def test_every_pass_draws_fresh_latents():
    model, x = build(), images(4, DIGITS.info.shape)
    with torch.no_grad():
        first, second = model(x), model(x)
        with seeded(5):
            third = model(x)
        with seeded(5):
            fourth = model(x)
    assert model.stochastic
    assert not torch.equal(first, second)
    assert torch.equal(third, fourth)


def test_surrogate_has_forwards_value_and_the_classifiers_gradient_at_the_reconstruction():
    model, x = build(), images(3, DIGITS.info.shape)
    assert not model.differentiable
    with attack_view(model, 3):
        with seeded(2):
            value = model(x)
        x.requires_grad_()
        with seeded(2):
            logits = model.surrogate(x)
        (slope,) = torch.autograd.grad(logits[:, 4].sum(), x)
        with seeded(2):
            found = model.reconstruct(x).requires_grad_()
        (expected,) = torch.autograd.grad(model.classifier(found)[:, 4].sum(), found)
        assert model.exact_surrogate
        assert torch.equal(logits, value)
        assert torch.equal(slope, expected)
        assert not model(x).requires_grad


def trained(seed=1, **options):
    data = DIGITS.load("train", n=60)
    model = build(**{"gan_batch_size": 20, "n_critic": 1} | options)
    before = {name: p.clone() for name, p in model.named_parameters()}
    log = model.fit(data, seed=seed, progress=Progress())
    return model, before, log


@pytest.mark.parametrize("kind", ["reconstructions", "originals"])
def test_both_phases_train_and_are_logged(kind, monkeypatch):
    learned = []
    fit = type(build().classifier).fit

    def watching(self, data, **rest):
        learned.append(data)
        return fit(self, data, **rest)

    monkeypatch.setattr("baselines.undefended.Undefended.fit", watching)
    model, before, log = trained(train_on=kind)
    assert [row.get("gan_epoch") for row in log.epochs] == [1, 2, None, None]
    assert [row.get("epoch") for row in log.epochs] == [None, None, 1, 2]
    assert {"critic_loss", "wasserstein", "penalty"} <= set(log.epochs[0])
    assert {"loss", "clean_accuracy"} <= set(log.epochs[-1])
    assert all(isinstance(value, float | int) for row in log.epochs for value in row.values())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    # The critic's last bias is in both means, and cancels.
    last = [name for name in before if name.startswith("critic")][-1]
    assert moved == set(before) - {last}
    assert not any(m.training for m in model.modules())
    data, originals = learned[0], DIGITS.load("train", n=60)
    assert torch.equal(data.labels, originals.labels)
    if kind == "originals":
        assert torch.equal(data.images, originals.images)
    else:
        with seeded(3):  # what fit derives from its own seed
            expected = model.reconstruct(originals.x())
        assert torch.equal(data.images, (expected * 255).round().to(torch.uint8))


def test_same_seed_same_model_and_another_seed_another():
    first, again = trained()[0].state_dict(), trained()[0].state_dict()
    other = trained(seed=2)[0].state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    for part in ("generator", "critic", "classifier"):
        names = [name for name in first if name.startswith(part) and name.endswith("weight")]
        assert not any(torch.equal(first[name], other[name]) for name in names)


def test_gan_width_is_apart_from_the_classifiers():
    with torch.device("meta"):
        both = DefenseGAN(MNIST.info, width=0.5)
        apart = DefenseGAN(MNIST.info, width=1.0, gan_width=0.5)
    count = [sum(p.numel() for p in m.generator.parameters()) for m in (both, apart)]
    assert count[0] == count[1]
    count = [sum(p.numel() for p in m.classifier.parameters()) for m in (both, apart)]
    assert count[0] < count[1] == 431080


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_on": "original"}, "unknown train_on 'original'; did you mean 'originals'"),
        ({"rec_restarts": 0}, "rec_restarts must be at least 1"),
        ({"gan_epochs": 0}, "epochs"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(UsageError, match=message):
        build(**options)


# --- what is measured


def test_measure_is_the_error_and_the_accuracy_over_all_images():
    model = searching(Bowl(), rec_steps=60, rec_restarts=1, rec_lr=0.5)
    x = torch.tensor([[0.2, 0.6], [0.8, 0.2], [0.4, 0.4]]).view(3, 1, 1, 2)

    class Data:
        labels = torch.tensor([0, 1, 1])

        def __len__(self):
            return 3

        def batches(self, size):
            return [torch.tensor([0, 1]), torch.tensor([2])]

        def x(self, rows):
            return x[rows]

    model.classifier.predict = lambda found: (found[:, 0, 0, 0] > 0.5).long()
    measured = model.measure(Data())
    error = measured["reconstruction_error"]
    each = torch.tensor([0.36, 0.04, 0.16]).double() / 2  # the second pixel, over two pixels
    assert error["value"] == pytest.approx(each.mean().item(), abs=1e-4)
    half = 1.96 * each.std().item() / 3**0.5
    assert error["ci_high"] == pytest.approx(each.mean().item() + half, abs=1e-3)
    assert error["n"] == 3
    assert measured["clean_accuracy"]["value"] == pytest.approx(2 / 3)
    assert measured["clean_accuracy"]["ci_low"] < 2 / 3 < measured["clean_accuracy"]["ci_high"]


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_datasets_beyond_its_paper_are_marked(info):
    notes = build(info)._notes()
    if info.name in ("mnist", "fashion_mnist"):
        assert notes == []
    else:
        assert notes == [
            f"Defense-GAN on {info.name} is beyond what its paper claims: it was shown on"
            " MNIST and Fashion-MNIST"
        ]


# --- both attacks run on it


def test_pgd_with_bpda_costs_one_forward_and_one_backward_a_step():
    model, x, y = build(), images(3, DIGITS.info.shape), torch.zeros(3).long()
    with attack_view(model, 3, bpda=True) as view:
        x_adv = PGD(steps=2).run(view, x, y, eps=0.1, generator=generator(0))
        forwards, backwards = view.counts()
    assert forwards.tolist() == [3] * 3
    assert backwards.tolist() == [2] * 3
    assert (x_adv - x).abs().max() > 0.05


def test_pgd_without_bpda_has_no_gradient_to_follow():
    model, x = build(), images(1, DIGITS.info.shape)
    with attack_view(model, 1) as view, pytest.raises(PluginError, match="no gradient of"):
        PGD(steps=1).run(view, x, torch.zeros(1).long(), eps=0.1, generator=generator(0))


def test_latent_attack_returns_what_the_generator_makes():
    model, x = build(), images(3, DIGITS.info.shape)
    made = []
    forward = model.generator.forward
    model.generator.forward = lambda z: made.append((z.detach().clone(), forward(z))) or made[-1][1]
    y = model.predict(x)
    cw = LatentCarliniWagner(inversion_restarts=2, inversion_steps=10, steps=20, search_steps=2)
    with attack_view(model, 3) as view:
        x_adv = cw.run(view, x, y, generator=generator(0))
    for i in range(3):
        hit = [(z[j], g[j]) for z, g in made for j in range(len(z)) if torch.equal(g[j], x_adv[i])]
        assert hit  # a latent is known for it, and makes it again
        z, image = hit[-1]
        assert torch.allclose(forward(z[None])[0], image, atol=1e-6)
    assert distance(x_adv, x, "l2").min() > 0
