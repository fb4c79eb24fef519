"""The command line: one clear line and exit code 2 for bad input; a run from end to end."""

import hashlib
import json

import pytest
import torch

from benchmark import __version__
from benchmark.attacks.pgd import PGD
from benchmark.cli import main
from benchmark.config import presets
from benchmark.config.threat import ThreatModel
from benchmark.results import read_run, read_spec

PRESET = {
    "description": "for the tests",
    "defaults": {
        "n_train": 60,
        "n_test": 20,
        "attacks": ["pgd"],
        "eps": {"linf": [0.0, 0.1], "l2": [0.0, 0.5]},
        "training": {"epochs": 1, "batch_size": 25, "adversary_steps": 1},
        "defense_options": {"width": 0.05, "code_dim": 4},
        "attack_settings": {"pgd": {"steps": 2}, "pgd-eot": {"type": "pgd", "eot": 2}},
        "defenses": {
            "defense-gan": {
                "gan_epochs": 1,
                "gan_batch_size": 10,
                "rec_steps": 2,
                "rec_restarts": 1,
                "rec_lr": 1.0,
            }
        },
        "studies": {"width": {"defenses": ["ot-cla"], "option": "width", "values": [0.05, 0.1]}},
    },
}


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a command line in an empty folder; return its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCHMARK_DATA_DIR", raising=False)

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def tiny_preset(monkeypatch):
    monkeypatch.setattr(presets, "read_preset", lambda name: PRESET)


@pytest.fixture
def refused(call, tmp_path):
    """Run a command line that must be refused; return its message."""

    def run(*words):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = call(*words)
        assert code == 2
        assert out == ""
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert err.splitlines()[-1] == errors[0]
        assert sorted(tmp_path.rglob("*")) == before
        return errors[0]

    return run


RUN = ("run", "--dataset", "digits", "--preset", "smoke", "--device", "cpu")


# --- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--defenses", "undefnded"], "unknown defense 'undefnded'; did you mean 'undefended'?"),
        (["--defenses", "madry,ot_cla"], "unknown defense 'ot_cla'; did you mean 'ot-cla'?"),
        (["--defenses", "nowhere.at.all:X"], "No module named 'nowhere'"),
        (["--defenses", "json:Nothing"], "json has no 'Nothing'"),
        (["--defenses", "json:JSONDecoder"], "is not a subclass of benchmark.Defense"),
        (["--dataset", "minst"], "unknown dataset 'minst'; did you mean 'mnist'?"),
        (["--attacks", "pdg"], "unknown attack 'pdg'; did you mean 'pgd'?"),
        (["--preset", "smoek"], "unknown preset 'smoek'; did you mean 'smoke'?"),
        (["--libraries", "inhous"], "unknown library 'inhous'; did you mean 'inhouse'?"),
        (["--libraries", "zzz"], "unknown library 'zzz'. Known: "),
        (["--device", "cdua"], "unknown device 'cdua'; did you mean 'cuda'?"),
        (["--eps", "0,-0.1"], "eps -0.1 is negative"),
        (["--eps", "0,1.5"], "eps 1.5 is above 1"),
        (["--eps", "0,8"], "for 8 grey levels write 8/255 = 0.03137"),
        (["--eps", "0,zero"], "'zero' is not a number"),
        (["--eps", "0,,1"], "'' is not a number"),
        (["--eps", "nan"], "eps nan: not a finite number"),
        (["--eps", "0,inf"], "eps inf: not a finite number"),
        (["--n-train", "0"], "--n-train must be at least 1, got 0"),
        (["--n-test", "-5"], "--n-test must be at least 1, got -5"),
        (["--study", "lamda"], "unknown study 'lamda'; did you mean 'lambda'?"),
        (["--study", "lambda", "--defenses", "madry"], "unknown option of defense madry 'lam'"),
        (["--seeds", "0,one"], "--seeds: '0,one' is not a list of whole numbers"),
        (["--seeds", "1,1"], "--seeds must be distinct"),
        (["--seeds", ""], "--seeds must be distinct"),
    ],
)
def test_wrong_words_are_refused_with_one_line(refused, call, words, message):
    assert message in refused(*RUN, *words)
    assert len(call(*RUN, *words)[2].splitlines()) == 1


def test_a_study_of_other_datasets(refused):
    message = refused(
        *("run", "--dataset", "toys:DATASET", "--preset", "smoke", "--device", "cpu"),
        *("--study", "embedding-dim"),
    )
    assert "no study 'embedding-dim' of toys:DATASET; it has: lambda" in message


def test_more_images_than_there_are(refused):
    message = refused(*RUN, "--n-train", "1298")
    assert "digits train has 1,297 images, 1,298 were asked for" in message
    assert "--n-train must be at most 1297" in message
    assert "--n-test must be at most 500" in refused(*RUN, "--n-test", "501")


def test_an_output_folder_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(*RUN, "--out", tmp_path / "file" / "below")
    assert "cannot write to" in message
    assert "--out" in message
    assert "cannot write to" in refused(*RUN, "--out", tmp_path / "file")


