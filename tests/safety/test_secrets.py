"""Passwords in the addresses of stores reach no notice, no printed command and no file that others read."""

from __future__ import annotations

import csv
import stat
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlm_ablate.cli.app import app
from vlm_ablate.cli.launchers import this_command
from vlm_ablate.cli.run import table_command
from vlm_ablate.errors import TrackingError
from vlm_ablate.evaluation.predictions import Prediction
from vlm_ablate.launch.worker import _log_to
from vlm_ablate.runs.artifacts import Answered, write_predictions
from vlm_ablate.tracking.store import ensure_store, tracking_errors

SECRET = "s3cret"
ADDRESSES = [
    f"http://me:{SECRET}@127.0.0.1:1",
    f"http://127.0.0.1:1/x?password={SECRET}",
    f"http://me:{SECRET}@[::1",
    f"http://me:{SECRET}@host:99999",
    f"file://me:{SECRET}@host/folder",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_fails_at_a_store_is_told_without_its_password(address: str) -> None:
    with pytest.raises(TrackingError) as failed:
        ensure_store(address)
    assert SECRET not in str(failed.value) and "***" in str(failed.value)
    with pytest.raises(TrackingError) as failed, tracking_errors(address):
        raise RuntimeError(f"out-of-date database schema at {address}")
    assert SECRET not in str(failed.value)


@pytest.mark.parametrize("address", ADDRESSES)
def test_printed_commands_hold_no_password(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vlm-ablate", "run", "x.yaml", "--tracking-uri", address])
    told = (this_command(), table_command(Path("x.yaml"), "laptop", None, [], None, address))
    assert all(SECRET not in command and "--tracking-uri" in command for command in told)


def test_a_table_of_a_store_that_is_not_there_shows_no_password(tmp_path: Path) -> None:
    file = str(Path(__file__).parents[2] / "experiments/idefics2/t03_architecture.yaml")
    for address in ADDRESSES:
        result = CliRunner().invoke(app, ["table", file, "--home", str(tmp_path), "--tracking-uri", address])
        assert result.exit_code == 1 and SECRET not in result.output and "a fault of" not in result.stderr


def test_a_runs_log_is_its_owners_alone_and_not_written_through_a_link(tmp_path: Path) -> None:
    import subprocess

    code = "import sys; from pathlib import Path; from vlm_ablate.launch.worker import _log_to; "
    (tmp_path / "valued").write_text("valued")
    (tmp_path / "linked").symlink_to(tmp_path / "valued")
    for name in ("log.txt", "linked"):
        run = code + f"_log_to(Path({str(tmp_path / name)!r})); print('said')"
        subprocess.run([sys.executable, "-c", run], check=True, capture_output=True)
    assert (tmp_path / "log.txt").read_text() == "said\n" and callable(_log_to)
    assert stat.S_IMODE((tmp_path / "log.txt").stat().st_mode) == 0o600
    assert (tmp_path / "valued").read_text() == "valued"


def test_answers_in_the_csv_of_predictions_are_no_formulas(tmp_path: Path) -> None:
    answers = [Prediction("-1", "=how?", '=HYPERLINK("http://x")', ("+1", "@a"), (), 1.0),
               Prediction("2", "how many?", "-3", ("3",), (), 0.0)]  # fmt: skip
    write_predictions([Answered("=c", False, answers, {})], tmp_path / "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").open(encoding="utf-8")))
    assert rows[0]["prediction"] == "'=HYPERLINK(\"http://x\")" and rows[0]["question"] == "'=how?"
    assert rows[0]["references"] == "'+1 | @a" and rows[0]["column"] == "'=c" and rows[0]["id"] == "-1"
    assert rows[1]["prediction"] == "-3" and rows[0]["score"] == "1.0000"
