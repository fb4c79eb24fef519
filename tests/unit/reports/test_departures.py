"""Where a run departs from the paper by design: every line known, and settings decide their own."""

import inspect
from dataclasses import replace

import pytest
import torch
from fake_runs import fake_run
from pages import Page
from toys import SmallCNN, dataset, images

from baselines.rse import RSE
from benchmark.attacks import pgd
from benchmark.execution.plan import plan
from benchmark.progress import Progress
from benchmark.registry import DATASETS
from benchmark.training import TrainingSettings, adversarial_examples, train
from defenses.ot_classifier import OTClassifier
from reports.html import write_report
from reports.paper import departures as listed
from reports.paper.departures import departures

pytestmark = pytest.mark.usefixtures("undrawn")


def found(spec):
    return {d.what: d for d in departures(spec)}


def paper(name="mnist", **options):
    return plan(dataset=name, preset="paper", device="cpu", **options)


def with_training(spec, **changes):
    return replace(
        spec,
        defenses=tuple(
            replace(d, params={**d.params, "training": {**d.params["training"], **changes}})
            for d in spec.defenses
        ),
    )


def with_options(spec, **changes):
    """The same run whose attacks were given ``changes``."""
    attacks = tuple(replace(a, params={**a.params, **changes}) for a in spec.attacks)
    return replace(spec, attacks=attacks)


# --- the preset's own


def test_the_paper_preset_names_each_departure_on_mnist():
    own = found(paper())
    start = own["start of PGD"]
    assert "x⁰ = x_o" in start.theirs
    assert "random point of the ball (pgd, " in start.here
    lam = own["lambda on D’s loss"]
    assert "D’s loss weighs 1, the encoder’s term 0.0005" in lam.theirs
    assert "0.0005 (ot-cla), 0.0005 (ot-cla-adv)" in lam.here
    images = own["images trained on"].here
    assert "500 of 60000 held out" in images
    assert "those that fill no batch of 100, 0 here (every defense)" in images
    adversary = own["adversary of training"].here
    assert "best iterate" in adversary
    assert "evaluation mode (madry, ot-cla-adv)" in adversary
    assert "last iterate" in own["what PGD returns"].theirs
    assert own["step size of l∞ PGD"].here.startswith("0.02 (pgd, ")
    assert "100 epochs, the rate halved every 30" in own["epochs and learning rate"].here
    assert {"mode while training", "gradients within a batch", "label attacked"} <= set(own)
    assert not any(what.startswith("augmentation") for what in own)
    assert all(all((d.source, d.theirs, d.here, d.effect)) for d in own.values())
    assert {d.source for d in own.values()} <= set(listed.SOURCES)


@pytest.mark.parametrize(
    ("name", "title", "theirs"),
    [
        ("cifar10", "CIFAR10", "the scripts crop and flip for the OT-Classifier"),
        ("stl10", "STL10", "the scripts crop and flip for the OT-Classifier"),
        ("tiny_imagenet", "Tiny Imagenet", "no script for Tiny Imagenet was published"),
    ],
)
def test_augmentation_is_named_where_there_is_any(name, title, theirs):
    own = found(paper(name))[f"augmentation of {title}"]
    assert theirs in own.theirs
    assert "random crop with padding 4 and horizontal flip (every defense" in own.here


def test_what_a_datasets_scripts_and_mirror_have_otherwise():
    stl10, tiny, cifar10 = (found(paper(name)) for name in ("stl10", "tiny_imagenet", "cifar10"))
    assert (stl10["batch size"].theirs, stl10["step size of l∞ PGD"].theirs[:6]) == ("64", "0.0078")
    assert "500 of 5000 held out" in stl10["images trained on"].here
    assert tiny["training images"].theirs == "100,000 (section 4)"
    assert "70,000" in tiny["training images"].here
    assert "vgg16 with batch norm" in cifar10["encoder on CIFAR10"].here
    assert "training images" not in cifar10


# --- settings decide


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("start of PGD", lambda s: with_options(s, random_start=False)),
        ("what PGD returns", lambda s: with_options(s, return_last=True)),
        ("one search for all eps", lambda s: replace(s, exact=True)),
        ("one search for all eps", lambda s: with_options(s, steps=9)),
        ("images trained on", lambda s: with_training(s, holdout=0)),
        ("augmentation of STL10", lambda s: with_training(s, augment=False)),
        ("batch size", lambda s: with_training(s, batch_size=64)),
        (
            "step size of l∞ PGD",
            lambda s: with_training(with_options(s, step_size=0.0078), adversary_step_size=0.0078),
        ),
        (
            "lambda on D’s loss",
            lambda s: replace(
                s, defenses=tuple(replace(d, params={**d.params, "lam": 1.0}) for d in s.defenses)
            ),
        ),
    ],
)
def test_a_setting_that_does_as_the_paper_takes_its_line_away(what, change):
    spec = paper("stl10")
    assert what in found(spec)
    assert what not in found(change(spec))


