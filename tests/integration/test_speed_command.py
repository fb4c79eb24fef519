"""The command speed: who runs with which settings, the object, the files, refusals."""

import json
from itertools import count

import pytest
from speed_toys import ToyPGD, planned, task_of, use_toys

from benchmark.attacks.loader import load_attack
from benchmark.attacks.pgd import PGD
from benchmark.cli import main
from benchmark.config.presets import preset_for
from benchmark.speed import plan as speed_plan
from benchmark.speed.plan import EXACT, TASKS, SpeedSettings, doubled, plan_speed


@pytest.fixture
def toys(monkeypatch):
    use_toys(monkeypatch)


# --- planning ------------------------------------------------------------------------------------


def test_who_takes_part_in_which_task(toys) -> None:
    plan = planned(n=20, levels=4)
    assert [task.name for task in plan.tasks] == list(TASKS)
    names = {task.name: [one.name for one in task.contestants] for task in plan.tasks}
    assert names["pgd"] == names["pgd_full"] == ["inhouse", "toy", "half"]
    assert names["sweep"] == ["inhouse", EXACT, "toy", "half"]
    assert names["cw"] == ["inhouse", "toy"]
    assert plan.absent["absent"] == "not installed: pip install absent"
    assert plan.absent["half in cw"].startswith("unknown attack of half 'cw'")
    exact = {one.name: one.exact for one in task_of(plan, "sweep").contestants}
    assert exact == {"inhouse": False, EXACT: True, "toy": True, "half": True}
    assert [one.name for one in planned(libraries=("toy", "inhouse")).tasks[0].contestants] == [
        "inhouse",
        "toy",
    ]


def test_settings_are_the_same_for_all(toys) -> None:
    plan = planned(n=20)
    for task in plan.tasks:
        attacks = {one.name: load_attack(one.spec) for one in task.contestants}
        ours = attacks["inhouse"]
        for name, attack in attacks.items():
            shared = ["steps", "initial_c", "lr"] if task.name == "cw" else []
            shared += [] if task.name == "cw" else ["steps", "step_size", "random_start", "loss"]
            assert [getattr(attack, key) for key in shared] == [
                getattr(ours, key) for key in shared
            ]
            if task.name == "pgd_full":
                assert not attack.early_stop
            elif task.name != "cw":
                assert attack.early_stop == name.startswith("inhouse")
        assert len({one.spec.threat for one in task.contestants}) == 1
        assert {one.spec.n for one in task.contestants} == {task.n}
    (toy,) = [one for one in task_of(plan, "cw").contestants if one.name == "toy"]
    (remark,) = toy.remarks
    assert remark.startswith("has no setting search_steps: it works as with search_steps = 1")
    assert not any(one.remarks for one in task_of(plan, "pgd").contestants)


def test_the_levels() -> None:
    plan = plan_speed(SpeedSettings(tasks=("sweep", "pgd"), libraries=("inhouse",), n=5))
    grid = [eps for eps in preset_for("quick", "mnist")["eps"]["linf"] if eps > 0]
    sweeping = task_of(plan, "sweep")
    assert list(sweeping.contestants[0].spec.threat.eps) == grid
    assert len(grid) == 16
    assert [len(one.spec.threat.eps) for one in sweeping.doubling] == [4, 8, 16, 32]
    assert {max(one.spec.threat.eps) for one in sweeping.doubling} == {0.4}
    assert sweeping.doubling[0].spec.threat.eps == (0.1, 0.2, 0.3, 0.4)
    assert task_of(plan, "pgd").contestants[0].spec.threat.eps == (0.2,)
    assert (doubled(1), doubled(2), doubled(6)) == ([1, 2], [1, 2, 4], [1, 3, 6, 12])


