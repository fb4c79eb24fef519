"""The paper's tables and figures as data: every number in its place, and nothing hidden."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
from fake_runs import fake_codes, fake_run, fake_spec

from benchmark.config.spec import AttackSpec, DefenseSpec
from benchmark.config.threat import ThreatModel
from benchmark.results import ResultsError, read_run
from benchmark.stats import wilson_interval
from reports.analysis.studies import member, sequential_styles, study_curves
from reports.figures import embedding_map
from reports.figures.embedding_map import code_maps
from reports.paper import published as paper
from reports.paper.dimension import read_dimension
from reports.paper.measured import NOT_RUN, by_trust, is_minimal, paper_tables
from reports.tables.grid import grid, pool

# Ten images: how many fall by 0, 0.1, 0.14, 0.2, 0.3, 0.4 and 3.92 can be counted off.
REACH = {
    "madry": [0.0, 0.05, 0.05, 0.15, 0.15, 0.15, 0.15, 0.35, 0.35, 9.0],
    "ot-cla-adv": [0.01, 0.13, 0.15, 0.15, 0.25, 0.5, 1.0, 3.9, 4.0, 9.0],
    "defense-gan": [0.0, 0.0, 0.01, 0.13, 0.2, 0.5, 3.0, 3.0, 4.0, 9.0],
    "ot-cla": [0.25] * 10,
}


def spec(defenses=("madry", "ot-cla-adv"), attacks=None, **changes):
    pgd = AttackSpec("pgd", ThreatModel("linf", (0.0, 0.1, 0.2, 0.3, 0.4)), 10)
    made = fake_spec(defenses, seeds=(0,), n=10)
    defense_specs = tuple(DefenseSpec(name, {"code_dim": 4}) for name in defenses)
    return replace(made, defenses=defense_specs, attacks=attacks or (pgd,), **changes)


def exact(folder, run_spec=None, **options):
    return read_run(fake_run(folder, run_spec or spec(), reach=REACH, models=False, **options))


def at(frame, **key):
    for name, value in key.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


# --- Table 1


def test_table1_puts_measured_beside_published(tmp_path):
    run = exact(tmp_path)
    table = paper_tables([run])["table1"]
    assert len(table) == 40
    row = at(table, dataset="mnist", defense="madry", eps=0.2)
    # Seven of ten fooled by 0.2; the paper has 86.8 %.
    assert (row["published"], row["measured"], row["n"]) == (0.868, pytest.approx(0.3), 10)
    assert row["difference"] == pytest.approx(0.3 - 0.868)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(wilson_interval(3, 10))
    assert (row["status"], row["run_id"], row["preset"]) == ("measured", run.run_id, "quick")
    row = at(table, dataset="mnist", defense="ot-cla-adv", eps=0.4)
    assert row["difference"] == pytest.approx(0.5 - 0.711)
    row = at(table, dataset="mnist", defense="ot-cla-adv", eps=0.0)
    assert row["difference"] == pytest.approx(1.0 - 0.991)  # above the paper's: positive


def test_what_was_not_run_says_so_and_holds_no_number(tmp_path):
    for runs in ([], [exact(tmp_path)]):
        table = paper_tables(runs)["table1"]
        others = table[table["dataset"] != "mnist"] if runs else table
        assert set(others["status"]) == {NOT_RUN}
        assert set(others["run_id"]) == {""}
        assert others["measured"].isna().all()
        assert others["difference"].isna().all()
        assert others["published"].notna().all()


def test_cells_without_a_result_give_their_reason(tmp_path):
    states = {("madry", 0.1): ("failed", "out of memory"), ("madry", 0.3): ("skipped", "unsuited")}
    run = exact(tmp_path, states=states, missing=[("madry", 0.4)])
    table = paper_tables([run])["table1"]
    own = table[(table["dataset"] == "mnist") & (table["defense"] == "madry")]
    words = ["measured", "failed: out of memory", "measured", "skipped: unsuited", NOT_RUN]
    assert own["status"].tolist() == words
    assert own["measured"].isna().tolist() == [False, True, False, True, True]
    assert set(own["run_id"]) == {run.run_id}


def test_every_run_has_its_row_and_grids_may_round_differently(tmp_path):
    wobbly = AttackSpec("pgd", ThreatModel("linf", (0.1, 0.1 + 0.2)), 10)
    runs = [exact(tmp_path / "a"), exact(tmp_path / "b", spec(attacks=(wobbly,)))]
    table = paper_tables(runs)["table1"]
    own = table[(table["dataset"] == "mnist") & (table["defense"] == "madry")]
    assert own[own["eps"] == 0.3]["run_id"].tolist() == [run.run_id for run in runs]
    assert own[own["eps"] == 0.2]["run_id"].tolist() == [runs[0].run_id]


def test_the_most_trustworthy_run_comes_first():
    names = ["run_id", "status", "preset", "n", "seeds", "library"]
    rows = [
        ("unfinished", NOT_RUN, "paper", math.nan, 1, "inhouse"),
        ("failed", "failed: boom", "paper", math.nan, 1, "inhouse"),
        ("other preset", "measured", "smoke", 9000.0, 9, "inhouse"),
        ("few images", "measured", "quick", 100.0, 9, "inhouse"),
        ("one seed", "measured", "quick", 1000.0, 1, "inhouse"),
        ("peer", "measured", "quick", 1000.0, 3, "art"),
        ("first", "measured", "quick", 1000.0, 3, "inhouse"),
        ("second", "measured", "quick", 1000.0, 3, "inhouse"),
        ("paper", "measured", "paper", 10.0, 1, "art"),
    ]
    expected = ["paper", "first", "second", "peer", "one seed", "few images", "other preset"]
    expected += ["failed", "unfinished"]
    assert by_trust(pd.DataFrame(rows, columns=names))["run_id"].tolist() == expected


def test_the_published_table_is_the_papers():
    assert paper.TABLE1["mnist"][1]["ot-cla-adv"] == (0.991, 0.987, 0.972, 0.949, 0.711)
    for dataset, (eps, defenses) in paper.TABLE1.items():
        assert set(eps) <= set(paper.grid(dataset))
        for values in defenses.values():
            assert len(values) == len(eps)
            assert list(values) == sorted(values, reverse=True)  # a typing error would stand out
            assert all(0 < value < 1 for value in values)


# --- Table 2


def l2(name, eps=(0.0, 1.0), **options):
    return AttackSpec(name, ThreatModel("l2", eps), 10, **options)


@pytest.mark.parametrize("grid_l2", [(0.0, 1.0), (0.0, 0.14, 3.92)])
def test_table2_judges_the_nearest_images_under_both_readings(tmp_path, grid_l2):
    attacks = (l2("cw", grid_l2), l2("latent-cw", grid_l2))
    run = exact(tmp_path, spec(("ot-cla-adv", "defense-gan"), attacks))
    table = paper_tables([run])["table2"]
    tight, loose = paper.TABLE2_READINGS
    assert list(paper.TABLE2_READINGS.values()) == pytest.approx([0.14, 3.92])
    expected = {
        ("ot-cla-adv", "cw", tight): 0.8,
        ("ot-cla-adv", "cw", loose): 0.2,
        ("defense-gan", "latent-cw", tight): 0.6,
        ("defense-gan", "latent-cw", loose): 0.2,
    }
    for (defense, attack, reading), value in expected.items():
        row = at(table, defense=defense, attack=attack, reading=reading)
        assert row["measured"] == pytest.approx(value)
        assert row["difference"] == pytest.approx(value - paper.TABLE2[defense])
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(wilson_interval(10 * value, 10))
    absent = at(table, defense="defense-gan", attack="cw-bpda", reading=tight)
    assert (absent["status"], absent["published"]) == (NOT_RUN, 0.55)


def test_table2_takes_a_budget_attack_at_the_threshold_only(tmp_path):
    for eps, there in (((0.0, 0.14), [True, False]), ((0.0, 0.2), [False, False])):
        bpda = l2("pgd-l2-bpda", eps, type="pgd", bpda=True)
        run = exact(tmp_path / str(eps[1]), spec(("defense-gan",), (bpda,)))
        table = paper_tables([run])["table2"]
        own = table[table["attack"] == "pgd-l2-bpda"]
        readings = list(paper.TABLE2_READINGS)
        assert [reading in set(own["reading"]) for reading in readings] == there
    plain = l2("pgd-l2", (0.0, 0.14))
    table = paper_tables([exact(tmp_path / "plain", spec(("ot-cla-adv",), (plain,)))])["table2"]
    assert set(table["status"]) == {NOT_RUN}


def test_table2_asks_the_cells_which_attacks_return_the_nearest_image(tmp_path):
    """Whatever an attack is called; where older cells tell no family, its name counts."""
    run = exact(tmp_path, spec(("ot-cla-adv",), (l2("cw"), l2("near", type="cw"))))
    for family, found in (("minimal", [True, True]), ("budget", [False, False])):
        told = replace(run, cells=run.cells.assign(attack_family=family))
        assert [is_minimal(told, attack) for attack in told.spec.attacks] == found
    other = replace(run.spec.attacks[0], name="other", type="other")
    untold = replace(run, cells=run.cells.assign(attack_family=None))
    assert is_minimal(untold, run.spec.attacks[0])
    assert not is_minimal(untold, other)


def test_table2_keeps_the_reason_of_a_failed_attack(tmp_path):
    states = {("ot-cla-adv", eps): ("failed", "boom") for eps in (0.0, 1.0)}
    run = exact(tmp_path, spec(("ot-cla-adv",), (l2("cw"),)), states=states)
    own = paper_tables([run])["table2"].query("defense == 'ot-cla-adv'")
    assert own["status"].tolist() == ["failed: boom"] * 2
    assert own["measured"].isna().all()


# --- Table 3


def dimension(folder, dataset="cifar10", **changes):
    estimates = [
        {"average": "mackay", "scaling": "var", "k1": 6, "k2": 12, "value": 17.25}
        | {"ci_low": 16.5, "ci_high": 18.0},
        {"average": "levina", "scaling": "none", "k1": 6, "k2": 12, "value": 23.0}
        | {"ci_low": None, "ci_high": None},
    ]
    value = {"dataset": dataset, "n": 1000, "estimates": estimates, "library_estimate": 17.0}
    value |= {"library": {"name": "lib", "version": "1", "average": "mackay", "scaling": "var"}}
    folder = folder / f"dimension-{dataset}-0123456789"
    folder.mkdir(parents=True)
    (folder / "dimension.json").write_text(json.dumps(value | changes), "utf-8")
    return folder


def test_table3_has_estimates_library_and_codes(tmp_path):
    found = read_dimension(dimension(tmp_path))
    run = exact(tmp_path, spec(("ot-cla",)))
    table = paper_tables([run], [found])["table3"]
    row = at(table, dataset="cifar10", average="mackay")
    assert row[["published", "measured", "difference"]].tolist() == [17, 17.25, 0.25]
    assert row[["ci_low", "ci_high", "n", "k1", "k2"]].tolist() == [16.5, 18.0, 1000, 6, 12]
    assert row["run_id"] == "dimension-cifar10-0123456789"
    assert math.isnan(at(table, dataset="cifar10", average="levina")["ci_low"])
    row = at(table, dataset="cifar10", method="library: lib, 1, mackay, var")
    assert row["measured"] == 17.0
    row = at(table, dataset="mnist", quantity="embedding dimension")
    assert row[["published", "measured", "difference", "status"]].tolist() == [4, 4, 0, "measured"]
    for dataset, quantity in (("mnist", "intrinsic"), ("cifar10", "embedding")):
        row = at(table, dataset=dataset, quantity=f"{quantity} dimension")
        assert row["status"] == NOT_RUN
        assert math.isnan(row["measured"])


def test_a_dimension_may_lack_the_library(tmp_path):
    found = read_dimension(dimension(tmp_path, library_estimate=None, library=None))
    table = paper_tables([], [found])["table3"]
    assert not table["method"].str.startswith("library").any()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"dataset": "x", "n": 1, "estimates": [{}]}'])
def test_a_damaged_dimension_is_refused(tmp_path, text):
    (tmp_path / "dimension.json").write_text(text, "utf-8")
    with pytest.raises(ResultsError, match=r"dimension\.json"):
        read_dimension(tmp_path)


# --- figures


def test_figures_2_and_3_hold_the_papers_grid_and_the_fair_attack(tmp_path):
    table = paper_tables([])["figure2"]
    assert len(table) == 5 * (17 + 13 + 13 + 11)
    assert set(table["status"]) == {NOT_RUN}
    assert table["published"].isna().all()
    table = paper_tables([])["figure3"]
    assert len(table) == 2 * (17 + 13 + 13 + 11)
    noisy = {"rse": [0.3] * 10} | REACH
    pgd = AttackSpec("pgd", ThreatModel("linf", (0.0, 0.1, 0.35, 0.36)), 10)
    attacks = (pgd, replace(pgd, name="pgd-eot", type="pgd", eot=10))
    made = fake_run(tmp_path, spec(("rse", "ot-cla"), attacks), reach=noisy, models=False)
    table = paper_tables([read_run(made)])["figure2"]
    own = table[(table["dataset"] == "mnist") & (table["defense"] == "rse")]
    plain, fair = (own[own["attack"] == name] for name in ("pgd", "pgd-eot"))
    assert plain["eps"].tolist() == [*paper.grid("mnist")[:15], 0.36, *paper.grid("mnist")[15:]]
    assert fair["eps"].tolist() == [0.0, 0.1, 0.35, 0.36]
    assert fair["measured"].tolist() == [1, 1, 0, 0]
    measured = plain.set_index("eps")["measured"]
    assert measured[[0.0, 0.1, 0.35, 0.36]].tolist() == [1, 1, 0, 0]
    assert measured[[0.2, 0.4]].isna().all()


def study(values=(16, 2, 8)):
    base = spec(("ot-cla",), study="embedding-dim")
    members = tuple(
        DefenseSpec(f"ot-cla[code_dim={k}]", {"code_dim": k}, type="ot-cla") for k in values
    )
    return replace(base, defenses=members)


def study_run(folder):
    reach = {f"ot-cla[code_dim={k}]": [0.02 * k] * 10 for k in (2, 8, 16)}
    return read_run(fake_run(folder, study(), reach=reach, models=False))


def test_figure_4_is_the_study(tmp_path):
    run = study_run(tmp_path)
    table = paper_tables([run])["figure4"]
    own = table[table["dataset"] == "mnist"]
    assert own["code_dim"].tolist() == [2] * 5 + [8] * 5 + [16] * 5
    assert own["measured"].tolist() == [1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0]
    lacking = table[table["dataset"] != "mnist"]
    assert lacking["dataset"].tolist() == ["cifar10", "stl10", "tiny_imagenet"]
    assert set(lacking["status"]) == {NOT_RUN}
    # A member of a study is not the defense itself.
    assert set(paper_tables([run])["figure2"]["status"]) == {NOT_RUN}
    assert paper_tables([exact(tmp_path)])["figure4"]["status"].tolist() == [NOT_RUN] * 4


def test_members_are_known_by_name():
    assert member(DefenseSpec("ot-cla[lam=0.1]", {"lam": 0.1}, type="ot-cla")) == ("lam", 0.1)
    assert member(DefenseSpec("ot-cla", {"lam": 0.1})) is None
    assert member(DefenseSpec("ot-cla[lam=0.1]", {}, type="ot-cla")) is None


def test_a_studys_curves_are_ordered_by_value(tmp_path):
    run = study_run(tmp_path)
    cells = grid(run)
    picture = study_curves(pool(cells, run.samples), cells, run.spec)
    places = [picture.alt.index(f"code_dim = {k}:") for k in (2, 8, 16)]
    assert places == sorted(places)
    assert picture.png.startswith(b"\x89PNG")
    looks = sequential_styles([str(k) for k in range(9)])
    light = [sum(style["color"][:3]) for style in looks.values()]
    assert light == sorted(light)
    assert len({str(style["color"]) for style in looks.values()}) == 9
    assert study_curves(pool(cells, run.samples), cells, spec()) is None


def test_figure_5_is_the_code_map(tmp_path):
    run = exact(tmp_path, spec(("ot-cla",)))
    assert paper_tables([run])["figure5"]["status"].tolist() == [NOT_RUN] * 4
    fake_codes(run.path, ("ot-cla",), n=40)
    table = paper_tables([run])["figure5"]
    own = table[table["defense"] == "ot-cla"]
    there = own[own["status"] == "measured"]
    assert len(there) == 80
    wrong = there["pred"].astype(float) != there["label"].astype(float)
    assert wrong.groupby(there["condition"]).mean().to_dict() == {"attacked": 0.25, "clean": 0.0}
    lacking = table[table["status"] == NOT_RUN][["dataset", "defense"]]
    assert sorted(map(tuple, lacking.to_numpy())) == [
        ("cifar10", "e-cla"),
        ("cifar10", "ot-cla"),
        ("mnist", "e-cla"),
    ]


def test_the_code_map_is_drawn(tmp_path):
    run = exact(tmp_path, spec(("ot-cla",)))
    fake_codes(run.path, n=40)
    from benchmark.results.embedding_points import read_codes

    points = read_codes(run.path)
    picture = code_maps(points)
    assert picture.svg == code_maps(points).svg
    assert "ot-cla, attacked: 75.0 % of 40 correct" in picture.alt
    assert "e-cla, clean: 100.0 % of 40 correct" in picture.alt
    assert code_maps(points.iloc[:0]) is None
    assert code_maps(points[points["condition"] == "clean"]).png  # an empty panel is no error
    fake_codes(run.path, n=60, classes=20)
    assert "classes 0 to 9 of 20" in code_maps(read_codes(run.path)).alt


def test_the_numbers_of_a_code_map_do_not_cover_each_other(monkeypatch):
    kept = []
    monkeypatch.setattr(embedding_map, "render", lambda figure: kept.append(figure) or (b"", b""))
    columns = {"dataset": "mnist", "defense": "ot-cla", "seed": 0, "attack": "", "eps": 0.0}
    rows = [
        {**columns, "condition": "clean", "sample_id": i, "label": i % 3, "pred": 0}
        | {"x": 100.0 * (i >= 6), "y": 50.0 * (i >= 6)}
        for i in range(9)  # three classes, their medians at one place
    ]
    code_maps(pd.DataFrame(rows))
    axes = kept[0].axes[0]
    places = [text.get_position() for text in axes.texts]
    assert len(places) == 3
    width, height = 108, 54  # of the plane, margins included
    for i, (x, y) in enumerate(places):
        for other_x, other_y in places[:i]:
            assert math.hypot((x - other_x) / width, (y - other_y) / height) > 0.06
        assert math.hypot(x / width, y / height) < 0.1
