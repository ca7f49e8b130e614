"""The README.md of an exported checkpoint: how to load it, where it comes from, and the parts of such pages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from vlm_ablate.checkpoints.exported import Exported, Origin

CARD = "README.md"


def model_card(origin: Origin, made: Exported) -> str:
    """The card as Markdown."""
    head = {
        "library_name": "transformers" if made.cls else "vlm_ablate",
        "pipeline_tag": "image-text-to-text",
        "tags": ["vlm_ablate", "ablation", *origin.tags],
    }
    blocks = [
        "---\n" + "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items()) + "\n---",
        f"# {origin.title}",
        "One run of an ablation: made to be compared with the other arms of its table, not to be used as an assistant.",
        "## Loading it\n\n" + _loading(made),
        *(f"## {heading}\n\n{body}" for heading, body in origin.sections if body),
    ]
    return "\n\n".join(blocks) + "\n"


def _loading(made: Exported) -> str:
    name = made.folder.absolute().name
    if made.cls is None:
        adapters = " The adapters are kept in it, not folded into the weights." if made.adapters else ""
        return (
            f"transformers has no class for this model: {made.reason}. It loads with `vlm_ablate`.{adapters}\n\n"
            "```python\n"
            "from vlm_ablate.checkpoints import load_checkpoint\n\n"
            f'vlm = load_checkpoint("{name}")\n'
            "```\n\n"
            f'or `vlm-ablate generate {name} --image photo.png "What is this?"`. `language/` (and `vision/`, if it is '
            "there) are checkpoints of transformers by themselves."
        )
    adapters = (
        "\nmodel = PeftModel.from_pretrained(model, f\"{folder}/adapter\")  # without the adapters this is the base\n"
        if made.adapters
        else ""
    )
    peft = "from peft import PeftModel\n" if made.adapters else ""
    remarks = "".join(f"\n\nNote: {remark}." for remark in made.remarks)
    check = ""
    if made.check:
        check = f"\n\nChecked when it was written, against the run's own model and data: {made.check}."
    return (
        f"`{made.cls}` of transformers.\n\n"
        "```python\n"
        f"{peft}from PIL import Image\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        f'folder = "{name}"\n'
        "processor = AutoProcessor.from_pretrained(folder)\n"
        f"model = AutoModelForImageTextToText.from_pretrained(folder)\n{adapters}"
        'question = [{"type": "image"}, {"type": "text", "text": "What is this?"}]\n'
        'messages = [{"role": "user", "content": question}]\n'
        "prompt = processor.apply_chat_template(messages, add_generation_prompt=True)\n"
        'inputs = processor(images=[Image.open("photo.png")], text=prompt, return_tensors="pt")\n'
        "print(processor.batch_decode(model.generate(**inputs, max_new_tokens=20), skip_special_tokens=True))\n"
        "```" + check + remarks
    )


def table(rows: Iterable[tuple[str, Any]]) -> str:
    """Two columns without a head; empty where there are no rows."""
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
