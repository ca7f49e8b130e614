"""`vlm-ablate validate FILE...`: all errors of all files at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_ablate.errors import ConfigError, Problem, UnknownNameError


def validate(
    files: Annotated[list[Path], typer.Argument(help="Experiment and scale files.")],
    scale: Annotated[
        str | None, typer.Option("--scale", "-s", help="Only at this scale. Default: at every scale.")
    ] = None,
) -> None:
    """Check files without running anything: every error with file, path, what is wrong and the nearest valid value."""
    from vlm_ablate.cli.console import out, warn

    console = out()
    problems: list[Problem] = []
    for file in files:
        try:
            console.print(f"[green]ok[/] {_check(file, scale)}")
        except ConfigError as error:
            problems += error.problems
        except UnknownNameError as error:
            problems.append(Problem(str(file), "", error.message, error.nearest))
    warn(_warnings)
    _warnings.clear()
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


_warnings: list[str] = []


def _check(file: Path, scale: str | None) -> str:
    """One line about a valid file.

    Raises:
        ConfigError: everything that is wrong with it.
        UnknownNameError: no such file or scale.
    """
    from vlm_ablate.config.document import display
    from vlm_ablate.config.expand import find_experiment, load_experiment
    from vlm_ablate.config.scales import PAPER, read_scale, scale_files

    file = find_experiment(file)
    if file.resolve().parent.name == "scales":
        return f"{display(file)}  scale {read_scale(file).scale.name!r}"
    if file.name.startswith("_"):
        from vlm_ablate.config.compose import load_document

        load_document(file)
        return f"{display(file)}  fragment, checked in the files that inherit it"
    scales = [scale] if scale else list(dict.fromkeys([PAPER, *scale_files(file)]))
    problems: list[Problem] = []
    for name in scales:
        try:
            loaded = load_experiment(file, scale=name)
            _warnings.extend(w for w in (f"{display(file)} at {name}: {w}" for w in loaded.warnings))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return f"{display(file)}  {len(loaded.arms)} arms at {', '.join(scales)}"
