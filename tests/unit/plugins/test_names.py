"""One class is one defense (attack, dataset), whatever name it was asked for by: seeds, cache."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmark.config.spec import RunSpec
from benchmark.crosscheck.plan import plan_crosscheck
from benchmark.errors import UsageError
from benchmark.execution import runner
from benchmark.execution.plan import attack_name, plan
from benchmark.execution.unused_options import remarks
from benchmark.plugins.names import canonical
from benchmark.progress import Progress
from benchmark.registry import ATTACKS, DATASETS, DEFENSES
from benchmark.results import SAMPLES, read_table
from benchmark.speed.plan import SpeedSettings, plan_speed

DEFENSE = """
from dataclasses import dataclass
from benchmark import DatasetInfo
from benchmark.attacks.pgd import PGD
from benchmark.datasets import DIGITS, DatasetSource
from toys import Tiny

class Mine(Tiny):
    def __init__(self, info, *, scale=1.0):
        super().__init__(info)

@dataclass(frozen=True, kw_only=True)
class Climb(PGD):
    steps: int = 3

DATA = DatasetSource(DIGITS.info, embedded=DIGITS.embedded)

class Outer:
    class Inner(Tiny): pass

Alias, Nested = Mine, Outer.Inner
"""


class Package:
    """The user's package ``mine``, importable, with no entry points yet."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        (folder / "mine_pkg").mkdir(parents=True)
        (folder / "mine_pkg" / "__init__.py").write_text("from mine_pkg.inside import *\n")
        (folder / "mine_pkg" / "inside.py").write_text(DEFENSE)
        monkeypatch.syspath_prepend(folder)

    def register(self, **points: str) -> None:
        """Do what an installer does."""
        info = self.folder / "mine-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
        lines = [f"[defensebench.{kind}]\n{point}\n" for kind, point in points.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        # What is installed is looked up once for each module path.
        self.monkeypatch.syspath_prepend(self.folder / "again")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    return Package(tmp_path / "site", monkeypatch)


def planned(**asked: object) -> RunSpec:
    return plan(**{"dataset": "digits", "preset": "smoke", "device": "cpu", **asked})


# --- ours ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registry", "word", "name"),
    [
        (DEFENSES, "baselines.madry:Madry", "madry"),
        (DEFENSES, "madry", "madry"),
        (DEFENSES, "no_such_module:Thing", "no_such_module:Thing"),
        (DEFENSES, "baselines.madry:Thing", "baselines.madry:Thing"),
        (DEFENSES, "madri", "madri"),
        (DEFENSES, "toys:Tiny", "toys:Tiny"),
        (DEFENSES, "test_names:Tiny", "toys:Tiny"),
        (ATTACKS, "benchmark.attacks.pgd:PGDL2", "pgd-l2"),
        (DATASETS, "benchmark.datasets:DIGITS", "digits"),
    ],
)
def test_a_path_is_brought_to_its_one_name(registry, word, name) -> None:
    assert canonical(registry, word) == name


from toys import Tiny  # noqa: E402, F401  # a re-export, for the test above


def test_a_library_class_is_no_path() -> None:
    assert attack_name("torchattacks:APGD(steps=5)") == "torchattacks:APGD(steps=5)"
    assert attack_name("torchattacks:APGD") == "torchattacks:APGD"


def test_the_registered_and_the_path_are_the_same_run() -> None:
    by_name = planned(defenses=["madry", "rse"], attacks=["pgd", "cw"])
    by_path = planned(
        dataset="benchmark.datasets:DIGITS",
        defenses=["baselines.madry:Madry", "rse", "madry"],
        attacks=["benchmark.attacks.pgd:PGD", "benchmark.attacks.cw:CarliniWagner", "pgd"],
    )
    assert by_path == by_name
    assert by_path.run_id == by_name.run_id
    assert [defense.name for defense in by_path.defenses] == ["madry", "rse"]


def test_a_studys_members_are_the_same_by_a_path() -> None:
    ways = ("ot-cla", "defenses.ot_classifier:OTClassifier")
    one, other = (
        plan(dataset="mnist", preset="quick", device="cpu", study="embedding-dim", defenses=[way])
        for way in ways
    )
    assert one == other
    assert one.defenses[0].name.startswith("ot-cla[code_dim=")


def test_every_command_takes_the_path() -> None:
    asked = {"preset": "smoke", "device": "cpu", "libraries": ["inhouse", "torchattacks"]}
    one, other = (
        plan_crosscheck(dataset=data, defense=defense, attack=attack, **asked)
        for data, defense, attack in (
            ("digits", "madry", "pgd"),
            ("benchmark.datasets:DIGITS", "baselines.madry:Madry", "benchmark.attacks.pgd:PGD"),
        )
    )
    assert one == other
    short = {"preset": "smoke", "device": "cpu", "tasks": ("sweep",), "libraries": ("inhouse",)}
    one, other = (
        plan_speed(SpeedSettings(dataset=data, defense=defense, **short))
        for data, defense in (
            ("digits", "madry"),
            ("benchmark.datasets:DIGITS", "baselines.madry:Madry"),
        )
    )
    assert one == other


