"""Any images: each kind of data comes to the same pixels, and a mistake is named."""

import io
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from benchmark.datasets.handed_over import read_images
from benchmark.errors import UsageError

N, H, W = 12, 5, 7
RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (N, 3, H, W), dtype=np.uint8)
GREY = COLOUR[:, :1]
LABELS = np.arange(N) % 3
FLOATS = COLOUR.astype(np.float32) / 255


def read(data, **options):
    said = []
    found = read_images(data, say=said.append, **options)
    return found, " | ".join(said)


def check(found, images=COLOUR, labels=LABELS):
    """The images chosen are the data's rows that they name."""
    assert found.images.dtype == torch.uint8
    assert np.array_equal(found.images.numpy(), images[found.sample_ids])
    assert np.array_equal(found.labels.numpy(), labels[found.sample_ids])
    assert found.n_available == len(labels)


# --- arrays and tensors


SAME = {
    "uint8": (COLOUR, LABELS),
    "tensor": (torch.from_numpy(COLOUR), torch.from_numpy(LABELS)),
    "float32": (FLOATS, LABELS),
    "float64": (COLOUR / 255, LABELS),
    "int64": (COLOUR.astype(np.int64), LABELS),
    "lists": [COLOUR.tolist(), LABELS.tolist()],
    "channels last": (COLOUR.transpose(0, 2, 3, 1), LABELS),
    "one-hot": (COLOUR, np.eye(3)[LABELS]),
    "a column of labels": (COLOUR, LABELS[:, None]),
    "labels as floats": (COLOUR, LABELS.astype(float)),
}


@pytest.mark.parametrize("name", SAME)
def test_arrays_come_to_the_same_images(name):
    found, _ = read(SAME[name])
    check(found)
    assert sorted(found.sample_ids.tolist()) == list(range(N))


def test_grey_images_may_lack_their_channel():
    check(read((GREY[:, 0], LABELS))[0], GREY)


def test_words_are_classes_in_order():
    words = np.array(["dog", "ant", "cat"])[LABELS]
    found, _ = read((COLOUR, words))
    assert found.class_names == ("ant", "cat", "dog")
    assert [found.class_names[i] for i in found.labels] == words[found.sample_ids].tolist()


def test_images_and_labels_apart():
    check(read(COLOUR, labels=LABELS)[0])


def test_other_floats_stay_floats():
    between = (FLOATS * 0.7).astype(np.float32)
    found, _ = read((between, LABELS))
    assert found.images.dtype == torch.float32
    assert np.array_equal(found.images.numpy(), between[found.sample_ids])
    data = found.dataset(found.info(3), "cpu")
    assert torch.equal(data.x(), found.images)


def test_n_images_are_balanced_and_a_prefix_of_more():
    few, more = (read((COLOUR, LABELS), n=n)[0] for n in (6, 9))
    assert few.labels.bincount().tolist() == [2, 2, 2]
    assert torch.equal(more.sample_ids[:6], few.sample_ids)


@settings(deadline=None, max_examples=40)
@given(arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 2, st.just(4), st.integers(4, 6))))
def test_channels_last_are_channels_first(grey):
    first = np.repeat(grey[:, :1], 3, 1)
    labels = np.zeros(len(first), np.int64)
    a, b = (read((x, labels))[0] for x in (first, first.transpose(0, 2, 3, 1)))
    assert torch.equal(a.images, b.images)


# --- torch


class Items:
    """A map-style dataset of Pillow images."""

    classes = ["ant", "cat", "dog"]  # noqa: RUF012

    def __len__(self):
        return N

    def __getitem__(self, i):
        if i >= N:
            raise IndexError(i)
        return Image.fromarray(COLOUR[i].transpose(1, 2, 0)), int(LABELS[i])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(torch.from_numpy(COLOUR), LABELS, strict=True))


def test_a_dataset():
    tensors = TensorDataset(torch.from_numpy(FLOATS), torch.from_numpy(LABELS))
    check(read(tensors)[0])
    found, _ = read(Items())
    check(found)
    assert found.class_names == ("ant", "cat", "dog")


def test_a_dataset_with_targets_decodes_only_what_is_chosen():
    class Counting(Items):
        targets, asked = LABELS.tolist(), []

        def __getitem__(self, i):
            self.asked.append(i)
            return super().__getitem__(i)

    found, _ = read(Counting(), n=3)
    assert Counting.asked == found.sample_ids.tolist()


