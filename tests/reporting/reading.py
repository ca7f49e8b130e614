"""Readers of what was rendered: the cells of tables and the notes of a page, by parsers that know nothing of them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from markdown_it import MarkdownIt

Texts = list[list[str]]


def blanks(text: str) -> str:
    return " ".join(text.split())


def read_markdown(text: str) -> tuple[list[Texts], list[str]]:
    """Tables (headings first) and items of the list, by a parser of Markdown."""
    tables: list[Texts] = []
    items: list[str] = []
    where = ""
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("td_open", "th_open", "list_item_open", "td_close", "th_close", "list_item_close"):
            where = token.type
        elif token.type == "inline":
            plain = "".join("\n" if child.type == "softbreak" else child.content for child in token.children or ())
            if where in ("td_open", "th_open"):
                tables[-1][-1].append(plain)
            elif where == "list_item_open":
                items.append(plain)
    return tables, items


class ReadHtml(HTMLParser):
    """Tables (rows of cells, headings of groups left out) and pairs of a list of notes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[Texts] = []
        self.notes: list[str] = []
        self.headings: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "dt", "h1"):
            self.inside = tag
            {"td": lambda: self.tables[-1][-1], "dt": lambda: self.notes, "h1": lambda: self.headings}[tag]().append("")
        elif tag == "dd":
            self.inside, self.notes[-1] = tag, f"{self.notes[-1]}: "
        elif tag == "th":
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "td":
            self.tables[-1][-1][-1] += data
        elif self.inside in ("dt", "dd"):
            self.notes[-1] += data
        elif self.inside == "h1":
            self.headings[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = ""


def read_latex(text: str) -> list[Texts]:
    """Cells of each tabular as they stand in the source, without the face of letters."""
    tables = []
    for inside in re.findall(r"\\begin\{tabular\}.*?\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line.removesuffix(r" \\") for line in inside.splitlines() if line.endswith(r" \\")]
        rows = [re.split(r" ?(?<!\\)& ?", line) for line in lines if "multicolumn" not in line]
        tables.append(
            [[re.sub(r"^\\text(bf|it)\{(.*?)\}(?=$| \{|\$)", r"\2", cell) for cell in row] for row in rows[1:]]
        )
    return tables
