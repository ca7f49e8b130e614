"""Where weights and configurations come from: a local folder, the hub cache, the hub itself (only when asked for)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_ablate.errors import AssetMissing, ModelError
from vlm_ablate.hub import DOWNLOAD_HINT, hub_allowed, is_path
from vlm_ablate.limits import parse_json
from vlm_ablate.storage import file_sha256

if TYPE_CHECKING:
    from safetensors import safe_open
    from torch import Tensor
    from transformers import PretrainedConfig

WANTED_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]
"""What is downloaded of a repository: not the same weights again in other formats."""


@contextmanager
def quietly() -> Iterator[None]:
    """Without the progress bars of transformers and the hub, which would tear those of the command line."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    bars, hub_bars = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()
    if not hub_allowed():
        disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


def resolve(id: str, revision: str | None = None) -> Path:
    """The local folder that holds the model `id`: itself when it is a folder, else its snapshot in the hub cache.

    Raises:
        AssetMissing: it is not on this machine. Raised without touching the network unless downloads are allowed.
    """
    local = Path(id).expanduser()
    if local.is_dir():
        return local
    if is_path(id) or "/" not in id:
        raise AssetMissing(
            f"the folder {id!r} does not exist", hint="give an existing local folder, or a hub id owner/name"
        )
    return _snapshot(id, revision)


def _snapshot(id: str, revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        local = not hub_allowed()
        return Path(snapshot_download(id, revision=revision, local_files_only=local, allow_patterns=WANTED_FILES))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        at = f" at revision {revision!r}" if revision else ""
        why = f" and the hub did not give it: {error}" if hub_allowed() else ""
        raise AssetMissing(
            f"{id!r}{at} is not on this machine (looked in {constants.HF_HUB_CACHE}){why}",
            hint=DOWNLOAD_HINT,
        ) from error


OWN_DESCRIPTION = "vlm_ablate.json"
"""The file that makes a folder a checkpoint of this package; see `checkpoints/own.py`."""


def is_own_checkpoint(folder: Path) -> bool:
    """Whether `checkpoints.load_checkpoint` is what reads this folder."""
    return (folder / OWN_DESCRIPTION).is_file()


def bundled_config(id: str) -> Path | None:
    """Folder of the configuration that the package carries for a well-known hub id, for planning without weights."""
    folder = Path(str(files("vlm_ablate") / "assets" / "configs" / id.replace("/", "--")))
    return folder if (folder / "config.json").is_file() else None


def read_config(
    id: str, revision: str | None = None, *, planning: bool, trust_remote_code: bool = False
) -> PretrainedConfig:
    """The transformers configuration of `id`. When `planning`, one carried by the package serves if there is no other.

    Raises:
        AssetMissing: there is none on this machine.
    """
    from transformers import AutoConfig

    folder = config_folder(id, revision, planning=planning)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
        return config
    except (OSError, ValueError) as error:
        raise AssetMissing(f"{folder} holds no configuration that transformers can read: {error}") from error


def config_folder(id: str, revision: str | None = None, *, planning: bool) -> Path:
    """The folder with the model's config.json; see `read_config`."""
    try:
        return resolve(id, revision)
    except AssetMissing:
        bundled = bundled_config(id) if planning else None
        if bundled is None:
            raise
        return bundled


def stand_in(name: str, *, file: str = "model.safetensors") -> Path:
    """Folder of a stand-in that the package carries.

    Raises:
        AssetMissing: the package was installed without it.
    """
    folder = Path(str(files("vlm_ablate") / "assets" / "standins" / name))
    if not (folder / file).is_file():
        raise AssetMissing(
            f"the stand-in {name!r} is not in this installation ({folder / file})",
            hint="`vlm-ablate pretrain` makes the stand-ins; or install the package with its assets",
        )
    return folder


def tensor_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder that transformers reads: the whole one, or the shards of its index,
    in order; without either, all there are.

    Raises:
        AssetMissing: there are none.
        ModelError: its index is damaged.
    """
    # Others, such as a backup, the shards of an earlier save or the same weights in another layout, are not read.
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    found = sorted(folder.glob("*.safetensors"))
    if named := _indexed(folder):
        found = [file for file in found if file.name in named]
    if not found:
        raise AssetMissing(
            f"{folder} holds no *.safetensors file", hint="convert the checkpoint with save_pretrained first"
        )
    return found


@contextmanager
def opened_tensors(file: Path) -> Iterator[safe_open]:
    """A safetensors file, open for reading.

    Raises:
        ModelError: it is cut short, or not of that format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} cannot be read as safetensors: {error}",
            hint="it may have been copied or downloaded in part; compare its size with the original's",
        ) from error


