"""Token ids equal those of transformers' processors; labels, truncation and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil
from transformers.models.idefics2.processing_idefics2 import Idefics2Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from tests.data.conftest import data_config, make_tokenizer, picture
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.data.control import control
from vlm_ablate.data.encode import IGNORE, Encoder, UnusableSample
from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.errors import DataError

TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
SIZES = [(64, 48), (30, 90), (100, 100)]
PROMPTS = [
    "<image>Question: how many cats? Answer: two",
    "A red circle<image><image> and a blue square.\n\n<image>",
    "<image>\nWhat is it?<image>The end",
    "no image at all",
]
CHAT = "User:<image>Describe<end_of_utterance>\nAssistant: a cat<end_of_utterance>\n"
"""As the chat format writes a picture, "Describe" and "a cat"."""


def split_prompt(prompt: str, images: list[ImageRef], learned: bool = True) -> Sample:
    """A document whose segments are cut where the images stand."""
    parts = prompt.split("<image>")
    segments = [Text(parts[0], learned)]
    for ref, part in zip(images, parts[1:], strict=True):
        segments += [Image(ref), Text(part, learned)]
    return Sample("s", tuple(s for s in segments if not isinstance(s, Text) or s.text), "test")


def asked(prompt: str, images: list[ImageRef]) -> tuple[Sample, str]:
    """The sample that is written as this prompt, and the prompt format."""
    if prompt == CHAT:
        return Sample("s", (Image(images[0]), Text("Describe"), Text("a cat", True)), "test", dialogue=True), "chat"
    return split_prompt(prompt, images), "plain"


def refs(prompt: str) -> list[ImageRef]:
    return [ImageRef(picture(*SIZES[i])) for i in range(prompt.count("<image>"))]


@pytest.mark.parametrize("split", ["none", "crops"])
@pytest.mark.parametrize("prompt", [*PROMPTS, CHAT])
def test_ids_equal_idefics2_processor(any_tokenizer: PreTrainedTokenizerFast, prompt: str, split: str) -> None:
    size = {"shortest_edge": 28, "longest_edge": 70}
    processor = Idefics2Processor(
        Idefics2ImageProcessorPil(do_image_splitting=split == "crops", size=size), any_tokenizer, image_seq_len=5
    )
    images = refs(prompt)
    theirs = processor(text=prompt, images=[[r.load() for r in images]] if images else None, return_tensors="np")
    sample, form = asked(prompt, images)
    config = data_config(image=ImageConfig(resize="native", size=70, shortest=28, split=split), prompt=form)
    ours = Encoder(any_tokenizer, config, 5)(sample, generate=prompt != CHAT)
    assert ours.input_ids.tolist() == theirs["input_ids"][0].tolist()
    if images:
        assert len(ours.views) == theirs["pixel_values"].shape[1]


@pytest.mark.parametrize("longest", [32, 96])
@pytest.mark.parametrize("prompt", [*PROMPTS, CHAT])
def test_ids_equal_idefics3_processor(any_tokenizer: PreTrainedTokenizerFast, prompt: str, longest: int) -> None:
    images_of = Idefics3ImageProcessorPil(size={"longest_edge": longest}, max_image_size={"longest_edge": 32})
    images = refs(prompt)
    processor = Idefics3Processor(images_of, any_tokenizer, image_seq_len=4)
    theirs = processor(
        text=prompt, images=[[r.load() for r in images]] if images else None, return_tensors="np",
        images_kwargs={"return_row_col_info": True},
    )
    sample, form = asked(prompt, images)
    config = data_config(image=ImageConfig(split="tiles", size=longest, tile=32), prompt=form)
    ours = Encoder(any_tokenizer, config, 4)(sample, generate=prompt != CHAT)
    assert ours.input_ids.tolist() == theirs["input_ids"][0].tolist()
    if images:
        np.testing.assert_array_equal(len(ours.views), theirs["pixel_values"].shape[1])


def test_blocks_of_the_papers_sizes(tokenizer: PreTrainedTokenizerFast) -> None:
    """64 tokens a view in Idefics2, 320 when split; 169 a tile in Idefics3. Sizes come from the header alone."""
    sliced = split_prompt("<image>What is it?", [ImageRef(np.zeros((1092, 1456, 3), np.uint8))])
    for split, tokens in (("none", 64), ("crops", 320)):
        config = data_config(image=ImageConfig(resize="native", size=980, shortest=378, split=split))
        encoder = Encoder(tokenizer, config, 64)
        assert (encoder.layout(sliced, generate=True).input_ids == encoder.image_id).sum() == tokens
    for longest, rows, cols in ((1456, 3, 4), (1820, 4, 5)):
        encoder = Encoder(tokenizer, data_config(image=ImageConfig(split="tiles", size=longest)), 169)
        block = encoder.layout(sliced, generate=True).input_ids
        assert (block == encoder.image_id).sum() == (rows * cols + 1) * 169
        processor = Idefics3Processor(
            Idefics3ImageProcessorPil(size={"longest_edge": longest}), tokenizer, image_seq_len=169
        )
        foretold = processor._get_num_multimodal_tokens([(1092, 1456)])["num_image_tokens"][0]
        ends = np.flatnonzero(block == tokenizer.convert_tokens_to_ids("<fake_token_around_image>"))
        assert ends[-1] - ends[0] + 1 == foretold, "position tokens and line ends included"


def learned_text(tokenizer: PreTrainedTokenizerFast, encoder: Encoder, sample: Sample) -> str:
    layout = encoder.layout(sample)
    kept = layout.labels != IGNORE
    np.testing.assert_array_equal(layout.labels[kept], layout.input_ids[kept])
    return tokenizer.decode(layout.input_ids[kept])


def dialogue(*segments: object, id: str = "s") -> Sample:
    return Sample(id, tuple(segments), "test", dialogue=True)


PICTURE = Image(ImageRef(np.zeros((40, 50, 3), np.uint8), "zeros"))
SMALL = ImageConfig(size=16)


def test_only_supervised_text_and_eos_are_learned(any_tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(any_tokenizer, data_config(image=SMALL), 3)
    sample = Sample("s", (PICTURE, Text("Question: how many? Answer:"), Text(" two cats", True)), "test")
    assert learned_text(any_tokenizer, encoder, sample).strip() == "two cats</s>"
    demonstration = Sample("s", (Text("the first", True), Text(" then the rest")), "test")
    assert learned_text(any_tokenizer, encoder, demonstration) == "the first"


def test_a_tokenizer_that_ends_texts_itself_does_not_end_what_is_to_go_on() -> None:
    """Its post-processor writes `</s>` behind every text: behind a prompt a model would have nothing left to say."""
    ends, plain = make_tokenizer("metaspace"), make_tokenizer("metaspace")
    both = [("<s>", 1), ("</s>", 2)]
    ends.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=both)
    asked = dialogue(PICTURE, Text("how many?"), Text("two", True), Text("what?"))
    document = Sample("s", (PICTURE, Text("Question: how many? Answer:")), "test")
    for prompt in ("plain", "chat"):
        one, other = (Encoder(tokenizer, data_config(image=SMALL, prompt=prompt), 3) for tokenizer in (ends, plain))
        for sample in (asked, document):
            found = one.layout(sample, generate=True).input_ids.tolist()
            assert found == other.layout(sample, generate=True).input_ids.tolist() and found[-1] != ends.eos_token_id
        learned = dialogue(PICTURE, Text("how many?"), Text("two", True))
        for name in ("input_ids", "labels"):
            assert getattr(one.layout(learned), name).tolist() == getattr(other.layout(learned), name).tolist()


def test_plain_dialogue_is_written_as_the_few_shot_format(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer, data_config(image=SMALL), 1)
    sample = dialogue(PICTURE, Text("how many?"), Text("two", True), Text("what?"), Text("cats", True))
    assert tokenizer.decode(encoder.layout(sample).input_ids) == (
        "<fake_token_around_image><image><fake_token_around_image> Question: how many? Answer: two"
        "\nQuestion: what? Answer: cats</s>"
    )
    assert learned_text(tokenizer, encoder, sample) == " two cats</s>"


def test_chat_format_learns_answers_and_their_end(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer, data_config(image=SMALL, prompt="chat"), 1)
    sample = dialogue(PICTURE, Text("how many?"), Text("two", True), Text("what?"), Text("cats", True))
    block = "<fake_token_around_image><image><fake_token_around_image>"
    assert tokenizer.decode(encoder.layout(sample).input_ids) == (
        f"User:{block} how many?<end_of_utterance>\nAssistant: two<end_of_utterance>\n"
        "User: what?<end_of_utterance>\nAssistant: cats<end_of_utterance>\n"
    )
    assert learned_text(tokenizer, encoder, sample) == " two<end_of_utterance> cats<end_of_utterance>"
    asked = encoder.layout(dialogue(PICTURE, Text("what?")), generate=True)
    assert tokenizer.decode(asked.input_ids).endswith("<end_of_utterance>\nAssistant:")


def test_template_format_learns_what_it_writes_for_the_assistant() -> None:
    tokenizer = make_tokenizer()
    sample = dialogue(PICTURE, Text("how many?"), Text("two", True), Text("what?"), Text("cats", True))
    with pytest.raises(DataError, match=r"no chat template"):
        Encoder(tokenizer, data_config(image=SMALL, prompt="template"), 1)
    tokenizer.chat_template = TEMPLATE
    encoder = Encoder(tokenizer, data_config(image=SMALL, prompt="template"), 1)
    ids = encoder.layout(sample).input_ids
    assert tokenizer.decode(ids).startswith("<s>[user]<fake_token_around_image><image>") and list(ids).count(1) == 1
    assert learned_text(tokenizer, encoder, sample) == "two</s>cats</s>"


def test_turns_that_a_template_refuses_are_an_unusable_sample() -> None:
    """Many templates raise an error of their own where the assistant speaks first."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}" + TEMPLATE
    )
    encoder = Encoder(tokenizer, data_config(image=SMALL, prompt="template"), 1)
    with pytest.raises(UnusableSample, match="takes no such turns: roles must alternate") as caught:
        encoder.layout(dialogue(Text("Hi!", True), Text("what?"), Text("cats", True)))
    assert caught.value.reason == "chat template"
    assert learned_text(tokenizer, encoder, dialogue(Text("what?"), Text("cats", True))) == "cats</s>"


