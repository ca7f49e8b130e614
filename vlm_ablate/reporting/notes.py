"""Footnotes of a table: everything a reader must know to read its numbers, from the records."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

from vlm_ablate.reporting.rows import ArmRow
from vlm_ablate.reporting.select import Selection
from vlm_ablate.tracking import schema

Note = tuple[str, str]


def footnotes(selection: Selection, rows: Sequence[ArmRow], planned: Sequence[int]) -> tuple[Note, ...]:
    """(subject, text) in the order they are printed."""
    notes: list[Note] = [
        *_stand_ins(rows),
        *_scaled(selection),
        *_seeds(rows, planned),
        *_scoring(selection),
        *_unparsed(rows),
    ]
    notes += _arms(rows)
    notes += _data(selection)
    notes += _computed(selection)
    if selection.left_out:
        runs = _count(selection.left_out, "run")
        notes.append(("Left out", f"{runs} in another configuration (an earlier version of the file, or --set)."))
    return tuple(_merged(notes, [row.label for row in rows]))


DETAILS = frozenset({"Scaled", "Benchmarks", "Demonstrations", "Training data", "Material", "Health", "Computed"})
"""Subjects for those who check a number, not for those who read the table the first time."""


def _merged(notes: Iterable[Note], labels: Sequence[str]) -> Iterable[Note]:
    """Equal texts once, with all their subjects: `arm; arm: what holds for both`."""
    subjects: dict[str, dict[str, None]] = {}
    for subject, text in notes:
        subjects.setdefault(text, {})[subject] = None
    for text, about in subjects.items():
        yield ("All arms" if len(labels) > 1 and set(about) == set(labels) else "; ".join(about)), text


def _stand_ins(rows: Sequence[ArmRow]) -> Iterable[Note]:
    with_any = [row for row in rows if row.seeds]
    # By what is told: a source of two stages, of which arms have one or both, stands once with all of them.
    told = [dict.fromkeys((_part(path), what) for path, what in row.stand_ins.items()) for row in with_any]
    for (part, what), arms in _grouped(told).items():
        only = "" if len(arms) == len(with_any) else f" (in {_labels(with_any, arms)})"
        yield "Stand-in", f"{part}: {what}{only}"


def _part(path: str) -> str:
    """What of an arm has a stand-in at this path."""
    return "benchmark" if path.startswith("evaluation.") else path.rpartition(".")[2]


def _scaled(selection: Selection) -> Iterable[Note]:
    """Values that the scale changed, with the arms' own where they differ."""
    changed: dict[str, dict[str, None]] = {}
    for record in selection.records():
        for path, what in record.scaled.items():
            changed.setdefault(path, {})[str(what)] = None
    if changed:
        parts = _of_all_stages({path: " or ".join(values) for path, values in changed.items()})
        yield "Scaled", "; ".join(f"{path} {what}" for path, what in parts.items()) + "."


def _of_all_stages(changed: Mapping[str, str]) -> dict[str, str]:
    """By path; what is changed alike in every stage that has changes stands once, under `stages.*`."""
    stages = {path.split(".")[1] for path in changed if path.startswith("stages.")}
    alike: dict[tuple[str, str], set[str]] = {}
    for path, what in changed.items():
        if path.startswith("stages."):
            _, stage, field = path.split(".", 2)
            alike.setdefault((field, what), set()).add(stage)
    found: dict[str, str] = {}
    for path, what in changed.items():
        head, _, field = path.partition(".")
        field = field.partition(".")[2]
        everywhere = head == "stages" and len(stages) > 1 and alike[field, what] == stages
        found[f"stages.*.{field}" if everywhere else path] = what
    return found