def test_the_epochs_of_the_scripts_at_a_constant_rate_are_no_departure():
    spec = with_training(paper(defenses=("ot-cla",)), epochs=30, halve_every=0)
    assert "epochs and learning rate" not in found(spec)
    assert "20 epochs" in found(with_training(spec, epochs=20))["epochs and learning rate"].here


def test_defenses_and_attacks_that_a_run_lacks_have_no_line():
    own = found(paper(defenses=("undefended",), attacks=("fgsm",)))
    lacking = {"lambda on D’s loss", "adversary of training", "start of PGD", "RSE’s noise"}
    lacking |= {"C&W’s change of variables", "attacks on RSE and Defense-GAN"}
    assert not lacking & set(own)


@pytest.mark.parametrize("value", ["many", None, [1], float("nan"), True, 0])
def test_a_strangers_settings_do_not_stop_the_list(value):
    spec = with_training(paper("cifar10"), batch_size=value, holdout=value, epochs=value, lr=value)
    assert departures(with_options(spec, step_size=value, random_start=value, steps=value))


# --- what the list says is what the harness does


def test_the_defaults_are_the_classes_own():
    settings, attack = TrainingSettings(), pgd.PGD()
    for name, value in listed.TRAINING_DEFAULTS.items():
        assert getattr(settings, name) == value, name
    for name, value in listed.PGD_DEFAULTS.items():
        assert getattr(attack, name) == value, name
    for cls, defaults in ((OTClassifier, listed.OT_DEFAULTS), (RSE, listed.RSE_DEFAULTS)):
        options = inspect.signature(cls).parameters
        assert {name: options[name].default for name in defaults} == defaults
    assert pgd.FEWEST_STEPS == listed.FEWEST_STEPS
    assert (settings.adversary.random_start, settings.adversary.return_last) == (True, False)
    names = ("mnist", "cifar10", "stl10", "tiny_imagenet")
    augmented = tuple(name for name in names if DATASETS.load(name).info.augment)
    assert augmented == listed.AUGMENTED


def test_training_holds_out_and_leaves_out_what_the_list_says():
    data = dataset(images(137), torch.zeros(137, dtype=torch.int64), n_classes=3)
    model, seen = SmallCNN(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(x, y):
        seen.append(len(x))
        optimizer.step()
        return {"loss": torch.zeros(())}

    settings = TrainingSettings(epochs=1, batch_size=10, adversary_steps=1)
    options = {"settings": settings, "seed": 0, "progress": Progress()}
    train(model, data, step=step, optimizers=[optimizer], **options)
    assert sum(seen) == 137 - 13 - 4
    spec = with_training(replace(paper(defenses=("madry",)), n_train=137), batch_size=10)
    words = found(spec)["images trained on"].here
    assert words.startswith("13 of 137 held out")
    assert "no batch of 10, 4 here" in words


def test_the_adversary_of_training_attacks_in_evaluation_mode():
    modes = []

    class Watched(SmallCNN):
        def forward(self, x):
            modes.append(self.training or self.net[1].training)
            return super().forward(x)

    model = Watched().train()
    y = torch.zeros(4, dtype=torch.int64)
    rng = torch.Generator().manual_seed(0)
    adversarial_examples(model, images(4), y, TrainingSettings(adversary_steps=3), rng)
    assert modes
    assert not any(modes)
    assert model.training


# --- the page


def test_the_report_prints_the_list_beside_the_settings_that_differ(tmp_path):
    spec = plan(dataset="digits", preset="smoke", device="cpu", defenses=("madry",), seeds=(0,))
    spec = replace(spec, attacks=spec.attacks[:1], code_map=None)
    words = Page(write_report([fake_run(tmp_path, spec)]).read_text("utf-8")).words
    assert "settings differ from the paper’s protocol" in words
    assert "training.epochs 10 100" in words
    assert f"{len(departures(spec))} ways in which this run departs" in words
    for departure in departures(spec):
        for text in (departure.what, departure.theirs, departure.here, departure.effect):
            assert " ".join(text.split()) in words
