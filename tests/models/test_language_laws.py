"""Around a language model: logits at some positions, modes that are put back, weights that may be rounded."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, GPT2Config, LlamaConfig, Qwen3Config

from tests.models.conftest import TEXT, save_lm
from tests.models.support import a_batch, a_vlm, open_gates
from vlm_ablate.models.batch import IGNORE
from vlm_ablate.models.generation import end_ids
from vlm_ablate.models.half import hold_in_bf16, rounded_by_autocast
from vlm_ablate.models.language.base import evaluating, find_layers, trained_dtype

LANGUAGE = {
    "llama": LlamaConfig(**TEXT, tie_word_embeddings=False),
    "capped": Gemma2Config(**TEXT, head_dim=8, sliding_window=8, final_logit_softcapping=2.0),
    "tied": Qwen3Config(**TEXT, head_dim=16, tie_word_embeddings=True),
    "gpt2": GPT2Config(n_embd=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=0),
}


@pytest.mark.parametrize("name", LANGUAGE)
def test_logits_of_a_step_are_those_of_every_position_at_the_learned_ones(name: str, siglip, tmp_path) -> None:
    """What a model does around its head, it does to them as well; afterwards the head is as it was."""
    vlm = open_gates(a_vlm(siglip, save_lm(tmp_path, LANGUAGE[name]), architecture="cross_attention"))
    batch = a_batch(vlm)
    learned = nn.functional.pad(batch.targets != IGNORE, (0, 1))
    with torch.no_grad():
        every, found = vlm.logits(batch), vlm(batch).logits
        torch.testing.assert_close(found, every[learned], rtol=1e-5, atol=1e-6)
        assert torch.equal(vlm.logits(batch), every)
    if name == "capped":
        assert every.abs().max() <= 2.0
    assert len(vlm.language.layers) == 4 and vlm.language.layers is find_layers(vlm.language.decoder, 4)
    assert (vlm.language.hidden, vlm.language.vocabulary) == (32, every.shape[-1])
    assert all(0 <= number < vlm.language.vocabulary for number in end_ids(vlm.language))
    assert 2 in end_ids(vlm.language), "the tokeniser's end of text"
    with pytest.raises(RuntimeError, match="inside"), vlm.language.scoring(learned):
        raise RuntimeError("inside")
    with torch.no_grad():
        assert torch.equal(vlm.logits(batch), every), "also after an error"


def test_modes_of_every_module_are_put_back_whatever_happens() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()), nn.Linear(2, 2)).train()
    model[1][0].eval()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        with evaluating(model[1]):
            pass
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ValueError, match="inside"), evaluating(model):
        raise ValueError("inside")
    assert [module.training for module in model.modules()] == before


class OwnWay(nn.Linear):
    """A linear layer that does more to its weight than autocast rounds."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + self.weight.float().sum()


class Mixed(nn.Module):
    """Layers of every kind, and a weight that two of them share."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 8)
        self.conv, self.norm = nn.Conv1d(8, 8, 3, padding=1), nn.LayerNorm(8)
        self.up, self.own, self.head = nn.Linear(8, 8), OwnWay(8, 8), nn.Linear(8, 6)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states = self.conv(self.embedding(ids).mT).mT
        states = self.norm(self.up(states)) * self.scale
        return self.head(self.own(states))


def test_what_is_held_in_bf16_is_what_autocast_rounds_and_no_digit_changes() -> None:
    torch.manual_seed(0)
    model, ids = Mixed(), torch.randint(0, 6, (2, 5))
    names = {id(p): name for name, p in model.named_parameters()}
    rounded = {names[id(p)] for p in rounded_by_autocast(model)}
    assert rounded == {"conv.weight", "conv.bias", "up.weight", "up.bias", "head.bias"}
    held = deepcopy(model)
    hold_in_bf16(held)
    assert {name for name, p in held.named_parameters() if p.dtype == torch.bfloat16} == rounded
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(held(ids), model(ids))
    state = {name: tensor.clone() for name, tensor in held.state_dict().items()}
    hold_in_bf16(held)
    assert all(torch.equal(tensor, state[name]) for name, tensor in held.state_dict().items()), "once is enough"
    assert [trained_dtype(d) for d in (torch.bfloat16, torch.float16, torch.float32, torch.float64)] == [
        torch.float32, torch.float32, torch.float32, torch.float64,
    ]  # fmt: skip
