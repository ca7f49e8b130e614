"""SVGs of strangers: drawn in a process that may die, with limits, and without files of this machine."""

from __future__ import annotations

import base64
import io
import multiprocessing
import os
from pathlib import Path

import pytest
from PIL import Image

from vlm_ablate.errors import DataError
from vlm_ablate.offline.debian import svg
from vlm_ablate.offline.debian.drawing import Drawing, look_at
from vlm_ablate.offline.debian.svg import svg_to_png

pytestmark = pytest.mark.usefixtures("offline_material")

_HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
_PLAIN = f'{_HEAD}width="8" height="8"><rect width="8" height="8" fill="red"/></svg>'
_TALL = f'{_HEAD}width="1" height="1e8"><rect width="1" height="1e8"/></svg>'


def drawn(text: str) -> Image.Image:
    return Image.open(io.BytesIO(svg_to_png(text.encode(), 32, dpi=96, skip_system_fonts=True))).convert("RGBA")


def is_red(picture: Image.Image) -> bool:
    return picture.getextrema() == ((255, 255), (0, 0), (0, 0), (255, 255))


@pytest.mark.parametrize("hostile", [
    _TALL,
    f'{_HEAD}width="8" height="8">' + "<g>" * 100_000 + "</g>" * 100_000 + "</svg>",
    f'{_HEAD}width="8" height="8"><g id="a0"><rect width="5" height="5"/></g>'
    + "".join(f'<g id="a{i + 1}">' + f'<use href="#a{i}"/>' * 10 + "</g>" for i in range(9)) + "</svg>",
    "",
    "no picture at all",
], ids=["1e8 pixels tall", "deep", "1e9 elements", "empty", "no XML"])
def test_a_hostile_picture_is_a_value_error_and_the_next_one_is_drawn(hostile: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        drawn(hostile)
    assert is_red(drawn(_PLAIN))


@pytest.mark.parametrize("reference", [
    'href="{file}"', 'xlink:href="{file}"', 'href="file://{file}"', 'href=" {file}"', 'href="&#47;{tail}"',
    'href="&local;"', 'href="{relative}"',
])
def test_no_file_of_this_machine_is_drawn(reference: str, tmp_path: Path) -> None:
    file = tmp_path / "local.png"
    Image.new("RGB", (8, 8), "red").save(file)
    said = reference.format(file=file, tail=str(file)[1:], relative=os.path.relpath(file, "/"))
    doctype = f'<!DOCTYPE svg [<!ENTITY local "{file}">]>' if "&local;" in said else ""
    picture = drawn(f'{doctype}{_HEAD}width="8" height="8"><image {said} width="8" height="8"/></svg>')
    assert picture.getextrema()[3] == (0, 0)


def test_pictures_inside_the_file_are_drawn() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    body = f'<image href="data:image/png;base64,{data}" width="8" height="8"/>'
    assert is_red(drawn(f'{_HEAD}width="8" height="8">{body}</svg>'))


def test_a_hostile_file_of_a_collection_is_left_out_and_one_that_became_so_is_named(tmp_path: Path) -> None:
    tall, bomb = tmp_path / "tall.svg", tmp_path / "bomb.png"
    tall.write_text(_TALL)
    Image.new("1", (20_000, 20_000)).save(bomb)
    assert look_at(tall) is None and look_at(bomb) is None
    plain = tmp_path / "plain.svg"
    plain.write_text(_PLAIN)
    look = look_at(plain)
    assert look is not None
    drawing = Drawing("plain", "plain", plain, look, "", "")
    assert drawing.raster(16).shape == (16, 16, 4)
    plain.write_text(_TALL)
    with pytest.raises(DataError, match=r"plain\.svg cannot be drawn: the process that drew it died"):
        drawing.raster(17)


def _draws_in_child(_: int) -> tuple[int, bool]:
    ours = is_red(drawn(_PLAIN))
    assert svg._drawer is not None
    return svg._drawer._process.pid, ours


def test_forked_children_draw_with_processes_of_their_own() -> None:
    assert is_red(drawn(_PLAIN)) and svg._drawer is not None
    mine = svg._drawer._process.pid
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(_draws_in_child, range(8), chunksize=1)
    assert all(red for _, red in found) and mine not in {pid for pid, _ in found}
    assert is_red(drawn(_PLAIN)) and svg._drawer._process.pid == mine
