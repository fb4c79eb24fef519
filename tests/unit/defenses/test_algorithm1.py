"""Algorithm 1, update by update, against gradients and Adam steps written out by hand.

On Q(x) = q.x, D(z) = sigmoid(d z + e) and C(z) = softmax(c0 z, c1 z) every gradient is a short
formula. Plain gradient steps show its sign and scale; Adam, which divides the scale away, is then
followed over two whole batches.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmark.datasets import DIGITS, MNIST
from benchmark.errors import UsageError
from benchmark.progress import Progress
from benchmark.training import TrainingSettings
from defenses.ot_classifier import DIVERGENCES, OTClassifier

LR, LAM, CLIP = 0.1, 0.5, 0.21
X = torch.tensor([[0.2, 0.9], [0.7, 0.1], [0.4, 0.5]]).view(3, 1, 1, 2)
ATTACKED = (X + torch.tensor([0.1, -0.05]).view(1, 1, 1, 2)).clamp(0, 1)
Y = torch.tensor([0, 1, 1])
Z = torch.tensor([[1.0], [-0.5], [0.3]])

START = {"q": [0.8, -0.4], "c": [-0.3, 1.2], "d": [0.2, -0.1]}


def build(**options):
    settings = TrainingSettings(lr=LR)
    options = {"code_dim": 1, "lam": LAM, "clip": CLIP, **options}
    built = OTClassifier(MNIST.info, training=settings, width=0.01, **options)
    built.encoder = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
    built.classifier = nn.Linear(1, 2, bias=False)
    built.discriminator = nn.Sequential(nn.Linear(1, 1))
    with torch.no_grad():
        built.encoder[1].weight.copy_(torch.tensor([START["q"]]))
        built.classifier.weight.copy_(torch.tensor(START["c"])[:, None])
        for parameter, value in zip(built.discriminator.parameters(), START["d"], strict=True):
            parameter.fill_(value)
    return built


def values(model):
    """The parameters as {"q", "c", "d"}: arrays of the order of START."""
    parts = {"q": model.encoder, "c": model.classifier, "d": model.discriminator}
    return {
        name: torch.cat([p.detach().flatten() for p in part.parameters()]).double().numpy().copy()
        for name, part in parts.items()
    }


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=LR)


# --- the gradients by hand: of what each line ascends, or descends


def sigmoid(score):
    return 1 / (1 + np.exp(-score))


def ascent_of_d(d, z, embeddings, divergence):
    """Of mean log D(z) - mean log D(z~), or of mean log D(z) + mean log(1 - D(z~)), to d and e."""
    prior, ours = 1 - sigmoid(d[0] * z + d[1]), sigmoid(d[0] * embeddings + d[1])
    if divergence == "wasserstein":
        ours = 1 - ours
    return np.array(
        [np.mean(prior * z) - np.mean(ours * embeddings), np.mean(prior) - np.mean(ours)]
    )


def descent_of_q_and_c(q, c, x, y):
    """Of the mean cross-entropy, to q and to c."""
    embeddings = x @ q
    logits = embeddings[:, None] * c
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slope = p - np.eye(2)[y]
    return np.mean((slope @ c)[:, None] * x, 0), np.mean(slope * embeddings[:, None], 0)


def ascent_of_q(q, d, x):
    """Of mean log D(q.x), to q."""
    slope = (1 - sigmoid(d[0] * (x @ q) + d[1])) * d[0]
    return np.mean(slope[:, None] * x, 0)


def flat(x):
    return x.flatten(1).double().numpy()


# --- line 7


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_line_7_ascends_what_d_maximises_scaled_by_lambda(divergence):
    model = build(divergence=divergence, clip=10.0)
    embeddings = model.encoder(X).detach()
    estimate = model.update_discriminator(sgd(model.discriminator), Z, embeddings)
    z, ours = flat(Z)[:, 0], flat(embeddings)[:, 0]
    gradient = ascent_of_d(np.array(START["d"]), z, ours, divergence)
    after = values(model)
    assert after["d"] == pytest.approx(np.array(START["d"]) + LR * LAM * gradient, rel=1e-5)
    assert after["q"] == pytest.approx(START["q"])
    assert after["c"] == pytest.approx(START["c"])
    log_d = [np.log(sigmoid(0.2 * value - 0.1)) for value in (z, ours)]
    expected = {
        "wasserstein": log_d[0].mean() - log_d[1].mean(),
        "jensen-shannon": np.log(2) + (log_d[0] + np.log(1 - np.exp(log_d[1]))).mean() / 2,
    }[divergence]
    assert estimate.item() == pytest.approx(expected, rel=1e-5)
    assert not estimate.requires_grad


def test_line_7_clips_weights_and_biases_after_the_update():
    model = build()
    with torch.no_grad():
        model.discriminator[0].weight.fill_(5.0)
        model.discriminator[0].bias.fill_(-5.0)
    model.update_discriminator(sgd(model.discriminator), Z, model.encoder(X).detach())
    assert values(model)["d"] == pytest.approx([CLIP, -CLIP])


def test_jensen_shannon_does_not_clip():
    model = build(divergence="jensen-shannon")
    with torch.no_grad():
        model.discriminator[0].weight.fill_(5.0)
    model.update_discriminator(sgd(model.discriminator), Z, model.encoder(X).detach())
    assert values(model)["d"][0] > 4


def test_jensen_shannon_estimates_the_divergence_of_known_distributions():
    """Prior embeddings at 1, own embeddings at -1: the best D tells them apart, and JS is log 2."""
    model = build(divergence="jensen-shannon")
    ones = torch.ones(4, 1)
    for weight, expected in ((50.0, np.log(2)), (0.0, 0.0)):
        with torch.no_grad():
            model.discriminator[0].weight.fill_(weight)
            model.discriminator[0].bias.fill_(0.0)
        estimate = model.update_discriminator(sgd(model.discriminator), ones, -ones)
        assert estimate.item() == pytest.approx(expected, abs=1e-6)


# --- line 8


def test_line_8_descends_the_cross_entropy_of_q_and_c():
    model = build()
    embeddings, loss = model.classification(X, None, Y)
    assert torch.equal(embeddings, model.encoder(X))
    model.update_classification(sgd(model.encoder), sgd(model.classifier), loss)
    to_q, to_c = descent_of_q_and_c(np.array(START["q"]), np.array(START["c"]), flat(X), Y.numpy())
    after = values(model)
    assert after["q"] == pytest.approx(START["q"] - LR * to_q, rel=1e-5)
    assert after["c"] == pytest.approx(START["c"] - LR * to_c, rel=1e-5)
    assert after["d"] == pytest.approx(START["d"])


def test_with_adversarial_training_the_loss_is_the_mean_of_clean_and_adversarial():
    model = build()
    embeddings, loss = model.classification(X, ATTACKED, Y)
    clean, attacked = (F.cross_entropy(model(images), Y) for images in (X, ATTACKED))
    assert loss.item() == pytest.approx((clean.item() + attacked.item()) / 2, rel=1e-6)
    assert torch.equal(embeddings, model.encoder(ATTACKED))  # what the regulariser sees


# --- line 9


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_line_9_ascends_log_d_of_the_embeddings_and_moves_q_alone(divergence):
    model = build(divergence=divergence)
    model.update_encoder(sgd(model.encoder), X)
    gradient = ascent_of_q(np.array(START["q"]), START["d"], flat(X))
    after = values(model)
    assert after["q"] == pytest.approx(START["q"] + LR * LAM * gradient, rel=1e-5)
    assert after["c"] == pytest.approx(START["c"])
    assert after["d"] == pytest.approx(START["d"])


def test_lambda_0_regularises_nothing():
    model = build(lam=0.0)
    model.update_discriminator(sgd(model.discriminator), Z, model.encoder(X).detach())
    model.update_encoder(sgd(model.encoder), X)
    after = values(model)
    assert all(after[name] == pytest.approx(START[name]) for name in START)


# --- whole batches, with the defense's own Adam


class HandAdam:
    """Kingma and Ba 2014, algorithm 1, with PyTorch's defaults."""

    def __init__(self, lr, beta1):
        self.lr, self.beta1, self.t, self.m, self.v = lr, beta1, 0, 0.0, 0.0

    def descend(self, value, gradient):
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        m, v = self.m / (1 - self.beta1**self.t), self.v / (1 - 0.999**self.t)
        return value - self.lr * m / (np.sqrt(v) + 1e-8)