def test_a_stream_is_read_as_far_as_asked():
    found, _ = read(Stream(), n=5)
    assert sorted(found.sample_ids.tolist()) == [0, 1, 2, 3, 4]
    check(read(Stream())[0])


def test_a_loader():
    tensors = TensorDataset(torch.from_numpy(FLOATS), torch.from_numpy(LABELS))
    check(read(DataLoader(tensors, batch_size=5))[0])
    found, said = read(DataLoader(tensors, batch_size=5, shuffle=True))
    assert len(found.images) == N
    assert "shuffles" in said


# --- files


def png(image):
    data = io.BytesIO()
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "animals"
    for name, label in (("ant", 0), ("cat", 1), ("dog", 2)):
        (root / name).mkdir(parents=True)
        for i in np.flatnonzero(label == LABELS):
            (root / name / f"{i:02}.png").write_bytes(png(COLOUR[i]))
    (root / "README.txt").write_text("not an image")
    return root


def test_a_folder(folder):
    found, _ = read(str(folder))
    assert found.class_names == ("ant", "cat", "dog")
    assert found.name == "animals"
    by_class = np.concatenate([COLOUR[label == LABELS] for label in range(3)])
    check(found, by_class, np.sort(LABELS))


def test_a_folder_is_resized_and_cropped(folder):
    Image.new("L", (20, 9)).save(folder / "ant" / "wide.jpg")
    with pytest.raises(UsageError, match=r"differ in size .*resize=256, crop=224"):
        read(folder)
    found, _ = read(folder, resize=5, crop=4)
    assert found.images.shape == (N + 1, 3, 4, 4)


def files(tmp_path):
    np.savez(tmp_path / "a.npz", images=COLOUR, labels=LABELS)
    np.savez(tmp_path / "b.npz", x_test=FLOATS, y_test=LABELS)
    torch.save(
        {"images": torch.from_numpy(COLOUR), "labels": torch.from_numpy(LABELS)}, tmp_path / "c.pt"
    )
    torch.save((torch.from_numpy(COLOUR), torch.from_numpy(LABELS)), tmp_path / "d.pt")
    save_file(
        {"images": torch.from_numpy(COLOUR), "labels": torch.from_numpy(LABELS)},
        tmp_path / "e.safetensors",
    )
    rows = {"img": [png(x) for x in COLOUR], "fine_label": LABELS}
    pq.write_table(pa.table(rows), tmp_path / "f.parquet")
    structs = [{"bytes": png(x), "path": None} for x in COLOUR]
    pq.write_table(pa.table({"image": structs, "label": LABELS}), tmp_path / "g.parquet")
    return sorted(tmp_path.iterdir())


def test_files(tmp_path):
    paths = files(tmp_path)
    assert len(paths) == 7
    for path in paths:
        found, _ = read(str(path))
        check(found)
        assert found.name == path.stem
    np.save(tmp_path / "h.npy", COLOUR)
    check(read(tmp_path / "h.npy", labels=LABELS)[0])


def test_a_hugging_face_dataset():
    rows = [
        {"image": Image.fromarray(x.transpose(1, 2, 0)), "label": int(y)}
        for x, y in zip(COLOUR, LABELS, strict=True)
    ]

    class Table:
        column_names = ["image", "label"]  # noqa: RUF012
        features = {"label": SimpleNamespace(names=["ant", "cat", "dog"])}  # noqa: RUF012
        info = SimpleNamespace(dataset_name="pets")

        def __getitem__(self, key):
            return rows[key] if isinstance(key, int) else [row[key] for row in rows]

    found, _ = read(Table())
    check(found)
    assert (found.name, found.class_names) == ("pets", ("ant", "cat", "dog"))
    several = SimpleNamespace(column_names={"train": [], "test": []}, features={})
    with pytest.raises(UsageError, match=r"several splits \(train, test\)"):
        read(several)


def test_a_registered_name():
    found, _ = read("digits", n=20)
    assert found.images.shape == (20, 1, 28, 28)
    assert found.class_names == tuple("0123456789")


# --- mistakes


def wrong(images=COLOUR, labels=LABELS):
    return images, labels


