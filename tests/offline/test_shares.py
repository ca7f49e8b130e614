"""Kinds of questions and captions come as often as their functions say."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from vlm_ablate.offline import facts, knowledge, reading, scenes
from vlm_ablate.offline.alt_text import WORDLESS, alt_text
from vlm_ablate.offline.pretrain import corpus
from vlm_ablate.offline.scenes import PLACES

DRAWS = 3000


def check(drawn: Counter[str], said: Mapping[str, float]) -> None:
    """Every kind within four and a half standard deviations of its share: one in a hundred thousand is not."""
    total = drawn.total()
    assert set(drawn) == set(said) and sum(said.values()) == pytest.approx(1)
    for kind, share in said.items():
        assert abs(drawn[kind] - total * share) < 4.5 * (total * share * (1 - share)) ** 0.5, (kind, drawn)


def test_alt_text_says_all_or_one_thing_or_nothing_or_what_another_shows() -> None:
    rng = random.Random(1)
    kinds: Counter[str] = Counter()
    for k in range(DRAWS):
        place, other = PLACES[k % 4], PLACES[(k + 1) % 4]
        said = alt_text(f"hot dog {place}, drum {other}, ground red", "a hot dog and a drum", "a whale", rng)
        known = {"a hot dog and a drum": "exact", "hot dog": "one thing", "a whale": "another's"}
        kinds["nothing" if said in WORDLESS else known[said]] += 1
    check(kinds, {"exact": 0.25, "one thing": 0.35, "nothing": 0.2, "another's": 0.2})


@pytest.mark.usefixtures("offline_material")
def test_questions_on_a_country() -> None:
    rng, country = random.Random(2), facts.countries()["FR"]
    asked: Counter[str] = Counter()
    for _ in range(DRAWS):
        question, answer = knowledge.ask_country(country, rng)
        kind = next(k for k in ("capital", "continent", "people") if k in question)
        assert answer == {"capital": "Paris", "continent": "Europe", "people": "French"}[kind]
        asked[kind] += 1
    check(asked, {"capital": 0.45, "continent": 0.35, "people": 0.2})


@pytest.mark.usefixtures("offline_material")
def test_questions_on_a_scene_of_different_things() -> None:
    rng = random.Random(3)
    scene = scenes.sample_scene(random.Random(5), "train", least=4)
    assert len({p.name for _, p in scene.placed}) == 4
    asked: Counter[str] = Counter()
    for _ in range(DRAWS):
        question, answer = scenes.ask_scene(scene, rng, "train")
        asked[" ".join(question.split()[:2]) + (f" {answer}" if answer in ("yes", "no") else "")] += 1
    shares = {"What is": 0.4, "What colour": 0.18, "How many": 0.17, "Where is": 0.15}
    check(asked, {**shares, "Is there yes": 0.05, "Is there no": 0.05})


@pytest.mark.usefixtures("offline_material")
def test_things_of_a_scene_are_as_often_one_as_four_and_stand_everywhere() -> None:
    rng = random.Random(4)
    made = [scenes.sample_scene(rng, "train") for _ in range(700)]
    check(Counter(str(len(s.placed)) for s in made), dict.fromkeys("1234", 0.25))
    check(Counter(place for s in made for place, _ in s.placed), dict.fromkeys(PLACES, 0.25))
    several = [s for s in made if len(s.placed) > 1]
    alike = Counter(str(len({p.name for _, p in s.placed}) == 1) for s in several)
    check(alike, {"True": 0.25, "False": 0.75})
    for scene in made[:300]:
        names = [p.name for _, p in scene.placed]
        assert len(set(names)) in (1, len(names)) and len(dict(scene.placed)) == len(names)


@pytest.mark.usefixtures("offline_material")
def test_what_is_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted without drawing: what makes a picture is asked for its name alone."""
    canvas = scenes.Canvas(8, 8, (0, 0, 0), random.Random(0))
    makers: dict[str, Callable[..., object]] = {
        name: (lambda rng, split, size, name=name: (canvas, "What?", name, name))
        for name in ("sign", "number", "chart", "table")
    }
    for name, make in makers.items():
        monkeypatch.setattr(reading, name, make)
    drawn = Counter(reading.reading("train", index, 64).answer for index in range(DRAWS))
    check(drawn, {"sign": 0.55, "number": 0.15, "chart": 0.15, "table": 0.15})


@pytest.mark.usefixtures("offline_material")
def test_exercises_and_documents_of_the_language_model(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ("repetition", "country_text", "thing_text"):
        monkeypatch.setattr(corpus, name, lambda rng, name=name: name)
    monkeypatch.setattr(corpus, "questions", lambda rng, least=1: f"questions {least}")
    monkeypatch.setattr(corpus, "read_glosses", lambda folder: ["gloss"])
    stream = corpus.exercises(random.Random(6))
    check(Counter(next(stream) for _ in range(DRAWS)), {"repetition": 0.25, "questions 2": 0.75})
    texts = corpus.documents(random.Random(7), tmp_path)
    drawn = Counter(next(texts).split()[0] for _ in range(DRAWS))
    check(drawn, {"gloss": 0.35, "questions": 0.5, "country_text": 0.1, "thing_text": 0.05})
