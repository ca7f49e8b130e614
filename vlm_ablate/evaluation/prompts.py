"""Few-shot prompts: named, versioned templates, and the demonstrations that stand before a question.

A prompt is a `Sample`, so that the image blocks and the prompt format ("plain", "chat", "template") are those of
training. Under "plain" the shots and the query stand one after the other, `{image}Question: ... Answer: ...`, with a
blank line between them; under the others each shot is a user turn and an assistant turn.

Demonstrations depend on the benchmark, the item (not of `draw_fixed`) and the demonstration seed alone: all arms see
the same ones, whatever the batch size. Blind: every image block is left out, of the shots and of the query; the text
stays as it is. Described: the item's description in words and a line end stand in the place of its image blocks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vlm_ablate.data.sample import Image, Sample, Segment, Text
from vlm_ablate.errors import DataError, UnknownNameError
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem

# Some data sets keep their loaders' markers within their questions.
MARKER = re.compile(r"<image ?(\d+)>")
"""Where a question's images stand, by their numbers."""
_SPECIAL = re.compile(r"<image>|<fake_token_around_image>|<end_of_utterance>|<global-img>|<row_\d_col_\d>")
_FIELD = re.compile(r"\{question\}|\{choices\}")


@dataclass(frozen=True)
class Template:
    """How an item becomes text. `version` changes whenever any prompt could change.

    `query` and `user` may use {question} and {choices}. An item's images stand before it unless the question says
    where they stand (`<image 1>`, ...).
    """

    name: str
    version: str
    query: str
    """Under "plain": what follows the images and asks for the answer."""
    user: str
    """Under "chat" and "template": the user's words."""
    instruction: str = ""
    """A line before everything (plain), or before the first user turn."""
    before_image: str = ""
    """Under "plain", stands before an item's images."""
    separator: str = "\n\n"
    """Under "plain", stands after each demonstration's answer; sources that train on such documents write the same."""
    without_choices: str = ""
    """Template of items that have no choices (open questions of a multiple-choice benchmark)."""

    @property
    def id(self) -> str:
        """Name and version, as a score record writes it."""
        return f"{self.name}/{self.version}"


_SHORT = "Answer the question using a single word or phrase."
_TEXTVQA = """Answer the following question about the image using as few words as possible. Follow these additional \
instructions:
-Always answer a binary question with Yes or No.
-When asked what time it is, reply with the time seen in the image.
-Do not put any full stops at the end of the answer.
-Do not put quotation marks around the answer.
-An answer with one or two words is favorable.
-Do not apply common sense knowledge. The answer can be found in the image.
Question: {question}"""
_DOCVQA = """Give a short and terse answer to the following question. Do not paraphrase or reformat the text you see \
in the image. Do not include any full stops. Just give the answer without additional explanation.
Question: {question}"""

templates: dict[str, Template] = {}


def register_template(template: Template) -> Template:
    """Add a template.

    Raises:
        ValueError: the name is taken.
    """
    if template.name in templates:
        raise ValueError(f"template {template.name!r} is registered twice")
    templates[template.name] = template
    return template


