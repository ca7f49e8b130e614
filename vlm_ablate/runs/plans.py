"""Plans that were made before, kept in the home's cache: the same plan is read in a second, without torch.

A plan follows from a configuration, the sample, what is shared, this package, the libraries that build models, and the
files of the model's parts. The name of a kept plan covers all of them, so that none is ever out of date; of files it
takes sizes and times, as `make` does, and the contents of small ones. Plans with parts of plug-ins are not kept, for
nobody knows what such a part reads.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from vlm_ablate.accounting.plans import ModelPlan, SampleShape, Sharding
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import AssetMissing, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.runs.fingerprints import MISSING, Part, code_fingerprint, id_fingerprint, part_files, registry_of
from vlm_ablate.sealed import sealed, unsealed
from vlm_ablate.storage import write_atomically

KEPT = 500
"""Plans; the oldest go when there are more."""
_LIBRARIES = ("torch", "transformers", "peft", "timm", "tokenizers", "huggingface-hub", "safetensors", "onnx", "numpy")
_PACKAGE = Path(__file__).parents[1]
_SMALL = 2**20
_READS = (".py", ".json", ".yaml")
"""Files of this package that are read whole; of others (weights of small models) the size."""


class KeptPlans:
    """The kept plans of a home.

    Args:
        sample: what operations are counted for.
        shards: devices of a group.
        sharding: what they hold a share of.
        home: None: the default one.
    """

    def __init__(self, sample: SampleShape, shards: int, sharding: Sharding, home: Home | None = None) -> None:
        self._asked = {"sample": asdict(sample), "shards": shards, "sharding": str(sharding)}
        self._folder = (home or Home.default()).cache / "plans"

    def plan(self, config: RunConfig, make: Callable[[RunConfig], ModelPlan]) -> ModelPlan:
        """The plan of a run: a kept one, or what `make` gives, which is kept then."""
        key = self._key(config)
        found = self._read(key) if key else None
        if found is not None:
            return found
        plan = make(config)
        if key and key == self._key(config):  # what was downloaded or changed meanwhile would have another name
            self._write(key, plan)
        return plan

    def _key(self, config: RunConfig) -> str | None:
        """None where a plan must not be kept."""
        model = config.model
        states = [part_state(part) for part in (model.vision, model.language, model.connector, model.architecture)]
        if None in states:
            return None
        starts = [_files_state(id, None) for id in model.starts.values()]
        states += starts or [None]
        body = [config.model_dump_json(), self._asked, states, _software()]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24]

    def _read(self, key: str) -> ModelPlan | None:
        try:
            body = unsealed((self._folder / f"{key}.json").read_bytes())
            plan: ModelPlan = _adapter().validate_python(body["plan"])
            return plan
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # not there, or damaged: made anew

    def _write(self, key: str, plan: ModelPlan) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / f"{key}.json", sealed({"plan": asdict(plan)}))
            files = sorted(self._folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
            for file in files[:-KEPT]:
                file.unlink(missing_ok=True)
        except (OSError, VlmAblateError):
            pass  # it is only slower next time


def part_state(part: Part) -> str | None:
    """What a part's files are now, without reading weights; None where a plug-in brings the part."""
    registry = registry_of(type(part))
    if registry is None or code_fingerprint(registry, part.name) is not None:
        return None
    own = getattr(part, "fingerprint", None)
    if callable(own):
        try:
            said: str | list[Path] = own()
            return said if isinstance(said, str) else _state(said)
        except (VlmAblateError, OSError):
            return MISSING
    return _files_state(getattr(part, "id", None), getattr(part, "revision", None))


def _files_state(id: str | None, revision: str | None) -> str:
    try:
        local = part_files(id)
        return id_fingerprint(id, revision) if local is None else _state(local)
    except (AssetMissing, OSError):
        return MISSING


def _state(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(f"{file.absolute()}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}\0".encode())
        if stat.st_size <= _SMALL:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:24]


@cache
def _software() -> dict[str, str]:
    """What plans are computed with: this package's files, and versions."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    digest = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            content = file.read_bytes() if file.suffix in _READS else str(file.stat().st_size).encode()
            digest.update(f"{file.relative_to(_PACKAGE)}\0{len(content)}\0".encode() + content)
    return found | {"vlm_ablate": digest.hexdigest()}


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(ModelPlan)
