"""`vlm-ablate schema`: JSON Schema of the files a person writes, for editors."""

from __future__ import annotations

from typing import Annotated, cast

import typer


def schema(
    kind: Annotated[str, typer.Argument(help="experiment or scale")] = "experiment",
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="Module whose parts to include.")] = None,
) -> None:
    """Print the JSON Schema of experiment (or scale) files, with every registered part.

    Example: vlm-ablate schema > experiment.schema.json
    """
    import json

    from vlm_ablate.config.json_schema import FileKind, file_schema
    from vlm_ablate.errors import UnknownNameError
    from vlm_ablate.registry import load_plugins

    if kind not in ("experiment", "scale"):
        raise UnknownNameError("kind of file", kind, ["experiment", "scale"])
    load_plugins(plugin or [], file="--plugin")
    typer.echo(json.dumps(file_schema(cast(FileKind, kind)), indent=2))
