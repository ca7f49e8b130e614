"""What the titles of shipped experiments promise of the sizes of their arms."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_ablate.accounting.parameters import parameters_by_part
from vlm_ablate.accounting.unfilled import Unfilled
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import build_vlm

FILE = Path(__file__).parents[2] / "experiments" / "questions" / "connector_parameters.yaml"


@pytest.mark.parametrize("scale", ["paper", "gpu", "workstation", "laptop"])
def test_connectors_at_equal_parameters_have_as_many_at_every_scale(scale: str) -> None:
    sizes = []
    for arm in load_experiment(FILE, scale=scale).arms.values():
        with Unfilled():
            vlm = build_vlm(arm.config.model, Views.of(arm.config.images()), load_weights=False)
        sizes.append(parameters_by_part(vlm)["connector"])
    assert len(sizes) == 3 and max(sizes) < 1.01 * min(sizes)
