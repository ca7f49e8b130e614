"""The README.md of an exported checkpoint: which run it is, what stood in for what, and how to load it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vlm_ablate.tracking import schema

if TYPE_CHECKING:
    from vlm_ablate.checkpoints.export import Exported
    from vlm_ablate.config.stages import Stage
    from vlm_ablate.runs.find import FinishedRun

CARD = "README.md"


def model_card(found: FinishedRun, made: Exported) -> str:
    """The card as Markdown."""
    spec = found.spec
    head = {
        "library_name": "transformers" if made.cls else "vlm_ablate",
        "pipeline_tag": "image-text-to-text",
        "tags": ["vlm_ablate", "ablation", spec.config.model.architecture.name, spec.config.model.connector.name],
    }
    blocks = [
        "---\n" + "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items()) + "\n---",
        f"# {spec.label or spec.arm} · seed {spec.seed} · {spec.scale}",
        "One run of an ablation: made to be compared with the other arms of its table, not to be used as an assistant.",
        "## Loading it\n\n" + _loading(made),
        "## The run\n\n" + _table(_run_rows(found)),
        "## The model\n\n" + _table(_model_rows(found)),
        "## Training\n\n" + _table([(name, _stage(stage)) for name, stage in spec.config.stages.items()]),
        _changes("What stands in for the paper's parts", spec.stand_ins),
        _changes("What else the scale changed", spec.scaled),
        _scores(found),
        _licences(found),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


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
        "\nmodel.load_adapter(f\"{folder}/adapter\")  # the run's adapters; without them this is the base\n"
        if made.adapters
        else ""
    )
    remarks = "".join(f"\n\nNote: {remark}." for remark in made.remarks)
    check = ""
    if made.check:
        check = f"\n\nChecked when it was written, against the run's own model and data: {made.check}."
    return (
        f"`{made.cls}` of transformers.\n\n"
        "```python\n"
        "from PIL import Image\n"
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


def _run_rows(found: FinishedRun) -> list[tuple[str, Any]]:
    spec, tags = found.spec, found.record.tags if found.record else {}
    seeds = ", ".join(f"{name} {value}" for name, value in spec.seeds.model_dump().items())
    rows = [
        ("experiment", spec.experiment),
        ("arm", spec.arm),
        ("seed", f"{spec.seed} ({seeds})"),
        ("scale", spec.scale),
        ("paper's table", spec.paper),
        ("paper's cell", ", ".join(f"{k}: {v}" for k, v in (spec.cell or {}).items())),
        ("hash", spec.hash),
        ("started from", spec.config.model.init_from),
        ("data fingerprint", tags.get(schema.DATA_FINGERPRINT)),
        ("code", tags.get(schema.GIT)),
        ("versions", tags.get(schema.VERSIONS)),
    ]
    return [(name, value) for name, value in rows if value]


def _model_rows(found: FinishedRun) -> list[tuple[str, str]]:
    model, image = found.spec.config.model, found.spec.config.evaluation.image
    parts = [(name, _fields(getattr(model, name).model_dump())) for name in _PARTS]
    return [*parts, ("image", _fields(image.model_dump())), ("prompt format", found.spec.config.evaluation.prompt)]


_PARTS = ("vision", "language", "connector", "architecture")


def _fields(values: dict[str, Any]) -> str:
    name = values.pop("name", None)
    rest = ", ".join(f"{k} {v}" for k, v in values.items() if v is not None)
    return f"**{name}** {rest}".strip() if name else rest


def _stage(stage: Stage) -> str:
    kinds = {name: getattr(stage, name) for name in ("vision", "language", "connector")}
    how = ", ".join(f"{name} {getattr(kind, 'value', kind)}" for name, kind in kinds.items())
    rank = f", r {stage.lora.r}" if {"lora", "dora"} & {getattr(k, "value", k) for k in kinds.values()} else ""
    return f"{stage.steps} steps of {stage.batch_size}, learning rate {stage.learning_rate:g}; {how}{rank}"


def _changes(title: str, changes: dict[str, str]) -> str:
    return f"## {title}\n\n" + _table(list(changes.items())) if changes else ""


def _scores(found: FinishedRun) -> str:
    scores = found.record.scores if found.record else []
    if not scores:
        return ""
    rows = [
        (f"{s['column']}{' (images withheld)' if s.get('blind') else ''}",
         f"{s['score']:.2f} ({s['scorer']}, {s['items']} items of {s['benchmark']}, {s['shots']} shots)")
        for s in scores
    ]  # fmt: skip
    return "## Scores\n\n" + _table(rows)


def _licences(found: FinishedRun) -> str:
    records = schema.read_json_tag(found.record.tags, schema.LICENCES, []) if found.record else []
    model = found.spec.config.model
    starts = [model.init_from, *(getattr(getattr(model, part), "id", None) for part in ("vision", "language"))]
    named = ", ".join(f"`{start}`" for start in dict.fromkeys(starts) if start)
    text = "The weights carry on from the parts above"
    text += f" ({named}); their licences apply." if named else "; their licences apply."
    told = ("licence", "attribution", "version")
    rows = {(r.get("name", ""), ", ".join(r[field] for field in told if r.get(field))) for r in records}
    tail = "Trained on:\n\n" + _table(sorted(rows)) if rows else "The licences of the data are in the run's record."
    return f"## Licences\n\n{text}\n\n{tail}"


def _table(rows: list[tuple[str, Any]]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
