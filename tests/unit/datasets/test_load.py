"""A run's images: fewer than two classes are refused, or said where only the selection has one."""

from dataclasses import replace

import pytest
import torch
from toys import TOY

from benchmark.datasets import DatasetSource, ImageDataset
from benchmark.datasets.info import DatasetInfo, RawSplit
from benchmark.datasets.load import load_images, say_classes
from benchmark.errors import UsageError
from benchmark.execution.plan import plan
from benchmark.execution.runner import run
from benchmark.progress import Progress
from benchmark.testing.common import tiny_dataset


def _open(info, split):
    data = tiny_dataset(info, n=40)
    labels = data.labels.numpy()
    if info.name == "uneven" and split == "test":
        labels = labels * 0 + 1  # of two classes, one has no test image
    return RawSplit(labels, lambda rows: data.images.numpy()[rows], "embedded")


def source(name, *classes):
    info = DatasetInfo(name, (1, 8, 8), len(classes), classes, augment=False)
    return DatasetSource(info, embedded=_open)


ALONE = source("alone", "cat")
UNEVEN = source("uneven", "cat", "dog")
BOTH = source("both", "cat", "dog")


def spec_of(name, n_test=20):
    return plan(
        dataset=f"test_load:{name}",
        preset="quick",
        device="cpu",
        defenses=["toys:Tiny"],
        attacks=["fgsm"],
        n_train=40,
        n_test=n_test,
    )


class Lines(Progress):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_a_dataset_of_one_class_is_refused(tmp_path):
    with pytest.raises(UsageError, match="test_load:ALONE has 1 class: an attack needs two") as e:
        run(spec_of("ALONE"), out=tmp_path, command="", progress=Progress())
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("name", "n_test", "said"),
    [
        (
            "UNEVEN",
            20,
            ["test_load:UNEVEN: the 20 test images attacked are all of one class"],
        ),
        ("BOTH", 20, []),
        ("BOTH", 1, ["test_load:BOTH: the 1 test image attacked is of one class ("]),
    ],
)
def test_images_of_one_class_are_said(tmp_path, monkeypatch, name, n_test, said):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    lines, spec = Lines(), spec_of(name, n_test)
    _, test_set = load_images(spec, None)
    say_classes(test_set, spec, lines)
    assert len(lines.lines) == len(said)
    assert all(line.startswith(words) for line, words in zip(lines.lines, said, strict=True))
    if name == "UNEVEN":
        whole = Lines()
        run(spec, out=tmp_path, command="", progress=whole, audit=False)
        assert [line for line in whole.lines if "of one class" in line] == lines.lines


def test_the_attacks_own_images_count():
    """One attack of the run may see fewer images than the others: of these one class alone."""
    images = torch.zeros((4, 1, 2, 2), dtype=torch.uint8)
    labels, ids = torch.tensor([0, 0, 1, 1]), torch.arange(4)
    data = ImageDataset.from_tensors(TOY, images, labels, ids, source="embedded", n_available=4)
    spec, lines = spec_of("BOTH", 4), Lines()
    say_classes(data, spec, lines)
    assert lines.lines == []
    say_classes(data, replace(spec, attacks=(replace(spec.attacks[0], n=2),)), lines)
    assert len(lines.lines) == 1
