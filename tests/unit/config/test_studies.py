"""Studies: what the presets say, what a run makes of it, how the report shows it."""

from dataclasses import replace

import pytest
from fake_runs import fake_run, fake_spec

from benchmark.config import presets as presets_module
from benchmark.config.presets import preset_for, preset_names
from benchmark.config.studies import find_study, member_name, study_names
from benchmark.errors import UsageError
from benchmark.execution.plan import plan
from benchmark.results import read_run
from reports.html import write_report

pytestmark = pytest.mark.usefixtures("undrawn")

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10", "stl10", "tiny_imagenet")
TABLE_3 = {"mnist": (13, 4), "cifar10": (17, 16), "stl10": (20, 16), "tiny_imagenet": (19, 20)}

PRESETS = {
    "large": {
        "description": "",
        "defaults": {
            "n_train": 60,
            "n_test": 20,
            "attacks": ["pgd", "cw"],
            "eps": {"linf": [0.0, 0.1], "l2": [0.0, 0.5]},
            "training": {"epochs": 9, "batch_size": 20},
            "defense_options": {"width": 0.1, "code_dim": 4},
            "defenses": {"ot-cla": {"lam": 5.0}},
            "studies": {
                "lambda": {"defenses": ["ot-cla"], "option": "lam", "values": [0.0, 5e-4, 5.0]}
            },
        },
        "mnist": {
            "studies": {
                "width": {
                    "defenses": ["ot-cla", "e-cla"],
                    "option": "code_dim",
                    "values": [4, 8],
                    "attacks": ["cw"],
                    "n_train": 50,
                    "training": {"epochs": 2},
                }
            }
        },
    },
    "small": {"description": "", "base": "large", "mnist": {"studies": {"width": {"values": [4]}}}},
}


@pytest.fixture
def presets(monkeypatch):
    monkeypatch.setattr(presets_module, "read_preset", PRESETS.__getitem__)


def planned(preset="large", dataset="mnist", **options):
    return plan(dataset=dataset, preset=preset, device="cpu", **options)


# --- from a preset to a run


def test_a_study_is_one_option_over_its_values(presets):
    spec = planned(study="lambda")
    assert spec.study == "lambda"
    assert [defense.name for defense in spec.defenses] == [
        "ot-cla[lam=0]",
        "ot-cla[lam=0.0005]",
        "ot-cla[lam=5]",
    ]
    assert [defense.type for defense in spec.defenses] == ["ot-cla"] * 3
    assert [defense.params["lam"] for defense in spec.defenses] == [0.0, 5e-4, 5.0]
    plain = planned(defenses=["ot-cla"])
    for member in spec.defenses:  # everything else is as without the study
        assert {**member.params, "lam": 5.0} == plain.defenses[0].params
    assert spec.attacks == plain.attacks[:1]
    assert (plain.study, [a.name for a in plain.attacks]) == ("", ["pgd", "cw"])


def test_a_study_may_refine_the_preset(presets):
    spec = planned(study="width")
    assert [defense.name for defense in spec.defenses] == [
        "ot-cla[code_dim=4]",
        "ot-cla[code_dim=8]",
        "e-cla[code_dim=4]",
        "e-cla[code_dim=8]",
    ]
    assert [attack.name for attack in spec.attacks] == ["cw"]
    assert spec.n_train == 50
    for member in spec.defenses:
        assert member.params["training"] == {"epochs": 2, "batch_size": 20}
    assert planned(study="width", n_train=40).n_train == 40
    assert [d.name for d in planned("small", study="width").defenses] == [
        "ot-cla[code_dim=4]",
        "e-cla[code_dim=4]",
    ]


def test_given_defenses_and_attacks_replace_the_studys(presets):
    names = [d.name for d in planned(study="lambda", defenses=["ot-cla-adv"]).defenses]
    assert names == ["ot-cla-adv[lam=0]", "ot-cla-adv[lam=0.0005]", "ot-cla-adv[lam=5]"]
    assert [a.name for a in planned(study="lambda", attacks=["cw"]).attacks] == ["cw"]


