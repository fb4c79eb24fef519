"""The command evaluate, end to end: a file with a model, a file of weights, real images."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmark.cli import main
from benchmark.datasets import DIGITS

pytestmark = pytest.mark.e2e

NET = '''
"""A network for 28 x 28 digits."""
from torch import nn

def build(width=8):
    return nn.Sequential(
        nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 64, 10)
    )
'''


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with a network, trained for a moment, and its weights."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "net.py").write_text(NET)
    space: dict = {}
    exec(NET, space)
    torch.manual_seed(0)
    net, data = space["build"](), DIGITS.load("train", n=600)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(5):
        for rows in data.batches(50):
            loss = torch.nn.functional.cross_entropy(net(data.x(rows)), data.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save_file(net.state_dict(), folder / "net.safetensors")
    return folder


@pytest.fixture
def go(workshop, monkeypatch, capsys):
    monkeypatch.chdir(workshop)

    def run(*words, code=0):
        with pytest.raises(SystemExit) as stop:
            main(words)
        said = capsys.readouterr()
        assert (stop.value.code or 0) == code, said.err
        return said.out, said.err

    return run


MODEL = ("evaluate", "--model", "net.py:build", "--weights", "net.safetensors")
SMALL = ("--data", "digits", "--n", "12", "--eps", "0,0.05,0.1", "--attacks", "pgd")


def test_a_model_from_the_shell(go, workshop):
    out, err = go(*MODEL, *SMALL)
    assert "build on 12 images: accuracy" in out
    assert "verdict: undecided (basic audit)" in out
    (run_dir,) = (workshop / "runs").glob("digits-evaluate-*")
    assert f"run folder: runs/{run_dir.name}" in err
    assert (run_dir / "report" / "report.html").exists()
    # The same command again computes nothing, and says the same.
    before = (run_dir / "samples.parquet").stat().st_mtime_ns
    again, _ = go(*MODEL, *SMALL)
    assert again == out
    assert (run_dir / "samples.parquet").stat().st_mtime_ns == before


def test_the_audit_goes_on_with_the_models_source(go, workshop, tmp_path):
    runs = str(tmp_path / "runs")
    go(*MODEL, *SMALL, "--out", runs)
    (run_dir,) = Path(runs).iterdir()
    os.chdir("/")  # the source holds from any folder
    out, _ = go("audit", str(run_dir))
    assert "attacked fairly" in out
    go("report", str(run_dir))


def test_another_model_under_the_runs_name_is_refused(go, workshop, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    runs = str(tmp_path / "runs")
    weights = tmp_path / "w.safetensors"
    weights.write_bytes((workshop / "net.safetensors").read_bytes())
    go("evaluate", "--model", "net.py:build", "--weights", str(weights), *SMALL, "--out", runs)
    space: dict = {}
    exec(NET, space)
    save_file(space["build"]().state_dict(), weights)
    (run_dir,) = Path(runs).iterdir()
    out, err = go("audit", str(run_dir))
    assert "not the model that the run attacked" in out + err


def test_json_holds_the_numbers(go):
    out, _ = go(*MODEL, *SMALL, "--json", "--out", "json-runs", "--model-args", "width=8")
    found = json.loads(out)
    assert found["n"] == 12
    assert {row["attack"] for row in found["accuracy"]} == {"pgd", "worst case"}
    assert found["verdict"]["word"] == "undecided"


def test_settings_reach_the_attack(go, tmp_path):
    out = str(tmp_path / "runs")
    go(*MODEL, *SMALL, "--audit", "off", "--set", "attack_settings.pgd.steps=7", "--out", out)
    (run_dir,) = Path(out).iterdir()
    spec = json.loads((run_dir / "spec.json").read_text())
    assert spec["attacks"][0]["params"]["steps"] == 7


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--model", "net.py:buidl"), "did you mean 'build'"),
        (("--model", "net.py:build", "--model-args", "wdth=3"), "did you mean 'width'"),
        (("--model", "net.py:build", "--weights", "gone.pt"), "there is no file"),
        (("--model", "net.py:build", "--mean", "half"), "write numbers such as"),
        (("--model", "net.py:build", "--data", "nowhere"), "unknown path or dataset"),
        (("--model", "net.py:build", "--data", "net.py"), "a file that ends in"),
        (("--model", "net.py:build", "--eps", "0,x"), "eps: 'x' is not a number"),
        (("--model", "net.py:build", "--set", "training.epochs=1"), "evaluate trains nothing"),
        (("--model", "net.py:build", "--norm", "l7"), "unknown norm"),
    ],
)
def test_a_mistake_gets_one_line(go, words, line):
    given = dict(zip(words[::2], words[1::2], strict=True))
    asked = {"--data": "digits", "--n": "4", **given}
    _, err = go("evaluate", *(word for pair in asked.items() for word in pair), code=2)
    assert line in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")


def test_audit_of_a_model_from_python_says_what_to_do(go, workshop, tmp_path):
    import benchmark

    data = DIGITS.load("test", n=8)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    found = benchmark.evaluate(
        net, (data.images, data.labels), attacks="pgd", out=tmp_path, verbose=False, audit="off"
    )
    _, err = go("audit", str(found.run.path), code=2)
    assert "call benchmark.evaluate again" in err
