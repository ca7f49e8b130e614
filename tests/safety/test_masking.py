"""Passwords in addresses are shown nowhere; texts in CSV are no formulas."""

from __future__ import annotations

import pytest

from vlm_ablate.csv_text import csv_cell
from vlm_ablate.masking import masked


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:s3cret@host:5000", "http://***@host:5000"),
        ("https://s3cret@host/x", "https://***@host/x"),
        ("postgresql+psycopg2://me:s3c/r@et@host:5432/db", "postgresql+psycopg2://***@host:5432/db"),
        ("mysql://me:p@s3cret@host/db?ssl=true", "mysql://***@host/db?ssl=true"),
        ("http://host/x?password=s3cret&a=1", "http://host/x?password=***&a=1"),
        ("http://host/x?a=1&token=s3cret#top", "http://host/x?a=1&token=***#top"),
        ("http://host?Access_Token=s3cret", "http://host?Access_Token=***"),
        ("postgresql://host/db?sslpassword=s3cret&sslmode=require", "postgresql://host/db?sslpassword=***&sslmode=require"),
        ("http://host/?api-key=s3cret;x=1", "http://host/?api-key=***;x=1"),
        ("sqlite:////home/me/outputs/mlflow.db", "sqlite:////home/me/outputs/mlflow.db"),
        ("http://host:5000/#/experiments/1", "http://host:5000/#/experiments/1"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_what_lets_in(address: str, shown: str) -> None:
    assert masked(address) == shown
    inside = f"the store {address} failed: (twice '{address}')"
    assert masked(inside) == f"the store {shown} failed: (twice '{shown}')"


def test_what_is_masked_once_stays_as_it_is() -> None:
    for text in ("http://me:pw@host?token=x", "no address: a@b, x=1, 3 > 2"):
        assert masked(masked(text)) == masked(text)
    assert masked("no address: a@b, x=1, 3 > 2") == "no address: a@b, x=1, 3 > 2"


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1+1", "-", "- 5"]
)
def test_no_text_in_csv_is_a_formula(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", [-3, 2.5, None, True, "-3", "+2.5", "-1e-05", "a cat", "", "1+1", "'=1", "-inf"])
def test_numbers_and_plain_texts_in_csv_stay_what_they_are(value: object) -> None:
    assert csv_cell(value) is value
