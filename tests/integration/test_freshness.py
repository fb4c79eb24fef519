"""A run's numbers are of what is there now: its code, its files, its images and its model."""

import importlib
import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from toys import TOY, SmallCNN

from benchmark.cli import main
from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.config.threat import ThreatModel
from benchmark.crosscheck import measure as crosscheck_measure
from benchmark.crosscheck.measure import crosscheck
from benchmark.crosscheck.plan import plan_crosscheck
from benchmark.datasets.load import load_images
from benchmark.errors import UsageError
from benchmark.execution import runner
from benchmark.execution.audit_run import audit_run
from benchmark.models.answers import difference
from benchmark.models.defense import Defense
from benchmark.models.weights import weights_of
from benchmark.progress import Progress
from benchmark.results import read_model, read_models, read_run, write_model
from benchmark.speed import measure as speed_measure
from benchmark.training import model_cache, origin
from benchmark.training.files_read import changed_file, watching
from benchmark.training.model_cache import private_cache
from benchmark.training.origin import alike, start_of
from benchmark.training.recall import OtherModelError, recall

CODE = """
import torch
from pathlib import Path
from torch import nn
from benchmark.models.defense import Defense
from benchmark.training import TrainingLog

HERE = Path(__file__).parent
{top}

class Means(Defense):
    "The nearest class mean; what it learns is a linear layer."
    {attributes}

    def __init__(self, info):
        super().__init__(info)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        self.turn = 0
        {init}

    def fit(self, data, *, seed, progress):
        Means.fits = getattr(Means, "fits", 0) + 1
        x, y = data.x().flatten(1), data.labels
        means = torch.stack([x[y == c].mean(0) for c in range(10)])
        with torch.no_grad():
            self.net[1].weight.copy_(10 * means)
            self.net[1].bias.copy_(-5 * means.square().sum(1))
        {fit}
        return TrainingLog([{{"epoch": 1, "loss": 0.0}}], 0.1)

    def forward(self, x):
        logits = self.net(x)
        {forward}
        return logits.roll(self.turn, 1)

    {methods}
"""
SPEC = RunSpec(
    dataset="digits",
    preset="smoke",
    n_train=100,
    n_test=40,
    seeds=(0,),
    device="cpu",
    defenses=(DefenseSpec("mine:Means"),),
    attacks=tuple(
        AttackSpec(name, ThreatModel("linf", (0.0, 0.02)), 30, type="pgd", params={"steps": 1})
        for name in ("one", "two")
    ),
)
WRONG = {"init": "self.turn = 1"}  # every label is another


class Listening(Progress):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def about(self, words):
        return [line for line in self.said if words in line]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the module ``mine`` and load it, as a new process would."""
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # whose time stamps are of whole seconds
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def do(name="mine", text=CODE, **parts):
        blank = dict.fromkeys(("top", "attributes", "init", "fit", "forward", "methods"), "")
        parts.setdefault("attributes", "pass")
        (folder / f"{name}.py").write_text(text.format(**blank | parts) if parts else text)
        for each in (name, "mine"):
            sys.modules.pop(each, None)
        importlib.invalidate_caches()
        return folder

    yield do
    for name in ("mine", "nets", "pics"):
        sys.modules.pop(name, None)


@pytest.fixture
def go(tmp_path):
    def run(spec=SPEC, out="runs", retrain=False, **options):
        heard = Listening()
        result = runner.run(
            spec,
            out=tmp_path / out,
            command="python -m benchmark run",
            progress=heard,
            audit=False,
            **({"retrain": True} if retrain else {}),
            **options,
        )
        result.__dict__["said"] = heard
        return result

    return run


def clean(result):
    """The clean accuracies of the run's cells, each once."""
    return sorted(set(result.cells["clean_accuracy"].dropna()))


def half(go, monkeypatch, spec=SPEC):
    """Run the first attack only, as after Ctrl-C in the second."""
    original = runner.sweep

    def stopped(model, attack, asked, *args, **options):
        if asked.name == "two":
            raise KeyboardInterrupt
        return original(model, attack, asked, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "sweep", stopped)
        with pytest.raises(KeyboardInterrupt):
            go(spec)


