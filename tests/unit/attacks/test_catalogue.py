"""The catalogue of known differences: every line of it is held here, by its id."""

import inspect
import re
import warnings
from importlib.util import find_spec

import pytest
import torch
from paths import ROOT
from torch import nn
from toys import Function, Linear, pixels

from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.cw import CarliniWagner
from benchmark.attacks.norms import distance, random_start
from benchmark.attacks.pgd import PGD, PGDL2
from benchmark.attacks.view import attack_view
from benchmark.datasets.info import DatasetInfo
from benchmark.registry import LIBRARIES
from benchmark.seeding import generator, seeded

TEXT = (ROOT / "docs" / "attack-libraries.md").read_text("utf-8")
INHOUSE = {"pgd": PGD, "pgd-l2": PGDL2, "cw": CarliniWagner}
ZERO = torch.zeros(1, dtype=torch.long)
HELD: set[str] = set()


def holds(*ids):
    HELD.update(ids)
    return lambda test: test


def need(library):
    if library != "inhouse" and not LIBRARIES.load(library).available:
        pytest.skip(f"{library} is not installed")
    if library == "adv-lib" and not find_spec("visdom"):
        pytest.skip("adv-lib needs visdom")


def run(library, attack, defense, x, y=None, eps=None, **settings):
    """Return the images that an attack finds, and the queries of the first sample."""
    need(library)
    cls = INHOUSE[attack] if library == "inhouse" else LIBRARIES.load(library).attacks[attack]
    y = torch.zeros(len(x), dtype=torch.long) if y is None else y
    if library == "inhouse" and attack != "cw":
        settings = {"early_stop": False} | settings
    budget = {} if eps is None else {"eps": eps}
    with seeded(0), attack_view(defense, len(x)) as view:
        found = cls(**settings).run(view, x, y, generator=generator(0), **budget)
        return found, tuple(int(count[0]) for count in view.counts())


def two(score, *, base=0.0):
    """Logits of two classes, the second ahead by ``score`` (N,)."""
    return torch.stack([torch.full_like(score, base), base + score], 1)


def total(x):
    return x.flatten(1).sum(1)


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


# --- the document ------------------------------------------------------------------------------


def test_every_line_is_held():
    lines = re.findall(r"^- `([a-z0-9-]+)`:", TEXT, re.MULTILINE)
    assert len(lines) == len(set(lines))
    assert set(lines) == HELD


@pytest.mark.parametrize("name", ["art", "torchattacks", "foolbox", "adv-lib"])
def test_versions_looked_at(name):
    library = LIBRARIES.load(name)
    (version,) = re.findall(rf"^- {name}: {library.distribution} (\S+)$", TEXT, re.MULTILINE)
    need(name)
    if library.version != version:
        warnings.warn(f"docs/attack-libraries.md: {name} {library.version} here", stacklevel=1)


# --- PGD ---------------------------------------------------------------------------------------


@holds("art-pgd-defaults", "art-cw-defaults")
def test_art_defaults():
    from art.attacks.evasion import CarliniL2Method, ProjectedGradientDescent

    found = defaults(ProjectedGradientDescent)
    wanted = {"eps": 0.3, "eps_step": 0.1, "max_iter": 100, "num_random_init": 0}
    assert wanted.items() <= found.items()
    wanted = {"binary_search_steps": 10, "max_iter": 10, "initial_const": 0.01}
    wanted |= {"learning_rate": 0.01, "batch_size": 1, "confidence": 0.0}
    assert wanted.items() <= defaults(CarliniL2Method).items()


@holds("torchattacks-pgd-defaults", "torchattacks-cw-defaults")
def test_torchattacks_defaults():
    import torchattacks

    wanted = {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "random_start": True}
    assert defaults(torchattacks.PGD) == wanted
    wanted = {"eps": 1.0, "alpha": 0.2, "steps": 10, "random_start": True}
    assert wanted.items() <= defaults(torchattacks.PGDL2).items()
    assert defaults(torchattacks.CW) == {"c": 1, "kappa": 0, "steps": 50, "lr": 0.01}


