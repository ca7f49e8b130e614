"""Questions from a causal language model on this machine: the shipped small one, which has no chat template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.docmatix.pdfs import manual, write_pdf
from vlm_ablate.docmatix.build import build
from vlm_ablate.docmatix.local import LocalQuestioner, _shortened
from vlm_ablate.docmatix.prompts import STYLES, messages
from vlm_ablate.docmatix.settings import BuildSettings
from vlm_ablate.errors import AssetMissing, DataError, ModelError
from vlm_ablate.models.pretrained import stand_in


@pytest.fixture
def chosen(tmp_path: Path) -> BuildSettings:
    write_pdf(tmp_path / "pdfs" / "a.pdf", manual("Alpha", 4))
    model = str(stand_in("llama-nano-good", file="model.safetensors"))
    return BuildSettings(tmp_path / "pdfs", tmp_path / "out", dpi=40, pages_per_row=1, model=model, max_new_tokens=24)


def test_answers_in_batches_are_those_of_single_prompts(chosen: BuildSettings, tmp_path: Path) -> None:
    asking = LocalQuestioner(chosen, tmp_path)
    prompts = [[{"role": "user", "content": text}] for text in ("A dog is an animal.", "One. " * 40, "The sea")]
    together = dict(asking.complete(prompts))
    asking.settings = replace(chosen, batch=1)
    alone = dict(asking.complete(prompts))
    assert together == alone and sorted(together) == [0, 1, 2]
    assert all(text.startswith("Q1:") and len(text) > 10 for text in together.values())


def test_what_is_drawn_by_chance_does_not_depend_on_what_is_asked_beside_it(
    chosen: BuildSettings, tmp_path: Path
) -> None:
    drawn = replace(chosen, temperature=1.0)
    prompts = [[{"role": "user", "content": text}] for text in ("one", "two of them", "three")]
    together = dict(LocalQuestioner(drawn, tmp_path).complete(prompts))
    alone = [dict(LocalQuestioner(replace(drawn, batch=1), tmp_path).complete([prompt]))[0] for prompt in prompts]
    assert [together[i] for i in range(3)] == alone and len(set(alone)) == 3


def test_long_prompts_keep_their_beginning_and_end(chosen: BuildSettings, tmp_path: Path) -> None:
    asking = LocalQuestioner(chosen, tmp_path)
    room = asking._room
    kept = _shortened(list(range(20_000)), room)
    assert len(kept) == room < 20_000 and kept[:-64] == list(range(room - 64))
    assert kept[-64:] == list(range(20_000 - 64, 20_000)) and _shortened(kept, room) == kept
    (text,) = dict(asking.complete([[{"role": "user", "content": "word " * 20_000}]])).values()
    assert text.startswith("Q1:") and len(text) > 3


def test_a_chat_template_is_used(chosen: BuildSettings, tmp_path: Path) -> None:
    asking = LocalQuestioner(chosen, tmp_path)
    asking.language.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[go]"
    written = asking._written([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}])
    assert written == "[system]be brief[user]hi[go]"


def test_the_build_runs_and_keeps_the_answers(chosen: BuildSettings) -> None:
    """The small model cannot follow instructions: its pairs, if any, are dropped, and the message says so."""
    with pytest.raises(DataError, match=r"no question was generated|pairs were dropped"):
        build(chosen)
    answers = list((chosen.out / ".work" / "answers").iterdir())
    assert len(answers) == 1 and len(answers[0].read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("model", "tokens", "kind", "message"),
    [("no/such-model", 24, AssetMissing, "no/such-model"), ("llama-nano", 2040, ModelError, "too few for the pages")],
)
def test_models_that_will_not_do(
    chosen: BuildSettings, model: str, tokens: int, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        build(replace(chosen, model=model, max_new_tokens=tokens))


def test_prompts_of_all_styles_fit_the_registered_model(chosen: BuildSettings, tmp_path: Path) -> None:
    from vlm_ablate.docmatix.pair import PageRow
    from vlm_ablate.pdf.document import PageText

    asking = LocalQuestioner(replace(chosen, model="llama-nano", max_new_tokens=2), tmp_path)
    row = PageRow("a.pdf", "k", (PageText(1, 10, 10, ()),))
    found = dict(asking.complete([messages(row, style, 100) for style in STYLES]))
    assert len(found) == 5
