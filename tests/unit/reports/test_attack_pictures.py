"""The section with pictures of the attacks: which images, what it says of them, and its pixels."""

import base64
import io
import re

import numpy as np
import pytest
from fake_pictures import fake_pictures, square
from fake_runs import DEFENSES, PROVENANCE, fake_run, fake_spec
from pages import Page
from PIL import Image

from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.results import ResultsError, read_run
from benchmark.results.pictures import FILE, Pixelled, decoded, put_pictures, read_pictures
from reports.figures import curves
from reports.figures.tiles import amplification, tiles
from reports.section import RunContext
from reports.sections import attack_pictures
from reports.sections.attack_pictures import SHOWN
from reports.tables import grid
from reports.templating import environment

TWO = ("undefended", "madry")
REACH = {
    # A clean error, two that fall within 0.2, and one that stands.
    "undefended": (0.001, 0.05, 0.12, 0.3, 0.3),
    "madry": (0.15, 0.31, 0.32, 0.33, 0.3),
}


def context(run_dir, prefix=""):
    run = read_run(run_dir)
    cells = grid.grid(run)
    styles = curves.line_styles(defense.name for defense in run.spec.defenses)
    return RunContext(run, cells, grid.pool(cells, run.samples), styles, prefix, "run")


def section(run_dir, prefix=""):
    return attack_pictures.make(context(run_dir, prefix))


def html(section):
    return environment().get_template(section.template).render(v=section.view, run_id_in_page="run")


