"""Markdown tables as a reader of the rendered page sees them, whatever a plugin is called."""

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from pages import Page

from reports.tables.writers import markdown_table

HOSTILE = (
    "a|b",
    "`code`",
    "<script>alert(1)</script>",
    "*bold* and _soft_ and a_b_c",
    "[link](https://example.org) ![x](y)",
    "two\nlines\r\nand a\ttab",
    "back\\slash \\| pipe",
    "&lt; &amp; ~~gone~~ $x$",
    "# no heading",
    "| --- |",
    "\u2028separators\u2029",
)


def read(text):
    """The cells of the rendered table, row by row."""
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    assert not {tag for tag, _ in Page(html).tags} - {"table", "thead", "tbody", "tr", "th", "td"}
    cells, rows = [], html.split("<tr>")[1:]
    for row in rows:
        parts = row.replace("<td", "<th").split("<th")[1:]
        cells.append([Page(f"<th{part.split('</t')[0]}</th>").words for part in parts])
    return cells


def shown(text):
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def test_a_plain_table_reads_as_one():
    text = markdown_table(["defense", "eps 0.1"], [["madry", "0.100"], ["rse", "failed"]])
    assert text == (
        "| defense   | eps 0.1   |\n"
        "|-----------|-----------|\n"
        "| madry     | 0.100     |\n"
        "| rse       | failed    |\n"
    )
    assert read(text) == [["defense", "eps 0.1"], ["madry", "0.100"], ["rse", "failed"]]


def test_hostile_names_show_literally():
    rows = [[name, "1"] for name in HOSTILE]
    assert read(markdown_table(["a|b", "*n*"], rows)) == [
        ["a|b", "*n*"],
        *([shown(name), "1"] for name in HOSTILE),
    ]


def test_a_table_without_rows_keeps_its_header():
    assert read(markdown_table(["defense", "n"], [])) == [["defense", "n"]]


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(shown)


@given(st.lists(names, min_size=1, max_size=4))
def test_any_name_shows_literally(cells):
    rows = read(markdown_table(["column"] * len(cells), [cells]))
    assert rows == [["column"] * len(cells), [shown(cell) for cell in cells]]
