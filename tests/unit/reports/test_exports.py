"""A run as a model card's model-index and in RobustBench's fields."""

import json
import math
from dataclasses import replace

import pytest
from contexts import run_of, sample
from fake_audit import put_audit, verdict
from fake_runs import fake_run, fake_spec

from benchmark.errors import UsageError
from benchmark.results import read_run
from benchmark.stats import wilson_interval
from reports.exports.model_index import model_index, model_index_yaml
from reports.exports.robustbench import fraction, is_autoattack, robustbench_files
from reports.exports.write import export_run
from reports.exports.yaml_text import to_yaml
from reports.pages.standings import entries_of

HOSTILE = ["no", "1e-05", "2026-11-27", "a: b # c", '"\\', "\x85\u2028\n\t\x00", "é\U0001f600", ""]


def test_yaml_of_blocks():
    value = {
        "model-index": [{"name": "a", "results": [{"n": 1, "x": [1.5, None, True], "y": {}}]}],
        "empty": [],
    }
    assert to_yaml(value) == (
        'model-index:\n  - name: "a"\n    results:\n      - "n": 1\n        x:\n          - 1.5\n'
        '          - null\n          - true\n        "y": {}\nempty: []\n'
    )
    assert to_yaml({"small": 1e-05, "large": 1e22, "half": 0.5}) == (
        "small: 1.0e-05\nlarge: 1.0e+22\nhalf: 0.5\n"
    )
    assert to_yaml(["\x85é"]) == '- "\\U00000085é"\n'


def test_yaml_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match="nan is no finite number"):
        to_yaml({"x": math.nan})
    with pytest.raises(TypeError, match="set has no place"):
        to_yaml({"x": {1}})


def test_yaml_is_read_back_as_it_was(tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    value = {
        "texts": HOSTILE,
        "numbers": [1e-05, 1e22, 0.1, -3, True, None],
        "on": {"n": [[1], []]},
    }
    assert yaml.safe_load(to_yaml(value)) == value
    assert yaml.safe_load(to_yaml({text or "x": text for text in HOSTILE}))["no"] == "no"
    run = read_run(fake_run(tmp_path))
    assert yaml.safe_load(model_index_yaml(run)) == model_index(run)


def metrics_of(found, defense):
    (model,) = (model for model in found["model-index"] if model["name"] == defense)
    (result,) = model["results"]
    return result, result["metrics"]


def test_a_model_index_holds_clean_robust_and_worst_case_of_each_defense(tmp_path):
    spec = fake_spec(["undefended", "madry"], n=20)
    run_dir = fake_run(tmp_path, spec)
    put_audit(run_dir, verdicts=[verdict("madry", "attack too weak", seed=s) for s in (0, 1)])
    run = read_run(run_dir)
    found = model_index(run)
    assert [model["name"] for model in found["model-index"]] == ["undefended", "madry"]
    result, metrics = metrics_of(found, "madry")
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"type": "mnist", "name": "mnist", "split": "test"}
    assert metrics[0]["type"] == "accuracy"
    assert metrics[0]["args"] | {"n_images": 20, "seeds": 2} == metrics[0]["args"]
    assert len(metrics) == 1 + 2 * (4 + 2)  # under the attack, and its worst case
    entry = next(e for e in entries_of(run) if (e.defense, e.norm) == ("madry", "linf"))
    worst = [m for m in metrics if m["args"].get("attack") == "worst case"]
    shown = {m["args"]["eps"]: m for m in worst if m["args"]["norm"] == "linf"}
    assert shown[0.1]["value"] == pytest.approx(entry.worst[0.1].value)
    assert shown[0.1]["args"]["verdict"] == "attack too weak"
    assert {m["args"]["verdict"] for m in worst if m["args"]["norm"] == "l2"} == {"not audited"}
    json.dumps(found, allow_nan=False)


def both(*names, eps=8 / 255):
    return [
        sample("a b", name, i, falls=i < n, eps=eps, library=library)
        for name, library, n in names
        for i in range(8)
    ]


