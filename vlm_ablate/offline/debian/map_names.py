"""The words on KGeography's maps: names without remarks, which of them are no regions, and what belongs together."""

from __future__ import annotations

import re

from vlm_ablate.offline.facts import ascii_fold
from vlm_ablate.offline.pictures import Split

CONTINENT_SPLITS: dict[str, Split] = {
    "Africa": "train", "Europe": "train", "North and Central America": "train", "Caribbean": "train",
    "South America": "tune", "Asia": "report",
}
"""Splits of the maps of countries, dealt out so that each split has some; a hash would leave one empty."""

NOT_DRAWN = frozenset({"World", "World continents", "Waters", "Oceania", "Caribbean"})
"""The world repeats the continents, is hard to read when small, or is seen from the pole; rivers are thin; islands of
Oceania and the Caribbean are drawn as strips of sea and as boxes to click on."""

# Areas that are a part of a country which has a map, too, and other names of one country.
_PART_OF = {
    **dict.fromkeys(
        ("Andhra Pradesh", "Arunachal Pradesh", "Assam", "Bihar", "Chhattisgarh", "Goa", "Gujarat", "Haryana",
         "Himachal Pradesh", "Jharkhand", "Manipur", "Sikkim", "Tamil Nadu", "Tripura", "West Bengal"), "India"),
    "Virginia": "United States", "Catalonia": "Spain",
}
_SAME = {
    "USA": "United States", "United States of America": "United States", "Republic of Korea": "South Korea",
    "Democratic People's Republic of Korea": "North Korea", "Republic Of Ireland": "Ireland",
    "Republic of China": "Taiwan", "New-Zealand": "New Zealand", "Sri-Lanka": "Sri Lanka",
    "Great-Britain": "Great Britain", "Bosnia-Herzegovina": "Bosnia and Herzegovina",
    "Democratic Republic of the Congo": "DR Congo",
}

# Towns that people call otherwise; the first name is the answer, others are taken, too.
_TOWNS = {
    "Abu Dhabi City": ("Abu Dhabi",), "Pyeongyang": ("Pyongyang",), "Koufu": ("Kofu",), "Grey Mouth": ("Greymouth",),
    "Washington D.C.": ("Washington D.C.", "Washington"),
}

DISPUTED = frozenset({"Israel", "Palestine", "Palestinian Territories", "West Bank"})
"""Countries whose capital is not asked for: people differ on the answer."""

NO_STATES = frozenset({"Puerto Rico", "French Guiana"})
"""Regions of maps of countries that are asked about as regions."""

DRAWN_ELSEWHERE: dict[str, frozenset[str]] = {
    "Africa": frozenset({"Canary Islands", "Cape Verde", "Comoros", "Equatorial Guinea", "Madeira", "Mauritius",
                         "Reunion", "Saint Helena", "Sao Tome and Principe", "Seychelles"}),
    "Europe": frozenset({"Andorra", "Liechtenstein", "Malta", "Monaco", "San Marino", "Vatican City"}),
    "India": frozenset({"Andaman and Nicobar Islands", "Chandigarh", "Dadra and Nagar Haveli", "Daman and Diu", "Delhi",
                        "Lakshadweep", "Pondicherry"}),
    "Indonesia": frozenset({"Riau Islands", "Yogyakarta Special Region"}),
    "United States": frozenset({"Alaska", "Hawaii"}),
    "Portugal": frozenset({"Azores", "Acores", "Madeira"}),
    "Spain": frozenset({"Canary Islands", "Las Palmas", "Santa Cruz de Tenerife"}),
    "Great Britain": frozenset({"Shetland islands", "Orkney"}),
    "Denmark": frozenset({"Bornholm", "Copenhagen", "Frederiksberg"}),
    "Ecuador": frozenset({"Galapagos"}), "Colombia": frozenset({"St Andrew and Providence"}),
    "Japan": frozenset({"Okinawa"}), "Ukraine": frozenset({"Donets'ka oblast'"}),
}
"""Area -> regions that the map shows in or as a box, or away from where they are; they are not asked about."""

_LINES = re.compile(r"((external|county) )?(frontier|border)s?\d?|coast(line)?|border/coast|river", re.IGNORECASE)
_WATERS = re.compile(r".*\b(water|ocean|sea|lake|gulf)\b.*", re.IGNORECASE)
_WRAPPER = re.compile(r"""^i18nc?\s*\(\s*(?:"[^"]*"\s*,\s*)?"(.*)"\s*\)$""")
_REMARK = re.compile(r"\s*(\([^)]*\)|\[[^\]]*\])")
_LETTERS = str.maketrans({"ø": "o", "Ø": "O", "æ": "ae", "Æ": "Ae", "ð": "d", "Ð": "D", "đ": "d", "Đ": "D", "ł": "l",
                          "Ł": "L", "ı": "i", "ß": "ss", "þ": "th", "Þ": "Th", "œ": "oe", "’": "'", "‘": "'", "–": "-"})

DIRECTIONS = frozenset(
    "north south east west northern southern eastern western central centre center northeast northwest southeast "
    "southwest northeastern northwestern southeastern southwestern plateau littoral coast upper lower "
    "province region".split()
)
"""Words of names that regions of many countries bear."""


def is_line(name: str) -> bool:
    """Whether a division that is to be ignored is a border or a coast."""
    return _LINES.fullmatch(name.strip()) is not None


def is_water(name: str) -> bool:
    """Whether a division that is to be ignored is a sea or a lake."""
    return _WATERS.fullmatch(name.strip()) is not None and not name.strip().startswith("Not ")


def clean_name(text: str) -> str:
    """ASCII without translation marks, remarks and doubled spellings: 'Kutch / Kachchh' -> 'Kutch'."""
    name = _ascii(_REMARK.sub("", _WRAPPER.sub(r"\1", text.strip()))).split(" / ")[0]
    name = name.removeprefix("The ").strip()
    return _SAME.get(name, name)


def capitals_of(text: str) -> tuple[str, ...]:
    """The towns of a capital's entry, or its names: 'Napier/Hastings' has two, 'Yangon (former Rangoon)' one."""
    towns = re.split(r"\s*/\s*|,\s*|\s+and\s+", _REMARK.sub("", _WRAPPER.sub(r"\1", text.strip())))
    names = tuple(_ascii(town).strip() for town in towns if _ascii(town).strip())
    return _TOWNS.get(names[0], names) if len(names) == 1 else names


def area_of(title: str) -> tuple[str, str]:
    """A map's area, and the country that it belongs to (the area itself, as a rule).

    'Italy by Provinces' and 'Latvia Districts (Pre 2009)' lose what only says how they are divided.
    """
    name = re.sub(r" (by \w+|Districts|Provinces)$", "", clean_name(title))
    name = _SAME.get(name, name)
    return name, _PART_OF.get(name, name)


def plain(text: str) -> str:
    """Small letters only, to compare names."""
    return re.sub(r"[^a-z]", "", text.lower())


def _ascii(text: str) -> str:
    return ascii_fold(text.translate(_LETTERS))
