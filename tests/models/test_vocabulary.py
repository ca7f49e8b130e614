"""Rows of new tokens beside a base table: together they are one plain table, and only they are touched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.models.conftest import SENTENCE
from tests.models.support import a_vlm
from vlm_ablate.models.language.vocabulary import ExtendedEmbedding, ExtendedHead, extend_vocabulary, plain_table
from vlm_ablate.models.seeding import seeded
from vlm_ablate.models.tokens import add_tokens, image_tokens
from vlm_ablate.models.views import Views

SIZES = [(10, 10, 3), (10, 8, 2), (10, 8, 5), (12, 4, 3), (5, 5, 1)]
"""Rows of the base table, id of the first new token, new tokens: behind the table, over its padding, or both."""


def extended(rows: int, start: int, count: int, *, bias: bool = False) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The plain embedding, and the extended embedding and head over it."""
    torch.manual_seed(rows + start)
    base, head = nn.Embedding(rows, 6), nn.Linear(6, rows, bias=bias)
    new, head_rows = (nn.Parameter(torch.randn(count, 6)) for _ in range(2))
    return base, ExtendedEmbedding(base, new, start), ExtendedHead(head, head_rows, start)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_both_tables_are_the_plain_one_that_is_exported(sizes: tuple[int, int, int], bias: bool) -> None:
    rows, start, count = sizes
    _, table, head = extended(*sizes, bias=bias)
    whole = plain_table(table.weight, table.trainable_tokens, start)
    assert whole.shape == (max(rows, start + count), 6) == (table.num_embeddings, 6)
    ids = torch.randint(0, len(whole), (3, 7))
    assert torch.equal(table(ids), whole[ids])
    states = torch.randn(2, 3, 6, dtype=torch.float64)
    head.double()
    weight = plain_table(head.weight, head.trainable_tokens, start)
    expected = states @ weight.T
    if bias:
        expected = expected + plain_table(head.bias, head.bias.new_zeros(count), start)
    assert head.out_features == len(weight) == head(states).shape[-1]
    torch.testing.assert_close(head(states), expected, rtol=1e-12, atol=1e-12)
    assert plain_table(table.weight, None, start) is table.weight


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_gradient_reaches_the_row_that_was_read_and_no_other(sizes: tuple[int, int, int]) -> None:
    _, start, count = sizes
    _, table, _ = extended(*sizes)
    ids = torch.tensor([[0, start, start + count - 1, start]])
    table(ids).sum().backward()
    touched = {start + i for i in table.trainable_tokens.grad.abs().sum(1).nonzero().flatten().tolist()}
    assert touched == {start, start + count - 1}
    assert table.weight.grad.abs().sum(1).nonzero().flatten().tolist() == [0], "ids of new tokens read no base row"
    assert table.trainable_tokens.grad[0, 0] == (2 if count > 1 else 3), "as often as it stands there"


def test_ids_that_the_head_lacks_are_never_predicted() -> None:
    """Mllama's image token: the embedding has more rows than the head."""
    head = ExtendedHead(nn.Linear(6, 10, bias=False), nn.Parameter(torch.randn(2, 6)), 13)
    logits = head(torch.randn(4, 6))
    assert logits.shape == (4, 15) and (logits[:, 10:13] == float("-inf")).all()
    assert logits[:, [*range(10), 13, 14]].isfinite().all()


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_start_near_the_mean_of_the_words_and_draw_from_their_seed_alone(tied: bool) -> None:
    def made(noise: int, seed: int = 0, count: int = 400):
        torch.manual_seed(3)
        table, head = nn.Embedding(60, 8), nn.Linear(8, 60, bias=False)
        table.weight.data[40:] = 1e6  # padding beyond the words, which says nothing
        head.weight = table.weight if tied else nn.Parameter(table.weight * 2)
        model = SimpleNamespace(config=SimpleNamespace(vocab_size=60), table=table, head=head)
        model.get_input_embeddings, model.get_output_embeddings = lambda: model.table, lambda: model.head
        model.set_input_embeddings = lambda new: setattr(model, "table", new)
        model.set_output_embeddings = lambda new: setattr(model, "head", new)
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        with seeded(seed, "vocabulary"):
            extend_vocabulary(SimpleNamespace(model=model), 40, count)
        assert torch.equal(torch.get_rng_state(), before), "the generator outside is where it was"
        return model

    model, again, other = made(1), made(2), made(1, seed=1)
    rows, words = model.table.trainable_tokens.detach(), model.table.weight[:40].detach()
    assert (rows.mean(0) - words.mean(0)).abs().max() < 0.03
    torch.testing.assert_close(rows.std(0), 0.1 * words.std(0), rtol=0.2, atol=0.0)
    assert torch.equal(rows, again.table.trainable_tokens) and not torch.equal(rows, other.table.trainable_tokens)
    assert (model.head.trainable_tokens is model.table.trainable_tokens) == tied
    assert model.config.vocab_size == 440
    none = made(1, count=0)
    assert type(none.table) is nn.Embedding and none.config.vocab_size == 60


@pytest.mark.parametrize("tiled", [False, True])
def test_tokens_that_are_there_are_not_added_again(tiled: bool, llama, siglip) -> None:
    vlm = a_vlm(siglip, llama)
    wanted = image_tokens(Views(side=32, tiled=tiled))
    assert len(set(wanted)) == len(wanted) == 3 + tiled * (1 + 6 * 6)
    first = add_tokens(vlm.language, wanted, ["<loc>", "the"])
    assert first.tokens == [*wanted[3:], "<loc>"], "three are there since the model was built; `the` is a word"
    assert sorted(first.ids) == sorted([*wanted, "<loc>", "the"])
    assert [first.ids[token] for token in first.tokens] == list(range(first.start, first.start + len(first.tokens)))
    decoded = vlm.tokenizer.decode([first.ids["<image>"], first.ids["<loc>"]], skip_special_tokens=True)
    assert decoded.strip() == "<loc>", "no answer shows a special one"
    words = vlm.tokenizer(SENTENCE).input_ids
    assert max(words) < vlm.image_token_id, "ids of words are what they were"