def is_new(result, reason):
    """The run was computed again, of the wrong labels, and one line says why."""
    assert not result.was_complete
    (high,) = clean(result)
    assert high < 0.2
    (line,) = result.said.about("computed again")
    assert line.startswith("mine:Means (seed 0): ")
    assert reason in line
    assert result.n_failed == 0
    assert len(result.cells) == 4
    return True


# --- the code


def test_what_did_not_change_is_complete(write, go):
    write(**{"fit": "pass"})
    first = go()
    assert clean(first)[0] > 0.7
    write(**{"fit": "pass"})
    again = go()
    assert again.was_complete
    assert again.said.said == []


def test_a_complete_run_of_other_code_is_computed_again(write, go):
    write(fit="pass")
    first = go()
    old = (first.path / "cells.parquet").read_bytes()
    write(**WRONG)
    assert is_new(go(), "its code changed since its 4 cells were computed")
    assert (first.path / "cells.parquet.old").read_bytes() == old
    read_run(first.path)
    assert go().was_complete


def test_code_of_a_module_beside_it_counts(write, go):
    write("nets", "TURN = 0\n# as it was\n")
    write(top="import nets", init="self.turn = nets.TURN")
    assert clean(go())[0] > 0.7
    write("nets", "TURN = 1\n")
    assert is_new(go(), "its code changed")


def test_a_half_finished_run_does_not_mix_two_models(write, go, monkeypatch):
    write(fit="pass")
    half(go, monkeypatch)
    write(**WRONG)
    assert is_new(go(), "its code changed since its 2 cells were computed")


def test_code_that_fails_now_leaves_no_number_of_the_old(write, go):
    write(fit="pass")
    go()
    write(fit="raise ValueError('no')")
    result = go()
    assert result.n_failed == 4
    assert result.said.about("its code changed since its 4 cells were computed")
    assert read_models(result.path) == []


def test_other_defenses_and_seeds_stay(write, go):
    write(fit="pass")
    spec = replace(SPEC, seeds=(0, 1), defenses=(DefenseSpec("toys:Tiny"), *SPEC.defenses))
    first = go(spec)
    write(**WRONG)
    result = go(spec)
    assert len(result.said.about("computed again")) == 2
    one, other = (
        cells.set_index(["defense", "attack", "seed", "eps"]).loc["toys:Tiny"].sort_index()
        for cells in (first.cells, result.cells)
    )
    assert one.equals(other)


def test_what_cannot_be_imported_any_more_is_said_and_shown(write, go):
    folder = write(fit="pass")
    first = go()
    write("mine", "raise RuntimeError('broken')\n")
    result = go()
    assert result.was_complete
    assert clean(result) == clean(first)
    (line,) = result.said.said
    assert line == (
        "mine:Means (seed 0): not checked against what is there now: RuntimeError: broken"
    )
    (folder / "mine.py").unlink()


def test_code_that_is_edited_while_a_run_goes_on_is_not_taken_for_what_was_trained(write, go):
    from benchmark.models.loader import load_defense

    write(fit="pass")
    load_defense("mine:Means")
    module = sys.modules["mine"]
    folder = write(**WRONG)
    sys.modules["mine"] = module  # what is loaded is the old code
    assert clean(go())[0] > 0.7
    assert (folder / "mine.py").exists()
    sys.modules.pop("mine")
    assert is_new(go(), "its code changed")


# --- files


def turn(folder, value, name="turn.pt"):
    torch.save(torch.tensor(value), folder / name)


READS = "self.turn = int(torch.load(HERE / 'turn.pt'))"
KEEPS = {"init": "self.register_buffer('by', torch.zeros(()))", "forward": "self.turn = 0"}


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"init": READS, "attributes": "depends_on = [HERE / 'turn.pt']"}, "names in depends_on"),
        (
            {
                "init": READS,
                "methods": "@property\n    def depends_on(self): return str(HERE / 'turn.pt')",
            },
            "names in depends_on",
        ),
        (
            {
                "init": READS,
                "methods": "@classmethod\n    def depends_on(cls): return [HERE / 'turn.pt']",
            },
            "names in depends_on",
        ),
        ({"init": READS}, "the file turn.pt changed"),
        (
            {
                "init": "self.register_buffer('by', torch.zeros((), dtype=torch.int64))",
                "fit": "self.by.copy_(torch.load(HERE / 'turn.pt'))",
                "forward": "return logits.roll(int(self.by), 1)",
            },
            "the file turn.pt changed",
        ),
    ],
    ids=["named", "property", "class method", "in __init__", "in fit"],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_weight_file_counts(write, go, monkeypatch, parts, reason, finished):
    folder = write(**parts)
    turn(folder, 0)
    if finished:
        assert clean(go())[0] > 0.7
    else:
        half(go, monkeypatch)
    turn(folder, 1)
    write(**parts)
    assert is_new(go(), reason)
    assert go().was_complete


