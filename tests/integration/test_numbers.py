"""Numbers that would lie: shares of nothing, eps in the wrong unit, images that are none."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fake_runs import PROVENANCE, fake_run, fake_spec
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toys import Linear, Scripted, dataset, pixels

from benchmark.attacks.peers.torchattacks import LIBRARY as TORCHATTACKS
from benchmark.attacks.pgd import PGD
from benchmark.cli import main
from benchmark.config.eps import check_reach, check_step, parse_budget, parse_eps
from benchmark.config.presets import preset_for, preset_names, read_preset, resolve_attack
from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.config.threat import ThreatModel
from benchmark.crosscheck.results import optimality, quantiles
from benchmark.datasets import DatasetInfo, DatasetSource, RawSplit
from benchmark.datasets.duplicates import EXPLAINED, count_repeats, repeats_sentence
from benchmark.datasets.load import load_images, open_source
from benchmark.errors import UsageError
from benchmark.evaluation.sweep import sweep
from benchmark.execution import runner
from benchmark.execution.plan import plan
from benchmark.execution.unused_options import remarks
from benchmark.progress import Progress
from benchmark.registry import DEFENSES
from benchmark.results import CELLS, ResultsError, make_table, read_run, validate
from benchmark.results.rows import measured
from benchmark.stats import paired_randomization, wilson_interval
from benchmark.training import TrainingSettings
from reports.html import _contexts, _shown
from reports.sections import trust

pytestmark = pytest.mark.usefixtures("undrawn")

RUN = ("run", "--dataset", "digits", "--preset", "smoke", "--device", "cpu")


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run a command line that must be refused before anything is computed; return its one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCHMARK_DATA_DIR", raising=False)

    def run(*words):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        found = capsys.readouterr()
        assert (stop.value.code, found.out) == (2, "")
        assert sorted(tmp_path.rglob("*")) == before
        lines = [line for line in found.err.splitlines() if line.startswith("error: ")]
        assert found.err.splitlines()[-1:] == lines
        return lines[0]

    return run


# --- eps in the wrong unit


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("8/255", (8 / 255,)),
        ("0, 8/255 ,4/255", (0.0, 4 / 255, 8 / 255)),
        ("0.1,1/10", (0.1,)),
        ("-0/255", (0.0,)),
        ("1e-3/2", (5e-4,)),
    ],
)
def test_budgets_may_be_fractions(text, budgets):
    assert parse_eps(text) == budgets
    assert math.copysign(1, parse_eps(text)[0]) == 1


@pytest.mark.parametrize("text", ["8/0", "8/", "/255", "8/255/2", "eight/255", "0/0", "8//255", ""])
def test_what_is_no_fraction_is_refused(text):
    with pytest.raises(UsageError, match=r"is not a number; write budgets as .* 0,4/255,8/255"):
        parse_eps(text)


@given(above=st.integers(0, 255), below=st.integers(1, 255))
def test_a_fraction_is_the_quotient(above, below):
    assert parse_budget(f"{above}/{below}") == above / below


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        (
            8,
            "eps 8 is above 1, the whole range of a pixel; for 8 grey levels write 8/255 = 0.03137",
        ),
        (1.5, "for 1.5 grey levels write 1.5/255 = 0.005882"),
        (300, "eps 300 is above 1, the whole range of a pixel; pixels are in [0, 1]"),
        (-0.1, "eps -0.1 is negative"),
        (math.nan, "eps nan: not a finite number"),
        (math.inf, "eps inf: not a finite number"),
        (-math.inf, "eps -inf: not a finite number"),
    ],
)
def test_an_eps_beyond_every_image_is_refused_wherever_it_comes_from(refused, eps, message):
    with pytest.raises(UsageError) as caught:
        ThreatModel("linf", (eps,))
    assert message in str(caught.value)
    assert message in refused(*RUN, f"--eps={eps}")
    words = ("crosscheck", "--dataset", "digits", "--attack", "pgd", "--preset", "smoke")
    assert message in refused(*words, "--device", "cpu", f"--eps={eps}")
    for written in (eps, str(eps)):
        settings = {"eps": {"linf": [written]}}
        with pytest.raises(UsageError) as caught:
            resolve_attack(settings, "pgd", "inhouse", norm="linf", n_test=10)
        assert message in str(caught.value)
    with pytest.raises(UsageError) as caught:
        TrainingSettings(adversary_eps=eps)
    assert message in str(caught.value)
    with pytest.raises(UsageError):
        replace(fake_spec(), attacks=(AttackSpec("pgd", ThreatModel("linf", (eps,)), 3),))


def test_a_preset_may_hold_fractions_and_its_mistakes_are_named():
    settings = {"eps": {"linf": ["0", "8/255", 0.1]}}
    attack = resolve_attack(settings, "pgd", "inhouse", norm="linf", n_test=10)
    assert attack.threat.eps == (0.0, 8 / 255, 0.1)
    for wrong in ("8/0", None, True, [0.1]):
        with pytest.raises(UsageError, match=r"attack pgd: eps: .* is not a number"):
            resolve_attack({"eps": {"linf": [wrong]}}, "pgd", "inhouse", norm="linf", n_test=10)


def test_repeated_budgets_are_refused_or_said(refused):
    with pytest.raises(UsageError, match="eps must ascend without repetitions"):
        ThreatModel("linf", (0.1, 0.1))
    assert parse_eps("0.1,0.1") == (0.1,)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_eps_in_an_attacks_own_words_is_refused(refused, norm):
    message = refused(*RUN, "--attacks", "torchattacks:APGD(eps=8)")
    assert "torchattacks:APGD(eps=8): eps is not set here; budgets come from the preset" in message


def test_an_l2_eps_longer_than_the_box_is_refused(refused):
    check_reach((0.5, 28.0), "l2", (1, 28, 28))
    with pytest.raises(UsageError) as caught:
        check_reach((0.5, 28.1), "l2", (1, 28, 28))
    assert "eps 28.1 (l2) is above 28, the distance from a black image to a white one" in str(
        caught.value
    )
    message = refused(*RUN, "--attacks", "pgd-l2", "--eps", "0,128")
    assert "eps 128 (l2) is above 28" in message
    assert "for 128 grey levels write 128/255 = 0.502" in message


def test_steps_in_grey_levels_are_refused(refused):
    for step in (1.0, 0.01, None):
        check_step(step, "linf")
    check_step(2.0, "l2")
    message = "step_size 2 is above 1, the whole range of a pixel; for 2 grey levels write 2/255"
    with pytest.raises(ValueError, match=message):
        PGD(step_size=2)
    assert PGD(step_size=2, norm="l2").step_size == 2
    assert message in refused(*RUN, "--attacks", "torchattacks:PGD(alpha=2)")
    with pytest.raises(UsageError, match="adversary: step_size 2 is above 1"):
        TrainingSettings(adversary_step_size=2)
    with pytest.raises(ValueError, match=message):
        TORCHATTACKS.attack("pgd")(step_size=2)


# --- shares of nothing


def test_no_images_are_refused(refused):
    for option in ("--n-test", "--n-train"):
        assert f"{option} must be at least 1, got 0" in refused(*RUN, option, "0")
    for words in (
        ("crosscheck", "--dataset", "digits", "--attack", "pgd", "--device", "cpu"),
        ("speed", "--dataset", "digits", "--device", "cpu"),
        ("dimension", "--dataset", "digits"),
    ):
        assert "got 0" in refused(*words, "--n", "0")
    with pytest.raises(UsageError, match="n must be at least 1, got 0"):
        AttackSpec("pgd", ThreatModel("linf", (0.1,)), 0)


def test_a_result_over_no_images_is_no_result():
    row = dict.fromkeys(CELLS.names, 0) | {"status": "ok", "norm": "linf", "bpda": False}
    row |= dict.fromkeys(("dataset", "defense", "attack", "library", "reason"), "a")
    row |= dict.fromkeys(("device", "preset", "versions", "git_sha", "search_dtype"), "a")
    row |= dict.fromkeys(("attack_family", "failure_kind"), "a")
    row |= dict.fromkeys(("clean_accuracy", "robust_accuracy", "ci_low", "ci_high"), 0.0)
    row |= dict.fromkeys(("eps", "median_distance", "seconds"), 0.0)
    validate(make_table([row | {"n": 1}], CELLS), CELLS, "here")
    with pytest.raises(ResultsError, match="here: a result over no images"):
        validate(make_table([row], CELLS), CELLS, "here")


def test_statistics_of_nothing_are_no_number():
    assert all(math.isnan(end) for end in wilson_interval(0, 0))
    assert all(math.isnan(value) for value in quantiles([]).values())
    assert math.isnan(optimality([], []))
    with pytest.raises(ValueError, match="two lists of equal length are needed"):
        paired_randomization(np.array([], int), np.array([], int))


@pytest.mark.parametrize("right", [False, True])
def test_all_wrong_and_all_right_are_shares_of_all_images(right):
    x, label = pixels(0.9, 0.8, 0.7), 1 if right else 0
    data = dataset(x, torch.full((3,), label))
    attack = AttackSpec("still", ThreatModel("linf", (0.0, 0.05)), 3)
    outcomes = list(
        sweep(
            Linear(torch.ones(1), b=-0.5),
            Scripted(script=lambda view, x, y, eps: x),
            attack,
            data,
            seed_at=lambda eps: 0,
            progress=Progress(),
        )
    )
    for outcome in outcomes:
        found = measured(outcome, 3)
        assert (found["clean_accuracy"], found["robust_accuracy"]) == (float(right),) * 2
        low, high = wilson_interval(3 * right, 3)
        assert (found["ci_low"], found["ci_high"]) == (low, high)
        assert math.isnan(found["median_distance"])  # the attack turned none


# --- images that are none


INFO = DatasetInfo("toy", (1, 2, 3), 2, ("a", "b"), augment=False)
GOOD = np.arange(24, dtype=np.uint8).reshape(4, 1, 2, 3) * 10
LABELS = np.array([0, 1, 0, 1])


def source(images=GOOD, labels=LABELS, info=INFO):
    def embedded(info, split):
        return RawSplit(labels, lambda rows: images[: len(rows)], "embedded")

    return DatasetSource(info, embedded=embedded)


def refusal(which, split="train"):
    with pytest.raises(UsageError) as caught:
        which.load(split)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"toy {split}: ")
    return message


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (GOOD / 255, "float64 from 0 to 0.901961; a source gives uint8 from 0 to 255; multiply by"),
        (
            GOOD.astype(np.float32),
            "float32 from 0 to 230; a source gives uint8 from 0 to 255; round",
        ),
        ((GOOD - 128.0) / 64, "undo their normalisation, which belongs into the defense"),
        (np.full((4, 1, 2, 3), np.nan), "some values are not finite"),
        (GOOD.astype(np.int64), "int64 from 0 to 230; a source gives uint8 from 0 to 255"),
        (GOOD > 100, "images are bool; a source gives uint8"),
        (GOOD.reshape(4, 2, 3, 1), "channels come before height and width"),
        (GOOD.reshape(4, 2, 3), "grey images have a channel axis of length 1"),
        (GOOD.repeat(3, 1), "of shape (4, 3, 2, 3) where (4, 1, 2, 3) was expected"),
        (GOOD[:3], "of shape (3, 1, 2, 3) where (4, 1, 2, 3) was expected"),
        ((GOOD > 100).astype(np.uint8), "every pixel is 0 or 1 of 255: the images were scaled"),
    ],
)
def test_images_of_another_kind_are_refused(images, said):
    assert said in refusal(source(images))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.array([0, 1, 2, 1]), "row 2 has label 2; toy labels are 0 to 1"),
        (np.array([0, -1, 0, 1]), "row 1 has label -1"),
        (np.array([0.0, 1.0, 0.0, 1.0]), "labels are float64, not integers"),
        (np.array([], dtype=np.int64), "the files hold no images"),
    ],
)
def test_labels_outside_the_classes_are_refused(labels, said):
    assert said in refusal(source(labels=labels))


def test_a_source_that_raises_is_one_line():
    def embedded(info, split):
        raise KeyError("pixels")

    message = refusal(DatasetSource(INFO, embedded=embedded), "test")
    assert message == "toy test: its source failed (KeyError: 'pixels')"
    assert source().load("train").images.sum() == GOOD.sum()


def test_a_dataset_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_data.py").write_text("raise RuntimeError('no GPU here')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"cannot be loaded \(RuntimeError: no GPU here\)"):
        open_source("broken_data:DATA")


def encoded(pixels, mode=None):
    sink = io.BytesIO()
    Image.fromarray(pixels, mode).save(sink, "PNG")
    return {"bytes": sink.getvalue()}


def mirror(folder, name, images, labels, names=None):
    table = pa.table({"image": images, "label": labels})
    if names:
        about = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    (folder / "toy").mkdir(exist_ok=True)
    pq.write_table(table, folder / "toy" / name)


def test_images_of_more_than_8_bits_are_refused_not_cut_off(tmp_path):
    wide = np.full((2, 3), 40000, np.uint16)
    mirror(tmp_path, "train.parquet", [encoded(wide)], [0])
    with pytest.raises(UsageError, match="more than 8 bits a channel"):
        DatasetSource(INFO).load("train", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (["b", "a"], ["b", "a"], "label 0 is 'b', and 'a' in toy's own order"),
        (["a", "b"], ["b", "a"], "label 0 is 'b', and 'a' in"),
        (["n01", "n02"], ["n02", "n01"], "label 0 is 'n02', and 'n01' in"),
        (["n01", "n02"], ["n01"], "label 1 is no class, and 'n02' in"),
        (["n01", "n02"], ["n01", "n02"], ""),
        (["A", " b"], ["a", "b"], ""),
        (["a", "b"], None, ""),
        (None, None, ""),
    ],
)
def test_files_that_number_the_classes_differently_are_refused(tmp_path, train, test, said):
    for name, names in (("train", train), ("test", test)):
        mirror(tmp_path, f"{name}.parquet", [encoded(GOOD[i, 0]) for i in range(4)], LABELS, names)
    if not said:
        assert len(DatasetSource(INFO).load("train", data_dir=tmp_path)) == 4
        return
    with pytest.raises(UsageError) as caught:
        DatasetSource(INFO).load("train", data_dir=tmp_path)
    assert said in str(caught.value)


# --- images that stand twice


def test_repeats_are_counted_by_every_pixel():
    images = np.arange(5 * 4, dtype=np.uint8).reshape(5, 1, 2, 2)
    train, test = images[[0, 1, 2, 2]], images[[3, 1, 4, 4, 4, 1]]
    assert count_repeats(train, test) == {"test_in_train": 2, "within_test": 3, "within_train": 1}
    nearly = test.copy()
    nearly[:, 0, 0, 0] += np.arange(6, dtype=np.uint8) + 100
    assert count_repeats(train, nearly) == {
        "test_in_train": 0,
        "within_test": 0,
        "within_train": 1,
    }
    assert count_repeats(train[:0], test[:1])["test_in_train"] == 0


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_repeats_are_what_counting_one_by_one_gives(learnt, asked):
    def drawn(values):
        return np.array(values, np.uint8).reshape(-1, 1, 1, 1)

    assert count_repeats(drawn(learnt), drawn(asked)) == {
        "test_in_train": sum(value in learnt for value in asked),
        "within_test": sum(value in asked[:i] for i, value in enumerate(asked)),
        "within_train": sum(value in learnt[:i] for i, value in enumerate(learnt)),
    }


@pytest.mark.parametrize("counts", [None, {}, {"test_in_train": 0}, {"within_test": "many"}, [1]])
def test_nothing_is_said_of_no_repeats_and_of_older_runs(counts):
    assert repeats_sentence(counts, 10, 5) == ""


def test_repeats_are_said_and_kept_with_the_run(tmp_path, monkeypatch):
    said = []

    class Listening(Progress):
        def say(self, text):
            said.append(text)

    images = np.random.RandomState(0).randint(0, 256, (12, 1, 2, 3)).astype(np.uint8)
    parts = {"train": images[:8], "test": images[[7, 8, 9, 9]]}

    def embedded(info, split):
        own = parts[split]
        return RawSplit(np.arange(len(own)) % 2, lambda rows: own[rows], "embedded")

    toy = DatasetSource(INFO, embedded=embedded)
    monkeypatch.setattr("benchmark.datasets.load.open_source", lambda name: toy)
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    spec = RunSpec(
        dataset="toy",
        preset="smoke",
        n_train=8,
        n_test=4,
        seeds=(0,),
        device="cpu",
        defenses=(DefenseSpec("toys:Tiny", {"training": {"epochs": 1, "batch_size": 4}}),),
        attacks=(AttackSpec("pgd", ThreatModel("linf", (0.1,)), 4, params={"steps": 1}),),
    )
    result = runner.run(spec, out=tmp_path, command="", progress=Listening())
    kept = json.loads((result.path / "run.json").read_text("utf-8"))["dataset"]["repeats"]
    assert kept == {"test_in_train": 1, "within_test": 1, "within_train": 0}
    (line,) = [line for line in said if line.startswith("toy: ")]
    assert "1 of 4 test images are training images too, pixel by pixel" in line
    assert "1 of 4 test images repeat an earlier one" in line


def test_the_report_tells_of_repeats_and_of_none_it_says_nothing(tmp_path):
    spec = fake_spec(seeds=(0,), n=5)
    counts = {"test_in_train": 3, "within_test": 2, "within_train": 0}
    for name, repeats in (("with", counts), ("none", dict.fromkeys(counts, 0)), ("old", None)):
        told = {**PROVENANCE, "dataset": {**PROVENANCE["dataset"]}}
        if repeats is not None:
            told["dataset"]["repeats"] = repeats
        (context,) = _contexts([read_run(fake_run(tmp_path / name, spec, provenance=told))])
        page = str(_shown([trust.make(context)], "run", {})[0]["body"])
        shown = "3 of 200 test images are training images too, pixel by pixel" in page
        assert shown == (f'href="{EXPLAINED}"' in page) == (name == "with")


def test_real_data_has_the_repeats_that_it_has(data_dir):
    """Of MNIST's first 2,000 test images none is a training image; what costs is in the docs."""
    spec = replace(fake_spec(), n_train=6000, n_test=2000)
    train, test = load_images(spec, data_dir)
    counts = count_repeats(train.images.numpy(), test.images.numpy())
    assert counts == {"test_in_train": 0, "within_test": 0, "within_train": 0}
    joined = np.concatenate([test.images.numpy(), train.images.numpy()[:7]])
    assert count_repeats(train.images.numpy(), joined)["test_in_train"] == 7


