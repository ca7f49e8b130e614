"""What every pydantic model of a YAML file shares: unknown keys are errors, values are immutable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, SerializeAsAny

from vlm_ablate.errors import UnknownNameError
from vlm_ablate.registry import Registry


class Strict(BaseModel):
    """A model that refuses unknown keys and is frozen once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


def added(default: Any, **options: Any) -> Any:
    """A field that joined its model after runs had been recorded: at its default it is not written out.

    So a run keeps its hash, and is not done again, when a part learns to do more than it did.
    """
    return Field(default, exclude_if=lambda value: value == default, **options)


class ComponentConfig(Strict):
    """Base of the configuration of a registered part; `name` selects the registry entry."""

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
        if not isinstance(value, dict) or "name" not in value:
            raise ValueError(f"a {registry.kind} is a mapping with a `name`, one of: {', '.join(registry.names())}")
        try:
            entry = registry[value["name"]]
        except UnknownNameError as error:
            raise ValueError(str(error)) from error
        return entry.config.model_validate(value)

    return Annotated[SerializeAsAny[ComponentConfig], BeforeValidator(parse), ComponentOf(registry)]