@pytest.mark.parametrize("where", ["init", "fit"])
def test_a_file_that_compiled_code_reads_counts(write, go, where):
    # safetensors opens files in Rust, of which Python hears nothing.
    parts = {
        "top": "from safetensors.torch import load_file\nPATH = str(HERE / 'w.safetensors')",
        "init": "self.by = nn.Parameter(torch.zeros(10, 10))",
        "forward": "return logits @ self.by",
    }
    line = "self.by.data.copy_(load_file(PATH)['w'])"
    parts[where] = f"{parts[where]}; {line}" if where in parts else line
    folder = write(**parts)
    save_file({"w": torch.eye(10)}, folder / "w.safetensors")
    assert clean(go())[0] > 0.7
    save_file({"w": torch.eye(10).roll(1, 1)}, folder / "w.safetensors")
    write(**parts)
    assert is_new(go(), "w.safetensors changed")


def test_weights_from_a_source_that_nobody_sees_count_when_init_loads_them(write, go, monkeypatch):
    parts = {
        "top": "import os",
        "init": ("self.register_buffer('by', torch.eye(10).roll(len(os.environ['DECIDES']), 1))"),
        "forward": "return logits @ self.by",
    }
    write(**parts)
    monkeypatch.setenv("DECIDES", "")
    assert clean(go())[0] > 0.7
    monkeypatch.setenv("DECIDES", "1")
    write(**parts)
    assert is_new(go(), "what it starts its training from (a file that it loads?) changed")


def test_a_stale_model_of_the_cache_is_not_taken(write, go):
    folder = write(init=READS)
    turn(folder, 0)
    assert clean(go(out="one"))[0] > 0.7
    turn(folder, 1)
    result = go(out="two")
    assert clean(result)[0] < 0.2
    assert result.said.about("the file turn.pt changed since the model in the cache was trained")


def test_what_an_installation_tells_of_itself_is_no_file_of_the_model(tmp_path):
    told, data = tmp_path / "plugin.egg-info" / "entry_points.txt", tmp_path / "weights.txt"
    told.parent.mkdir()
    with watching() as watch:
        for path in (told, data):
            path.touch()
            path.read_text()
    watch.written.clear()
    assert set(watch.files()) == {str(data.resolve())}


def test_a_file_that_fit_writes_is_none_that_it_depends_on(write, go):
    parts = {
        "top": "import time",
        "fit": (
            "(HERE / 'log.txt').write_text(str(time.time_ns()));"
            " (HERE / 'log.txt').read_text(); open(HERE / 'log.txt').close()"
        ),
    }
    folder = write(**parts)
    first = go()
    assert read_models(first.path)[0].origin.files == {}
    (folder / "log.txt").write_text("other")
    assert go().was_complete


def test_a_file_that_depends_on_names_must_be_there(write, go):
    write(attributes="depends_on = 'nowhere.pt'")
    (reason,) = set(go().cells["reason"])
    assert reason.startswith("training failed: depends_on names nowhere.pt, which is not there")


# --- the images

