"""Real tables of bokeh-sampledata as short (label, value) series; only files whose recorded licence allows reuse."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vlm_ablate.offline.assets import package_root, package_version
from vlm_ablate.offline.pictures import Split
from vlm_ablate.provenance import AssetRecord
from vlm_ablate.storage import file_sha256

_ALLOWED = ("CC0", "Public domain", "BSD-3-Clause", "MIT", "CC-BY-2.0", "CC-BY-3.0")


Row = dict[str, Any]
"""Column -> text; in the one table that is JSON, what its fields hold."""


@dataclass(frozen=True)
class Series:
    """One column of one table: labels and whole numbers of the same length."""

    table: str
    title: str
    labels: tuple[str, ...]
    values: tuple[int, ...]


# Whole tables belong to one split, so that no row of a reported table was seen in training.
_SPLIT_OF_TABLE: dict[str, Split] = {
    "elements": "train", "auto-mpg": "train", "unemployment1948": "train", "penguins": "train",
    "antibiotics": "tune", "sprint": "tune",
    "olympics2014": "report", "us_marriages_divorces": "report", "gapminder": "report",
}
_FILES = {
    "elements": "elements.csv", "auto-mpg": "auto-mpg.csv", "unemployment1948": "unemployment1948.csv",
    "penguins": "penguins.csv", "antibiotics": "antibiotics.csv", "sprint": "sprint.csv",
    "olympics2014": "olympics2014.json", "us_marriages_divorces": "us_marriages_divorces.csv",
    "gapminder": "gapminder.csv.gz",
}


def _root() -> Path:
    return package_root("bokeh-sampledata", "bokeh_sampledata/_data")


@cache
def _recorded_licences() -> dict[str, str]:
    """File name -> licence, from the package's own inventory."""
    base = package_root("bokeh-sampledata", f"bokeh_sampledata-{package_version('bokeh-sampledata')}.dist-info")
    inventory = json.loads((base / "licenses/licenses/datasets.json").read_text())
    rows = next(v for v in inventory.values() if isinstance(v, list) and v and "files" in v[0])
    return {file: row["recorded_license"] for row in rows for file in row["files"]}


def _rows(table: str) -> list[Row]:
    path = _root() / _FILES[table]
    licence = _recorded_licences().get(_FILES[table], "unknown")
    if not licence.startswith(_ALLOWED):
        raise ValueError(f"{_FILES[table]}: recorded licence {licence!r} does not allow reuse here")
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if path.name.endswith(".json"):
        rows: list[Row] = json.loads(raw)["data"]
        return rows
    lines = [line for line in raw.decode("utf-8", "replace").splitlines() if line and not line.startswith("#")]
    return list(csv.DictReader(io.StringIO("\n".join(lines)), skipinitialspace=True))


@cache
def series(split: Split) -> tuple[Series, ...]:
    """All series of the split's tables."""
    makers = {
        "elements": _elements, "auto-mpg": _cars, "unemployment1948": _unemployment, "penguins": _penguins,
        "antibiotics": _antibiotics, "sprint": _sprint, "olympics2014": _olympics,
        "us_marriages_divorces": _marriages, "gapminder": _gapminder,
    }
    return tuple(s for table, make in makers.items() if _SPLIT_OF_TABLE[table] == split for s in make(_rows(table)))


def licence_records() -> list[AssetRecord]:
    """Provenance of every table that is used."""
    version, licences = package_version("bokeh-sampledata"), _recorded_licences()
    return [
        AssetRecord(f"table {name}", "bokeh-sampledata", version, licences.get(file, "unknown"), file,
                    file_sha256(_root() / file))
        for name, file in _FILES.items()
    ]


def _collect(table: str, title: str, pairs: Iterable[tuple[Any, Any]]) -> Series:
    kept: dict[str, int] = {}
    for label, value in pairs:
        try:
            number = round(float(value))
        except (TypeError, ValueError):
            continue
        if label and 0 <= number < 10_000:
            kept.setdefault(str(label)[:4].strip(), number)
    return Series(table, title, tuple(kept), tuple(kept.values()))


def _elements(rows: list[Row]) -> list[Series]:
    return [
        _collect("elements", "number", ((r["symbol"], r["atomic number"]) for r in rows)),
        _collect("elements", "year", ((r["symbol"], r["year discovered"]) for r in rows)),
        _collect("elements", "mass", ((r["symbol"], r["atomic mass"].strip("[]").split("(")[0]) for r in rows)),
    ]


def _cars(rows: list[Row]) -> list[Series]:
    first = {r["name"].split()[0].upper(): r for r in rows}
    return [_collect("auto-mpg", col, ((k, r[col]) for k, r in first.items())) for col in ("mpg", "hp", "weight")]


def _unemployment(rows: list[Row]) -> list[Series]:
    return [_collect("unemployment1948", m, ((r["Year"], r.get(m)) for r in rows)) for m in ("Jan", "Jun", "Dec")]


def _penguins(rows: list[Row]) -> list[Series]:
    cols = [("mass", "body_mass_g"), ("wing", "flipper_length_mm")]
    return [
        _collect("penguins", title, ((f"P{i}", r.get(col)) for i, r in enumerate(rows[k : k + 30])))
        for title, col in cols for k in range(0, 120, 30)
    ]


def _antibiotics(rows: list[Row]) -> list[Series]:
    return [
        _collect("antibiotics", "dose", ((r["bacteria"].split()[0], r["penicillin"]) for r in rows)),
        _collect("antibiotics", "neo", ((r["bacteria"].split()[-1], float(r["neomycin"]) * 100) for r in rows)),
    ]


def _sprint(rows: list[Row]) -> list[Series]:
    return [
        _collect("sprint", medal, ((r["Year"], float(r["Time"]) * 10) for r in rows if r["Medal"].upper() == medal))
        for medal in ("GOLD", "SILVER", "BRONZE")
    ]


def _olympics(rows: list[Row]) -> list[Series]:
    return [
        _collect("olympics2014", medal, ((r["abbr"], r["medals"][medal]) for r in rows if r["medals"]["total"] > 0))
        for medal in ("gold", "silver", "bronze", "total")
    ]


def _marriages(rows: list[Row]) -> list[Series]:
    columns = [c for c in rows[0] if "per_1000" in c.lower()]
    return [
        _collect("us_marriages_divorces", c.split("_")[0].lower(), ((r["Year"], r[c]) for r in rows)) for c in columns
    ]


def _gapminder(rows: list[Row]) -> list[Series]:
    column = "life" if "life" in rows[0] else next(c for c in rows[0] if "life" in c.lower())
    name = next(c for c in rows[0] if c.lower() in ("country", "name"))
    year = next(c for c in rows[0] if c.lower() == "year")
    return [
        _collect("gapminder", y, ((r[name].upper(), r[column]) for r in rows if r[year] == y))
        for y in ("1964", "1980", "1995", "2010")
    ]
