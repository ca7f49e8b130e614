"""What runs read that is not of this package: weights, data and benchmarks, here or missing, and how large."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlm_ablate.config.model import RUN, WHOLE
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.data.sources.configs import RecordsConfig
from vlm_ablate.data.sources.kept import find_kept, keep
from vlm_ablate.data.sources.rows import load_hub
from vlm_ablate.errors import AssetMissing, VlmAblateError
from vlm_ablate.evaluation.benchmarks.configs import HubBenchmarkConfig
from vlm_ablate.evaluation.material import splits_asked
from vlm_ablate.models.pretrained import WANTED_FILES, resolve, tensor_names
from vlm_ablate.registry import benchmarks, sources

if TYPE_CHECKING:
    from vlm_ablate.evaluation.benchmarks.base import Split

Kind = Literal["weights", "data", "benchmark"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Need:
    """One thing that runs read, and whether it is here."""

    kind: Kind
    id: str
    """Hub id or local path."""
    what: str
    """Which part of it, e.g. a split."""
    config: Any
    """Of the part that reads it; for weights the revision."""
    arms: tuple[str, ...] = ()
    here: bool = False
    bytes: int | None = None
    """On this machine, or where it is not here, on the hub; None: not known."""
    problem: str = ""
    """Why it is not here, or cannot be read."""

    @property
    def hub(self) -> bool:
        """Whether it is a repository of the hub."""
        return not Path(self.id).expanduser().exists() and self.id.count("/") == 1


@dataclass
class _Found:
    """Needs by what tells them apart, with the arms that have them."""

    by_key: dict[tuple[str, ...], Need] = field(default_factory=dict)

    def add(self, arm: str, kind: Kind, id: str, what: str, config: Any) -> None:
        """Note that an arm reads it."""
        key = (kind, id, what)
        known = self.by_key.get(key) or Need(kind, id, what, config)
        arms = known.arms if arm in known.arms else (*known.arms, arm)
        self.by_key[key] = replace(known, arms=arms)


def needs_of(arms: Mapping[str, RunConfig]) -> list[Need]:
    """What some arms read, each once: weights, then data, then benchmarks. What the package brings is no need."""
    found = _Found()
    for arm, config in arms.items():
        model = config.model
        for name, part in (("vision", model.vision), ("language", model.language)):
            if id := getattr(part, "id", None):
                revision = getattr(part, "revision", None)
                found.add(arm, "weights", id, f"{name}{_at(revision)}", revision)
        for part, id in model.starts.items():
            if not id.startswith(RUN):
                found.add(arm, "weights", id, "whole model" if part == WHOLE else part, None)
    for arm, config in arms.items():
        for stage in config.stages.values():
            for entry in stage.data.mixture.values():
                if isinstance(entry.source, RecordsConfig):
                    found.add(arm, "data", entry.source.id, _rows(entry.source), entry.source)
    for arm, config in arms.items():
        for asked, splits in splits_asked(config):
            for split in splits:
                if isinstance(asked.benchmark, HubBenchmarkConfig):
                    id, what = _split(asked.benchmark, split)
                    found.add(arm, "benchmark", id, what, (asked.benchmark, split))
    return list(found.by_key.values())


def _at(revision: str | None) -> str:
    return f" at {revision}" if revision else ""


def _split(asked: HubBenchmarkConfig, split: Split) -> tuple[str, str]:
    """Id of the data set that a split is read from, and which part of it."""
    written = asked.splits.get(split, split)
    if other := asked.elsewhere(split):
        return other, written.removeprefix(f"{other}:")
    return asked.id, f"{' '.join(filter(None, (asked.subset, written)))}{_at(asked.revision)}"


def _rows(source: RecordsConfig) -> str:
    part = " ".join(filter(None, (source.subset or source.hub_subset, source.split)))
    amount = ""  # of what is not a stream all is downloaded, whatever is used of it
    if source.streaming:
        amount = f"the first {source.rows:,} rows of " if source.rows else "a stream of "
    return f"{amount}{part}{_at(source.revision)}"


def looked_at(need: Need) -> Need:
    """The need with whether it is here; nothing is downloaded, whatever is allowed."""
    try:
        if need.kind == "weights":
            folder = _weights(need)
            return replace(need, here=True, bytes=_size(folder), problem="")
        if need.kind == "data":
            return _looked_at_data(need)
        config, split = need.config
        benchmarks.build(config).open(split)
        local = Path(need.id).expanduser()
        return replace(need, here=True, bytes=_size(local) if local.exists() else None, problem="")
    except VlmAblateError as error:
        return replace(need, here=False, problem=error.message)


def _looked_at_data(need: Need) -> Need:
    if need.config.streaming and need.hub:
        file = find_kept(need.config)
        if file is None:
            raise AssetMissing(f"the first rows of {need.id!r} are not kept on this machine")
        return replace(need, here=True, bytes=file.stat().st_size, problem="")
    len(sources.build(need.config))
    local = Path(need.id).expanduser()
    return replace(need, here=True, bytes=_size(local) if local.exists() else None, problem="")


def _weights(need: Need) -> Path:
    folder = resolve(need.id, need.config)
    if not any(folder.glob("*.bin")):  # which transformers reads too, of a local folder
        tensor_names(folder)  # a snapshot may hold no more than the configuration that a plan read
    return folder


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def size_on_hub(need: Need) -> Need:
    """The need with the bytes that the hub would send; of a stream, or where it does not say, they stay unknown."""
    from fnmatch import fnmatch

    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if need.kind == "data" and need.config.streaming:
        return need
    try:
        api = HfApi()
        if need.kind == "weights":
            files = api.model_info(need.id, revision=need.config, files_metadata=True).siblings or []
            return replace(
                need, bytes=sum(f.size or 0 for f in files if any(fnmatch(f.rfilename, p) for p in WANTED_FILES))
            )
        config = need.config if need.kind == "data" else need.config[0]
        own = need.id == config.id  # or one that a benchmark takes a split from
        subset = (config.subset or getattr(config, "hub_subset", None)) if own else None
        revision = config.revision if own else None
        files = api.dataset_info(need.id, revision=revision, files_metadata=True).siblings or []
        ours = [f for f in files if subset is None or f"{subset}/" in f.rfilename] or files
        return replace(need, bytes=sum(f.size or 0 for f in ours))
    except (HfHubHTTPError, OSError, ValueError) as error:
        return replace(need, problem=f"the hub does not tell its size: {str(error).splitlines()[0]}")


def fetched(need: Need, progress: Progress | None = None) -> Need:
    """The need brought to this machine from the hub: downloads must be allowed.

    Raises:
        VlmAblateError: it cannot be had.
    """
    if need.kind == "data" and need.config.streaming:
        keep(need.config, load_hub(need.config), progress)
    return looked_at(need)