PICTURES = """
import numpy as np
from pathlib import Path
from benchmark.datasets import DIGITS, DatasetSource
from benchmark.errors import UsageError
from benchmark.datasets.info import RawSplit
from dataclasses import replace

FILE = Path(__file__).with_name("shift.txt")

def pictures(info, split):
    if not FILE.exists():
        raise UsageError("pics: no images")
    raw = DIGITS.embedded(DIGITS.info, split)
    shift = int(FILE.read_text()) if split == "{split}" else 0
    return RawSplit(raw.labels, lambda rows: np.roll(raw.read(rows), shift, 3), "embedded")

PICS = DatasetSource(replace(DIGITS.info, name="pics"), embedded=pictures)
"""


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("finished", [True, False])
def test_other_images_are_refused_complete_or_not(write, go, monkeypatch, split, finished):
    write("pics", PICTURES.replace("{split}", split))
    folder = write(fit="pass")
    (folder / "shift.txt").write_text("0")
    spec = replace(SPEC, dataset="pics:PICS")
    if finished:
        first = go(spec)
        assert go(spec).was_complete
    else:
        half(go, monkeypatch, spec)
    (folder / "shift.txt").write_text("5")
    with pytest.raises(UsageError, match=rf"was begun with other .* images \({split} checksum"):
        go(spec)
    if finished:
        (folder / "shift.txt").unlink()
        result = go(spec)
        assert result.was_complete
        assert clean(result) == clean(first)
        (line,) = result.said.said
        assert line.startswith("not checked against what is there now: pics: no images")


# --- the trained model

LUCKY = {"top": "import os", "fit": "self.net[1].weight.data.add_(os.urandom(1)[0] / 1000)"}


def test_a_training_that_comes_out_otherwise_is_not_mixed(write, go, monkeypatch, tmp_path):
    write(**LUCKY)
    with monkeypatch.context() as patch:
        half(go, patch)
        folder = next((tmp_path / "runs").iterdir())
        record = read_model(next((folder / "models").iterdir()))
        # 1 in 256 trainings would come out alike.
        write_model(folder, replace(record, origin=replace(record.origin, weights="0" * 64)))
    shutil.rmtree(tmp_path / "cache")
    result = go()
    (line,) = result.said.about("computed again")
    assert "trained again it is another model (its weights are others)" in line
    assert len(set(result.cells["clean_accuracy"])) == 1
    assert set(result.cells["status"]) == {"ok"}


def test_a_model_that_was_trained_again_since_is_not_called_complete(write, go):
    write(fit="pass")
    first = go()
    (record,) = read_models(first.path)
    write_model(first.path, replace(record, origin=replace(record.origin, weights="0" * 64)))
    result = go()
    assert not result.was_complete
    assert result.said.about("came out otherwise, since its 4 cells were computed")
    assert go().was_complete


def test_without_the_cache_every_model_is_trained_afresh(write, go, tmp_path):
    write(fit="pass")
    with private_cache():
        first = go(retrain=True)
    assert not (tmp_path / "cache").exists()
    before = (first.path / "cells.parquet").read_bytes()
    fits = sys.modules["mine"].Means.fits
    assert fits == 1
    with private_cache():
        again = go(retrain=True)
    assert sys.modules["mine"].Means.fits == 2
    assert not again.said.about("computed again")  # the same weights: the cells stand
    assert (first.path / "cells.parquet").read_bytes() == before
    (record,) = read_models(first.path)
    write_model(first.path, replace(record, origin=replace(record.origin, weights="0" * 64)))
    with private_cache():
        other = go(retrain=True)
    assert other.said.about("its weights are others")
    assert clean(other) == clean(first)


def test_another_torch_leaves_a_complete_run_and_goes_on_with_its_model(write, go, monkeypatch):
    write(fit="pass")
    half(go, monkeypatch)
    monkeypatch.setattr(origin, "version", lambda package: "0.0")
    result = go()
    assert result.said.about("made before torch changed")
    assert result.said.about("taken from the cache")
    assert not result.said.about("computed again")
    assert sys.modules["mine"].Means.fits == 1
    again = go()
    assert again.was_complete
    (line,) = again.said.said
    assert line == ("mine:Means (seed 0): made before torch changed; the cells stay as they are")


def test_another_torch_without_the_model_mixes_nothing(write, go, monkeypatch, tmp_path):
    write(fit="self.net[1].weight.data.mul_(len(torch.__version__))")
    half(go, monkeypatch)
    monkeypatch.setattr(origin, "version", lambda package: "0.0")
    monkeypatch.setattr(torch, "__version__", "0.0")
    shutil.rmtree(tmp_path / "cache")
    assert go().said.about("trained again it is another model (its weights are others)")


def test_records_of_older_versions_are_read_and_said(write, go):
    write(fit="pass")
    first = go()
    (record,) = read_models(first.path)
    write_model(first.path, replace(record, origin=None, key="0" * 64))
    result = go()
    assert result.was_complete
    (line,) = result.said.said
    assert line.endswith("an older version did not record what the model came from")


