"""Other libraries' attacks: the same images where the settings match, names, failures, versions."""

import json
from dataclasses import fields

import pytest
import torch
from torch import nn
from toys import Linear, SmallCNN, images, pixels

from baselines.undefended import Undefended
from benchmark.attacks.base import MinimalAttack
from benchmark.attacks.loader import load_attack
from benchmark.attacks.norms import distance
from benchmark.attacks.peers import library as peers_library
from benchmark.attacks.pgd import FGSM, PGD, PGDL2
from benchmark.attacks.view import attack_view
from benchmark.config.attack_syntax import parse_named, split_words
from benchmark.datasets import MNIST
from benchmark.errors import UsageError
from benchmark.execution.plan import plan
from benchmark.execution.runner import run as run_spec
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.registry import LIBRARIES
from benchmark.results.provenance import attack_versions
from benchmark.seeding import generator, seeded
from benchmark.testing import GREY, check_attack
from benchmark.training import TrainingSettings

PEERS = ("art", "torchattacks", "foolbox")
RUN = {"dataset": "digits", "preset": "smoke", "device": "cpu", "defenses": ["toys:Tiny"]}


class CNN(Defense):
    """An untrained network on 28x28 images."""

    def __init__(self):
        super().__init__(GREY)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(
                *(nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 16, 5, 2), nn.ReLU()),
                *(nn.Flatten(), nn.Linear(256, 10)),
            )
        self.eval()

    def forward(self, x):
        return self.net(x)


def adapter(library, name):
    found = LIBRARIES.load(library)
    if not found.available:
        pytest.skip(f"{library} is not installed")
    return found.attack(name)


def search(attack, defense, x, y, **eps):
    """Return the images that ``attack`` finds, and its forwards and backwards per sample."""
    with seeded(1), attack_view(defense, len(x)) as view:
        return attack.run(view, x, y, generator=generator(2), **eps), *view.counts()


# --- the same images ---------------------------------------------------------------------------

MATCHED = {"steps": 10, "random_start": False}
LAST = {"early_stop": False, "return_last": True}


def check_identical(defense, x, y, library, eps, **settings):
    ours, _, _ = search(PGD(**MATCHED, **LAST, **settings), defense, x, y, eps=eps)
    theirs, _, _ = search(adapter(library, "pgd")(**MATCHED, **settings), defense, x, y, eps=eps)
    assert torch.equal(ours, theirs)
    assert (distance(ours, x, "linf") > 0.99 * eps).all()


# As many images as a power of two: some libraries ascend the mean loss of the batch, we the sum.
# Their gradients then differ by an exact factor, and so by no sign of an entry near 0.
@pytest.mark.parametrize("library", PEERS)
@pytest.mark.parametrize("n", [1, 16, 64])
def test_pgd_is_bit_identical_on_an_untrained_model(library, n):
    defense, x = CNN(), images(n, (1, 28, 28))
    check_identical(defense, x, defense.predict(x), library, 0.1)
    check_identical(defense, x, defense.predict(x), library, 0.3, step_size=0.07)


@pytest.mark.parametrize("library", PEERS)
def test_pgd_of_any_number_of_images_is_identical_but_for_signs_in_doubt(library):
    defense, x = CNN(), images(23, (1, 28, 28))
    y = defense.predict(x)
    ours, _, _ = search(PGD(**MATCHED, **LAST), defense, x, y, eps=0.1)
    theirs, _, _ = search(adapter(library, "pgd")(**MATCHED), defense, x, y, eps=0.1)
    assert (ours != theirs).sum() <= 5  # of 18,032 pixels


@pytest.fixture(scope="module")
def mnist(data_dir):
    """A small network trained on MNIST for a moment, and 256 test images."""
    train_set = MNIST.load("train", n=2000, data_dir=data_dir, device="cpu")
    test_set = MNIST.load("test", n=256, data_dir=data_dir, device="cpu")
    with seeded(0):
        settings = TrainingSettings(epochs=3, batch_size=50, lr=2e-3, holdout=50)
        defense = Undefended(train_set.info, training=settings, width=0.4)
    defense.to(memory_format=torch.channels_last)
    with seeded(0):
        defense.fit(train_set, seed=0, progress=Progress())
    x, y = test_set.x(slice(256)), test_set.labels[:256]
    defense.eval()
    assert (defense.predict(x) == y).float().mean() > 0.9
    return defense, x, y


