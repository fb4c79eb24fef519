"""Runs beside each other: what differs, the accuracies, and a test only on the same images."""

import io
from dataclasses import replace

import pandas as pd
import pytest
from contexts import context, page_of, run_of, sample
from fake_runs import PROVENANCE, fake_run, fake_spec

from benchmark.config.spec import DefenseSpec
from benchmark.results import ModelRecord
from benchmark.stats import mcnemar
from reports.sections import compare_runs

pytestmark = pytest.mark.usefixtures("undrawn")


def rows(stands, n=100, defense="madry", **options):
    return [sample(defense, "pgd", i, falls=i >= stands, **options) for i in range(n)]


def made(*runs):
    return compare_runs.make([context(run, f"run{i}-") for i, run in enumerate(runs, 1)])


def csv(section, name="compare-runs.csv"):
    return pd.read_csv(io.BytesIO(section.files[name]))


def test_the_same_images_are_tested_in_pairs():
    section = made(run_of(rows(20)), run_of(rows(60), n_train=200))
    row = csv(section).iloc[0]
    assert (row["difference"], row["n_paired"]) == (0.4, 100)
    assert row["p"] == pytest.approx(mcnemar(0, 40))
    words = page_of(section).words
    assert (
        "of these two trainings (seed 0 each) run 2 keeps more images at eps 0.1 (p < 0.001,"
        " n = 100); three seeds are needed to compare the methods" in words
    )
    assert row["verdict"] == "other keeps more in these trainings"
    assert "images for training 100 200" in words


def test_the_difference_shown_is_on_the_images_compared():
    # Run 1 stands on the 20 shared images as run 2 does, and falls on 80 others.
    section = made(run_of(rows(20)), run_of(rows(20, n=20)))
    row = csv(section).iloc[0]
    assert (row["robust_accuracy_first"], row["robust_accuracy_other"]) == (0.2, 1.0)
    assert (row["difference"], row["n_paired"], row["p"]) == (0.0, 20, 1.0)
    assert "1.000, 1.000" in page_of(section).words


def claims(section):
    """Every word that ranks, on the page and in the files."""
    texts = [page_of(section).words.replace("no run is called better", "")]
    texts += [data.decode() for name, data in section.files.items() if not name.endswith(".png")]
    return [word for word in ("better", "beats", "worse") if any(word in text for text in texts)]


def test_one_method_under_two_seeds_does_not_beat_itself():
    # 22 of 22 images: p = 4.8e-7 over images, and nothing but another seed.
    section = made(run_of(rows(50, seed=0)), run_of(rows(72, seed=1)))
    row = csv(section).iloc[0]
    assert row["p_holm"] == pytest.approx(2 * 0.5**22, rel=1e-5)
    assert "of these two trainings (run 1: seed 0, run 2: seed 1) run 2 keeps more images" in (
        page_of(section).words
    )
    assert not claims(section)


def test_from_three_seeds_on_a_run_may_beat_another_and_their_names_need_not_agree():
    one = run_of([row for seed in (0, 1, 2) for row in rows(20 + seed, seed=seed)])
    two = run_of([row for seed in (2, 3, 4) for row in rows(70 + seed, seed=seed)])
    section = made(one, two)
    row = csv(section).iloc[0]
    assert row["verdict"] == "other better"
    assert 0 < row["difference_low"] < row["difference"] < row["difference_high"]
    assert "run 2 beats run 1 at eps 0.1" in page_of(section).words


def test_the_same_trained_models_are_called_so():
    runs = []
    for stands, n_train in ((20, 100), (60, 200)):
        run = run_of(rows(stands), n_train=n_train)
        runs.append(replace(run, models=[ModelRecord("madry", 0, "key", {}, 1, 1.0, [])]))
    section = made(*runs)
    words = page_of(section).words
    assert "of the same trained models (seed 0) run 2 keeps more images at eps 0.1" in words
    assert "three seeds are needed" not in words
    assert not claims(section)