def _grouped(items: Iterable[Iterable[tuple[str, str]]]) -> dict[tuple[str, str], list[int]]:
    """Item -> indices of the groups that have it, in order of first appearance."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, group in enumerate(items):
        for item in group:
            found.setdefault(item, []).append(i)
    return found


def _labels(rows: Sequence[ArmRow], indices: Iterable[int]) -> str:
    return "; ".join(rows[i].label for i in indices)


def _seeds(rows: Sequence[ArmRow], planned: Sequence[int]) -> Iterable[Note]:
    if counts := {len(row.scores[schema.MEAN]) for row in rows if row.scores[schema.MEAN]}:
        yield "Intervals", _intervals(rows, counts)
    for row in rows:
        scored = len(row.scores[schema.MEAN])
        unscored = {s: n for s in dict.fromkeys(row.seeds.values()) if s != schema.FINISHED and (n := _times(row, s))}
        if lacking := _times(row, schema.FINISHED) - scored:
            unscored["finished without every benchmark"] = lacking
        absent = len(set(planned) - set(row.seeds)) if row.seeds else 0
        if (scored and (unscored or absent)) or lacking:
            unscored |= {"not run": absent} if absent else {}
            rest = ", ".join(f"{n} {status}" for status, n in unscored.items())
            yield row.label, f"{_count(scored, 'seed')} scored, {rest}."


def _intervals(rows: Sequence[ArmRow], counts: Collection[int]) -> str:
    """What stands behind a mean and its half-width, of arms with so many seeds."""
    if counts == {1}:
        return "1 seed, so there is no interval and no two arms can be told apart."
    many = f"{max(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    text = (
        f"mean over {many} seeds ± half-width of the 95 % t-interval. A seed fixes initialisation and data order, "
        "the same for all arms, so differences between arms are paired by seed."
    )
    with_items = [bool((found := row.score()) and found.items) for row in rows if row.score()]
    if all(with_items):
        text += " They hold for other items of the same kinds, too."
    elif any(with_items):
        text += " Of arms with scores by item in all records they hold for other items of the same kinds, too."
    return text


def _times(row: ArmRow, status: str) -> int:
    return sum(s == status for s in row.seeds.values())


def _scoring(selection: Selection) -> Iterable[Note]:
    if not selection.protocols:
        return
    protocols = list(selection.protocols.values())
    common = {(p.shots, p.split) for p in protocols}
    parts = []
    for p in protocols:
        benchmark = [] if p.benchmark == p.column else [p.benchmark]
        own = [] if len(common) == 1 else [f"{p.shots}-shot on {p.split}"]
        how = f"{p.items} items ({p.split_hash[:8]}), template {p.template}, scorer {p.scorer} {p.scorer_version}"
        parts.append(f"{p.column}: {', '.join([*benchmark, *own, how])}")
    head = f"{protocols[0].shots}-shot on the {protocols[0].split} split. " if len(common) == 1 else ""
    yield "Benchmarks", f"{head}{'; '.join(parts)}."
    drawn = {(p.demonstrations, p.demonstration_seed) for p in protocols if p.shots}
    if drawn:
        text = "; ".join(f"{how}, seed {seed}" for how, seed in sorted(drawn))
        ranked = any(how.startswith("nearest") for how, _ in drawn)
        whose = "nearest by the features of each run's own encoder" if ranked else "the same for all arms and seeds"
        yield "Demonstrations", f"{text}; {whose}."


def _unparsed(rows: Sequence[ArmRow]) -> Iterable[Note]:
    parts = []
    for row in rows:
        counts = [f"{column} {n} of {of}" for column, (n, of) in row.unparsed.items() if n]
        parts += [f"{row.label}: {', '.join(counts)}"] if counts else []
    if parts:
        yield "Unreadable answers (counted as wrong)", "; ".join(parts) + "."


def _arms(rows: Sequence[ArmRow]) -> Iterable[Note]:
    for row in rows:
        if row.note:
            yield row.label, row.note
        if row.message and row.status in (schema.SKIPPED, schema.FAILED):
            yield row.label, f"{row.status}: {row.message}"


def _data(selection: Selection) -> Iterable[Note]:
    records = selection.records()
    seen: dict[int, dict[str, None]] = {}
    ended = [record for record in records if record.status in schema.DONE]
    for record in sorted(ended, key=lambda record: record.status == schema.DIVERGED):
        if found := record.tags.get(schema.DATA_FINGERPRINT):
            stages = found.split(",")  # arms that share their first stage may part in a later one
            text, by_seed = " + ".join(each[:12] for each in stages), seen.setdefault(record.seed, {})
            # What diverged saw no more than that, whatever followed for the others.
            if record.status == schema.FINISHED or not any(f"{other} + ".startswith(f"{text} + ") for other in by_seed):
                by_seed[text] = None
    if seen:
        # The order of samples belongs to the fingerprint, and a seed fixes it: so each seed has its own.
        prints = "; ".join(f"seed {seed}: {' and '.join(found)}" for seed, found in sorted(seen.items()))
        unlike = [str(seed) for seed, found in sorted(seen.items()) if len(found) > 1]
        known = all(record.tags.get(schema.DATA_FINGERPRINT) for record in ended)
        verdict = f"the arms of seed {', '.join(unlike)} did not see the same data" if unlike else (
            f"all arms of a seed{'' if known else ' whose data were recorded'} saw the same data in the same order"
        )  # fmt: skip
        yield "Training data", f"{verdict} (fingerprints: {prints})."
    licences = {text for r in records for text in _licences(schema.read_json_tag(r.tags, schema.LICENCES, []))}
    if licences:
        yield "Material", ", ".join(sorted(licences)) + "."


def _computed(selection: Selection) -> Iterable[Note]:
    """Which code and which machines the runs of the table come from, told where they are several."""
    kinds = {"code": schema.GIT, "libraries": schema.VERSIONS, "machine": schema.MACHINE, "threads": schema.THREADS}
    parts = []
    for what, tag in kinds.items():
        runs: dict[str, list[str]] = {}
        for record in selection.records():
            if value := record.tags.get(tag):
                runs.setdefault(_told(tag, value), []).append(record.name)
        if len(runs) > 1:
            parts.append(f"{what}: " + ", ".join(f"{value} ({_count(len(of), 'run')})" for value, of in runs.items()))
    if parts:
        yield "Computed", "; ".join(parts) + ". The last digits of a score depend on it."


def told_revision(value: str) -> str:
    """A commit by its first digits; a release as it is called."""
    commit, plus, _ = value.partition("+")
    return (commit if " " in commit else commit[:12]) + (" with changes" if plus else "")


def _told(tag: str, value: str) -> str:
    """A commit by its first digits, and of the libraries those that compute."""
    if tag == schema.GIT:
        return schema.SEVERAL.join(map(told_revision, value.split(schema.SEVERAL)))
    found = schema.read_json_tag({tag: value}, tag) if tag == schema.VERSIONS else None
    if isinstance(found, Mapping):
        return " ".join(f"{name} {found[name]}" for name in ("torch", "transformers", "peft") if name in found)
    return value


def _licences(value: object) -> Iterable[str]:
    """`name (licence)` from a list of asset records, or a mapping of names to licences."""
    if isinstance(value, Mapping):
        value = [{"name": k, "licence": v} for k, v in value.items()]
    for asset in value if isinstance(value, list) else []:
        if not isinstance(asset, Mapping):
            yield str(asset)
            continue
        name = asset.get("name") or json.dumps(asset, sort_keys=True)
        licence = asset.get("licence") or asset.get("license")
        yield f"{name} ({licence})" if licence else str(name)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
