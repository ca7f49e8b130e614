"""Questions from a language model: prompts out, answers in, every answer kept on disk as soon as it is there."""

from __future__ import annotations

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlm_ablate.docmatix.pair import PageRow, Pair
from vlm_ablate.docmatix.prompts import PROMPT_VERSION, STYLES, Messages, messages, parse_pairs
from vlm_ablate.docmatix.settings import BuildSettings
from vlm_ablate.limits import parse_json
from vlm_ablate.storage import storage_errors


class PromptedQuestioner(ABC):
    """Base of the two that ask a language model.

    Args:
        settings: of the build.
        answers: folder in which answers are kept, one file a PDF, so that none is asked for twice.
    """

    def __init__(self, settings: BuildSettings, answers: Path) -> None:
        self.settings, self.answers = settings, answers
        self.refused = 0
        """Prompts of the PDF that was asked about last, that the model did not take (too long, say)."""

    @abstractmethod
    def check(self) -> None:
        """Find out whether the model answers, before any work.

        Raises:
            VlmAblateError: it does not; the message says why.
        """

    @abstractmethod
    def complete(self, prompts: Sequence[Messages]) -> Iterator[tuple[int, str | None]]:
        """(prompt's place, answer) in any order; None: the prompt was refused."""

    def ask(self, rows: Sequence[PageRow]) -> Iterator[tuple[int, list[Pair]]]:
        """(row's place, its pairs) for all rows of one PDF."""
        asked = [(number, style) for number, row in enumerate(rows) if row.text.strip() for style in self._styles(row)]
        prompts = [messages(rows[n], STYLES[s], self.settings.max_characters) for n, s in asked]
        self.refused = 0
        texts = self._answers(rows[0].key, prompts) if asked else []
        pairs: dict[int, list[Pair]] = {number: [] for number in range(len(rows))}
        for (number, style), text in zip(asked, texts, strict=True):
            pairs[number] += parse_pairs(text or "", STYLES[style].name)
        yield from pairs.items()

    def _styles(self, row: PageRow) -> list[int]:
        rng = random.Random(f"{self.settings.seed} {row.key} {row.span}")
        return sorted(rng.sample(range(len(STYLES)), self.settings.styles))

    def _answers(self, key: str, prompts: Sequence[Messages]) -> list[str | None]:
        path = self.answers / f"{key}.jsonl"
        known = read_answers(path)
        names = [self._name(p) for p in prompts]
        missing = [i for i, name in enumerate(names) if name not in known]
        if missing:
            with storage_errors("write", path), path.open("a") as file:
                if not _ends_with_newline(path):
                    file.write("\n")  # a line that a kill cut off
                for place, text in self.complete([prompts[i] for i in missing]):
                    name = names[missing[place]]
                    known[name] = text
                    file.write(json.dumps({"prompt": name, "text": text}) + "\n")
                    file.flush()
        found = [known[name] for name in names]
        self.refused = Counter(found)[None]
        return found

    def _name(self, prompt: Messages) -> str:
        s = self.settings
        body = [PROMPT_VERSION, s.model, s.temperature, s.max_new_tokens, s.seed, prompt]
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:20]


def read_answers(path: Path) -> dict[str, str | None]:
    """Answers of an earlier run by the name of their prompt; a line that was cut off is left out."""
    known: dict[str, str | None] = {}
    if not path.is_file():
        return known
    for line in path.read_text(errors="replace").splitlines():
        try:
            record = parse_json(line)
            known[record["prompt"]] = record["text"]
        except (ValueError, KeyError, TypeError):
            continue
    return known


def _ends_with_newline(path: Path) -> bool:
    data = path.read_bytes() if path.is_file() else b""
    return not data or data.endswith(b"\n")
