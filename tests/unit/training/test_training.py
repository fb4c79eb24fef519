"""The shared training loop: log, schedule, held-out slice, reproducibility, clear failures."""

import random
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn
from toys import QUICK, TOY, Broken, Tiny, dataset, images

from benchmark.datasets import DIGITS
from benchmark.errors import TrainingError, UsageError
from benchmark.progress import Progress
from benchmark.seeding import seeded
from benchmark.training import TrainingSettings, adversarial_examples, train

# Some steps here only look: PyTorch then warns that the schedule moves before the optimiser.
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")


def digits(n=120):
    return DIGITS.load("train", n=n)


def trained(settings=QUICK, *, cls=Tiny, seed=0, n=120, **patches):
    with seeded(5):
        model = cls(DIGITS.info, training=settings)
    for name, value in patches.items():
        setattr(model, name, value)
    log = model.fit(digits(n), seed=seed, progress=Progress())
    return model, log


def settings(**changes):
    return TrainingSettings(**{**vars(QUICK), **changes})


# --- the log


def test_the_log_has_a_row_per_epoch():
    _, log = trained()
    assert [row["epoch"] for row in log.epochs] == [1, 2]
    for row in log.epochs:
        assert set(row) == {
            "epoch",
            "lr",
            "loss",
            "clean_accuracy",
            "adversarial_accuracy",
            "seconds",
        }
        assert 0 <= row["adversarial_accuracy"] <= row["clean_accuracy"] <= 1
    assert log.epochs[1]["loss"] < log.epochs[0]["loss"]
    assert log.seconds >= sum(row["seconds"] for row in log.epochs) > 0
    assert type(log)(**log.to_dict()) == log


def test_without_a_held_out_slice_the_log_has_no_accuracy():
    _, log = trained(settings(holdout=0))
    assert set(log.epochs[0]) == {"epoch", "lr", "loss", "seconds"}


def test_a_defense_may_log_and_measure_more():
    model, seen = Tiny(DIGITS.info), []

    def measure(held_out):
        assert not model.training
        seen.append(len(held_out))
        return {"extra": 3.0}

    log = train(
        model,
        digits(),
        step=lambda x, y: {"loss": torch.tensor(2.0), "gap": torch.tensor(0.5)},
        optimizers=[torch.optim.SGD(model.parameters(), lr=0.1)],
        settings=settings(epochs=1),
        seed=0,
        progress=Progress(),
        measure=measure,
    )
    assert seen == [10]
    row = log.epochs[0]
    assert (row["loss"], row["gap"], row["extra"]) == (2, 0.5, 3)


def test_the_learning_rate_halves_on_schedule():
    _, log = trained(settings(epochs=5, halve_every=2, lr=0.4))
    assert [row["lr"] for row in log.epochs] == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.1])
    _, log = trained(settings(epochs=3, halve_every=0, lr=0.4))
    assert [row["lr"] for row in log.epochs] == [0.4] * 3


def test_every_optimizer_follows_the_schedule():
    model = Tiny(DIGITS.info)
    optimizers = [torch.optim.SGD(model.parameters(), lr=lr) for lr in (1.0, 0.1)]
    rates = []

    def step(x, y):
        for optimizer in optimizers:
            optimizer.step()
        rates.append(tuple(optimizer.param_groups[0]["lr"] for optimizer in optimizers))
        return {"loss": torch.tensor(1.0)}

    short = settings(epochs=2, halve_every=1, batch_size=100)
    train(
        model,
        digits(),
        step=step,
        optimizers=optimizers,
        settings=short,
        seed=0,
        progress=Progress(),
    )
    assert rates == [(1.0, 0.1), (0.5, 0.05)]


# --- what is trained on


def visited(n, **changes):
    """The images that the steps of one epoch saw, and the model's mode at each."""
    x = (torch.arange(n) / 255).view(n, 1, 1, 1).expand(n, 1, 2, 2)
    model, seen, modes = Tiny(TOY), [], []

    def step(x, y):
        seen.append((x[:, 0, 0, 0] * 255).round().int().tolist())
        modes.append(model.training)
        return {"loss": torch.zeros(())}

    train(
        model,
        dataset(x, torch.arange(n) % 2),
        step=step,
        optimizers=[torch.optim.SGD(model.parameters(), lr=0.1)],
        settings=settings(**{"epochs": 1, **changes}),
        seed=3,
        progress=Progress(),
    )
    assert all(modes)
    assert not model.training
    return seen


def test_the_held_out_slice_is_not_trained_on():
    seen = visited(100, batch_size=30, holdout=500)  # at most a tenth
    assert [len(batch) for batch in seen] == [30, 30, 30]
    assert sorted(chain(*seen)) == list(range(90))
    assert list(chain(*seen)) != list(range(90))  # in random order


