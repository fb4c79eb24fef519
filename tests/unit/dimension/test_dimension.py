"""The intrinsic dimension: closed forms, known manifolds, a library, the command."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmark.cli import main
from benchmark.dimension import library as dimension_library
from benchmark.dimension import measure as dimension_measure
from benchmark.dimension.estimator import (
    AVERAGES,
    SCALINGS,
    averaged,
    distinct,
    estimate_dimension,
    intervals,
    inverse_local,
    log_distances,
    mackay_factor,
    nearest,
    scale,
)
from benchmark.dimension.library import library_estimates
from benchmark.dimension.plan import PUBLISHED, Published

K1, K2 = 6, 12


def sphere(rng, n, d):
    """n points, uniform on the sphere of dimension d: curved, but without an edge."""
    points = rng.standard_normal((n, d + 1))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def by_average(estimates):
    return {row.average: row for row in estimates}


# --- closed forms --------------------------------------------------------------------------------


def test_one_point_by_hand() -> None:
    # Distances 1, 2, 4, 8: sums of log(T_k / T_j) are (1 + 2) log 2 and (1 + 2 + 3) log 2.
    found = inverse_local(np.log([[1.0, 2.0, 4.0, 8.0]]), 3)
    assert found == pytest.approx(np.array([[3 * math.log(2), 6 * math.log(2) / 2]]))


def test_both_averages_by_hand() -> None:
    inverse = np.array([[0.1, 0.2], [0.3, 0.4]])
    assert averaged(inverse, "mackay") == pytest.approx((1 / 0.2 + 1 / 0.3) / 2)
    assert averaged(inverse, "levina") == pytest.approx((10 + 5 + 1 / 0.3 + 2.5) / 4)


@pytest.mark.parametrize("d", [2, 5, 10, 20])
def test_under_the_model_itself_both_averages_have_a_known_mean(d) -> None:
    # The d-th powers of a Poisson process' distances are the arrival times of a unit process.
    arrivals = np.cumsum(np.random.default_rng(d).exponential(size=(20_000, K2)), axis=1)
    inverse = inverse_local(np.log(arrivals) / d, K1)
    # m_k has standard deviation d / sqrt(k - 3): under 0.6 d / sqrt(20,000), 0.5 % of d.
    assert averaged(inverse, "levina") == pytest.approx(d, rel=0.02)
    assert averaged(inverse, "mackay") == pytest.approx(d * mackay_factor(K1, K2), rel=0.01)
    assert mackay_factor(K1, K2) == pytest.approx(0.866, abs=5e-4)
    assert averaged(inverse, "mackay") < 0.9 * averaged(inverse, "levina")


@pytest.mark.parametrize(("d", "bias"), [(2, 0.03), (5, 0.06), (10, 0.15)])
def test_a_sphere_in_a_linear_subspace_has_its_own_dimension(d, bias) -> None:
    # Curvature hides part of a dimension, more of it where 1,000 points lie farther apart.
    rng = np.random.default_rng(d)
    rotation = np.linalg.qr(rng.standard_normal((50, d + 1)))[0]
    points = sphere(rng, 1000, d) @ rotation.T + 3
    found = by_average(estimate_dimension(points, "none", K1, K2, rng))
    for average, factor in (("levina", 1), ("mackay", mackay_factor(K1, K2))):
        row = found[average]
        assert d * factor * (1 - bias) < row.value < d * factor * 1.03
        assert row.ci_low < row.value < row.ci_high


def test_a_flat_subspace_has_its_own_dimension_and_a_line_one() -> None:
    rng = np.random.default_rng(0)
    flat = rng.random((1500, 2)) @ rng.standard_normal((2, 30))
    line = rng.random((1500, 1)) @ rng.standard_normal((1, 30))
    for points, d in ((flat, 2), (line, 1)):
        inverse = inverse_local(nearest(log_distances(scale(points, "none")), K2), K1)
        assert averaged(inverse, "levina") == pytest.approx(d, rel=0.06)


# --- points --------------------------------------------------------------------------------------


def test_scaling_centres_and_divides_and_drops_constant_features() -> None:
    points = np.array([[0, 7, 0], [2, 7, 30], [4, 7, 60]], np.uint8)
    centred = np.array([[-2.0, -30], [0, 0], [2, 30]])
    variance = np.array([8 / 3, 600])
    assert scale(points, "none") == pytest.approx(centred)
    assert scale(points, "std") == pytest.approx(centred / np.sqrt(variance))
    assert scale(points, "var") == pytest.approx(centred / variance)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_units_do_not_matter(scaling) -> None:
    points = sphere(np.random.default_rng(1), 100, 4)
    first, second = (
        estimate_dimension(factor * points, scaling, K1, K2, np.random.default_rng(0))
        for factor in (1, 255)
    )
    for one, other in zip(first, second, strict=True):
        assert one.value == pytest.approx(other.value)
        assert one.ci_high == pytest.approx(other.ci_high)


def test_copies_are_found_and_refused() -> None:
    points = np.array([[1, 2], [3, 4], [1, 2], [5, 6]], np.uint8)
    assert distinct(points).tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match="two points are the same"):
        log_distances(scale(points, "none"))


def test_no_point_is_its_own_neighbour() -> None:
    found = nearest(log_distances(np.array([[0.0], [1], [3], [7]])), 2)
    assert np.exp(found) == pytest.approx(np.array([[1, 3], [1, 2], [2, 3], [4, 6]]))
    with pytest.raises(ValueError, match="4 points do not have 4 neighbours"):
        nearest(log_distances(np.array([[0.0], [1], [3], [7]])), 4)


@pytest.mark.parametrize(("k1", "k2"), [(2, 12), (13, 12), (0, 1)])
def test_neighbourhoods_that_make_no_sense_are_refused(k1, k2) -> None:
    with pytest.raises(ValueError, match="k1 and k2 must satisfy"):
        inverse_local(np.zeros((5, k2)), k1)


# --- the interval --------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 5, 10])
def test_the_interval_covers_the_mean_of_estimates(d) -> None:
    rng = np.random.default_rng(d)
    values = {average: [] for average in AVERAGES}
    ends = {average: [] for average in AVERAGES}
    for _ in range(60):
        distance = log_distances(sphere(rng, 200, d))
        inverse = inverse_local(nearest(distance, K2), K1)
        found = intervals(distance, K1, K2, rng, draws=80)
        for average in AVERAGES:
            values[average].append(averaged(inverse, average))
            ends[average].append(found[average])
    for average in AVERAGES:
        mean, spread = np.mean(values[average]), np.std(values[average], ddof=1)
        low, high = np.array(ends[average]).T
        # 60 intervals that cover with 95 % each: fewer than 51 of them do once in 2,000 times.
        assert ((low <= mean) & (mean <= high)).sum() >= 51
        # Nor is it bought with width: a normal interval's is 2 x 1.96 standard deviations.
        assert 0.75 < (high - low).mean() / (2 * 1.96 * spread) < 2


def test_the_interval_narrows_with_more_points_and_is_the_same_for_the_same_seed() -> None:
    width = []
    for n in (100, 800):
        distance = log_distances(sphere(np.random.default_rng(0), n, 3))
        (low, high), again = (
            intervals(distance, K1, K2, np.random.default_rng(5), draws=100)["mackay"]
            for _ in range(2)
        )
        assert (low, high) == again
        width.append(high - low)
    assert 0.2 < width[1] / width[0] < 0.6  # 1 / sqrt(8) = 0.35


# --- the library ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("k1", "k2"), [(6, 12), (4, 4)])
def test_the_library_agrees_on_points_that_are_made(scaling, k1, k2) -> None:
    pytest.importorskip("skdim")
    points = scale(sphere(np.random.default_rng(3), 150, 6) + np.arange(7), scaling)
    checked = library_estimates(points, k1, k2)
    inverse = inverse_local(nearest(log_distances(points), k2), k1)
    for average in AVERAGES:
        assert checked.values[average] == pytest.approx(averaged(inverse, average), rel=1e-6)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(["dimension", *(str(word) for word in words)])
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


KEYS = ["average", "scaling", "k1", "k2", "value", "ci_low", "ci_high"]
DIGITS = ("--dataset", "digits", "--n", "150")


def test_json_is_one_object_and_the_file_holds_it(call, tmp_path) -> None:
    code, out, err = call(*DIGITS, "--json")
    assert code == 0, err
    value = json.loads(out)
    assert list(value) == ["dataset", "n", "estimates", "library_estimate", "library"]
    assert (value["dataset"], value["n"]) == ("digits", 150)
    assert [list(row) for row in value["estimates"]] == [KEYS] * 6
    rows = {(row["average"], row["scaling"]): row for row in value["estimates"]}
    assert set(rows) == {(average, scaling) for average in AVERAGES for scaling in SCALINGS}
    for row in rows.values():
        assert (row["k1"], row["k2"]) == (6, 12)
        assert 0 < row["ci_low"] < row["value"] < row["ci_high"]
    (file,) = (tmp_path / "runs").glob("dimension-digits-*/dimension.json")
    assert str(file.relative_to(tmp_path)) in err
    kept = json.loads(file.read_text("utf-8"))
    assert {key: kept[key] for key in value} == value
    assert kept["published"] is None
    assert kept["settings"]["split"] == "test"
    assert kept["provenance"]["source"] == "embedded"
    assert kept["provenance"]["versions"]["numpy"] == np.__version__
    assert any("the same in all images" in note for note in kept["notes"])
    assert [path.name for path in file.parent.iterdir()] == ["dimension.json"]  # nothing half-made
    # The same settings give the same numbers and the same folder; other ones another.
    assert json.loads(call(*DIGITS, "--json")[1]) == value
    assert call(*DIGITS, "--k1", "8", "--k2", "9", "--seed", "1", "--split", "train")[0] == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_the_table_is_for_people(call, monkeypatch) -> None:
    monkeypatch.setattr(
        dimension_measure,
        "PUBLISHED",
        {"digits": Published(99, "levina", "none")},
    )
    code, out, _ = call(*DIGITS)
    assert code == 0
    assert "150 test images, 6 to 12 neighbours" in out
    (line,) = [line for line in out.splitlines() if "the paper: 99" in line]
    assert line.split()[:2] == ["levina", "none"]


def test_without_the_library_it_says_how_to_install_it(call, monkeypatch) -> None:
    monkeypatch.setattr(dimension_library, "find_spec", lambda name: None)
    code, out, _ = call(*DIGITS)
    assert code == 0
    assert "scikit-dimension: not available: pip install" in out
    value = json.loads(call(*DIGITS, "--json")[1])
    assert value["library_estimate"] is None
    assert value["library"] is None


def test_a_small_dataset_is_measured_whole(call) -> None:
    code, out, _ = call("--dataset", "digits", "--json")
    assert code == 0
    assert json.loads(out)["n"] == 500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "digit"], "unknown dataset 'digit'; did you mean 'digits'?"),
        (["--dataset", "digits", "--split", "tets"], "unknown split 'tets'; did you mean 'test'?"),
        (["--dataset", "digits", "--n", "25"], "--n must lie between 2 x --k2 + 2 = 26 and"),
        (["--dataset", "digits", "--n", "30000"], "and 20000"),
        (["--dataset", "digits", "--n", "501"], "--n must be at most 500"),
        (["--dataset", "digits", "--k1", "2"], "--k1 must be at least 3, got 2"),
        (["--dataset", "digits", "--k2", "5"], "--k2 must be at least --k1 = 6, got 5"),
        (["--dataset", "cifar10", "--data-dir", "nowhere"], "nowhere is not a folder"),
        (["--dataset", "digits", "--out", "file/below"], "cannot write to"),
    ],
)
def test_wrong_words_are_refused_with_one_line(call, tmp_path, words, message) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


# --- real data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_table_3_and_the_library_on_real_images(call, data_dir, dataset) -> None:
    if not list((data_dir / dataset).glob("test*.parquet")):
        pytest.skip(f"no mirror of {dataset}")
    code, out, err = call("--dataset", dataset, "--data-dir", data_dir, "--json")
    assert code == 0, err
    value, paper = json.loads(out), PUBLISHED[dataset]
    assert value["n"] == 1000
    (row,) = [
        row
        for row in value["estimates"]
        if (row["average"], row["scaling"]) == (paper.average, paper.scaling)
    ]
    assert abs(row["value"] - paper.value) <= 1
    assert row["ci_low"] < row["value"] < row["ci_high"]
    if value["library"] is None:
        pytest.skip("scikit-dimension is not installed: only ours was checked")
    assert value["library_estimate"] == pytest.approx(row["value"], rel=0.05)
    (kept,) = [json.loads(file.read_text()) for file in Path("runs").glob("*/dimension.json")]
    for found in value["estimates"]:
        checked = kept["library_values"][found["scaling"]][found["average"]]
        assert checked == pytest.approx(found["value"], rel=0.05)
