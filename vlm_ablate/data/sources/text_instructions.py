"""Instructions, most without images, in the common schemas of text data sets.

- `messages`: list of {role, content}
- `conversations`: list of {from, value} (ShareGPT)
- `instruction`, `input` (optional), `output` or `response`; or `question`, `answer` or `response`

The content of a turn is a text, or a list of parts {"type": "text", "text": ...} and {"type": "image", ...}. A picture
part holds its picture, or stands for the next of the row's `images` (or `image`). In a row that has pictures and no
picture parts, the marker `<image>` in a turn is the place of the next one (LLaVA); without markers the pictures stand
before the first turn. In a row without pictures `<image>` is text.

A turn without content is left out; turns of one side that then follow each other are one, with a blank line between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vlm_ablate.data.sample import Segment, Text, UnusableSample
from vlm_ablate.data.sources.configs import TextInstructionsConfig
from vlm_ablate.data.sources.records import RecordSource
from vlm_ablate.data.sources.rows import Row
from vlm_ablate.data.values import Picture, content_of, records_of, stripped, text_of
from vlm_ablate.errors import DataError

_ASSISTANT = {"assistant", "gpt", "model", "bot"}
_USER = {"user", "human", "system", "prompter"}
_LISTS = {"messages": ("role", "content"), "conversations": ("from", "value")}
_ASKS, _ANSWERS = ("instruction", "question", "prompt"), ("output", "response", "answer")
_MARKER = "<image>"


@dataclass(frozen=True)
class _Turn:
    role: str
    parts: list[str | Picture]

    @property
    def says(self) -> bool:
        """Whether there is anything in it but blanks."""
        return any(part.strip() if isinstance(part, str) else True for part in self.parts)


class TextInstructions(RecordSource):
    """Turns; the assistant's are learned."""

    dialogue = True
    config: TextInstructionsConfig

    def check(self, found: list[str]) -> None:
        self._list = next((c for c in _LISTS if c in found), "")
        self._ask = next((c for c in _ASKS if c in found), "")
        self._answer = next((c for c in _ANSWERS if c in found), "")
        if not self._list and not (self._ask and self._answer):
            raise DataError(
                f"source {self.config.name!r} over {self.config.id!r}: column 'messages', 'conversations' or a pair of "
                f"'instruction' and 'output' is missing; found: {', '.join(found) or 'none'}"
            )

    def segments(self, row: Row, name: str) -> list[Segment]:
        cells = self.cells(row.get("images") or row.get("image"), name)
        turns = [turn for turn in _placed(self._turns(row, name), len(cells)) if turn.says]
        pictures = iter(cells)
        found: list[Segment] = []
        for number, turn in enumerate(turns):
            learned = turn.role in _ASSISTANT
            goes_on = any((after.role in _ASSISTANT) == learned for after in turns[number + 1 : number + 2])
            pieces: list[Segment] = []
            for part in turn.parts:
                if isinstance(part, str):
                    pieces += [Text(part, learned)] if part else []
                    continue
                if learned:
                    raise UnusableSample(name, "wrong record", "the assistant answers with a picture")
                cell = part.cell if part.cell is not None else next(pictures, None)
                if cell is None:
                    raise UnusableSample(name, "wrong record", f"its turns place more pictures than its {len(cells)}")
                pieces.append(self.picture(cell, row, name))
            found += _trimmed(pieces, "\n\n" * (turn.role == "system" or goes_on))
        if next(pictures, None) is not None:
            raise UnusableSample(name, "wrong record", f"its turns do not place all of its {len(cells)} pictures")
        return found

    def _turns(self, row: Row, name: str) -> list[_Turn]:
        if not self._list:
            asked = (stripped(row[self._ask], self._ask), stripped(row.get("input"), "input"))
            answer = stripped(row[self._answer], self._answer)
            return [_Turn("user", ["\n\n".join(filter(None, asked))]), _Turn("assistant", [answer])]
        role_key, text_key = _LISTS[self._list]
        turns = []
        for turn in records_of(row[self._list], self._list):
            role = text_of(turn.get(role_key), role_key)
            if role not in _ASSISTANT | _USER:
                raise UnusableSample(name, "wrong record", f"a turn has the role {role!r}")
            turns.append(_Turn(role, content_of(turn.get(text_key), text_key)))
        return turns


def _placed(turns: list[_Turn], pictures: int) -> list[_Turn]:
    """The turns of a row with so many pictures of its own, with a part where each of them goes."""
    if not pictures or any(isinstance(part, Picture) for turn in turns for part in turn.parts):
        return turns
    split = [_Turn(turn.role, list(_split(turn))) for turn in turns]
    if any(isinstance(part, Picture) for turn in split for part in turn.parts):
        return split
    return [_Turn("user", [Picture()] * pictures), *turns]


def _split(turn: _Turn) -> Iterator[str | Picture]:
    for part in turn.parts:
        for number, text in enumerate(part.split(_MARKER) if isinstance(part, str) else ()):
            yield from [Picture()] * (number > 0)
            yield text


def _trimmed(pieces: list[Segment], end: str) -> list[Segment]:
    """A turn's segments without blanks at its ends, blank texts left out, with `end` after its last text."""
    whole = [piece for piece in _joined(pieces) if not isinstance(piece, Text) or piece.text.strip()]
    texts = [i for i, piece in enumerate(whole) if isinstance(piece, Text)]
    found: list[Segment] = []
    for i, piece in enumerate(whole):
        if isinstance(piece, Text):
            text = piece.text.lstrip() if i == 0 else piece.text
            text = text.rstrip() if i == len(whole) - 1 else text
            piece = Text(text + end * (i == texts[-1]), piece.supervised)
        found.append(piece)
    return found


def _joined(pieces: list[Segment]) -> list[Segment]:
    """A turn's segments, texts without a picture between them made one."""
    found: list[Segment] = []
    for piece in pieces:
        before = found[-1] if found else None
        if isinstance(piece, Text) and isinstance(before, Text):
            found[-1] = Text(before.text + piece.text, piece.supervised)
        else:
            found.append(piece)
    return found
