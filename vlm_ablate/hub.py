"""Whether the Hugging Face hub may be reached: only when the user asks. One place for models, data and benchmarks."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ALLOW_HUB = "VLM_ABLATE_ALLOW_HUB"
"""Environment variable; "1" lets models and data sets be downloaded."""
_OFFLINE = "On"
"""What this package writes into HF_HUB_OFFLINE: true to the libraries, and told from a user's own 1."""
DOWNLOAD_HINT = f"write the path of a local copy as `id`, or download it: `vlm-ablate --allow-hub ...` or {ALLOW_HUB}=1"


def is_yes(said: str) -> bool:
    """Whether the text of an environment variable is a yes, in the words that `huggingface_hub` takes for one."""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def is_path(id: str) -> bool:
    """Whether an id can be nothing of a hub: it begins as a path does, or goes deeper than owner/name."""
    return id.startswith(("/", ".", "~")) or id.count("/") > 1


def hub_allowed() -> bool:
    """Whether the user asked for downloads."""
    return is_yes(os.environ.get(ALLOW_HUB, ""))


def set_hub_access(allow: bool) -> None:
    """Set the environment that the libraries read when they are imported; call it before. Workers inherit it.

    Args:
        allow: let them reach the hub, whatever was set before; else it is up to the environment.
    """
    if allow:
        os.environ[ALLOW_HUB] = "1"
        os.environ.pop("HF_HUB_OFFLINE", None)
    elif not hub_allowed() and not os.environ.get("HF_HUB_OFFLINE"):
        # Offline, a missing id fails at once instead of after minutes of retries.
        os.environ["HF_HUB_OFFLINE"] = _OFFLINE


def offline_by_hand() -> bool:
    """Whether the user asked for no network, rather than for no downloads by the way (`set_hub_access`)."""
    said = os.environ.get("HF_HUB_OFFLINE", "")
    return said != _OFFLINE and is_yes(said)


def surely_absent(id: str) -> bool:
    """Whether a data set of the hub is neither here nor to be fetched, told by the names of folders without `datasets`.

    In doubt, and once `datasets` is imported, it is not sure.
    """
    if hub_allowed() or "datasets" in sys.modules or id.count("/") != 1:
        return False
    from huggingface_hub import constants

    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets").expanduser()
    places = (Path(constants.HF_HUB_CACHE) / f"datasets--{id.replace('/', '--')}", Path(id).expanduser())
    try:
        names = os.listdir(prepared) if prepared.is_dir() else []
        there = any(place.exists() for place in places)
    except OSError:
        return False
    return not there and not any(_letters(id) in _letters(name) for name in names)


def _letters(name: str) -> str:
    """`datasets` names folders `owner___the_name`, in its own spelling."""
    return re.sub("[^a-z0-9]", "", name.lower())


@contextmanager
def offline_unless_allowed() -> Iterator[None]:
    """Have `datasets` fail within milliseconds instead of minutes of retries when downloads are not asked for.

    For processes that imported it before anybody set the environment.
    """
    import datasets.config
    import huggingface_hub.constants

    places: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = place.HF_HUB_OFFLINE or not hub_allowed()
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value
