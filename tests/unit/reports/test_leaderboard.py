"""One ranking over many runs: who stands beside whom, in what order, and what the page says."""

import csv
import io
from dataclasses import replace

import pytest
from contexts import run_of, sample
from fake_audit import put_audit, verdict
from fake_runs import PROVENANCE, fake_run, fake_spec
from pages import Page

from benchmark.config.spec import HandedOver
from benchmark.errors import UsageError
from benchmark.stats import wilson_interval
from reports.pages.leaderboard import markdown, write_leaderboard
from reports.pages.standings import entries_of, standings


def falling(defense, texts, *, attack="pgd", eps=(0.1,)):
    """Samples of a defense: by eps, a text of 1 for each image that falls and 0 for the others."""
    return [
        sample(defense, attack, i, falls=mark == "1", eps=at)
        for at, text in zip(eps, texts, strict=True)
        for i, mark in enumerate(text)
    ]


def entries(*samples, **options):
    return [entry for own in samples for entry in entries_of(run_of(own, **options))]


def order(ranking):
    return [(r, e.defense) for r, e in zip(ranking.ranks, ranking.entries, strict=True)]


def test_the_worst_case_over_all_attacks_ranks_image_by_image():
    weak = falling("a", ["11000000"]) + falling("a", ["00110000"], attack="fgsm")
    strong = falling("b", ["11100000"]) + falling("b", ["11100000"], attack="fgsm")
    (ranking,) = standings(entries(weak, strong)).rankings
    assert order(ranking) == [(1, "b"), (2, "a")]  # 3 fell, and 2 + 2 others
    share = ranking.entries[1].worst[0.1]
    assert (share.value, share.n) == (0.5, 8)
    assert (share.low, share.high) == pytest.approx(wilson_interval(4, 8))
    assert ranking.entries[0].attacks == ["pgd", "fgsm"]


def test_equal_numbers_have_equal_ranks_and_clean_accuracy_may_rank():
    same = entries(falling("a", ["1100"]), falling("b", ["0011"]), falling("c", ["1110"]))
    (ranking,) = standings(same).rankings
    assert order(ranking) == [(1, "a"), (1, "b"), (3, "c")]
    wrong = [sample("d", "pgd", i, falls=False, clean=i > 0) for i in range(4)]
    (ranking,) = standings([*same, *entries(wrong)], sort="clean").rankings
    assert order(ranking)[0][0] == 1
    assert order(ranking)[-1] == (4, "d")


def test_only_equal_images_norms_and_eps_stand_in_one_ranking():
    base = falling("a", ["1000"])
    found = standings(
        [
            *entries(base),
            *entries(falling("fewer", ["100"])),
            *entries(falling("other", ["1000"]), checksum="bb" * 32),
            *entries([{**row, "defense": "l2", "norm": "l2"} for row in base]),
        ]
    )
    assert sorted(e.defense for r in found.rankings for e in r.entries) == [
        *("a", "fewer", "l2", "other"),
    ]
    assert all(order(ranking)[0][0] == 1 for ranking in found.rankings)
    assert len(found.rankings) == 4


def test_other_images_of_the_same_set_and_number_are_apart():
    moved = [{**row, "sample_id": row["sample_id"] + 4} for row in falling("b", ["1000"])]
    assert len(standings(entries(falling("a", ["1000"]), moved)).rankings) == 2


def test_without_a_checksum_nobody_knows_the_images():
    one = run_of(falling("a", ["1000"]), checksum="")
    two = replace(one, path=one.path / "elsewhere")
    assert len(standings([*entries_of(one), *entries_of(two)]).rankings) == 2


def test_up_to_three_shared_eps_are_shown_and_those_without_a_shared_one_are_apart():
    many, few = (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.3, 0.5, 0.7)
    a, b = falling("a", ["1"] * 5, eps=many), falling("b", ["1"] * 4, eps=few)
    c = falling("c", ["1"], eps=(0.9,))
    (ranking,) = standings(entries(a, b)).rankings
    assert ranking.eps == (0.1, 0.3, 0.5)
    assert [r.eps for r in standings(entries(a, c)).rankings] == [(0.2, 0.3, 0.4), (0.9,)]
    assert [r.eps for r in standings(entries(a)).rankings] == [(0.2, 0.3, 0.4)]
    four = falling("d", ["1"] * 4, eps=many[:4])
    assert [r.eps for r in standings(entries(four)).rankings] == [(0.2, 0.3)]


def test_the_smallest_eps_does_not_put_a_model_without_defense_first():
    grid = (0.01, 0.1, 0.2, 0.3, 0.4)
    none = falling("none", ["00000000", *["11111111"] * 4], eps=grid)
    half = falling("half", [*["11100000"] * 3, "11111110", "11111111"], eps=grid)
    (ranking,) = standings(entries(none, half)).rankings
    assert order(ranking) == [(1, "half"), (2, "none")]


def test_with_eps_named_those_that_lack_one_are_left_out_and_told():
    a, b = falling("a", ["1", "1"], eps=(0.1 + 0.2, 0.4)), falling("b", ["1"], eps=(0.4,))
    found = standings(entries(a, b), eps=(0.3, 0.4))
    assert [order(ranking) for ranking in found.rankings] == [[(1, "a")]]
    ((_, name, why),) = found.left_out
    assert (name, why) == ("b", "not attacked at linf eps 0.3; it has 0.4")


