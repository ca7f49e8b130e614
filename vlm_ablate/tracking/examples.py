"""The panel of pictures with questions, truth and answers that is kept beside a table: an image that names its run."""

from __future__ import annotations

import io
from pathlib import Path

from vlm_ablate.storage import write_atomically
from vlm_ablate.tracking.schema import EXAMPLES_FILE

_RUN = "Run"
"""Text chunk of the image: the id of the run that answered."""


def keep_examples(panel: Path, run_id: str, folder: Path) -> Path | None:
    """Write the panel of a run into a folder; None, and nothing written, when it is no picture.

    Raises:
        StorageError: the file cannot be written.
    """
    from PIL import Image, UnidentifiedImageError
    from PIL.PngImagePlugin import PngInfo

    path = folder / EXAMPLES_FILE
    if panel == path:  # kept earlier; made again it would lose a little each time
        return path
    named, out = PngInfo(), io.BytesIO()
    named.add_text(_RUN, run_id)
    try:
        with Image.open(panel) as picture:
            # 256 colours are enough for text and small drawings, and a third of the bytes.
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
                out, "png", optimize=True, pnginfo=named
            )
    except (OSError, UnidentifiedImageError):
        return None
    write_atomically(path, out.getvalue())
    return path


def kept_examples(folder: Path) -> dict[str, Path]:
    """Run id -> the panel in a folder; empty where there is none that names its run."""
    from PIL import Image, UnidentifiedImageError

    path = folder / EXAMPLES_FILE
    if not path.is_file():
        return {}
    try:
        with Image.open(path) as picture:
            run = picture.info.get(_RUN)
    except (OSError, UnidentifiedImageError):
        return {}
    return {run: path} if isinstance(run, str) and run else {}
