"""The cache of trained models: keys, round trips, damage."""

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import nn
from toys import Coded, SmallCNN, Tiny

from benchmark.config.spec import DefenseSpec
from benchmark.datasets import DIGITS
from benchmark.plugins import source_code
from benchmark.plugins.source_code import source_digest
from benchmark.training import TrainingLog, origin
from benchmark.training.model_cache import Checkpoints, cache_dir
from benchmark.training.origin import model_key

DATA = DIGITS.load("train", n=20)
SPEC = DefenseSpec("toys:Tiny", {"training": {"epochs": 2}})
LOG = TrainingLog([{"epoch": 1, "loss": 0.1 + 0.2, "gap": math.inf}], 1.5)


def key(cls=Tiny, spec=SPEC, data=DATA, seed=1):
    return model_key(cls(DATA.info), spec, data, seed)


# --- keys


def test_the_key_stays_where_nothing_changes():
    again = DIGITS.load("train", n=20)
    same = DefenseSpec("toys:Tiny", {"training": {"epochs": 2}})
    assert key() == key(data=again, spec=same)
    assert key() == key()  # the weights before training, drawn anew, are the seed's business


@pytest.mark.parametrize(
    "change",
    [
        {"spec": DefenseSpec("toys:Tiny", {"training": {"epochs": 3}})},
        {"spec": DefenseSpec("toys:Tiny", {})},
        {"data": DIGITS.load("train", n=21)},
        {"data": replace(DATA, info=replace(DATA.info, augment=True))},
        {"seed": 2},
        {"cls": Coded},
    ],
    ids=["option", "default", "images", "info", "seed", "class"],
)
def test_the_key_changes_with(change):
    assert key(**change) != key()


def test_the_key_changes_with_the_version_of_torch(monkeypatch):
    before = key()
    monkeypatch.setattr(origin, "version", lambda package: "0.0")
    assert key() != before


def test_the_key_does_not_hang_on_the_order_of_options():
    one = DefenseSpec("toys:Tiny", {"a": 1, "b": 2})
    other = DefenseSpec("toys:Tiny", {"b": 2, "a": 1})
    assert key(spec=one) == key(spec=other)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A plugin of two modules, and a helper that it does not use."""
    folder = tmp_path / "someplugin"
    folder.mkdir()
    files = {
        "__init__.py": "",
        "layers.py": "def layer(): return 1\n",
        "unused.py": "X = 1\n",
        "defense.py": "import torch\nfrom someplugin.layers import layer\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    __import__("someplugin.defense")
    yield folder
    for name in [name for name in sys.modules if name.startswith("someplugin")]:
        del sys.modules[name]


@pytest.fixture
def another_process(monkeypatch):
    """Forget, when called, what files held when they were first read, as another process would."""

    def forget():
        monkeypatch.setattr(source_code, "_read", WeakKeyDictionary())

    forget()
    return forget


def test_the_source_counts_with_the_modules_it_uses(package, another_process):
    module = sys.modules["someplugin.defense"]
    before = source_digest(module)
    (package / "unused.py").write_text("X = 2\n")
    assert source_digest(module) == before
    (package / "layers.py").write_text("def layer(): return 2\n")
    assert source_digest(module) == before  # what is loaded is still the old code
    another_process()
    used = source_digest(module)
    assert used != before
    (package / "defense.py").write_text("import torch\n")
    another_process()
    assert source_digest(module) not in (before, used)


def test_a_module_counts_before_anybody_has_imported_it(package, another_process):
    """A plugin that imports inside ``fit`` has one key, whatever this process did before."""
    (package / "late.py").write_text("X = 1\n")
    (package / "defense.py").write_text("def fit():\n    from someplugin.late import X\n")
    module = sys.modules["someplugin.defense"]
    before = source_digest(module)
    __import__("someplugin.late")
    assert source_digest(module) == before
    (package / "late.py").write_text("X = 2\n")
    another_process()
    assert source_digest(module) != before


def test_a_base_class_from_another_package_counts(package, monkeypatch, another_process):
    import baselines.undefended

    class Plugin(baselines.undefended.Undefended):
        pass

    Plugin.__module__ = "someplugin.defense"
    found = Path(baselines.undefended.__file__)
    before = model_key(Plugin(DATA.info, width=0.1), SPEC, DATA, 1)
    copy = package / "undefended.py"
    shutil.copy(found, copy)
    monkeypatch.setattr(baselines.undefended, "__file__", str(copy))
    assert model_key(Plugin(DATA.info, width=0.1), SPEC, DATA, 1) == before
    copy.write_text(found.read_text("utf-8") + "\n# changed\n", "utf-8")
    another_process()
    assert model_key(Plugin(DATA.info, width=0.1), SPEC, DATA, 1) != before


# --- round trip


def test_round_trip_is_exact(tmp_path):
    cache, saved, loaded = Checkpoints(tmp_path / "models"), SmallCNN(1), SmallCNN(2)
    saved.to(memory_format=torch.channels_last)
    saved.net[1].running_mean.add_(0.25)
    assert cache.load("k" * 64, loaded) is None
    cache.save("k" * 64, saved, LOG)
    assert cache.load("k" * 64, loaded) == LOG
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
        assert loaded.state_dict()[name].dtype == value.dtype
    assert cache.load("x" * 64, loaded) is None


def test_tied_weights_can_be_kept(tmp_path):
    class Tied(Tiny):
        def __init__(self, info):
            super().__init__(info)
            self.twin = nn.Linear(784, 10)
            self.twin.weight = self.net[1].weight

    cache, saved, loaded = Checkpoints(tmp_path), Tied(DIGITS.info), Tied(DIGITS.info)
    cache.save("k", saved, LOG)
    assert cache.load("k", loaded) == LOG
    assert torch.equal(loaded.twin.weight, saved.net[1].weight)


def test_saving_leaves_the_model_alone(tmp_path):
    model = SmallCNN()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Checkpoints(tmp_path).save("k", model, LOG)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [True] * 6


# --- damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda weights, about: weights.unlink(),
        lambda weights, about: about.unlink(),
        lambda weights, about: weights.write_bytes(weights.read_bytes()[:-10]),
        lambda weights, about: weights.write_bytes(b"nothing"),
        lambda weights, about: weights.write_bytes(b""),
        lambda weights, about: about.write_text("{"),
        lambda weights, about: about.write_text("[1]"),
        lambda weights, about: about.write_text(json.dumps({"key": "k"})),
        lambda weights, about: about.write_text(json.dumps({"log": {"colour": 1}})),
    ],
)
def test_a_damaged_entry_counts_as_absent(tmp_path, damage):
    cache, model = Checkpoints(tmp_path), SmallCNN(1)
    cache.save("k", SmallCNN(2), LOG)
    damage(tmp_path / "k.safetensors", tmp_path / "k.json")
    assert cache.load("k", model) is None
    untouched = SmallCNN(1).state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in model.state_dict().items())


def test_another_networks_weights_leave_the_model_as_it_was(tmp_path):
    # Training goes on from the seeded weights: half a model of another shape must not seep in.
    class Wider(SmallCNN):
        def __init__(self, seed):
            super().__init__(seed)
            self.net[5] = nn.Linear(256, 4)

    cache, model = Checkpoints(tmp_path), SmallCNN(1)
    cache.save("k", Wider(2), LOG)
    assert cache.load("k", model) is None
    untouched = SmallCNN(1).state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in model.state_dict().items())


# --- where


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "named"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "named"
    monkeypatch.delenv("BENCHMARK_CACHE_DIR")
    if sys.platform.startswith("linux"):
        assert cache_dir() == tmp_path / "xdg" / "defensebench"