def test_the_passes_of_the_wasteful_plan(toys) -> None:
    plan = planned(n=20, levels=4)
    passes = {t.name: {one.name: one.passes for one in t.contestants} for t in plan.tasks}
    steps = load_attack(task_of(plan, "pgd").contestants[0].spec).steps
    assert set(passes["pgd"].values()) == set(passes["pgd_full"].values()) == {steps}
    assert set(passes["sweep"].values()) == {4 * steps}
    cw = load_attack(task_of(plan, "cw").contestants[0].spec)
    assert cw.search_steps > 1
    # Judged at every eps, but searched once; the toy has one search step, and is held to that.
    assert passes["cw"] == {"inhouse": cw.search_steps * cw.steps, "toy": cw.steps}


def test_cw_has_the_same_images_in_every_library() -> None:
    pytest.importorskip("art")
    few = {"dataset": "mnist", "tasks": ("cw",)}
    both = {"libraries": ("inhouse", "art")}
    assert plan_speed(SpeedSettings(**few, **both)).tasks[0].n == speed_plan.IMAGES_CW
    assert plan_speed(SpeedSettings(**few, **both, n=1000)).tasks[0].n == 64
    assert plan_speed(SpeedSettings(**few, libraries=("inhouse",), n=1000)).tasks[0].n == 128
    assert plan_speed(SpeedSettings(**few, **both, n=10)).tasks[0].n == 10


def test_a_stochastic_defense_has_no_second_row_of_the_same() -> None:
    plan = planned(defense="rse", tasks=("sweep",), libraries=("inhouse",))
    assert [one.name for one in plan.tasks[0].contestants] == ["inhouse"]


def test_the_folder_is_named_by_every_setting(toys) -> None:
    names = [
        planned(**settings).folder_name
        for settings in ({}, {"n": 7}, {"levels": 3}, {"repeats": 1}, {"tasks": ("pgd",)})
    ]
    assert len(set(names)) == 5
    assert names[0] == planned().folder_name
    assert names[0].startswith("speed-digits-")


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(["speed", *(str(word) for word in words)])
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


WORDS = ("--dataset", "digits", "--preset", "smoke", "--defense", "toys:Tiny")
FEW = (*WORDS, "--n", "4", "--repeats", "1", "--levels", "2")
KEYS = ["task", "library", "seconds", "floor_ratio", "forwards_per_sample"]
KEYS += ["backwards_per_sample", "robust_accuracy", "median_distance"]


