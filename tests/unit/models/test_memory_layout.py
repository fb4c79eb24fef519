"""Networks that fail in channels-last memory, and scripted ones: trained, attacked, audited."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toys import QUICK

from benchmark.attacks.peers.art import LIBRARY as ART
from benchmark.attacks.peers.foolbox import LIBRARY as FOOLBOX
from benchmark.attacks.peers.torchattacks import LIBRARY as TORCHATTACKS
from benchmark.config.spec import DefenseSpec
from benchmark.crosscheck.measure import crosscheck
from benchmark.crosscheck.plan import plan_crosscheck
from benchmark.datasets import DatasetSource
from benchmark.datasets.info import DatasetInfo, RawSplit
from benchmark.execution.plan import plan
from benchmark.execution.runner import run
from benchmark.hashing import derive_seed
from benchmark.models.contract import check_answers
from benchmark.models.defense import Defense
from benchmark.models.memory_layout import CONTIGUOUS, in_layout, is_layout_error
from benchmark.progress import Progress
from benchmark.results.audit_tables import read_audit
from benchmark.seeding import seeded
from benchmark.testing import check_defense
from benchmark.testing.common import COLOUR, tiny_dataset
from benchmark.training import TrainingLog, train
from benchmark.training.fit import trained, untrained

INFO = DatasetInfo("own", (3, 12, 12), 3, ("a", "b", "c"), augment=False)


def _open(info, split):
    data = tiny_dataset(info, n=60, seed=int(split == "test"))
    return RawSplit(data.labels.numpy(), lambda rows: data.images.numpy()[rows], "embedded")


COLOURED = DatasetSource(INFO, embedded=_open)
"""``test_memory_layout:COLOURED`` on a command line: 60 colour images of three classes a split."""


class Convolutions(nn.Module):
    def __init__(self, info):
        super().__init__()
        side = info.shape[1] - 2
        self.conv, self.norm = nn.Conv2d(info.shape[0], 4, 3), nn.BatchNorm2d(4)
        self.last = nn.Linear(4 * side * side, info.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.conv(x))).flatten(1))


class Trained(Defense):
    """A small network, trained by the harness's loop."""

    def __init__(self, info, *, training=QUICK):
        super().__init__(info)
        self.settings = training
        self.net = Convolutions(info)

    def forward(self, x):
        return self.net(x)

    def fit(self, data, *, seed, progress):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)

        def step(x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
            loss = F.cross_entropy(self(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return {"loss": loss.detach()}

        settings = replace(self.settings, batch_size=10, holdout=5)
        return train(
            self,
            data,
            step=step,
            optimizers=[optimizer],
            settings=settings,
            seed=seed,
            progress=progress,
        )


class Viewing(Trained):
    """Takes a view of what its convolution returns."""

    def forward(self, x):
        found = self.net.norm(self.net.conv(x)).relu()
        return self.net.last(found.view(len(x), -1))


class ViewingUntrained(Viewing):
    """The same, and nobody asks it before it is measured and attacked."""

    def fit(self, data, *, seed, progress):
        return TrainingLog()

    def embed(self, x):
        return self.net.conv(x).view(len(x), -1)


class _Flat(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.view(-1).view_as(gradient)


class ViewingBackwards(Trained):
    """Takes a view of a gradient."""

    def fit(self, data, *, seed, progress):
        return TrainingLog()

    def forward(self, x):
        return self.net.last(torch.relu(_Flat.apply(self.net.conv(x))).flatten(1))


class Scripted(Trained):
    def __init__(self, info, *, training=QUICK):
        super().__init__(info, training=training)
        self.net = torch.jit.script(self.net)


class Traced(Trained):
    """Traced in evaluation mode, as it is deployed."""

    def __init__(self, info, *, training=QUICK):
        super().__init__(info, training=training)
        self.net = torch.jit.trace(self.net.eval(), torch.rand(2, *info.shape))


class Frozen(Traced):
    def __init__(self, info, *, training=QUICK):
        super().__init__(info, training=training)
        self.net = torch.jit.freeze(torch.jit.script(Convolutions(info).eval()))

    def fit(self, data, *, seed, progress):
        return TrainingLog()


class Lines(Progress):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


LIBRARY = {"art": ART, "foolbox": FOOLBOX, "torchattacks": TORCHATTACKS}
NAMES = ("Viewing", "ViewingUntrained", "ViewingBackwards", "Scripted", "Traced", "Frozen")
LIBRARIES = ("inhouse", "torchattacks", "art", "foolbox")


def spec_of(names, attacks, libraries):
    spec = plan(
        dataset="test_memory_layout:COLOURED",
        preset="quick",
        device="cpu",
        defenses=[f"test_memory_layout:{name}" for name in names],
        attacks=attacks,
        libraries=libraries,
        n_train=60,
        n_test=30,
    )
    short = tuple(
        replace(
            attack,
            n=30,
            threat=replace(attack.threat, eps=(0.0, 0.05, 0.3)),
            params={**attack.params, "steps": 3},
        )
        for attack in spec.attacks
    )
    return replace(spec, attacks=short)


AUDITED = ("Viewing", "Scripted", "Traced")
INSTALLED = [name for name in LIBRARIES if name == "inhouse" or LIBRARY[name].available]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def audited(cache, tmp_path_factory):
    """A run under our own attack, with the audit, and what it said."""
    lines, out = Lines(), tmp_path_factory.mktemp("out")
    spec = spec_of(AUDITED, ["pgd"], ["inhouse"])
    result = run(spec, out=out, command="", progress=lines)
    return result, lines.lines


@pytest.fixture(scope="module")
def attacked(cache, tmp_path_factory):
    """A run of every network under every installed library, and what it said."""
    spec = spec_of([*NAMES, "Trained"], ["pgd", "pgd-l2"], INSTALLED)
    lines, out = Lines(), tmp_path_factory.mktemp("out")
    result = run(spec, out=out, command="", progress=lines, audit=False)
    return result, lines.lines


@pytest.mark.parametrize("name", [*NAMES, "Trained"])
def test_every_attack_of_every_library_runs(attacked, name):
    cells = attacked[0].cells
    own = cells[cells["defense"] == f"test_memory_layout:{name}"]
    assert set(own["library"]) == set(INSTALLED)
    assert set(own["status"]) == {"ok"}, set(own["reason"])
    assert set(own["reason"]) == {""}


@pytest.mark.parametrize("name", AUDITED)
def test_networks_are_audited(audited, name):
    audit = read_audit(audited[0].path)
    verdicts = audit.verdicts[audit.verdicts["defense"] == f"test_memory_layout:{name}"]
    assert set(verdicts["norm"]) == {"linf"}
    assert not verdicts["reasons"].str.contains("Error|audited").any(), list(verdicts["reasons"])


def test_the_fallback_is_said_once_for_each_network_that_needs_it(attacked):
    said = [line.partition(" ")[0] for line in attacked[1] if CONTIGUOUS in line]
    names = ("Viewing", "ViewingUntrained", "ViewingBackwards")
    assert [name.rstrip(":") for name in said] == [f"test_memory_layout:{name}" for name in names]


def test_a_network_that_bears_channels_last_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path))
    sets = COLOURED.load("train"), COLOURED.load("test")
    layouts = {}
    for name in ("Trained", "Viewing"):
        spec, lines = DefenseSpec(f"test_memory_layout:{name}"), Lines()
        first, _ = trained(spec, *sets, seed=0, progress=lines)
        again, _ = trained(spec, *sets, seed=0, progress=Lines())  # from the cache
        check_answers(again, sets[1], 0)
        for model in (first, again):
            weight = model.net.conv.weight
            layouts[name] = weight.is_contiguous(memory_format=torch.channels_last)
            assert weight.is_contiguous() != layouts[name]
        x = sets[1].x()
        assert torch.allclose(first(x), again(x), atol=1e-5)
    assert layouts == {"Trained": True, "Viewing": False}


def test_the_training_is_that_of_a_contiguous_network(tmp_path, monkeypatch):
    """What is trained again starts from the same weights and the same order of images."""
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path))
    sets = COLOURED.load("train"), COLOURED.load("test")
    model, record = trained(
        DefenseSpec("test_memory_layout:Viewing"), *sets, seed=0, progress=Lines()
    )
    seed = derive_seed(0, INFO.name, "test_memory_layout:Viewing")
    plain = untrained(
        DefenseSpec("test_memory_layout:Viewing"), sets[0], seed, layout=torch.contiguous_format
    )
    with seeded(seed):
        plain.fit(sets[0], seed=seed, progress=Progress())
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(model.state_dict()[name], tensor, atol=1e-6)
    assert len(record.log) == QUICK.epochs


