"""Charts for the page: the same numbers as the static figures, and names that can do no harm."""

import base64
import hashlib
import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from fake_runs import fake_run, fake_spec
from pages import Page

from benchmark.results import read_run
from reports.analysis.studies import study_curves
from reports.figures import curves, interactive
from reports.figures.interactive import Chart, Line
from reports.html import write_report
from reports.tables import grid

pytestmark = pytest.mark.usefixtures("undrawn")

NAN = math.nan
STYLES = curves.line_styles(["a", "b", "c"])
HOSTILE = "</script><b>%{x} & $"


def chart(*lines, **options):
    return json.loads(Chart("title", "eps, l2", "robust accuracy", lines, **options).json())


def floats(values):
    """Read plotly's array: a list, or base64 of its bytes."""
    if isinstance(values, dict):
        values = np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
    return [NAN if value is None else float(value) for value in values]


def full(name="a", style=STYLES["b"], **options):
    x, y = [0, 1, 2, 3, 4], [0.9, 0.8, NAN, 0.5, NAN]
    low, high = [0.8, 0.7, NAN, 0.4, NAN], [0.95, 0.9, NAN, 0.7, NAN]
    return Line(name, x, y, style, low, high, [40] * 5, **options)


def test_a_line_breaks_where_a_value_is_missing_and_keeps_its_look():
    (line,) = (trace for trace in chart(full())["data"] if "hovertemplate" in trace)
    assert np.array_equal(floats(line["y"]), [0.9, 0.8, NAN, 0.5, NAN], equal_nan=True)
    assert not line.get("connectgaps")
    look = (line["line"]["color"], line["line"]["dash"], line["marker"]["symbol"])
    assert look == ("#d55e00", "10.6px,3.2px", "square")


def test_a_band_is_one_outline_per_stretch_and_a_lone_point_has_a_bar():
    band, line = chart(full())["data"]
    assert (band["fill"], band["hoverinfo"]) == ("toself", "skip")
    assert band["x"] == [0, 1, 1, 0, None]
    assert band["y"] == [0.95, 0.9, 0.7, 0.8, None]
    bars = line["error_y"]
    assert np.allclose(floats(bars["array"]), [NAN, NAN, NAN, 0.2, NAN], equal_nan=True)
    assert np.allclose(floats(bars["arrayminus"]), [NAN, NAN, NAN, 0.1, NAN], equal_nan=True)


@pytest.mark.parametrize(
    ("y", "wanted"),
    [
        ([], []),
        ([1.0], [True]),
        ([NAN], [False]),
        ([1.0, 2.0, NAN, 3.0], [False, False, False, True]),
        ([1.0, NAN, 2.0, 3.0, NAN, 4.0], [True, False, False, False, False, True]),
    ],
)
def test_alone_is_a_value_without_neighbours(y, wanted):
    assert interactive.alone(np.array(y)).tolist() == wanted


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (full(), "a, eps %{x:.4~g}: %{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}], "
                 "n = %{customdata[2]}"),
        (Line("a", [0], [1], STYLES["a"], n=[3]),
         "a, eps %{x:.4~g}: %{y:.3f}, n = %{customdata[0]}"),
        (Line("a", [0], [1], STYLES["a"], note="seed 1"), "a, seed 1, eps %{x:.4~g}: %{y:.3f}"),
    ],
)  # fmt: skip
def test_the_pointer_reads_what_there_is(line, words):
    assert chart(line, fraction=True)["data"][-1]["hovertemplate"] == f"{words}<extra></extra>"


def test_a_name_is_text_to_plotly_and_cannot_end_the_script():
    text = Chart(HOSTILE, HOSTILE, HOSTILE, [full(HOSTILE, defense=HOSTILE)]).json()
    assert "<" not in text
    found = json.loads(text)
    escaped = "&lt;/script&gt;&lt;b&gt;&#37;{x} &amp; $"
    for trace in found["data"]:
        assert trace["legendgroup"] == escaped
        assert trace["meta"]["defense"] == HOSTILE  # what the page compares, never shows
    assert found["data"][-1]["hovertemplate"].startswith(f"{escaped}, eps %{{x:")
    axis = found["layout"]["xaxis"]["title"]["text"]
    assert axis == escaped


