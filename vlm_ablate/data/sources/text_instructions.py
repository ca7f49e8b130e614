"""Instructions without images, in the common schemas of text data sets.

- `messages`: list of {role, content}
- `conversations`: list of {from, value} (ShareGPT)
- `instruction`, `input` (optional), `output` or `response`; or `question`, `answer` or `response`
"""

from __future__ import annotations

from vlm_ablate.data.sample import Segment, Text, UnusableSample
from vlm_ablate.data.sources.records import RecordSource, stripped
from vlm_ablate.data.sources.rows import Row
from vlm_ablate.errors import DataError

_ASSISTANT = {"assistant", "gpt", "model", "bot"}
_USER = {"user", "human", "system", "prompter"}
_LISTS = {"messages": ("role", "content"), "conversations": ("from", "value")}
_ASKS, _ANSWERS = ("instruction", "question", "prompt"), ("output", "response", "answer")


class TextInstructions(RecordSource):
    """Turns; the assistant's are learned."""

    dialogue = True

    def check(self, found: list[str]) -> None:
        self._list = next((c for c in _LISTS if c in found), None)
        self._ask = next((c for c in _ASKS if c in found), None)
        self._answer = next((c for c in _ANSWERS if c in found), None)
        if not self._list and not (self._ask and self._answer):
            raise DataError(
                f"source {self.config.name!r} over {self.config.id!r}: column 'messages', 'conversations' or a pair of "
                f"'instruction' and 'output' is missing; found: {', '.join(found) or 'none'}"
            )

    def segments(self, row: Row, name: str) -> list[Segment]:
        if not self._list:
            ask = "\n\n".join(filter(None, (stripped(row[self._ask]), stripped(row.get("input")))))
            return [Text(ask), Text(stripped(row[self._answer]), True)]
        role_key, text_key = _LISTS[self._list]
        found: list[Segment] = []
        for turn in row[self._list] or []:
            role, text = turn.get(role_key), stripped(turn.get(text_key))
            if role not in _ASSISTANT | _USER:
                raise UnusableSample(name, "wrong record", f"a turn has the role {role!r}")
            if text:
                found.append(Text(text + "\n\n" * (role == "system"), role in _ASSISTANT))
        return found
