"""The documentation builds without a warning, and every link of it leads somewhere: to a page, a file, a heading."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("sphinx")
pytestmark = pytest.mark.timeout(900)


class Page(HTMLParser):
    """What a page links to, and what can be linked to on it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name == "id" and value:
                self.places.add(value)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pages, made of a copy: the reference is written between the pages."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("generated"))
    for beside in ("results", "vlm_ablate", "experiments", "notebooks"):
        (folder / beside).symlink_to(ROOT / beside)
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "out"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return folder / "out"


def test_every_link_of_the_built_pages_leads_somewhere(built: Path) -> None:
    pages = {file: Page(file.read_text()) for file in built.rglob("*.html")}
    assert len(pages) > 25
    assert [f"{file.name}: {link}" for file, link in _links(pages) if not _leads(link, file, pages)] == []


def test_every_page_is_reached_from_the_first_one(built: Path) -> None:
    pages = {file: Page(file.read_text()) for file in built.rglob("*.html")}
    linked = {(file.parent / unquote(urlsplit(link).path)).resolve() for file, link in _links(pages)}
    assert [file.name for file in pages if file.resolve() not in linked and file.name not in ("index.html",)] == []


def _links(pages: dict[Path, Page]) -> Iterator[tuple[Path, str]]:
    yield from ((file, link) for file, page in pages.items() for link in page.links)


def _leads(link: str, file: Path, pages: dict[Path, Page]) -> bool:
    """Whether a link within leads to something, or one that leads away (which is not asked) is an address."""
    parts = urlsplit(link)
    if parts.scheme in ("data", "mailto"):
        return True
    if parts.scheme or parts.netloc:
        return parts.scheme == "https" and "." in parts.netloc and " " not in link
    target = (file.parent / unquote(parts.path)) if parts.path else file
    if not target.is_file():
        return False
    return not parts.fragment or target.suffix != ".html" or unquote(parts.fragment) in _of(target, pages).places


def _of(target: Path, pages: dict[Path, Page]) -> Page:
    (page,) = (page for file, page in pages.items() if file.samefile(target))
    return page