@holds("foolbox-pgd-defaults", "foolbox-cw-defaults")
def test_foolbox_defaults():
    need("foolbox")
    from foolbox.attacks import L2PGD, L2CarliniWagnerAttack, LinfPGD

    wanted = {"rel_stepsize": 0.01 / 0.3, "abs_stepsize": None, "steps": 40, "random_start": True}
    assert defaults(LinfPGD) == wanted
    wanted = {"rel_stepsize": 0.025, "abs_stepsize": None, "steps": 50, "random_start": True}
    assert defaults(L2PGD) == wanted
    wanted = {"binary_search_steps": 9, "steps": 10000, "stepsize": 0.01, "initial_const": 1e-3}
    assert {**wanted, "abort_early": True}.items() <= defaults(L2CarliniWagnerAttack).items()


@holds("adv-lib-pgd-defaults", "adv-lib-cw-defaults")
def test_adv_lib_defaults():
    need("adv-lib")
    from adv_lib import attacks

    wanted = {"relative_step_size": 0.01 / 0.3, "steps": 40, "random_init": True}
    assert wanted.items() <= defaults(attacks.pgd_linf).items()
    assert not hasattr(attacks, "pgd_l2")
    wanted = {"binary_search_steps": 9, "max_iterations": 10000, "initial_const": 1e-3}
    wanted |= {"learning_rate": 0.01, "abort_early": True}
    assert wanted.items() <= defaults(attacks.carlini_wagner_l2).items()


BUMP = Function(lambda x: two(0.015 - (total(x) - 0.545).abs()))
"""Fooled from 0.53 to 0.56: from 0.5 a step of 0.04 lands there, and a second one beyond."""


@holds("pgd-last-iterate", "adv-lib-pgd-best", "pgd-queries")
@pytest.mark.parametrize(
    ("library", "last", "forwards"),
    [
        ("inhouse", False, 3),
        ("art", True, 4),
        ("torchattacks", True, 2),
        ("foolbox", True, 3),
        ("adv-lib", False, 2),
    ],
)
def test_pgd_last_iterate_and_queries(library, last, forwards):
    found, queries = run(
        library, "pgd", BUMP, pixels(0.5), eps=0.1, steps=2, step_size=0.04, random_start=False
    )
    assert found.item() == pytest.approx(0.58 if last else 0.54)
    assert queries == (forwards, 2)


@holds("adv-lib-pgd-best")
def test_adv_lib_never_looks_at_the_last_image():
    one_step = {"eps": 0.1, "steps": 1, "step_size": 0.04, "random_start": False}
    assert run("adv-lib", "pgd", BUMP, pixels(0.5), **one_step)[0].item() == 0.5
    assert run("inhouse", "pgd", BUMP, pixels(0.5), **one_step)[0].item() == pytest.approx(0.54)


FAINT = Function(lambda x: two(torch.where(total(x) < 0.5, 20 * total(x) - 106, 10 + 0 * total(x))))
"""At 0.3 the probability of the second class is exp(-100), 27 times the least number of float32;
from 0.5 on it is the likelier one."""


@holds("pgd-mean-loss")
@pytest.mark.parametrize("library", ["inhouse", "art", "torchattacks", "foolbox", "adv-lib"])
def test_pgd_averages_its_loss(library):
    # Two steps, because adv-lib does not look at the last image; it returns only one that fools.
    settings = {"eps": 0.3, "steps": 2, "step_size": 0.28, "random_start": False}
    alone, _ = run(library, "pgd", FAINT, pixels(0.3), **settings)
    assert alone.item() > 0.5
    beside, _ = run(library, "pgd", FAINT, pixels(0.3).expand(64, 1, 1, 1), **settings)
    stands_still = torch.equal(beside, pixels(0.3).expand(64, 1, 1, 1))
    assert stands_still == (library == "torchattacks")
    if library != "torchattacks":
        assert torch.equal(beside, alone.expand_as(beside))