def read_tensor(opened: safe_open, name: str, *, planning: bool) -> Tensor:
    """A tensor of an open file; for a plan its shape alone, on the meta device."""
    if not planning:
        tensor: Tensor = opened.get_tensor(name)
        return tensor
    import torch

    return torch.empty(opened.get_slice(name).get_shape(), device="meta")


def tensor_names(folder: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it.

    Raises:
        AssetMissing: there are no safetensors files, or not all that the index names.
        ModelError: a file, or the index, cannot be read.
    """
    names: dict[str, Path] = {}
    files = tensor_files(folder)
    _check_index(folder, files)
    for file in files:
        with opened_tensors(file) as tensors:
            names.update(dict.fromkeys(tensors.keys(), file))
    return names


def load_pretrained(kind: Any, folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """A model of transformers with the weights of a folder, and the names of what the folder has no weights for.

    Args:
        kind: one of transformers' auto classes.
        options: of its `from_pretrained`.

    Raises:
        AssetMissing: the folder holds no weights, or not all that its index names.
        ModelError: transformers cannot load it: a file is damaged, or weights and configuration are of other shapes.
    """
    from safetensors import SafetensorError

    if not any(folder.glob("*.bin")):  # which transformers reads too
        tensor_names(folder)  # damaged files are named before anything is built
    try:
        model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        told = " ".join(str(error).split())[:300]
        if "mismatched" in told:
            told = "its weights have other shapes than its config.json says"
        raise ModelError(f"transformers cannot load {folder}: {told}") from error
    return model, sorted(report["missing_keys"])


def planned_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors on the meta device, from the files' headers; raises as `tensor_names`."""
    planned: dict[str, Tensor] = {}
    for file in sorted(set(tensor_names(folder).values())):
        with opened_tensors(file) as opened:
            planned.update({name: read_tensor(opened, name, planning=True) for name in list(opened.keys())})
    return planned


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file of a checkpoint's folder.

    Raises:
        ModelError: it cannot be read, or holds something else.
    """
    try:
        body = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise ModelError(f"{file} holds {type(body).__name__}, not a mapping")
    return body


def image_processor_of(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of its image processor, in the file that transformers takes; empty where there is none.

    transformers 5 writes it into processor_config.json, transformers 4 into preprocessor_config.json, which may be left
    from before the checkpoint was saved again.
    """
    new, old = (folder / name for name in ("processor_config.json", "preprocessor_config.json"))
    nested = read_json(new).get("image_processor") if new.is_file() else None
    if isinstance(nested, dict):
        return nested
    return read_json(old) if old.is_file() else {}


_WHOLE = "model.safetensors"
"""What transformers reads where it is there, with an index beside it or without."""


def _indexed(folder: Path) -> set[str]:
    """Names of the files that an index of shards names; none without one, or where the whole file is there.

    Raises:
        ModelError: the index is damaged.
    """
    index = folder / f"{_WHOLE}.index.json"
    if (folder / _WHOLE).is_file() or not index.is_file():
        return set()
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise ModelError(f"{index} names no file of each tensor (weight_map)")
    return set(named.values())


def _check_index(folder: Path, files: list[Path]) -> None:
    wanted = _indexed(folder)
    missing = sorted(wanted - {file.name for file in files})
    if missing:
        raise AssetMissing(f"{folder} lacks {len(missing)} of {len(wanted)} files of weights: {missing[0]}, ...")


def read_tensors(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, by the rest of the name. Other tensors are not read from disk."""
    names = tensor_names(folder)
    wanted = {name: file for name, file in names.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): tensor for name, tensor in _read(wanted).items()}


def read_named(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """These tensors of a checkpoint. Others are not read from disk."""
    files = tensor_names(folder)
    return _read({name: files[name] for name in names})


def _read(files: dict[str, Path]) -> dict[str, Tensor]:
    wanted: dict[Path, list[str]] = {}
    for name, file in files.items():
        wanted.setdefault(file, []).append(name)
    tensors: dict[str, Tensor] = {}
    for file, names in wanted.items():
        with opened_tensors(file) as opened:
            tensors.update({name: opened.get_tensor(name) for name in names})
    return tensors


def check_sha256(path: Path, expected: str) -> None:
    """Raises ModelError when the file is not the expected one."""
    found = file_sha256(path)
    if found != expected:
        raise ModelError(f"{path} is not the file this package knows: sha256 {found}, expected {expected}")
