"""The report on a model that was handed over: nothing of a paper, nothing of a training."""

from dataclasses import replace

from fake_runs import fake_run, fake_spec
from pages import Page

from benchmark.config.spec import DefenseSpec, HandedOver
from reports.html import write_report


def test_it_is_not_compared_with_the_papers_protocol(tmp_path):
    spec = replace(
        fake_spec(defenses=("mine",), seeds=(0,)),
        preset="evaluate",
        n_train=0,
        defenses=(DefenseSpec("mine", {}, type="handed-over"),),
        handed_over=HandedOver("model", "images"),
    )
    run_dir = fake_run(tmp_path, spec, codes=())
    words = Page(write_report([run_dir]).read_text("utf-8")).words
    assert "mine, handed over as it is" in words
    for said in ("paper’s protocol", "for training", "0 s training", "departs from the paper"):
        assert said not in words