@holds("pgd-l2-box")
@pytest.mark.parametrize("library", ["inhouse", "art", "torchattacks", "foolbox"])
def test_pgd_l2_box(library):
    x = torch.tensor([[[[1.0, 0.5]]]])
    linear = Linear(torch.ones(2))
    settings = {"eps": 0.3, "steps": 5, "step_size": 0.15, "random_start": False}
    found, _ = run(library, "pgd-l2", linear, x, **settings)
    far = distance(found, x, "l2").item()
    if library in ("torchattacks", "foolbox"):
        assert 0.28 < far < 0.295
    else:
        assert far == pytest.approx(0.3, rel=1e-5)


@holds("pgd-l2-box")
@pytest.mark.parametrize(
    ("library", "moved"),
    [
        ("inhouse", (0.1, 0.08**0.5)),  # the free pixel takes what the stopped one cannot use
        ("art", (0.3 / 26**0.5, 1.5 / 26**0.5)),  # (0.1, 0.5), shortened
        ("torchattacks", (0.1, 0.3 / 2**0.5)),
        ("foolbox", (0.1, 0.3 / 2**0.5)),
    ],
)
def test_pgd_l2_after_a_step_that_leaves_ball_and_box(library, moved):
    x = torch.tensor([[[[0.9, 0.5]]]])
    settings = {"eps": 0.3, "steps": 1, "step_size": 1.0, "random_start": False}
    found, _ = run(library, "pgd-l2", Linear(torch.ones(2)), x, **settings)
    assert (found - x).flatten().tolist() == pytest.approx(moved, abs=1e-6)


@holds("torchattacks-pgd-l2-start")
@pytest.mark.parametrize("library", ["inhouse", "art", "torchattacks", "foolbox"])
def test_pgd_l2_start(library):
    x = torch.full((64, 1, 28, 28), 0.5)
    flat = Linear(torch.linspace(-1e-3, 1e-3, 784))
    settings = {"return_last": True, "steps": 1, "step_size": 1e-6}
    found, _ = run(library, "pgd-l2", flat, x, eps=0.5, **settings)
    mean = distance(found, x, "l2").mean().item()
    assert mean == pytest.approx(0.25 if library == "torchattacks" else 0.5, abs=0.04)


@holds("torchattacks-pgd-restarts")
def test_torchattacks_has_no_restarts():
    import torchattacks

    assert not any("start" in name for name in set(defaults(torchattacks.PGD)) - {"random_start"})


# --- C&W ---------------------------------------------------------------------------------------

CW = {"steps": 100, "search_steps": 1, "initial_c": 10.0, "lr": 0.05}


@holds("torchattacks-cw-search")
def test_torchattacks_searches_no_c():
    high = Function(lambda x: two(10 * (total(x) - 0.4), base=50.0))
    small = CW | {"initial_c": 1e-4}
    x = pixels(0.3)
    assert run("torchattacks", "cw", high, x, **small)[0].item() == x.item()
    assert run("torchattacks", "cw", high, x, **CW)[0].item() > 0.4
    assert run("inhouse", "cw", high, x, **small | {"search_steps": 7})[0].item() > 0.4


SATURATED = torch.tensor([[[[1.0, 0.0]]]])
TURNS = Linear(torch.tensor([-10.0, 10.0]), b=6.0)
"""Calls SATURATED 0, and 1 once its two pixels have moved by 0.2 each."""


@holds("torchattacks-cw-saturated")
def test_torchattacks_never_moves_a_saturated_pixel():
    high = Function(lambda x: TURNS(x) + 50)
    found, _ = run("torchattacks", "cw", high, SATURATED, **CW | {"initial_c": 1e6})
    assert torch.equal(found, SATURATED)
    grey = SATURATED * 0.9 + 0.05
    assert distance(run("torchattacks", "cw", high, grey, **CW)[0], grey, "l2") > 0.1