def get_template(name: str) -> Template:
    """The template of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in templates:
        raise UnknownNameError("prompt template", name, templates)
    return templates[name]


for _template in (
    # The papers' few-shot format; also what the "plain" prompt format of training writes.
    Template("vqa", "1", "Question: {question} Answer:", "{question}"),
    # As the few-shot evaluation code of the Idefics team writes it: an instruction line, and "Image:".
    Template(
        "vqa_instruction",
        "1",
        "Question: {question} Answer:",
        "{question}",
        "Instruction: provide an answer to the question. Use the image to answer.",
        "Image:",
        "\n",
    ),
    Template("vqa_short", "1", "Question: {question} " + _SHORT + " Answer:", "{question}\n" + _SHORT),
    Template("caption", "1", "Caption:", "Provide a short caption of the image."),
    Template("caption_image", "1", "Caption:", "Provide a short caption of the image.", before_image="Image:"),
    Template(
        "choices",
        "1",
        "Question: {question}\n{choices}\nAnswer:",
        "{question}\nChoices:\n{choices}\nAnswer with the letter.",
        without_choices="vqa_short",
    ),
    # For questions that already list their choices.
    Template("letter", "1", "Question: {question}\nAnswer:", "{question}\nAnswer with the letter."),
    # Gemini-style prompts, which Idefics2 and Idefics3 use at zero shots (arXiv:2408.12637, A.1.1).
    Template("textvqa_gemini", "1", _TEXTVQA + " Answer:", _TEXTVQA),
    Template("docvqa_gemini", "1", _DOCVQA + " Answer:", _DOCVQA),
):
    register_template(_template)


def build_prompt(
    item: BenchmarkItem,
    demonstrations: Sequence[BenchmarkItem],
    template: Template,
    prompt_format: str,
    *,
    blind: bool = False,
    described: bool = False,
) -> Sample:
    """The prompt of one item as a sample to be answered: `Encoder.layout(sample, generate=True)`.

    Raises:
        DataError: `described`, and an item has no description.
    """
    dialogue = prompt_format != "plain"
    segments: list[Segment] = []
    if template.instruction:
        segments.append(Text(template.instruction + "\n"))
    for shot in demonstrations:
        segments += _told(shot) if described else []
        segments += _asked(shot, template, dialogue, blind or described)
        segments.append(Text(shot.answer, supervised=True) if dialogue else Text(f" {shot.answer}{template.separator}"))
    segments += _told(item) if described else []
    segments += _asked(item, template, dialogue, blind or described)
    return Sample(item.id, tuple(_merged(segments)), source="evaluation", dialogue=dialogue)


def _told(item: BenchmarkItem) -> list[Segment]:
    """The pictures of one item in words."""
    if not item.description:
        raise DataError(f"item {item.id!r} has no description of its pictures", hint="set evaluation.ceiling to false")
    return [Text(f"{item.description}\n")]


def _asked(item: BenchmarkItem, template: Template, dialogue: bool, blind: bool) -> list[Segment]:
    """Images and question of one item."""
    if template.without_choices and not item.choices:
        template = get_template(template.without_choices)
    pattern = template.user if dialogue else template.query
    lettered = (f"{chr(65 + i)}. {_SPECIAL.sub('', choice)}" for i, choice in enumerate(item.choices) if choice)
    words = {"{question}": _SPECIAL.sub("", item.question).strip(), "{choices}": "\n".join(lettered)}
    text = _FIELD.sub(lambda field: words[field[0]], pattern)
    if blind:
        return [Text(MARKER.sub("", text))]
    lead: list[Segment] = [] if dialogue or not template.before_image else [Text(template.before_image)]
    pieces = MARKER.split(text)
    if len(pieces) == 1:
        return [*lead, *map(Image, item.images), Text(text)]
    shown = {int(number) for number in pieces[1::2]}
    unplaced = [ref for number, ref in enumerate(item.images, 1) if number not in shown]
    segments: list[Segment] = [*lead, *map(Image, unplaced)]
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            segments += [Text(piece)] if piece else []
        elif not 1 <= int(piece) <= len(item.images):
            raise DataError(f"item {item.id!r} speaks of <image {piece}> but has {len(item.images)} images")
        else:
            segments.append(Image(item.images[int(piece) - 1]))
    return segments


def _merged(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbouring texts of one kind as one, so that tokens may span them."""
    out: list[Segment] = []
    for segment in segments:
        last = out[-1] if out else None
        if isinstance(segment, Text) and isinstance(last, Text) and segment.supervised == last.supervised:
            out[-1] = Text(last.text + segment.text, segment.supervised)
        else:
            out.append(segment)
    return out


def draw_pool(benchmark: str, size: int, limit: int | None, seed: int) -> list[int]:
    """Positions in the train split that demonstrations may come from: all, or `limit` drawn with the seed."""
    if limit is None or size <= limit:
        return list(range(size))
    return sorted(random.Random(f"pool/{benchmark}/{seed}").sample(range(size), limit))


def draw_random(
    benchmark: str, item: BenchmarkItem, train: Sequence[BenchmarkItem], pool: Sequence[int], shots: int, seed: int
) -> list[BenchmarkItem]:
    """`shots` items of the pool, none with the query's picture, without an answer or with a picture that was drawn.

    Raises:
        DataError: the pool has too few such items.
    """
    if not shots:
        return []
    rng = random.Random(f"demonstrations/{benchmark}/{seed}/{item.id}")
    return _distinct(benchmark, item, train, _shuffled(pool, rng), shots)


def draw_fixed(
    benchmark: str, item: BenchmarkItem, train: Sequence[BenchmarkItem], pool: Sequence[int], shots: int, seed: int
) -> list[BenchmarkItem]:
    """The same `shots` items of the pool for all; an item that shows a picture among them gets the next in its place.

    Raises:
        DataError: the pool has too few different pictures.
    """
    if not shots:
        return []
    return _distinct(benchmark, item, train, _shuffled(pool, random.Random(f"fixed/{benchmark}/{seed}")), shots)


def draw_nearest(
    benchmark: str, item: BenchmarkItem, train: Sequence[BenchmarkItem], ranked: Sequence[int], shots: int
) -> list[BenchmarkItem]:
    """The `shots` first of `ranked` (nearest first), as in `draw_random`; the nearest stands last (arXiv:2204.14198).

    Raises:
        DataError: the pool has too few different pictures.
    """
    return _distinct(benchmark, item, train, ranked, shots)[::-1] if shots else []


def _shuffled(pool: Sequence[int], rng: random.Random) -> Iterator[int]:
    """The pool in random order, drawn as it is asked for (Fisher-Yates over positions)."""
    moved: dict[int, int] = {}
    for left in range(len(pool), 0, -1):
        place = rng.randrange(left)
        yield pool[moved.get(place, place)]
        moved[place] = moved.get(left - 1, left - 1)


def _distinct(
    benchmark: str, item: BenchmarkItem, train: Sequence[BenchmarkItem], order: Iterable[int], shots: int
) -> list[BenchmarkItem]:
    found: list[BenchmarkItem] = []
    taken = {item.image_key or item.id}
    for position in order:
        shot = train[position]
        if shot.answer.strip() and (key := shot.image_key or shot.id) not in taken:
            taken.add(key)
            found.append(shot)
            if len(found) == shots:
                return found
    raise DataError(
        f"benchmark {benchmark!r}: {shots} demonstrations asked for, the train split gives {len(found)}",
        hint="ask for fewer shots, or a larger pool",
    )
