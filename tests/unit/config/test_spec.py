"""The run spec: JSON and hash, eps, presets."""

import json
import math
from dataclasses import fields, replace

import pytest
from fake_runs import fake_spec
from hypothesis import given
from hypothesis import strategies as st

from benchmark.config import presets as presets_module
from benchmark.config.eps import parse_eps
from benchmark.config.presets import preset_for, read_preset, resolve_attack
from benchmark.config.spec import AttackSpec, CodeMapSpec, DefenseSpec, HandedOver, RunSpec
from benchmark.config.threat import ThreatModel
from benchmark.errors import UsageError
from benchmark.hashing import derive_seed, digest

SPEC = fake_spec()

# --- JSON and hash


def test_json_round_trip():
    assert RunSpec.from_json(SPEC.to_json()) == SPEC
    assert RunSpec.from_json(SPEC.to_json()).to_json() == SPEC.to_json()


def test_json_does_not_depend_on_the_order_of_options():
    one = replace(SPEC, defenses=(DefenseSpec("madry", {"a": 1, "b": 2}),))
    other = replace(SPEC, defenses=(DefenseSpec("madry", {"b": 2, "a": 1}),))
    assert one.run_id == other.run_id


def test_the_hash_is_the_same_on_every_machine():
    # SHA-256 of "abc\x1f1": a change here would orphan every run folder there is.
    assert digest("abc", 1).startswith("c770455b")
    assert digest("a", "b") != digest("ab")


CHANGES = {
    "dataset": "cifar10",
    "preset": "paper",
    "n_train": 1001,
    "n_test": 201,
    "seeds": (0, 2),
    "device": "cuda",
    "defenses": (*SPEC.defenses[:-1], DefenseSpec(SPEC.defenses[-1].name, {"width": 9})),
    "attacks": (replace(SPEC.attacks[0], eot=2), SPEC.attacks[1]),
    "study": "embedding-dim",
    "code_map": CodeMapSpec(("e-cla",), SPEC.attacks[0]),
    "exact": True,
}


HANDED_OVER = replace(
    SPEC, n_train=0, defenses=SPEC.defenses[:1], handed_over=HandedOver("model", "images")
)
# What a run grew by later is not in its name (tests/unit/execution/test_grow.py).
ELSEWHERE = ("handed_over", "grown")


@pytest.mark.parametrize("name", [f.name for f in fields(RunSpec) if f.name not in ELSEWHERE])
def test_every_setting_changes_the_run_id(name):
    assert replace(SPEC, **{name: CHANGES[name]}).run_id != SPEC.run_id


@pytest.mark.parametrize("part", ["model", "images"])
def test_what_is_handed_over_changes_the_run_id(part):
    other = replace(HANDED_OVER.handed_over, **{part: "another"})
    assert replace(HANDED_OVER, handed_over=other).run_id != HANDED_OVER.run_id
    assert RunSpec.from_json(HANDED_OVER.to_json()) == HANDED_OVER


def test_what_is_handed_over_is_not_trained():
    for change in ({"n_train": 1}, {"defenses": SPEC.defenses}):
        with pytest.raises(UsageError, match="alone in its run, and not trained"):
            replace(HANDED_OVER, **change)
    with pytest.raises(UsageError, match="--n-train must be at least 1"):
        replace(SPEC, n_train=0)


def test_a_code_map_survives_json():
    spec = replace(SPEC, code_map=CHANGES["code_map"])
    assert RunSpec.from_json(spec.to_json()) == spec


def test_a_defense_is_of_its_own_type_unless_told():
    assert DefenseSpec("madry").type == "madry"
    member = DefenseSpec("ot-cla[lam=1]", {"lam": 1.0}, type="ot-cla")
    assert replace(member, name="ot-cla[lam=2]").type == "ot-cla"
    spec = replace(SPEC, defenses=(member,))
    assert RunSpec.from_json(spec.to_json()) == spec
    assert replace(spec, defenses=(replace(member, type="ot-cla-adv"),)).run_id != spec.run_id


def test_specs_from_before_types_and_studies_are_read():
    raw = json.loads(SPEC.to_json())
    assert raw.pop("study") == ""
    for defense in raw["defenses"]:
        assert defense.pop("type") == defense["name"]
    assert RunSpec.from_json(json.dumps(raw)) == SPEC


@given(st.lists(st.text(max_size=5), max_size=4))
def test_derived_seeds_are_stable_and_fit_every_generator(parts):
    assert derive_seed(*parts) == derive_seed(*parts)
    assert 0 <= derive_seed(*parts) < 2**31


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"attacks": []}'])
def test_what_is_no_spec_raises_what_readers_catch(text):
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        RunSpec.from_json(text)


@pytest.mark.parametrize(
    "change", [{"n_train": 0}, {"n_test": -1}, {"seeds": ()}, {"seeds": (1, 1)}]
)
def test_impossible_runs_are_refused(change):
    with pytest.raises(UsageError):
        replace(SPEC, **change)


# --- eps


@pytest.mark.parametrize(
    ("text", "eps"),
    [
        ("0,0.1,0.2", (0.0, 0.1, 0.2)),
        (" 0.2 , 0.1 ", (0.1, 0.2)),
        ("0.1,0.1,.1", (0.1,)),
        ("1e-3", (0.001,)),
        ("-0,0", (0.0,)),
    ],
)
def test_eps_are_sorted_and_distinct(text, eps):
    assert parse_eps(text) == eps
    assert math.copysign(1, parse_eps(text)[0]) == 1