def test_all_defenses_under_one_attack_at_one_eps_are_corrected_together():
    one = [row for name in "abc" for eps in (0.1, 0.2) for row in rows(20, defense=name, eps=eps)]
    two = [row for name in "abc" for eps in (0.1, 0.2) for row in rows(33, defense=name, eps=eps)]
    found = csv(made(run_of(one), run_of(two, n_train=200)))
    assert found["family"].tolist() == [3] * 6
    assert found["p_holm"].to_numpy() == pytest.approx(3 * 2 * 0.5**13, rel=1e-5)


@pytest.mark.parametrize("checksums", [("a", "b"), ("a", None), (None, None)])
def test_without_known_equal_images_there_is_no_test(checksums):
    one, two = (
        run_of(rows(stands), checksum=checksum)
        for stands, checksum in zip((20, 60), checksums, strict=True)
    )
    section = made(one, two)
    row = csv(section).iloc[0]
    assert row["difference"] == pytest.approx(0.4)
    assert pd.isna(row["p"])
    words = page_of(section).words
    assert "not known to be the same" in words
    assert "beats" not in words


def test_disjoint_images_are_not_tested():
    other = [{**row, "sample_id": row["sample_id"] + 1000} for row in rows(60)]
    assert csv(made(run_of(rows(20)), run_of(other)))["p"].isna().all()


def test_seeds_are_paired_by_name_else_by_order():
    one = run_of(rows(20, seed=0) + rows(90, seed=1))
    assert csv(made(one, run_of(rows(90, seed=1)))).iloc[0]["p"] == 1
    found = csv(made(one, run_of(rows(20, seed=7), n_train=200))).iloc[0]
    assert (found["seeds_paired"], found["p"]) == (1, 1)


def test_only_cells_of_both_are_beside_each_other():
    one = run_of(rows(20) + rows(30, eps=0.2) + rows(10, defense="rse"))
    two = run_of(rows(60) + rows(50, eps=0.3))
    found = csv(made(one, two))
    assert found[["defense", "eps"]].to_numpy().tolist() == [["madry", 0.1]]


def test_runs_without_a_common_cell_say_so():
    section = made(run_of(rows(20)), run_of(rows(20, defense="rse")))
    assert "there is nothing to compare" in page_of(section).words
    assert csv(section).empty


def test_one_run_or_two_datasets_have_no_section():
    run = run_of(rows(20))
    assert made(run) is None
    digits = replace(run, spec=replace(run.spec, dataset="digits"))
    assert made(run, digits) is None


def test_every_run_is_compared_with_the_first_and_settings_that_agree_are_left_out(tmp_path):
    first = fake_spec(("a", "b"), seeds=(0,))
    second = replace(first, n_train=77)
    third = replace(first, defenses=(DefenseSpec("a", {"width": 16}),), attacks=first.attacks[:1])
    origin = {**PROVENANCE, "git_sha": "fedcba"}
    section = made(
        fake_run(tmp_path, first, models=False),
        fake_run(tmp_path, second, models=False, provenance=origin),
        fake_run(tmp_path, third, models=False),
    )
    assert [part["names"] for part in section.view["parts"]] == [
        ("run 1", "run 2"),
        ("run 1", "run 3"),
    ]
    (table,) = section.view["settings"]
    assert table.header == ["setting", "run 1", "run 2", "run 3"]
    assert [list(row) for row in table.rows] == [
        ["images for training", "1000", "77", "1000"],
        ["a: width", "8", "8", "16"],
        ["defense b", "b", "b", "–"],
        ["attack cw (art, l2)", "cw", "cw", "–"],
        ["git sha", "0123456789abcdef", "fedcba", "0123456789abcdef"],
    ]
    linf = section.view["parts"][0]["attacks"][0]
    assert "a, run 1: " in linf["figure"]["alt"]
    assert "a, run 2: " in linf["figure"]["alt"]


def test_hostile_names_are_shown(tmp_path):
    spec = fake_spec(("<b>", "madry"))
    section = made(fake_run(tmp_path, spec), fake_run(tmp_path, replace(spec, n_train=77)))
    assert "<b> , the same trained models (seeds 0 and 1): no difference" in page_of(section).words
    assert "\\<b\\>" in section.files["compare-runs.md"].decode()
    section.files["compare-runs.tex"].decode("ascii")
