"""Images from torch Datasets and DataLoaders, of every habit that users' own have."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from benchmark.datasets.handed_over import read_images
from benchmark.errors import UsageError

N = 12
BYTES = np.random.default_rng(0).integers(0, 256, (N, 3, 4, 5), dtype=np.uint8)
LABELS = np.arange(N) % 3


class Own(Dataset):
    """As users write them: an item is what ``make`` makes of a row."""

    def __init__(self, make: Callable[[int], Any], **told: Any):
        self.make, self.asked = make, []
        vars(self).update(told)

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> Any:
        self.asked.append(row)
        return self.make(row)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return (pair(row) for row in range(N))


def pair(row: int) -> Any:
    return torch.from_numpy(BYTES[row]) / 255, int(LABELS[row])


def picture(row: int) -> Any:
    return Image.fromarray(BYTES[row].transpose(1, 2, 0)), LABELS[row]


def mapping(row: int) -> Any:
    return {"pixel_values": BYTES[row], "labels": torch.tensor(LABELS[row])}


def by_hand(items: list[Any]) -> Any:
    return torch.stack([x for x, _ in items]) / 2, torch.tensor([y for _, y in items])


TENSORS = TensorDataset(torch.from_numpy(BYTES), torch.from_numpy(LABELS))
GOOD: dict[str, Any] = {
    "tensors": TENSORS,
    "pairs": Own(pair),
    "pictures": Own(picture),
    "mappings": Own(mapping),
    "list of pairs": [pair(row) for row in range(N)],
    "list of batches' items": [mapping(row) for row in range(N)],
    "list of batches": list(DataLoader(Own(pair), batch_size=5)),
    "loader without batches": DataLoader(Own(pair), batch_size=None),
    "stream": Stream(),
    "loader": DataLoader(Own(pair), batch_size=5),
    "shuffled loader": DataLoader(Own(pair), batch_size=5, shuffle=True, drop_last=True),
    "loader of a stream": DataLoader(Stream(), batch_size=5),
    "one-hot": Own(lambda row: (BYTES[row], torch.eye(3)[LABELS[row]])),
    "told": Own(pair, targets=LABELS.tolist(), classes=["ant", "bee", "cat"]),
}


@pytest.mark.parametrize("name", GOOD)
def test_datasets_and_loaders(name: str) -> None:
    said: list[str] = []
    given = read_images(GOOD[name], say=said.append)
    assert sorted(given.sample_ids.tolist()) == list(range(N))
    assert given.images.dtype == torch.uint8
    assert np.array_equal(given.images, BYTES[given.sample_ids])
    assert np.array_equal(given.labels, LABELS[given.sample_ids])
    assert not said
    assert given.class_names == (("ant", "bee", "cat") if name == "told" else None)
    assert read_images(GOOD[name], n=5).sample_ids.tolist() == given.sample_ids[:5].tolist()


def test_only_what_is_asked_for_is_read_where_labels_are_told() -> None:
    data = Own(pair, targets=torch.from_numpy(LABELS))
    given = read_images(data, n=3)
    assert data.asked[-3:] == given.sample_ids.tolist()
    inner = Subset(Own(pair, targets=LABELS), [5, 3, 8])
    part = read_images(inner)
    assert part.n_available == 3
    assert np.array_equal(part.images, BYTES[np.array([5, 3, 8])[part.sample_ids]])


def test_a_loader_s_sampler_tells_which_rows_are_meant() -> None:
    loader = DataLoader(TENSORS, batch_size=2, sampler=SubsetRandomSampler([9, 4, 1, 6]))
    given = read_images(loader)
    assert given.n_available == 4
    assert sorted(given.sample_ids.tolist()) == [1, 4, 6, 9]
    assert np.array_equal(given.images, BYTES[given.sample_ids])
    batches = DataLoader(TENSORS, batch_sampler=[[2, 3], [5]])
    assert sorted(read_images(batches).sample_ids.tolist()) == [2, 3, 5]


def test_a_loader_s_own_collate_fn_is_used() -> None:
    given = read_images(DataLoader(Own(pair), batch_size=4, collate_fn=by_hand))
    assert given.images.dtype == torch.float32
    expected = torch.from_numpy(BYTES)[given.sample_ids] / 510
    assert torch.allclose(given.images, expected)


def test_columns_are_named() -> None:
    data = Own(lambda row: {"a": BYTES[row], "b": LABELS[row]})
    given = read_images(data, image_column="a", label_column="b")
    assert np.array_equal(given.images, BYTES[given.sample_ids])


def fails(row: int) -> Any:
    raise KeyError("lost")


WRONG: dict[str, tuple[Any, str]] = {
    "random": (Own(lambda row: (torch.rand(3, 4, 4), 0)), "leave random transforms out"),
    "flipped at random": (
        Own(lambda row: (pair(row)[0].flip(-1) if torch.rand(()) < 0.5 else pair(row)[0], 0)),
        "leave random transforms out",
    ),
    "sizes": (Own(lambda row: (np.zeros((3, 4 + row, 4)), 0)), "row 0 has shape|differ in size"),
    "error": (Own(fails), r"row 0 of the dataset failed \(KeyError"),
    "triple": (Own(lambda row: (BYTES[row], 0, 0)), "3 parts"),
    "images alone": (Own(lambda row: BYTES[row]), "a ndarray"),
    "no image": (Own(lambda row: {"label": 0}), "image_column="),
    "no label": (Own(lambda row: {"image": BYTES[row]}), "label_column="),
    "other labels": (Own(pair, targets=(1 - LABELS % 2).tolist()), "other labels than its list"),
    "normalised": (Own(lambda row: (pair(row)[0] - 0.5, 0)), "mean and std"),
    "empty": (TensorDataset(torch.zeros(0, 3, 4, 4), torch.zeros(0)), "holds no images"),
    "empty stream": (iter([]), "gives no images"),
    "collate": (
        DataLoader(Own(pair), collate_fn=lambda items: 1 / 0),
        "collate_fn failed .ZeroDivisionError",
    ),
    "alpha": (Own(lambda row: (Image.new("RGBA", (4, 5)), 0)), "4 channels"),
    "16 bits": (Own(lambda row: (Image.new("I;16", (4, 5), 999), 0)), "from 999 to 999"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_gets_one_line(name: str) -> None:
    data, line = WRONG[name]
    torch.manual_seed(0)
    with pytest.raises(UsageError, match=line) as caught:
        read_images(data)
    assert "\n" not in str(caught.value)


def test_labels_beside_a_dataset_are_refused() -> None:
    with pytest.raises(UsageError, match="leave labels= out"):
        read_images(TENSORS, labels=LABELS)