@pytest.mark.parametrize("text", ["", "0,", "a", "0;1", "0 1"])
def test_what_is_no_number_is_named(text):
    with pytest.raises(UsageError, match=r"--eps: .* is not a number"):
        parse_eps(text)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_parsed_eps_are_a_valid_threat(values):
    eps = parse_eps(",".join(map(repr, values)))
    assert ThreatModel("linf", eps).eps == tuple(sorted(set(values)))


@pytest.mark.parametrize(
    ("norm", "eps", "message"),
    [
        ("linf", (1.5,), "above 1"),
        ("linf", (-0.1,), "negative"),
        ("l2", (math.nan,), "finite"),
        ("l2", (math.inf,), "finite"),
        ("l2", (0.2, 0.1), "ascend"),
        ("l2", (0.1, 0.1), "ascend"),
        ("l2", (), "empty"),
        ("l3", (0.1,), "did you mean"),
    ],
)
def test_impossible_threats_are_refused(norm, eps, message):
    with pytest.raises(UsageError, match=message):
        ThreatModel(norm, eps)


def test_l2_budgets_may_exceed_one():
    assert ThreatModel("l2", (0.0, 3.0)).eps == (0.0, 3.0)


@pytest.mark.parametrize("change", [{"n": 0}, {"eot": 0}])
def test_impossible_attacks_are_refused(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        AttackSpec(**{"name": "pgd", "threat": ThreatModel("linf", (0.1,)), "n": 1, **change})


def test_the_type_of_an_attack_is_its_name_unless_given():
    threat = ThreatModel("linf", (0.1,))
    assert AttackSpec("pgd", threat, 1).type == "pgd"
    assert AttackSpec("pgd-eot", threat, 1, type="pgd").type == "pgd"


# --- presets

PRESETS = {
    "large": {
        "defaults": {"n_test": 1000, "eps": {"linf": [0, 0.1]}, "train": {"epochs": 50, "lr": 1}},
        "mnist": {"eps": {"linf": [0, 0.3]}, "train": {"epochs": 100}},
    },
    "small": {
        "base": "large",
        "defaults": {"n_test": 100, "train": {"epochs": 2}},
        "cifar10": {"train": {"lr": 3}},
    },
}


@pytest.fixture
def presets(monkeypatch):
    monkeypatch.setattr(presets_module, "read_preset", PRESETS.__getitem__)


@pytest.mark.usefixtures("presets")
class TestPresets:
    def test_the_dataset_refines_the_defaults(self):
        settings = preset_for("large", "mnist")
        assert settings["train"] == {"epochs": 100, "lr": 1}
        assert settings["eps"] == {"linf": [0, 0.3]}

    def test_an_unknown_dataset_gets_the_defaults(self):
        assert preset_for("large", "mine") == PRESETS["large"]["defaults"]

    def test_a_preset_refines_its_base(self):
        # The small preset's defaults win over what the base says of the dataset.
        settings = preset_for("small", "mnist")
        assert settings["n_test"] == 100
        assert settings["train"] == {"epochs": 2, "lr": 1}
        assert settings["eps"] == {"linf": [0, 0.3]}
        assert preset_for("small", "cifar10")["train"] == {"epochs": 2, "lr": 3}

    def test_merging_leaves_the_presets_alone(self):
        before = json.dumps(PRESETS)
        preset_for("small", "mnist")
        assert json.dumps(PRESETS) == before


def test_a_misspelt_preset_gets_the_nearest_name(monkeypatch):
    monkeypatch.setattr(presets_module, "preset_names", lambda: ["paper", "quick", "smoke"])
    with pytest.raises(UsageError, match=r"'quik'.*did you mean 'quick'"):
        read_preset("quik")


SETTINGS = {
    "eps": {"linf": [0, 0.1], "l2": [0, 1]},
    "attack_settings": {
        "pgd": {"steps": 40, "n": 500, "libraries": {"art": {"n": 50, "steps": 20}}},
        "pgd-eot": {"type": "pgd", "eot": 10, "bpda": True, "eps": [0.3], "norm": "linf"},
    },
}


def test_an_attack_takes_its_settings_from_the_preset():
    attack = resolve_attack(SETTINGS, "pgd", "inhouse", norm="linf", n_test=1000)
    threat = ThreatModel("linf", (0.0, 0.1))
    assert attack == AttackSpec("pgd", threat, 500, params={"steps": 40})


def test_a_library_refines_the_attack():
    attack = resolve_attack(SETTINGS, "pgd", "art", norm="linf", n_test=1000)
    assert (attack.n, attack.params, attack.library) == (50, {"steps": 20}, "art")


def test_a_variant_keeps_its_own_name_norm_and_grid():
    attack = resolve_attack(SETTINGS, "pgd-eot", "inhouse", norm="l2", n_test=10)
    threat = ThreatModel("linf", (0.3,))
    assert attack == AttackSpec("pgd-eot", threat, 10, type="pgd", eot=10, bpda=True)


def test_an_attack_without_settings_uses_its_norms_grid_and_every_image():
    attack = resolve_attack(SETTINGS, "cw", "inhouse", norm="l2", n_test=10)
    assert attack == AttackSpec("cw", ThreatModel("l2", (0.0, 1.0)), 10)


def test_given_eps_win():
    attack = resolve_attack(SETTINGS, "pgd-eot", "inhouse", norm="linf", n_test=9, eps=[0, 0.2])
    assert attack.threat.eps == (0.0, 0.2)


def test_a_norm_without_grid_asks_for_eps():
    with pytest.raises(UsageError, match="give --eps"):
        resolve_attack({}, "pgd", "inhouse", norm="linf", n_test=9)


def test_resolving_leaves_the_settings_alone():
    before = json.dumps(SETTINGS)
    resolve_attack(SETTINGS, "pgd", "art", norm="linf", n_test=9)
    assert json.dumps(SETTINGS) == before
