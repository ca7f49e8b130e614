"""Any name becomes one that MLflow takes, and comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from vlm_ablate.tracking.names import LENGTH, original_name, safe_name

NAMES = st.text(min_size=1, max_size=60)


@given(NAMES)
def test_mlflow_takes_every_safe_name(name: str) -> None:
    for validate in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        validate(safe_name(name))


@given(NAMES)
def test_a_safe_name_tells_the_name_that_it_was_made_of(name: str) -> None:
    if len(safe_name(name)) < LENGTH - 13:
        assert original_name(safe_name(name)) == name


@given(st.lists(NAMES, min_size=2, max_size=6, unique=True))
def test_different_names_stay_different(names: list[str]) -> None:
    assert len({safe_name(name) for name in names}) == len(names)


def test_names_of_ours_are_left_alone() -> None:
    for name in ("train/loss", "score/mean", "stages.pretrain.lora.r", "mlflow.note.content"):
        assert safe_name(name) == name


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    first, second = safe_name("a" * 400), safe_name("a" * 401)
    assert len(first) <= LENGTH and first != second
