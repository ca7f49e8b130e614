"""What runs would read: every source and every benchmark opened once, before anything is trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlm_ablate.config.diff import group_by_value, groups_text
from vlm_ablate.errors import AssetMissing, DataError, VlmAblateError
from vlm_ablate.evaluation.demonstrations import described
from vlm_ablate.evaluation.prompts import get_template
from vlm_ablate.registry import benchmarks, sources

if TYPE_CHECKING:
    from vlm_ablate.config.base import ComponentConfig
    from vlm_ablate.config.evaluation import BenchmarkEntry
    from vlm_ablate.config.run_config import RunConfig
    from vlm_ablate.evaluation.benchmarks.base import Split


@dataclass
class Material:
    """What is wrong with the material of some arms."""

    arms: Sequence[str] = ()
    """All that were looked over."""
    problems: dict[str, list[str]] = field(default_factory=dict)
    """What is wrong -> the arms that it stops."""
    missing: dict[str, list[str]] = field(default_factory=dict)
    """What is not on this machine -> the arms that are skipped for it."""
    hints: dict[str, None] = field(default_factory=dict)
    """What to do about problems, each once."""
    missing_hints: dict[str, None] = field(default_factory=dict)
    """What to do about what is missing."""

    def error(self) -> DataError | None:
        """All problems as one error; None without any."""
        if not self.problems:
            return None
        lines = (f"{self._named(arms)}: {text}" for text, arms in self.problems.items())
        return DataError("\n".join(lines), hint="; ".join(self.hints) or None)

    def warnings(self) -> list[str]:
        """What is missing, as one text."""
        if not self.missing:
            return []
        by_arms: dict[str, list[str]] = defaultdict(list)
        for text, arms in self.missing.items():
            by_arms[self._named(arms)].append(text)
        told = "; ".join(f"{', '.join(texts)} ({arms})" for arms, texts in by_arms.items())
        hint = f" ({'; '.join(self.missing_hints)})" if self.missing_hints else ""
        return [f"{told}; the arms that need it are skipped{hint}"]

    def _named(self, arms: Sequence[str]) -> str:
        return "all arms" if len(arms) == len(self.arms) > 1 else ", ".join(arms)


@dataclass
class _Part:
    """One source or benchmark, with everything that some arms ask of it."""

    config: ComponentConfig
    arms: list[str] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)


def look_over(arms: Mapping[str, RunConfig]) -> Material:
    """Open every source and benchmark that the arms name, equal ones once, and compare how columns are asked.

    Args:
        arms: name -> what its runs do.

    Returns:
        Everything that is wrong: folders, files, columns and splits that are not there, sources without a row, a
        benchmark that is asked for demonstrations, or in words, and has none; records that no table would put in one
        column.
    """
    found = Material(list(arms))
    for part in _parts(arms, _sources_of):
        _noted(found, part, _open_source, part.config)
    in_words = {part.config.model_dump_json(): part for part in _parts(arms, _ceilings_of)}
    for part in _parts(arms, _benchmarks_of):
        benchmark = _noted(found, part, benchmarks.build, part.config)
        for split in part.splits if benchmark is not None else ():
            _noted(found, part, benchmark.open, split)
        told = in_words.get(part.config.model_dump_json(), _Part(part.config))
        for split in told.splits if benchmark is not None else ():
            _noted(found, told, benchmark.open_in_words, split)
    for text, names in _unlike_columns(arms):
        found.problems[text] = names
    return found


def _open_source(config: ComponentConfig) -> None:
    if not len(sources.build(config)):
        raise DataError(f"source {_name(config)!r} has no row")


def _noted(found: Material, part: _Part, action: Callable[[Any], Any], argument: object) -> Any:
    """What an action gives; None where it fails, which is noted for the part's arms."""
    try:
        return action(argument)
    except VlmAblateError as error:
        missing = isinstance(error, AssetMissing)
        arms = (found.missing if missing else found.problems).setdefault(error.message, [])
        arms += [arm for arm in part.arms if arm not in arms]
        (found.missing_hints if missing else found.hints).update({error.hint: None} if error.hint else {})
        return None


def _name(config: ComponentConfig) -> str:
    return str(getattr(config, "name", type(config).__name__))


Needs = Callable[["RunConfig"], "Iterator[tuple[ComponentConfig, list[Split]]]"]


def _parts(arms: Mapping[str, RunConfig], needs: Needs) -> list[_Part]:
    """Equal parts once, in the order in which the arms name them."""
    parts: dict[str, _Part] = {}
    for arm, config in arms.items():
        for part, splits in needs(config):
            known = parts.setdefault(part.model_dump_json(), _Part(part))
            known.arms += [arm] if arm not in known.arms else []
            known.splits += [split for split in splits if split not in known.splits]
    return list(parts.values())


def _sources_of(config: RunConfig) -> Iterator[tuple[ComponentConfig, list[Split]]]:
    for stage in config.stages.values():
        for entry in stage.data.mixture.values():
            yield entry.source, []


def splits_asked(config: RunConfig) -> Iterator[tuple[BenchmarkEntry, list[Split]]]:
    """Each benchmark of a run with the splits that it reads of it."""
    evaluation = config.evaluation
    curve = evaluation.curve
    for column, entry in evaluation.benchmarks.items():
        splits: list[Split] = [entry.split]
        if evaluation.shots if entry.shots is None else entry.shots:
            splits.append("train")
        if curve and column in (curve.benchmarks or evaluation.benchmarks):
            splits.append("tune")
        yield entry, list(dict.fromkeys(splits))


def _benchmarks_of(config: RunConfig) -> Iterator[tuple[ComponentConfig, list[Split]]]:
    return ((entry.benchmark, splits) for entry, splits in splits_asked(config))


def _ceilings_of(config: RunConfig) -> Iterator[tuple[ComponentConfig, list[Split]]]:
    """The benchmarks whose pictures are told in words, with the split that is."""
    if config.evaluation.ceiling:
        yield from ((entry.benchmark, [entry.split]) for entry in config.evaluation.benchmarks.values())


def _unlike_columns(arms: Mapping[str, RunConfig]) -> Iterator[tuple[str, list[str]]]:
    """Columns whose records would differ in how they came about, so that `table` refuses them after all runs."""
    asked: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for arm, config in arms.items():
        for column in config.evaluation.benchmarks:
            asked[column][arm] = _protocol(config, column)
    for column, by_arm in asked.items():
        for what in next(iter(by_arm.values())):
            groups = group_by_value({arm: str(protocol[what]) for arm, protocol in by_arm.items()})
            if len(groups) > 1:
                text = f"column {column!r} would hold scores that no table compares: {what} {groups_text(groups)}"
                yield text, list(by_arm)


def _protocol(config: RunConfig, column: str) -> dict[str, Any]:
    """What a score record of a column will say, as far as it is known before."""
    evaluation = config.evaluation
    entry, drawn = evaluation.benchmarks[column], evaluation.demonstrations
    shots = evaluation.shots if entry.shots is None else entry.shots
    template = getattr(entry.benchmark, "template", None)
    return {
        "benchmark": entry.benchmark.name,
        "prompt": evaluation.prompt,
        "template": get_template(template).id if template else "the benchmark's own",
        "split": entry.split,
        "limit": entry.limit,
        "shots": shots,
        "demonstration seed": drawn.seed,
        "demonstrations": described(drawn, shots, config.model.vision.name),
    }
