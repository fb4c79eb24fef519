"""Which defense is better: the same images, the right test, the whole family, honest words."""

import io

import pandas as pd
import pytest
from contexts import context, page_of, run_of, sample
from fake_runs import fake_run, fake_spec
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from reports import compare
from reports.pairs import Comparison, findings, p_words, signed
from reports.words import eps_words


def rows(defense, stands, **options):
    """Images 0, 1, ...: those below ``stands`` stand, the rest falls; a list says which fall."""
    return [sample(defense, "pgd", i, falls=bool(f), **options) for i, f in enumerate(stands)]


def standing(number, n=100):
    return [i >= number for i in range(n)]


def made(samples):
    return compare.make(context(run_of(samples)))


def csv(section):
    return pd.read_csv(io.BytesIO(section.files["compare.csv"]))


def test_the_verdict_names_the_better_its_p_value_and_n():
    section = made(rows("undefended", standing(20)) + rows("madry", standing(60)))
    row = csv(section).iloc[0]
    assert (row["n"], row["only_a"], row["only_b"]) == (100, 0, 40)
    assert row["difference"] == pytest.approx(-0.4)
    assert row["p"] == pytest.approx(2 * 0.5**40)
    words = "madry beats undefended at eps 0.1 (p < 0.001, n = 100)"
    assert words in page_of(section).words
    assert "madry beats undefended" in section.files["compare.md"].decode()


def test_no_difference_is_not_called_one():
    section = made(rows("undefended", standing(50)) + rows("madry", standing(52)))
    words = page_of(section).words
    assert "no difference shown at eps 0.1 (p = 0.500, n = 100)" in words
    assert (
        "no difference shown between undefended and madry" in section.files["compare.md"].decode()
    )


def test_only_discordant_images_count():
    # Equal accuracies on different images, and unequal ones of which most agree.
    first = [i % 2 == 0 for i in range(100)]
    section = made(rows("a", first) + rows("b", [not f for f in first]))
    row = csv(section).iloc[0]
    assert (row["only_a"], row["only_b"], row["p"]) == (50, 50, 1)


def test_p_values_equal_statsmodels_over_the_whole_family(tmp_path):
    run = context(fake_run(tmp_path, fake_spec(("a", "b", "c"), seeds=(0,))))
    section = compare.make(run)
    found = csv(section)
    samples = run.run.samples
    expected = []
    for row in found.to_dict("records"):
        norm = "linf" if "∞" in row["scope"] else "l2"
        own = samples[(samples["norm"] == norm) & (samples["eps"] == row["eps"])]
        fates = own.pivot(index="sample_id", columns="defense", values="success")
        table = pd.crosstab(fates[row["a"]], fates[row["b"]])
        table = table.reindex(index=[False, True], columns=[False, True], fill_value=0)
        expected.append(mcnemar(table.to_numpy(), exact=True).pvalue)
    assert found["p"].to_numpy() == pytest.approx(expected, rel=1e-5)
    assert len(found) == 3 * (5 + 3)
    adjusted = multipletests(expected, method="holm")[1]
    assert found["p_holm"].to_numpy() == pytest.approx(adjusted, rel=1e-5)
    assert f"for all {len(found)} comparisons" in page_of(section).words


def test_images_that_one_defense_alone_was_attacked_on_are_left_out():
    section = made(rows("a", standing(90)) + rows("b", standing(10, n=30)))
    row = csv(section).iloc[0]
    assert (row["n"], row["accuracy_a"], row["accuracy_b"]) == (30, 1, pytest.approx(1 / 3))


def test_the_worst_case_is_compared_and_each_attack_beside_it():
    samples = rows("a", standing(90)) + rows("b", standing(90))
    samples += [sample("a", "strong", i, falls=i >= 10) for i in range(100)]
    section = made(samples)
    found = csv(section).set_index("scope")
    assert found.loc["every attack, l∞", "only_b"] == 80
    assert found.loc["pgd (inhouse, l∞)", "p"] == 1
    assert "strong (inhouse, l∞)" not in found.index  # b was not attacked by it
    assert "Under each attack alone" in page_of(section).words


