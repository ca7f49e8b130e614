"""`vlm-ablate export RUN DIR`: a finished run as a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_ablate.cli.console import HomeOption, HubOption, PluginsOption

RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Arm and seed ('ar_linear seed 0'; experiment and scale too), key, folder."),
]


def export(
    run: RunArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; new or empty.")],
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Leave LoRA and DoRA beside the base weights (folder adapter/).")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in a folder that is not empty.")] = (
        False
    ),
    check: Annotated[
        bool, typer.Option(help="Load what was written with transformers and compare it with the run's model.")
    ] = True,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the written weights: float32, bfloat16 or float16.")] = (
        "float32"
    ),
    home: HomeOption = None,
    allow_hub: HubOption = False,
    plugins: PluginsOption = False,
) -> None:
    """Write weights, configuration, tokeniser, processor and a model card that AutoModelForImageTextToText loads.

    An assembly that transformers has no class for becomes a folder that vlm_ablate's load_checkpoint reads.

    Example: vlm-ablate export "ar_perceiver_lora seed 0" my_model
    """
    from rich.text import Text

    from vlm_ablate.cli.console import err, out, warn
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.errors import UnknownNameError
    from vlm_ablate.hub import set_hub_access
    from vlm_ablate.runs.find import find_run
    from vlm_ablate.trust import allow_plugins

    set_hub_access(allow_hub)
    allow_plugins(plugins)
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    found = find_run(run, open_home(home))
    with err().status(Text(f"exporting {found.spec.run_name} ({found.results.stages[-1].key})")):
        import torch

        from vlm_ablate.runs.export import export_run

        quiet()
        made = export_run(
            found, folder, keep_adapters=keep_adapters, force=force, check=check, dtype=getattr(torch, dtype)
        )
    console = out()
    key = found.results.stages[-1].key
    console.print(f"{found.spec.run_name} ({key}) written to {folder}", soft_wrap=True)
    if made.cls:
        console.print(f"a {made.cls}: AutoModelForImageTextToText and AutoProcessor load it", soft_wrap=True)
    else:
        console.print(
            f"transformers has no class for this model ({made.reason}); load it with\n"
            f"  from vlm_ablate.checkpoints import load_checkpoint; load_checkpoint({str(folder)!r})",
            soft_wrap=True,
        )
    if made.adapters and made.cls:
        console.print(f"the adapters are in {folder / 'adapter'}, the base weights do not contain them", soft_wrap=True)
    if made.check:
        console.print(f"checked against the run's own model and data: {made.check}", soft_wrap=True)
    warn(list(made.remarks))


DTYPES = ("float32", "bfloat16", "float16")


def quiet() -> None:
    """Keep the libraries' remarks about configurations out of the output."""
    import warnings

    from transformers.utils import logging

    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