def pixels(uri):
    assert uri.startswith("data:image/webp;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.fixture
def two(tmp_path):
    spec = fake_spec(TWO, n=5, seeds=(0,))
    run_dir = fake_run(tmp_path, spec, reach=REACH, provenance={})
    fake_pictures(run_dir)
    return run_dir


# --- the choice


def test_shown_are_the_images_that_most_defenses_get_right(tmp_path):
    # By clean errors: image 0 is wrong under both, 1 and 4 under one each.
    reach = {
        "undefended": (0.001, 0.05, 0.12, 0.3, 0.001, 0.2, 0.3),
        "madry": (0.001, 0.001, 0.32, 0.33, 0.3, 0.3, 0.3),
    }
    run_dir = fake_run(tmp_path, fake_spec(TWO, n=7, seeds=(0,)), reach=reach)
    fake_pictures(run_dir, kept=7)
    assert [figure["ids"] for figure in section(run_dir).view["figures"]] == ["2, 3, 5, 6"] * 2
    fake_pictures(run_dir, kept=6)
    # Image 1 is as good as 4, and comes first.
    assert section(run_dir).view["figures"][0]["ids"] == "1, 2, 3, 5"


# --- words


def test_words_say_what_became_of_each_image(two):
    pgd, cw = section(two).view["figures"]
    words = {
        strip["defense"]: [f"{card['labels']}: {card['fate']}" for card in strip["cards"]]
        for strip in pgd["strips"]
    }
    assert words == {
        "undefended": [
            "3, taken for 5: wrong without attack",
            "3 → 5: fooled at distance 0.05",
            "3 → 5: fooled at distance 0.12",
            "3 → 3: robust",
        ],
        "madry": ["3 → 5: fooled at distance 0.15", *["3 → 3: robust"] * 3],
    }
    assert [card["fooled"] for card in pgd["strips"][0]["cards"]] == [False, True, True, False]
    summaries = [strip["summary"] for strip in pgd["strips"]]
    assert summaries == [
        "2 of 4 fooled, at distances 0.05 and 0.12; 1 wrong without attack",
        "1 of 4 fooled, at distance 0.15",
    ]
    for name, summary in zip(TWO, summaries, strict=True):
        assert f"{name}: {summary}." in pgd["alt"]
    assert cw["heading"] == "cw (art, l2) at eps 1"


def test_an_image_that_falls_outside_the_ball_stands(tmp_path):
    reach = dict.fromkeys(TWO, (1.3, 0.5, 0.6, 200.0, 1.0))
    run_dir = fake_run(tmp_path, fake_spec(TWO, n=5, seeds=(0,)), reach=reach)
    fake_pictures(run_dir)
    _, cw = section(run_dir).view["figures"]
    fates = [card["fate"] for card in cw["strips"][0]["cards"]]
    assert fates[0] == "only at distance 1.3: robust"
    assert fates[3] == "only at distance 200: robust"
    assert cw["strips"][0]["summary"] == "2 of 4 fooled, at distances 0.5 and 0.6"


def test_classes_are_named_where_the_run_recorded_them(tmp_path):
    dataset = {**PROVENANCE["dataset"], "class_names": ["a", "b", "c", "<ship>", "d", "truck"]}
    run_dir = fake_run(
        tmp_path, fake_spec(TWO, n=5, seeds=(0,)), reach=REACH,
        provenance={**PROVENANCE, "dataset": dataset},
    )  # fmt: skip
    fake_pictures(run_dir)
    shown = section(run_dir)
    card = shown.view["figures"][0]["strips"][0]["cards"][1]
    assert card["labels"] == "<ship> → truck"
    assert "&lt;ship&gt; → truck" in html(shown)


@pytest.mark.parametrize("recorded", [None, "abc", {"0": "a"}, []])
def test_class_names_of_another_form_are_left_alone(tmp_path, recorded):
    run_dir = fake_run(
        tmp_path, fake_spec(TWO, n=5, seeds=(0,)), reach=REACH,
        provenance={"dataset": {"class_names": recorded}},
    )  # fmt: skip
    fake_pictures(run_dir)
    assert section(run_dir).view["figures"][0]["strips"][0]["cards"][1]["labels"] == "3 → 5"


# --- which images


def test_the_same_images_stand_in_the_same_order_whatever_the_order_of_the_rows(two):
    rows = read_pictures(two)
    before = section(two)
    # The defenses as they happened to run: the other way round.
    (two / FILE).unlink()
    put_pictures(two, rows.sort_values("defense", kind="stable"))
    after = section(two)
    assert before.view == after.view
    for figure in after.view["figures"]:
        assert figure["ids"] == "0, 1, 2, 3"
        assert [strip["defense"] for strip in figure["strips"]] == list(TWO)
        for strip in figure["strips"]:
            assert [card["id"] for card in strip["cards"]] == [0, 1, 2, 3]


def test_of_several_seeds_the_lowest_is_shown_and_named(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(TWO, n=5, seeds=(7, 3)))
    rows = fake_pictures(run_dir)
    shown = section(run_dir)
    assert {figure["seed"] for figure in shown.view["figures"]} == {"models of seed 3"}
    want = decoded(rows[(rows["seed"] == 3) & (rows["defense"] == "madry")].iloc[1].to_dict())
    uri = shown.view["figures"][0]["strips"][1]["cards"][1]["tiles"][1][1]
    assert np.array_equal(pixels(uri)[..., 0], np.rint(want.adversarial[0] * 255))
    assert "models of seed 3" in html(shown)


def test_defenses_without_pictures_are_named_with_the_reason(tmp_path):
    states = {("gan", eps): ("failed", "it broke") for eps in (0.2, 1.0)}
    skipped = {("rse", "pgd"): "why", ("rse", "cw"): "why"}
    run_dir = fake_run(
        tmp_path, fake_spec((*TWO, "gan", "rse", "late"), n=5, seeds=(0,)),
        states=states, skipped=skipped, missing=[("late", 0.2), ("late", 1.0)],
    )  # fmt: skip
    fake_pictures(run_dir, defenses=("undefended", "gan"))
    pgd, _ = section(run_dir).view["figures"]
    assert [strip["defense"] for strip in pgd["strips"]] == ["undefended"]
    absent = ["madry (not kept)", "gan (failed)", "rse (skipped)", "late (not run)"]
    assert pgd["absent"] == absent
    assert pgd["alt"].endswith(f"Without pictures: {', '.join(absent)}.")


def test_pictures_of_a_cell_that_has_no_result_are_not_shown(tmp_path):
    good = fake_run(tmp_path / "good", fake_spec(TWO, n=5, seeds=(0,)))
    rows = fake_pictures(good)
    bad = fake_run(
        tmp_path / "bad", fake_spec(TWO, n=5, seeds=(0,)), states={("madry", 0.2): ("failed", "x")}
    )
    put_pictures(bad, rows)
    pgd, cw = section(bad).view["figures"]
    assert [strip["defense"] for strip in pgd["strips"]] == ["undefended"]
    assert [strip["defense"] for strip in cw["strips"]] == list(TWO)


def test_an_image_that_one_defense_lacks_leaves_a_gap(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(TWO, n=5, seeds=(0,)), reach=REACH)
    fake_pictures(run_dir, keep=lambda row: (row["defense"], row["sample_id"]) != ("undefended", 1))
    shown = section(run_dir)
    undefended, madry = shown.view["figures"][0]["strips"]
    # The images are those of the table, so that the lacking one comes last.
    assert shown.view["figures"][0]["ids"] == "0, 2, 3, 1"
    assert [card and card["id"] for card in undefended["cards"]] == [0, 2, 3, None]
    assert [card["id"] for card in madry["cards"]] == [0, 2, 3, 1]
    assert undefended["summary"].startswith("1 of 3 fooled")
    assert "This image was not kept" in html(shown)


# --- pixels


def test_linf_differences_are_amplified_until_eps_is_white():
    original = np.full((1, 1, 3), 0.5, np.float32)
    attacked = original + np.array([[[0.2, -0.2, 0.0]]], np.float32)
    factor = amplification([attacked - original], "linf", 0.2)
    assert factor == 2.5
    first, second, third = tiles(Pixelled(original, attacked), factor)
    assert first.shape == (1, 3, 3)
    assert first[0, :, 0].tolist() == [128] * 3
    assert second[0, :, 1].tolist() == [178, 76, 128]
    assert third[0, :, 2].tolist() == [255, 0, 128]


def test_l2_differences_are_amplified_until_one_in_a_hundred_is_cut():
    changed = np.linspace(0.001, 0.1, 1000, dtype=np.float32)
    zeros = np.zeros(5000, np.float32)  # what did not change decides nothing
    factor = amplification([changed, -changed, zeros], "l2", 3.0)
    beyond = np.abs(changed * factor) > 0.5
    assert 0.005 < beyond.mean() <= 0.01


@pytest.mark.parametrize("eps", [8 / 255, 0.03, 0.3, 1.0, 1e-4])
def test_the_factor_is_printed_as_it_was_used(eps):
    factor = amplification([], "linf", eps)
    assert float(f"{factor:g}") == factor
    assert 0.49 <= factor * eps <= 0.5 + 1e-9


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nothing_moved_nothing_amplified(norm):
    assert amplification([np.zeros((1, 2, 2), np.float32)], norm, 0.0) == 1.0


def test_grey_and_colour_tiles_hold_the_pixels(tmp_path):
    for channels in (1, 3):
        run_dir = fake_run(tmp_path / str(channels), fake_spec(TWO, n=5, seeds=(0,)), reach=REACH)
        rows = fake_pictures(run_dir, channels=channels)
        own = rows[(rows["attack"] == "pgd") & (rows["defense"] == "madry")].iloc[2].to_dict()
        card = section(run_dir).view["figures"][0]["strips"][1]["cards"][2]
        names, uris = zip(*card["tiles"], strict=True)
        assert names == ("original", "attacked", "difference")
        want = decoded(own)
        for uri, truth in zip(uris, (want.original, want.adversarial), strict=False):
            shown = pixels(uri).transpose(2, 0, 1)
            assert np.array_equal(shown, np.broadcast_to(np.rint(truth * 255), (3, 12, 12)))
        # Every pixel moved by eps, up or down, or as far as the edge of the box: from 32 to 0 by
        # 80 of 255, amplified, and from 200 to 251 by all of eps.
        assert set(np.unique(pixels(uris[2]))) == {0, 48, 255}


def test_files_stand_beside_the_page_and_do_not_depend_on_chance(two):
    shown, again = section(two, "run2-"), section(two, "run2-")
    names = ["run2-pictures-01-mnist-pgd-inhouse-linf", "run2-pictures-02-mnist-cw-art-l2"]
    want = {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
    assert set(shown.files) == {*want, "run2-pictures.csv"}
    assert (shown.files, html(shown)) == (again.files, html(again))
    svg = shown.files[f"{names[0]}.svg"].decode()
    # Each card at its own resolution, not one image of them all: three tiles and two gaps.
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(data))).size
        for data in re.findall(r"data:image/png;base64,([^\"]+)", svg)
    ]
    assert sizes == [(38, 12)] * SHOWN * 2
    csv = shown.files["run2-pictures.csv"].decode().splitlines()
    assert csv[0].endswith("sample_id,label,pred_clean,pred_adv,success,distance")
    assert len(csv) == 1 + SHOWN * 2 * 2


