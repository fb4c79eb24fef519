"""The table of an attack's pictures: what it keeps, what it replaces and what it refuses."""

import numpy as np
import pandas as pd
import pytest
from fake_pictures import fake_pictures
from fake_runs import fake_run, fake_spec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmark.results import ResultsError, write_table
from benchmark.results.pictures import (
    FILE,
    PICTURES,
    decoded,
    encoded,
    pictured_eps,
    put_pictures,
    read_pictures,
)

SHAPES = st.tuples(st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5))
PAIRS = SHAPES.flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape),
        arrays(np.float32, shape, elements=st.floats(0, 1, width=32)),
    )
)


@given(PAIRS)
def test_pixels_come_back(pair):
    grey, adversarial = pair
    original = grey.astype(np.float32) / 255
    row = encoded(original, adversarial)
    assert (len(row["original"]), len(row["difference"])) == (grey.size, 2 * grey.size)
    found = decoded(row)
    assert np.array_equal(found.original, original)
    truth = adversarial.astype(np.float64) - original
    # Half precision: eleven bits of each difference; then float32's rounding of a sum near 1.
    tolerance = np.abs(truth) * 2**-11 + 2**-23
    assert (np.abs(found.difference - truth) <= tolerance).all()
    assert found.adversarial.min() >= 0
    assert found.adversarial.max() <= 1


def test_the_difference_of_images_between_grey_levels_is_their_own():
    original = np.full((1, 2, 2), 10.4 / 255, np.float32)
    found = decoded(encoded(original, original + np.float32(0.0004)))
    assert found.original == pytest.approx(10 / 255)
    assert found.difference == pytest.approx(0.0004, rel=1e-3)


def test_a_difference_below_one_grey_level_is_kept():
    original = np.full((1, 2, 2), 10 / 255, np.float32)
    found = decoded(encoded(original, original + np.float32(0.0004)))
    assert found.difference == pytest.approx(0.0004, rel=1e-3)


@pytest.mark.parametrize(
    ("budgets", "eps"),
    [
        ((0.0, 0.1, 0.2, 0.3, 0.4), 0.2),
        ((0.0, 0.01, 0.02, 0.03), 0.01),  # of two as near, the smaller
        ((0.0, 0.2), 0.2),  # at eps 0 there is nothing to see
        ((0.3,), 0.3),
        ((0.0,), 0.0),
    ],
)
def test_pictures_are_taken_near_half_the_largest_eps(budgets, eps):
    assert pictured_eps(budgets) == eps


@pytest.fixture
def run_dir(tmp_path):
    return fake_run(tmp_path, fake_spec(("undefended", "<b>"), seeds=(0,)))


def test_an_absent_table_is_empty(run_dir):
    assert read_pictures(run_dir).columns.tolist() == PICTURES.names
    assert read_pictures(run_dir).empty


def test_a_sweep_is_replaced_and_the_others_stay(run_dir):
    old = fake_pictures(run_dir)
    assert len(old) == 4 * 2 * 2
    pd.testing.assert_frame_equal(read_pictures(run_dir), old)
    new = old[(old["defense"] == "<b>") & (old["attack"] == "pgd")].iloc[:2].copy()
    new["pred_adv"], new["success"] = 7, True
    put_pictures(run_dir, new)
    found = read_pictures(run_dir)
    assert len(found) == len(old) - 4 + 2
    own = (found["defense"] == "<b>") & (found["attack"] == "pgd")
    pd.testing.assert_frame_equal(found[own].reset_index(drop=True), new.reset_index(drop=True))
    rest = old[(old["defense"] != "<b>") | (old["attack"] != "pgd")]
    pd.testing.assert_frame_equal(found[~own].reset_index(drop=True), rest.reset_index(drop=True))


def test_equal_pictures_give_equal_bytes(run_dir, tmp_path):
    fake_pictures(run_dir)
    other = fake_run(tmp_path / "other", fake_spec(("undefended", "<b>"), seeds=(0,)))
    fake_pictures(other)
    assert (run_dir / FILE).read_bytes() == (other / FILE).read_bytes()


def first(column, value):
    def change(rows):
        rows[column] = [value, *rows[column].iloc[1:]]
        return rows

    return change


def not_a_number(rows):
    image = np.frombuffer(rows["difference"].iloc[0], "<f2").copy()
    image[0] = np.nan
    return first("difference", image.tobytes())(rows)


BREACHES = {
    "column 'width' is missing": lambda rows: rows.drop(columns="width"),
    "an image appears twice in a cell": lambda rows: pd.concat([rows, rows.iloc[:1]]),
    "a sweep has pictures at several eps": first("eps", 0.3),
    "an eps or a distance is negative or not a number": first("distance", np.nan),
    "a success whose pred_adv is the label": lambda rows: rows.assign(
        success=True, pred_adv=rows["label"]
    ),
    "an image is neither grey nor RGB, or has no pixel": lambda rows: rows.assign(channels=2),
    "or has no pixel": lambda rows: rows.assign(height=-12, width=-12),
    "the images of a dataset differ in size": first("width", 13),
    "an image in 'original' has not the size that it names": first("original", b"123"),
    "an image in 'difference' has not the size that it names": first("difference", b"1"),
    "an image or its label differs between two cells": first("original", bytes(144)),
    "image or its label differs": first("label", 9),
    "a difference is not a number": not_a_number,
}


@pytest.mark.parametrize("complaint", BREACHES)
def test_a_breach_is_one_clear_line(run_dir, complaint):
    rows = BREACHES[complaint](fake_pictures(run_dir))
    rows.to_parquet(run_dir / FILE, index=False)
    with pytest.raises(ResultsError, match=complaint) as caught:
        read_pictures(run_dir)
    assert str(caught.value).startswith(str(run_dir / FILE))
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_known_is_left_out_and_never_written(run_dir):
    fake_pictures(run_dir)
    before = read_pictures(run_dir)
    before.assign(more=1).to_parquet(run_dir / FILE, index=False)
    pd.testing.assert_frame_equal(read_pictures(run_dir), before)
    with pytest.raises(ResultsError, match="column 'more' is not part of the schema"):
        put_pictures(run_dir, before.assign(more=1))


def test_a_broken_file_is_one_clear_line(run_dir):
    (run_dir / FILE).write_bytes(b"PAR1 but no table")
    with pytest.raises(ResultsError, match="not a readable Parquet table") as caught:
        read_pictures(run_dir)
    assert "\n" not in str(caught.value)


def test_an_empty_table_is_no_breach(run_dir):
    rows = fake_pictures(run_dir).iloc[:0]
    write_table(run_dir / FILE, rows, PICTURES)
    assert read_pictures(run_dir).empty