def test_markers_of_every_style_have_a_shape_of_their_own():
    styles = curves.line_styles(map(str, range(9)))
    shapes = {re.search("points=.*? fill", interactive.swatch(s)).group() for s in styles.values()}
    symbols = {
        chart(Line("a", [0], [1], s))["data"][0]["marker"]["symbol"] for s in styles.values()
    }
    assert (len(shapes), len(symbols)) == (9, 9)


# --- from a run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    spec = fake_spec(("<gan>", "madry"))
    states = {("madry", 0.1): ("failed", "boom")}
    run_dir = fake_run(tmp_path_factory.mktemp("runs"), spec, states=states)
    html = write_report([run_dir]).read_text("utf-8")
    return SimpleNamespace(run=read_run(run_dir), html=html, page=Page(html))


def test_a_security_curve_holds_the_tables_numbers(made):
    cells = grid.grid(made.run)
    pooled = grid.pool(cells, made.run.samples)
    pooled, cells = (frame[frame["attack"] == "pgd"] for frame in (pooled, cells))
    picture = curves.security_curves(pooled, cells, curves.line_styles(["<gan>", "madry"]))
    data = json.loads(picture.chart)["data"]
    lines = [trace for trace in data if trace.get("mode") == "lines+markers"]
    assert [line["meta"]["defense"] for line in lines] == ["<gan>", "madry"]
    for line in lines:
        own = pooled[pooled["defense"] == line["meta"]["defense"]]
        assert np.array_equal(floats(line["x"]), own["eps"])
        assert np.array_equal(floats(line["y"]), own["robust_accuracy"], equal_nan=True)
    dots = [trace for trace in data if trace.get("mode") == "markers"]
    assert [dot["hovertemplate"].split(",")[1] for dot in dots] == [" %{customdata[3]}"] * 2
    for dot, line in zip(dots, lines, strict=True):
        seen = {(point[3], x) for point, x in zip(dot["customdata"], floats(dot["x"]), strict=True)}
        points = zip(floats(line["x"]), floats(line["y"]), strict=True)
        known = [x for x, y in points if not np.isnan(y)]
        assert seen == {(f"seed {seed}", x) for seed in (0, 1) for x in known}


def test_a_studys_line_hides_with_its_member(tmp_path):
    names = [f"ot-cla[code_dim={value}]" for value in (4, 16)]
    spec = fake_spec(names, seeds=(0,))
    members = [
        type(member)(member.name, {"code_dim": value}, type="ot-cla")
        for member, value in zip(spec.defenses, (4, 16), strict=True)
    ]
    spec = type(spec)(**{**vars(spec), "defenses": tuple(members)})
    run = read_run(fake_run(tmp_path, spec))
    cells = grid.grid(run)
    own = cells[cells["attack"] == "pgd"]
    picture = study_curves(grid.pool(own, run.samples), own, run.spec)
    lines = [t for t in json.loads(picture.chart)["data"] if t.get("mode") == "lines+markers"]
    assert [line["name"] for line in lines] == ["code_dim = 4", "code_dim = 16"]
    assert [line["meta"]["defense"] for line in lines] == names


def test_the_page_carries_plotly_once_and_lets_nothing_else_run(made):
    assert made.html.count("plotly.js v") == 1
    (policy,) = (m["content"] for m in made.page.all("meta") if "http-equiv" in m)
    own = re.findall(r"<script>(.*?)</script>", made.html, re.DOTALL)
    assert len(own) == 2
    for code in own:
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in re.search("script-src[^;]*", policy).group()


def test_every_row_of_a_defense_can_be_hidden(made):
    boxes = [box["value"] for box in made.page.all("input")]
    assert boxes == ["<gan>", "madry"]
    rows = [tr["data-defense"] for tr in made.page.all("tr") if "data-defense" in tr]
    assert set(rows) == set(boxes)
