"""The defenses compared: the same images, the right test, the family that is read, honest words."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from contexts import context, page_of, run_of, sample
from fake_runs import fake_run, fake_spec
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from reports.analysis import pairs
from reports.analysis.outcomes import ROBUST
from reports.analysis.pairs import (
    Comparison,
    Standing,
    count,
    findings,
    interval_words,
    p_words,
    signed,
)
from reports.analysis.ranges import eps_words
from reports.sections import accuracy, compare

pytestmark = pytest.mark.usefixtures("undrawn")


def rows(defense, stands, **options):
    """Images 0, 1, ...: those below ``stands`` stand, the rest falls; a list says which fall."""
    return [sample(defense, "pgd", i, falls=bool(f), **options) for i, f in enumerate(stands)]


def standing(number, n=100):
    return [i >= number for i in range(n)]


def made(samples):
    return compare.make(context(run_of(samples)))


def csv(section):
    return pd.read_csv(io.BytesIO(section.files["compare.csv"]))


PROMISES = re.compile(r"\b(better|beats|worse)\b")


def claims(section):
    """Every word of the section, on the page and in its files, that ranks the methods."""
    # The page says, too, that nothing is called better.
    texts = [page_of(section).words.replace("no defense is called better", "")]
    texts += [data.decode() for data in section.files.values()]
    return [word for text in texts for word in PROMISES.findall(text)]


def test_single_trainings_are_named_and_not_ranked_as_methods():
    section = made(rows("undefended", standing(20)) + rows("madry", standing(60)))
    row = csv(section).iloc[0]
    assert (row["n"], row["only_a"], row["only_b"]) == (100, 0, 40)
    assert row["difference"] == pytest.approx(-0.4)
    assert row["p"] == pytest.approx(2 * 0.5**40)
    assert row["verdict"] == "b keeps more in these trainings"
    assert (row["seeds_a"], row["seeds_b"]) == (0, 0)
    words = (
        "of these two trainings (seed 0 each) madry keeps more images at eps 0.1 (p < 0.001,"
        " n = 100); three seeds are needed to compare the methods"
    )
    assert words in page_of(section).words
    for kind in ("md", "tex"):
        text = section.files[f"compare.{kind}"].decode()
        assert "of these two trainings (seed 0 each) madry keeps more images than" in text
    assert not claims(section)


def trainings(name, falls):
    """Trainings of a defense under seeds 0, 1, ...: of 100 images the first ``falls`` fall."""
    return [
        row
        for seed, n in enumerate(falls)
        for row in rows(name, standing(100 - n)[::-1], seed=seed)
    ]


def test_two_trainings_a_side_do_not_rank_the_methods():
    section = made(trainings("a", (50, 52)) + trainings("b", (10, 12)))
    assert "of these four trainings (seeds 0 and 1 each) b keeps more" in page_of(section).words
    assert not claims(section)


def test_from_three_trainings_on_the_better_method_is_found():
    section = made(trainings("a", (50, 52, 51)) + trainings("b", (10, 12, 11)))
    row = csv(section).iloc[0]
    assert row["verdict"] == "b better"
    assert -0.7 < row["low"] < row["difference"] < row["high"] < 0
    # The interval stands the way round that the verdict reads.
    ends = f"[{signed(-row['high'])}, {signed(-row['low'])}]"
    words = (
        f"seeds 0, 1 and 2 each: b beats a at eps 0.1 (p < 0.001, difference in {ends}, n = 100)"
    )
    assert words in page_of(section).words
    assert "b beats a" in section.files["compare.tex"].decode()
    (_, cells), _ = section.view["parts"][0]["matrix"].rows
    assert cells[1].value == "worse"


def test_trainings_that_scatter_leave_the_methods_open():
    # Every image speaks for b on the mean, and one training of a is as good as b's.
    section = made(trainings("a", (80, 20, 50)) + trainings("b", (10, 30, 20)))
    row = csv(section).iloc[0]
    assert row["p_holm"] < 0.001
    assert row["low"] < 0 < row["high"]
    words = page_of(section).words
    assert (
        "of these trainings (seeds 0, 1 and 2 each) b keeps more images, other trainings" in words
    )
    assert "beats" not in section.files["compare.md"].decode()


def test_a_seed_that_failed_leaves_too_few():
    section = made(trainings("a", (50, 52, 51)) + trainings("b", (10, 12)))
    assert "(seeds 0 and 1 each) b keeps more" in page_of(section).words
    assert not claims(section)


def drawn(rng, n, seeds, shift=0.0):
    """Fates of n images under trainings of one method: images, trainings and chance all vary."""
    image = rng.normal(0, 1, n)

    def method(extra):
        training, chance = rng.normal(0, 0.2, (seeds, 1)), rng.normal(0, 0.3, (seeds, n))
        fates = np.where(image + extra + training + chance > 0, ROBUST, 0).astype(np.int8)
        return Standing(tuple(range(seeds)), fates)

    return method(0.0), method(shift)


def trials(shift, times=400, n=200):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(times):
        a, b = drawn(rng, n, 3, shift)
        found += pairs.tested(count("s", 0.1, [("a", "b", a, b)]))
    return found


def test_one_method_split_in_two_is_falsely_called_better_at_the_level_only():
    found = trials(0.0)
    share = sum(c.verdict == "better" for c in found) / len(found)
    assert share <= 0.05 + 3 * (0.05 * 0.95 / len(found)) ** 0.5
    # What the test over images alone would have said.
    assert sum(c.adjusted < 0.05 for c in found) / len(found) > 0.4


def test_a_method_that_is_better_is_found():
    found = trials(1.0)
    assert sum(c.verdict == "better" and c.more == "b" for c in found) / len(found) > 0.8


# --- the family


def test_thirteen_of_thirteen_images_count_among_seven_defenses_over_a_whole_grid():
    # 21 pairs at each of 17 eps and two attacks; one defense keeps 13 images more, at one eps.
    names, grid = "abcdefg", [i / 40 for i in range(17)]
    samples = [
        row
        for attack in ("pgd", "strong")
        for eps in grid
        for name in names
        for row in rows(name, standing(33 if name == "b" and eps == 0.1 else 20, n=100), eps=eps)
        for row in [row | {"attack": attack}]
    ]
    found = csv(made(samples))
    pair = found[(found["a"] == "a") & (found["b"] == "b") & (found["eps"] == 0.1)]
    assert len(found) == 3 * 17 * 21
    for row in pair.to_dict("records"):
        assert (row["only_a"], row["only_b"], row["family"]) == (0, 13, 21)
        assert row["p"] == pytest.approx(2 * 0.5**13, rel=1e-5)
        assert row["p_holm"] == pytest.approx(21 * 2 * 0.5**13, rel=1e-5)
        assert row["verdict"] == "b keeps more in these trainings"
    assert "all pairs of defenses under the same attacks, in one norm, at one eps (here 21)" in (
        page_of(made(samples)).words
    )


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


def test_p_values_equal_statsmodels_within_each_family(tmp_path):
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
    for _, family in found.groupby(["scope", "eps"]):
        adjusted = multipletests(np.array(expected)[family.index], method="holm")[1]
        assert family["p_holm"].to_numpy() == pytest.approx(adjusted, rel=1e-5)
    assert "(here 3)" in page_of(section).words


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
    assert (cells_a[1].value, cells_b[0].value) == ("keeps fewer here", "keeps more here")
    assert cells_a[1].note == "n = 100, seed 0 each"
    assert cells_a[1].interval == "−0.400, p < 0.001"
    assert cells_b[0].interval == "+0.400, p < 0.001"


def test_a_run_of_one_defense_has_no_section():
    assert made(rows("a", standing(20))) is None


def test_hostile_names_are_shown(tmp_path):
    section = compare.make(context(fake_run(tmp_path)))
    assert "<script>alert(1)</script> keeps more" in page_of(section).words
    assert "<script>" not in section.files["compare.md"].decode().replace("\\<script\\>", "")
    section.files["compare.tex"].decode("ascii")


# --- the words


def one(eps, p, n=100, difference=0.2, low=0.1, high=0.3, seeds=(0, 1, 2), theirs=None, same=False):
    sides = (seeds, theirs or seeds, 0.5 + difference, 0.5, same)
    return Comparison("s", eps, "a", "b", n, *sides, 1, 2, p, p, low, high, 1)


def test_neighbouring_eps_with_the_same_verdict_are_one_finding():
    found = [one(0.0, 1.0), one(0.1, 0.0001), one(0.2, 0.012), one(0.3, 0.0001, n=50)]
    assert [finding.sentence for finding in findings(found)] == [
        "no difference shown between a and b at eps 0 (p = 1, difference in [+0.100, +0.300],"
        " n = 100, seeds 0, 1 and 2 each)",
        "a beats b at eps 0.1 to 0.3 (each p ≤ 0.012, differences in [+0.100, +0.300],"
        " n = 50 to 100, seeds 0, 1 and 2 each)",
    ]


def test_a_gap_is_not_covered_by_a_stretch():
    found = [one(0.1, 0.0001), Comparison("s", 0.2, "a", "b"), one(0.3, 0.0001), one(0.4, 0.0001)]
    assert [finding.clause for finding in findings(found)] == [
        "a beats b at eps 0.1, 0.3 and 0.4 (each p < 0.001, differences in [+0.100, +0.300],"
        " n = 100)",
        "not compared at eps 0.2",
    ]


def test_the_worse_is_never_called_the_better():
    (finding,) = findings([one(0.1, 0.001, difference=-0.2, low=-0.3, high=-0.1)])
    assert finding.verdict == "b beats a"
    assert finding.interval == "difference in [+0.100, +0.300]"


NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"seeds": (0,), "theirs": (7,)},
            "of these two trainings (a: seed 0, b: seed 7) a keeps more images than b at eps 0.1"
            " (p < 0.001, n = 100); three seeds are needed to compare the methods",
        ),
        (
            {"seeds": (0,), "same": True},
            "of the same trained models (seed 0) a keeps more images than b at eps 0.1"
            " (p < 0.001, n = 100)",
        ),
        (
            {"low": -0.1, "high": 0.5},
            "of these trainings (seeds 0, 1 and 2 each) a keeps more images than b, other"
            " trainings may not, at eps 0.1 (p < 0.001, difference in [−0.100, +0.500], n = 100)",
        ),
    ],
)
def test_what_may_be_said_of_these_trainings(options, words):
    few = len(options.get("seeds", (0, 1, 2))) < 3
    (finding,) = findings(
        [one(0.1, 0.0001, **({"low": NAN, "high": NAN} if few else {}), **options)]
    )
    assert finding.sentence == words


@pytest.mark.parametrize(
    ("values", "largest", "words"),
    [
        ([0.0004], True, "p < 0.001"),
        ([0.31], False, "p = 0.310"),
        ([1.0], False, "p = 1"),
        ([0.04999], True, "p < 0.05"),
        ([0.0001, 0.0121], True, "each p ≤ 0.013"),
        ([0.01, 0.0498], True, "each p < 0.05"),
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


def test_an_interval_beside_0_is_not_rounded_onto_it():
    assert interval_words(0.0003, 0.416) == "[+0.0003, +0.416]"
    assert interval_words(-0.1, -0.00004) == "[−0.100, −4e-05]"
    assert interval_words(0.0, 0.1) == "[0.000, +0.100]"


def test_accuracies_say_that_their_intervals_are_over_images_only(tmp_path):
    for seeds, words in (
        ((4,), "Here is one training of each defense (seed 4)"),
        ((0, 1), "“seeds” in a cell names the lowest and the highest"),
    ):
        section = accuracy.make(context(fake_run(tmp_path, fake_spec(("a", "b"), seeds=seeds))))
        page = page_of(section).words
        assert "intervals over images only" in page
        assert words in page
        assert any(
            "not over trainings" in text.decode()
            for text in section.files.values()
            if text.startswith(b"% needs")
        )
