"""The registered defenses: shapes, the paper's networks, and Algorithm 1 update by update."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import images

from baselines.madry import Madry
from baselines.undefended import Undefended
from benchmark.attacks.losses import margin
from benchmark.attacks.pgd import PGD
from benchmark.attacks.view import attack_view, clamps_input
from benchmark.datasets import (
    CIFAR10,
    DIGITS,
    FASHION_MNIST,
    MNIST,
    STL10,
    TINY_IMAGENET,
    DatasetInfo,
)
from benchmark.errors import UsageError
from benchmark.models.embedding_distance import distance_from_prior
from benchmark.models.loader import load_defense
from benchmark.progress import Progress
from benchmark.registry import DEFENSES
from benchmark.seeding import generator, seeded
from benchmark.testing.common import tiny_dataset
from benchmark.training import TrainingSettings
from defenses.e_cla import EncoderClassifier
from defenses.ot_classifier import OTClassifier, OTClassifierAdv

INFOS = [s.info for s in (DIGITS, MNIST, FASHION_MNIST, CIFAR10, STL10, TINY_IMAGENET)]
OURS = ["e-cla", "madry", "ot-cla", "ot-cla-adv", "undefended"]


def build(name, info, **options):
    with seeded(0):
        return load_defense(name)(info, **{"width": 0.04, **options}).eval()


def layers(module, kind):
    return [layer for layer in module.modules() if isinstance(layer, kind)]


def channels(module):
    return [layer.out_channels for layer in layers(module, nn.Conv2d)]


def features(module):
    return [layer.out_features for layer in layers(module, nn.Linear)]


def test_all_are_registered():
    assert set(OURS) <= set(DEFENSES.names())


# --- the interface


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
@pytest.mark.parametrize("name", OURS)
def test_logits_labels_and_embeddings_for_every_dataset(name, info):
    model = build(name, info)
    x = images(2, info.shape)
    with torch.no_grad():
        logits, labels, embeddings = model(x), model.predict(x), model.embed(x)
    assert logits.shape == (2, info.n_classes)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert labels.dtype == torch.int64
    assert torch.equal(labels, logits.argmax(1))
    assert torch.equal(model.surrogate(x), logits)
    if name in ("undefended", "madry"):
        assert embeddings is None
    else:
        assert embeddings.shape == (2, 16)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("info", [DIGITS.info, CIFAR10.info], ids=lambda info: info.name)
def test_nothing_clamps_inside_the_graph(name, info):
    x = images(4, info.shape)
    y = torch.zeros(4).long()
    model = build(name, info, width=0.1)
    with attack_view(model, 4) as view:
        assert not clamps_input(view, x, y, margin)
        gradient = view.gradient(x, y, margin)[2]
    assert gradient[(x == 0) | (x == 1)].any()
    with torch.no_grad():  # and nothing is cut off outside the box
        assert not torch.equal(model(x * 3 - 1), model((x * 3 - 1).clamp(0, 1)))


@pytest.mark.parametrize("name", OURS)
def test_every_defense_learns_digits_a_little(name):
    data = DIGITS.load("train", n=60)
    settings = TrainingSettings(epochs=2, batch_size=20, adversary_steps=1, adversary_eps=0.1)
    model = build(name, data.info, training=settings, width=0.1)
    before = [p.clone() for p in model.parameters()]
    log = model.fit(data, seed=1, progress=Progress())
    assert [row["epoch"] for row in log.epochs] == [1, 2]
    assert not model.training
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    again = build(name, data.info, training=settings, width=0.1)
    again.fit(data, seed=1, progress=Progress())
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


# --- the paper's networks, at width 1 (on the meta device: no memory, no time)


def full(cls, info, **options):
    with torch.device("meta"):
        return cls(info, **options)


def test_undefended_mnist_is_the_scripts_network():
    model = full(Undefended, MNIST.info)
    assert channels(model) == [20, 50]
    assert [layer.kernel_size for layer in layers(model, nn.Conv2d)] == [(5, 5), (5, 5)]
    assert len(layers(model, nn.MaxPool2d)) == 2
    assert features(model) == [500, 10]
    assert sum(p.numel() for p in model.parameters()) == 431080  # LeNet's


VGG16 = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
VGG19 = [64, 64, 128, 128, *[256] * 4, *[512] * 8]


@pytest.mark.parametrize(("info", "expected"), [(CIFAR10.info, VGG16), (TINY_IMAGENET.info, VGG19)])
def test_undefended_colour_is_vgg(info, expected):
    model = full(Undefended, info)
    assert channels(model) == expected
    assert [layer.num_features for layer in layers(model, nn.BatchNorm2d)] == expected
    assert features(model) == [info.n_classes]


def test_undefended_stl10_has_the_encoders_convolutions():
    plain, encoder = full(Undefended, STL10.info), full(EncoderClassifier, STL10.info)
    assert channels(plain) == channels(encoder) == [128, 256, 512, 1024, 2048, 2048]


def test_mnist_encoder_and_classifier():
    model = full(EncoderClassifier, MNIST.info, code_dim=4)
    convolutions = layers(model.encoder, nn.Conv2d)
    assert channels(model.encoder) == [128, 256, 512, 1024]
    assert {(layer.kernel_size, layer.stride) for layer in convolutions} == {((4, 4), (2, 2))}
    norms = layers(model.encoder, nn.BatchNorm2d)
    assert [layer.num_features for layer in norms] == [256, 512, 1024]  # from the second on
    assert features(model.encoder) == [4]
    assert features(model.classifier) == [500, 256, 10]
    assert [layer.num_features for layer in layers(model.classifier, nn.BatchNorm1d)] == [500, 256]


def test_stl10_encoder():
    model = full(EncoderClassifier, STL10.info)
    convolutions = layers(model.encoder, nn.Conv2d)
    assert channels(model.encoder) == [128, 256, 512, 1024, 2048, 2048]
    assert [layer.kernel_size[0] for layer in convolutions] == [4, 4, 4, 4, 4, 3]
    assert {layer.stride for layer in convolutions} == {(2, 2)}
    assert len(layers(model.encoder, nn.BatchNorm2d)) == 5
    assert features(model.encoder) == [16]
    assert features(model.classifier) == [500, 256, 10]


@pytest.mark.parametrize(("info", "expected"), [(CIFAR10.info, VGG16), (TINY_IMAGENET.info, VGG19)])
def test_vgg_encoders(info, expected):
    model = full(EncoderClassifier, info)
    assert channels(model.encoder) == expected
    linear = layers(model.encoder, nn.Linear)
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(512, 16)]
    assert features(model.classifier) == [512, 512, info.n_classes]
    assert len(layers(model.classifier, nn.Dropout)) == 2


def test_discriminator():
    critic = full(OTClassifier, MNIST.info, code_dim=4, width=0.1).discriminator
    linear = layers(critic, nn.Linear)
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (4, 512),
        (512, 512),
        (512, 512),
        (512, 512),
        (512, 1),
    ]
    assert len(layers(critic, nn.ReLU)) == 4
    assert list(critic)[-1] is linear[-1]  # the score, before the sigmoid


def test_architectures_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="unknown architecture 'conv5'; did you mean"):
        EncoderClassifier(MNIST.info, architecture="conv5", width=0.1)
    with pytest.raises(UsageError, match="vgg16 takes colour images"):
        EncoderClassifier(MNIST.info, architecture="vgg16", width=0.1)
    with pytest.raises(
        UsageError,
        match="conv6 takes images of at least 64 pixels a side; those of cifar10 have 32x32",
    ):
        EncoderClassifier(CIFAR10.info, architecture="conv6", width=0.1)


def own(*shape):
    """Describe images of somebody's own: three classes."""
    return DatasetInfo("own", shape, 3, ("a", "b", "c"), augment=shape[0] == 3)


