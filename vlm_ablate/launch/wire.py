"""Events and outcomes as lines of JSON, for processes that share nothing but a folder."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from vlm_ablate.events import Event
from vlm_ablate.runs.outcome import RunOutcome

Message = tuple[Any, ...]
"""What a process says of a run: ("begun",); ("event", Event); and last one of
("done", RunOutcome);
("interrupted",): it stopped with a checkpoint, and the run can go on from there;
("elsewhere", why): another process has the run now;
("died", why): it was killed or crashed."""

_OUTCOME = "outcome"


def to_line(message: Message) -> bytes:
    """A message as one line. Numbers that are not finite are kept (a loss may be), and so is what is no text (the name
    of a file in an error)."""
    kind, *value = message
    body: dict[str, Any] = {"kind": kind}
    if value and isinstance(value[0], str):
        body["text"] = value[0]
    elif value:
        body |= {"type": _OUTCOME if isinstance(value[0], RunOutcome) else type(value[0]).__name__}
        body |= {"value": asdict(value[0])}
    return json.dumps(body).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """The inverse of `to_line`.

    Raises:
        ValueError: it is no such line.
    """
    body = json.loads(line)
    if not isinstance(body, dict) or not isinstance(body.get("kind"), str):
        raise ValueError(f"no message: {line[:80]!r}")
    if "type" not in body:
        return (body["kind"], str(body["text"])) if "text" in body else (body["kind"],)
    cls: Any = ({_OUTCOME: RunOutcome} | _events()).get(str(body["type"]))
    value = body.get("value")
    if cls is None or not isinstance(value, dict):
        raise ValueError(f"no message: {line[:80]!r}")
    known = {field.name for field in fields(cls)}
    given = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items() if name in known}
    try:
        return body["kind"], cls(**given)
    except TypeError as error:
        raise ValueError(f"no message: {line[:80]!r}") from error


def _events() -> dict[Any, Any]:
    return {cls.__name__: cls for cls in Event.__subclasses__()}
