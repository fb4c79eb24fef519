"""The helper that keeps tests away from decision boundaries finds an image that stands on one."""

import pytest
import torch
from margins import MARGIN, clear_answers, lead
from toys import Linear, pixels

STEP = Linear(torch.ones(1), -0.5)


def test_the_lead_is_that_of_the_likeliest_class():
    logits = torch.tensor([[1.0, 4.0, 2.0], [0.0, 0.0, -1.0]])
    assert lead(logits).tolist() == [2, 0]


@pytest.mark.parametrize("ask", [STEP, STEP.predict, STEP.surrogate])
def test_an_image_on_the_boundary_fails_however_the_model_is_asked(ask):
    with clear_answers(STEP):
        ask(pixels(0.2, 0.5 + 2 * MARGIN))
    with pytest.raises(AssertionError, match="1 images in doubt"), clear_answers(STEP):
        ask(pixels(0.2, 0.5 + MARGIN / 2))
    ask(pixels(0.5))  # nothing is left of it


def test_a_model_that_is_not_asked_shows_nothing():
    with pytest.raises(AssertionError, match="never asked"), clear_answers(STEP):
        pass