@pytest.mark.parametrize("library", PEERS)
def test_pgd_is_bit_identical_on_mnist(mnist, library):
    check_identical(*mnist, library, 0.2)


@pytest.mark.parametrize("library", PEERS)
def test_pgd_l2_agrees_where_the_box_does_not_bind(library):
    defense, x = CNN(), 0.4 + 0.2 * torch.rand(16, 1, 28, 28, generator=generator(3))
    y = defense.predict(x)
    settings = MATCHED | {"step_size": 0.1}
    ours, _, _ = search(PGDL2(**settings, **LAST), defense, x, y, eps=0.5)
    theirs, _, _ = search(adapter(library, "pgd-l2")(**settings), defense, x, y, eps=0.5)
    assert ours.min() > 0
    assert ours.max() < 1
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, x, atol=1e-2)


@pytest.mark.parametrize("name", ["pgd", "pgd-l2"])
def test_foolbox_and_inhouse_agree_from_the_same_random_start(name):
    cls = adapter("foolbox", name)
    assert cls.shares_start
    defense, x = CNN(), 0.4 + 0.2 * torch.rand(16, 1, 28, 28, generator=generator(3))
    y = defense.predict(x)
    inhouse = {"pgd": PGD, "pgd-l2": PGDL2}[name](steps=5, **LAST)
    ours, _, _ = search(inhouse, defense, x, y, eps=0.1)
    theirs, _, _ = search(cls(steps=5), defense, x, y, eps=0.1)
    assert torch.allclose(ours, theirs, atol=1e-6)
    if name == "pgd":
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("library", PEERS)
@pytest.mark.parametrize("name", ["pgd", "pgd-l2", "cw"])
def test_adapters_conform(library, name):
    settings = {"steps": 20, "lr": 0.1} if name == "cw" else {"steps": 10}
    if name == "cw" and library != "torchattacks":
        settings |= {"search_steps": 4, "initial_c": 1.0}
    if name == "cw":
        settings["steps"] = 40
    assert check_attack(adapter(library, name)(**settings)) == []


@pytest.mark.parametrize("library", PEERS)
def test_eps_per_sample_runs_each_budget_once(library):
    x, eps = pixels(0.2, 0.4, 0.6, 0.8), torch.tensor([0.1, 0.0, 0.05, 0.1])
    attack = adapter(library, "pgd")(steps=3, random_start=False)
    found, _, backwards = search(attack, Linear(torch.ones(1)), x, torch.zeros(4).long(), eps=eps)
    assert torch.allclose((found - x).flatten(), eps, atol=1e-6)
    assert backwards.tolist() == [3, 0, 3, 3]


def test_fgsm_is_one_full_step():
    x = images(8)
    defense = SmallCNN()
    y = defense.predict(x)
    found, forwards, backwards = search(FGSM(), defense, x, y, eps=0.1)
    with attack_view(defense, 8) as view:
        gradient = view.gradient(x, y, lambda logits, y: nn.functional.cross_entropy(
            logits, y, reduction="none"))[2]  # fmt: skip
    fooled = defense.predict(found) != y
    assert torch.equal(found[fooled], (x + 0.1 * gradient.sign()).clamp(0, 1)[fooled])
    assert forwards.tolist() == [2] * 8
    assert backwards.tolist() == [1] * 8


@pytest.mark.parametrize("library", PEERS)
def test_fgsm_is_bit_identical(library):
    defense, x = CNN(), images(16, (1, 28, 28))
    y = defense.predict(x)
    ours, _, _ = search(FGSM(**LAST), defense, x, y, eps=0.1)
    assert torch.equal(search(adapter(library, "fgsm")(), defense, x, y, eps=0.1)[0], ours)


def test_last_iterate_of_the_better_restart():
    x = images(8)
    defense = SmallCNN()
    y = defense.predict(x)
    once, _, _ = search(PGD(steps=2, return_last=True), defense, x, y, eps=0.02)
    more, _, _ = search(PGD(steps=2, return_last=True, restarts=4), defense, x, y, eps=0.02)

    def loss(found):
        return nn.functional.cross_entropy(defense(found), y, reduction="none")

    standing = defense.predict(more) == y
    assert (loss(more) >= loss(once))[standing].all()
    assert (defense.predict(once) == y)[standing].all()