def test_the_crosscheck_runs_on_a_network_that_takes_views(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    asked = plan_crosscheck(
        attack="pgd-l2",
        dataset="test_memory_layout:COLOURED",
        defense="test_memory_layout:Viewing",
        preset="quick",
        device="cpu",
        n=10,
        libraries=INSTALLED,
        eps=[0.3],
    )
    asked = replace(asked, spec=replace(asked.spec, n_train=60))
    found, _ = crosscheck(
        asked, out=tmp_path / "out", data_dir=None, command="", progress=Progress()
    )
    libraries = found.tables["libraries"]
    assert set(libraries[libraries["library"].isin(INSTALLED)]["status"]) == {"ok"}


def test_another_error_is_not_taken_for_the_layout(tmp_path):
    def broken():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    lines = Lines()
    with pytest.raises(RuntimeError, match="mat1"):
        in_layout(Trained(INFO), torch.device("cpu"), broken, lines.say)
    assert lines.lines == []
    assert not is_layout_error(ValueError("view size is not compatible"))


def test_the_conformance_suite_says_which_layout_is_not_borne():
    with pytest.warns(UserWarning, match="does not work in channels-last memory"):
        findings = check_defense(ViewingConforming, COLOUR)
    assert [finding for finding in findings if "channels-last" in finding]


class ViewingConforming(Viewing):
    """With a state that the suite's rules allow: no shared settings of the harness's loop."""
