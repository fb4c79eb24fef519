"""The report on a model that was handed over: nothing of a paper, nothing of a training."""

from dataclasses import replace

from fake_runs import fake_run, fake_spec
from pages import page_of

from benchmark.config.spec import DefenseSpec, HandedOver


def test_it_is_not_compared_with_the_papers_protocol(tmp_path):
    spec = replace(
        fake_spec(defenses=("mine",), seeds=(0,)),
        preset="evaluate",
        n_train=0,
        defenses=(DefenseSpec("mine", {}, type="handed-over"),),
        handed_over=HandedOver("model", "images"),
    )
    page = read(fake_run(tmp_path / "run", spec))
    assert "mine, handed over as it is" in page
    for words in ("paper’s protocol", "for training", "s training", "departs from the paper"):
        assert words not in page
