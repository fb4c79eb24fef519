"""Codes brought to the plane: what is attacked, what is marked wrong, and where a point lies."""

import numpy as np
import pandas as pd
import pytest
import torch
from toys import Function, Linear, dataset, pixels

from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.errors import UsageError
from benchmark.evaluation import embedding_map as map_module
from benchmark.evaluation.embedding_map import embedding_map, place
from benchmark.results import ResultsError, write_table
from benchmark.results.embedding_points import CODES, FILE, put_codes, read_codes

PGD = AttackSpec("pgd", ThreatModel("linf", (0.2,)), 8, params={"steps": 5})


class Shown(Linear):
    """One pixel, label 1 above a half; its code is the pixel itself, twice."""

    def __init__(self):
        super().__init__(torch.ones(1), b=-0.5)

    def embed(self, x):
        return torch.cat([x.flatten(1), x.flatten(1)], 1)


# Grey levels; the last one is a clean error. At eps 0.2 those within 0.2 of a half fall.
GREY = [0.1, 0.25, 0.35, 0.45, 0.6, 0.65, 0.75, 0.9, 0.8]
LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 0]
FALLS = [abs(grey - 0.5) < 0.2 for grey in GREY[:-1]] + [False]


def images():
    return dataset(pixels(*GREY), torch.tensor(LABELS))


@pytest.fixture
def codes(monkeypatch):
    """Keep the codes that are placed, and place them at their first coordinate."""
    kept = []

    def first(values, seed):
        kept.append(values)
        return np.stack([values[:, 0], np.zeros(len(values))], 1)

    monkeypatch.setattr(map_module, "place", first)
    return kept


