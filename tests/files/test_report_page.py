"""Pages of reports: well formed, and no name in them is read as HTML."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

from ase_nnp.files.report_page import figure, heading, page, paragraph, table


class Reader(HTMLParser):
    """Collect tags, texts and attributes; every tag that opens must close."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.texts, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [value for _, value in attributes]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)


def test_a_page_is_well_formed_and_holds_what_was_given():
    image = b"\x89PNG\r\n\x1a\n1234"
    text = page(
        "Title",
        heading("Models"),
        paragraph("two", strong=True),
        table(["a", "b"], [[1.23456, "x"], [{"H": 0.5}, 7]]),
        figure("parity", image),
    )
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert {"1.235", "x", "H 0.500", "7", "two", "Models", "parity"} <= set(reader.texts)
    source = next(a for a in reader.attributes if a.startswith("data:image/png;base64,"))
    assert base64.b64decode(source.partition(",")[2]) == image


def test_names_cannot_bring_markup_or_scripts():
    evil = '<script>alert("x")</script>'
    text = page(evil, heading(evil), paragraph(evil), table([evil], [[evil]]), figure(evil, b""))
    reader = Reader()
    reader.feed(text)
    assert "script" not in reader.tags
    assert not re.search(r"https?://", text)
