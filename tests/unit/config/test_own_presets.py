"""Presets in files, --set and --config: what is taken, and the one line for what is not."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.config.presets import preset_for, preset_label
from benchmark.config.setting_values import parse_change
from benchmark.errors import UsageError
from benchmark.execution.plan import plan
from benchmark.execution.unused_changes import remarks_on_changes


def planned(preset="smoke", **options):
    asked = {"defenses": ["madry"], "attacks": ["pgd"], "device": "cpu", "dataset": "digits"}
    return plan(preset=preset, **asked, **options)


@pytest.fixture
def own(tmp_path):
    def write(text, name="own.toml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_a_file_refines_its_base_relative_to_itself(own):
    own('base = "smoke"\n[defaults.training]\nepochs = 1\n', "middle.toml")
    path = own('base = "middle.toml"\n[digits]\nn_test = 7\n')
    spec = planned(path)
    assert (spec.n_test, spec.preset) == (7, "own")
    assert spec.defenses[0].params["training"]["epochs"] == 1
    assert spec.n_train == preset_for("smoke", "digits")["n_train"]


def test_two_files_of_one_name_share_no_folder(own, tmp_path):
    (tmp_path / "other").mkdir()
    first = own('base = "smoke"\n[digits]\nn_test = 7\n')
    second = own('base = "smoke"\n[digits]\nn_test = 8\n', "other/own.toml")
    assert planned(first).run_id != planned(second).run_id


def test_an_own_preset_never_has_a_shipped_name(own):
    assert preset_label(own('base = "smoke"', "paper.toml")) == "paper.toml"
    assert preset_label("paper", {"n_test": 3}) == "paper+set"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('base = "own.toml"', "circle"),
        ('base = "smok"', "did you mean 'smoke'"),
        ('base = "none.toml"', "No such file"),
        ("a = \n", r"line 1, column"),
        ("[digts]\nn_test = 1", "did you mean 'digits'"),
        ("[digits.training]\nepoch = 1", r"digits\.training\.epoch: .*did you mean 'epochs'"),
        ("[digits.defenses.mardy]\nwidth = 1", "did you mean 'madry'"),
        ("[digits.defenses.madry]\nwidht = 1", r"madry\.widht: .*did you mean 'width'"),
        ("[digits]\nn_test = 'many'", r"digits\.n_test must be a whole number"),
        ("[digits.training]\naugment = 1", "must be true or false"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(own, text, words):
    start = "" if text.startswith("base") else 'base = "smoke"\n'
    path = own(text if "a = " in text else start + text)
    with pytest.raises(UsageError, match=words) as raised:
        planned(path)
    assert "own.toml" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=8/255", {"a": {"b": "8/255"}}),
        ("a=[0, 0.1]", {"a": [0, 0.1]}),
        ("a=word", {"a": "word"}),
        ("a=true", {"a": True}),
    ],
)
def test_a_change_is_read(text, value):
    assert parse_change(text) == value


@pytest.mark.parametrize("text", ["a", "=1", "a=", "a=[1", "a b=1", "a=x\ny"])
def test_a_change_that_is_none_is_one_line(text):
    with pytest.raises(UsageError, match="write it as key=value"):
        parse_change(text)


def test_a_change_reaches_the_spec():
    spec = planned(changes=parse_change("defenses.madry.training.adversary_eps=8/255"))
    assert spec.defenses[0].params["training"]["adversary_eps"] == 8 / 255
    assert (
        planned(changes=parse_change("attack_settings.pgd.steps=77")).attacks[0].params["steps"]
        == 77
    )


@pytest.mark.parametrize("key", ["defenses.rse.passes", "attack_settings.cw.steps", "eps.l2"])
def test_a_change_that_reaches_nothing_is_refused(key):
    changes = parse_change(f"{key}={[0.1] if key == 'eps.l2' else 3}")
    with pytest.raises(UsageError, match="this run"):
        list(remarks_on_changes(changes, planned(changes=changes)))


def test_what_is_shown_is_a_preset_that_gives_the_same_run(own):
    shown = CliRunner().invoke(
        app, ["presets", "show", "smoke", "--dataset", "digits", "--set", "n_test=9"]
    )
    again = planned(own(shown.stdout, "shown.toml"))
    expected = planned(changes={"n_test": 9})
    assert replace(again, preset="") == replace(expected, preset="")
    assert "n_test = 9  # --set" in shown.stdout


def test_a_config_key_is_checked(own):
    result = CliRunner().invoke(app, ["run", "--config", own('defences = "rse"')])
    assert isinstance(result.exception, UsageError)
    assert "did you mean 'defenses'" in str(result.exception)


def test_what_is_typed_wins_over_the_config(own):
    path = own('dataset = "digits"\npreset = "nosuch"\n[set]\ntraining.epochs = 2\n')
    result = CliRunner().invoke(app, ["run", "--config", path, "--preset", "smoek"])
    assert "'smoek'" in str(result.exception)