def by_hand(batches, *, lam, divergence, beta1, classifier_lr, discriminator_lr):
    """Parameters after each batch (x, attacked or None, y, z) of Algorithm 1."""
    q, c, d = (np.array(START[name]) for name in "qcd")
    adam_q, adam_c, adam_d = (
        HandAdam(LR * factor, beta1) for factor in (1, classifier_lr, discriminator_lr)
    )
    after = []
    for x, attacked, y, z in batches:
        seen = x if attacked is None else attacked
        d_new = adam_d.descend(d, -lam * ascent_of_d(d, z, seen @ q, divergence))
        if divergence == "wasserstein":
            d_new = d_new.clip(-CLIP, CLIP)
        parts = [descent_of_q_and_c(q, c, images, y) for images in (x, seen)]
        to_q, to_c = (np.mean(both, 0) for both in zip(*parts, strict=True))
        d, q, c = d_new, adam_q.descend(q, to_q), adam_c.descend(c, to_c)
        q = adam_q.descend(q, -lam * ascent_of_q(q, d, seen))
        after.append({"q": q, "c": c, "d": d})
    return after


@pytest.mark.parametrize("attacked", [None, ATTACKED], ids=["clean", "adversarial"])
# Adam hides a factor of the gradient, unless the gradient is about as small as Adam's 1e-8.
@pytest.mark.parametrize("lam", [LAM, 2e-8])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("beta1", [0.9, 0.2])
def test_two_batches_are_the_three_adam_steps_by_hand(
    divergence, beta1, lam, attacked, monkeypatch
):
    rates = {"classifier_lr": 0.3, "discriminator_lr": 0.5, "beta1": beta1}
    model = build(divergence=divergence, lam=lam, **rates)
    monkeypatch.setattr(model, "attacked_images", lambda x, y, rng: attacked)
    step, optimizers = model.algorithm(torch.Generator().manual_seed(3))
    assert [o.param_groups[0]["lr"] for o in optimizers] == pytest.approx([LR, LR * 0.3, LR * 0.5])
    same = torch.Generator().manual_seed(3)
    batches, found = [], []
    for y in (Y, 1 - Y):
        z = torch.randn(3, 1, generator=same)
        batches.append(
            (flat(X), None if attacked is None else flat(attacked), y.numpy(), flat(z)[:, 0])
        )
        logged = step(X, y)
        assert set(logged) == {"loss", "code_gap"}
        assert not any(value.requires_grad for value in logged.values())
        found.append(values(model))
    expected = by_hand(batches, lam=lam, divergence=divergence, **rates)
    for mine, hand in zip(found, expected, strict=True):
        for name in START:
            assert mine[name] == pytest.approx(hand[name], abs=2e-6), name
    if lam == LAM:
        clipped = np.abs(expected[0]["d"]) == CLIP
        assert clipped.any() == (divergence == "wasserstein")
        assert not clipped.all()


