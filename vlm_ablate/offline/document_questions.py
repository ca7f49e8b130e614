"""Questions on the words and lines in a window of a printed page: one function a kind.

Only one answer is right: what could be read in two ways, or stands twice, is not asked for. Words, lines and pages that
the window cuts are never asked for, though they count where a question says "the only" or "the second".
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

from vlm_ablate.docmatix.pair import Pair
from vlm_ablate.docmatix.rules import ORDINALS
from vlm_ablate.offline.windows import SeenLine, SeenWord, Window, core
from vlm_ablate.pdf.layout import at_page_edge

Ask = Callable[[Window, random.Random], "Pair | None"]

_WORTH = re.compile(r"^(?=.*[A-Za-z]{3})[\w/~$-][\w./+@~:=$-]*\w$")
"""Words that can be asked for; also paths and commands."""
_COMMON = frozenset(
    """about after also and any are been both but can case could does each for from had has have here how into its may
    more most must not one only other our out should some such than that the their them then there these they this
    those two use used was were what when where which while who why will with would you your
    debian file files gnuplot note optional package packages purpose rationale released see syntax version""".split()
)
"""Words that are frequent in manuals: a guess would be right too often."""
_TRIES = 8


def worth(word: SeenWord) -> bool:
    """Whether the word can be asked for: read without doubt, and too rare to be guessed."""
    return word.readable and bool(_WORTH.match(word.core)) and word.core.lower() not in _COMMON


def _shown(window: Window) -> list[str]:
    """All words of which anything is to be seen; those that the window cuts count, too."""
    return [core(text).lower() for _, text in window.touched]


def _count(window: Window, words: Sequence[SeenWord]) -> int:
    """How often the words follow each other, across lines too."""
    shown, wanted = _shown(window), [w.core.lower() for w in words]
    return sum(shown[i : i + len(wanted)] == wanted for i in range(len(shown) - len(wanted) + 1))


def quoted(words: Sequence[SeenWord]) -> str:
    """The words as a question names them, without quotes and punctuation at both ends; "" where that is unclear."""
    text = " ".join(w.text for w in words)
    return text.strip("\"'`,;:!?*") if '"' not in text.strip('"') else ""


def _neighbours(window: Window, rng: random.Random, before: int, after: int) -> tuple[SeenWord, ...] | None:
    """Words that follow each other: some before one that can be asked for, and some after it."""
    runs = [run for seen in window.lines for run in seen.phrases if len(run) > before + after]
    for _ in range(_TRIES if runs else 0):
        run = rng.choice(runs)
        start = rng.randrange(len(run) - before - after)
        words = run[start : start + before + 1 + after]
        given = [*words[:before], *words[before + 1 :]]
        if worth(words[before]) and sum(len(w.core) for w in given) >= 6 and all(w.core for w in given):
            return words
    return None


def word_after(window: Window, rng: random.Random) -> Pair | None:
    """The word that follows two or three others."""
    words = _neighbours(window, rng, rng.choice((1, 2, 2, 3)), 0)
    if not words or not (given := quoted(words[:-1])) or _count(window, words[:-1]) > 1:
        return None
    return Pair(rng.choice([f'Which word comes after "{given}"?', f'Which word follows "{given}"?',
                            f'What is the next word after "{given}"?']), words[-1].core, "word after")


def word_before(window: Window, rng: random.Random) -> Pair | None:
    """The word that others follow."""
    words = _neighbours(window, rng, 0, rng.choice((1, 2, 2, 3)))
    if not words or not (given := quoted(words[1:])) or _count(window, words[1:]) > 1:
        return None
    return Pair(rng.choice([f'Which word comes right before "{given}"?', f'Which word precedes "{given}"?',
                            f'What is the word before "{given}"?']), words[0].core, "word before")


def gap(window: Window, rng: random.Random) -> Pair | None:
    """The word between others."""
    at = rng.choice((1, 2))
    words = _neighbours(window, rng, at, rng.choice((1, 2)))
    if not words or _count(window, words) > 1:
        return None
    left, right = quoted(words[:at]), quoted(words[at + 1 :])
    # Another word between the same words would fit as well.
    shown = _shown(window)
    edges = [[w.core.lower() for w in part] for part in (words[:at], words[at + 1 :])]
    fits = sum(shown[i : i + at] == edges[0] and shown[i + at + 1 : i + len(words)] == edges[1]
               for i in range(len(shown)))
    if not left or not right or fits != 1:
        return None
    text = f'"{left} ____ {right}"'
    return Pair(rng.choice([f"Fill in the gap: {text}", f"Which word is missing: {text}?"]), words[at].core, "gap")


def beginning(window: Window, rng: random.Random) -> Pair | None:
    """The only word that begins with some letters."""
    words = [w for w in window.words if worth(w) and w.core.isalpha() and len(w.core) >= 5]
    others = Counter(_shown(window))
    for _ in range(_TRIES if words else 0):
        word = rng.choice(words).core
        letters = word[: rng.randint(2, min(4, len(word) - 2))]
        if sum(n for text, n in others.items() if text.startswith(letters.lower())) == 1:
            return Pair(rng.choice([f'Which word begins with "{letters}"?', f'Which word starts with "{letters}"?']),
                        word, "beginning")
    return None


def _counted(window: Window) -> list[tuple[str, SeenLine]]:
    """Lines that can be told by counting, with how a question names them."""
    named = []
    if not window.cut_above:
        for ordinal, row in zip(ORDINALS, window.rows, strict=False):
            # A footnote's mark may stand so high that it seems a row of its own.
            if len(row) > 1 or row[0].line.text.isdigit():
                break
            named.append((f"{ordinal} line", row[0]))
    if not window.cut_below and window.rows and len(window.rows[-1]) == 1:
        named.append(("last line", window.rows[-1][0]))
    return [(name, seen) for name, seen in named if seen.words]


def line_start(window: Window, rng: random.Random) -> Pair | None:
    """The first word of the first, second ... last line."""
    lines = [(name, seen) for name, seen in _counted(window) if seen.starts and worth(seen.words[0])]
    if not lines:
        return None
    name, seen = rng.choice(lines)
    return Pair(rng.choice([f"What is the first word of the {name}?", f"With which word does the {name} begin?"]),
                seen.words[0].core, "start of a line")


def line_end(window: Window, rng: random.Random) -> Pair | None:
    """The last word of the first, second ... last line, or of one that is named by its start."""
    lines = [(name, seen) for name, seen in _counted(window) if seen.ends and worth(seen.words[-1])]
    starts = Counter(_start(seen) for seen in window.lines)
    for row in window.rows:
        seen = row[0]
        if len(row) == 1 and seen.whole and len(seen.words) > 3 and worth(seen.words[-1]) and starts[_start(seen)] == 1:
            given = quoted(seen.words[:2])
            lines += [(f'line that begins with "{given}"', seen)] if given and seen.words[1].readable else []
    if not lines:
        return None
    name, seen = rng.choice(lines)
    return Pair(rng.choice([f"What is the last word of the {name}?", f"With which word does the {name} end?"]),
                seen.words[-1].core, "end of a line")


def _start(seen: SeenLine) -> tuple[str, ...]:
    return tuple(w.core.lower() for w in seen.words[:2])


def short_line(window: Window, rng: random.Random) -> Pair | None:
    """All of a short line."""
    starts = Counter(_start(seen)[:1] for seen in window.lines)
    found = [
        row[0] for row in window.rows
        if len(row) == 1 and row[0].whole and 3 <= len(row[0].words) <= 8 and len(row[0].phrases) == 1
        and len(row[0].phrases[0]) == len(row[0].words) and starts[_start(row[0])[:1]] == 1
        and row[0].words[0].core and sum(c.isalpha() for c in row[0].text) > 8 and '"' not in row[0].words[0].text
    ]
    if not found:
        return None
    seen = rng.choice(found)
    first = quoted(seen.words[:1])
    text = seen.text[2:] if seen.text.startswith("* ") else seen.text
    return Pair(rng.choice([f'What does the line that begins with "{first}" say?',
                            f'Read out the line that begins with "{first}".']), text, "line")


def _runs(window: Window, face: str) -> list[tuple[SeenWord, ...]]:
    """Runs of words in a face, line by line; empty if the window cuts one of them."""
    shown = {id(w.word) for w in window.words}
    if any(getattr(word, face) and id(word) not in shown for word, _ in window.touched):
        return []
    runs: list[tuple[SeenWord, ...]] = []
    for seen in window.lines:
        run: tuple[SeenWord, ...] = ()
        for word in seen.words:
            if getattr(word.word, face):
                run += (word,)
            elif run:
                runs, run = [*runs, run], ()
        runs += [run] if run else []
    return runs


def only_run(window: Window, face: str) -> str | None:
    """What is printed in a face, where that is only a few words, and the rest is enough to tell them from."""
    runs = _runs(window, face)
    if len(runs) != 1 or not 1 <= len(runs[0]) <= 5 or len(window.words) < len(runs[0]) + 5:
        return None
    text = " ".join(w.text for w in runs[0]).strip(",;:").rstrip(".")
    if text.count("(") != text.count(")"):
        text = text.strip("()")
    return text if all(w.readable for w in runs[0]) and sum(c.isalpha() for c in text) >= 3 else None


def bold(window: Window, rng: random.Random) -> Pair | None:
    """What is printed in bold."""
    text = only_run(window, "bold")
    if not text:
        return None
    return Pair(rng.choice(["What is printed in bold?", "Which text stands in bold type?"]), text, "bold")


def typewriter(window: Window, rng: random.Random) -> Pair | None:
    """What is printed in typewriter letters."""
    text = only_run(window, "mono")
    if not text:
        return None
    return Pair(rng.choice(["What is printed in typewriter letters?", "Which text is set like code?"]), text,
                "typewriter")


def number(window: Window, rng: random.Random) -> Pair | None:
    """The only number."""
    found = [text for _, text in window.touched if re.search(r"\d", text)]
    words = [w for w in window.words if w.readable and re.fullmatch(r"\d+(?:[.,]\d+)*%?", w.core)]
    if len(found) != 1 or len(words) != 1:
        return None
    return Pair(rng.choice(["Which number is printed here?", "What number can be read here?"]), words[0].core, "number")


def page_number(window: Window, rng: random.Random) -> Pair | None:
    """The printed page number."""
    printed, page = window.layout.printed_number, window.layout.page
    for seen in window.lines:
        if printed and at_page_edge(seen.line, page) and any(
            w.text == printed and ((k == 0 and seen.starts) or (k == len(seen.words) - 1 and seen.ends))
            for k, w in enumerate(seen.words)
        ):
            return Pair(rng.choice(["What is the page number?", "Which page number is printed here?",
                                    "What is the number of this page?"]), printed, "page number")
    return None


def running_head(window: Window, rng: random.Random) -> Pair | None:
    """What the header or footer says."""
    layout = window.layout
    edge = [seen for seen in window.lines if at_page_edge(seen.line, layout.page) and seen.line.text in layout.running]
    if len(edge) != 1:
        return None
    words = [w for w in edge[0].words if w.text != layout.printed_number]
    given = [w for w in edge[0].line.words if w.text != layout.printed_number]
    readable = "..." not in edge[0].text and all(w.readable for w in words)
    if len(words) != len(given) or not 1 < len(words) <= 9 or not readable:
        return None
    place = "header" if edge[0].line.bottom > layout.page.height / 2 else "footer"
    return Pair(rng.choice([f"What does the {place} of the page say?", f"What is written in the page's {place}?"]),
                " ".join(w.text for w in words), "running head")


def bullet(window: Window, rng: random.Random) -> Pair | None:
    """The first word of a point of a list."""
    points = [seen for seen in window.lines if seen.line.words[0].text in "•◦▪●∙‣–∗*-"]
    # Marks of two kinds may be points and sub-points: a reader could count either.
    if window.cut_above or not all(seen.starts for seen in points) or len({s.words[0].text for s in points}) != 1:
        return None
    good = [(k, seen) for k, seen in enumerate(points[: len(ORDINALS)])
            if seen.starts and len(seen.words) > 1 and worth(seen.words[1])]
    if not good:
        return None
    k, seen = rng.choice(good)
    name = "only" if len(points) == 1 else ORDINALS[k]
    return Pair(rng.choice([f"With which word does the {name} bullet point begin?",
                            f"What is the first word after the {name} bullet?"]), seen.words[1].core, "bullet")
