"""The worst case over attacks, image by image, against what can be counted by hand."""

import io

import pandas as pd
import pytest
from contexts import context, page_of, run_of, sample
from fake_runs import fake_run, fake_spec
from markdown_it import MarkdownIt

from benchmark.stats import wilson_interval
from reports.analysis.outcomes import outcomes
from reports.sections import worst_case

pytestmark = pytest.mark.usefixtures("undrawn")


def rows(defense, attack, falls, **options):
    return [sample(defense, attack, i, falls=bool(f), **options) for i, f in falls.items()]


def numbered(text):
    return dict(enumerate(map(int, text)))


def cases_of(samples):
    return worst_case.worst_cases(outcomes(context(run_of(samples))))


def csv(section, name="worst-case.csv"):
    return pd.read_csv(io.BytesIO(section.files[name]))


def test_an_image_falls_if_any_attack_in_any_library_turns_it():
    samples = rows("madry", "pgd", numbered("11000000"))
    samples += rows("madry", "pgd", numbered("01100000"), library="art")
    samples += rows("madry", "fgsm", numbered("00010000"))
    (case,) = cases_of(samples)
    assert case.fates.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]
    assert case.fooled == 4
    assert case.fooled_by == {("pgd", "inhouse"): 2, ("pgd", "art"): 2, ("fgsm", "inhouse"): 1}
    assert case.alone == {("pgd", "inhouse"): 1, ("pgd", "art"): 1, ("fgsm", "inhouse"): 1}
    row = csv(worst_case.make(context(run_of(samples)))).iloc[0]
    assert (row["robust_accuracy"], row["images"]) == (0.5, 8)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(wilson_interval(4, 8), abs=1e-6)


def test_only_images_that_every_attack_saw_count_and_the_others_are_told():
    samples = rows("madry", "pgd", numbered("1000000000"))
    samples += rows("madry", "slow", {0: 0, 1: 1, 2: 0, 3: 0})
    (case,) = cases_of(samples)
    assert case.fates.tolist() == [[0, 0, 1, 1, -1, -1, -1, -1, -1, -1]]
    section = worst_case.make(context(run_of(samples)))
    row = csv(section).iloc[0]
    assert (row["robust_accuracy"], row["images"]) == (0.5, 4)
    assert (row["accuracy_seen"], row["images_seen"]) == (0.8, 10)
    words = page_of(section).words
    assert "4 of 10 images" in words
    assert "madry : pgd (inhouse, 10 images), slow (inhouse, 4 images)" in words


def test_attacks_without_a_common_image_give_no_number():
    samples = rows("madry", "pgd", {0: 1, 1: 0}) + rows("madry", "slow", {2: 1, 3: 0})
    section = worst_case.make(context(run_of(samples)))
    assert pd.isna(csv(section).iloc[0]["robust_accuracy"])
    assert "no image that every attack saw" in page_of(section).words


def test_clean_errors_count_against_the_defense_but_for_no_attack():
    samples = [
        sample("madry", attack, i, falls=i == 1, clean=i != 0)
        for attack in ("pgd", "fgsm")
        for i in range(4)
    ]
    (case,) = cases_of(samples)
    assert case.fates.tolist() == [[0, 0, 1, 1]]
    assert case.fooled == 1
    assert set(case.fooled_by.values()) == {1}
    row = csv(worst_case.make(context(run_of(samples)))).iloc[0]
    assert (row["clean_accuracy"], row["robust_accuracy"]) == (0.75, 0.5)


def test_seeds_are_averaged_and_images_counted_once():
    samples = rows("madry", "pgd", numbered("1100"), seed=0)
    samples += rows("madry", "pgd", numbered("0000"), seed=1)
    row = csv(worst_case.make(context(run_of(samples)))).iloc[0]
    assert (row["robust_accuracy"], row["images"], row["seeds_ok"]) == (0.75, 4, 2)
    assert (row["seed_low"], row["seed_high"]) == (0.5, 1.0)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(wilson_interval(3, 4), abs=1e-6)


def test_the_strongest_attack_is_named_per_stretch_of_eps():
    samples = []
    for eps, pgd, fgsm in ((0.1, "1100", "1000"), (0.2, "1110", "1000"), (0.3, "1110", "1111")):
        samples += rows("madry", "pgd", numbered(pgd), eps=eps)
        samples += rows("madry", "fgsm", numbered(fgsm), eps=eps)
    section = worst_case.make(context(run_of(samples)))
    assert [row[2:] for row in section.view["strongest"].rows] == [
        ["0.1 and 0.2", "pgd (inhouse)", "1.000", "1 to 2", "0", "4"],
        ["0.3", "fgsm (inhouse)", "1.000", "1", "0", "4"],
    ]


def test_with_one_attack_the_worst_case_is_its_own_result(tmp_path):
    whole = context(fake_run(tmp_path, fake_spec(("madry", "rse"), seeds=(0,))))
    section = worst_case.make(whole)
    found = csv(section).set_index(["norm", "defense", "eps"])
    own = whole.pooled.set_index(["norm", "defense", "eps"])
    for column in ("robust_accuracy", "ci_low", "ci_high", "clean_accuracy"):
        pd.testing.assert_series_equal(found[column], own[column], rtol=1e-5)
    assert "the worst case is the one attack’s own result" in page_of(section).words


def test_cells_without_a_result_say_so_and_hostile_names_are_shown(tmp_path):
    states = {("madry", 0.1): ("failed", "boom"), ("madry", 0.2): ("skipped", "no")}
    run = fake_run(tmp_path, states=states, missing=[("madry", 0.3)])
    section = worst_case.make(context(run))
    page = page_of(section)
    (linf, _) = section.view["parts"]
    cells = next(cells for name, _, cells in linf["table"].rows if name == "madry")
    assert [cell.value for cell in cells[1:4]] == ["failed", "skipped", "not run"]
    assert "<script>alert(1)</script>" in page.words
    html = MarkdownIt().enable("table").render(section.files["worst-case-linf.md"].decode())
    assert "<script>" not in html
    section.files["worst-case-linf.tex"].decode("ascii")


def test_an_empty_run_has_no_section(tmp_path):
    states = {("madry", eps): ("failed", "boom") for eps in (0.0, 0.1, 1.0, 2.0)}
    run = fake_run(tmp_path, fake_spec(("madry",), (0.0, 0.1)), states=states)
    assert worst_case.make(context(run)) is None


def test_equal_runs_give_equal_files(tmp_path):
    one, two = (
        worst_case.make(context(fake_run(tmp_path / name, fake_spec(("a", "b")))))
        for name in ("one", "two")
    )
    assert one.files == two.files
