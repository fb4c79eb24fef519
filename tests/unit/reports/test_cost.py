"""Queries, seconds and distances against what can be counted by hand."""

import io

import pandas as pd
import pytest
from contexts import context, page_of, run_of, sample
from fake_runs import fake_run, fake_spec

from reports.sections import cost

pytestmark = pytest.mark.usefixtures("undrawn")


def costs(run):
    section = cost.make(context(run))
    return section, pd.read_csv(io.BytesIO(section.files["cost.csv"]))


def test_queries_sum_over_the_sweep_and_are_per_image_and_seed():
    samples = [
        {**sample("a", "pgd", i, falls=False, eps=eps, seed=seed), "n_forward": forwards}
        for seed in (0, 1)
        for eps, forwards in ((0.1, 40), (0.2, 10 * (1 + seed)))
        for i in range(4)
    ]
    _, found = costs(run_of(samples))
    row = found.iloc[0]
    assert (row["forwards"], row["backwards"]) == (40 + 15, 40)
    assert (row["images"], row["seeds"], row["seconds"]) == (4, 2, 8.0)


def test_distances_are_those_of_turned_images_at_the_largest_eps():
    fooled = {0: 0.1, 1: 0.1, 2: 0.2, 3: 0.2, 4: 0.2}
    samples = [
        {**sample("a", "pgd", i, falls=fooled.get(i, 1) <= eps, eps=eps, clean=i != 9),
         "distance": fooled.get(i, 0.0)}
        for eps in (0.1, 0.2)
        for i in range(10)
    ]  # fmt: skip
    _, found = costs(run_of(samples))
    row = found.iloc[0]
    assert (row["eps"], row["fooled"]) == (0.2, 5)  # the clean error is not the attack's
    assert row["distance_median"] == 0.2
    assert (row["distance_q1"], row["distance_q3"]) == (0.1, 0.2)


def test_where_nothing_was_turned_there_is_no_distance():
    section, found = costs(run_of([sample("a", "pgd", i, falls=False) for i in range(3)]))
    assert pd.isna(found.iloc[0]["distance_median"])
    assert "0 none fooled –" in page_of(section).words


def test_libraries_have_rows_of_their_own():
    samples = [sample("a", "pgd", 0, falls=True, library=name) for name in ("inhouse", "art")]
    _, found = costs(run_of(samples))
    assert set(found["library"]) == {"inhouse", "art"}


def test_cells_without_a_result_are_told(tmp_path):
    states = {("b", 0.1): ("failed", "boom")} | {
        ("c", eps): ("failed", "boom") for eps in (0.0, 0.1, 0.2, 0.3, 0.4, 1.0, 2.0)
    }
    skipped = {("a", "cw"): "noise"}
    spec = fake_spec(("a", "b", "c"), seeds=(0,))
    section, found = costs(fake_run(tmp_path, spec, states=states, skipped=skipped))
    words = page_of(section).words
    assert "0.4 (4 of 5 cells)" in words
    assert "c pgd (inhouse) l∞ failed failed" in words
    assert "a cw (art)" not in words
    assert "Skipped altogether: 1 of the defenses’ attacks" in words
    assert found.set_index(["defense", "attack"]).loc[("a", "cw"), "cells_skipped"] == 3


def test_hostile_names_are_shown_in_every_form(tmp_path):
    section, _ = costs(fake_run(tmp_path))
    assert "<script>alert(1)</script>" in page_of(section).words
    assert "<script>" not in section.files["cost.md"].decode().replace("\\<script\\>", "")
    assert r"a\_b\%\$\#" in section.files["cost.tex"].decode("ascii")


def test_rows_stand_in_the_runs_order(tmp_path):
    _, found = costs(fake_run(tmp_path, fake_spec(("z", "a"), seeds=(0,))))
    assert found["defense"].tolist() == ["z", "z", "a", "a"]
    assert found["distance_median"].notna().all()
    assert found["forwards"].to_numpy() == pytest.approx([200, 120] * 2)
