"""Trackers are told of every result; what they do to a run is nothing."""

import sys
from collections import Counter
from types import ModuleType, SimpleNamespace

import pytest
from fake_audit import put_audit, verdict
from fake_runs import fake_run, fake_spec

from benchmark.errors import UsageError
from benchmark.results import read_run
from benchmark.results.schema import CELLS
from benchmark.results.tables import empty_table
from benchmark.tracking import base
from benchmark.tracking.loader import METHODS, load_trackers
from benchmark.tracking.session import tracked


class Notebook:
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        if name not in METHODS:
            raise AttributeError(name)
        return lambda *words: self.told.append((name, *words))

    def count(self):
        return Counter(name for name, *_ in self.told)


class Broken(Notebook):
    """A tracker whose named method raises."""

    def __init__(self, method, error):
        super().__init__()
        self.method, self.error = method, error

    def __getattr__(self, name):
        if name == self.method:
            raise self.error
        return super().__getattr__(name)


@pytest.fixture
def there(tmp_path):
    """A run on disk, audited, and its spec."""
    spec = fake_spec(["undefended", "madry"], seeds=(0,), n=4)
    run_dir = fake_run(tmp_path, spec)
    put_audit(run_dir, verdicts=[verdict("madry"), verdict("undefended")])
    return run_dir, spec


def test_a_run_is_told_cell_by_cell_and_the_rest_at_its_end(there):
    run_dir, spec = there
    cells, notebook = read_run(run_dir).cells, Notebook()
    with tracked({"notebook": notebook}, spec, run_dir.parent, print) as watch:
        assert not notebook.told
        watch(empty_table(CELLS))
        assert [told[0] for told in notebook.told] == ["start"]
        watch(cells.head(3))
        assert notebook.count() == {"start": 1, "cell": 3}
    assert notebook.count() == {
        "start": 1, "cell": len(cells), "model": 2, "verdict": 2, "finish": 1
    }  # fmt: skip
    _, run_id, settings, folder = notebook.told[0]
    assert (run_id, settings["dataset"], folder) == (spec.run_id, "mnist", run_dir)
    name, artifacts = notebook.told[-1]
    assert name == "finish"
    assert {path.name for path in artifacts} >= {"cells.parquet", "spec.json", "verdicts.parquet"}
    assert all(path.is_file() for path in artifacts)


def test_a_complete_run_is_told_whole(there):
    run_dir, spec = there
    notebook = Notebook()
    with tracked({"notebook": notebook}, spec, run_dir.parent, print):
        pass
    assert notebook.count()["cell"] == len(read_run(run_dir).cells)
    assert notebook.told[0][0] == "start"


def test_ctrl_c_ends_the_run_in_the_tracker_too(there):
    run_dir, spec = there
    notebook = Notebook()

    def stopped():
        with tracked({"notebook": notebook}, spec, run_dir.parent, print) as watch:
            watch(empty_table(CELLS))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert notebook.told[-1][0] == "finish"


def test_nothing_is_told_of_a_run_that_was_never_begun(there, tmp_path):
    notebook = Notebook()
    with (
        pytest.raises(UsageError),
        tracked({"notebook": notebook}, there[1], tmp_path / "elsewhere", print),
    ):
        raise UsageError("no such images")
    assert not notebook.told


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [RuntimeError("no net\nat all"), SystemExit(1), ValueError()])
def test_a_tracker_that_raises_is_left_out_with_one_line(there, method, error):
    run_dir, spec = there
    good, bad, said = Notebook(), Broken(method, error), []
    trackers = {"bad": bad, "good": good}
    with tracked(trackers, spec, run_dir.parent, said.append) as watch:
        watch(read_run(run_dir).cells)
    (line,) = said
    assert line.startswith(f"--log bad: left out from here on ({method}: ")
    assert "\n" not in line
    assert good.count()["finish"] == 1
    assert bad.count()["finish"] == 0
    assert trackers.keys() == {"bad", "good"}


def test_a_damaged_table_is_said_and_the_tracker_ends(there):
    run_dir, spec = there
    notebook, said = Notebook(), []
    with tracked({"notebook": notebook}, spec, run_dir.parent, said.append) as watch:
        watch(empty_table(CELLS))
        (run_dir / "verdicts.parquet").write_bytes(b"damaged")
    assert len(said) == 1
    assert notebook.told[-1][0] == "finish"


def test_what_a_tracker_prints_is_not_on_standard_output(there, capsys):
    run_dir, spec = there

    class Loud(Notebook):
        def start(self, *_):
            sys.stdout.write("hello\n")

    with tracked({"loud": Loud()}, spec, run_dir.parent, lambda _: None):
        pass
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


# --- names -------------------------------------------------------------------------------------


def test_names_and_numbers_are_what_every_service_takes():
    row = {"defense": "a b/<c>", "seed": 0, "attack": "torchattacks:APGD(steps=5)", "eps": 8 / 255}
    row |= {"library": "x", "norm": "linf", "robust_accuracy": 0.5, "ci_low": float("nan"), "n": 4}
    assert base.curve_name(row) == "a_b_c_/seed0/torchattacks_APGD_steps_5_-x-linf"
    assert base.measured({**row, "status": "ok"}) == {"robust_accuracy": 0.5}
    assert base.measured({**row, "status": "failed"}) == {}
    assert base.step(row["eps"]) == 314
    record = {"log": [{"epoch": 2, "loss": 0.5, "lr": None, "note": "x"}, {"loss": 0.25}]}
    assert list(base.epochs(record)) == [(2, {"loss": 0.5}), (2, {"loss": 0.25})]


def module(monkeypatch, name, **contents):
    made = ModuleType(name)
    vars(made).update(contents)
    monkeypatch.setitem(sys.modules, name, made)


