"""The registered defenses: shapes, the paper's networks, and Algorithm 1 update by update."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import images

from baselines.madry import Madry
from baselines.undefended import Undefended
from benchmark.datasets import CIFAR10, DIGITS, FASHION_MNIST, MNIST, STL10, TINY_IMAGENET
from benchmark.errors import UsageError
from benchmark.losses import margin
from benchmark.plan import load_defense
from benchmark.progress import Progress
from benchmark.registry import DEFENSES
from benchmark.seeding import seeded
from benchmark.training import TrainingSettings
from benchmark.view import attack_view, clamps_input
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
def test_logits_labels_and_codes_for_every_dataset(name, info):
    model = build(name, info)
    x = images(2, info.shape)
    with torch.no_grad():
        logits, labels, codes = model(x), model.predict(x), model.embed(x)
    assert logits.shape == (2, info.n_classes)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert labels.dtype == torch.int64
    assert torch.equal(labels, logits.argmax(1))
    assert torch.equal(model.surrogate(x), logits)
    if name in ("undefended", "madry"):
        assert codes is None
    else:
        assert codes.shape == (2, 16)


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
    assert isinstance(list(critic)[-1], nn.LogSigmoid)


def test_architectures_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="unknown architecture 'conv5'; did you mean"):
        EncoderClassifier(MNIST.info, architecture="conv5", width=0.1)
    with pytest.raises(UsageError, match="vgg16 takes colour images"):
        EncoderClassifier(MNIST.info, architecture="vgg16", width=0.1)
    with pytest.raises(UsageError, match="conv6 takes square images of 64 or 96 pixels"):
        EncoderClassifier(CIFAR10.info, architecture="conv6", width=0.1)


# --- Algorithm 1, update by update, on linear modules and with plain gradient steps

LR, LAM, CLIP = 0.1, 0.5, 0.3
X = torch.tensor([[0.2, 0.9], [0.7, 0.1], [0.4, 0.5]]).view(3, 1, 1, 2)
ATTACKED = (X + torch.tensor([0.1, -0.05]).view(1, 1, 1, 2)).clamp(0, 1)
Y = torch.tensor([0, 1, 1])
Z = torch.tensor([[1.0], [-0.5], [0.3]])


@pytest.fixture
def model():
    """Q(x) = q.x, D(z) = sigmoid(d z + e), C(z) = [0, c z]."""
    built = OTClassifier(MNIST.info, width=0.01, code_dim=1, lam=LAM, clip=CLIP)
    built.encoder = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
    built.classifier = nn.Linear(1, 2, bias=False)
    built.discriminator = nn.Sequential(nn.Linear(1, 1), nn.LogSigmoid())
    with torch.no_grad():
        built.encoder[1].weight.copy_(torch.tensor([[0.8, -0.4]]))
        built.classifier.weight.copy_(torch.tensor([[0.0], [1.5]]))
        built.discriminator[0].weight.fill_(0.2)
        built.discriminator[0].bias.fill_(-0.1)
    return built


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=LR)


def log_d(codes, weight=0.2, bias=-0.1):
    return F.logsigmoid(weight * codes + bias)


def test_discriminator_ascends_the_gap(model):
    codes = model.encoder(X).detach()
    gap = model.update_discriminator(sgd(model.discriminator), Z, codes)
    assert gap.item() == pytest.approx((log_d(Z).mean() - log_d(codes).mean()).item())
    assert not gap.requires_grad
    # d/dw log sigmoid(w z + b) = (1 - sigmoid(w z + b)) z, and the same without z for b.
    slope_z, slope_c = (torch.sigmoid(-(0.2 * codes - 0.1)) for codes in (Z, codes))
    weight = 0.2 + LR * LAM * ((slope_z * Z).mean() - (slope_c * codes).mean())
    bias = -0.1 + LR * LAM * (slope_z.mean() - slope_c.mean())
    after = model.discriminator[0]
    assert after.weight.item() == pytest.approx(weight.item(), rel=1e-5)
    assert after.bias.item() == pytest.approx(bias.item(), rel=1e-5)
    log_prior, log_codes = (log_d(codes, after.weight, after.bias) for codes in (Z, codes))
    assert log_prior.mean() - log_codes.mean() > gap


def test_discriminator_is_clipped_after_its_update(model):
    with torch.no_grad():
        model.discriminator[0].weight.fill_(5.0)
        model.discriminator[0].bias.fill_(-5.0)
    model.update_discriminator(sgd(model.discriminator), Z, model.encoder(X).detach())
    assert model.discriminator[0].weight.item() == pytest.approx(CLIP)
    assert model.discriminator[0].bias.item() == pytest.approx(-CLIP)


def test_encoder_ascends_log_d_of_its_codes_and_nothing_else_moves(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.update_encoder(sgd(model.encoder), X)
    codes = X.flatten(1) @ torch.tensor([0.8, -0.4])
    slope = torch.sigmoid(-(0.2 * codes - 0.1)) * 0.2
    expected = torch.tensor([0.8, -0.4]) + LR * LAM * (slope[:, None] * X.flatten(1)).mean(0)
    assert torch.allclose(model.encoder[1].weight.flatten(), expected, rtol=1e-5)
    assert log_d(model.encoder(X)).mean() > log_d(codes).mean()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (not name.startswith("encoder"))


def test_lambda_0_regularises_nothing(model):
    model.lam = 0.0
    before = [p.clone() for p in model.parameters()]
    model.update_discriminator(sgd(model.discriminator), Z, model.encoder(X).detach())
    model.update_encoder(sgd(model.encoder), X)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def softplus_loss(x, y):
    """Cross-entropy of [0, c q.x], by hand."""
    score = 1.5 * (x.flatten(1) @ torch.tensor([0.8, -0.4]))
    return F.softplus(torch.where(y == 1, -score, score)).mean()


def test_classification_descends_the_cross_entropy(model):
    codes, loss = model.classification(X, None, Y)
    assert torch.equal(codes, model.encoder(X))
    assert loss.item() == pytest.approx(softplus_loss(X, Y).item(), rel=1e-5)
    q, c = sgd(model.encoder), sgd(model.classifier)
    loss.backward()
    q.step()
    c.step()
    x, score = X.flatten(1), 1.5 * (X.flatten(1) @ torch.tensor([0.8, -0.4]))
    slope = torch.sigmoid(score) - Y  # of the cross-entropy to the score
    encoder = torch.tensor([0.8, -0.4]) - LR * (slope[:, None] * 1.5 * x).mean(0)
    classifier = 1.5 - LR * (slope * score / 1.5).mean()
    assert torch.allclose(model.encoder[1].weight.flatten(), encoder, rtol=1e-5)
    assert model.classifier.weight[1].item() == pytest.approx(classifier.item(), rel=1e-5)
    assert softplus_loss(X, Y) > model.classification(X, None, Y)[1]


def test_with_adversarial_training_the_loss_is_the_mean_of_clean_and_adversarial(model):
    codes, loss = model.classification(X, ATTACKED, Y)
    expected = (softplus_loss(X, Y) + softplus_loss(ATTACKED, Y)) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(codes, model.encoder(ATTACKED))  # what the regulariser sees


def test_a_training_step_is_the_three_updates_in_order(model, monkeypatch):
    order = []
    for name in ("classification", "update_discriminator", "update_encoder"):
        original = getattr(model, name)

        def noted(*args, name=name, original=original):
            order.append(name)
            return original(*args)

        monkeypatch.setattr(model, name, noted)
    data = DIGITS.load("train", n=12)
    model.settings = TrainingSettings(epochs=1, batch_size=12, holdout=0)
    model.encoder[1] = nn.Linear(784, 1, bias=False)
    model.classifier = nn.Linear(1, 10)
    log = model.fit(data, seed=0, progress=Progress())
    assert order == ["classification", "update_discriminator", "update_encoder"]
    assert "code_gap" in log.epochs[0]
    assert all(p.abs().max() <= CLIP for p in model.discriminator.parameters())


@pytest.mark.parametrize("cls", [OTClassifierAdv, Madry])
def test_adversarial_training_attacks_the_model_as_it_stands(cls):
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
