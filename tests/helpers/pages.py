"""A page of HTML as tests read it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """A page's tags and texts, and whether every tag is closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text.append(data)

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())
