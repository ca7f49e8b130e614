"""What the stand-in language model reads: every answer follows from what stands before it and is learned."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_ablate.errors import AssetMissing
from vlm_ablate.offline import facts, pictures
from vlm_ablate.offline.facts import ascii_fold
from vlm_ablate.offline.pretrain import corpus
from vlm_ablate.offline.pretrain.language import LanguageRecipe, Slots, _answer_characters, _batches, looking_batches
from vlm_ablate.offline.pretrain.tokenizer import train_tokenizer
from vlm_ablate.offline.scenes import NUMBERS, PLACES

pytestmark = pytest.mark.usefixtures("offline_material")


def answered(seen: str, question: str) -> set[str]:
    """Every right answer to a question, worked out from the words that tell what is to be seen."""
    things = [part.rsplit(" ", 2) for part in seen.split(", ") if part.endswith(PLACES)]
    placed = {f"{row} {column}": name for name, row, column in things}
    if found := re.fullmatch(r"What is at the (.+)\?", question):
        return {placed[found[1]]}
    if found := re.fullmatch(r"Where is the (.+)\?", question):
        return {place for place, name in placed.items() if name == found[1]}
    if found := re.fullmatch(r"Is there a (.+)\?", question):
        return {"yes" if found[1] in placed.values() else "no"}
    if question == "How many things are there?":
        return {NUMBERS[len(placed) - 1]}
    if question == "What colour is the ground?":
        return {seen.rsplit("ground ", 1)[1]}
    if question == "What is on the list?":
        return {seen}
    if found := re.fullmatch(r"Which colour is the (tallest|shortest) bar\?", question):
        bars = {name: int(height) for name, height in re.findall(r"(\w+) bar (\d)", seen)}
        return {
            name for name, height in bars.items() if height == (max if found[1] == "tallest" else min)(bars.values())
        }
    if found := re.fullmatch(r"What is the (top|middle|bottom) number\?", question):
        return set(re.findall(rf"{found[1]} (\d+)", seen))
    if question in ("What does the sign say?", "What number is written?"):
        return {seen.removeprefix("sign ").removeprefix("number ").split(",")[0]}
    country = next(c for c in facts.countries().values() if f"flag of {c.name}" == seen)
    asked = next(k for k in ("capital", "continent", "people") if k in question)
    return {getattr(country, "demonym" if asked == "people" else asked)}


def test_every_answer_is_the_one_right_answer_to_what_is_described() -> None:
    rng, stream = random.Random(0), corpus.exercises(random.Random(1))
    texts = [corpus.questions(rng) for _ in range(300)] + list(itertools.islice(stream, 100))
    asked = [part for text in texts for part in re.findall(r"(.*)\nQuestion: (.*\?) Answer: (.*)\n\n", text)]
    assert len(asked) > 600
    for seen, question, answer in asked:
        assert answered(seen, question) == {answer}, (seen, question)
    captions = [part for text in texts for part in re.findall(r"(.*)\nCaption: (.*)\n\n", text)]
    for seen, caption in captions:
        names = [part.rsplit(" ", 2)[0] for part in seen.split(", ") if part.endswith(PLACES)]
        assert all(re.search(rf"\b{name}\b", caption) or caption.startswith("one") for name in names), (seen, caption)
        assert f"on {seen.rsplit('ground ', 1)[1]} ground" in caption
    for text in texts:
        parts = re.findall(r"(?s)(?:Answer|Caption):.*?\n\n", text)
        assert 1 <= len(parts) <= 5 and text.endswith("\n\n")


def test_a_glimpse_says_all_that_its_answer_needs_and_the_digits_of_a_number_in_their_order() -> None:
    rng = random.Random(2)
    flags, repeated = {p.name: p.code for p in pictures.flags()}, 0
    folded = {ascii_fold(name): code for name, code in flags.items()}
    for _ in range(250):
        seen = list(corpus.glimpses(rng))
        assert 2 <= len(seen) <= 5
        for slots, text in seen:
            if found := re.fullmatch(r"Question: (.*\?) Answer: (.*)\n\n", text):
                question, answer = found[1], found[2]
                if question == "What number is written?":
                    assert slots == [(answer[0],), (answer[1],)]
                elif question == "What does the sign say?":
                    assert (answer,) in slots
                elif "country" in question:
                    (code,) = {folded[slot[0]] for slot in slots if slot[0] in folded}
                    assert answer in vars(facts.countries()[code]).values()
                else:
                    told = sorted({" ".join(slot) for slot in slots}, key=lambda said: said.startswith("ground"))
                    assert answered(", ".join(told), question) == {answer}, (slots, text)
            else:
                assert text.startswith("Caption: ") and text.endswith(" ground\n\n")
                assert all(slot[0].split()[-1] in text for slot in slots)
            repeated += len(slots) > len(set(slots))
    assert repeated > 100, "some are said twice"


def test_no_text_is_that_of_another_stream() -> None:
    one, other = (set(itertools.islice(corpus.exercises(random.Random(seed)), 60)) for seed in (1, 2))
    assert not one & other
    assert set(itertools.islice(corpus.exercises(random.Random(1)), 60)) == one


def test_facts_of_a_country_are_its_own() -> None:
    for seed in range(60):
        text = corpus.country_text(random.Random(seed))
        told = {}
        for country in (c for c in facts.countries().values() if c.name in text):
            own = {s for k in range(8) for s in corpus._country_sentences(country, random.Random(k))}
            told[country.code] = len(sorted(filter(text.__contains__, own), key=len, reverse=True))
            for sentence in sorted(own, key=len, reverse=True):
                text = text.replace(sentence, "")
        assert not text.strip() and max(told.values()) >= 2, told


def test_glosses_are_the_first_meaning_of_each_sense_in_one_sentence(tmp_path: Path) -> None:
    lines = [
        "  1 This software is licensed",
        '1 03 n 02 half_time 0 half-time 1 000 | an interval; "at half time"  ',
        "2 03 n 01 caf\u00e9 0 000 | a small r\u00e9staurant  ",
        f"3 03 n 01 long 0 000 | {'x' * 120}  ",
        "4 03 a 01 asleep(p) 0 000 | in sleep  ",
        "5 03 n 01 none 0 000 | ; nothing said",
    ]
    for kind in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{kind}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert corpus.read_glosses(tmp_path) == 4 * [
        "half time: an interval.",
        "cafe: a small restaurant.",
        "asleep: in sleep.",
    ]
    with pytest.raises(AssetMissing, match=r"(?s)data\.noun.*data fetch wordnet"):
        corpus.read_glosses(tmp_path / "nowhere")


PARTS = st.lists(
    st.tuples(
        st.sampled_from(["Answer:", "Caption:", "Question:", "cat,", "\n"]),
        st.text("ab \n", max_size=6),
        st.sampled_from(["\n\n", "\n", ""]),
    ),
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(PARTS)
def test_an_answer_reaches_from_its_mark_to_the_next_empty_line(parts: list[tuple[str, str, str]]) -> None:
    text = "".join("".join(part) for part in parts)
    expected, i = [False] * len(text), 0
    while i < len(text):
        mark = next((m for m in ("Answer:", "Caption:") if text.startswith(m, i)), None)
        end = text.find("\n\n", i + len(mark)) if mark else -1
        if mark is None or end < 0:
            i += 1
            continue
        expected[i + len(mark) : end + 2] = [True] * (end + 2 - i - len(mark))
        i = end + 2
    assert _answer_characters(text) == expected


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(itertools.islice(corpus.exercises(random.Random(0)), 60), 500)


RECIPE = LanguageRecipe(sequence_length=31, batch_size=3, hidden=8)


@pytest.mark.parametrize("everything", [True, False])
def test_batches_hold_the_texts_back_to_back_and_only_answers_are_learned(tokenizer, everything: bool) -> None:
    texts = list(itertools.islice(corpus.exercises(random.Random(3)), 80))
    made = list(itertools.islice(_batches(RECIPE, tokenizer, iter(texts), everything=everything), 6))
    assert all(tokens.shape == labels.shape == (3, 32) for tokens, labels in made)
    tokens, labels = (torch.cat([batch[k].flatten() for batch in made]).tolist() for k in (0, 1))
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    flat = [t for text in texts for t in (bos, *tokenizer(text, add_special_tokens=False)["input_ids"], eos)]
    assert tokens == flat[: len(tokens)], "no token is lost between two batches"
    if everything:
        assert labels == tokens
        return
    assert all(label in (-100, token) for token, label in zip(tokens, labels, strict=True))
    whole = tokenizer.decode(tokens)
    learned = re.findall(r"(?:Answer|Caption):(.*?\n\n)", whole, re.DOTALL)
    runs = [
        tokenizer.decode([t for t, _ in run])
        for kept, run in itertools.groupby(zip(tokens, labels, strict=True), key=lambda pair: pair[1] != -100)
        if kept
    ]
    assert len(learned) > 5 and runs[: len(learned)] == learned


def test_looking_batches_give_a_vector_for_every_slot_and_learn_answers_alone(tokenizer) -> None:
    table = torch.randn(len(tokenizer), 8, generator=torch.Generator().manual_seed(0))
    for embeddings, labels in itertools.islice(looking_batches(RECIPE, tokenizer, table), 4):
        assert embeddings.shape == (3, 32, 8) and labels.shape == (3, 32) and embeddings.isfinite().all()
        learned = labels != -100
        assert learned.any() and not learned.all()
        assert torch.equal(embeddings[learned], table[labels[learned]]), "what is learned is a token, never a slot"


def test_a_slot_without_noise_is_a_multiple_of_the_sum_of_its_texts(tokenizer) -> None:
    table = torch.randn(len(tokenizer), 8, generator=torch.Generator().manual_seed(0))
    slots = Slots(table, tokenizer, LanguageRecipe(hidden=8, slot_noise=0.0, slot_confusion=0.0))
    said = [("cat", "top left"), ("ground red",), ("7",)]
    means = [[table[tokenizer(f" {t}", add_special_tokens=False)["input_ids"]].mean(0) for t in slot] for slot in said]
    found = slots.vectors(said)
    for vector, parts in zip(found, means, strict=True):
        ratio = vector / sum(parts)
        assert 0.7 <= ratio.mean() <= 1.3 and ratio.std() < 1e-4


def test_what_comes_later_decides_no_earlier_phase() -> None:
    base = LanguageRecipe()
    decides = {phase: base.until(phase) for phase in ("language", "answering", "looking")}
    assert decides["language"].items() < decides["answering"].items() < decides["looking"].items()
    assert decides["looking"] == vars(base) and base.total_steps == 1500 + 900 + 1000
    later = replace(base, looking_steps=7, looking_learning_rate=0.5, slot_noise=9.0, slot_confusion=9.0)
    assert later.until("answering") == base.until("answering") and later.until("looking") != base.until("looking")
    later = replace(later, answering_steps=7, answering_learning_rate=0.5)
    assert later.until("language") == base.until("language") and later.until("answering") != base.until("answering")