def test_json_is_one_object_and_the_files_hold_it(call, tmp_path, toys) -> None:
    code, out, err = call(*FEW, "--repeats", "2", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert {"device", "versions", "results"} <= set(value)
    assert set(value["device"]) == {"type", "name", "threads"}
    assert {"python", "torch", "inhouse", "toy"} <= set(value["versions"])
    assert value["repeats"] == 2
    tasks = [(row["task"], row["library"]) for row in value["results"]]
    assert tasks == [
        *((task, name) for task in ("pgd", "pgd_full") for name in ("inhouse", "toy", "half")),
        *(("sweep", name) for name in ("inhouse", EXACT, "toy", "half")),
        *(("cw", name) for name in ("inhouse", "toy")),
    ]
    for row in value["results"]:
        assert list(row)[: len(KEYS)] == KEYS
        assert row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
        assert row["seconds_min"] > 0
        assert row["floor_ratio"] > 0
        assert all(0 <= share <= 1 for share in row["robust_accuracy"].values())
        assert (row["median_distance"] is None) or row["task"] == "cw"
        assert row["n"] == 4
    assert list(value["results"][6]["robust_accuracy"]) == ["0.2", "0.4"]
    assert [row["levels"] for row in value["doubling"]] == [1, 2, 4]
    assert set(value["absent"]) == {"absent", "half in cw"}
    assert value["failed"] == {}
    assert "absent: not measured: not installed: pip install absent" in err
    (folder,) = (tmp_path / "runs").iterdir()
    kept = json.loads((folder / "speed.json").read_text("utf-8"))
    assert {key: kept[key] for key in value} == value
    assert kept["provenance"]["dataset"]["source"] == "embedded"
    assert kept["settings"]["levels"] == 2
    names = {path.name for path in folder.iterdir()}
    assert names == {"speed.json", "speed.html"} | {
        f"speed-{task}.{end}" for task in (*TASKS, "doubling") for end in ("png", "svg")
    }


def test_the_tables_are_for_people(call, toys) -> None:
    code, out, err = call(*FEW, "--tasks", "sweep,cw", "--libraries", "toy,inhouse")
    assert code == 0, err
    assert "on" in out.splitlines()[0]
    assert "threads); medians of 1 turns" in out
    assert "PGD at every eps on toys:Tiny (linf): 4 images" in out
    assert "- inhouse: robust accuracy exceeds the lowest of the other libraries by at most" in out
    assert "C&W on toys:Tiny (l2): 4 images" in out
    assert "the in-house sweep over more levels" in out
    assert "- toy has no setting search_steps" in out
    assert "sweep, toy, turn 1:" in err


def test_without_the_in_house_library(call, toys) -> None:
    code, out, err = call(*FEW, "--tasks", "sweep", "--libraries", "toy", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert [row["library"] for row in value["results"]] == ["toy"]
    assert value["results"][0]["times_inhouse"] is None
    assert value["doubling"] == []


def test_a_failed_library_is_exit_code_one_and_the_others_go_on(
    call, toys, tmp_path, monkeypatch
) -> None:
    calls = count()

    def fails(self, *args, **kwargs):
        if next(calls) > 1:  # in its second turn
            raise RuntimeError("no\nluck")
        return PGD.run(self, *args, **kwargs)

    monkeypatch.setattr(ToyPGD, "run", fails)
    words = (*FEW, "--repeats", "3", "--tasks", "pgd", "--libraries", "inhouse,toy")
    code, out, err = call(*words, "--json")
    assert code == 1
    assert "pgd, toy: failed: RuntimeError: no luck" in err
    value = json.loads(out)
    assert value["failed"] == {"toy in pgd": "RuntimeError: no luck"}
    assert [row["library"] for row in value["results"]] == ["inhouse"]
    (folder,) = (tmp_path / "runs").iterdir()
    assert "Traceback" in (folder / "errors" / "pgd-toy.txt").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "digit"], "unknown dataset 'digit'; did you mean 'digits'?"),
        (["--preset", "quik"], "unknown preset 'quik'; did you mean 'quick'?"),
        (["--tasks", "pdg"], "unknown task 'pdg'; did you mean 'pgd'?"),
        (["--tasks", ","], "--tasks: name at least one of pgd"),
        (["--defense", "madri"], "unknown defense 'madri'; did you mean 'madry'?"),
        (["--defense", "defense-gan"], "defense defense-gan: the attacks follow the gradient"),
        (["--defense", "no_such_module:Class"], "no_such_module"),
        (["--libraries", "tox"], "unknown library 'tox'; did you mean 'toy'?"),
        (["--libraries", "absent"], "absent is not installed: pip install absent"),
        (["--libraries", "half", "--tasks", "cw"], "none of half has what cw needs"),
        (["--n", "0"], "--n must be at least 1, got 0"),
        (["--n", "501"], "--n must be at most 500"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--levels", "0"], "--levels must lie between 1 and 256, got 0"),
        (["--levels", "1000"], "--levels must lie between 1 and 256, got 1000"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--dataset", "cifar10", "--data-dir", "nowhere"], "nowhere is not a folder"),
        (["--out", "file/below"], "cannot write to"),
    ],
)
def test_wrong_words_are_refused_with_one_line(call, toys, tmp_path, words, message) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = call(*WORDS, *words)
    assert (code, out) == (2, "")
    assert message in err
    lines = [line for line in err.splitlines() if "not measured" not in line]
    assert len(lines) == 1
    assert not (tmp_path / "runs").exists()