# --- the page


def test_names_are_escaped_and_figures_fold(tmp_path):
    hostile = (*DEFENSES, "_x $a$ \u202e\n&amp;", " ")
    run_dir = fake_run(tmp_path, fake_spec(hostile, n=5, seeds=(0,)))
    fake_pictures(run_dir)
    shown = section(run_dir)
    text = html(shown)
    page = Page(text)
    assert "<script" not in text
    assert [attrs.get("data-defense") for attrs in page.all("div") if "data-defense" in attrs] == [
        *hostile, *hostile
    ]  # fmt: skip
    assert ["open" in attrs for attrs in page.all("details")] == [True, False]
    images = page.all("img")
    assert len(images) == 3 * SHOWN * len(hostile) * 2
    assert all(image["alt"] and image["width"] == "12" for image in images)
    links = {attrs["href"] for attrs in page.all("a")}
    assert links == set(shown.files)
    assert "nan" not in page.words.lower()


def test_a_run_without_pictures_says_so(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(TWO, n=5, seeds=(0,)))
    shown = section(run_dir)
    assert shown.files == {}
    assert "No pictures were kept" in Page(html(shown)).words


def test_an_attack_without_pictures_is_named(tmp_path):
    run_dir = fake_run(tmp_path, fake_spec(TWO, n=5, seeds=(0,)))
    fake_pictures(run_dir, keep=lambda row: row["attack"] == "pgd")
    assert "No picture was kept under cw (art, l2)." in Page(html(section(run_dir))).words


