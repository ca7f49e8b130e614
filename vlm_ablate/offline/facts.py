"""Country facts (capital, continent, demonym ...), joined to flags by ISO code."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

from vlm_ablate.offline.assets import folder_sha256, package_root, package_version
from vlm_ablate.provenance import AssetRecord


@dataclass(frozen=True)
class Country:
    """What a language model may know of a country. Names are plain ASCII, as a small tokenizer wants them."""

    code: str
    name: str
    capital: str
    continent: str
    demonym: str
    subregion: str


def ascii_fold(text: str) -> str:
    """Text without accents: 'Curaçao' -> 'Curacao'."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


@cache
def countries() -> dict[str, Country]:
    """ISO alpha-2 code -> country, for every country with a single capital and a continent.

    Raises:
        AssetMissing: the package `countryinfo` is not installed.
    """
    found = {}
    for path in sorted(package_root("countryinfo", "countryinfo/data").glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        code, capital = (row.get("ISO") or {}).get("alpha2"), row.get("capital")
        if not code or not isinstance(capital, str) or "/" in capital or not row.get("region"):
            continue
        found[code] = Country(
            code, ascii_fold(row["name"]), ascii_fold(capital), _continent(row),
            ascii_fold((row.get("demonym") or "").split(",")[0]), ascii_fold(row.get("subregion") or ""),
        )
    return found


def _continent(row: dict[str, Any]) -> str:
    region: str = row["region"]
    sub = row.get("subregion") or ""
    if region != "Americas":
        return region
    south = (row.get("intermediateregion") or sub) in ("South America",)
    return "South America" if south else "North America"


def licence_records() -> list[AssetRecord]:
    """Provenance of the facts."""
    root = package_root("countryinfo", "countryinfo/data")
    return [
        AssetRecord("country facts", "countryinfo", package_version("countryinfo"), "MIT",
                    "countryinfo", folder_sha256(root, "*.json"))
    ]