# --- by name -----------------------------------------------------------------------------------


def test_words_are_split_outside_parentheses():
    text = "pgd, art:X(a=[1, 2], b='p,q('),torchattacks:APGD(steps=50),, cw "
    words = ["pgd", "art:X(a=[1, 2], b='p,q(')", "torchattacks:APGD(steps=50)", "cw"]
    assert split_words(text) == words
    assert split_words("") == []


def test_names_are_parsed():
    found = parse_named("torchattacks:APGD(steps=50, norm='l2', sizes=(1, 2))")
    assert (found.library, found.cls) == ("torchattacks", "APGD")
    assert found.params == {"steps": 50, "norm": "l2", "sizes": [1, 2]}
    assert found.text == "APGD(steps=50, norm='l2', sizes=[1, 2])"
    assert parse_named("art:DeepFool()").text == "DeepFool"
    assert parse_named("pgd") is None
    assert parse_named("package.module:Attack") is None


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("art:DeepFool(50)", "parameters are given by name"),
        ("art:DeepFool(**{'a': 1})", "parameters are given by name"),
        ("art:DeepFool(max_iter=open('x'))", "the value of max_iter must be a number"),
        ("art:DeepFool(max_iter=ten)", "the value of max_iter must be a number"),
        ("art:DeepFool(max_iter=b'x')", "the value of max_iter must be a number"),
        ("art:DeepFool(max_iter=)", "do not hold key=value"),
        ("art:DeepFool(a=1)(b=2)", "parameters are given by name"),
        ("art:DeepFool(", "write it as library:Class"),
        ("art:DeepFol", "unknown attack of art 'DeepFol'; did you mean 'DeepFool'"),
        ("art:DeepFool(max_itr=1)", "unknown parameter of art:DeepFool 'max_itr'; did you mean"),
        ("art:DeepFool(norm='l3')", "unknown norm 'l3'"),
        ("torchattacks:APGDX", "did you mean 'APGD'"),
        ("torchattacks:APGD(eps=0.1)", "eps is not set here; budgets come from the preset"),
        ("foolbox:LinfPGD", "unknown attack of foolbox 'LinfPGD'"),
        ("arrt:DeepFool", "unknown library 'arrt'; did you mean 'art'"),
        ("torchattacks:LGV", "cannot run here: it trains models of its own"),
    ],
)
def test_a_wrong_name_is_refused(word, message):
    with pytest.raises(UsageError) as error:
        plan(**RUN, attacks=[word])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("word", "norm", "minimal"),
    [
        ("art:AutoProjectedGradientDescent", "linf", False),
        ("art:AutoProjectedGradientDescent(norm='l2')", "l2", False),
        ("art:DeepFool", "l2", True),
        ("art:DeepFool(norm='linf')", "linf", True),
        ("art:CarliniLInfMethod", "linf", True),
        ("art:HopSkipJump", "l2", True),
        ("torchattacks:APGD(steps=50)", "linf", False),
        ("torchattacks:PGDL2", "l2", False),
        ("torchattacks:CW", "l2", True),
    ],
)
def test_norm_and_family_come_from_the_class(word, norm, minimal):
    (spec,) = plan(**RUN, attacks=[word], libraries=["torchattacks"]).attacks
    library, _, text = word.partition(":")
    assert (spec.library, spec.name, spec.type) == (library, text, text.partition("(")[0])
    assert spec.threat.norm == norm
    attack = load_attack(spec)
    assert isinstance(attack, MinimalAttack) == minimal
    assert attack.library == library
    assert all(getattr(attack, key) == value for key, value in spec.params.items())


NAMED = (
    *("art:AutoProjectedGradientDescent(max_iter=3)", "art:SquareAttack(max_iter=5)"),
    *("art:AutoProjectedGradientDescent(max_iter=3, nb_random_init=1, norm='l2')",),
    *("art:FastGradientMethod", "art:DeepFool(max_iter=5)", "art:BasicIterativeMethod(max_iter=2)"),
    *("torchattacks:APGD(steps=3)", "torchattacks:AutoAttack", "torchattacks:FGSM"),
    *("torchattacks:Square(n_queries=5)", "torchattacks:EADL1(max_iterations=10)"),
    *("torchattacks:DeepFool(steps=3)", "torchattacks:APGD(steps=3, norm='l2')"),
)  # fmt: skip


