"""`vlm-ablate parity DIR`: a checkpoint with transformers and as our assembly, fed the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.cli.console import HubOption, PluginsOption, finite

if TYPE_CHECKING:
    from rich.table import Table

    from vlm_ablate.checkpoints.parity import Compared, Parity


def parity(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Checkpoint folder, or hub id.")],
    dtype: Annotated[str, typer.Option("--dtype", help="float32, float64, bfloat16 or float16.")] = "float32",
    images: Annotated[int, typer.Option("--images", min=1, max=100, help="Images of the case with many.")] = 3,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance", min=0, callback=finite, help="Difference over the largest logit. Default: by --dtype."
        ),
    ] = None,
    allow_hub: HubOption = False,
    plugins: PluginsOption = False,
) -> None:
    """Print the largest difference of logits for several batches; exit 1 when one is above the tolerance.

    Example: vlm-ablate parity my_model
    """
    from vlm_ablate.cli.console import err, out
    from vlm_ablate.cli.export import quiet
    from vlm_ablate.errors import UnknownNameError
    from vlm_ablate.hub import set_hub_access
    from vlm_ablate.trust import allow_plugins

    set_hub_access(allow_hub)
    allow_plugins(plugins)
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    with err().status("importing") as status:
        import torch

        from vlm_ablate.checkpoints.parity import cases, load_parity, within

        quiet()
        models = load_parity(folder, dtype=getattr(torch, dtype), on=status.update)
        results = []
        for case, result in zip(cases(images), models.compare(cases(images)), strict=True):
            status.update(f"compared: {case.name}")
            results.append(result)
    limit = models.tolerance if tolerance is None else tolerance
    console = out()
    console.print(_head(models), soft_wrap=True)
    console.print(_table(results, limit))
    equal = within(results, limit)
    verdict = "both compute the same" if equal else "they differ"
    console.print(f"{verdict}: tolerance {limit:g} of the largest logit, {dtype}")
    if not equal:
        raise typer.Exit(1)


DTYPES = ("float32", "float64", "bfloat16", "float16")


def _head(models: Parity) -> str:
    parts = [getattr(models.config, name).name for name in ("vision", "connector", "language", "architecture")]
    return f"{type(models.theirs).__name__} of transformers, and our {' + '.join(parts)}"


def _table(results: list[Compared], limit: float) -> Table:
    from rich.table import Table

    table = Table()
    for column in ("case", "positions", "views", "largest difference", "of the largest logit", "processor"):
        table.add_column(column, justify="left" if column in ("case", "processor") else "right")
    for r in results:
        style = None if r.relative <= limit else "red"
        row = (r.case.name, f"{r.tokens:,}", str(r.views), f"{r.difference:.2e}", f"{r.relative:.2e}", r.prepared)
        table.add_row(*row, style=style)
    return table
