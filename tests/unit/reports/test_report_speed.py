"""The page and the figures about a speed measurement, from its JSON alone."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from pages import Page
from paths import ROOT
from speed_measurement import measurement, row

from benchmark.errors import UsageError
from benchmark.results import ResultsError
from reports.pages import speed


@pytest.fixture
def folder(tmp_path):
    (tmp_path / speed.FILE).write_text(json.dumps(measurement()))
    return tmp_path


def test_the_page_says_what_was_measured(folder) -> None:
    path = speed.write_page(folder)
    page = Page(path.read_text("utf-8"))
    words = page.words
    assert "Speed on mnist, preset quick" in words
    assert "a processor, cpu, 2 threads" in words
    assert "PGD at every eps on madry" in words
    assert "100 images, of which 98 are right without an attack" in words
    assert "0.250 ms an image" in words
    # seconds, least, most, times in-house, times the floor, forwards, backwards
    assert "art 30.00 27.00 36.00 15.00 1.50 64.2 63.5" in words
    assert "0.4 0.250 0.250" in words
    assert "by at most -0.25 points at any eps" in words
    assert "art has no setting x" in words
    assert "art: left the ball: 3" in words
    assert "inhouse 2.00 1.80 2.40 1.00 0.10 64.2 63.5 1.500 1.000" in words
    assert "foolbox not run not installed: pip install foolbox" in words
    assert "toy in cw failed RuntimeError: <boom>" in words
    assert "16 2.00 2.00 2.00 20.0 20.0" in words


def test_the_page_loads_nothing_and_names_its_files(folder) -> None:
    page = Page(speed.write_page(folder).read_text("utf-8"))
    for image in page.all("img"):
        assert image["src"].startswith("data:image/svg+xml")
        assert image["alt"]
    assert not page.all("script")
    names = {"speed-sweep", "speed-cw", "speed-doubling"}
    made = {path.name for path in folder.iterdir()} - {speed.FILE, speed.PAGE}
    assert made == {f"{name}.{end}" for name in names for end in ("png", "svg")}
    linked = {link["href"] for link in page.all("a") if not link["href"].startswith("#")}
    assert linked == made
    for target in (link["href"][1:] for link in page.all("a") if link["href"].startswith("#")):
        assert any(dict(attrs).get("id") == target for _, attrs in page.tags)


def test_equal_measurements_give_equal_bytes() -> None:
    assert speed.make_page(measurement()) == speed.make_page(measurement())


def lengths(picture):
    """The widths of a picture's bars, as drawn."""
    found = []
    for path in ElementTree.fromstring(picture.svg).iter("{http://www.w3.org/2000/svg}path"):
        style = path.get("style", "")
        if "#0173b2" in style or "#9aa5b1" in style:
            numbers = [
                float(n) for n in path.get("d", "").replace("\n", " ").split() if n[-1:].isdigit()
            ]
            found.append(max(numbers[::2]) - min(numbers[::2]))
    return found


def test_bars_are_as_long_as_the_seconds() -> None:
    rows = [row("sweep", "inhouse", 2.0), row("sweep", "art", 30.0)]
    ours, theirs = lengths(speed.bars(rows, "PGD"))
    assert theirs / ours == pytest.approx(15, rel=1e-3)
    assert "inhouse 2 s; art 30 s, 15×" in speed.bars(rows, "PGD").alt


def test_what_is_not_known_is_a_dash() -> None:
    lone = row("sweep", "art", 3.0, times_inhouse=None, floor_ratio=None)
    found = measurement(results=[lone], doubling=[], absent={}, failed={})
    html, files = speed.make_page(found)
    assert "art 3.00 2.70 3.60 – – 64.2 63.5" in Page(html).words
    assert set(files) == {"speed-sweep.png", "speed-sweep.svg"}
    assert "Without a result" not in Page(html).words


def test_no_result_at_all() -> None:
    html, files = speed.make_page(measurement(results=[], doubling=[]))
    assert files == {}
    assert "RuntimeError: <boom>" in Page(html).words


def test_names_cannot_break_the_page() -> None:
    results = [row("sweep", "<script>alert(1)</script>", 2.0)]
    html, _ = speed.make_page(measurement(results=results, dataset='"><b>'))
    assert not Page(html).all("script")
    assert not Page(html).all("b")


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", '{"results": []}'])
def test_what_is_no_measurement_is_refused(tmp_path, text) -> None:
    (tmp_path / speed.FILE).write_text(text)
    with pytest.raises(ResultsError, match="not a speed measurement"):
        speed.read_speed(tmp_path)


def test_no_folder_and_no_room(tmp_path) -> None:
    with pytest.raises(ResultsError, match="not a speed measurement"):
        speed.write_page(tmp_path / "nowhere")
    (tmp_path / speed.FILE).write_text(json.dumps(measurement()))
    (tmp_path / speed.PAGE).mkdir()
    with pytest.raises(UsageError, match="cannot write to"):
        speed.write_page(tmp_path)


def test_it_never_loads_torch() -> None:
    code = "import sys, reports.pages.speed; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
