"""RSE: noise where the paper puts it, always on, and gone without a trace where its std is 0."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import images

from baselines.rse import RSE, Noise
from baselines.undefended import Undefended
from benchmark.attacks.pgd import PGD
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.datasets import CIFAR10, DIGITS, MNIST, STL10, TINY_IMAGENET
from benchmark.errors import UsageError
from benchmark.evaluation.sweep import sweep
from benchmark.hashing import derive_seed
from benchmark.models.architectures import Normalize
from benchmark.progress import Progress
from benchmark.registry import DEFENSES
from benchmark.seeding import seeded
from benchmark.stats import wilson_interval
from benchmark.testing import COLOUR, GREY, check_defense
from benchmark.training import TrainingSettings

EVERY_NETWORK = pytest.mark.parametrize(
    "info", [MNIST.info, CIFAR10.info, STL10.info, TINY_IMAGENET.info], ids=lambda info: info.name
)


def build(info, cls=RSE, **options):
    with seeded(0):
        return cls(info, **{"width": 0.1, **options}).eval()


def leaves(model):
    return [layer for layer in model.modules() if not list(layer.children())]


def noises(model):
    return [layer for layer in model.modules() if isinstance(layer, Noise)]


def test_rse_is_registered_and_says_that_it_is_stochastic():
    assert DEFENSES.load("rse") is RSE
    assert RSE.stochastic
    assert not Undefended.stochastic


@pytest.mark.parametrize("info", [GREY, COLOUR], ids=lambda info: info.name)
def test_rse_conforms(info):
    assert check_defense(RSE, info) == []


# --- where the noise stands


@EVERY_NETWORK
def test_noise_stands_before_each_convolution_and_nowhere_else(info):
    model, plain = build(info), build(info, Undefended)
    expected = []
    for layer in leaves(plain):
        first = isinstance(layer, Normalize)  # its noise is the first convolution's
        after_normalize = bool(expected) and expected[-1] is Normalize
        if first or (isinstance(layer, nn.Conv2d) and not after_normalize):
            expected.append(Noise)
        expected.append(type(layer))
    assert [type(layer) for layer in leaves(model)] == expected
    n_convolutions = sum(isinstance(layer, nn.Conv2d) for layer in leaves(plain))
    assert [noise.std for noise in noises(model)] == [0.2] + [0.1] * (n_convolutions - 1)


@EVERY_NETWORK
def test_the_weights_are_the_undefended_networks_under_the_same_names(info):
    model, plain = build(info), build(info, Undefended)
    ours, theirs = model.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs)
    # Built under one seed they are equal, too: noise layers take no draw when they are built.
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@EVERY_NETWORK
@pytest.mark.parametrize("training", [False, True])
def test_without_noise_its_logits_are_the_undefended_networks(info, training):
    plain = build(info, Undefended).train(training)
    silent = build(info, noise_init=0.0, noise_inner=0.0).train(training)
    silent.load_state_dict(plain.state_dict())
    x = images(3, info.shape)
    with torch.no_grad():
        assert torch.equal(silent(x), plain(x))
        assert torch.equal(silent.predict(x), plain.predict(x))
        noisy = build(info).train(training)
        assert not torch.equal(noisy(x), plain(x))


# --- how much, and when


@pytest.mark.parametrize("training", [False, True])
def test_the_noise_has_the_std_asked_for_in_both_modes(training):
    model = build(MNIST.info, noise_init=0.3, noise_inner=0.05).train(training)
    seen = {}
    for noise in noises(model):
        noise.register_forward_hook(lambda layer, x, out: seen.update({layer: out - x[0]}))
    with torch.no_grad(), seeded(1):
        model(torch.rand(400, *MNIST.info.shape))
    for layer, std in zip(noises(model), (0.3, 0.05), strict=True):
        drawn = seen[layer].double()
        n = drawn.numel()  # 300,000 and 230,000 values
        # The spread of a sample's mean and standard deviation; five of them.
        assert abs(drawn.mean()) < 5 * std / n**0.5
        assert drawn.std().item() == pytest.approx(std, abs=5 * std / (2 * n) ** 0.5)
        # Every pixel of every image has a draw of its own.
        flat = drawn.flatten(1)
        assert flat.unique().numel() > 0.9 * min(n, 200_000)
        assert abs((flat[0] * flat[1]).mean()) < 5 * std**2 / flat.shape[1] ** 0.5


def test_the_first_noise_is_in_pixel_units():
    model = build(MNIST.info, noise_inner=0.0)
    seen = []
    first = next(layer for layer in leaves(model) if isinstance(layer, nn.Conv2d))
    first.register_forward_pre_hook(lambda layer, x: seen.append(x[0]))
    x = torch.rand(400, *MNIST.info.shape)
    with torch.no_grad(), seeded(1):
        model(x)
    received = (seen[0] + 1) / 2 - x  # what the convolution sees, mapped back to [0, 1]
    assert received.std().item() == pytest.approx(0.2, rel=0.01)


def test_a_seed_decides_the_noise_whatever_the_memory_layout():
    model = build(CIFAR10.info)
    x = images(4, CIFAR10.info.shape)
    with torch.no_grad():
        passes = []
        for seed, memory in (
            (1, torch.contiguous_format),
            (1, torch.contiguous_format),
            (1, torch.channels_last),
            (2, torch.contiguous_format),
        ):
            with seeded(seed):
                passes.append(model(x.contiguous(memory_format=memory)))
                labels = model.predict(x)
            with seeded(seed):
                model(x)
                assert torch.equal(model.predict(x), labels)
    assert torch.equal(passes[0], passes[1])
    assert torch.allclose(passes[0], passes[2], atol=1e-5)
    assert not torch.allclose(passes[0], passes[3], atol=1e-3)


# --- the vote


class Scripted(RSE):
    """Its passes give these logits for one image, in turn."""

    script = torch.tensor([[9.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])

    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return self.script[(self.calls - 1) % len(self.script)][None]


def test_predict_averages_the_softmax_not_the_logits():
    model = Scripted(MNIST.info, width=0.1, passes=4)
    # The mean logits [2.25, 0.75, 0] say label 0, the mean softmax [0.41, 0.43, 0.16] says 1.
    assert model.script.mean(0).argmax() == 0
    assert model.script.softmax(1).mean(0).argmax() == 1
    assert model.predict(torch.zeros(1, *MNIST.info.shape)).tolist() == [1]
    assert model.calls == 4


def test_predict_is_steadier_than_one_pass():
    model = build(MNIST.info, noise_init=0.5, noise_inner=0.5)
    x = images(200, MNIST.info.shape)

    def changed(label):
        with torch.no_grad(), seeded(3):
            return (label(x) != label(x)).sum().item()

    one, ten = changed(lambda x: model(x).argmax(1)), changed(model.predict)
    assert one > 0
    assert ten < one


def test_options_that_make_no_sense_are_refused():
    for options in ({"noise_init": -0.1}, {"noise_inner": -0.1}, {"passes": 0}):
        with pytest.raises(UsageError, match="rse"):
            RSE(MNIST.info, width=0.1, **options)


# --- training and attacks on real digits


@pytest.fixture(scope="module")
def trained():
    settings = TrainingSettings(epochs=15, batch_size=50, adversary_steps=2, adversary_eps=0.1)
    model = build(DIGITS.info, training=settings, width=0.25)
    model.fit(DIGITS.load("train"), seed=1, progress=Progress())
    return model


def attacked(model, eot, eps=0.1):
    """The number of 100 test digits that stand clean and at ``eps``."""
    data = DIGITS.load("test", n=100)
    spec = AttackSpec("pgd", ThreatModel("linf", (0.0, eps)), len(data), eot=eot)
    outcomes = sweep(
        model,
        PGD(steps=10),
        spec,
        data,
        seed_at=lambda eps: derive_seed("rse", eot, eps),
        progress=Progress(),
    )
    return [int((~outcome.success).sum()) for outcome in outcomes]


def test_training_under_noise_learns_digits(trained):
    data = DIGITS.load("test", n=100)
    with seeded(0):
        assert (trained.predict(data.x()) == data.labels).double().mean() > 0.9
        with torch.no_grad():  # each single pass is noisier, not useless
            assert F.cross_entropy(trained(data.x()), data.labels) < 1.0


def test_eot_is_no_weaker_than_plain_pgd(trained):
    clean, plain = attacked(trained, eot=1)
    again, averaged = attacked(trained, eot=10)
    assert plain < clean  # or there is nothing to compare
    assert averaged < again
    assert averaged <= wilson_interval(plain, 100)[1] * 100


def test_the_attack_is_the_seeds_alone(trained):
    first = attacked(trained, eot=2)
    torch.manual_seed(12345)
    assert attacked(trained, eot=2) == first