SHORTEST = TrainingSettings(epochs=1, batch_size=6, holdout=0, adversary_steps=1)
OWN_SIZES = {
    "grey-8": (1, 8, 8),
    "grey-16": (1, 16, 16),
    "grey-32": (1, 32, 32),
    "grey-24x40": (1, 24, 40),
    "grey-64": (1, 64, 64),
    "colour-8": (3, 8, 8),
    "colour-16": (3, 16, 16),
    "colour-28": (3, 28, 28),
    "colour-24x40": (3, 24, 40),
}
GAN = {"latent_dim": 4, "gan_epochs": 1, "gan_batch_size": 6, "rec_steps": 2, "rec_restarts": 2}


@pytest.mark.parametrize("shape", OWN_SIZES.values(), ids=OWN_SIZES)
@pytest.mark.parametrize("name", [*OURS, "rse", "defense-gan"])
def test_own_sizes_are_trained_and_attacked_or_refused_in_one_line(name, shape):
    data = tiny_dataset(own(*shape), n=12)
    options = {"training": SHORTEST, **(GAN if name == "defense-gan" else {})}
    if name == "defense-gan" and shape[1] != shape[2]:
        with pytest.raises(UsageError, match="the GAN takes square images; those of own are 24x40"):
            build(name, data.info, **options)
        return
    model = build(name, data.info, **options).to(memory_format=torch.channels_last)
    model.fit(data, seed=0, progress=Progress())
    x, y = data.x(slice(4)), data.labels[:4]
    with seeded(0), attack_view(model, 4, bpda=not model.differentiable) as view:
        found = PGD(steps=2).run(view, x, y, eps=0.1, generator=generator(0))
    assert found.shape == x.shape
    assert not torch.equal(found, x)
    assert model.predict(found).shape == (4,)


def test_layers_that_do_not_fit_small_images_are_left_out():
    grey = [EncoderClassifier(own(1, side, side), width=1.0).encoder[0] for side in (8, 16, 32)]
    assert [channels(convolutions) for convolutions in grey] == [
        [128, 256, 512],
        [128, 256, 512, 1024],
        [128, 256, 512, 1024],
    ]
    assert [len(layers(convolutions, nn.AdaptiveAvgPool2d)) for convolutions in grey] == [0, 0, 1]
    assert len(layers(Undefended(own(3, 8, 8), width=0.04), nn.MaxPool2d)) == 3
    assert len(layers(Undefended(CIFAR10.info, width=0.04), nn.MaxPool2d)) == 5


