"""How far a report is to be trusted: its panel, damaged folders, leftovers, and large runs."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import fake_codes, fake_large_run, fake_run, fake_spec
from pages import Page
from paths import ROOT

from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.config.threat import ThreatModel
from benchmark.execution.plan import plan
from benchmark.io.json_files import write_json
from benchmark.results import CELL_KEY, SAMPLES, ResultsError, read_run, read_samples, read_table
from benchmark.results.row_keys import count_distinct, number_groups, repeated
from reports.html import write_report
from reports.paper.protocol import deviations

pytestmark = pytest.mark.usefixtures("undrawn")

# --- the paper's protocol


def found(spec):
    return {(", ".join(d.subjects), d.setting): (d.here, d.paper) for d in deviations(spec)}


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "stl10", "tiny_imagenet", "digits"])
@pytest.mark.parametrize("study", ["", "embedding-dim", "lambda"])
def test_the_papers_own_plan_does_not_deviate(dataset, study):
    spec = plan(dataset=dataset, preset="paper", device="cuda", study=study)
    assert deviations(spec) == []


def test_every_setting_of_a_quick_run_that_differs_is_named():
    here, paper = (plan(dataset="mnist", preset=name, device="cpu") for name in ("quick", "paper"))
    differences = found(here)
    assert differences["run", "training images"] == ("10000", "60000")
    assert differences["run", "test images"] == ("1000", "10000")
    assert differences["e-cla, ot-cla, ot-cla-adv", "width"] == ("0.25", "1.0")
    assert differences["latent-cw", "steps"] == ("100", "30000")
    assert differences["cw", "steps"] == ("200", "30000")
    assert differences["code map", "images"] == ("500", "1000")
    everyone = ", ".join(defense.name for defense in here.defenses)
    assert differences[everyone, "training.epochs"] == ("8", "100")
    # Each option that differs, of each defense and attack, is in some entry.
    named = {(s, d.setting) for d in deviations(here) for s in d.subjects}
    for ours, theirs in zip(here.defenses, paper.defenses, strict=True):
        for key in {*ours.params, *theirs.params} - {"training"}:
            differs = ours.params.get(key) != theirs.params.get(key)
            assert ((ours.name, key) in named) == differs
    for ours, theirs in zip(here.attacks, paper.attacks, strict=True):
        assert ((ours.name, "eps") in named) == (ours.threat != theirs.threat)
        assert ((ours.name, "images") in named) == (ours.n != theirs.n)


def test_what_the_user_chose_is_a_deviation():
    spec = plan(
        dataset="cifar10",
        preset="paper",
        device="cpu",
        defenses=("madry", "ot-cla"),
        attacks=("pgd", "fgsm"),
        libraries=("inhouse", "art"),
        eps=(0.0, 0.03),
        n_test=500,
    )
    differences = found(spec)
    assert differences["pgd-eot, pgd-bpda, latent-cw", "attack"] == ("not run", "run")
    added = ("added", "not in the protocol")
    assert differences["pgd (art), fgsm, fgsm (art)", "attack"] == added
    others = "undefended, rse, ot-cla-adv, e-cla, defense-gan"
    assert differences[others, "defense"] == ("not run", "run")
    assert differences["pgd, pgd (art)", "eps"][0] == "0, 0.03"
    assert differences["pgd, pgd (art)", "images"] == ("500", "10000")
    other = replace(spec, defenses=(*spec.defenses, DefenseSpec("<mine>")), study="shoe-size")
    assert found(other)["<mine>", "defense"] == ("added", "not in the protocol")
    assert found(other)["study shoe-size", "study"] == ("added", "not in the protocol")


def test_a_study_deviates_by_its_values_not_by_its_option():
    spec = plan(dataset="mnist", preset="quick", device="cpu", study="embedding-dim")
    differences = found(spec)
    assert differences["study embedding-dim", "code_dim"] == (
        "2, 4, 13, 20",
        "2, 4, 8, 13, 16, 20",
    )
    assert all(setting != "code_dim" for subject, setting in differences if "[" in subject)


# --- the panel


def page_of(path):
    return Page(path.read_text("utf-8"))


def test_the_panel_names_what_a_reviewer_asks_first(tmp_path):
    spec = fake_spec(("madry", "<mine>"), seeds=(0, 1))
    reasons = {("madry", 0.1): ("failed", "boom <b>"), ("madry", 0.2): ("failed", "boom <b>")}
    reasons |= {("<mine>", 1.0): ("skipped", "unfit")}
    page = page_of(write_report([fake_run(tmp_path, spec, states=reasons)]))
    panel = page.words.split("What was run")[2].split("Robust accuracy is the share")[0]
    for words in (
        *("pgd 40; cw (art) 40", "0, 1", "quick", "AMD EPYC, cpu, 2 threads", "torch 2.15.0"),
        *("torchvision's download", f"train {'0f' * 32}", "4 failed: boom <b>", "2 skipped: unfit"),
        *("training images 1000 instead of 60000", "true label", "<mine>"),
    ):
        assert words in panel
    assert panel.count("boom") == 1


def test_many_reasons_are_folded(tmp_path):
    states = {("madry", eps): ("failed", f"reason {eps}") for eps in (0.1, 0.2, 0.3, 0.4, 1.0)}
    page = page_of(write_report([fake_run(tmp_path, fake_spec(("madry",)), states=states)]))
    assert "5 reasons why 10 cells have no result" in page.words


def test_a_dataset_that_the_paper_lacks_is_called_so(tmp_path):
    spec = replace(fake_spec(("madry",)), dataset="<blob>")
    page = page_of(write_report([fake_run(tmp_path, spec)]))
    assert "The paper has no results on <blob>" in page.words


def test_several_runs_have_a_row_each(tmp_path):
    one = fake_run(tmp_path / "a", fake_spec(("madry",)), missing=[("madry", 0.1)])
    other = fake_run(tmp_path / "b", fake_spec(("rse",), seeds=(5,)))
    page = page_of(write_report([one, other], tmp_path / "out"))
    table = page.words.split("what became of its cells")[1]
    first, second = table.split("mnist, preset quick")[1:3]
    assert "40 0, 1 AMD EPYC, cpu, 2 threads 14 0 0 2" in first
    assert "unfinished" in first
    assert "40 5 AMD EPYC, cpu, 2 threads 8 0 0 0" in second
    assert "complete" in second


def test_one_run_has_no_overview(tmp_path):
    page = page_of(write_report([fake_run(tmp_path, fake_spec(("madry",)))]))
    assert "The runs together" not in page.words


# --- folders that are not as one would wish


@pytest.fixture
def run_dir(tmp_path):
    folder = fake_run(tmp_path / "runs", fake_spec(("madry", "ot-cla")))
    fake_codes(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((f"{t}.parquet", b"not a table") for t in ("cells", "samples", "codes", "pictures")),
        *((name, b"{") for name in ("spec.json", "run.json", "models/madry-seed0.json")),
        *((name, b"\xff\xfe") for name in ("spec.json", "run.json", "models/madry-seed0.json")),
        *((name, b"[]") for name in ("spec.json", "models/madry-seed0.json")),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(run_dir, name, damage):
    (run_dir / name).write_bytes(damage)
    with pytest.raises(ResultsError) as caught:
        write_report([run_dir])
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (run_dir / "report").exists()


@pytest.mark.parametrize(
    "change", [{"log": 5}, {"log": [3]}, {"defense": None}, {"seed": "x"}, {"n_parameters": "many"}]
)
def test_a_model_record_of_other_types_is_one_line(run_dir, change):
    path = run_dir / "models" / "madry-seed0.json"
    write_json(path, json.loads(path.read_text("utf-8")) | change)
    with pytest.raises(ResultsError, match=r"madry-seed0\.json: not a model record"):
        write_report([run_dir])


@pytest.mark.parametrize("half", ["cells", "samples", "codes"])
def test_half_a_table_is_one_line(run_dir, half):
    path = run_dir / f"{half}.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ResultsError, match=f"{half}.parquet: not a readable Parquet table"):
        write_report([run_dir])


def test_cells_without_samples_are_reported(run_dir):
    (run_dir / "samples.parquet").unlink()
    words = page_of(write_report([run_dir])).words
    assert "32 cells have a result and no samples" in words


def test_folders_that_were_mixed_are_reported(run_dir, tmp_path):
    other = fake_run(tmp_path / "other", fake_spec(("rse",)))
    for name in ("cells", "samples"):
        shutil.copy(other / f"{name}.parquet", run_dir)
    words = page_of(write_report([run_dir])).words
    assert (
        "16 of 16 cells in this folder are of attacks or defenses that its spec does not" in words
    )
    assert f"The samples in this folder are of another run ({other.name})" in words


# --- leftovers


def report_files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_what_the_new_report_does_not_write_goes(run_dir, tmp_path):
    out = tmp_path / "out"
    write_report([run_dir], out)
    before = report_files(out)
    (out / "mine.txt").write_text("keep")
    small = fake_run(tmp_path / "small", fake_spec(("madry",), seeds=(0,)), codes=(), models=False)
    write_report([small], out)
    alone = write_report([small], tmp_path / "alone").parent
    assert report_files(out) == {*report_files(alone), "mine.txt"}
    assert before - report_files(out) >= {"codes.svg", "training-loss.png"}


def test_only_files_of_the_list_within_the_folder_go(run_dir, tmp_path):
    out = tmp_path / "out"
    page = write_report([run_dir], out)
    outside, linked = tmp_path / "outside.txt", tmp_path / "linked"
    outside.write_text("keep")
    linked.mkdir()
    (linked / "file.txt").write_text("keep")
    (out / "link").symlink_to(linked)
    (out / "alias.txt").symlink_to(outside)
    (out / "gone.txt").write_text("old")
    listing = out / "report-files.json"
    names = ["../outside.txt", str(outside), "link/file.txt", "alias.txt", "gone.txt", "paper"]
    names += ["report.html", "a\0b", 5, "never-there.txt"]
    listing.write_text(json.dumps({"files": names}), "utf-8")
    write_report([run_dir], out)
    assert outside.exists()
    assert (linked / "file.txt").exists()
    assert (out / "alias.txt").is_symlink()
    assert page.exists()
    assert not (out / "gone.txt").exists()
    for damage in ("{", "[]", '{"files": 3}'):
        listing.write_text(damage, "utf-8")
        write_report([run_dir], out)


# --- large runs


def test_samples_read_in_little_memory_are_the_same(run_dir):
    path = run_dir / "samples.parquet"
    lean, wide = read_samples(path), read_table(path, SAMPLES)
    pd.testing.assert_frame_equal(lean.astype(wide.dtypes.to_dict()), wide)
    assert isinstance(lean["defense"].dtype, pd.CategoricalDtype)
    assert lean["sample_id"].dtype == "int32"
    assert read_run(run_dir).samples.equals(lean)


@pytest.mark.parametrize("column", ["label", "sample_id", "attack", "success"])
def test_a_samples_column_of_another_type_is_one_line(run_dir, column):
    path = run_dir / "samples.parquet"
    frame = read_table(path, SAMPLES)
    frame.assign(**{column: "many words" if column != "attack" else 3}).to_parquet(path)
    with pytest.raises(ResultsError, match=column):
        read_samples(path)
    frame.drop(columns=column).to_parquet(path)
    with pytest.raises(ResultsError, match=f"column '{column}' is missing"):
        read_samples(path)


def test_numbers_too_wide_keep_their_width(run_dir):
    path = run_dir / "samples.parquet"
    read_table(path, SAMPLES).assign(sample_id=lambda f: f["sample_id"] + 2**40).to_parquet(path)
    assert read_samples(path)["sample_id"].min() == 2**40


@pytest.mark.parametrize("block", [3, 1 << 20])
def test_rows_are_numbered_as_pandas_numbers_them(run_dir, monkeypatch, block):
    monkeypatch.setattr("benchmark.results.row_keys._BLOCK", block)
    samples = read_run(run_dir).samples.sample(200, random_state=0)
    for most in (2**62, 50):  # the second renumbers at every column
        monkeypatch.setattr("benchmark.results.row_keys._MOST", most)
        numbers, keys = number_groups(samples, CELL_KEY)
        grouped = samples.groupby(CELL_KEY, sort=False, observed=True)
        assert numbers.tolist() == grouped.ngroup().tolist()
        assert len(keys) == grouped.ngroups
        assert (
            keys.iloc[numbers]
            .reset_index(drop=True)
            .equals(samples[CELL_KEY].reset_index(drop=True))
        )
        counts = count_distinct(samples, ["defense", "eps"], "sample_id")
        own = samples.groupby(["defense", "eps"], sort=False, observed=True)["sample_id"].nunique()
        assert counts["n"].tolist() == own.tolist()
        assert not repeated(samples, [*CELL_KEY, "sample_id"])
        assert repeated(pd.concat([samples, samples.iloc[7:8]]), [*CELL_KEY, "sample_id"])
        assert repeated(samples, CELL_KEY)


LIMIT = 2**30


@pytest.mark.e2e
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_ten_thousand_cells_fit_in_a_gibibyte(tmp_path, capsys):
    eps = tuple(i / 40 for i in range(16))
    names = ("undefended", "e-cla", "ot-cla", "ot-cla-adv", "madry", "rse", "defense-gan")
    libraries, norms = ("inhouse", "art", "torchattacks"), ("linf", "l2")
    spec = RunSpec(
        dataset="mnist",
        preset="quick",
        n_train=1000,
        n_test=200,
        seeds=tuple(range(9)),
        device="cpu",
        defenses=tuple(DefenseSpec(name, {"width": 8}) for name in names),
        attacks=tuple(
            AttackSpec(f"a{i}", ThreatModel(norms[i % 2], eps), 100, library=libraries[i % 3])
            for i in range(10)
        ),
    )
    run_dir = fake_large_run(tmp_path, spec)
    code = (
        "import re, resource, sys; from benchmark.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        # ru_maxrss would count what the tests' own process held when it started this one.
        "peak = int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "print(peak * 1024, used.ru_utime + used.ru_stime)"
    )
    command = [sys.executable, "-c", code, "report", str(run_dir), "--out", str(tmp_path / "out")]
    root = ROOT
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    memory, seconds = map(float, done.stdout.split()[-2:])
    with capsys.disabled():  # the seconds are to be read, not to be judged: they are the machine's
        sys.stdout.write(f" {memory / 2**20:.0f} MiB, {seconds:.1f} s CPU\n")
    assert memory < LIMIT
    assert (tmp_path / "out" / "report.html").stat().st_size < 15e6