def test_robustbench_fields_of_one_model():
    run = run_of(both(("pgd", "inhouse", 2), ("AutoAttack", "torchattacks", 4)))
    ((name, fields),) = robustbench_files(run).items()
    assert name == "mnist/Linf/a-b.json"
    assert fields["eps"] == "8/255"
    assert fields["clean_acc"] == "100.00"
    assert fields["reported"] == fields["autoattack_acc"] == "50.00"
    low = wilson_interval(4, 8)[0]
    assert f"95% interval {100 * low:.2f}" in fields["footnote"]
    assert fields["unreliable"] is None
    own = fields["defensebench"]
    assert (own["norm"], own["n_images"], own["verdict"]) == ("linf", 8, "not audited")
    assert own["attacks"] == ["pgd", "AutoAttack (torchattacks)"]
    assert own["reported_low"] == f"{100 * low:.2f}"
    unknown = ("link", "authors", "venue", "architecture", "additional_data")
    assert all(fields[key] is None for key in unknown)
    without = robustbench_files(run_of(both(("pgd", "inhouse", 2))))
    assert without[name]["autoattack_acc"] is None


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("autoattack", True),
        ("AutoAttack(version='rand')", True),
        ("auto-attack", True),
        ("torchattacks:AutoAttack", True),
        ("apgd", False),
        ("my-autoattack-like", False),
    ],
)
def test_autoattack_is_known_by_its_name(attack, expected):
    assert is_autoattack(attack) is expected


@pytest.mark.parametrize(
    ("eps", "text"), [(8 / 255, "8/255"), (0.4, "0.4"), (0.5, "0.5"), (0.123, "0.123"), (3.0, "3")]
)
def test_eps_is_written_as_robustbench_does(eps, text):
    assert fraction(eps) == text


def test_verdicts_tell_whether_a_number_is_reliable(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(["a", "b", "c"], seeds=(0,)))
    words = {"a": "attacked fairly", "b": "gradient masking", "c": "undecided"}
    put_audit(run_dir, verdicts=[verdict(name, word) for name, word in words.items()])
    files = robustbench_files(read_run(run_dir), 0.3)
    told = {f["name"]: f["unreliable"] for name, f in files.items() if "/Linf/" in name}
    assert told == {"a": False, "b": True, "c": None}


def test_files_and_texts(tmp_path):
    run_dir = fake_run(tmp_path / "runs", fake_spec(["a", "A", "<b>"], n=10))
    text, files = export_run(run_dir, "robustbench", tmp_path / "info")
    names = sorted(path.relative_to(tmp_path / "info").as_posix() for path in files)
    assert names == sorted(
        f"mnist/{norm}/{name}.json" for norm in ("L2", "Linf") for name in ("a", "a-2", "b")
    )
    assert json.loads(text).keys() == set(names)
    assert {json.loads(path.read_text("utf-8"))["name"] for path in files} == {"a", "A", "<b>"}
    text, files = export_run(run_dir, "robustbench", tmp_path / "all.json")
    assert files == [tmp_path / "all.json"]
    text, files = export_run(run_dir, "model-index", tmp_path / "card.yaml")
    assert files[0].read_text("utf-8") == text
    assert export_run(run_dir, "model-index") == (text, [])


def test_each_model_has_a_card_of_its_own_in_a_folder(tmp_path):
    run_dir = fake_run(tmp_path / "runs", fake_spec(["a", "A", "<b>"], n=10))
    text, files = export_run(run_dir, "model-index", tmp_path / "cards")
    assert sorted(path.name for path in files) == ["a-2.yaml", "a.yaml", "b.yaml"]
    for path in files:
        card = path.read_text("utf-8")
        assert card.startswith('model-index:\n  - name: "')
        assert card.count("    results:") == 1
        assert card.removeprefix("model-index:\n") in text


def test_huggingface_hub_reads_each_card_as_its_own(tmp_path):
    cards = pytest.importorskip("huggingface_hub.repocard_data", reason="no huggingface_hub")
    run = read_run(fake_run(tmp_path, fake_spec(["a", "b"], n=10)))
    for model in model_index(run)["model-index"]:
        name, found = cards.model_index_to_eval_results([model])
        assert name == model["name"]
        assert len(found) == len(model["results"][0]["metrics"])
        assert cards.eval_results_to_model_index(name, found) == [model]


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ("robust-bench", {}, "form 'robust-bench'.*robustbench"),
        ("model-index", {"eps": 0.1}, "only robustbench takes one"),
        ("robustbench", {"eps": 0.123}, "no attack at eps 0.123"),
    ],
)
def test_wrong_usage_is_one_line(form, options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        export_run(fake_run(tmp_path, fake_spec(n=4)), form, **options)


def test_a_run_without_results_says_so(tmp_path):
    spec = fake_spec(["a"], n=4)
    failed = {("a", eps): ("failed", "boom") for each in spec.attacks for eps in each.threat.eps}
    run_dir = fake_run(tmp_path, spec, states=failed)
    for form in ("model-index", "robustbench"):
        with pytest.raises(UsageError, match="nothing to export"):
            export_run(run_dir, form)
    part = replace(spec, seeds=(0, 1))
    states = {("a", 0.1): ("failed", "boom")}
    found = model_index(read_run(fake_run(tmp_path / "part", part, states=states)))
    assert type(metrics_of(found, "a")[1][0]["args"]["n_images"]) is int