# --- options that would do nothing


def said(words, **options):
    asked = {"attacks": ["pgd"], "libraries": [], "eps": None, "n_test": None} | words
    spec = plan(dataset="digits", preset="quick", device="cpu", defenses=["toys:Tiny"], **asked)
    return list(remarks(replace(spec, **options), **asked))


def test_what_an_option_does_not_reach_is_said():
    assert said({}) == []
    assert said({"attacks": ["pgd", "cw"], "eps": (0.1,)}) == [
        "--eps counts in linf: cw keeps its l2 grid"
    ]
    assert said({"attacks": ["cw", "pgd"], "eps": (0.1,)}) == [
        "--eps counts in l2: pgd keeps its linf grid"
    ]
    assert said({"attacks": ["pgd", "cw"], "n_test": 300}) == [
        "--n-test 300: the preset has cw attack 128 of these images"
    ]
    assert said({"attacks": ["torchattacks:FGSM"], "libraries": ["art"]}) == [
        "--libraries: no attack of this run is asked of art"
    ]
    assert said({"attacks": ["pgd", "pgd"]}) == ["--attacks: named twice, run once: pgd"]
    assert said({"attacks": ["cw"]}, exact=True) == [
        "--exact changes nothing: cw searches once, without an eps"
    ]
    assert said({}, exact=True) == []


