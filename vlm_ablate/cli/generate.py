"""`vlm-ablate generate RUN "question"`: ask a trained run, an exported folder or a released checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.cli.console import HomeOption, HubOption, PluginsOption

if TYPE_CHECKING:
    from vlm_ablate.evaluation.ask import Answerer


def generate(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Run (arm and seed, or key), exported folder, or released checkpoint."),
    ],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    images: Annotated[list[Path] | None, typer.Option("--image", help="Picture; repeat it for several.")] = None,
    few_shot: Annotated[
        Path | None, typer.Option("--few-shot", help="JSONL of demonstrations: image, question, answer.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens of the answer.")] = 32,
    template: Annotated[str, typer.Option("--template", help="Prompt template of our own models.")] = "vqa",
    home: HomeOption = None,
    allow_hub: HubOption = False,
    plugins: PluginsOption = False,
) -> None:
    """Print the greedy answer to a question about pictures.

    Example: vlm-ablate generate my_model --image photo.png "What is this?"
    """
    from vlm_ablate.cli.console import err
    from vlm_ablate.hub import set_hub_access
    from vlm_ablate.trust import allow_plugins

    set_hub_access(allow_hub)
    allow_plugins(plugins)
    with err().status("loading the model"):
        from vlm_ablate.evaluation.ask import Shot, read_shots

        shots = read_shots(few_shot) if few_shot else []
        answer = open_model(run, home, template)
    with err().status("answering"):
        text = answer(Shot(question, tuple(images or ())), shots, max_new_tokens)
    typer.echo(text)


def open_model(name: str, home: str | None, template: str) -> Answerer:
    """What answers: a run of the home, our own checkpoint, or one that transformers loads.

    Raises:
        UnknownNameError: neither a run nor a checkpoint of that name.
    """
    import torch

    from vlm_ablate.checkpoints.own import load_checkpoint, read_description
    from vlm_ablate.cli.export import quiet
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.config.data import Preparation
    from vlm_ablate.errors import AssetMissing, UnknownNameError
    from vlm_ablate.evaluation.ask import with_transformers, with_vlm
    from vlm_ablate.models.pretrained import is_own_checkpoint, resolve
    from vlm_ablate.runs.find import find_run, load_run

    quiet()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(name).expanduser()
    if not (folder.is_dir() and not (folder / "run.json").is_file()):
        try:
            found = find_run(name, open_home(home))
            asked = found.spec.config.evaluation
            data = Preparation(image=asked.image, prompt=asked.prompt)
            return with_vlm(load_run(found, device=device), data, template=template)
        except UnknownNameError as unknown:
            try:
                folder = resolve(name)
            except AssetMissing as missing:
                if "/" in name and not name.startswith(("/", ".", "~")):
                    raise  # a hub id: how to get it is what helps
                unknown.hint = f"{unknown.hint}; and as a checkpoint: {missing.message}"
                raise unknown from missing
    if is_own_checkpoint(folder):
        kept = read_description(folder)
        data = Preparation(image=kept.image, prompt=kept.prompt)
        return with_vlm(load_checkpoint(folder, device=device), data, template=template)
    return with_transformers(folder, device)
