"""What every pydantic model of a YAML file shares: unknown keys are errors, values are immutable."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny

from vlm_ablate.errors import UnknownNameError
from vlm_ablate.registry import Registry


class Strict(BaseModel):
    """A model that refuses unknown keys and is frozen once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


class ComponentConfig(Strict):
    """Base of the configuration of a registered part; `name` selects the registry entry."""

    name: str
    """Registry name of the part."""


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

    return Annotated[SerializeAsAny[ComponentConfig], BeforeValidator(parse)]
