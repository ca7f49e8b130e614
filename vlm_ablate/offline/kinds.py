"""What kind of thing a name names: 'brown owl' is a bird, 'red apple' a fruit."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import yaml


@cache
def kinds() -> dict[str, str]:
    """Name -> kind, both in plain English; '' for names whose last word says something else ('speech balloon')."""
    body = yaml.safe_load((files("vlm_ablate") / "assets/kinds.yaml").read_text())
    return {name.strip(): kind for kind, names in body.items() for name in names.split(",")}


def plain_name(name: str) -> str:
    """The part of a name that is in the vocabulary: 'brown owl' -> 'owl'; '' where none is."""
    words = name.split()
    tails = (" ".join(words[start:]) for start in range(len(words)))
    return next((tail for tail in tails if tail in kinds()), "")


def kind_of(name: str) -> str:
    """The kind of a name or of the thing that its last words name ('green fedora' is a hat), '' where none is known."""
    return kinds().get(plain_name(name), "")


_MASSES = frozenset("bacon bamboo bread broccoli candy coffee corn custard flatbread garlic lasagna lemonade "
                    "lettuce milk popcorn sake salami soup spaghetti sushi toast beer".split())


def is_plural(name: str) -> bool:
    """Whether a name is one of several: 'cherries', 'scissors'; not 'glass', 'bus' or 'rhinoceros'."""
    return name.endswith("skis") or (name.endswith("s") and not name.endswith(("ss", "us", "is", "ceros")))


def with_article(name: str) -> str:
    """'an owl', 'a unicorn', 'any milk' of what is not counted."""
    if name.split()[-1] in _MASSES:
        return f"any {name}"
    return f"{'an' if name[0] in 'aeiou' and not name.startswith(('uni', 'eu', 'ewe', 'uk ')) else 'a'} {name}"