@holds("art-cw-saturated")
def test_art_hardly_moves_a_saturated_pixel():
    settings = CW | {"search_steps": 5}
    assert distance(run("art", "cw", TURNS, SATURATED, **settings)[0], SATURATED, "l2") < 1e-3
    grey = SATURATED * 0.9 + 0.05
    assert distance(run("art", "cw", TURNS, grey, **settings)[0], grey, "l2") > 0.1


@holds("adam-cw-saturated")
@pytest.mark.parametrize("library", ["foolbox", "adv-lib"])
def test_adam_brings_a_saturated_pixel_back_slowly(library):
    settings = CW | {"abort_early": False, "search_steps": 3}
    slow, _ = run(library, "cw", TURNS, SATURATED, **settings | {"steps": 70})
    fast, _ = run(library, "cw", TURNS, SATURATED, **settings | {"steps": 100})
    assert distance(slow, SATURATED, "l2") < 1e-3
    assert distance(fast, SATURATED, "l2") == pytest.approx(0.08**0.5, rel=0.1)


@holds("torchattacks-cw-zero-logit")
def test_torchattacks_stands_still_where_the_other_logits_are_negative():
    x = pixels(0.3)
    for base, moves in ((-20.0, False), (20.0, True)):
        low = Function(lambda x, base=base: two(10 * (total(x) - 0.4), base=base))
        assert (run("torchattacks", "cw", low, x, **CW)[0].item() > 0.4) == moves
        assert run("inhouse", "cw", low, x, **CW)[0].item() > 0.4


ROUGH = Function(
    lambda x: two(
        torch.where(total(x) < 0.6, 10 * (total(x) - 0.4), 500 * torch.cos(400 * total(x)) - 900),
        base=2000.0,
    )
)
"""Easy to turn from 0.3; from 0.8 the cost goes up and down."""


@holds("torchattacks-cw-batch", "foolbox-cw-batch", "adv-lib-cw-batch")
@pytest.mark.parametrize(
    ("library", "coupled"),
    [
        ("inhouse", False),
        ("art", False),
        ("torchattacks", True),
        ("foolbox", True),
        ("adv-lib", False),
    ],
)
def test_cw_of_a_batch(library, coupled):
    settings = {"steps": 60, "search_steps": 1, "initial_c": 1.0, "lr": 0.01}
    alone, _ = run(library, "cw", ROUGH, pixels(0.3), **settings)
    beside, _ = run(library, "cw", ROUGH, pixels(0.3, 0.8), **settings)
    assert alone.item() > 0.4
    assert (beside[0].item() > 0.4) == (not coupled)


@holds("art-cw-optimizer")
def test_art_searches_the_line():
    _, (forwards, backwards) = run("art", "cw", TURNS, SATURATED * 0.9 + 0.05, **CW)
    assert backwards == 2 * CW["steps"]  # one for each of the two classes
    assert 3 * CW["steps"] < forwards <= 13 * CW["steps"]


@holds("torchattacks-cw-confidence")
def test_torchattacks_counts_any_misclassified_image():
    high = Function(lambda x: two(10 * (total(x) - 0.4), base=50.0))
    settings = CW | {"confidence": 2.0}
    lead = {}
    for library in ("inhouse", "torchattacks"):
        found, _ = run(library, "cw", high, pixels(0.3), **settings)
        lead[library] = float(10 * (found - 0.4))
    assert lead["inhouse"] > 2 - 1e-5  # the spacing of float32 at the logits, 50, is 4e-6
    assert 0 < lead["torchattacks"] < 1


NEVER = Function(lambda x: two(0.1 * total(x) - 30, base=100.0))


