"""The five prompt styles for language models, and reading their answers.

After Docmatix' generation prompts (huggingface/docmatix; arXiv:2408.12637, section 5.1.2): one system prompt whose
role changes with the style, the text of the pages, and pairs asked for as "Q1: ... A1: ...". The wording is ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlm_ablate.docmatix.pair import PageRow, Pair

PROMPT_VERSION = 1

Messages = list[dict[str, str]]
"""A conversation as OpenAI-compatible servers and chat templates take it: {"role", "content"}."""


@dataclass(frozen=True)
class Style:
    """One of the five ways to ask for pairs."""

    name: str
    role: str
    examples: tuple[tuple[str, str], ...]


STYLES: tuple[Style, ...] = (
    Style(
        "varied",
        "Write as many pairs as it takes to cover the whole document. Vary them: plain facts, what can be inferred, "
        "and what takes a closer reading.",
        (("What is this document mainly about?", "It is mainly about ..."),
         ("Which points does the opening section make?", "The opening section makes these points: ..."),
         ("What follows from Y, according to the document?", "It follows that ...")),
    ),
    Style(
        "by section",
        "Go through the document section by section and write enough pairs for each to cover its details.",
        (("What does the first section deal with?", "The first section deals with ..."),
         ("Which details does the second section give?", "The second section gives ..."),
         ("How is the third section connected with the rest?", "The third section ...")),
    ),
    Style(
        "analysis",
        "Write pairs that cover the whole document and that take thought: arguments, comparisons, consequences.",
        (("What reasons does the author give for X?", "The author's reasons are ..."),
         ("How do X and Y differ in the text?", "X ..., while Y ..."),
         ("What are the consequences of these findings?", "The consequences are ...")),
    ),
    Style(
        "summaries and details",
        "Write pairs of two sorts: some that sum a section up, some that ask for one exact detail.",
        (("Summarise the first section.", "The first section ..."),
         ("Which figures does the second section name?", "It names ..."),
         ("Which evidence in the third section supports the main point?", "The evidence is ...")),
    ),
    Style(
        "general wording",
        "Write varied pairs that cover the whole document: facts, inferences, closer reading. Word every question in "
        "general terms, so that it tells nothing of the document; the answers may.",
        (("What is the first section about?", "The first section, called ..., is about ..."),
         ("Which data does the second section present?", "In the section called ... the data are ..."),
         ("How does the third section support the main point?", "The section on ... supports it by ...")),
    ),
)

_SYSTEM = """You are given the text of a PDF, page by page; a line "NEW PAGE" stands between pages.
Write questions with their answers. {role}
If the document is too simple for that, ask simpler questions about its facts.
Tables and figures may have been garbled when the text was extracted: do not ask about them.
Every answer must follow from the text; if nothing in it is worth asking about, answer "unanswerable".
Examples of the form:
{examples}"""
_USER = """The text of the PDF:
{text}

Write the pairs in this form, numbered from 1:
Q1: ...
A1: ...
If no question can be asked, write "unanswerable" as the answer."""


def messages(row: PageRow, style: Style, max_characters: int) -> Messages:
    """The conversation that asks for pairs about a row's pages; text beyond `max_characters` is cut."""
    examples = "\n".join(f"Q{i}: {q}\nA{i}: {a}" for i, (q, a) in enumerate(style.examples, 1))
    text = "\nNEW PAGE\n".join(page.text for page in row.pages)[:max_characters]
    return [
        {"role": "system", "content": _SYSTEM.format(role=style.role, examples=examples)},
        {"role": "user", "content": _USER.format(text=text)},
    ]


_QUESTION, _ANSWER = "question|q|问题|问|質問|질문", "answer|a|答案|答|回答|답변|답"
_MARK = re.compile(
    rf"""^[ \t>*#-]*(?:\d+[.)、][ \t]*)?(?:\*\*)?(?:(?P<question>{_QUESTION})|(?P<answer>{_ANSWER}))
         [ \t]*(?P<number>\d*)[ \t]*(?:\*\*)?[ \t]*(?P<end>[:.)])[ \t]*(?:\*\*)?""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_WIDE = str.maketrans({"：": ":", "．": ".", "）": ")", **{chr(0xFF10 + i): str(i) for i in range(10)}})
_SAME_LINE = re.compile(rf"(?<=[?？])[ \t]+(?=(?:\*\*)?(?:{_ANSWER})[ \t]*\d*[ \t]*:)", re.IGNORECASE)


def parse_pairs(answer: str, kind: str) -> list[Pair]:
    """The pairs in a model's answer: "Q1: .. A1: .." or "1. Question: .. Answer: ..", without numbers, in Markdown.

    Colons and digits may be full-width. A letter without a number is a mark only with a colon, unless no other marks
    are there: `A) the quay` is a point of an answer. So is a second answer to a question. A question without an answer,
    an answer without a question, and what stands before the first question, is left out.
    """
    text = _SAME_LINE.sub("\n", answer)
    found: list[Pair] = []
    question: str | None = None
    answered = ""
    marks = _marks(text.translate(_WIDE))
    for mark, following in zip(marks, [*marks[1:], None], strict=False):
        stop = following.start() if following else len(text)
        if mark["question"]:
            question, answered = _bare(text[mark.end() : stop]), ""
        elif question:
            found.append(Pair(question, _bare(text[mark.end() : stop], last=following is None), kind))
            question, answered = None, mark["number"] or "-"
        elif found and answered and mark["number"] in ("", answered):
            goes_on = _bare(text[mark.start() : stop], last=following is None)
            found[-1] = Pair(found[-1].question, f"{found[-1].answer}\n{goes_on}", kind)
    return found


def _marks(text: str) -> list[re.Match[str]]:
    every = list(_MARK.finditer(text))
    sure = [m for m in every if m["number"] or m["end"] == ":" or len(m["question"] or m["answer"]) > 1]
    return sure if any(m["question"] for m in sure) else every


def _bare(text: str, *, last: bool = False) -> str:
    """Text without blanks and asterisks around it; of the last answer, without the paragraphs that follow."""
    text = text.strip()
    return (re.sub(r"\s*\n\s*\n[\s\S]*$", "", text) if last else text).strip("*").strip()
