"""`vlm-ablate pretrain language|vision`: make the shipped stand-ins again from their sources; phases done are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

app = typer.Typer(help="Pretrain the small stand-ins that the laptop scale uses.", no_args_is_help=True)

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to write to. Default: the package's own copy.")]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, max=4_096, help="CPU threads; they change the last digits.")
]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, max=10**9, help="Steps instead of the recipe's.")]


@app.command()
def language(
    quality: Annotated[str, typer.Option("--quality", help="good or poor; they differ in steps only.")] = "good",
    wordnet: Annotated[Path | None, typer.Option("--wordnet", help="Folder with WordNet 3.0's data files.")] = None,
    out: OutOption = None,
    steps: StepsOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Pretrain the small Llama on dictionary glosses, country facts and described pictures (about 50 minutes).

    Example: vlm-ablate pretrain language
    """
    from dataclasses import replace

    import torch

    from vlm_ablate.errors import UnknownNameError
    from vlm_ablate.offline.pretrain.corpus import wordnet_folder
    from vlm_ablate.offline.pretrain.language import RECIPES, pretrain_language

    if quality not in RECIPES:
        raise UnknownNameError("quality", quality, RECIPES)
    torch.set_num_threads(threads)
    recipe = RECIPES[quality] if steps is None else replace(RECIPES[quality], steps=steps)
    with _bar(f"llama-nano-{quality}") as advance:
        folder = pretrain_language(
            quality, wordnet or wordnet_folder(), out=out, recipe=recipe,
            on_step=lambda step, total, loss: advance(step, total, f"loss {loss:.3f}"),
        )
    typer.echo(f"written to {folder}")


@app.command()
def vision(
    language: Annotated[
        Path | None, typer.Option("--language", help="Folder of the language model to align with.")
    ] = None,
    quality: Annotated[str, typer.Option("--quality", help="good or poor; they differ in steps only.")] = "good",
    out: OutOption = None,
    steps: StepsOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Pretrain the small SigLIP-type ViT on composed pictures and the names of what is in them (about 40 minutes).

    Example: vlm-ablate pretrain vision
    """
    from dataclasses import replace

    import torch

    from vlm_ablate.errors import AssetMissing, UnknownNameError
    from vlm_ablate.offline.configs import SiglipNanoConfig
    from vlm_ablate.offline.pretrain.recipe import STANDINS
    from vlm_ablate.offline.pretrain.vision import pretrain_vision
    from vlm_ablate.offline.pretrain.vision_recipe import VISION_RECIPES

    if quality not in VISION_RECIPES:
        raise UnknownNameError("quality", quality, VISION_RECIPES)
    if language is not None and not (language / "config.json").is_file():
        raise AssetMissing(f"{language} holds no language model: it has no config.json")
    torch.set_num_threads(threads)
    recipe = VISION_RECIPES[quality] if steps is None else replace(VISION_RECIPES[quality], steps=steps)
    with _bar(SiglipNanoConfig(quality=quality).folder) as advance:
        folder = pretrain_vision(
            language or STANDINS / "llama-nano-good", quality=quality, out=out, recipe=recipe,
            on_step=lambda step, total, loss, hits: advance(step, total, f"loss {loss:.3f}, names right {hits:.0%}"),
        )
    typer.echo(f"written to {folder}")


def _bar(name: str) -> AbstractContextManager[Callable[[int, int, str], None]]:
    """A progress bar whose `advance(step, total, info)` is called after every step."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar() -> Iterator[Callable[[int, int, str], None]]:
        columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[info]}", markup=False))
        with Progress(*columns, TimeRemainingColumn()) as progress:
            task = progress.add_task(name, total=None, info="making the tokenizer and the first batches")
            yield lambda step, total, info: progress.update(task, completed=step, total=total, info=info)

    return bar()