def test_a_pixel_a_side_is_too_little():
    with pytest.raises(UsageError, match="conv4 takes images of at least 2 pixels a side"):
        Undefended(own(1, 1, 40))


# --- pretraining


class Bars(Progress):
    """Notes the names of the bars shown."""

    def __init__(self):
        self.names = []

    def task(self, description, total):
        self.names.append((description, total))
        return super().task(description, total)


SHORT = TrainingSettings(epochs=2, batch_size=20, adversary_steps=1, adversary_eps=0.1)


def pretrained(name="e-cla", data=None, **options):
    data = data or DIGITS.load("train", n=60)
    options = {"training": SHORT, "width": 0.1, "pretrain_epochs": 3, **options}
    model, bars = build(name, data.info, **options), Bars()
    log = model.fit(data, seed=1, progress=bars)
    return model, log, bars


@pytest.mark.parametrize("name", ["e-cla", "ot-cla", "ot-cla-adv"])
def test_pretraining_comes_first_and_counts_up_to_epoch_0(name):
    model, log, bars = pretrained(name)
    assert [row["epoch"] for row in log.epochs] == [-2, -1, 0, 1, 2]
    assert bars.names == [("pretraining", 6), ("training", 4)]  # two batches of 20 an epoch
    assert all(isinstance(value, int | float) for row in log.epochs for value in row.values())
    assert log.seconds >= sum(row["seconds"] for row in log.epochs)
    assert [row["lr"] for row in log.epochs] == pytest.approx([1e-3] * 5)
    assert set(model.state_dict()) == set(build(name, model.info, width=0.1).state_dict())
    again, same, _ = pretrained(name)
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [row["loss"] for row in same.epochs] == [row["loss"] for row in log.epochs]


def test_pretraining_trains_the_convolutions_and_nothing_else():
    model = build("e-cla", DIGITS.info, width=0.1, pretrain_epochs=6, training=SHORT)
    before = {name: p.clone() for name, p in model.named_parameters()}
    log = model.pretrain(DIGITS.load("train", n=60), 1, Progress())
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (not name.startswith("encoder.0.")), name
    assert log.epochs[-1]["loss"] < log.epochs[0]["loss"]


def test_pretraining_has_its_own_learning_rate_and_seed():
    _, log, _ = pretrained(pretrain_lr=0.01)
    assert [row["lr"] for row in log.epochs] == pytest.approx([0.01] * 3 + [1e-3] * 2)
    data, states = DIGITS.load("train", n=60), []
    for seed in (1, 2):
        model = build("e-cla", data.info, width=0.1, pretrain_epochs=1, training=SHORT)
        model.pretrain(data, seed, Progress())
        states.append(model.encoder[0].state_dict())
    assert not all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("wrong", [{"pretrain_epochs": -1}, {"pretrain_lr": 0.0}])
def test_pretraining_that_makes_no_sense(wrong):
    with pytest.raises(UsageError, match="pretrain_epochs must be at least 0"):
        build("e-cla", DIGITS.info, **wrong)


# --- the codes' distance from the prior, epoch by epoch


@pytest.mark.parametrize("name", ["e-cla", "ot-cla", "ot-cla-adv"])
def test_the_log_has_the_held_out_codes_distance_from_the_prior(name):
    data = DIGITS.load("train", n=60)
    model, log, _ = pretrained(name, data, pretrain_epochs=0)
    with torch.no_grad():
        codes = model.embed(data.holdout(0.1)[1].x()).double().numpy()
    assert log.epochs[-1]["code_distance"] == pytest.approx(distance_from_prior(codes, 1))
    assert log.epochs[0]["code_distance"] != log.epochs[1]["code_distance"]


# --- adversarial training


@pytest.mark.parametrize("cls", [OTClassifierAdv, Madry])
def test_adversarial_training_attacks_the_model_in_its_present_state(cls):
    info = DIGITS.info
    settings = TrainingSettings(adversary_eps=0.2, adversary_steps=2)
    model = cls(info, training=settings, width=0.1)
    model.train()
    data = DIGITS.load("train", n=20)
    x, y, rng = data.x(), data.labels, torch.Generator().manual_seed(0)
    attack = model.attacked_images if cls is OTClassifierAdv else model.training_images
    x_adv = attack(x, y, rng)
    assert (x_adv - x).abs().max().item() == pytest.approx(0.2, abs=1e-5)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert model.training
    model.eval()
    with torch.no_grad():
        assert F.cross_entropy(model(x_adv), y) > F.cross_entropy(model(x), y)


def test_clean_training_attacks_nothing():
    x, y, rng = torch.rand(2, 1, 28, 28), torch.tensor([0, 1]), torch.Generator()
    assert OTClassifier(MNIST.info, width=0.01).attacked_images(x, y, rng) is None
    assert Undefended(MNIST.info, width=0.1).training_images(x, y, rng) is x
