"""Prompt formats: how a sample's segments become one string with image markers, and which characters are learned.

- "plain": a document stands as it is; a dialogue becomes `{image}Question: ... Answer: ...`, one turn a line (the
  papers' few-shot format). The end-of-sequence token follows, learned if the last text is.
- "chat": `User:{image} ...<end_of_utterance>` / `Assistant: ...<end_of_utterance>`, one turn a line (Idefics2 and 3);
  answers and their `<end_of_utterance>` are learned. Documents stay plain.
- "template": the tokenizer's own chat template; what it writes for the assistant is learned. Documents stay plain.

Only this file writes control tokens; what stands in a segment is text (`control.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlm_ablate.data.control import Hidden, control, control_names, data_text, unmarked
from vlm_ablate.data.sample import Image, Sample, Segment, Text, UnusableSample
from vlm_ablate.errors import DataError
from vlm_ablate.models.tokens import END_OF_UTTERANCE, IMAGE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A prompt as runs of text; an image marker stands where each image goes. Control tokens are marked."""

    runs: tuple[tuple[str, bool], ...]
    """(text, learned) in reading order."""
    eos: bool
    """Whether the end-of-sequence token follows; learned if the last run is."""

    @property
    def text(self) -> str:
        """The whole prompt, as a person reads it."""
        return unmarked("".join(text for text, _ in self.runs))


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue."""

    role: str
    segments: tuple[Segment, ...]


def turns(sample: Sample) -> list[Turn]:
    """User and assistant turns: runs of segments without and with loss."""
    found: list[Turn] = []
    for segment in sample.segments:
        role = "assistant" if isinstance(segment, Text) and segment.supervised else "user"
        if found and found[-1].role == role:
            found[-1] = Turn(role, (*found[-1].segments, segment))
        else:
            found.append(Turn(role, (segment,)))
    return found


def plain(sample: Sample, generate: bool = False) -> Prompt:
    """The "plain" format; with `generate`, an answer is to follow and no end-of-sequence token does."""
    if not sample.dialogue:
        written = ((_joined([s]), isinstance(s, Text) and s.supervised) for s in sample.segments)
        return Prompt(tuple(written), eos=not generate)
    runs: list[tuple[str, bool]] = []
    for number, turn in enumerate(turns(sample)):
        if turn.role == "assistant":
            runs.append((" " + _joined(turn.segments).strip(), True))
            continue
        images = control(IMAGE) * sum(isinstance(s, Image) for s in turn.segments)
        question = _joined(s for s in turn.segments if isinstance(s, Text)).strip()
        runs.append((("\n" if number else "") + images + (f"Question: {question} Answer:" if question else ""), False))
    return Prompt(tuple(runs), eos=not generate)


def chat(sample: Sample, generate: bool = False) -> Prompt:
    """The "chat" format, as the chat templates of the released Idefics2 and Idefics3 write it."""
    if not sample.dialogue:
        return plain(sample, generate)
    end = control(END_OF_UTTERANCE)
    runs: list[tuple[str, bool]] = []
    for turn in turns(sample):
        if turn.role == "user":
            gap = "" if isinstance(turn.segments[0], Image) else " "
            runs.append((f"User:{gap}{_joined(turn.segments)}{end}\n", False))
        else:
            runs += [("Assistant:", False), (f" {_joined(turn.segments)}{end}", True), ("\n", False)]
    if generate:
        runs.append(("Assistant:", False))
    return Prompt(tuple(runs), eos=False)


def template(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sample, bool], Prompt]:
    """The "template" format of one tokenizer.

    Raises:
        DataError: the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise DataError("the tokenizer has no chat template", hint='use `prompt: chat` or `prompt: plain`')
    hidden = Hidden(control_names(tokenizer))

    def render(sample: str, messages: list[dict[str, str]], ask: bool) -> str:
        from jinja2 import TemplateError

        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))
        except TemplateError as error:
            raise UnusableSample(sample, "chat template", f"the chat template takes no such turns: {error}") from error

    def write(sample: Sample, generate: bool = False) -> Prompt:
        if not sample.dialogue:
            return plain(sample, generate)
        messages = [{"role": turn.role, "content": _content(turn, hidden)} for turn in turns(sample)]
        whole = render(sample.id, messages, generate)
        runs: list[tuple[str, bool]] = []
        done = 0
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, after = render(sample.id, messages[:i], True), render(sample.id, messages[: i + 1], False)
            if not (whole.startswith(before) and whole.startswith(after) and done <= len(before) <= len(after)):
                raise DataError(f"sample {sample.id}: the chat template rewrites earlier turns; answers are lost")
            runs += [(whole[done : len(before)], False), (whole[len(before) : len(after)], True)]
            done = len(after)
        written = (*runs, (whole[done:], False))
        return Prompt(tuple((hidden.prompt(text), learned) for text, learned in written), eos=False)

    return write


def prompt_format(name: str, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sample, bool], Prompt]:
    """The function that writes prompts of format `name`: (sample, generate) -> Prompt."""
    return template(tokenizer) if name == "template" else {"plain": plain, "chat": chat}[name]


def _joined(segments: Iterable[Segment]) -> str:
    return "".join(data_text(s.text) if isinstance(s, Text) else control(IMAGE) for s in segments)


def _content(turn: Turn, hidden: Hidden) -> str:
    return "".join(hidden.hide(s.text) if isinstance(s, Text) else IMAGE for s in turn.segments)
