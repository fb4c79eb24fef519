"""The verdict's rule, case by case, on outcomes made by hand."""

import math

import pytest
import torch

from benchmark.audit.case import Curve, Finding
from benchmark.audit.verdict import judge
from benchmark.stats import wilson_interval

N = 100


def curve(falls, eps=(0.1, 0.2), attack="pgd", norm="linf", n=N, first=0):
    """An attack that turns so many of the images at each eps, beginning with ``first``."""
    success = torch.zeros(len(eps), n, dtype=torch.bool)
    for level, count in enumerate(falls):
        success[level, first : first + count] = True
    far = torch.full((len(eps), n), 9.0, dtype=torch.float64)
    for level in reversed(range(len(eps))):
        far[:, success[level]] = eps[level]
    return Curve(attack, "inhouse", norm, tuple(eps), success, far)


def alarm(check, reason, role, attack=""):
    return Finding(check, "alarm", 1.0, 0.0, "measured", reason, attack, role=role)


def cause(check, reason):
    return alarm(check, reason, "cause")


def symptom(check, reason, attack=""):
    return alarm(check, reason, "symptom", attack)


def invalid(check, reason):
    return alarm(check, reason, "invalid")


def verdict(plain, own=(), transferred=(), findings=(), *, correct=N, stochastic=False, **options):
    right = torch.arange(N) < correct
    return judge(
        norm=options.pop("norm", "linf"),
        correct=right,
        stochastic=stochastic,
        findings=findings,
        plain=plain,
        own=own,
        transferred=transferred,
        **options,
    )


def test_a_stronger_attack_that_agrees_makes_a_fair_one():
    found = verdict([curve([40, 80])], [curve([45, 85])])
    assert (found.ruling, found.reasons) == ("attacked fairly", ())
    assert str(found) == "attacked fairly"
    assert [one.headline for one in found.comparisons] == [0.55, 0.15]
    assert (found.comparisons[0].low, found.comparisons[0].high) == pytest.approx(
        wilson_interval(55, N)
    )


def test_a_drop_beyond_chance_is_a_weak_attack_and_both_accuracies_are_told():
    found = verdict([curve([0, 5])], [curve([30, 95])])
    assert found.ruling == "attack too weak"
    assert found.at.eps == 0.2
    assert (found.at.plain, found.at.stronger) == pytest.approx((0.95, 0.05))
    assert str(found) == (
        "attack too weak: at eps 0.2 all of the run's attacks together leave 95 %, the"
        " audit's 5 %: robust accuracy is at most 5 % (n=100); beaten by pgd"
    )


def test_a_transferred_attack_counts_as_a_stronger_one():
    found = verdict([curve([0, 5])], transferred=[curve([30, 95], attack="from undefended")])
    assert (found.ruling, found.beaten_by) == ("attack too weak", "from undefended")
    assert math.isnan(found.at.own)
    assert found.at.transferred == pytest.approx(0.05)


def test_few_points_are_no_masking_however_sure():
    assert verdict([curve([0, 50])], [curve([9, 59])]).ruling == "attacked fairly"
    assert verdict([curve([0, 50])], [curve([10, 60])]).ruling == "attack too weak"


def test_a_drop_that_may_be_chance_is_undecided():
    plain, own = (
        curve([0, 2], n=20),
        curve([0, 5], n=20),
    )
    found = verdict([plain], [own])
    assert found.ruling == "undecided"
    assert "more images: at eps 0.2" in str(found)
    assert "(n=20), and of so few that may be chance" in str(found)


def test_an_attack_that_turns_others_is_not_stronger_and_counts_in_the_headline():
    found = verdict([curve([0, 30])], [curve([0, 30], first=30)])
    assert found.ruling == "attacked fairly"
    assert found.comparisons[1].headline == pytest.approx(0.4)
    assert (found.comparisons[1].only_plain, found.comparisons[1].only_stronger) == (30, 30)


def test_a_cause_masks_also_where_nothing_stronger_was_found():
    flat = [curve([0, 0])]
    found = verdict(flat, flat, findings=[cause("zero-gradient", "zero gradient")])
    assert (found.ruling, found.beaten_by) == ("gradient masking", "")
    assert found.reasons[0] == "zero gradient"
    assert "no attack found more" in found.reasons[1]


def test_a_cause_that_did_not_stop_the_attack_is_a_remark():
    down = [curve([60, 97])]
    found = verdict(down, down, findings=[cause("edge-gradient", "clamped input")])
    assert found.ruling == "attacked fairly"
    assert found.remarks == ("clamped input, which did not stop the attack",)
    # Without a stronger attack nobody knows.
    assert verdict(down, findings=[cause("edge-gradient", "clamped")]).ruling == "gradient masking"


def test_a_symptom_alone_is_undecided_and_with_a_drop_a_reason():
    flat = [symptom("flat-in-eps", "flat in eps", attack="pgd")]
    found = verdict([curve([0, 0])], [curve([0, 0])], findings=flat)
    assert str(found) == "undecided: an explanation of: flat in eps"
    found = verdict([curve([0, 0])], [curve([0, 60])], findings=flat)
    assert (found.ruling, found.reasons[0]) == ("attack too weak", "flat in eps")


def test_where_a_cause_is_known_symptoms_are_not_repeated():
    found = verdict(
        [curve([0, 0])],
        [curve([0, 60])],
        findings=[symptom("rising-loss", "loss does not rise"), cause("zero-gradient", "zero")],
    )
    assert found.ruling == "gradient masking"
    assert found.reasons[0] == "zero"
    assert len(found.reasons) == 3  # the cause, the numbers, the attack


