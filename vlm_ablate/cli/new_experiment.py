"""The text of an experiment to begin with: it is loaded before it is given, so that it is never one that fails."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm_ablate.config.expand import LoadedExperiment

TEXT = """\
# What one field of a model decides. Validate, plan, run, look:
#
#   vlm-ablate validate {word}
#   vlm-ablate plan     {word}
#   vlm-ablate run      {word}
#   vlm-ablate table    {word}

base: {base}    # all that is not said here

name: {name}
title: {factor}
question: Does {factor} matter?

# Arms that differ in anything else are warned about.
factor: [{factor}]

# Each seed fixes initialisation and data order for all arms, so that arms are compared seed by seed.
seeds: [0, 1, 2]

# An arm is a small diff of the base, and `{{}}` the base itself. `replace` leaves out the arms that the base has.
arms:
  replace: true
{arms}

# What you expect, as an order or a difference; the table gives each a verdict.
table:
  claims:
    - text: {first} is better than {second}.
      better: {first}
      worse: {second}
"""


def draft(name: str, factor: str, values: Sequence[str] | None, base: str, file: Path) -> str:
    """The file's text.

    Args:
        factor: dotted path of a field.
        values: as written in YAML; None: the base's value, and its half or, of a choice, others.
        base: experiment or fragment.
        file: where the text will stand; the base is written relative to it, or whole where it is the package's.

    Raises:
        ConfigError: the text would not be valid: an unknown field, or values that do not fit.
        UnknownNameError: no such base.
        VlmAblateError: the field has no value from which others follow.
    """
    from vlm_ablate.config.expand import find_experiment
    from vlm_ablate.config.shipped import OWN

    source = find_experiment(base)
    own = source.is_relative_to(OWN) or not source.is_absolute()
    address = os.path.relpath(source, file.parent) if own else str(source)
    with TemporaryDirectory() as folder, _told_of(file, folder):
        place = Path(folder) / f"{file.stem}.yaml"
        write = partial(_text, name=name, factor=factor, file=file)
        whole = str(source.resolve())
        if values is None:
            probe = write(["base"], [None], base=whole)
            values = _others(factor, _value(_loaded(place, probe), factor))
        arms = _arms(factor, values)
        _loaded(place, write(arms, values, base=whole))
    return write(arms, values, base=address)


@contextmanager
def _told_of(file: Path, folder: str) -> Iterator[None]:
    """What is wrong with the text is told of the file that it would stand in, not of the folder where it is tried."""
    from vlm_ablate.errors import ConfigError

    try:
        yield
    except ConfigError as error:
        shown = [
            replace(p, file=str(file)) if p.file.startswith((folder, os.path.realpath(folder))) else p
            for p in error.problems
        ]
        raise ConfigError(shown, hint=error.hint) from error


def _loaded(place: Path, text: str) -> LoadedExperiment:
    from vlm_ablate.config.expand import load_experiment

    place.write_text(text, encoding="utf-8")
    return load_experiment(place, scale="laptop")


def _text(arms: Sequence[str], values: Sequence[Any], *, base: str, name: str, factor: str, file: Path) -> str:
    diffs = ["{}" if value is None else f"{{set: {{{factor}: {value}}}}}" for value in values]
    lines = [f"  {arm}: {diff}" for arm, diff in zip(arms, diffs, strict=True)]
    told = {"base": _scalar(base), "name": _scalar(name), "word": shlex.quote(str(file))}
    text = TEXT.format(factor=factor, arms="\n".join(lines), first=arms[0], second=arms[-1], **told)
    return text if len(arms) > 1 else text.partition("# What you expect")[0] + "table: {claims: []}\n"


def _value(loaded: LoadedExperiment, factor: str) -> Any:
    """The base's value of the field at the laptop scale.

    Raises:
        UnknownNameError: no such field.
    """
    from vlm_ablate.errors import UnknownNameError

    (arm,) = loaded.arms.values()
    value: Any = arm.config.model_dump()
    for word in factor.split("."):
        if not isinstance(value, dict) or word not in value:
            raise UnknownNameError("field", factor, list(value) if isinstance(value, dict) else [])
        value = value[word]
    return value


def _others(factor: str, value: Any) -> list[str]:
    """The value and one that differs.

    Raises:
        VlmAblateError: none follows from it.
    """
    from vlm_ablate.errors import VlmAblateError

    if isinstance(value, bool):
        return ["true", "false"]
    if isinstance(value, int) and value > 1:
        return [str(value), str(value // 2)]
    if isinstance(value, float) and value:
        return [repr(value), repr(value / 2)]
    said = "a mapping" if isinstance(value, dict) else repr(value)
    told = f"{factor} is {said} in the base, from which no other value follows"
    raise VlmAblateError(told, hint="name them with --values")


def _arms(factor: str, values: Sequence[str]) -> list[str]:
    """A name for each value: the field's and the value, and a number where two values are spelt alike in letters."""
    names: list[str] = []
    for value in values:
        word = re.sub(r"[^\w]+", "_", f"{factor.rpartition('.')[2]}_{value}").strip("_")
        free = (name for number in count(1) if (name := word if number == 1 else f"{word}_{number}") not in names)
        names.append(next(free))
    return names


def _scalar(text: str) -> str:
    """A text as YAML has it: in quotes where it would be read as something else."""
    import yaml

    number = re.match(r"[-+]?\.?(\d|inf|nan)", text, re.IGNORECASE)  # more of these than PyYAML knows are numbers here
    style = "'" if number else None
    return yaml.safe_dump(text, allow_unicode=True, width=math.inf, default_style=style).partition("\n")[0]
