"""Seeds: the global generators, and those that a defense keeps for itself."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.seeding import own_generators, seeded


@dataclass
class Noise:
    """Neither a module nor a container."""

    rng: random.Random = field(default_factory=random.Random)

    def __call__(self):
        return self.rng.random()


class Many(nn.Module):
    """Keeps a generator of every kind, everywhere."""

    shared = torch.Generator()

    def __init__(self):
        super().__init__()
        self.torch = torch.Generator()
        self.numpy = np.random.default_rng()
        self.listed = [{"old": np.random.RandomState()}, np.random.Generator(np.random.SFC64())]
        self.noise = Noise()
        self.again = self.torch
        self.net = nn.Sequential(nn.Linear(2, 2))
        self.net[0].inner = torch.Generator()
        self.system = random.SystemRandom()  # has no state
        self.itself = self
        self.listed.append(self.listed)

    def draw(self):
        return [
            float(torch.rand(1)),
            float(torch.rand(1, generator=self.shared)),
            float(torch.rand(1, generator=self.torch)),
            float(torch.rand(1, generator=self.net[0].inner)),
            self.numpy.random(),
            self.listed[0]["old"].random_sample(),
            self.listed[1].random(),
            self.noise(),
        ]


def test_every_generator_is_found_once():
    model = Many()
    found = own_generators(model)
    assert len(found) == len({id(own) for _, own in found}) == 7
    assert own_generators(nn.Sequential(nn.Linear(2, 2), nn.Dropout())) == []


def test_one_seed_gives_the_same_draws_and_each_generator_its_own():
    model = Many()
    with seeded(3, "cpu", model):
        first, second = model.draw(), model.draw()
    with seeded(3, "cpu", model):
        assert [model.draw(), model.draw()] == [first, second]
    with seeded(4, "cpu", model):
        other = model.draw()
    assert len({*first, *second, *other}) == 3 * len(first)


def test_blocks_inside_seed_them_too_and_all_are_set_back():
    model = Many()
    with seeded(1, "cpu", model):
        model.draw()
        with seeded(2):
            inside = model.draw()
        after = model.draw()
    with seeded(1, "cpu", model):
        model.draw()
        assert model.draw() == after  # as if nobody had asked in between
        with seeded(2, "cpu", model):  # named twice is found once
            assert model.draw() == inside
    # Outside they go on where they were.
    model.torch.manual_seed(5)
    expected = torch.rand(2, generator=torch.Generator().manual_seed(5))
    assert torch.rand(1, generator=model.torch) == expected[0]
    with seeded(1, "cpu", model):
        model.draw()
    assert torch.rand(1, generator=model.torch) == expected[1]


def test_an_error_sets_everything_back_and_forgets_the_defense():
    model, before = Many(), torch.get_rng_state()
    state = model.numpy.bit_generator.state

    def fail():
        with seeded(1, "cpu", model):
            model.draw()
            raise ValueError("now")

    with pytest.raises(ValueError, match="now"):
        fail()
    assert torch.equal(torch.get_rng_state(), before)
    assert model.numpy.bit_generator.state == state
    with seeded(1):
        pass
    assert model.numpy.bit_generator.state == state
