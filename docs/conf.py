"""Sphinx: `make docs`. Pages are Markdown (MyST); the reference is written from the code when they are built."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from generate import write_reference  # noqa: E402

from vlm_ablate import __version__ as release  # noqa: E402

project, html_title = "vlm_ablate", f"vlm_ablate {release}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "pictures"]
html_theme = "furo"
html_copy_source = False
html_domain_indices = False
default_role = "literal"
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline", "colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "undoc-members": False}
suppress_warnings = ["misc.highlighting_failure"]  # YAML of an excerpt


def _fences(_app: Any, _what: str, _name: str, _of: Any, _options: Any, lines: list[str]) -> None:
    """Code between fences, as docstrings have it, becomes what reStructuredText reads as code."""
    inside, out = False, []
    for line in lines:
        if line.startswith("```"):
            out += ["", f".. code-block:: {line[3:] or 'text'}", ""] if not inside else [""]
            inside = not inside
        else:
            out.append(f"   {line}" if inside else line)
    lines[:] = out


def setup(app: Any) -> None:
    """Write the reference before anything is read."""
    app.connect("autodoc-process-docstring", _fences)
    app.connect("builder-inited", lambda _: write_reference(HERE / "reference" / "generated", HERE.parent / "results"))