def test_closed_form_on_a_threshold(codes):
    points = embedding_map(Shown(), PGD, images(), name="shown", seed=3)
    assert points.columns.tolist() == CODES.names
    clean, attacked = (points[points["condition"] == word] for word in ("clean", "attacked"))
    assert len(clean) == len(attacked) == 9
    assert clean["label"].tolist() == LABELS
    assert clean["x"].to_numpy() == pytest.approx(GREY, abs=1 / 255)
    assert clean["pred"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    fell = (attacked["pred"] != attacked["label"]).tolist()
    assert fell == [*FALLS[:-1], True]
    # The codes are those of the attacked images: they moved, by eps at most.
    moved = np.abs(attacked["x"].to_numpy() - clean["x"].to_numpy())
    assert (moved[:-1] > 0.01).all()
    assert (moved <= 0.2 + 1e-5).all()
    assert moved[-1] == 0  # a clean error is not attacked


def test_rows_say_what_they_are(codes):
    points = embedding_map(Shown(), PGD, images(), name="shown[k=1]", seed=3)
    one = points.groupby("condition", sort=False)[["attack", "eps"]].first()
    assert one.loc["clean"].tolist() == ["", 0.0]
    assert one.loc["attacked"].tolist() == ["pgd", 0.2]
    assert set(points["defense"]) == {"shown[k=1]"}
    assert set(points["seed"]) == {3}
    assert points["sample_id"].tolist() == [*range(100, 109)] * 2


def test_both_conditions_are_placed_by_one_fit(codes):
    embedding_map(Shown(), PGD, images(), name="shown", seed=0)
    (together,) = codes
    assert together.shape == (18, 2)


def test_eps_0_and_nothing_left_to_attack(codes):
    still = AttackSpec("pgd", ThreatModel("linf", (0.0,)), 8)
    points = embedding_map(Shown(), still, images(), name="shown", seed=0)
    assert (points["x"][:9].to_numpy() == points["x"][9:].to_numpy()).all()
    wrong = dataset(pixels(*GREY), 1 - (torch.tensor(GREY) > 0.5).long())
    points = embedding_map(Shown(), PGD, wrong, name="shown", seed=0)
    assert (points["pred"] != points["label"]).all()
    assert (points["x"][:9].to_numpy() == points["x"][9:].to_numpy()).all()


def test_batches_change_nothing(codes, monkeypatch):
    exact = AttackSpec("pgd", PGD.threat, 8, params={"steps": 5, "random_start": False})
    whole = embedding_map(Shown(), exact, images(), name="shown", seed=0)
    monkeypatch.setattr(map_module, "BATCH_SIZE", 4)
    parts = embedding_map(Shown(), exact, images(), name="shown", seed=0)
    pd.testing.assert_frame_equal(whole, parts)


def test_hangs_on_the_seed_alone_and_leaves_the_random_state():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    one, two, other = (embedding_map(Shown(), PGD, images(), name="s", seed=s) for s in (0, 0, 1))
    pd.testing.assert_frame_equal(one, two)
    assert not one["x"].equals(other["x"])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state


def test_what_cannot_be_mapped_is_refused_in_one_line():
    bare = Function(lambda x: torch.cat([0.5 - x.flatten(1), x.flatten(1) - 0.5], 1))
    with pytest.raises(UsageError, match="defense bare has no embeddings"):
        embedding_map(bare, PGD, images(), name="bare", seed=0)
    nearest = AttackSpec("cw", ThreatModel("l2", (1.0,)), 8)
    grid = AttackSpec("pgd", ThreatModel("linf", (0.1, 0.2)), 8)
    for spec in (nearest, grid):
        with pytest.raises(UsageError, match="needs one budget"):
            embedding_map(Shown(), spec, images(), name="shown", seed=0)


# --- the placing itself


def clusters(n=30, k=4):
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(3, k)
    return np.concatenate([rng.standard_normal((n, k)) + centre for centre in centres])


def test_far_codes_stay_apart_and_near_ones_together():
    places = place(clusters(), seed=1).reshape(3, 30, 2)
    centres = places.mean(1)
    radius = np.linalg.norm(places - centres[:, None], axis=2).max()
    apart = min(np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert apart > 1.5 * radius
    assert (place(clusters(), seed=1).reshape(3, 30, 2) == places).all()


@pytest.mark.parametrize(
    "codes",
    [
        np.ones((20, 3)),  # collapsed
        np.linspace(0, 1, 12)[:, None],  # one dimension
        np.repeat(np.eye(4), 3, axis=0),  # repeated
        np.eye(3),  # too few to have neighbourhoods
        np.arange(8.0).reshape(4, 2),
    ],
)
def test_degenerate_codes_have_places_too(codes):
    places = place(codes, seed=0)
    assert places.shape == (len(codes), 2)
    assert np.isfinite(places).all()


def test_codes_that_are_no_numbers_are_an_error():
    with pytest.raises(ValueError, match="not finite"):
        place(np.array([[0.0, np.nan], [1.0, 2.0]]), seed=0)


# --- the file


def points(defense="e-cla", seed=0, **changes):
    rows = []
    for condition, attack, eps in (("clean", "", 0.0), ("attacked", "pgd", 0.2)):
        for i in range(3):
            row = {"dataset": "mnist", "defense": defense, "seed": seed, "condition": condition}
            row |= {"attack": attack, "eps": eps, "sample_id": i, "label": i, "pred": 0}
            rows.append(row | {"x": float(i), "y": -1.0} | changes)
    return pd.DataFrame(rows)


def test_maps_are_kept_by_defense_and_seed(tmp_path):
    assert read_codes(tmp_path).empty
    for frame in (points(), points("ot-cla"), points("ot-cla", seed=1), points("e-cla", x=9.0)):
        put_codes(tmp_path, frame)
    found = read_codes(tmp_path).groupby(["defense", "seed"])["x"].mean()
    assert found.to_dict() == {("e-cla", 0): 9.0, ("ot-cla", 0): 1.0, ("ot-cla", 1): 1.0}


@pytest.mark.parametrize(
    ("frame", "violation"),
    [
        (points(condition="foggy"), "unknown condition 'foggy'"),
        (points(sample_id=1), "an image appears twice"),
        (points(x=np.nan), "no place"),
        (points(eps=0.2), "a clean point names"),
        (points().drop(columns="y"), "column 'y' is missing"),
    ],
)
def test_a_broken_table_is_refused(tmp_path, frame, violation):
    with pytest.raises(ResultsError, match=violation):
        put_codes(tmp_path, frame)
    if "y" in frame:
        write_table(tmp_path / FILE, frame, CODES)
        with pytest.raises(ResultsError, match=violation):
            read_codes(tmp_path)
