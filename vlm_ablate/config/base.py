"""What every pydantic model of a YAML file shares: unknown keys are errors, values are immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializeAsAny,
)
from pydantic_core import CoreSchema, to_jsonable_python

from vlm_ablate.errors import UnknownNameError
from vlm_ablate.registry import Registry

Decides = Literal["training", "score", "execution"]
"""What a field decides: the weights, a score of them, or only how either is computed."""


@dataclass(frozen=True)
class Marked:
    """What one field decides, where that is not what its class says: `Annotated[int, Marked("score")]`."""

    decides: Decides


class FieldError(ValueError):
    """Raised in a validator of a whole model when one field below it is at fault."""

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


def _make_strict(schema: Any) -> None:
    """Numbers, truth values and texts are what they are written as: no `true` for 1, no "5" for 5, nothing infinite.

    Enumerations, tuples and paths, which a file writes as texts and lists, and the keys of mappings, which JSON turns
    into texts, are read as ever.
    """
    if isinstance(schema, list | tuple):
        for item in schema:
            _make_strict(item)
    if not isinstance(schema, dict):
        return
    if schema.get("type") in ("int", "float", "bool", "str"):
        schema["strict"] = True
    if schema.get("type") == "float":
        schema["allow_inf_nan"] = False
    for key, value in schema.items():
        if key not in ("keys_schema", "metadata", "default", "serialization"):
            _make_strict(value)


class Strict(BaseModel):
    """A model that refuses unknown keys and wrong types of plain values, and is frozen once validated.

    `class Stage(Strict, decides="training")` says what its fields decide. A class without that takes it from the
    field that it stands in: an image preparation decides the weights in a stage and a score in the evaluation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)

    decides: ClassVar[Decides | None] = None

    def __init_subclass__(cls, decides: Decides | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if decides is not None:
            cls.decides = decides

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _make_strict(schema)
        return schema


def added(default: Any, **options: Any) -> Any:
    """A field that joined its model after runs had been recorded: at its default it is not written out.

    So a run keeps its hash, and is not done again, when a part learns to do more than it did.
    """
    return Field(default, exclude_if=lambda value: value == default, **options)


def whole_dump(value: Any) -> Any:
    """Plain data as `model_dump(mode="json")`, with the fields that joined later (`added`) at their defaults, too."""
    if isinstance(value, BaseModel):
        return {name: whole_dump(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): whole_dump(part) for key, part in value.items()}
    return to_jsonable_python(value)


class ComponentConfig(Strict):
    """Base of the configuration of a registered part; `name` selects the registry entry."""

    numerics: ClassVar[int] = 1
    """Of a model's part: raised when a change of its code moves digits. Runs with the part are then trained anew."""

    name: str
    """Registry name of the part."""


@dataclass(frozen=True)
class ComponentOf:
    """Marks a field that holds a part of `registry`: for the JSON Schema and for naming the nearest valid key."""

    registry: Registry[Any]

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """A bare name, or one object per registered part."""
        parts = [handler(entry.config.__pydantic_core_schema__) for entry in self.registry]
        for entry, part in zip(self.registry, parts, strict=True):
            part.setdefault("properties", {})["name"] = {"const": entry.name, "description": entry.summary}
            part["required"] = ["name", *(key for key in part.get("required", []) if key != "name")]
        return {"anyOf": [{"enum": self.registry.names()}, *parts]} if parts else {}


def component(registry: Registry[Any]) -> Any:
    """The annotated field type `{name: NAME, ...}`, validated by the config class that NAME registered.

    A bare string is short for `{name: string}`. Serialises with all fields of the concrete class.
    """

    def parse(value: Any) -> ComponentConfig:
        if isinstance(value, ComponentConfig):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            known = ", ".join(sorted(registry.names()))
            raise ValueError(f"must be a mapping with a `name`, one of: {known}")
        try:
            entry = registry[value["name"]]
        except UnknownNameError as error:
            raise ValueError(str(error)) from error
        part = entry.config.model_validate(value)
        assert isinstance(part, ComponentConfig)
        return part

    return Annotated[SerializeAsAny[ComponentConfig], BeforeValidator(parse), ComponentOf(registry)]
