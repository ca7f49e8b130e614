"""The runs that were ever asked for in a home, and which of them a name means. Nothing is read but each `run.json`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vlm_ablate.errors import StorageError, UnknownNameError, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.runs.folder import RunFolder
from vlm_ablate.tracking import schema

_KEY = re.compile(r"[0-9a-f]{2,12}")
_LAST_KEY = re.compile(r"(?P<name>.*\S)\s+[(\[]?(?P<key>[0-9a-f]{4,12})[)\]]?\s*")
"""A name with a key behind it, in brackets or not. Shorter ones are seeds."""
SHOWN = 8
"""Digits of an id that messages show; enough to name it."""


class RunNotUsable(VlmAblateError):
    """A run that exists but has no model to give."""


def asked_for(home: Home) -> Iterator[tuple[RunFolder, dict[str, Any]]]:
    """Every run that was ever asked for here: its folder and what `run.json` says. What cannot be read is passed by."""
    for name in sorted(os.listdir(home.runs)) if home.runs.is_dir() else ():
        folder = RunFolder(home.runs / name)
        try:
            body = folder.read()
        except StorageError:
            continue
        if body and names_run(body):
            yield folder, body


def names_run(body: Mapping[str, Any]) -> bool:
    """Whether what a `run.json` says has all by which a run is found."""
    spec, stages = body.get("spec"), body.get("stages")
    if not (isinstance(spec, dict) and isinstance(body.get("id"), str) and isinstance(stages, list) and stages):
        return False
    labels = all(isinstance(spec.get(name), str) for name in ("experiment", "arm", "label", "scale"))
    return labels and isinstance(spec.get("seed"), int) and all(isinstance(key, str) for key in stages)


def named_run(name: str, home: Home) -> dict[str, Any]:
    """What `run.json` says of the run of that name in a home; `find.find_run` says what a name may be.

    Raises:
        UnknownNameError: no such run.
        RunNotUsable: several runs of that name.
    """
    bodies = [body for _, body in asked_for(home)]
    found = [b for b in bodies if _has_key(b, name) or _is_called(b["spec"], name)]
    if not found and (parts := _LAST_KEY.fullmatch(name)):
        found = [b for b in bodies if _has_key(b, parts["key"]) and _is_called(b["spec"], parts["name"])]
    different = {tuple(body["stages"]): body for body in sorted(found, key=_preference)}
    if len(different) == 1:
        return next(iter(different.values()))
    if found:
        names = "; ".join(f"{full_name(body['spec'])} {body['id'][:SHOWN]}" for body in different.values())
        raise RunNotUsable(f"{name!r} names {len(different)} runs: {names}", hint="write one of these, or its key")
    known = [full_name(body["spec"]) for body in bodies] + [
        f"{b['spec']['arm']} seed {b['spec']['seed']}" for b in bodies
    ]
    raise UnknownNameError(f"run (in {home.runs})", name, dict.fromkeys(known))


def _preference(body: dict[str, Any]) -> tuple[bool, int]:
    """Of runs with the same weights the last one that ended well is taken."""
    return body.get("status") == schema.FINISHED, int(body.get("started_ms") or 0)


def full_name(spec: dict[str, Any]) -> str:
    """A name that tells a run from all others but those with other settings: experiment, arm, seed, scale."""
    return f"{spec['experiment']} {spec['arm']} seed {spec['seed']} {spec['scale']}"


def _has_key(body: dict[str, Any], key: str) -> bool:
    """Whether the run's id, or the key of its weights, begins so."""
    return bool(_KEY.fullmatch(key)) and any(known.startswith(key) for known in (body["id"], *body["stages"][-1:]))


def _is_called(spec: dict[str, Any], name: str) -> bool:
    """Whether `name` is the beginning of the run's words (experiment, arm, seed, scale), with or without those of the
    experiment and the seed; or its label and seed."""
    if name.strip() == f"{spec['label']} · seed {spec['seed']}":
        return True
    wanted, arm, scale = _words(name), _words(spec["arm"]), _words(spec["scale"])
    experiment: str = spec["experiment"]
    starts: list[list[str]] = [[], _words(experiment.rpartition("/")[2]), _words(experiment)]
    whole = [[*start, *arm, *seed, *scale] for start in starts for seed in ([str(spec["seed"])], [])]
    return bool(wanted) and any(words[: len(wanted)] == wanted for words in whole)


def _words(name: str) -> list[str]:
    """`arm · seed 0 · laptop`, `arm seed 0`, `arm/0` -> [arm, 0, ...]."""
    plain = re.sub(r"\bseed[\s=:_-]*(\d+)", r" \1", name)
    return [word for word in re.split(r"[\s·/,@]+", plain) if word]