def test_the_audit_refuses_a_defense_that_has_changed(write, go):
    write(fit="pass")
    result = go()
    (record,) = read_models(result.path)
    sets = load_images(SPEC, None)
    options = {"seed": 0, "progress": Progress()}
    recall(SPEC.defenses[0], record, *sets, **options)
    other = replace(record, origin=replace(record.origin, weights="0" * 64))
    with pytest.raises(OtherModelError, match="its weights are others"):
        recall(SPEC.defenses[0], other, *sets, **options)
    write(**WRONG)
    with pytest.raises(OtherModelError, match="its code changed since the run attacked it"):
        recall(SPEC.defenses[0], record, *sets, **options)
    audit_run(result.path, level="basic", progress=Progress())


def test_a_cross_check_of_other_code_or_images_is_computed_again(write, tmp_path):
    def check(**options):
        heard = Listening()
        plan = plan_crosscheck(
            dataset="pics:PICS",
            defense="mine:Means",
            attack="fgsm",
            preset="smoke",
            device="cpu",
            libraries=["inhouse"],
            eps=[0.02],
            n=12,
        )
        rest = {"out": tmp_path, "data_dir": None, "command": "", "progress": heard}
        found, was_there = crosscheck(plan, **rest, **options)
        return found.result["libraries"][0]["success"], was_there, heard.about("computed again")

    folder = write("pics", PICTURES.replace("{split}", "train"))
    (folder / "shift.txt").write_text("0")
    write(fit="pass")
    success, _, _ = check()
    assert success < 0.5
    assert check() == (success, True, [])
    assert check(again=True) == (success, False, [])
    write(**WRONG)
    wrong, was_there, said = check()
    assert wrong > 0.8
    assert not was_there
    assert said == ["its code changed since this cross-check was computed: computed again"]
    assert check() == (wrong, True, [])
    (folder / "shift.txt").write_text("5")
    _, was_there, said = check()
    assert not was_there
    assert said[0].startswith("the images of pics:PICS changed since this cross-check")
    (folder / "shift.txt").unlink()
    assert check()[1]


@pytest.mark.parametrize("command", ["run", "crosscheck", "speed"])
def test_the_option_reaches_every_command(command, monkeypatch):
    seen = []

    class StopError(UsageError):
        pass

    def stop(*args, **options):
        seen.append((model_cache.cache_dir() != usual, options))
        raise StopError

    usual = model_cache.cache_dir()
    monkeypatch.setattr(runner, "run", stop)
    monkeypatch.setattr(crosscheck_measure, "crosscheck", stop)
    monkeypatch.setattr(speed_measure, "measure_speed", stop)
    words = [command, "--dataset", "digits", "--preset", "smoke", "--device", "cpu"]
    words += {"crosscheck": ["--attack", "pgd"], "speed": ["--tasks", "pgd"]}.get(command, [])
    for more in ([], ["--no-cache"]):
        with pytest.raises(SystemExit):
            main([*words, *more])
    assert [private for private, _ in seen] == [False, True]
    name = {"run": "retrain", "crosscheck": "again"}.get(command)
    assert name is None or [options[name] for _, options in seen] == [False, True]
    assert model_cache.cache_dir() == usual


# --- state that the cache does not hold

COPY = "a copy of the trained model, from its state_dict, answers otherwise"
SECRET = {
    "attribute": {"fit": "self.turn = 1"},
    "raises": {"fit": "self.extra = 1", "forward": "logits = logits * self.extra"},
    "predict": {
        "fit": "self.far = 1",
        "methods": (
            "def predict(self, x): return (self(x).argmax(1) + getattr(self, 'far', 0)) % 10"
        ),
    },
    "surrogate": {
        "fit": "self.far = 2.0",
        "methods": "def surrogate(self, x): return self(x) * getattr(self, 'far', 1.0)",
    },
    "flag": {"fit": "self.stochastic = True"},
    "noisy": {
        "attributes": "stochastic = True",
        "fit": "self.turn = 1",
        "forward": "logits = logits + 0.01 * torch.randn_like(logits)",
    },
}


