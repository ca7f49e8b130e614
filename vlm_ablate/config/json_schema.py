"""JSON Schemas of experiment and scale files, for editors (yaml-language-server) and other tools."""

from __future__ import annotations

from typing import Any, Literal

from vlm_ablate.config.experiment import Experiment
from vlm_ablate.config.scale import Scale

FileKind = Literal["experiment", "scale"]

_MAY_BE_NULL = ("stages", "benchmarks")
"""Mappings of which a file leaves out an entry by `NAME: null`."""


def whole_schema(kind: FileKind = "experiment") -> dict[str, Any]:
    """Schema of one kind of file with all that it inherits, with the fields of every registered part.

    Nothing is required in a stage's `data`, which is merged over the file's.
    """
    schema = (Experiment if kind == "experiment" else Scale).model_json_schema()
    if kind == "experiment":
        parts = schema["$defs"]
        parts["DataConfig"].pop("required")
        parts["RunStage"]["required"].remove("data")
        schema["properties"]["data"] = {"$ref": "#/$defs/DataConfig"}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    base: dict[str, Any] = {"description": "File or files to inherit from, relative to this one."}
    base["anyOf"] = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    schema["properties"] = {"base": base, **schema["properties"]}
    schema.pop("required", None)
    return schema


def file_schema(kind: FileKind = "experiment") -> dict[str, Any]:
    """Schema of one file as it is written: as `whole_schema`, but nothing is required that `base` may bring, and a
    mapping that is merged may say `replace: true`.

    What stands in a list is not merged, and is whole.
    """
    schema = whole_schema(kind)
    whole = {item["$ref"] for item in _items(schema) if "$ref" in item}
    for name, part in schema["$defs"].items():
        if f"#/$defs/{name}" not in whole:
            _loosen(part)
    _loosen({key: value for key, value in schema.items() if key != "$defs"})
    return schema


def _items(node: Any) -> list[dict[str, Any]]:
    """What lists hold, anywhere below a node."""
    below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    here = [node["items"]] if isinstance(node, dict) and isinstance(node.get("items"), dict) else []
    return here + [item for each in below for item in _items(each)]


def _loosen(node: Any) -> None:
    """Let everything below a node be merged over something, in place."""
    if isinstance(node, list):
        for each in node:
            _loosen(each)
    if not isinstance(node, dict):
        return
    for each in node.values():
        _loosen(each)
    for name in _MAY_BE_NULL:
        entry = node.get("properties", {}).get(name)
        if isinstance(entry, dict) and "$ref" in entry.get("additionalProperties", {}):
            entry["additionalProperties"] = {"anyOf": [entry["additionalProperties"], {"type": "null"}]}
    if node.get("type") == "object":
        node.pop("required", None)
        node["properties"] = {**node.get("properties", {}), "replace": _REPLACE}


_REPLACE = {"type": "boolean", "description": "true: instead of what is merged beneath it."}