def test_a_data_folder_without_the_dataset(refused, tmp_path):
    words = ("run", "--dataset", "cifar10", "--preset", "smoke", "--device", "cpu")
    message = refused(*words, "--data-dir", tmp_path)
    assert str(tmp_path / "cifar10" / "train*.parquet") in message
    assert "--data-dir" in message
    assert "is not a folder" in refused(*words, "--data-dir", tmp_path / "absent")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(refused):
    assert "no usable CUDA device; use --device cpu" in refused(*RUN, "--device", "cuda")


def test_a_run_folder_made_by_another_spec(refused, call, tmp_path, tiny_preset, caplog):
    words = ("run", "--dataset", "digits", "--preset", "smoke", "--device", "cpu")
    call(*words, "--defenses", "undefended")
    (folder,) = (tmp_path / "runs").iterdir()
    text = (folder / "spec.json").read_text("utf-8")
    (folder / "spec.json").write_text(text.replace('"n_test": 20', '"n_test": 19'), "utf-8")
    assert "was made by another spec (its n_test differ)" in refused(
        *words, "--defenses", "undefended"
    )
    (folder / "spec.json").write_text("{", "utf-8")
    assert call(*words, "--defenses", "undefended")[0] == 0
    assert "not a run's spec" in caplog.text
    assert (folder / "spec.json").read_text("utf-8") == text


def test_report_on_what_is_no_run(refused, tmp_path):
    assert f"{tmp_path} is not a run folder" in refused("report", tmp_path)
    assert "is not a run folder" in refused("report", tmp_path / "absent")


def test_a_dataset_by_path_that_is_none(refused):
    words = ("run", "--dataset", "json:JSONDecoder", "--preset", "smoke", "--device", "cpu")
    assert "is not a benchmark.datasets.source.DatasetSource" in refused(*words)


def test_a_run_needs_a_dataset(refused):
    assert "name the dataset, for example --dataset mnist" in refused("run")


def test_an_unknown_thing_to_list(refused):
    assert "unknown list 'defense'; did you mean 'defenses'?" in refused("list", "defense")


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--dataset", "digits", "--defences", "all"],
        ["run", "--dataset", "digits", "--n-train", "many"],
        ["rnu"],
        ["report"],
    ],
)
def test_typers_own_usage_errors(call, words):
    code, out, err = call(*words)
    assert code == 2
    assert out == ""
    assert "Error: " in err
    assert "Traceback" not in err


# --- eps in any order


def test_eps_are_sorted_and_that_is_said(call, tmp_path, tiny_preset):
    code, _, err = call(*RUN, "--defenses", "undefended", "--eps", "0.2, 0,0.1,0.1")
    assert code == 0
    assert "eps sorted, repetitions dropped: 0, 0.1, 0.2" in err
    (folder,) = (tmp_path / "runs").iterdir()
    assert read_spec(folder).attacks[0].threat.eps == (0, 0.1, 0.2)
    _, _, err = call(*RUN, "--defenses", "undefended", "--eps", "0,0.1,0.2")
    assert "eps sorted" not in err
    assert "complete" in err


# --- list, help, version


def test_list_prints_one_json_object_and_nothing_else(call):
    code, out, err = call("list", "--json")
    assert code == 0
    assert err == ""
    found = json.loads(out)
    assert set(found) == {"attacks", "datasets", "defenses", "libraries", "presets"}
    assert {"undefended", "e-cla", "ot-cla", "ot-cla-adv", "madry"} <= set(found["defenses"])
    assert {"pgd", "pgd-l2"} <= set(found["attacks"])
    assert {"digits", "mnist", "cifar10", "stl10"} <= set(found["datasets"])
    assert set(found["presets"]) == {"smoke", "quick", "paper"}
    assert set(json.loads(call("list", "attacks", "--json")[1])) == {"attacks", "libraries"}


def test_list_says_how_to_install_a_missing_library(call, monkeypatch):
    monkeypatch.setattr(
        "benchmark.attacks.peers.library.find_spec", lambda name: name != "foolbox" or None
    )
    found = json.loads(call("list", "attacks", "--json")[1])["libraries"]
    assert not found["foolbox"]["available"]
    assert found["art"]["version"]
    assert "unavailable: pip install foolbox" in call("list", "attacks")[1]
    code, out, err = call(*RUN, "--attacks", "pgd", "--libraries", "foolbox")
    assert (code, out) == (2, "")
    assert "the library foolbox is not installed: pip install foolbox" in err


def test_list_for_readers(call):
    code, out, _ = call("list", "defenses")
    assert code == 0
    assert "undefended" in out
    assert "mnist" not in out


def test_version_and_help(call):
    assert call("--version")[1].strip() == f"defensebench {__version__}"
    code, out, _ = call("--help")
    assert code == 0
    for command in ("run", "report", "list"):
        assert command in out


# --- from end to end