def test_no_setting_of_ours_and_no_old_folder_gets_another_name() -> None:
    spec = planned()
    assert "seeded_as" not in spec.to_json()
    assert all(each.seed_name == each.name for each in (*spec.defenses, *spec.attacks))
    assert RunSpec.from_json(spec.to_json()) == spec


def test_what_was_renamed_is_said() -> None:
    asked = {
        "defenses": ["baselines.madry:Madry", "madry"],
        "attacks": ["benchmark.attacks.pgd:PGD"],
    }
    spec = planned(dataset="benchmark.datasets:DIGITS", **asked)
    said = list(remarks(spec, dataset="benchmark.datasets:DIGITS", **asked))
    assert said == [
        "--dataset: benchmark.datasets:DIGITS is digits, and has that name in the results",
        "--defenses: baselines.madry:Madry is madry, and has that name in the results",
        "--defenses: named twice, run once: madry",
        "--attacks: benchmark.attacks.pgd:PGD is pgd, and has that name in the results",
    ]


# --- other people's --------------------------------------------------------------------------


def test_a_reexport_is_the_class_itself(package: Package) -> None:
    words = ["mine_pkg:Mine", "mine_pkg.inside:Mine", "mine_pkg:Alias"]
    spec = planned(defenses=words, attacks=["mine_pkg:Climb"])
    assert [defense.name for defense in spec.defenses] == ["mine_pkg.inside:Mine"]
    assert [attack.name for attack in spec.attacks] == ["mine_pkg.inside:Climb"]
    # A class that no path names keeps the word.
    assert canonical(DEFENSES, "mine_pkg:Nested") == "mine_pkg:Nested"
    assert planned(defenses=["mine_pkg:Nested"]).defenses[0].seed_name == "mine_pkg:Nested"


def test_registering_a_class_changes_no_seed(package: Package) -> None:
    before = planned(defenses=["mine_pkg:Mine"], attacks=["mine_pkg:Climb"])
    package.register(defenses="soft = mine_pkg:Mine", attacks="climb = mine_pkg.inside:Climb")
    after = planned(defenses=["soft"], attacks=["climb"])
    assert (after.defenses[0].name, after.attacks[0].name) == ("soft", "climb")
    assert after.defenses[0].seed_name == before.defenses[0].seed_name == "mine_pkg.inside:Mine"
    assert after.attacks[0].seed_name == before.attacks[0].seed_name == "mine_pkg.inside:Climb"
    assert planned(defenses=["mine_pkg:Mine"], attacks=["mine_pkg:Climb"]) == after
    assert RunSpec.from_json(after.to_json()) == after
    assert after.seed_name("soft") == "mine_pkg.inside:Mine"
    assert after.seed_name("undefended") == "undefended"


def test_a_member_of_a_study_of_a_registered_class(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.register(defenses="soft = mine_pkg:Mine")
    from benchmark.config.studies import Study

    study = Study("scale", ("soft",), "scale", (0.5,), {"attacks": ["pgd"]})
    monkeypatch.setattr("benchmark.execution.plan.find_study", lambda *_: study)
    (member,) = planned(study="scale").defenses
    assert (member.name, member.type) == ("soft[scale=0.5]", "soft")
    assert member.seed_name == "mine_pkg.inside:Mine[scale=0.5]"


def test_the_numbers_are_the_same_by_path_and_by_name(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    small = {"n_train": 60, "n_test": 12, "eps": [0.05, 0.2]}

    def run(**asked: object) -> pd.DataFrame:
        spec = planned(**asked, **small)
        about = {"out": tmp_path / "runs", "command": "", "audit": False}
        done = runner.run(spec, **about, progress=Progress())
        samples = read_table(done.path / "samples.parquet", SAMPLES)
        return samples.drop(columns=["run_id", "dataset", "defense", "attack"])

    before = run(defenses=["mine_pkg:Mine"], attacks=["mine_pkg:Climb"])
    package.register(
        defenses="soft = mine_pkg:Mine",
        attacks="climb = mine_pkg:Climb",
        datasets="figures = mine_pkg:DATA",
    )
    after = run(defenses=["soft"], attacks=["climb"])
    pd.testing.assert_frame_equal(before, after, check_exact=True)
    elsewhere = run(dataset="figures", defenses=["soft"], attacks=["climb"])
    pd.testing.assert_frame_equal(before, elsewhere, check_exact=True)
    assert len(list((tmp_path / "cache" / "models").glob("*.safetensors"))) == 1
    names = [json.loads(p.read_text())["dataset"] for p in (tmp_path / "runs").glob("*/spec.json")]
    assert sorted(names) == ["digits", "digits", "figures"]


def test_a_wrong_name_is_still_refused() -> None:
    for asked in ({"defenses": ["madri"]}, {"attacks": ["pgdd"]}, {"dataset": "digit"}):
        with pytest.raises(UsageError, match="did you mean"):
            planned(**asked)
