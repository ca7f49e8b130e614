"""Where on a page a window is placed."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import Literal

import numpy as np

from vlm_ablate.offline.windows import MARGIN, Box, Printed, Window, printed_words
from vlm_ablate.pdf.layout import Layout, at_page_edge

Anchor = Literal["heading", "number", "start", "end", "bold", "mono", "anywhere"]
"""What a window must hold: the first words of a heading, the page's number, the start or end of a line, a word in bold
or typewriter letters that stands in other text, or any word."""


def place_window(layout: Layout, scale: float, size: int, anchor: Anchor, rng: random.Random) -> Window | None:
    """A window on the page that holds an anchor; None where the page has none.

    Its upper and lower edge run between lines where that can be. A page smaller than the window is in its middle.
    """
    printed = printed_words(layout, scale)
    places = _anchors(layout, anchor)
    if not places:
        return None
    first, stop = rng.choice(places)
    while stop > first + 1 and printed.boxes[stop - 1, 2] - printed.boxes[first, 0] > size - 4 * MARGIN:
        stop -= 1
    some = printed.boxes[first:stop]
    box = int(some[0, 0]), int(some[:, 1].min()), int(some[-1, 2]), int(some[:, 3].max())
    width, height = math.ceil(layout.page.width * scale), math.ceil(layout.page.height * scale)
    left = _place(box[0], box[2], size, width, rng)
    if anchor in ("heading", "start") and size < width:
        # Starts of lines are seen where the window begins left of them all.
        left = max(min(left, int(printed.boxes[:, 0].min()) - MARGIN), box[2] + MARGIN - size, 0)
    return Window(layout, scale, left, _place_between(printed, box, size, height, rng), size)


@lru_cache(maxsize=4096)
def _anchors(layout: Layout, anchor: Anchor) -> tuple[tuple[int, int], ...]:
    """First word and the one after the last of all places, counted over the page."""
    lines, spans, at = layout.page.lines, [], 0
    heads = {id(layout.lines[h.start]) for h in layout.headings} if anchor == "heading" else set()
    for line in lines:
        count = len(line.words)
        if anchor == "heading":
            spans += [(at, at + count)] if id(line) in heads else []
        elif anchor == "start":
            spans.append((at, at + min(count, 2)))
        elif anchor == "end":
            spans.append((at + count - 1, at + count))
        elif anchor == "number":
            texts = [w.text for w in line.words] if at_page_edge(line, layout.page) else []
            spans += [(at + k, at + k + 1) for k, text in enumerate(texts) if text == layout.printed_number]
        elif anchor == "anywhere":
            spans += [(at + k, at + k + 1) for k in range(count)]
        elif not all(getattr(w, anchor) for w in line.words):
            spans += [(at + k, at + k + 1) for k, w in enumerate(line.words) if getattr(w, anchor)]
        at += count
    return tuple(spans)


def _place(start: int, stop: int, size: int, room: int, rng: random.Random) -> int:
    """A place for the window along one side of the page that holds start to stop, where it can."""
    if size >= room:
        return (room - size) // 2
    low, high = max(0, stop + MARGIN - size), min(room - size, start - MARGIN)
    return rng.randint(low, high) if low <= high else max(0, min(room - size, start - MARGIN))


def _place_between(printed: Printed, box: Box, size: int, room: int, rng: random.Random) -> int:
    if size >= room:
        return (room - size) // 2
    low, high = max(0, box[3] + MARGIN - size), min(room - size, box[1] - MARGIN)
    tops = np.arange(low, high + 1)
    if not len(tops):
        return _place(box[1], box[3], size, room, rng)
    cut = np.zeros(room + 1, bool)
    for above, below in printed.rows:
        cut[max(above - MARGIN + 1, 0) : below + MARGIN] = True
    for free in (tops[~cut[tops] & ~cut[tops + size]], tops[~cut[tops]], tops):
        if len(free):
            return int(rng.choice(free))
    raise AssertionError("unreachable")