@pytest.mark.parametrize("kind", SECRET)
def test_state_outside_the_state_dict_fails_in_one_line_every_time(write, go, kind, tmp_path):
    write(**SECRET[kind])
    for _ in range(2):
        result = go()
        assert result.n_failed == 4
        (reason,) = set(result.cells["reason"])
        assert reason.startswith(f"training failed: {COPY} (")
        assert "register_buffer" in reason
        assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_state_of_the_class_fails_when_the_model_comes_from_the_cache(write, go):
    parts = {"attributes": "far = 0", "fit": "Means.far = 1", "forward": "self.turn = Means.far"}
    write(**parts)
    first = go(out="one")
    assert clean(first)[0] < 0.2
    write(**parts)  # another process
    result = go(out="two")
    (reason,) = set(result.cells["reason"])
    assert reason.startswith(
        "training failed: taken from the cache the model answers otherwise than when it was trained"
    )
    assert "forward differs on 4 of 4 images" in reason
    assert "--no-cache" in reason


@pytest.mark.parametrize(
    "parts",
    [
        {
            "attributes": "stochastic = True",
            "forward": "logits = logits + torch.randn_like(logits)",
        },
        {
            "attributes": "stochastic = True",
            "init": "self.rng = torch.Generator().manual_seed(0)",
            "forward": "logits = logits + torch.randn(logits.shape, generator=self.rng)",
        },
        {
            "init": "self.register_buffer('by', torch.zeros(()))",
            "fit": "self.by.fill_(1)",
            "forward": "logits = logits * self.by",
        },
        {
            "fit": "self.extra = torch.ones(2)",
            "init": "self.extra = torch.zeros(2)",
            "forward": "logits = logits * self.extra[0]",
            "methods": (
                "def get_extra_state(self): return self.extra\n"
                "    def set_extra_state(self, state): self.extra = state"
            ),
        },
        {
            "methods": "def embed(self, x): return self(x)[:, :2] * float('nan')",
        },
    ],
    ids=["noise", "own generator", "buffer", "extra state", "NaN"],
)
def test_what_the_cache_holds_whole_is_taken_from_it(write, go, parts):
    write(**parts)
    first = go(out="one")
    write(**parts)
    second = go(replace(SPEC, n_test=39), out="two")
    assert second.said.about("taken from the cache")
    assert second.n_failed == first.n_failed == 0
    assert read_models(first.path)[0].origin == read_models(second.path)[0].origin


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {
                "init": "self.extra = {'k': 1}",
                "methods": (
                    "def get_extra_state(self): return self.extra\n"
                    "    def set_extra_state(self, state): self.extra = state"
                ),
            },
            "state_dict holds _extra_state as dict; only tensors can be kept",
        ),
        ({"fit": "self.register_buffer('late', torch.ones(2))"}, "fit added late to state_dict"),
        (
            {
                "init": "self.register_buffer('by', torch.zeros(0))",
                "fit": "self.by = torch.zeros(3)",
            },
            "fit changed the shape of by",
        ),
    ],
    ids=["extra state", "new buffer", "shape"],
)
def test_what_the_cache_cannot_hold_is_said_and_trained_again(write, go, parts, words):
    write(**parts)
    for out in ("one", "two"):
        result = go(out=out)
        assert result.n_failed == 0
        (line,) = result.said.about("not kept in the cache")
        assert line.startswith(f"mine:Means (seed 0): not kept in the cache: {words}")
        assert result.said.about("training on 100 images")


def test_what_another_processor_answers_may_differ_a_little(write, go, monkeypatch):
    parts = {"top": "import os", "forward": "logits = logits * float(os.environ['SCALE'])"}
    write(**parts)
    monkeypatch.setenv("SCALE", "1")
    go(out="one")
    monkeypatch.setattr(origin, "device_name", lambda device: "another")
    monkeypatch.setenv("SCALE", "1.01")
    assert go(out="two").said.about("taken from the cache")
    monkeypatch.setenv("SCALE", "1.5")
    result = go(out="three")
    assert result.said.about("answers otherwise (forward differs on 4 of 4 images): trained again")
    assert result.n_failed == 0
    monkeypatch.setenv("SCALE", "1.51")  # the same processor: 1 % is no rounding
    assert go(out="four").n_failed == 4


