"""JSON Schemas of experiment and scale files, for editors (yaml-language-server) and other tools."""

from __future__ import annotations

from typing import Any, Literal

from vlm_ablate.config.experiment import Experiment
from vlm_ablate.config.scale import Scale

FileKind = Literal["experiment", "scale"]


def file_schema(kind: FileKind = "experiment") -> dict[str, Any]:
    """Schema of one kind of file, with the fields of every registered part.

    Nothing is required at the top level of an experiment, since `base:` may bring it, nor in a stage's `data`, which
    is merged over the file's.
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