def test_a_study_has_a_run_folder_of_its_own(presets):
    spec = planned(study="lambda")
    assert spec.run_id != replace(spec, study="").run_id
    assert spec.run_id != planned(study="width").run_id


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("mnist", {"study": "lamda"}, r"unknown study 'lamda'; did you mean 'lambda'\?"),
        ("digits", {"study": "widht"}, r"unknown study 'widht'; did you mean 'width'\?"),
        ("digits", {"study": "width"}, r"large has no study 'width' of digits; it has: lambda"),
        ("mnist", {"study": "lambda", "defenses": ["madry"]}, "option of defense madry 'lam'"),
        ("mnist", {"study": "lambda", "defenses": ["ot-cal"]}, "did you mean 'ot-cla'"),
        ("mnist", {"defenses": ["ot-cla[lam=5]"]}, "did you mean 'ot-cla'"),
    ],
)
def test_what_cannot_be_studied_is_named(presets, dataset, options, message):
    with pytest.raises(UsageError, match=message):
        planned(dataset=dataset, **options)


def test_a_refining_preset_knows_the_studies_of_its_base(presets):
    assert study_names("small") == {"lambda", "width"}
    assert study_names("large") == {"lambda", "width"}
    assert find_study("small", "digits", "lambda") == find_study("large", "digits", "lambda")


def test_values_that_differ_have_names_that_differ():
    values = [0.1, 0.1000001, 1e-9, 1.0, 10, 100000007.0, True, "conv4", "conv6"]
    assert len({member_name("ot-cla", "x", value) for value in values}) == len(values)
    assert member_name("ot-cla", "code_dim", 13) == "ot-cla[code_dim=13]"
    assert member_name("ot-cla", "lam", 5e-4) == "ot-cla[lam=0.0005]"


# --- the presets that ship


SHIPPED = [
    (preset, dataset, name)
    for preset in preset_names()
    for dataset in DATASETS
    for name in preset_for(preset, dataset).get("studies", {})
]


@pytest.mark.parametrize(("preset", "dataset", "name"), SHIPPED)
def test_every_study_can_be_planned_and_holds_the_presets_own_value(preset, dataset, name):
    spec = planned(preset, dataset, study=name)
    study = find_study(preset, dataset, name)
    assert list(study.values) == sorted(set(study.values))
    assert len(spec.defenses) == len(study.values) * len(study.defenses)
    assert len({defense.name for defense in spec.defenses}) == len(spec.defenses)
    assert [attack.name for attack in spec.attacks] == ["pgd"]
    for defense in study.defenses:
        plain = planned(preset, dataset, defenses=[defense]).defenses[0]
        assert plain.params[study.option] in study.values
    # A key that the preset has no setting of would refine nothing.
    assert set(study.settings) <= set(preset_for(preset, dataset))


@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_has_both_studies(preset, dataset):
    assert {"embedding-dim", "lambda"} <= set(preset_for(preset, dataset)["studies"])


@pytest.mark.parametrize("dataset", TABLE_3)
def test_figure_4_spans_both_dimensions_of_table_3(dataset):
    intrinsic, embedding = TABLE_3[dataset]
    values = find_study("paper", dataset, "embedding-dim").values
    assert min(values) < intrinsic < max(values)
    assert embedding in values


# --- names with brackets, on their way to the report


def test_members_are_written_and_reported(tmp_path):
    names = ("ot-cla[code_dim=2]", "ot-cla[code_dim=13]")
    spec = replace(fake_spec(names), study="embedding-dim")
    spec = replace(spec, defenses=tuple(replace(d, type="ot-cla") for d in spec.defenses))
    states = {(names[0], 0.2): ("skipped", "it searches the latents of a generator")}
    run_dir = fake_run(tmp_path, spec, states=states)
    run = read_run(run_dir)
    assert {model.defense for model in run.models} == set(names)
    assert len(run.models) == 4  # a file for each member and seed
    page = write_report([run_dir])
    html = page.read_text("utf-8")
    assert "mnist, preset quick, study embedding-dim" in html
    for text in (*names, "skipped", "it searches the latents of a generator"):
        assert text in html
    tables = [path.read_text("utf-8") for path in sorted(page.parent.glob("0*.tex"))]
    assert len(tables) == 2
    for text in tables:  # in braces: a bracket after \\ would be read as its option
        assert r"{ot-cla[code\_dim=2]}" in text
    assert names[1] in (page.parent / "accuracy.csv").read_text("utf-8")
