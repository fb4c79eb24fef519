"""What a model's key covers: the defense's own code, and what of the harness shapes weights."""

import sys
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
from paths import ROOT

from benchmark.models.defense import Defense
from benchmark.plugins import source_code
from benchmark.plugins.source_code import SHAPING, own_and_harness, sources
from benchmark.registry import DEFENSES

HARNESS = {
    "benchmark.attacks.ascent",
    "benchmark.attacks.base",
    "benchmark.attacks.losses",
    "benchmark.attacks.norms",
    "benchmark.attacks.pgd",
    "benchmark.attacks.view",
    "benchmark.datasets.augment",
    "benchmark.datasets.dataset",
    "benchmark.models.architectures",
    "benchmark.models.defense",
    "benchmark.seeding",
    "benchmark.training.loop",
    "benchmark.training.settings",
}
"""The harness's modules in the key of each built-in defense. Before one is added: does it shape
weights? Each edit of it has every model trained again."""

ENCODER = {"defenses.e_cla", "defenses.networks", "defenses.optimization", "defenses.pretraining"}
PLAIN = {"baselines.networks", "baselines.undefended"}
OWN = {
    "undefended": PLAIN,
    "madry": PLAIN | {"baselines.madry"},
    "rse": PLAIN | {"baselines.rse"},
    "defense-gan": PLAIN | {"baselines.defense_gan", "baselines.wgan_gp"},
    "e-cla": ENCODER,
    "ot-cla": ENCODER | {"defenses.ot_classifier"},
    "ot-cla-adv": ENCODER | {"defenses.ot_classifier"},
}


def modules_of(name):
    bases = [base for base in DEFENSES.load(name).__mro__ if issubclass(base, Defense)]
    return [sys.modules[module] for module in dict.fromkeys(base.__module__ for base in bases)]


@pytest.mark.parametrize("name", OWN)
def test_a_key_covers_these_modules_and_no_other(name):
    found = set(sources(*modules_of(name)))
    harness = {module for module in found if module.startswith("benchmark.")}
    assert harness == HARNESS
    assert found - harness == OWN[name]


def test_every_built_in_defense_is_looked_at_and_the_list_holds_nothing_else():
    assert set(OWN) == set(DEFENSES.names())
    assert set(SHAPING) == HARNESS


@pytest.fixture
def edited(monkeypatch):
    """Return the two hashes of a defense's code while a line is added to one file."""
    read = source_code._read_now

    def hashes(name, file=""):
        def read_edited(path):
            return read(path) + (b"\n# edited\n" if file and path == ROOT / file else b"")

        assert (ROOT / file).exists()
        monkeypatch.setattr(source_code, "_read", WeakKeyDictionary())
        monkeypatch.setattr(source_code, "_read_now", read_edited)
        return own_and_harness(*modules_of(name))

    return hashes


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
    "file",
    [
        "reports/html.py",
        "benchmark/errors.py",
        "benchmark/results/schema.py",
        "benchmark/io/schema_version.py",
        "benchmark/execution/runner.py",
        "benchmark/training/resume.py",
        "benchmark/attacks/eps_descent.py",
        "benchmark/models/embedding_distance.py",
    ],
)
def test_what_shapes_no_weights_changes_no_key(edited, name, file):
    assert edited(name, file) == edited(name)


@pytest.mark.parametrize("name", OWN)
def test_what_shapes_weights_changes_the_key(edited, name):
    own, harness = edited(name)
    changed = edited(name, "benchmark/attacks/norms.py")
    assert changed[0] == own
    assert changed[1] != harness
    module = Path(sys.modules[DEFENSES.load(name).__module__].__file__).relative_to(ROOT)
    changed = edited(name, module)
    assert changed[0] != own
    assert changed[1] == harness
