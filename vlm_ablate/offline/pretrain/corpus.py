"""Text for the stand-in language model: dictionary glosses, country facts, and described pictures with questions.

The described pictures are drawn from a stream of their own, so no benchmark item's text is in it. What the language
model learns here is what the papers' language models know before they see an image: words, facts, and how to answer a
question about something that was described.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from vlm_ablate.errors import AssetMissing
from vlm_ablate.offline import reading as reading_task
from vlm_ablate.offline.canvas import COLOURS
from vlm_ablate.offline.debian.catalogue import catalogue
from vlm_ablate.offline.facts import Country, ascii_fold, countries
from vlm_ablate.offline.knowledge import ask_country
from vlm_ablate.offline.pictures import flags, things
from vlm_ablate.offline.scenes import Scene, ask_scene, sample_scene, wordings
from vlm_ablate.provenance import AssetRecord
from vlm_ablate.storage import file_sha256

WORDNET_FOLDERS = ("/usr/share/wordnet", "/usr/share/wordnet-3.0/dict")

_SHARES = {"gloss": 0.35, "questions": 0.50, "country": 0.10, "thing": 0.05}


def exercises(rng: random.Random) -> Iterator[str]:
    """An endless stream of questions on described pictures, and of lists to be repeated.

    What the second phase trains on: looking something up in what was just read and saying it again.
    """
    while True:
        yield repetition(rng) if rng.random() < 0.25 else questions(rng, least=2)


def documents(rng: random.Random, wordnet: Path) -> Iterator[str]:
    """An endless stream of documents in the proportions of the recipe (shares of documents)."""
    glosses = read_glosses(wordnet)
    makers = {
        "gloss": lambda: " ".join(rng.choice(glosses) for _ in range(3)),
        "questions": lambda: questions(rng),
        "country": lambda: country_text(rng),
        "thing": lambda: thing_text(rng),
    }
    kinds, weights = list(_SHARES), list(_SHARES.values())
    while True:
        yield makers[rng.choices(kinds, weights)[0]]()


@cache
def read_glosses(wordnet: Path) -> list[str]:
    """One sentence for each of WordNet's senses with a short gloss: 'halftime: an intermission between ...'.

    Raises:
        AssetMissing: the folder holds no WordNet data files.
    """
    sentences = []
    for name in ("data.noun", "data.verb", "data.adj", "data.adv"):
        path = wordnet / name
        if not path.exists():
            raise AssetMissing(
                f"no WordNet data file {path}",
                hint="run `vlm-ablate data fetch wordnet`, or pass the folder of WordNet 3.0",
            )
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue
            fields, _, gloss = line.partition(" | ")
            word = re.sub(r"\(.*\)", "", fields.split()[4]).replace("_", " ")
            meaning = gloss.split(";")[0].strip()
            if meaning and len(meaning) < 120:
                sentences.append(ascii_fold(f"{word}: {meaning}."))
    return sentences


def wordnet_folder() -> Path:
    """The folder of an installed or fetched WordNet.

    Raises:
        AssetMissing: there is none.
    """
    fetched = catalogue()["wordnet-base"].folder() / "usr/share/wordnet"
    for folder in (*map(Path, WORDNET_FOLDERS), fetched):
        if (folder / "data.noun").exists():
            return folder
    raise AssetMissing("WordNet is not on this machine",
                       hint="run `vlm-ablate data fetch wordnet`, or pass --wordnet FOLDER")


def wordnet_record(wordnet: Path) -> AssetRecord:
    """Provenance of the glosses."""
    return AssetRecord("WordNet glosses", "wordnet-base", "3.0", "WordNet-3.0",
                       "WordNet 3.0 Copyright 2006 by Princeton University", file_sha256(wordnet / "data.noun"))


def country_text(rng: random.Random) -> str:
    """Some sentences about one country, in changing words and order."""
    country = rng.choice(list(countries().values()))
    facts = _country_sentences(country, rng)
    rng.shuffle(facts)
    return " ".join(facts[: rng.randint(2, len(facts))])


def _country_sentences(c: Country, rng: random.Random) -> list[str]:
    facts = [
        rng.choice((f"The capital of {c.name} is {c.capital}.", f"{c.capital} is the capital of {c.name}.")),
        rng.choice((f"{c.name} is a country in {c.continent}.", f"{c.name} lies in {c.continent}.")),
    ]
    if c.demonym:
        facts.append(f"The people of {c.name} are called {c.demonym}.")
    if c.subregion:
        facts.append(f"{c.name} belongs to {c.subregion}.")
    return facts


def thing_text(rng: random.Random) -> str:
    """Names of things, colours and flags in short phrases, so that every name is a word the model knows well."""
    names = [p.name for p in rng.sample(things(), 4)]
    flag = rng.choice(flags()).name
    colour = rng.choice(list(COLOURS))
    return f"a {names[0]}, a {names[1]} and a {names[2]}. a {colour} {names[3]}. the flag of {ascii_fold(flag)}."


def questions(rng: random.Random, least: int = 1) -> str:
    """Up to five described pictures of one kind, each with a question and its answer, or with a caption."""
    make = rng.choice((_scene_question, _scene_question, _flag_question, _flag_question, _reading_question, _caption))
    return "".join(make(rng) for _ in range(rng.randint(least, 5)))


def repetition(rng: random.Random) -> str:
    """A list of names and numbers, and the same list again."""
    names = [p.name for p in rng.sample(things(), 4)] + [str(rng.randint(0, 99)), rng.choice(list(COLOURS))]
    names += [ascii_fold(rng.choice(flags()).name)]
    listed = ", ".join(rng.sample(names, rng.randint(2, len(names))))
    return _qa(listed, "What is on the list?", listed)


Slot = tuple[str, ...]
"""What one visual token would say, as short texts."""


def glimpses(rng: random.Random) -> Iterator[tuple[list[Slot], str]]:
    """Two to five pictures of one kind: what a perfect encoder would say of each, in any order, and a question on it.

    What the third phase trains on. A slot stands for a visual token: several short texts at once, some said twice.
    """
    make = rng.choice((_scene_glimpse, _scene_glimpse, _flag_glimpse, _sign_glimpse, _caption_glimpse))
    for _ in range(rng.randint(2, 5)):
        slots, ordered, text = make(rng)
        if not ordered:
            slots = [slot for slot in slots for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 8)))]
            rng.shuffle(slots)
        yield slots, text


def _scene_slots(scene: Scene) -> list[Slot]:
    return [*((p.name, place) for place, p in scene.placed), (f"ground {scene.ground}",)]


def _scene_glimpse(rng: random.Random) -> tuple[list[Slot], bool, str]:
    scene = sample_scene(rng, None)
    return _scene_slots(scene), False, _qa("", *ask_scene(scene, rng, None)).lstrip()


def _caption_glimpse(rng: random.Random) -> tuple[list[Slot], bool, str]:
    scene = sample_scene(rng, None, most=2)
    return _scene_slots(scene), False, f"Caption: {wordings(scene)[0]}\n\n"


def _flag_glimpse(rng: random.Random) -> tuple[list[Slot], bool, str]:
    country = rng.choice([c for c in countries().values() if c.code in _flag_names()])
    slots: list[Slot] = [(_flag_names()[country.code],), (f"ground {rng.choice(list(COLOURS))}",)]
    return slots, False, _qa("", *ask_country(country, rng)).lstrip()


def _sign_glimpse(rng: random.Random) -> tuple[list[Slot], bool, str]:
    if rng.random() < 0.25:
        value = f"{rng.randint(0, 99):02d}"
        return [(value[0],), (value[1],)], True, _qa("", "What number is written?", value).lstrip()
    word = rng.choice(reading_task.lexicon())
    ground = f"ground {rng.choice(list(COLOURS))}"
    return [(word,), (ground,)], False, _qa("", "What does the sign say?", word).lstrip()


@cache
def _flag_names() -> dict[str, str]:
    """ISO code -> the name that the drawing of the flag goes by."""
    return {p.code: ascii_fold(p.name) for p in flags()}


def _qa(description: str, question: str, answer: str) -> str:
    return f"{description}\nQuestion: {question} Answer: {answer}\n\n"


def _scene_question(rng: random.Random) -> str:
    scene = sample_scene(rng, None)
    return _qa(scene.describe(), *ask_scene(scene, rng, None))


def _caption(rng: random.Random) -> str:
    scene = sample_scene(rng, None, most=2)
    return f"{scene.describe()}\nCaption: {rng.choice(wordings(scene))}\n\n"


def _flag_question(rng: random.Random) -> str:
    country = rng.choice(list(countries().values()))
    return _qa(f"flag of {country.name}", *ask_country(country, rng))


def _reading_question(rng: random.Random) -> str:
    kind = rng.randrange(4)
    if kind <= 1:
        word = rng.choice(reading_task.lexicon())
        return _qa(f"sign {word}, ground {rng.choice(list(COLOURS))}", "What does the sign say?", word)
    if kind == 2:
        value = f"{rng.randint(0, 99):02d}"
        return _qa(f"number {value}", "What number is written?", value)
    if rng.random() < 0.5:
        names = rng.sample([c for c in COLOURS if c not in ("white", "black")], 3)
        heights = rng.sample(range(10), 3)
        highest = rng.random() < 0.5
        pick = (max if highest else min)(range(3), key=heights.__getitem__)
        bars = ", ".join(f"{n} bar {h}" for n, h in zip(names, heights, strict=True))
        return _qa(f"chart {bars}", f"Which colour is the {'tallest' if highest else 'shortest'} bar?", names[pick])
    places, values = ("top", "middle", "bottom"), [str(rng.randint(0, 99)) for _ in range(3)]
    k = rng.randrange(3)
    rows = ", ".join(f"{p} {v}" for p, v in zip(places, values, strict=True))
    return _qa(f"table {rows}", f"What is the {places[k]} number?", values[k])
