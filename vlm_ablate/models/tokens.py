"""Special tokens of the image block, as Idefics2 and Idefics3 write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from vlm_ablate.config.data import MAX_TILES
from vlm_ablate.errors import ModelError

if TYPE_CHECKING:
    from vlm_ablate.models.language.base import LanguageModel
    from vlm_ablate.models.views import Views

IMAGE = "<image>"
"""Placeholder of one visual token (or, with cross-attention, of one view)."""
FAKE = "<fake_token_around_image>"
END_OF_UTTERANCE = "<end_of_utterance>"
GLOBAL_IMAGE = "<global-img>"


def row_column(row: int, column: int) -> str:
    """Token before the tile at (row, column), counted from 1."""
    return f"<row_{row}_col_{column}>"


def position_tokens() -> list[str]:
    """The tokens that say where a tile stood, and that the whole image follows."""
    span = range(1, MAX_TILES + 1)
    return [GLOBAL_IMAGE, *(row_column(row, column) for row in span for column in span)]


def image_tokens(views: Views) -> list[str]:
    """The special tokens that these views need, in the order in which they join a vocabulary."""
    return [FAKE, IMAGE, END_OF_UTTERANCE, *(position_tokens() if views.tiled else ())]


@dataclass(frozen=True)
class NewTokens:
    """Tokens that joined a vocabulary."""

    tokens: list[str]
    """Those that the tokeniser did not have, in order of their ids."""
    start: int
    """Id of the first of them; the others follow."""
    ids: dict[str, int]
    """Ids of all tokens that were asked for."""


def add_tokens(language: LanguageModel, tokens: Sequence[str], words: Sequence[str] = ()) -> NewTokens:
    """Make sure that the tokeniser has these tokens. Without a tokeniser (planning) all count as new.

    Args:
        language: whose tokeniser it is.
        tokens: special ones: prompts write them, no data does, and no answer shows them.
        words: others, behind them: what data and answers may hold.

    Raises:
        ModelError: the tokeniser has more tokens than the embedding has rows, or cannot take new ones.
    """
    from tokenizers import AddedToken

    tokenizer, rows = language.tokenizer, language.vocabulary
    special, tokens = frozenset(tokens), list(dict.fromkeys([*tokens, *words]))
    if tokenizer is None and language.image_token_id is not None:
        return NewTokens([], rows, {IMAGE: language.image_token_id})
    if tokenizer is None:
        return NewTokens(tokens, rows, {token: rows + i for i, token in enumerate(tokens)})
    known = tokenizer.get_vocab()
    largest = max(known.values())
    if largest >= rows:
        raise ModelError(f"the tokeniser has ids up to {largest}, the embedding only {rows} rows")
    new = [token for token in tokens if token not in known]
    for kind in (True, False):
        added = [AddedToken(token, special=kind, normalized=False) for token in new if (token in special) is kind]
        tokenizer.add_tokens(added, special_tokens=kind)
    ids = dict(zip(tokens, cast(list[int], tokenizer.convert_tokens_to_ids(tokens)), strict=True))
    start = ids[new[0]] if new else rows
    if [ids[token] for token in new] != list(range(start, start + len(new))):
        raise ModelError(f"the tokeniser gave the new tokens ids that do not follow each other: {ids}")
    return NewTokens(new, start, ids)
