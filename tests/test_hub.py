"""Whether the hub may be reached, in every state that the environment can be in: only when the user asks."""

from __future__ import annotations

import itertools
import os
import sys

import pytest

from vlm_ablate.hub import ALLOW_HUB, hub_allowed, is_path, offline_by_hand, set_hub_access, surely_absent
from vlm_ablate.trust import ALLOW_PLUGINS, plugins_allowed

OFFLINE = "HF_HUB_OFFLINE"
SAID = (None, "", "0", "1", "true", "YES", "On")
"""Of HF_HUB_OFFLINE before a command: `On` is what a parent process of ours has written."""
STATES = list(itertools.product((None, "", "0", "1"), SAID))


def enter(monkeypatch: pytest.MonkeyPatch, allowed: str | None, offline: str | None) -> None:
    for name, value in ((ALLOW_HUB, allowed), (OFFLINE, offline)):
        monkeypatch.setenv(name, value or "")
        if value is None:
            monkeypatch.delenv(name)


def read_offline() -> bool:
    """As `huggingface_hub` reads it when it is imported."""
    return os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE")


@pytest.mark.parametrize("said", ["false", "False", "no", "off", "0", ""])
def test_a_no_in_any_words_lets_nobody_in(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_HUB, said)
    monkeypatch.setenv(ALLOW_PLUGINS, said)
    assert not hub_allowed() and not plugins_allowed()


@pytest.mark.parametrize(("allowed", "offline"), STATES)
def test_who_asks_for_downloads_gets_them_and_so_do_workers(
    allowed: str | None, offline: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch, allowed, offline)
    set_hub_access(True)
    assert hub_allowed() and not read_offline() and not offline_by_hand()
    set_hub_access(False)  # a worker, or a command's own option after the one before all commands
    assert hub_allowed() and not read_offline()


@pytest.mark.parametrize(("allowed", "offline"), STATES)
def test_who_does_not_ask_gets_none_and_what_was_said_by_hand_stays(
    allowed: str | None, offline: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch, allowed, offline)
    by_hand = offline is not None and offline.upper() in ("1", "TRUE", "YES")
    assert offline_by_hand() == by_hand
    for _ in range(2):
        set_hub_access(False)
        assert hub_allowed() == (allowed == "1") and offline_by_hand() == by_hand
        if allowed == "1":
            assert os.environ.get(OFFLINE) == offline, "it is up to the environment"
        elif offline != "0":
            assert read_offline(), "a missing id fails at once, not after minutes of retries"
        assert not by_hand or os.environ[OFFLINE] == offline


@pytest.mark.parametrize(
    ("id", "path"),
    [("owner/name", False), ("name", False), ("a/b/c", True), ("./name", True), ("../a", True), ("~/a", True),
     ("/a", True), ("owner/name.v2", False)],
)  # fmt: skip
def test_an_id_of_the_hub_is_told_from_a_path(id: str, path: bool) -> None:
    assert is_path(id) is path


@pytest.mark.parametrize(("there", "absent"), [
    ([], True), (["owner___other"], True), (["owner___the_name"], False), (["Owner___TheName"], False),
    (["hub/datasets--owner--the-name"], False), (["owner___the-name-v2"], False),
])  # fmt: skip
def test_a_data_set_is_surely_absent_only_where_no_folder_could_be_its(
    there: list[str], absent: bool, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    enter(monkeypatch, None, None)
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    for name in there:
        (tmp_path / name).mkdir(parents=True)
    assert surely_absent("owner/the-name") is absent
    for id in ("the-name", str(tmp_path / "x"), "a/b/c"):
        assert not surely_absent(id), "in doubt it is not sure"
    enter(monkeypatch, "1", None)
    assert not surely_absent("owner/the-name")