@pytest.mark.parametrize("word", NAMED)
def test_any_attack_runs_by_name(word):
    (spec,) = plan(**RUN, attacks=[word]).attacks
    attack = load_attack(spec)
    defense, x = CNN(), images(3, (1, 28, 28))
    y = defense.predict(x)
    minimal = isinstance(attack, MinimalAttack)
    eps = {} if minimal else {"eps": {"linf": 0.1, "l2": 0.5}[attack.norm]}
    found, forwards, _ = search(attack, defense, x, y, **eps)
    again, _, _ = search(attack, defense, x, y, **eps)
    assert torch.equal(found, again)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert (forwards > 0).all()
    for value in eps.values():
        assert (distance(found, x, attack.norm) <= value * 1.0001).all()


# --- in a run ----------------------------------------------------------------------------------


@pytest.fixture
def go(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))

    def run(**settings):
        spec = plan(**{**RUN, "n_train": 100, "n_test": 12, "eps": (0.0, 0.3), **settings})
        result = run_spec(spec, out=tmp_path, command="run", progress=Progress())
        return result.cells

    return run


def test_one_row_per_library(go):
    cells = go(attacks=["pgd", "torchattacks:FGSM"], libraries=["inhouse", "art", "torchattacks"])
    assert (cells["status"] == "ok").all()
    rows = cells[cells["eps"] == 0.3].set_index(["attack", "library"])
    wanted = {("pgd", name) for name in ("inhouse", "art", "torchattacks")}
    assert set(rows.index) == wanted | {("FGSM", "torchattacks")}
    for (_, library), row in rows.iterrows():
        versions = json.loads(row["versions"])
        assert attack_versions(library).items() <= versions.items()
        assert ("torchattacks" in versions) == (library == "torchattacks")
    assert attack_versions("art").keys() == {"adversarial-robustness-toolbox"}
    assert attack_versions("inhouse") == {}


def test_a_library_that_raises_leaves_failed_rows_with_its_message(go, monkeypatch):
    import torchattacks

    def forward(self, images, labels):
        raise RuntimeError("the library says no")

    monkeypatch.setattr(torchattacks.PGD, "forward", forward)
    cells = go(attacks=["pgd"], libraries=["inhouse", "torchattacks"])
    failed = cells[cells["library"] == "torchattacks"].set_index("eps")
    assert failed.loc[0.3, "status"] == "failed"
    assert "the library says no" in failed.loc[0.3, "reason"]
    assert failed.loc[0.3, "robust_accuracy"] != failed.loc[0.3, "robust_accuracy"]
    assert (cells[cells["library"] == "inhouse"]["status"] == "ok").all()


def test_a_missing_library_is_refused_with_its_install_command(monkeypatch):
    monkeypatch.setattr(peers_library, "find_spec", lambda name: None)
    for settings in ({"attacks": ["pgd"], "libraries": ["art"]}, {"attacks": ["art:DeepFool"]}):
        with pytest.raises(UsageError) as error:
            plan(**RUN, **settings)
        assert "art is not installed: pip install adversarial-robustness-toolbox" in str(
            error.value
        )


def test_a_preset_refines_an_attack_per_library():
    for preset in ("smoke", "quick", "paper"):
        specs = plan(**RUN | {"preset": preset}, attacks=["cw"], libraries=["inhouse", *PEERS[:2]])
        inhouse, art, torchattacks = specs.attacks
        assert art.n < inhouse.n
        assert torchattacks.params["search_steps"] == 1
        assert "libraries" not in inhouse.params


def test_adapters_take_the_settings_of_the_attack_they_stand_for():
    for library in LIBRARIES.names():
        for name, cls in LIBRARIES.load(library).attacks.items():
            ours = load_attack(plan(**RUN, attacks=[name]).attacks[0])
            # A target is ours alone; the libraries' attacks have their own ways to name one.
            assert {f.name for f in fields(ours)} - {"target"} <= {f.name for f in fields(cls)}
            assert cls().norm == ours.norm
            assert cls.library == library