def judged(run_dir, spec, words):
    rows = [
        verdict(name, word, seed=seed, norm=norm)
        for name, word in words.items()
        for seed in spec.seeds
        for norm in ("linf", "l2")
    ]
    put_audit(run_dir, verdicts=rows)


@pytest.fixture
def two(tmp_path):
    """Folders of two runs: one audited, with a hostile name and seeds; one handed over."""
    spec = fake_spec(n=20)
    handed = replace(
        fake_spec(["mine"], seeds=(0,), n=20), n_train=0, handed_over=HandedOver("a", "b")
    )
    folders = [fake_run(tmp_path / "runs", each) for each in (spec, handed)]
    judged(folders[0], spec, {"undefended": "attacked fairly", "madry": "gradient masking"})
    return folders


def test_a_number_that_the_audit_does_not_believe_has_no_rank(two):
    made = write_leaderboard(two, norm="linf", eps=(0.1, 0.3, 0.4))
    (ranking,) = made.standings.rankings
    ranks = {e.defense: r for r, e in zip(ranking.ranks, ranking.entries, strict=True)}
    assert ranks["madry"] is None
    assert sorted(rank for rank in ranks.values() if rank) == [1, 2, 3, 4, 5]
    assert ranking.entries[-1].defense == "madry"
    words = Page(made.page.read_text("utf-8")).words
    assert "✗ gradient masking" in words
    assert "≤ 0." in words
    assert "✓ attacked fairly" in words
    assert "– not audited" in words
    assert "handed over" in words


def test_page_markdown_and_csv_say_the_same(two):
    made = write_leaderboard(two, eps=(0.1, 0.2))
    folder = made.page.parent
    assert folder.parent == two[0]
    html = made.page.read_text("utf-8")
    page = Page(html)
    assert "<script>alert(1)</script>" not in html
    assert page.all("script") == [{}]
    links = {a["href"] for a in page.all("a")} - {"#main"}
    assert links == {"leaderboard.md", "leaderboard.csv"}
    rows = list(csv.DictReader(io.StringIO((folder / "leaderboard.csv").read_text("utf-8"))))
    assert {row["eps"] for row in rows} == {"0.1", "0.2"}
    assert len(rows) == 6 * 2
    assert {row["started"] for row in rows} == {PROVENANCE["started"]}
    assert {row["seeds"] for row in rows} == {"1", "2"}
    text = (folder / "leaderboard.md").read_text("utf-8")
    for row in rows:
        assert f"{float(row['worst_case']):.3f}" in page.words
        assert row["run_id"] in text
    assert made.page.read_bytes() == write_leaderboard(two, eps=(0.1, 0.2)).page.read_bytes()
    assert "2026-11-23" in text
    # l2 was attacked at other eps
    assert "not attacked at l2 eps 0.1, 0.2" in page.words
    assert markdown(made.standings) == text


def test_a_report_beside_a_run_is_linked(two, tmp_path):
    (two[1] / "report").mkdir()
    (two[1] / "report" / "report.html").write_text("")
    page = write_leaderboard(two, tmp_path / "board").page
    links = {a["href"] for a in Page(page.read_text("utf-8")).all("a")}
    (link,) = (href for href in links if href.endswith("report.html"))
    assert (page.parent / link).resolve() == two[1].resolve() / "report" / "report.html"


def test_a_damaged_folder_is_told_and_the_rest_is_ranked(two, tmp_path):
    (two[1] / "spec.json").write_text("[" * 1000)
    made = write_leaderboard([*two, tmp_path / "none"], tmp_path / "board")
    told = zip(made.unread, (two[1], tmp_path / "none"), strict=True)
    assert all(line.startswith(f"{path} is left out: ") for line, path in told)
    assert "is left out" in Page(made.page.read_text("utf-8")).words
    odd = write_leaderboard([*two, tmp_path / "\udcff\n"], tmp_path / "board")
    assert "\\udcff" in odd.page.read_text("utf-8")
    with pytest.raises(UsageError, match=r"nothing to rank; .*none is left out"):
        write_leaderboard([tmp_path / "none"])
    with pytest.raises(UsageError, match=r"nothing to rank; .*not attacked at"):
        write_leaderboard([tmp_path / "none", two[0]], eps=(0.123,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "lp"}, "norm 'lp'"),
        ({"sort": "best"}, "order 'best'"),
        ({"eps": (0.0, 0.1)}, "eps above 0"),
        ({"eps": (0.123,)}, "nothing to rank; .*not attacked at l"),
    ],
)
def test_wrong_usage_is_one_line(two, options, message):
    with pytest.raises(UsageError, match=message) as error:
        write_leaderboard(two, **options)
    assert "\n" not in str(error.value)


def test_a_run_without_a_result_is_told(tmp_path):
    spec = fake_spec(["madry"], eps=(0.0,), n=4)
    run_dir = fake_run(tmp_path, replace(spec, attacks=spec.attacks[:1]))
    with pytest.raises(UsageError, match="no attack at an eps above 0 has finished"):
        write_leaderboard([run_dir])