def test_a_run_without_a_result_has_no_section(tmp_path):
    skipped = {(defense, attack): "x" for defense in TWO for attack in ("pgd", "cw")}
    run_dir = fake_run(tmp_path, fake_spec(TWO, n=5, seeds=(0,)), skipped=skipped)
    assert section(run_dir) is None


def test_a_damaged_table_is_one_clear_line(two):
    (two / FILE).write_bytes(b"no table")
    with pytest.raises(ResultsError, match=r"pictures.parquet: not a readable Parquet table"):
        section(two)


def test_large_pictures_of_many_attacks_stay_small(tmp_path):
    eps = (0.0, 0.02, 0.04)
    attacks = tuple(
        AttackSpec(f"a{i}", ThreatModel(("linf", "l2")[i % 2], eps), 4) for i in range(6)
    )
    spec = fake_spec([f"d{i}" for i in range(7)], seeds=(0,))
    spec = type(spec)(**{**vars(spec), "attacks": attacks})
    run_dir = fake_run(tmp_path, spec, models=False)

    def photograph(sample_id, channels, size):
        rng = np.random.default_rng(sample_id)
        waves = sum(
            np.sin(rng.uniform(-0.4, 0.4) * np.arange(size)[:, None]
                   + rng.uniform(-0.4, 0.4) * np.arange(size) + k)
            for k in range(8)
        )  # fmt: skip
        ground = square(sample_id, channels, size) + 0.04 * waves
        return np.rint(np.clip(ground, 0, 1) * 255).astype(np.float32) / np.float32(255)

    fake_pictures(run_dir, channels=3, size=96, image=photograph)
    shown = section(run_dir)
    assert len(shown.view["figures"]) == 6
    assert len(html(shown)) < 2e6
