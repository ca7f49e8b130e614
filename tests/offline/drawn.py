"""Tiny pictures as files: PNG bytes, and SVG with RDF as the Open Clip Art Library writes it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

STAMPS = "usr/share/tuxpaint/stamps"
CLIP_ART = "usr/share/openclipart/svg"


def png(seed: int, size: tuple[int, int] = (40, 40)) -> bytes:
    """A picture of coloured blocks in a transparent margin, another for each seed."""
    rng = np.random.default_rng(seed)
    blocks = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(size, Image.Resampling.NEAREST)
    page = Image.new("RGBA", (size[0] + 20, size[1] + 20))
    page.paste(blocks, (10, 10))
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def svg(seed: int, title: str, *, description: str = "", keywords: tuple[str, ...] = (), creator: str = "Ann",
        body: str | None = None) -> bytes:
    """A drawing of coloured squares on a page four times as wide, with its words."""
    rng = np.random.default_rng(seed)
    squares = "".join(
        f'<rect x="{10 * (k % 4) + 60}" y="{10 * (k // 4) + 60}" width="10" height="10" '
        f'fill="rgb{tuple(int(v) for v in rng.integers(0, 256, 3))}"/>' for k in range(16))
    bag = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="160" height="160" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
  xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/">
<metadata><rdf:RDF><cc:Work rdf:about=""><dc:title>{title}</dc:title><dc:description>{description}</dc:description>
<dc:subject><rdf:Bag>{bag}</rdf:Bag></dc:subject>
<dc:creator><cc:Agent><dc:title>{creator}</dc:title></cc:Agent></dc:creator></cc:Work></rdf:RDF></metadata>
{squares if body is None else body}</svg>""".encode()


def stamp(name: str, sentence: str, picture: bytes) -> dict[str, bytes]:
    """The two files of a stamp; `name` with its ending."""
    text = f"{sentence}\nde.utf8=Etwas.\n".encode()
    return {f"{STAMPS}/{name}": picture, f"{STAMPS}/{name.rpartition('.')[0]}.txt": text}


def filled(colour: tuple[int, int, int]) -> bytes:
    """A disc of one colour."""
    page = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(page).ellipse((4, 4, 60, 60), fill=colour)
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()
