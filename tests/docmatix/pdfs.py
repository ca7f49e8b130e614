"""Tiny PDFs, written byte by byte."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT = 300, 400
FONTS = {"F1": "Times-Roman", "F2": "Helvetica-Bold", "F3": "Courier"}


@dataclass(frozen=True)
class Put:
    """Text at a place, in points from the lower left corner."""

    text: str
    y: float
    size: float = 8
    font: str = "F1"
    x: float = 30


@dataclass(frozen=True)
class Rule:
    """A flat line from a place to the right, as TeX draws an underscore."""

    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Drawn:
    """Operators of a page's content, as they are."""

    operators: str


def page(*lines: str, top: float = 340, head: str = "", foot: str = "") -> list[Put]:
    """A page from marked lines: "# " a heading, "## " a smaller one, "`" code, "" a gap; else running text."""
    put, y = [], top
    for line in lines:
        if line.startswith("# "):
            put.append(Put(line[2:], y - 8, 14, "F2"))
            y -= 26
        elif line.startswith("## "):
            put.append(Put(line[3:], y - 6, 11, "F2"))
            y -= 20
        elif line.startswith("`"):
            put.append(Put(line[1:], y, 8, "F3"))
            y -= 10
        else:
            put += [Put(line, y)] if line else []
            y -= 10
    put += [Put(head, HEIGHT - 20, 7)] if head else []
    put += [Put(foot, 15, 7)] if foot else []
    return put


def _drawn(put: Put | Rule | Drawn) -> str:
    if isinstance(put, Drawn):
        return put.operators
    if isinstance(put, Rule):
        return f"{put.x} {put.y} {put.width} 0.5 re f"
    return f"BT /{put.font} {put.size} Tf {put.x} {put.y} Td ({_escaped(put.text)}) Tj ET"


def pdf_bytes(
    pages: Sequence[Sequence[Put | Rule | Drawn]], *, locked: bool = False, entries: str = "", field: str = "",
    box: str = f"0 0 {WIDTH} {HEIGHT}",
) -> bytes:
    """A PDF of these pages.

    Args:
        locked: it asks for a password.
        entries: further entries of every page, e.g. /Rotate 90.
        field: text that is filled into a form field on every page.
        box: of every page: left, bottom, right, top.
    """
    objects: list[bytes] = []

    def add(body: str | bytes) -> int:
        objects.append(body.encode() if isinstance(body, str) else body)
        return len(objects)

    fonts = {n: add(f"<< /Type /Font /Subtype /Type1 /BaseFont /{f} /Encoding /WinAnsiEncoding >>")
             for n, f in FONTS.items()}
    resources = add(f"<< /Font << {' '.join(f'/{n} {i} 0 R' for n, i in fonts.items())} >> >>")
    widget = 0
    if field:
        widget = add(f"<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V ({field}) /Rect [30 40 250 60] "
                     f"/DA (/F1 12 Tf 0 g) /F 4 >>")
        entries += f" /Annots [{widget} 0 R]"
    tree = len(objects) + 2 * len(pages) + 1
    kids = []
    for puts in pages:
        drawn = "\n".join(map(_drawn, puts)).encode("cp1252")
        stream = add(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn))
        kids.append(add(f"<< /Type /Page /Parent {tree} 0 R /MediaBox [{box}] {entries} "
                        f"/Contents {stream} 0 R /Resources {resources} 0 R >>"))
    add(f"<< /Type /Pages /Kids [{' '.join(f'{k} 0 R' for k in kids)}] /Count {len(kids)} >>")
    form = f"/AcroForm << /Fields [{widget} 0 R] /NeedAppearances true /DR {resources} 0 R >>" if field else ""
    root = add(f"<< /Type /Catalog /Pages {tree} 0 R {form} >>")
    trailer = f"/Root {root} 0 R"
    if locked:
        lock = add(f"<< /Filter /Standard /V 1 /R 2 /O <{'ab' * 32}> /U <{'cd' * 32}> /P -4 >>")
        trailer += f" /Encrypt {lock} 0 R /ID [<{'01' * 16}> <{'01' * 16}>]"
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += "".join(f"{place:010} 00000 n \n" for place in places).encode()
    out += f"trailer << /Size {len(objects) + 1} {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(out)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def write_pdf(path: Path, pages: list[list[Put]], **options: bool) -> Path:
    """Write a PDF; gzipped if its name ends so."""
    data = pdf_bytes(pages, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def manual(name: str, pages: int = 6) -> list[list[Put]]:
    """A small manual: title, contents, then numbered sections with text, code, a list and a table's caption."""
    found = [
        [Put(f"{name} Handbook", 300, 24, "F2"), Put("Release 3.2", 270, 12, "F2"), Put("March 4, 2021", 60, 9)],
        page("# Contents", *(f"{n} Part {word} of {name} . . . . . . . . . . . {n + 2}"
                             for n, word in enumerate(("one", "two", "three", "four", "five"), 1)), foot="2"),
    ]
    for n in range(3, pages + 1):
        found.append(page(
            f"# {n - 2} Part {n - 2} of {name}",
            f"A widget of {name} is a small part that turns around its own axis.",
            f"Every crate of {name} holds {10 * n + 7} widgets for the workshop.",
            "",
            f"## {n - 2}.1 Care of {name} parts",
            f"The parts of chapter {n} are washed by hand and dried in the sun.",
            "They are kept in a dry place until the spring comes back.",
            "`int main() { return widgets(3); }",
            f"Table {n}: Widgets by weight",
            head=f"{name} Handbook", foot=str(n),
        ))
    return found[:pages]
