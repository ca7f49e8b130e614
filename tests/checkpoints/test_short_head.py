"""Mllama's output head, which lacks the last rows of the embedding: what is written of it and read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.checkpoints import kin
from tests.checkpoints.kin import Kin
from tests.models.support import IMAGE
from vlm_ablate.checkpoints.own import load_checkpoint, merged_tensors, save_checkpoint
from vlm_ablate.checkpoints.placing import import_tensors
from vlm_ablate.checkpoints.to_transformers import plain_tensors
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.models.renaming import Renaming
from vlm_ablate.models.vlm import VLM


@pytest.fixture(params=["with new tokens", "without"])
def assembly(request: pytest.FixtureRequest, tmp_path: Path) -> VLM:
    """Rows of new tokens far from those of a fresh model."""
    folder = tmp_path / "released"
    folder.mkdir()
    case = Kin("mllama", tokens=(IMAGE,)) if request.param == "with new tokens" else Kin("mllama")
    vlm = kin.ours(case, folder, kin.save(case, folder))
    torch.manual_seed(1)
    for name, rows in vlm.named_parameters():
        if "trainable_tokens" in name:
            nn.init.normal_(rows)
    return vlm


def test_rows_of_new_tokens_come_back_to_their_tokens(assembly: VLM) -> None:
    before = {name: p.detach().clone() for name, p in assembly.named_parameters() if "trainable_tokens" in name}
    written = {name: tensor.clone() for name, tensor in merged_tensors(assembly).items()}
    with torch.no_grad():
        for parameter in assembly.parameters():
            parameter.zero_()
    import_tensors(assembly, written, Renaming(((r"", r""),)))
    after = dict(assembly.named_parameters())
    assert [name for name, rows in before.items() if not torch.equal(after[name], rows)] == []


@torch.no_grad()
def test_a_checkpoint_of_our_own_is_whole_and_computes_the_same(assembly: VLM, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    save_checkpoint(assembly, folder, ImageConfig(size=32))
    (tmp_path / "released").rename(tmp_path / "elsewhere")
    again = load_checkpoint(folder)
    assert plain_tensors(again).keys() == plain_tensors(assembly).keys()
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.encode_images(pixels, None), assembly.encode_images(pixels, None))

    def logits(vlm: VLM) -> Tensor:
        found: Tensor = vlm.language.model(input_ids=torch.arange(vlm.language.vocabulary)[None]).logits
        return found

    assert torch.allclose(logits(again), logits(assembly), atol=1e-5)
    assert logits(again).shape == logits(assembly).shape