def test_a_class_of_ones_own_is_loaded_by_its_path(monkeypatch):
    module(monkeypatch, "my_tracker", Mine=Notebook)
    (made,) = load_trackers(["my_tracker:Mine", "my_tracker:Mine"]).values()
    assert isinstance(made, Notebook)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandbb", "unknown tracker 'wandbb'; did you mean 'wandb'"),
        ("wandb", "--log wandb: wandb is not installed; pip install wandb"),
        ("mlflow", "--log mlflow: mlflow is not installed; pip install mlflow"),
        ("trackio", "--log trackio: trackio is not installed; pip install trackio"),
        ("tensorboard", "--log tensorboard: tensorboard is not installed; pip install tensorboard"),
        ("my_tracker:Less", "--log my_tracker:Less: it has no start; a tracker has start, cell"),
        ("my_tracker:Wrong", "--log my_tracker:Wrong: .*no account"),
        ("my_tracker:Nothing", "my_tracker has no 'Nothing'"),
        ("no_such_package:Mine", "No module named 'no_such_package'"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(monkeypatch, name, message):
    def wrong():
        raise RuntimeError("no account")

    module(monkeypatch, "my_tracker", Less=SimpleNamespace, Wrong=wrong)
    for library in ("wandb", "mlflow", "trackio", "tensorboard"):
        monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(UsageError, match=message) as error:
        load_trackers([name])
    assert "\n" not in str(error.value)


# --- the services' own calls, against stand-ins of their libraries --------------------------------


class Calls:
    """Stands in for a library: any call is kept by its dotted name."""

    def __init__(self, kept, name=""):
        self.kept, self.name = kept, name

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Calls(self.kept, f"{self.name}.{name}".lstrip("."))

    def __call__(self, *args, **kwargs):
        self.kept.append((self.name, args, kwargs))
        return [] if self.name == "search_runs" else Calls(self.kept, self.name)

    def __setitem__(self, key, value):
        self.kept.append((f"{self.name}[]", (key, value), {}))


@pytest.fixture
def library(monkeypatch):
    def standing_in(name):
        kept = []
        made = ModuleType(name)
        made.__getattr__ = Calls(kept).__getattr__
        monkeypatch.setitem(sys.modules, name, made)
        return kept

    return standing_in


def logged(name, there):
    run_dir, spec = there
    said = []
    with tracked(load_trackers([name]), spec, run_dir.parent, said.append):
        pass
    assert not said


def test_wandb_gets_curves_over_eps_verdicts_and_an_artifact(library, there):
    kept = library("wandb")
    logged("wandb", there)
    (init,) = [options for name, _, options in kept if name == "init"]
    assert init["id"] == there[1].run_id
    assert init["resume"] == "allow"
    points = [args[0] for name, args, _ in kept if name == "init.log"]
    curve = "madry/seed0/pgd-inhouse-linf"
    assert {p[f"{curve}/eps"] for p in points if f"{curve}/eps" in p} == {0, 0.1, 0.2, 0.3, 0.4}
    assert any("madry/seed0/train/loss" in point for point in points)
    summary = dict(args for name, args, _ in kept if name == "init.summary[]")
    assert summary["madry/seed0/verdict-linf"] == "undecided"
    assert [name for name, *_ in kept][-2:] == ["init.log_artifact", "init.finish"]


def test_mlflow_goes_on_with_the_run_of_that_tag(library, there):
    kept = library("mlflow")
    logged("mlflow", there)
    names = Counter(name for name, *_ in kept)
    assert names["start_run"] == names["end_run"] == names["log_params"] == 1
    steps = {
        options["step"]: args[1]
        for name, args, options in kept
        if name == "log_metric" and args[0] == "madry/seed0/pgd-inhouse-linf/robust_accuracy"
    }
    assert sorted(steps) == [0, 1000, 2000, 3000, 4000]
    tags = [args for name, args, _ in kept if name == "set_tag"]
    assert ("madry/seed0/verdict-linf", "undecided") in tags


def test_trackio_is_told_the_same(library, there):
    kept = library("trackio")
    logged("trackio", there)
    assert kept[0][0] == "init"
    assert kept[0][2]["name"] == there[1].run_id
    assert kept[-1][0] == "finish"
    assert {"madry/seed0/verdict-linf"} <= {key for _, args, _ in kept for a in args for key in a}


def test_tensorboard_writes_into_the_runs_folder(library, there, monkeypatch):
    kept = library("tensorboard")
    library_of_torch = ModuleType("torch.utils.tensorboard")
    library_of_torch.SummaryWriter = Calls(kept, "writer")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", library_of_torch)
    run_dir, _ = there
    (run_dir / "tensorboard").mkdir()
    before = run_dir / "tensorboard" / "events.out.tfevents.1"
    before.write_text("")
    logged("tensorboard", there)
    assert not before.exists()
    assert kept[0] == ("writer", (), {"log_dir": str(run_dir / "tensorboard")})
    scalars = [args for name, args, _ in kept if name == "writer.add_scalar"]
    assert ("madry/seed0/pgd-inhouse-linf/clean_accuracy", 1.0, 1000) in [
        (tag, round(value), step) for tag, value, step in scalars
    ]
    assert kept[-1][0] == "writer.close"


def test_cells_without_a_number_are_passed_over(library, tmp_path):
    kept = library("trackio")
    spec = fake_spec(["madry"], seeds=(0,), n=4)
    states = {("madry", eps): ("failed", "boom") for eps in (0.0, 0.1, 0.2, 0.3, 0.4, 1.0, 2.0)}
    logged("trackio", (fake_run(tmp_path, spec, states=states, models=False), spec))
    assert Counter(name for name, *_ in kept) == {"init": 1, "log": 1, "finish": 1}