def test_what_breaks_the_interface_or_leaks_is_invalid_whatever_the_numbers_say():
    leak = invalid("train-test-overlap", "50% of the test images are among the training images")
    down = [curve([60, 97])]
    found = verdict(down, down, findings=[leak, cause("zero-gradient", "zero")])
    assert found.ruling == "invalid"
    assert found.reasons[:2] == (leak.reason, "zero")
    assert "robust accuracy is at most 40 %" in found.reasons[2]
    found = verdict([curve([0, 5])], [curve([30, 95])], findings=[leak])
    assert (found.ruling, found.beaten_by) == ("invalid", "pgd")
    assert "at most 5 %" in str(found)
    assert verdict(down, findings=[leak]).ruling == "invalid"  # without a stronger attack, too


def test_what_is_compared_is_all_of_the_runs_attacks_together():
    """Two attacks of the run turn 30 images each; the audit's one turns them all and no others."""
    plain = [curve([0, 30]), curve([0, 30], attack="cw", first=30)]
    found = verdict(plain, [curve([0, 60], attack="audit-margin")])
    assert found.comparisons[1].plain == pytest.approx(0.4)
    assert found.ruling == "attacked fairly"


def test_the_attack_that_took_most_is_named_with_its_setting():
    own = [curve([0, 40], attack="audit-margin"), curve([0, 60], attack="audit-apgd")]
    words = {"audit-apgd": "torchattacks:APGD(loss='dlr', steps=100)"}
    found = verdict([curve([0, 20])], own, settings=words)
    assert found.beaten_by == "audit-apgd"
    assert found.at.left == pytest.approx({"audit-margin": 0.6, "audit-apgd": 0.4})
    assert "beaten by audit-apgd: torchattacks:APGD(loss='dlr', steps=100)" in str(found)
    assert verdict([curve([0, 55])], own).beaten_by == ""  # five points are no drop


def test_a_symptom_of_a_sweep_in_another_norm_does_not_concern_this_one():
    own = [symptom("flat-in-eps", "flat in eps", attack="cw")]
    curves = [curve([40, 80]), curve([0, 0], attack="cw", norm="l2")]
    assert verdict(curves, [curve([40, 80])], findings=own).ruling == "attacked fairly"


def test_what_is_missing_is_said():
    assert "a stronger attack (run the full audit)" in str(verdict([curve([40, 80])]))
    assert "an attack of the run in this norm" in str(verdict([], [curve([40, 80])]))
    told = verdict([curve([0, 9])], [curve([0, 9])], missing=["the transfer: no other defense"])
    assert str(told) == "undecided: the transfer: no other defense"


def test_without_any_attack_there_is_no_number_and_a_verdict():
    found = verdict([])
    assert found.ruling == "undecided"
    assert (found.comparisons, found.at) == ((), None)
    assert math.isnan(found.p_value)


def test_an_image_that_fell_within_a_smaller_ball_fell_in_the_larger_one():
    # The run attacked at 0.1 alone, the audit at 0.2.
    found = verdict([curve([30], eps=(0.1,))], [curve([30], eps=(0.2,))])
    assert [(one.eps, one.plain) for one in found.comparisons] == [(0.2, pytest.approx(0.7))]


def test_draws_of_a_stochastic_defense_are_not_added_up():
    parts = [curve([0, 30], attack=f"a{i}", first=10 * i) for i in range(5)]
    assert verdict(parts, parts, stochastic=True).comparisons[1].headline == pytest.approx(0.7)
    assert verdict(parts, parts).comparisons[1].headline == pytest.approx(0.3)


def test_attacks_on_fewer_images_count_where_they_saw_them():
    plain = [curve([0, 20]), curve([10, 10], attack="slow", n=10, first=0)]
    found = verdict(plain, [curve([10, 20])])
    assert [one.plain for one in found.comparisons] == pytest.approx([0.9, 0.8])
    assert [one.n for one in found.comparisons] == [N, N]


def test_clean_errors_count_against_the_defense():
    found = verdict([curve([0, 20])], [curve([0, 20])], correct=90)
    assert found.clean == pytest.approx(0.9)
    assert found.comparisons[0].plain == pytest.approx(0.9)


def test_randomness_that_the_defense_does_not_declare_counts_as_randomness():
    parts = [curve([0, 30], attack=f"a{i}", first=10 * i) for i in range(5)]
    found = verdict(parts, parts, findings=[invalid("randomness", "undeclared randomness")])
    assert found.comparisons[1].headline == pytest.approx(0.7)


def test_a_random_defense_is_judged_on_images_that_every_attack_of_the_run_saw():
    # Without noise averaged out nothing falls; the fair attack is dear and saw half of the images.
    plain = [curve([0, 0]), curve([20, 50], attack="eot", n=50)]
    found = verdict(plain, [curve([20, 50])], stochastic=True)
    assert found.ruling == "attacked fairly"
    assert [(one.n, one.plain) for one in found.comparisons] == [(50, 0.6), (50, 0.0)]


def test_a_remark_is_about_the_norm_that_is_judged():
    flat = Finding("flat-in-eps", "note", 1.0, 0.9, "measured", "flat in eps", "cw")
    both = [curve([40, 80]), curve([0, 0], attack="cw", norm="l2")]
    assert verdict(both, [curve([40, 80])], findings=[flat]).remarks == ()
    found = verdict(both, [curve([0, 0], norm="l2")], findings=[flat], norm="l2")
    assert found.remarks == ("flat in eps",)