def said(*rows, **others):
    return {"forward": [list(row) for row in rows], **others}


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (said([1.0, -8.0]), said([1.004, -8.0]), ""),
        (said([1.0, -8.0]), said([1.02, -8.0]), "forward differs on 1 of 1 images"),
        (said([1.0, None], [0.0, 0.0]), said([1.0, math.nan], [0.0, 0.0]), ""),
        (said([1.0, 2.0]), said([1.0, math.nan]), "forward differs on 1 of 1 images"),
        (said([math.inf, 2.0]), said([math.inf, 2.0]), ""),
        (said([1.0, 2.0]), said([1.0, 2.0, 3.0]), "forward gives (1, 3) values, not (1, 2)"),
        (said([1.0, 2.0]), {}, "forward gives no such answer"),
        (said([1.0, 2.0]), {"forward": "ValueError: no"}, "forward: ValueError: no"),
        (said([1, 2], predict=[[1]]), said([1, 2], predict=[[0]]), "predict differs on 1 of 1"),
        (said([2, 2.001], predict=[[1]]), said([2, 2.001], predict=[[0]]), ""),  # a tie
        (
            {"flags": {"stochastic": True}},
            {"flags": {"stochastic": False}},
            "stochastic is False, not True",
        ),
        ({"flags": 3, "forward": "no rows"}, {"flags": {}}, "forward gives no such answer"),
    ],
)
def test_answers_are_alike_up_to_rounding(before, now, words):
    found = difference(before, now)
    assert found.startswith(words)
    assert bool(found) == bool(words)


def test_tensors_before_training_are_alike_up_to_rounding():
    model = SmallCNN(1)
    start = start_of(model)
    assert alike(start, start_of(SmallCNN(1)))
    with torch.no_grad():
        model.net[0].weight.mul_(1 + 1e-7)
    assert alike(start, start_of(model))
    with torch.no_grad():
        model.net[0].weight.mul_(1 + 1e-4)
    assert not alike(start, start_of(model))
    assert not alike(start, start_of(SmallCNN(2)))
    assert not alike(start, [])
    assert not alike(start, "nonsense")
    swapped = SmallCNN(1)
    with torch.no_grad():
        swapped.net[5].weight.copy_(swapped.net[5].weight.flip(0))  # the same length
    assert not alike(start, start_of(swapped))


def test_weights_of_any_dtype_have_a_hash():
    class Odd(Defense):
        def __init__(self):
            super().__init__(TOY)
            for i, dtype in enumerate((torch.bool, torch.bfloat16, torch.int8, torch.complex64)):
                self.register_buffer(f"b{i}", torch.ones(2, dtype=dtype))
            self.register_buffer("none", torch.zeros(0))
            self.register_buffer("scalar", torch.zeros(()))
            self.lazy = nn.LazyLinear(2)

    one, other = Odd(), Odd()
    assert weights_of(one) == weights_of(other)
    assert alike(start_of(one), start_of(other))
    other.b0[0] = False
    assert weights_of(one) != weights_of(other)


# --- the files that a plugin opens


def test_what_is_read_is_told_from_what_is_written_or_belongs_to_others(tmp_path):
    for name in ("read", "both", "code.py", "cache/inside"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with watching() as watch:
        for name in ("read", "both", "code.py", "cache/inside"):
            (tmp_path / name).read_bytes()
        (tmp_path / "both").write_text("new")
        Path(pytest.__file__).with_name("py.typed").read_bytes()
        Path("/proc/cpuinfo").exists() and Path("/proc/cpuinfo").read_text()
        (tmp_path / "gone").write_text("x")
        (tmp_path / "gone").unlink()
    (tmp_path / "later").write_text("x")
    (tmp_path / "later").read_text()
    found = watch.files(but=[tmp_path / "cache"])
    assert list(found) == [str((tmp_path / "read").resolve())]
    assert changed_file(found) == ""
    (tmp_path / "read").write_text("other")
    assert changed_file(found) == str((tmp_path / "read").resolve())
    (tmp_path / "read").unlink()
    assert changed_file(found) == ""  # it may have been a temporary one


def test_a_record_cannot_make_anybody_read_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert changed_file({str(tmp_path / "pipe"): "0" * 64, "/dev/zero": "1", "\0": "2"}) == ""