WRONG = {
    "0 to 255 as floats": (wrong(COLOUR.astype(np.float32)), {}, "divide them by 255"),
    "-1 to 1": (wrong(FLOATS * 2 - 1), {}, r"from -1 to 1; .*\(images \+ 1\) / 2"),
    "normalised": (wrong((FLOATS - 0.45) / 0.22), {}, "normalised already: .* mean= and std="),
    "NaN": (wrong(np.where(FLOATS > 0.5, np.nan, FLOATS)), {}, "NaN or infinity"),
    "bool": (wrong(COLOUR > 99), {}, "true and false"),
    "negative numbers": (wrong(COLOUR.astype(int) - 9), {}, "grey levels of 0 to 255"),
    "0 and 1 as integers": (wrong((COLOUR > 99).astype(int)), {}, "give uint8 grey levels"),
    "words": (wrong(np.array([["a"]] * N)), {}, "they are numbers"),
    "one image": (wrong(COLOUR[0], LABELS[:3]), {}, "is one image; give a batch"),
    "vectors": (wrong(FLOATS.reshape(N, -1)), {}, r"they are \(n, C, H, W\)"),
    "two channels": (wrong(COLOUR[:, :2]), {}, "neither one nor three channels"),
    "either way": (wrong(np.zeros((N, 3, 32, 3), np.uint8)), {}, "first or last"),
    "fewer labels": (wrong(labels=LABELS[:-1]), {}, "12 images and 11 labels"),
    "no labels": (COLOUR, {}, "there are no labels"),
    "negative label": (wrong(labels=LABELS - 1), {}, "has label -1"),
    "fractions": (wrong(labels=LABELS + 0.5), {}, "no whole numbers"),
    "not one-hot": (wrong(labels=np.full((N, 3), 0.3)), {}, "not one-hot rows"),
    "too many": (wrong(), {"n": N + 1}, "has 12 images, and n=13"),
    "none": (wrong(), {"n": 0}, "n must be at least 1"),
    "empty": (wrong(COLOUR[:0], LABELS[:0]), {}, "there are no images"),
    "an unknown name": ("cifar1O", {}, "did you mean 'cifar10'"),
    "no such path": ("photos/test", {}, "there is no file or folder photos/test"),
    "a split": ("digits", {"split": "val"}, "unknown split"),
    "a number": (7, {}, "images are int"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_gets_one_line_with_what_was_meant(name):
    data, options, line = WRONG[name]
    with pytest.raises(UsageError, match=line) as caught:
        read(data, **options)
    assert "\n" not in str(caught.value)


def test_files_that_will_not_do(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.npz").write_bytes(b"no archive")
    (tmp_path / "x.parquet").write_bytes(b"no table")
    (tmp_path / "x.csv").write_text("1,2")
    np.savez(tmp_path / "named.npz", pictures=COLOUR)
    np.savez(tmp_path / "object.npz", images=np.array([{}]), labels=LABELS[:1])
    torch.save({"images": COLOUR, "labels": SimpleNamespace()}, tmp_path / "code.pt")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "columns.parquet")
    pq.write_table(pa.table({"image": [b"x"], "label": [0]}), tmp_path / "broken.parquet")
    for name, line in {
        "empty": "one folder per class",
        "x.npz": "cannot be read",
        "x.parquet": "no Parquet file",
        "x.csv": "a file that ends in",
        "named.npz": "holds pictures; looked for images",
        "object.npz": "cannot be read",
        "code.pt": "could run any code",
        "columns.parquet": "no column image",
        "broken.parquet": "row 0: no image that can be read",
    }.items():
        with pytest.raises(UsageError, match=line):
            read(tmp_path / name)


def test_a_damaged_image_is_named(folder):
    (folder / "cat" / "bad.png").write_bytes(b"\x89PNG")
    with pytest.raises(UsageError, match=r"bad\.png is no image"):
        read(folder)


def test_labels_must_fit_the_models_classes():
    found, _ = read((COLOUR, LABELS + 1))
    with pytest.raises(UsageError, match=r"answers 3 classes, 0 to 2, .* label 3: are the"):
        found.info(3)
    with pytest.raises(UsageError, match="two or more"):
        found.info(1)
    assert found.info(5).class_names == tuple("01234")
