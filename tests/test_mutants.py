"""The mutants of `benchmarks/mutants.py` follow the code: each can be made, and names tests that are there."""

from __future__ import annotations

import ast
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from mutants import Mutant, mutants  # noqa: E402

MUTANTS = mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_made_and_names_its_tests(mutant: Mutant) -> None:
    text = (ROOT / "vlm_ablate" / mutant.file).read_text()
    assert text.count(mutant.old) == 1 and mutant.new != mutant.old
    ast.parse(text.replace(mutant.old, mutant.new))  # else any test would notice
    files = [word for word in shlex.split(mutant.tests) if word.startswith("tests/")]
    assert files and all((ROOT / file).exists() for file in files)


def test_they_are_all_different() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