@holds("foolbox-cw-failure", "adapter-foolbox-failure")
def test_foolbox_returns_a_black_image():
    need("foolbox")
    from foolbox import Misclassification, PyTorchModel
    from foolbox.attacks import L2CarliniWagnerAttack

    x = pixels(0.3)
    model = PyTorchModel(NEVER, bounds=(0, 1), device="cpu")
    attack = L2CarliniWagnerAttack(binary_search_steps=2, steps=20)
    found, _, fooled = attack(model, x, Misclassification(ZERO), epsilons=None)
    assert found.item() == 0
    assert not fooled.any()
    assert torch.equal(run("foolbox", "cw", NEVER, x, **CW)[0], x)


@holds("clean-cw-failure")
@pytest.mark.parametrize("library", ["inhouse", "art", "torchattacks", "adv-lib"])
def test_cw_failure(library):
    settings = CW | {"initial_c": 100.0}
    same = torch.equal(run(library, "cw", NEVER, pixels(0.3), **settings)[0], pixels(0.3))
    assert same == (library != "inhouse")


@holds("adv-lib-cw-few-steps")
def test_adv_lib_needs_ten_iterations():
    with pytest.raises(ValueError, match="needs 10 steps or more"):
        LIBRARIES.load("adv-lib").attacks["cw"](steps=9)
    need("adv-lib")
    from adv_lib.attacks import carlini_wagner_l2

    with pytest.raises(ZeroDivisionError):
        carlini_wagner_l2(NEVER, pixels(0.3), ZERO, max_iterations=9)


# --- the adapters ------------------------------------------------------------------------------


@holds("adapter-step")
@pytest.mark.parametrize("library", ["inhouse", "art", "torchattacks", "foolbox", "adv-lib"])
def test_step_left_out(library):
    found, _ = run(
        library,
        "pgd",
        Linear(torch.ones(1)),
        pixels(0.5),
        y=ZERO,
        eps=0.1,
        steps=10,
        random_start=False,
    )
    assert found.item() == pytest.approx(0.6)


@holds("adapter-fixed")
@pytest.mark.parametrize(
    ("library", "attack", "settings", "message"),
    [
        ("art", "pgd", {"early_stop": True}, "art has no setting early_stop"),
        ("torchattacks", "pgd", {"restarts": 2}, "torchattacks has no setting restarts"),
        ("torchattacks", "cw", {"search_steps": 9}, "torchattacks has no setting search_steps"),
        ("foolbox", "pgd", {"loss": "margin"}, "foolbox has no setting loss"),
        ("adv-lib", "pgd", {"norm": "l2"}, "adv-lib has no setting norm"),
        ("art", "pgd", {"restarts": 2, "random_start": False}, "at random points only"),
    ],
)
def test_what_a_library_lacks_is_refused(library, attack, settings, message):
    with pytest.raises(ValueError, match=message):
        LIBRARIES.load(library).attacks[attack](**settings)


@holds("adapter-foolbox-start")
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_foolbox_starts_where_inhouse_starts(norm):
    x = torch.rand(6, 1, 4, 4, generator=generator(1))
    attack = "pgd" if norm == "linf" else "pgd-l2"
    flat = Linear(torch.linspace(-1, 1, 16))
    found, _ = run("foolbox", attack, flat, x, eps=0.2, steps=1, step_size=1e-9)
    start = random_start(x, 0.2, norm, generator(0))
    assert torch.allclose(found, start, atol=1e-6)


@holds("adapter-eps-zero")
@pytest.mark.parametrize("library", ["art", "torchattacks", "foolbox", "adv-lib"])
def test_eps_zero_calls_no_library(library):
    x = pixels(0.2, 0.7)
    found, queries = run(library, "pgd", Linear(torch.ones(1)), x, eps=0.0)
    assert torch.equal(found, x)
    assert queries == (0, 0)


