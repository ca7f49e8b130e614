"""A finished run as a checkpoint folder: its model, and what its card says of the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlm_ablate.checkpoints.card import table
from vlm_ablate.checkpoints.export import export
from vlm_ablate.checkpoints.exported import Exported, Origin
from vlm_ablate.config.data import Preparation
from vlm_ablate.home import Home
from vlm_ablate.runs.find import FinishedRun, load_run
from vlm_ablate.runs.folder import StageFolder
from vlm_ablate.tracking import schema

if TYPE_CHECKING:
    from vlm_ablate.config.stages import Stage


def export_run(
    found: FinishedRun,
    folder: Path,
    *,
    keep_adapters: bool = False,
    force: bool = False,
    check: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Exported:
    """Write a run's model into `folder`; see `checkpoints.export.export` for the arguments and what is raised."""
    origin = origin_of(found)
    return export(
        load_run(found), origin, folder, keep_adapters=keep_adapters, force=force, check=check, dtype=dtype
    )


def origin_of(found: FinishedRun) -> Origin:
    """What an export says of a run."""
    spec, evaluation = found.spec, found.spec.config.evaluation
    return Origin(
        name=spec.run_name,
        data=Preparation(image=evaluation.image, prompt=evaluation.prompt),
        title=f"{spec.label or spec.arm} · seed {spec.seed} · {spec.scale}",
        tags=(spec.config.model.architecture.name, spec.config.model.connector.name),
        sections=(
            ("The run", table(_run_rows(found))),
            ("The model", table(_model_rows(found))),
            ("Training", table((name, _stage(stage)) for name, stage in spec.config.stages.items())),
            ("What stands in for the paper's parts", table(spec.stand_ins.items())),
            ("What else the scale changed", table(spec.scaled.items())),
            ("Scores", _scores(found)),
            ("Licences", _licences(found)),
        ),
        plugins=spec.plugins,
        run=spec.to_dict(),
    )


def _run_rows(found: FinishedRun) -> list[tuple[str, Any]]:
    spec, tags = found.spec, found.record.tags if found.record else {}
    seeds = ", ".join(f"{name} {value}" for name, value in spec.seeds.model_dump().items())
    rows = [
        ("experiment", spec.experiment),
        ("arm", spec.arm),
        ("seed", f"{spec.seed} ({seeds})"),
        ("scale", spec.scale),
        ("paper's table", spec.paper),
        ("paper's cell", ", ".join(f"{k}: {v}" for k, v in (spec.cell or {}).items())),
        ("id", spec.id),
        ("started from", ", ".join(f"{id} ({part})" for part, id in spec.config.model.starts.items())),
        ("data fingerprint", tags.get(schema.DATA_FINGERPRINT)),
        ("code", tags.get(schema.GIT)),
        ("versions", tags.get(schema.VERSIONS)),
    ]
    return [(name, value) for name, value in rows if value]


def _model_rows(found: FinishedRun) -> list[tuple[str, str]]:
    model, image = found.spec.config.model, found.spec.config.evaluation.image
    parts = [(name, _fields(getattr(model, name).model_dump())) for name in _PARTS]
    return [*parts, ("image", _fields(image.model_dump())), ("prompt format", found.spec.config.evaluation.prompt)]


_PARTS = ("vision", "language", "connector", "architecture")


def _fields(values: dict[str, Any]) -> str:
    name = values.pop("name", None)
    rest = ", ".join(f"{k} {v}" for k, v in values.items() if v is not None)
    return f"**{name}** {rest}".strip() if name else rest


def _stage(stage: Stage) -> str:
    kinds = {name: getattr(stage, name) for name in ("vision", "language", "connector")}
    how = ", ".join(f"{name} {getattr(kind, 'value', kind)}" for name, kind in kinds.items())
    rank = f", r {stage.lora.r}" if {"lora", "dora"} & {getattr(k, "value", k) for k in kinds.values()} else ""
    return f"{stage.steps} steps of {stage.batch_size}, learning rate {stage.learning_rate:g}; {how}{rank}"


def _scores(found: FinishedRun) -> str:
    scores = found.record.scores if found.record else []
    if not scores:
        return ""
    rows = [
        (f"{s['column']}{' (images withheld)' if s.get('blind') else ''}",
         f"{s['score']:.2f} ({s['scorer']}, {s['items']} items of {s['benchmark']}, {s['shots']} shots)")
        for s in scores
    ]  # fmt: skip
    return table(rows)


def _licences(found: FinishedRun) -> str:
    model = found.spec.config.model
    starts = [*model.starts.values(), *(getattr(getattr(model, part), "id", None) for part in ("vision", "language"))]
    named = ", ".join(f"`{start}`" for start in dict.fromkeys(starts) if start)
    text = "The weights carry on from the parts above"
    text += f" ({named}); their licences apply." if named else "; their licences apply."
    trained = _materials(_trained(found.results.outcomes, found.home))
    scored = _materials(found.results.score_records())
    tail = "Trained on:\n\n" + table(trained) if trained else "The licences of the data are in the run's record."
    asked = "\n\nScored on:\n\n" + table(scored) if scored else ""
    return f"{text}\n\n{tail}{asked}"


def _trained(outcomes: Sequence[Mapping[str, Any]], home: Home) -> Iterator[Mapping[str, Any]]:
    """Outcomes of stages, and of those of other runs that the first of them started from."""
    yield from outcomes
    start = outcomes[0].get("init_from", {}) if outcomes else {}
    for told in [start] if "id" in start else start.values():
        if told.get("type") == "run":
            yield from _trained(_until(told["stage"], home), home)


def _until(name: str | None, home: Home) -> list[dict[str, Any]]:
    """Outcomes of a stage and of those before it, in order."""
    if name is None:
        return []
    stage = StageFolder(home.stages / name)
    return [*_until((stage.manifest() or {}).get("before"), home), stage.outcome() or {}]


def _materials(told: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each material that stages or scores tell of, once, and its licence."""
    records = [record for part in told for record in part.get("licences", ())]
    fields = ("licence", "attribution", "version")
    return sorted({(r.get("name", ""), ", ".join(r[field] for field in fields if r.get(field))) for r in records})
