"""What chance accuracy on clean images is told to come from."""

import torch

from benchmark.given.remarks import clean_remark

LABELS = torch.arange(200) % 10


def test_better_than_chance_says_nothing():
    assert clean_remark(LABELS, LABELS, 10) == ""
    right = LABELS.clone()
    right[:120] = 0
    assert clean_remark(right, LABELS, 10) == ""


def test_chance_names_likely_causes():
    said = clean_remark((LABELS * 7 + 3) % 10, LABELS, 10)
    assert "no better than chance (0.100)" in said
    for cause in ("normalised twice", "0 to 255", "BGR", "another order"):
        assert cause in said


def test_one_answer_points_at_the_weights():
    said = clean_remark(torch.full_like(LABELS, 3), LABELS, 10)
    assert "weights not loaded (class 3 is the answer to every image)" in said


def test_labels_that_start_at_one_are_recognised():
    assert "100% of the answers are 1 less" in clean_remark(LABELS - 1, LABELS, 10)
    assert "100% of the answers are 1 more" in clean_remark(LABELS + 1, LABELS, 11)


def test_the_most_frequent_class_is_chance():
    mostly = torch.zeros(100).long()
    mostly[:10] = 1
    assert "chance (0.900)" in clean_remark(torch.zeros(100).long(), mostly, 2)