def test_fewer_images_than_a_batch_make_one_batch():
    assert [sorted(batch) for batch in visited(9, batch_size=100)] == [list(range(9))]


def test_the_remainder_of_an_epoch_is_left_out():
    seen = visited(100, batch_size=40, holdout=10)
    assert [len(batch) for batch in seen] == [40, 40]
    assert len(set(chain(*seen))) == 80


# --- reproducibility


def test_a_seed_decides_everything_and_the_global_state_is_untouched():
    states = random.getstate(), np.random.get_state()[1].tolist()
    state = torch.get_rng_state()
    data, models = digits(), []
    for seed in (1, 1, 2):
        model = Tiny(DIGITS.info)
        torch.nn.init.zeros_(model.net[1].weight)
        torch.nn.init.zeros_(model.net[1].bias)
        torch.set_rng_state(state)
        models.append((model, model.fit(data, seed=seed, progress=Progress())))
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)  # whatever happens in between
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    (first, log), (again, same_log), (other, _) = models
    assert torch.equal(first.net[1].weight, again.net[1].weight)
    assert not torch.equal(first.net[1].weight, other.net[1].weight)
    assert [r["loss"] for r in log.epochs] == [r["loss"] for r in same_log.epochs]


def test_adversarial_examples_lie_in_ball_and_box_and_raise_the_loss():
    model, _ = trained()
    model.train()
    x, y = digits(50).x(), digits(50).labels
    short = settings(adversary_eps=0.1, adversary_steps=3)
    x_adv = adversarial_examples(model, x, y, short, torch.Generator().manual_seed(0))
    assert (x_adv - x).abs().max() <= 0.1 + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert model.loss(x_adv, y) > model.loss(x, y)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


# --- failures


def test_a_loss_that_is_no_number_stops_with_class_and_epoch():
    with pytest.raises(TrainingError, match=r"^Broken: the loss is not finite \(epoch 1, "):
        trained(cls=Broken)


def test_a_loss_that_breaks_later_names_that_epoch():
    class Late(Tiny):
        def loss(self, x, y):
            loss = super().loss(x, y)
            self.calls = getattr(self, "calls", 0) + 1
            return loss * torch.inf if self.calls > 5 else loss  # five batches an epoch

    with pytest.raises(TrainingError, match=r"^Late: .* \(epoch 2, by batch 5\)"):
        trained(cls=Late)


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(UsageError, match="unknown training setting 'epoch'; did you mean 'epochs'"):
        TrainingSettings.build({"epoch": 3})


def test_settings_are_built_from_a_table():
    built = TrainingSettings.build({"epochs": 3, "adversary_eps": 0.2, "adversary_steps": 4})
    assert (built.epochs, built.batch_size) == (3, 100)
    assert built.adversary.steps == 4
    assert not built.adversary.early_stop


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"adversary_steps": 0}, "at least 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"adversary_eps": 1.5}, "adversary: eps 1.5 is above 1"),
        ({"adversary_eps": -0.1}, "adversary: eps -0.1 is negative"),
    ],
)
def test_settings_that_make_no_sense(wrong, message):
    with pytest.raises(UsageError, match=message):
        TrainingSettings(**wrong)


def test_augmentation_is_for_datasets_that_ask_for_it():
    seen = []

    def step(x, y):
        seen.append(x)
        return {"loss": torch.zeros(())}

    plain = dataset(images(40, (3, 8, 8)), torch.arange(40) % 2)
    asks = type(plain.info)("toy", (3, 8, 8), 2, ("0", "1"), augment=True)
    for info, wanted in ((plain.info, True), (asks, True), (asks, False)):
        model = Tiny(info)
        data = type(plain)(**{**vars(plain), "info": info})
        train(
            model,
            data,
            step=step,
            optimizers=[torch.optim.SGD(model.parameters(), lr=0.1)],
            settings=settings(epochs=1, batch_size=40, holdout=0, augment=wanted),
            seed=0,
            progress=Progress(),
        )
    never, augmented, switched_off = (x.sum(0) for x in seen)
    assert torch.allclose(never, switched_off, atol=1e-4)  # in another order
    assert not torch.allclose(never, augmented, atol=1e-2)


def test_a_model_without_a_gradient_is_trained_without_its_accuracy_under_attack():
    class Labels(Tiny):
        def forward(self, x):
            return nn.functional.one_hot(super().forward(x).argmax(1), self.info.n_classes).float()

        def loss(self, x, y):
            return nn.functional.cross_entropy(self.net(x), y)

    _, log = trained(cls=Labels)
    assert "clean_accuracy" in log.epochs[-1]
    assert "adversarial_accuracy" not in log.epochs[-1]
