"""Chat templates (Jinja, for transformers' processors) that write dialogues as `data/prompts.py` writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_ablate.errors import ModelError
from vlm_ablate.models.tokens import END_OF_UTTERANCE, IMAGE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A message's content is a string, or a list of {"type": "text"|"image"} items.
_PIECES = """\
{%- macro pieces(content, images, texts) -%}
{%- if content is string -%}{%- if texts -%}{{ content }}{%- endif -%}
{%- else -%}{%- for item in content -%}
{%- if item['type'] == 'image' -%}{%- if images -%}{{ 'IMAGE' }}{%- endif -%}
{%- elif texts -%}{{ item['text'] }}{%- endif -%}
{%- endfor -%}{%- endif -%}
{%- endmacro -%}
""".replace("IMAGE", IMAGE)

_PLAIN = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{ ' ' + pieces(message['content'], true, true) | trim }}
{%- else -%}
{%- set question = pieces(message['content'], false, true) | trim -%}
{{ ('' if loop.first else '\\n') + pieces(message['content'], true, false) }}
{%- if question -%}{{ 'Question: ' + question + ' Answer:' }}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if not add_generation_prompt -%}{{ eos_token }}{%- endif -%}
"""

# As the released Idefics2 and Idefics3 write it: any role, and a blank unless the first item is an image.
_CHAT = """\
{%- for message in messages -%}
{%- set content = message['content'] -%}
{%- set image_first = content is not string and content and content[0]['type'] == 'image' -%}
{{ message['role'] | capitalize + (':' if image_first else ': ') + pieces(content, true, true) }}
{{- 'END\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}
""".replace("END", END_OF_UTTERANCE)

_FLATTENED = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set one = {'role': message['role'], 'content': pieces(message['content'], true, true) | string} -%}
{%- set flat.messages = flat.messages + [one] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""


def chat_template(prompt: str, tokenizer: PreTrainedTokenizerBase, *, around: str = "") -> str:
    """The template of a prompt format ("plain", "chat" or "template").

    "template" is the tokeniser's own, which takes strings: images are put into them as `<image>` first.

    Args:
        around: token on either side of an image, once between neighbours, where the processor writes none itself.

    Raises:
        ModelError: "template", and the tokeniser has none, or several.
    """
    if prompt == "plain":
        whole = _PIECES + _PLAIN
    elif prompt == "chat":
        whole = _PIECES + _CHAT
    else:
        own = tokenizer.chat_template
        if not isinstance(own, str):
            raise ModelError("the tokeniser has no chat template of its own, or several")
        whole = _PIECES + _FLATTENED + own
    return _AROUND.replace("WHOLE", whole).replace("AROUND", around) if around else whole


_AROUND = """\
{%- set written -%}WHOLE{%- endset -%}
{{- written | replace('IMAGE', 'AROUNDIMAGEAROUND') | replace('AROUNDAROUND', 'AROUND') -}}
""".replace("IMAGE", IMAGE)
"""What a template writes, with a token around each image."""