def test_several_seeds_of_an_image_are_one_observation():
    # Ten images, all alike in three seeds: the p-value of ten, not of thirty.
    samples = [
        row
        for seed in range(3)
        for row in rows("a", [True] * 6 + [False] * 4, seed=seed)
        + rows("b", [False] * 10, seed=seed)
    ]
    section = made(samples)
    row = csv(section).iloc[0]
    assert (row["n"], row["seeds"], row["only_b"]) == (10, 3, 6)
    assert row["p"] == pytest.approx(2 * 0.5**6)
    assert "not about other trainings" in page_of(section).words


def test_seeds_that_only_one_has_are_left_out():
    samples = rows("a", standing(10), seed=0) + rows("a", standing(90), seed=1)
    samples += rows("b", standing(90), seed=1)
    row = csv(made(samples)).iloc[0]
    assert (row["seeds"], row["p"]) == (1, 1)


def test_failed_cells_are_not_compared_and_named(tmp_path):
    states = {("b", 0.1): ("failed", "boom")}
    section = compare.make(context(fake_run(tmp_path, fake_spec(("a", "b")), states=states)))
    assert "not compared at eps 0.1" in page_of(section).words
    found = csv(section)
    assert (found["verdict"] == "not compared").sum() == 1
    assert found.loc[found["verdict"] == "not compared", "p"].isna().all()


def test_the_matrix_says_from_the_rows_side():
    section = made(rows("a", standing(20)) + rows("b", standing(60)))
    (a, cells_a), (b, cells_b) = section.view["parts"][0]["matrix"].rows
    assert (a, b) == ("a", "b")
    assert (cells_a[1].value, cells_b[0].value) == ("worse", "better")
    assert cells_a[1].interval == "−0.400, p < 0.001"
    assert cells_b[0].interval == "+0.400, p < 0.001"


def test_a_run_of_one_defense_has_no_section():
    assert made(rows("a", standing(20))) is None


def test_hostile_names_are_shown(tmp_path):
    section = compare.make(context(fake_run(tmp_path)))
    assert "<script>alert(1)</script> beats" in page_of(section).words
    assert "<script>" not in section.files["compare.md"].decode().replace("\\<script\\>", "")
    section.files["compare.tex"].decode("ascii")


# --- the words


def one(eps, p, n=100, difference=0.2):
    return Comparison("s", eps, "a", "b", n, 1, 0.5 + difference, 0.5, 1, 2, p, p)


def test_neighbouring_eps_with_the_same_verdict_are_one_finding():
    found = [one(0.0, 1.0), one(0.1, 0.0001), one(0.2, 0.012), one(0.3, 0.0001, n=50)]
    assert [finding.sentence for finding in findings(found)] == [
        "no difference shown between a and b at eps 0 (p = 1, n = 100)",
        "a beats b at eps 0.1 to 0.3 (each p ≤ 0.012, n = 50 to 100)",
    ]


def test_a_gap_is_not_covered_by_a_stretch():
    found = [one(0.1, 0.0001), Comparison("s", 0.2, "a", "b"), one(0.3, 0.0001), one(0.4, 0.0001)]
    assert [finding.clause for finding in findings(found)] == [
        "a beats b at eps 0.1, 0.3 and 0.4 (each p < 0.001, n = 100)",
        "not compared at eps 0.2",
    ]


def test_the_worse_is_never_called_the_better():
    (finding,) = findings([one(0.1, 0.001, difference=-0.2)])
    assert finding.verdict == "b beats a"


@pytest.mark.parametrize(
    ("values", "largest", "words"),
    [
        ([0.0004], True, "p < 0.001"),
        ([0.31], False, "p = 0.310"),
        ([1.0], False, "p = 1"),
        ([0.04999], True, "p < 0.05"),
        ([0.0001, 0.0121], True, "each p ≤ 0.013"),
        ([0.3109, 0.9], False, "each p ≥ 0.31"),
        ([1.0, 1.0], False, "each p = 1"),
    ],
)
def test_p_values_in_words(values, largest, words):
    assert p_words(values, largest=largest) == words


def test_eps_in_words():
    grid = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert eps_words([0.1], grid) == "0.1"
    assert eps_words([0.1, 0.2], grid) == "0.1 and 0.2"
    assert eps_words([0, 0.1, 0.2, 0.4, 0.6], grid) == "0 to 0.2, 0.4 and 0.6"


def test_signs():
    assert [signed(v) for v in (0.12, -0.12, 0.0, -0.0001)] == [
        "+0.120",
        "−0.120",
        "0.000",
        "0.000",
    ]