def test_a_cross_check_refuses_settings_that_its_attack_has_not(refused):
    words = ("crosscheck", "--dataset", "digits", "--attack", "cw", "--device", "cpu")
    for option in ("--random-start", "--best-iterate"):
        assert f"{option}: cw has no such setting" in refused(*words, option)


def test_more_images_than_there_are_is_refused(refused):
    assert "digits train has 1,297 images" in refused(*RUN, "--n-train", "5000")


SECTION = {
    *("n_train", "n_test", "attacks", "eps", "training", "defense_options", "defenses"),
    *("attack_settings", "code_map", "studies"),
}


@pytest.mark.parametrize("name", preset_names())
def test_every_setting_of_a_preset_reaches_something(name):
    preset = read_preset(name)
    for key in set(preset) - {"description", "base"}:
        assert set(preset[key]) <= SECTION, key
    for dataset_name in ("digits", "mnist"):
        settings = preset_for(name, dataset_name)
        attacks = list(settings.get("attack_settings", {}))
        planned = plan(dataset=dataset_name, preset=name, device="cpu", attacks=attacks)
        given = {key for defense in planned.defenses for key in defense.params}
        assert set(settings.get("defense_options", {})) <= given
        assert set(settings.get("defenses", {})) <= set(DEFENSES.names())
        assert [attack.name for attack in planned.attacks] == (attacks or settings["attacks"])
        TrainingSettings.build(settings["training"])


def test_budgets_in_l1_and_l0_end_at_the_number_of_values():
    for norm in ("l1", "l0"):
        check_reach((0.0, 784.0), norm, (1, 28, 28))
        with pytest.raises(UsageError, match="from a black image to a white one"):
            check_reach((785.0,), norm, (1, 28, 28))


def test_l0_counts_whole_values():
    assert ThreatModel("l0", (0.0, 3.0)).eps == (0.0, 3.0)
    with pytest.raises(UsageError, match=r"2\.5 \(l0\) is not a whole number"):
        ThreatModel("l0", (2.5,))