def test_fit_runs_the_algorithm_and_leaves_a_clipped_discriminator():
    data = DIGITS.load("train", n=40)
    model = OTClassifier(
        data.info,
        training=TrainingSettings(epochs=2, batch_size=10, holdout=0),
        width=0.01,
        code_dim=2,
        clip=0.02,
    )
    before = [p.clone() for p in model.parameters()]
    log = model.fit(data, seed=0, progress=Progress())
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert all(p.abs().max() <= model.clip for p in model.discriminator.parameters())
    assert all("code_gap" in row for row in log.epochs)


# --- options


def test_an_unknown_divergence_names_the_nearest():
    with pytest.raises(UsageError, match="'jensen-shanon'; did you mean 'jensen-shannon'"):
        build(divergence="jensen-shanon")


@pytest.mark.parametrize(
    "wrong", [{"lam": -0.1}, {"lam": float("nan")}, {"clip": 0.0}, {"beta1": 1.0}, {"beta1": -0.1}]
)
def test_options_that_make_no_sense(wrong):
    with pytest.raises(UsageError, match="must be at least 0 and"):
        build(**wrong)


def test_the_defaults_are_the_authors_and_adams():
    model = OTClassifier(MNIST.info, width=0.01)
    assert (model.clip, model.discriminator_lr, model.classifier_lr) == (0.01, 0.5, 0.05)
    assert (model.divergence, model.beta1, model.pretrain_epochs) == ("wasserstein", 0.9, 0)
