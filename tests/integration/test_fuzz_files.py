"""Whatever a file holds, its reader says what is wrong with it in one line, or reads it.

Each reader meets files of its kind that were cut, flipped and overwritten, and well-formed ones
whose values have other types, are missing, doubled, huge or no numbers.

``pytest --hypothesis-profile=soak tests/test_fuzz_files.py`` takes many more, and new, examples.
"""

import json
import math
import shutil
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fake_pictures import fake_pictures
from fake_runs import fake_codes, fake_run, fake_spec
from fuzzing import SOAKING, damaged, examples, misshapen, mistaken
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT
from PIL import Image
from speed_measurement import measurement
from toys import Tiny

from benchmark.config import presets as presets_module
from benchmark.config.presets import preset_for, read_preset
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.crosscheck.results import (
    SCHEMAS,
    Crosscheck,
    pair_key,
    read_crosscheck,
    write_crosscheck,
)
from benchmark.datasets import DatasetSource
from benchmark.datasets.info import DatasetInfo
from benchmark.errors import UsageError
from benchmark.io.json_files import SEAL, write_json
from benchmark.results import (
    CELLS,
    make_table,
    read_models,
    read_run,
    read_samples,
    read_spec,
    read_table,
)
from benchmark.results.embedding_points import read_codes
from benchmark.results.pictures import read_pictures
from benchmark.results.run_folder import RunFolder
from benchmark.training import TrainingLog
from benchmark.training.model_cache import Checkpoints
from reports.pages.speed import read_speed
from reports.paper.dimension import read_dimension

TOY = DatasetInfo("toy", (1, 4, 4), 2, ("a", "b"), augment=False)


def read_or_refused(read: Callable[[Path], Any], folder: Path) -> None:
    """Read a folder; a UsageError must say something, on one line when it is printed."""
    try:
        read(folder)
    except UsageError as error:
        said = str(error)
    else:
        return
    assert said.strip()


@dataclass(frozen=True)
class Kind:
    """Files under ``folder`` that were right, and what reads them: ``read``, or one's own reader.

    A soak reads the whole folder after each damage.
    """

    folder: Path
    read: Callable[[Path], Any]
    files: tuple[str, ...]
    readers: Mapping[str, Callable[[Path], Any]] = field(default_factory=dict)

    def mistakes(self, name: str) -> st.SearchStrategy[bytes]:
        """What may stand in the file in place of what is right."""
        good = (self.folder / name).read_bytes()
        if name.endswith(".parquet"):
            table = pq.read_table(BytesIO(good))
            about = {k: v for k, v in (table.schema.metadata or {}).items() if k == b"pandas"}
            return damaged(good) | misshapen(table.replace_schema_metadata(about))
        if name.endswith(".json"):
            value = json.loads(good)
            # A file without its checksum is read: so mistakes are met behind it.
            value.pop(SEAL, None)
            wrong = mistaken(value).map(lambda text: text.encode(errors="surrogatepass"))
            return st.one_of(damaged(good), wrong, wrong, wrong)
        return damaged(good)

    def check(self, name: str, data: bytes) -> None:
        """Read the folder with ``data`` in the file's place."""
        path = self.folder / name
        good = {file: (self.folder / file).read_bytes() for file in self.files}
        path.write_bytes(data)
        try:
            own = self.readers.get(name, self.read)
            for read in {own, self.read} if SOAKING else {own}:
                read_or_refused(read, self.folder)
        except Exception:
            pytest.fail(f"{name}, {len(data)} bytes: {traceback.format_exc(limit=-8)}")
        finally:
            for file, before in good.items():
                (self.folder / file).write_bytes(before)


KINDS: dict[str, Kind] = {}


@pytest.fixture(scope="module", autouse=True)
def _kinds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for make in (a_run, a_crosscheck, a_speed, a_dimension, a_checkpoint, a_mirror, a_preset):
        KINDS[make.__name__] = make(folder / make.__name__)


def a_run(folder: Path) -> Kind:
    spec = fake_spec(["undefended", "e-cla"], eps=(0.0, 0.1), seeds=(0,), n=4)
    run = fake_run(folder, spec, codes=("e-cla",))
    fake_pictures(run, size=4, kept=2)
    fake_codes(run, ["e-cla"], n=6, classes=2)
    about = json.loads((run / "run.json").read_text())

    def read(path: Path) -> None:
        for reader in (read_run, read_pictures, read_codes, begin):
            read_or_refused(reader, path)

    def begin(path: Path) -> None:
        RunFolder.open(path.parent, spec).begin(about)

    models = [f"models/{file.name}" for file in (run / "models").iterdir()]
    readers: dict[str, Callable[[Path], Any]] = {
        "spec.json": read_spec,
        "run.json": begin,
        **dict.fromkeys(models, read_models),
        "cells.parquet": lambda path: read_table(path / "cells.parquet", CELLS),
        "samples.parquet": lambda path: read_samples(path / "samples.parquet"),
        "pictures.parquet": read_pictures,
        "codes.parquet": read_codes,
    }
    return Kind(run, read, tuple(readers), readers)


