"""Questions from a real OpenAI-compatible server on this machine: right, failing, dying, refusing."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.docmatix.pdfs import manual, page, write_pdf
from tests.docmatix.server import Behaviour, serving
from vlm_ablate.docmatix.build import build
from vlm_ablate.docmatix.endpoint import EndpointError, EndpointQuestioner, base_address
from vlm_ablate.docmatix.filters import NOT_FOUND, UNANSWERABLE
from vlm_ablate.docmatix.settings import BuildSettings


@pytest.fixture
def chosen(tmp_path: Path) -> BuildSettings:
    write_pdf(tmp_path / "pdfs" / "a.pdf", manual("Alpha", 6))
    write_pdf(tmp_path / "pdfs" / "b.pdf", manual("Beta", 4))
    return BuildSettings(
        tmp_path / "pdfs", tmp_path / "out", dpi=40, pages_per_row=1, model="tiny", timeout=5.0, retries=2,
        key_variable="VLM_ABLATE_TEST_KEY",
    )


def test_pairs_are_asked_for_and_filtered(chosen: BuildSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_ABLATE_TEST_KEY", "sesame")
    behaviour = Behaviour(key="sesame")
    with serving(behaviour) as address:
        counts = build(replace(chosen, endpoint=address, styles=2)).counts
    assert len(behaviour.requests) == 20, "ten pages, two styles each"
    assert counts["pairs"]["generated"] == 60
    # The second style asks the same again: dropped as duplicates, and so is a title that two pages share.
    assert counts["pairs"]["dropped"][NOT_FOUND] == counts["pairs"]["dropped"][UNANSWERABLE] == 20
    assert counts["pairs"]["kept"] == counts["written"]["rows"] >= 5
    sent = behaviour.requests[0]
    assert sent["model"] == "tiny" and sent["temperature"] == 0 and sent["messages"][0]["role"] == "system"
    written = "".join(f.read_text(errors="replace") for f in chosen.out.rglob("*") if f.is_file())
    assert "sesame" not in written and "127.0.0.1" not in written
    assert "tiny" in (chosen.out / "README.md").read_text()


def test_failures_are_repeated_and_requests_are_limited(chosen: BuildSettings, tmp_path: Path) -> None:
    behaviour = Behaviour(failures=[503, 429, 500], delay=0.05)
    with serving(behaviour) as address:
        asking = EndpointQuestioner(replace(chosen, endpoint=address, concurrency=3, retries=3), tmp_path, pause=0.01)
        texts = [f"The text of the PDF:\nline {i}\n\nWrite the pairs" for i in range(9)]
        found = dict(asking.complete([[{"role": "user", "content": text}] for text in texts]))
    assert sorted(found) == list(range(9)) and all(f"line {i}\n" in found[i] for i in range(9))
    assert len(behaviour.requests) == 12 and 2 <= behaviour.busiest <= 3


def test_a_refused_prompt_costs_its_row_only(chosen: BuildSettings) -> None:
    write_pdf(chosen.pdfs / "c.pdf", [page()])  # without text: nothing is asked, and so nothing refused
    with serving(Behaviour(refuse="washed.*chapter 4|chapter 4.*washed")) as address:
        counts = build(replace(chosen, endpoint=address)).counts
    assert counts["pairs"]["prompts refused"] == 2 and counts["rows"]["without pairs"] >= 2


def test_a_server_that_dies_stops_the_build_which_then_continues(
    chosen: BuildSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Behaviour(dies_after=4)) as address, pytest.raises(EndpointError, match="keeps answering 500"):
        build(replace(chosen, endpoint=address, concurrency=1, retries=0))
    assert not (chosen.out / "counts.json").exists()
    kept = [json.loads(line) for f in (chosen.out / ".work" / "answers").iterdir() for line in f.open()]
    assert len(kept) == 4
    behaviour = Behaviour()
    with serving(behaviour) as address:
        counts = build(replace(chosen, endpoint=address)).counts
    assert len(behaviour.requests) == 6, "the four answers were not asked for again"
    assert counts["pairs"]["generated"] == 30


def test_a_cut_off_answer_line_is_asked_for_again(chosen: BuildSettings) -> None:
    with serving(Behaviour()) as address:
        whole = build(replace(chosen, endpoint=address)).counts
        answers = sorted((chosen.out / ".work" / "answers").iterdir())[0]
        answers.write_bytes(answers.read_bytes()[:-30])
        for done in (chosen.out / ".work" / "parts").iterdir():
            done.unlink()
        (chosen.out / "counts.json").unlink()
        assert build(replace(chosen, endpoint=address)).counts == whole


def test_unreachable_before_any_work(chosen: BuildSettings) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EndpointError, match=rf"{re.escape(address)} cannot be used: .*[Rr]efused"):
        build(replace(chosen, endpoint=address))
    assert not list((chosen.out / ".work" / "parts").iterdir())


@pytest.mark.parametrize(
    ("behaviour", "message", "hint"),
    [
        (Behaviour(key="sesame"), r"refuses access \(401\)", r"\$VLM_ABLATE_TEST_KEY is not set"),
        (Behaviour(models=("other", "more")), "does not serve the model 'tiny'", "it serves: other, more"),
        (Behaviour(models=(), failures=[404]), "answers 404", "check --model"),
    ],
)
def test_servers_that_will_not_do(chosen: BuildSettings, behaviour: Behaviour, message: str, hint: str) -> None:
    with serving(behaviour) as address, pytest.raises(EndpointError, match=message) as raised:
        build(replace(chosen, endpoint=address))
    assert re.search(hint, raised.value.hint)


def test_a_server_without_a_model_list_is_tried(chosen: BuildSettings) -> None:
    behaviour = Behaviour(models=())
    with serving(behaviour) as address:
        assert build(replace(chosen, endpoint=address)).counts["pairs"]["kept"]
    assert behaviour.requests[0]["max_tokens"] == 1


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://host:8000", "http://host:8000/v1"), ("http://host/v1/", "http://host/v1"),
        ("https://host/api/v3/chat/completions", "https://host/api/v3"), ("host:80/v1", "http://host:80/v1"),
    ],
)
def test_addresses(given: str, base: str) -> None:
    assert base_address(given) == base


@pytest.mark.parametrize("given", ["ftp://host/v1", "http://", "http://user:secret@host/v1"])
def test_bad_addresses(given: str) -> None:
    with pytest.raises(EndpointError):
        base_address(given)
