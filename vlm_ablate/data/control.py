"""Control tokens and data: what a prompt format writes as a token, and what a data set says, never meet.

A prompt is one string, tokenised at once, so that tokens span its pieces as they do for the released processors. There
a control token stands between two marks, characters that Unicode keeps for a program's own use (U+FDD0, U+FDD1) and
that data loses if it has them. The tokenizer behind `MarkedTokenizer` knows its special tokens by their marked names
only: `<s>`, `<image>` or `<end_of_utterance>` within a caption, a page or a question is text like any other.

Tokens that a tokenizer adds without calling them special (runs of blanks, `<think>`) are words of its vocabulary, and
stay so wherever they occur.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vlm_ablate.errors import DataError
from vlm_ablate.models.tokens import END_OF_UTTERANCE, FAKE, IMAGE, position_tokens

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

_OPEN, _CLOSE, _HIDDEN = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKS = str.maketrans(dict.fromkeys((_OPEN, _CLOSE, _HIDDEN), "\ufffd"))
_UNMARK = str.maketrans(dict.fromkeys((_OPEN, _CLOSE)))
OWN = (FAKE, IMAGE, END_OF_UTTERANCE, *position_tokens())
"""Tokens that our prompt formats and image blocks write."""


def control(token: str) -> str:
    """A control token as a prompt holds it."""
    return f"{_OPEN}{token}{_CLOSE}"


def data_text(text: str) -> str:
    """Text of a data set as a prompt holds it: without the marks, which are no characters of any text."""
    return text.translate(_MARKS) if not text.isascii() else text


def unmarked(prompt: str) -> str:
    """A prompt as a person reads it."""
    return prompt.translate(_UNMARK)


def control_names(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokenizer's special tokens, and those of ours that it has; longest first."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    known = tokenizer.get_vocab()
    names = special | set(tokenizer.all_special_tokens) | {token for token in OWN if token in known}
    return sorted(names, key=lambda name: (-len(name), name))


class Hidden:
    """Keeps data apart from control tokens while another program (a chat template) puts both into one string."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._number = {name: number for number, name in enumerate(self._names)}
        self._special = re.compile("|".join(map(re.escape, self._names)) or r"(?!)")
        self._placeholder = re.compile(f"{_HIDDEN}(\\d+){_HIDDEN}")

    def hide(self, text: str) -> str:
        """Data with a placeholder for each control token's name."""
        return self._special.sub(lambda m: f"{_HIDDEN}{self._number[m[0]]}{_HIDDEN}", data_text(text))

    def prompt(self, rendered: str) -> str:
        """What the program wrote around hidden data, as a prompt."""
        marked = self._special.sub(lambda m: control(m[0]), rendered)
        return self._placeholder.sub(lambda m: self._names[int(m[1])], marked)


class MarkedTokenizer:
    """Tokenises prompts with the ids of a fast tokenizer. Nothing is truncated or padded.

    Raises:
        DataError: it is not a fast tokenizer, which alone gives character offsets.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise DataError(f"{type(tokenizer).__name__} is not a fast tokenizer, which gives no character offsets")
        ids = {name: i for name in control_names(tokenizer) if (i := backend.token_to_id(name)) is not None}
        self._backend = _marked(backend.to_str(), tuple(ids.items()))
        unknown = (re.escape(token) for token in OWN if token not in ids)
        self._unknown = re.compile(f"{_OPEN}({'|'.join(unknown) or '(?!)'}){_CLOSE}")
        for name, number in ids.items():
            if self._backend.token_to_id(control(name)) != number:
                raise DataError(f"the tokenizer's control token {name!r} cannot be told from text")

    def id(self, token: str) -> int | None:
        """Id of a token by its own name; None if there is none."""
        found = self._backend.token_to_id(control(token))
        return self._backend.token_to_id(token) if found is None else found

    def known(self, prompt: str) -> str:
        """A prompt in which control tokens that the tokenizer does not have are text."""
        return self._unknown.sub(r"\1", prompt)

    def encode(self, prompt: str, *, add_special_tokens: bool) -> Encoding:
        """Ids and offsets of a prompt in marked form."""
        return self._backend.encode(prompt, add_special_tokens=add_special_tokens)


@lru_cache(maxsize=4)
def _marked(body: str, ids: tuple[tuple[str, int], ...]) -> Tokenizer:
    """The tokenizer of a JSON, with marked names. Each evaluation asks for it, and a large vocabulary takes long."""
    from tokenizers import Tokenizer

    marked = Tokenizer.from_str(json.dumps(_renamed(json.loads(body), dict(ids))))
    marked.no_truncation()
    marked.no_padding()
    return marked


def _renamed(body: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    """A tokenizer's JSON in which the control tokens have their marked names, and are special."""
    added = {entry["content"]: entry for entry in body["added_tokens"]}
    for name, number in ids.items():
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        entry = added.setdefault(name, {"id": number, **flags})
        entry |= {"content": control(name), "special": True}
    body["added_tokens"] = sorted(added.values(), key=lambda entry: entry["id"])
    model = body["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {control(word) if word in ids else word: number for word, number in model["vocab"].items()}
    else:
        model["vocab"] = [[control(word) if word in ids else word, score] for word, score in model["vocab"]]
    if model.get("unk_token") in ids:
        model["unk_token"] = control(model["unk_token"])
    if model.get("merges"):
        pairs = ((merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"])
        model["merges"] = [merge for merge, pair in pairs if "".join(pair) not in ids]
    return body