def a_crosscheck(folder: Path) -> Kind:
    folder.mkdir()
    names = ("art", "inhouse")
    attacks = tuple(
        AttackSpec("pgd", ThreatModel("linf", (0.1,)), 3, library=name) for name in names
    )
    spec = fake_spec(["undefended"], seeds=(0,))
    spec = replace(spec, attacks=attacks)
    words = {"library": "art", "version": "1", "status": "ok", "reason": "", "findings": ["x"]}
    rows: dict[str, list[dict[str, Any]]] = {"libraries": [], "success": [], "samples": []}
    for name in names:
        rows["libraries"].append(
            {**dict.fromkeys(SCHEMAS["libraries"][0].names, 0.5), **words, "library": name, "n": 3}
        )
        rows["success"].append(
            {"library": name, "eps": 0.1, "n": 3, "success": 0.5, "ci_low": 0.1, "ci_high": 0.9}
        )
        rows["samples"] += [
            {
                "sample_id": i,
                "library": name,
                "eps": 0.1,
                "label": 3,
                "pred_clean": 3,
                "pred_adv": 5,
                "success": True,
                "distance": 0.1,
                "n_forward": 4,
                "n_backward": 4,
                "tried_better": False,
                "image_digest": "00",
            }
            for i in range(3)
        ]
    pair = {"first": "art", "second": "inhouse", "eps": 0.1, "n": 3, "n_attacked": 3}
    rows["pairs"] = [{**pair, "agreement": 1.0, "bit_identical": math.nan}]
    tables = {name: make_table(rows[name], SCHEMAS[name][0]) for name in SCHEMAS}
    key = pair_key(*names)
    result = {
        "attack": "pgd",
        "dataset": "digits",
        "defense": "undefended",
        "n": 3,
        "libraries": [{**row, "findings": ["x"]} for row in rows["libraries"]],
        "bit_identical": {key: None},
        "agreement": {key: 1.0},
    }
    found = Crosscheck(folder, spec, result, tables, {"command": "x"}, [])
    write_crosscheck(found, {})
    return Kind(folder, read_crosscheck, ("crosscheck.json", *(f"{n}.parquet" for n in SCHEMAS)))


def a_speed(folder: Path) -> Kind:
    write_json(folder / "speed.json", measurement())
    return Kind(folder, read_speed, ("speed.json",))


def a_dimension(folder: Path) -> Kind:
    estimate = {"average": "mackay", "scaling": "var", "k1": 6, "k2": 12, "value": 11.5}
    estimate |= {"ci_low": 11.0, "ci_high": 12.0}
    value = {"dataset": "mnist", "n": 1000, "estimates": [estimate], "library_estimate": 11.4}
    value["library"] = {"name": "skdim", "version": "1", "average": "mackay", "scaling": "var"}
    write_json(folder / "dimension.json", value)
    return Kind(folder, read_dimension, ("dimension.json",))


def a_checkpoint(folder: Path) -> Kind:
    defense = Tiny(TOY)
    defense.net[1] = torch.nn.Linear(16, 2)
    cache = Checkpoints(folder)
    cache.save("k" * 32, defense, TrainingLog([{"epoch": 1, "loss": 0.5}], 1.5))
    before = {name: value.clone() for name, value in defense.state_dict().items()}

    def read(path: Path) -> None:
        log = cache.load("k" * 32, defense)
        assert log is None or isinstance(log, TrainingLog)
        if log is None:  # refused before the model was touched
            for name, value in defense.state_dict().items():
                assert torch.equal(value, before[name])
        defense.load_state_dict(before)

    return Kind(folder, read, tuple(file.name for file in folder.iterdir()))


def a_mirror(folder: Path) -> Kind:
    encoded = []
    for i in range(6):
        buffer = BytesIO()
        Image.fromarray(np.full((4, 4), 40 * i, np.uint8)).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": f"{i}.png"})
    table = pa.table({"image": encoded, "label": pa.array([0, 1] * 3)})
    for split in ("train", "test"):
        (folder / "toy").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / "toy" / f"{split}.parquet")

    def read(path: Path) -> None:
        for n in (None, 2):
            images = DatasetSource(TOY).load("train", n=n, data_dir=path)
            assert images.images.shape[1:] == (1, 4, 4)
            assert set(images.labels.tolist()) <= {0, 1}

    return Kind(folder, read, ("toy/train.parquet",))


def a_preset(folder: Path) -> Kind:
    shutil.copytree(ROOT / "benchmark" / "presets", folder / "presets")

    def read(path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(presets_module, "files", lambda package: path)
            read_preset("smoke")
            preset_for("smoke", "digits")

    return Kind(folder, read, ("presets/smoke.toml",))


RUN_FILES = ("spec.json", "run.json", "models/e-cla-seed0.json")
RUN_TABLES = ("cells.parquet", "samples.parquet", "pictures.parquet", "codes.parquet")


def test_every_file_is_read_as_it_was():
    for kind in KINDS.values():
        kind.read(kind.folder)
        for name in kind.files:
            kind.check(name, (kind.folder / name).read_bytes())
    assert {*RUN_FILES, *RUN_TABLES} <= set(KINDS["a_run"].files)


def fuzzed(kind: str, names: tuple[str, ...], n: int):
    @examples(n)
    @given(st.data(), st.sampled_from(names))
    def run(data, name):
        KINDS[kind].check(name, data.draw(KINDS[kind].mistakes(name)))

    run()


CASES = {
    "a run's JSON": ("a_run", RUN_FILES, 120),
    "a run's tables": ("a_run", RUN_TABLES, 160),
    "a cross-check's record": ("a_crosscheck", ("crosscheck.json",), 80),
    "its tables": ("a_crosscheck", tuple(f"{name}.parquet" for name in SCHEMAS), 80),
    "a speed measurement": ("a_speed", ("speed.json",), 60),
    "a dimension": ("a_dimension", ("dimension.json",), 60),
    "a mirror": ("a_mirror", ("toy/train.parquet",), 100),
    "a preset": ("a_preset", ("presets/smoke.toml",), 40),
}


@pytest.mark.parametrize(("kind", "names", "n"), CASES.values(), ids=CASES)
def test_no_reader_raises_anything_but_a_usage_error(kind, names, n):
    fuzzed(kind, names, n)


def test_a_damaged_checkpoint_counts_as_absent():
    fuzzed("a_checkpoint", KINDS["a_checkpoint"].files, 100)