@pytest.mark.e2e
def test_all_defenses_on_digits_and_the_same_command_again(call, tmp_path, tiny_preset):
    code, out, err = call(*RUN)
    assert code == 0
    assert err.splitlines()[0] == "preset smoke (asked for): for the tests"
    (folder,) = (tmp_path / "runs").iterdir()
    run = read_run(folder)
    names = {"undefended", "e-cla", "ot-cla", "ot-cla-adv", "madry", "rse", "defense-gan"}
    assert len(run.cells) == len(names) * 2
    skipped = run.cells[run.cells["status"] == "skipped"]
    assert set(skipped["defense"]) == {"defense-gan"}  # it passes no gradient to plain pgd
    assert len(skipped) == 2
    assert (run.cells.drop(skipped.index)["status"] == "ok").all()
    assert {model.defense for model in run.models} == names
    with_codes = {m.defense for m in run.models if "code_distance" in m.measures}
    assert with_codes == {"e-cla", "ot-cla", "ot-cla-adv"}
    for name in names - {"defense-gan"}:
        assert name in out
    assert (folder / "report" / "report.html").is_file()

    tables = [folder / "cells.parquet", folder / "samples.parquet"]
    before = [(hashlib.sha256(t.read_bytes()).digest(), t.stat().st_mtime_ns) for t in tables]
    code, again, err = call(*RUN)
    assert code == 0
    assert "complete: every cell of this run is there; nothing was computed" in err
    assert again == out
    assert before == [
        (hashlib.sha256(t.read_bytes()).digest(), t.stat().st_mtime_ns) for t in tables
    ]

    code, out, _ = call("report", folder, "--out", tmp_path / "elsewhere")
    assert code == 0
    assert out.strip() == str(tmp_path / "elsewhere" / "report.html")
    assert (tmp_path / "elsewhere" / "report.html").is_file()


@pytest.mark.e2e
def test_a_study_and_the_same_command_again(call, tmp_path, tiny_preset):
    words = (*RUN, "--study", "width")
    code, out, err = call(*words)
    assert code == 0
    names = ["ot-cla[width=0.05]", "ot-cla[width=0.1]"]
    assert f"study width: {', '.join(names)}" in err
    (folder,) = (tmp_path / "runs").iterdir()
    run = read_run(folder)
    assert run.spec.study == "width"
    assert [defense.type for defense in run.spec.defenses] == ["ot-cla"] * 2
    assert (run.cells["status"] == "ok").all()
    assert sorted(set(run.cells["defense"])) == names
    parameters = {model.defense: model.n_parameters for model in run.models}
    assert parameters[names[0]] < parameters[names[1]]
    for name in names:
        assert name in out
        assert name in (folder / "report" / "report.html").read_text("utf-8")
    assert "nothing was computed" in call(*words)[2]


def test_skipped_cells_are_no_failure_and_are_not_tried_again(call, tmp_path, tiny_preset):
    words = (*RUN, "--defenses", "undefended", "--attacks", "pgd,pgd-eot")
    code, out, err = call(*words)
    assert code == 0
    assert "undefended, pgd-eot (inhouse): skipped: EOT averages over noise" in err
    assert "pgd-eot" not in out  # the table of accuracies has no row for it
    (folder,) = (tmp_path / "runs").iterdir()
    cells = read_run(folder).cells
    assert set(cells.loc[cells["attack"] == "pgd-eot", "status"]) == {"skipped"}
    assert set(cells.loc[cells["attack"] == "pgd", "status"]) == {"ok"}
    html = (folder / "report" / "report.html").read_text("utf-8")
    assert "EOT averages over noise, and this defense has none" in html
    code, again, err = call(*words)
    assert (code, again) == (0, out)
    assert "nothing was computed" in err


def test_a_failed_cell_is_exit_code_1(call, tmp_path, tiny_preset, monkeypatch):
    def fails(*batch, **options):
        raise RuntimeError("out of luck")

    words = (*RUN, "--defenses", "undefended", "--eps", "0.1")
    monkeypatch.setattr("benchmark.evaluation.sweep.attack_batch", fails)
    code, out, err = call(*words)
    assert code == 1
    assert "1 of 1 cells failed" in err
    assert "-" in out
    monkeypatch.undo()


def test_stopping_is_exit_code_130_and_says_how_to_go_on(call, tiny_preset, monkeypatch):
    def stopped(self, view, x, y, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(PGD, "run", stopped)
    code, _, err = call(*RUN, "--defenses", "undefended")
    assert code == 130
    assert "the same command goes on from there" in err
    assert "Traceback" not in err


def test_without_a_preset_the_device_decides_and_the_first_line_says_so(
    call, tiny_preset, tmp_path
):
    words = ("run", "--dataset", "digits", "--device", "cpu", "--defenses", "undefended")
    _, _, err = call(*words, "--attacks", "pgd-l2")
    assert err.splitlines()[0] == "preset quick (the default on cpu): for the tests"
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("digits-quick-")
    assert read_spec(folder).attacks[0].threat == ThreatModel("l2", (0.0, 0.5))