@pytest.mark.parametrize("split", ["none", "crops", "tiles"])
def test_truncation_never_cuts_an_image_block(tokenizer: PreTrainedTokenizerFast, split: str) -> None:
    image = ImageConfig(size=32, tile=16, split=split)
    words = Text(" the weather in Bern is cold", True)
    sample = Sample("s", (words, PICTURE, PICTURE, words, PICTURE, words), "test")
    whole = Encoder(tokenizer, data_config(image=image), 3)(sample)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    for limit in range(2, len(whole.input_ids) + 3):
        cut = Encoder(tokenizer, data_config(image=image, sequence_length=limit), 3)(sample)
        assert len(cut.input_ids) <= limit
        assert (cut.input_ids == image_id).sum() == 3 * len(cut.views)
        np.testing.assert_array_equal(cut.input_ids, whole.input_ids[: len(cut.input_ids)])
        assert cut.truncated == (limit < len(whole.input_ids))
        # Cut at the limit itself unless that is inside a block.
        if len(cut.input_ids) < min(limit, len(whole.input_ids)):
            assert len(cut.views) < len(whole.views)


SPECIALS = ["<s>", "</s>", "<pad>", "<unk>", *TOKENS, "<row_1_col_2>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def control_counts(tokenizer: PreTrainedTokenizerFast, encoder: Encoder, sample: Sample, generate: bool) -> list[int]:
    ids = encoder.layout(sample, generate=generate).input_ids.tolist()
    # <unk> also stands for characters that a vocabulary lacks
    return [ids.count(tokenizer.convert_tokens_to_ids(token)) for token in SPECIALS if token != "<unk>"]


@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize("split", ["none", "tiles"])
@pytest.mark.parametrize("form", ["plain", "chat", "template"])
@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_control_tokens_in_data_are_text(kind: str, form: str, split: str, generate: bool) -> None:
    tokenizer = make_tokenizer(kind)
    tokenizer.chat_template = TEMPLATE
    encoder = Encoder(tokenizer, data_config(image=ImageConfig(size=16, tile=16, split=split), prompt=form), 3)
    said = " ".join(SPECIALS)
    samples = [
        lambda text: dialogue(PICTURE, Text(f"what is {text}?"), Text(f"it is {text}", True)),
        lambda text: Sample("s", (Text(text), PICTURE, Text(text, True), Text(text, True)), "test"),
    ]
    for make in samples:
        counts = [control_counts(tokenizer, encoder, make(text), generate) for text in ("a cat", said)]
        assert counts[0] == counts[1]
    if kind == "bytes":
        ids = encoder.layout(samples[1](said), generate=generate).input_ids
        assert tokenizer.decode(ids).count(said) == 3, "what is written stays what it was"


@pytest.mark.parametrize("merges", [True, False])
def test_a_vocabulary_that_knows_a_control_token_as_a_word_does_not_read_it_from_data(merges: bool) -> None:
    """Word-level vocabularies, and byte-pair ones that look words up first, find it without any splitting."""
    base = ["<unk>", "<s>", "</s>", "say", *TOKENS]
    if merges:
        pieces = dict.fromkeys("<", None) | dict.fromkeys("".join(base)) | dict.fromkeys(("<s", "<s>"))
        vocab = {word: i for i, word in enumerate(dict.fromkeys([*base, *pieces]))}
        backend = Tokenizer(models.BPE(vocab, [("<", "s"), ("<s", ">")], unk_token="<unk>", ignore_merges=True))
    else:
        backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(base)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bare = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    encoder = Encoder(bare, data_config(image=SMALL), 1)
    ids = encoder.layout(Sample("s", (Text("say <s> <image>", True),), "test")).input_ids.tolist()
    assert ids[0] == 3 and not {1, base.index("<image>")} & set(ids) and ids[-1] == 2, "only our own end token"


def test_marks_that_keep_text_and_control_apart_cannot_come_from_data(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer, data_config(image=SMALL), 1)
    sample = Sample("s", (Text(f"x{control('<image>')}y{control('</s>')}", True),), "test")
    ids = encoder.layout(sample).input_ids.tolist()
    assert encoder.image_id not in ids and ids.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("prompt", ["no image at all", "A  new line\n\nand\ttabs, 3.5 and é", "", " lead", "x" * 40])
def test_plain_text_has_the_ids_of_the_tokenizer(any_tokenizer: PreTrainedTokenizerFast, prompt: str) -> None:
    encoder = Encoder(any_tokenizer, data_config(image=SMALL), 1)
    layout = encoder.layout(Sample("s", (Text(prompt, True),), "test"), generate=True)
    assert layout.input_ids.tolist() == any_tokenizer(prompt)["input_ids"]


def test_nothing_to_learn_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer, data_config(image=SMALL, sequence_length=6), 3)
    with pytest.raises(UnusableSample, match=r"after truncation to data.sequence_length = 6") as cut:
        encoder(Sample("s", (PICTURE, Text("what is the capital of France"), Text(" Paris", True)), "test"))
    assert cut.value.hint == "raise data.sequence_length, or lower data.image.size or the connector's tokens"
    with pytest.raises(UnusableSample, match=r"s: no supervised"):
        encoder(Sample("s", (Text(""),), "test"))


def test_undecodable_images_are_refused_by_id(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer, data_config(image=SMALL), 3)
    with pytest.raises(UnusableSample, match=r"sample x: .*broken") as caught:
        encoder(Sample("x", (Image(ImageRef(b"nonsense", "broken")), Text("a", True)), "test"))
    assert caught.value.reason == "undecodable image"


def test_missing_image_tokens_are_named() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer.from_str(BARE), eos_token="a")
    with pytest.raises(DataError, match=r"no token '<image>'"):
        Encoder(bare, data_config(), 3)


BARE = '{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}'


def test_view_tokens_may_depend_on_size(tokenizer: PreTrainedTokenizerFast) -> None:
    config = data_config(image=ImageConfig(resize="native", size=64, shortest=16))
    encoded = Encoder(tokenizer, config, lambda height, width: height * width // 64)(
        Sample("s", (Image(ImageRef(picture(128, 64))), Text("a", True)), "test")
    )
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    assert (encoded.input_ids == image_id).sum() == 64 * 32 // 64
