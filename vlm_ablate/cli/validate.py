"""`vlm-ablate validate FILE...`: all errors of all files at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_ablate.cli.console import ArmsOption, SetOption
from vlm_ablate.errors import ConfigError, Problem, UnknownNameError


def validate(
    files: Annotated[list[Path], typer.Argument(help="Experiment and scale files.")],
    scale: Annotated[
        str | None,
        typer.Option("--scale", "-s", metavar="NAME", help="Only at this scale. Default: at every scale."),
    ] = None,
    arms: ArmsOption = None,
    sets: SetOption = None,
) -> None:
    """Check files without running anything: every error with file, path, what is wrong and the nearest valid value.

    Example: vlm-ablate validate experiments/*/*.yaml
    """
    from rich.text import Text

    from vlm_ablate.cli.console import arm_list, out, warn

    console = out()
    problems: list[Problem] = []
    hint = None
    chosen = arm_list(arms)
    for file in files:
        try:
            console.print(Text.assemble(("ok", "green"), f" {_check(file, scale, chosen, sets or [])}"))
        except ConfigError as error:
            problems += error.problems
            hint = hint or error.hint
        except UnknownNameError as error:
            known = "" if error.nearest else f"; {error.hint}"
            problems.append(Problem(str(file), "", error.message + known, error.nearest))
    warn(_warnings)
    _warnings.clear()
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)), hint=hint)


_warnings: list[str] = []


def _check(file: Path, scale: str | None, arms: list[str] | None, sets: list[str]) -> str:
    """One line about a valid file.

    Raises:
        ConfigError: everything that is wrong with it.
        UnknownNameError: no such file, scale or arm.
    """
    from vlm_ablate.cli.console import counted
    from vlm_ablate.config.document import display
    from vlm_ablate.config.expand import find_experiment, load_experiment
    from vlm_ablate.config.scales import PAPER, read_scale, scale_files

    file = find_experiment(file)
    if file.resolve().parent.name == "scales":
        return f"{display(file)}  scale {read_scale(file).scale.name!r}"
    if file.resolve().parent.name == "sweeps":
        from vlm_ablate.sweeps.loading import load_sweep

        sweep = load_sweep(file).sweep
        return f"{display(file)}  sweep {sweep.name!r} over {counted(len(sweep.space), 'field')}"
    if file.name.startswith("_"):
        from vlm_ablate.config.compose import load_document

        load_document(file)
        return f"{display(file)}  fragment, checked in the files that inherit it"
    scales = [scale] if scale else list(dict.fromkeys([PAPER, *scale_files(file)]))
    problems: list[Problem] = []
    hint = None
    for name in scales:
        try:
            loaded = load_experiment(file, scale=name, sets=sets, arms=arms)
            _warnings.extend(w for w in (f"{display(file)} at {name}: {w}" for w in loaded.warnings))
        except ConfigError as error:
            problems += error.problems
            hint = hint or error.hint
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)), hint=hint)
    some = f"{len(loaded.arms)} of " if loaded.left_out else ""
    return f"{display(file)}  {some}{counted(len(loaded.arms) + len(loaded.left_out), 'arm')} at {', '.join(scales)}"