@holds("adapter-names")
def test_a_step_by_name_keeps_its_proportion():
    adapter = LIBRARIES.load("torchattacks").attack("BIM")
    x, linear = pixels(0.5), Linear(torch.ones(1))
    with attack_view(linear, 1) as view:
        for settings, moved in (({"steps": 1}, 0.25), ({"steps": 1, "alpha": 0.01}, 0.1)):
            found = adapter(**settings).run(view, x, ZERO, eps=0.1, generator=generator(0))
            assert found.item() == pytest.approx(0.5 + moved * 0.1)


class Watched:
    """What the art adapter gives to the library: the calls of generate, which attacks nothing."""

    def __init__(self, monkeypatch, name):
        from benchmark.attacks.peers import art

        self.x = torch.rand(3, 3, 8, 8, generator=generator(1))
        self.y = torch.tensor([0, 1, 2])
        self.answers, self.calls = [], []

        def generate(attack, view, x, y):
            self.answers.append(torch.as_tensor(attack.estimator.predict(x.numpy())))
            self.calls.append((x, y))
            return x

        monkeypatch.setattr(art, "generate", generate)
        with seeded(0):
            model = Function(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
        model.info = DatasetInfo("own", (3, 8, 8), 4, tuple("abcd"), augment=False)
        attack = LIBRARIES.load("art").attack(name)()
        with seeded(0), attack_view(model, 3) as view:
            budget = {"eps": 0.1} if isinstance(attack, BudgetAttack) else {}
            attack.run(view, self.x, self.y, generator=generator(0), **budget)


@holds("adapter-layout")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_libraries_are_given_memory_in_one_piece(dtype):
    from benchmark.attacks.peers.base import Served

    with seeded(0):
        model = Function(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 6), nn.Flatten())
        )
    model.to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    given = []
    model.logits.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with attack_view(model, 2) as view:
        plain = torch.autograd.grad(view(x.float()).sum(), x, retain_graph=True)[0]
        served = Served(view)(x)
        (gradient,) = torch.autograd.grad(served.sum(), x)
    assert not plain.is_contiguous()
    assert gradient.is_contiguous()
    assert torch.equal(gradient, plain)
    assert served.dtype == given[-1].dtype == torch.float32
    assert given[-1].is_contiguous()


@holds("adapter-art-probabilities")
def test_art_attacks_that_compute_with_probabilities_are_given_them(monkeypatch):
    for name in ("NewtonFool", "SimBA", "VirtualAdversarialMethod"):
        for answers in Watched(monkeypatch, name).answers:
            assert torch.allclose(answers.sum(1), torch.ones(len(answers)))
    (logits,) = Watched(monkeypatch, "HopSkipJump").answers
    assert not torch.allclose(logits.sum(1), torch.ones(3))


@holds("adapter-art-single")
def test_art_attacks_that_take_one_image_are_given_one(monkeypatch):
    for name, sizes in {
        "ShadowAttack": [1, 1, 1],
        "SimBA": [1, 1, 1],
        "ZooAttack": [1, 1, 1],
    }.items():
        watched = Watched(monkeypatch, name)
        assert [len(x) for x, _ in watched.calls] == sizes
        if name != "ShadowAttack":
            assert torch.equal(torch.cat([y for _, y in watched.calls]), watched.y)
    assert [len(x) for x, _ in Watched(monkeypatch, "HopSkipJump").calls] == [3]


@holds("adapter-art-aimed")
def test_art_attacks_that_are_always_targeted_aim_at_another_class(monkeypatch):
    for name in ("SaliencyMapMethod", "TargetedUniversalPerturbation"):
        watched = Watched(monkeypatch, name)
        ((_, aims),) = watched.calls
        assert (aims != watched.y).all()
        assert ((aims >= 0) & (aims < 4)).all()
    # ShadowAttack takes any label for a target: with the true one it would protect the image.
    assert [y for _, y in Watched(monkeypatch, "ShadowAttack").calls] == [None] * 3
    ((_, y),) = Watched(monkeypatch, "DeepFool").calls
    assert y.tolist() == [0, 1, 2]
