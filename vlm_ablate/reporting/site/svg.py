"""A figure as a part of a page: in the page's colours and font, by light and by dark, as wide as there is room."""

from __future__ import annotations

import re
from html import escape

from vlm_ablate.reporting.style import BAND, INK, PALETTE, SOFT, THIN

DARK = ("#4da3e0", "#f08a4b", "#35c49a", "#e3a3c8", "#d0d4da", "#8fd0f5", "#f2bd4d", "#b896d4")
"""The palette by dark: the same hues, lighter."""
_NAMES = {INK: "--ink", SOFT: "--soft", THIN: "--thin", BAND: "--band", "#ffffff": "--page"} | {
    shade: f"--c{i}" for i, shade in enumerate(PALETTE)
}
_ANY = re.compile("|".join(re.escape(shade) for shade in _NAMES), re.IGNORECASE)
_LOWER = {shade.lower(): name for shade, name in _NAMES.items()}


def colours() -> str:
    """The CSS that gives the figures' colours their values."""
    light, dark = (" ".join(f"--c{i}: {shade};" for i, shade in enumerate(of)) for of in (PALETTE, DARK))
    return f":root {{ {light} }} @media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def inline(figure: bytes, name: str, prefix: str) -> str:
    """An SVG of matplotlib as an element of a page.

    Args:
        name: what it shows, for who does not see it.
        prefix: of its ids, which must differ between the figures of one page.
    """
    text = figure.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"(url\(|href=\")#", rf"\1#{prefix}-", text)
    text = _ANY.sub(lambda found: f"var({_LOWER[found[0].lower()]})", text)
    text = re.sub(r"'DejaVu Sans'(, [a-zA-Z-]+)*", "system-ui, sans-serif", text)
    head, _, rest = text.partition(">")
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(name)}">{rest}'
