"""The nearest adversarial images beside a run's tables."""

import numpy as np
import pytest

from benchmark.results import ResultsError, make_table
from benchmark.results.adversarial_images import (
    ADVERSARIAL,
    FILE,
    decoded,
    encoded,
    forget_adversarial,
    put_adversarial,
    read_adversarial,
)

IMAGES = np.random.default_rng(0).random((3, 3, 4, 5), dtype=np.float32)


def rows(distances, attack="pgd", defense="madry", images=IMAGES):
    return make_table(
        [
            {
                "defense": defense,
                "seed": 0,
                "norm": "linf",
                "sample_id": i,
                "label": 1,
                "pred_adv": 2,
                "attack": attack,
                "library": "inhouse",
                "distance": far,
                **encoded(image),
            }
            for i, (far, image) in enumerate(zip(distances, images, strict=True))
        ],
        ADVERSARIAL,
    )


def test_images_come_back_exactly(tmp_path):
    assert read_adversarial(tmp_path).empty
    put_adversarial(tmp_path, rows([0.1, 0.2, 0.3]))
    found = read_adversarial(tmp_path)
    assert decoded(found).dtype == np.float32
    assert np.array_equal(decoded(found), IMAGES)


def test_of_each_sample_the_nearest_stays(tmp_path):
    put_adversarial(tmp_path, rows([0.1, 0.2, 0.3]))
    put_adversarial(tmp_path, rows([0.2, 0.1, 0.3], attack="cw", images=1 - IMAGES))
    found = read_adversarial(tmp_path)
    assert found["attack"].to_list() == ["pgd", "cw", "pgd"]
    assert found["distance"].to_list() == [0.1, 0.1, 0.3]
    expected = [IMAGES[0], 1 - IMAGES[1], IMAGES[2]]
    assert np.array_equal(decoded(found), np.stack(expected))


def test_a_defense_is_forgotten_alone(tmp_path):
    put_adversarial(tmp_path, rows([0.1, 0.2, 0.3]))
    put_adversarial(tmp_path, rows([0.1, 0.2, 0.3], defense="rse"))
    forget_adversarial(tmp_path, "madry", 1)
    assert len(read_adversarial(tmp_path)) == 6
    forget_adversarial(tmp_path, "madry", 0)
    assert set(read_adversarial(tmp_path)["defense"]) == {"rse"}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("pred_adv", 1, "not adversarial"),
        ("distance", -0.1, "no distance"),
        ("height", 9, "size that it names"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, column, value, message):
    table = rows([0.1, 0.2, 0.3])
    table.loc[1, column] = value
    with pytest.raises(ResultsError, match=message):
        put_adversarial(tmp_path, table)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / FILE).write_bytes(b"no table")
    with pytest.raises(ResultsError, match=FILE):
        read_adversarial(tmp_path)
