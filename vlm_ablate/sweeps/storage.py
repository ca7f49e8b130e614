"""Where studies are kept: SQLite in the home, or a PostgreSQL server; and that one study has one space.

Schema and studies are made under a lock before anything is asked for: simultaneous first starts fail else.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlm_ablate.errors import StorageError, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.masking import masked
from vlm_ablate.storage import locked
from vlm_ablate.sweeps.config import Sweep
from vlm_ablate.sweeps.loading import LoadedSweep, StudyPlan, definition

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.study import Study

DEFINITION = "definition"
"""User attribute of a study: what makes its trials comparable."""
GRID = "grid"
"""User attribute of a study: all combinations of its space were asked for."""
UNTOUCHED = "untouched"
"""User attribute of a trial: fields that stay as the file has them."""
LOCK_SECONDS = 60.0
"""How long a process waits for another's writing in SQLite."""
_TRIES = 3


class StudyDiffers(VlmAblateError):
    """A study of that name has trials of another space."""

    exit_code = 2


def sweep_folder(home: Home, name: str) -> Path:
    """The folder of a sweep in a home: its database, and a folder for each trial."""
    return home.root / "sweeps" / name


def default_storage(home: Home, name: str) -> str:
    """Address of the database in the home."""
    return f"sqlite:///{sweep_folder(home, name).absolute() / 'study.db'}"


def check_address(uri: str) -> None:
    """Raises StorageError where no database of studies can have this address, or its driver is missing; asks nobody."""
    scheme = uri.partition("://")[0]
    if scheme not in ("sqlite", "postgresql"):
        raise StorageError(f"--storage {masked(uri)[:100]}: neither sqlite:///FILE nor postgresql://USER@HOST/DATABASE")
    if scheme == "postgresql" and find_spec("psycopg") is None:
        message = "the driver of PostgreSQL is not installed"
        raise StorageError(message, hint="pip install 'vlm_ablate[postgres]'")


def open_storage(uri: str, folder: Path, *, create: bool = True) -> RDBStorage:
    """The database of studies.

    Args:
        uri: `sqlite:///FILE` or `postgresql://USER@HOST/DATABASE`.
        folder: of the sweep; its lock is held while the schema is made.
        create: False: a SQLite file must be there.

    Raises:
        StorageError: it cannot be reached, or there is none.
    """
    from optuna import logging
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    logging.set_verbosity(logging.ERROR)
    check_address(uri)
    scheme, _, rest = uri.partition("://")
    sqlite = scheme == "sqlite"
    if sqlite and not create and not Path(rest.removeprefix("/")).is_file():
        file = rest.removeprefix("/")
        raise StorageError(f"there is no study yet: {file}", hint="`vlm-ablate sweep FILE` begins one")
    arguments: dict[str, Any] = {"timeout": LOCK_SECONDS} if sqlite else {"connect_timeout": 10}
    options = {"connect_args": arguments, **({} if sqlite else {"pool_pre_ping": True})}
    address = uri if sqlite else f"postgresql+psycopg://{rest}"
    with _alone(folder, rest.removeprefix("/") if sqlite else None):
        for attempt in range(_TRIES):
            try:
                storage = RDBStorage(address, engine_kwargs=options)
                if sqlite:
                    _write_ahead(storage)
                return storage
            except (ArgumentError, NoSuchModuleError) as error:
                raise StorageError(f"--storage {masked(uri)[:100]} is no address of a database") from error
            except (SQLAlchemyError, OSError) as error:
                if attempt + 1 < _TRIES and not sqlite and "connect" not in str(error):
                    time.sleep(1.0)  # another machine makes the schema this moment
                    continue
                raise _unreachable(uri, error) from error
    raise AssertionError("unreachable")


@contextmanager
def _alone(folder: Path, file: str | None) -> Iterator[None]:
    """Within the block no other process makes schema or studies, in this home or, of an SQLite file, in another one."""
    with locked(folder / "schema.lock"), ExitStack() as stack:
        if file and Path(file).parent.is_dir():
            stack.enter_context(locked(Path(f"{file}.lock")))
        yield


@contextmanager
def _alone_on_server(storage: RDBStorage) -> Iterator[None]:
    """Within the block no other machine makes studies on this server of PostgreSQL."""
    from sqlalchemy import text

    with storage.engine.connect() as connection:  # whose transaction holds it
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('vlm_ablate studies'))"))
        yield


@contextmanager
def database_errors(uri: str) -> Iterator[None]:
    """Turn what a database that fails says into one `StorageError`."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _unreachable(uri, error) from error


def _unreachable(uri: str, error: Exception) -> StorageError:
    reason = masked(str(error).strip().partition("\n")[0])[:200]
    return StorageError(
        f"the database of the study does not answer: {masked(uri)} ({reason})",
        hint="trials that run go on when the same command is given again",
    )


def _write_ahead(storage: RDBStorage) -> None:
    """Let readers and one writer work at the same time; the file remembers it."""
    from sqlalchemy import text

    with storage.engine.connect() as connection:
        connection.execute(text("PRAGMA journal_mode=WAL"))


def open_study(storage: RDBStorage, loaded: LoadedSweep, plan: StudyPlan, folder: Path) -> Study:
    """The study, made with its first trials when it is not there yet.

    Raises:
        StudyDiffers: there is one of that name with another space, experiment, objective or seeds.
    """
    import optuna

    sweep = loaded.sweep
    asked = definition(loaded, plan)
    directions: list[Literal["minimize", "maximize"]] = [sweep.objective.direction]
    directions += ["minimize"] if sweep.objective.against else []
    url = storage.engine.url
    sqlite = url.get_backend_name() == "sqlite"
    with _alone(folder, url.database if sqlite else None), nullcontext() if sqlite else _alone_on_server(storage):
        study = optuna.create_study(
            storage=storage, study_name=plan.name, directions=directions, load_if_exists=True, pruner=pruner_of(loaded)
        )
        there = study.user_attrs.get(DEFINITION)
        if there is not None:
            check_study(study, loaded, plan)
        else:
            for values, untouched in plan.first_trials():  # the file as it stands
                study.enqueue_trial(values, user_attrs={UNTOUCHED: untouched}, skip_if_exists=True)
        if sweep.sampler.name == "grid" and GRID not in study.user_attrs:
            _enqueue_grid(study, plan)
            study.set_user_attr(GRID, True)
        if there is None:
            study.set_user_attr(DEFINITION, json.dumps(asked))
    return study


def check_study(study: Study, loaded: LoadedSweep, plan: StudyPlan) -> None:
    """Look whether a study has the trials that the file tells of.

    Raises:
        StudyDiffers: its trials are of another space, experiment, objective or seeds than the file tells.
    """
    there = study.user_attrs.get(DEFINITION)
    if there is not None and (differences := _differences(json.loads(there), definition(loaded, plan))):
        shown = "\n".join(f"  {line}" for line in differences[:12])
        raise StudyDiffers(
            f"the study {plan.name!r} has trials of another search:\n{shown}",
            hint="give the sweep another `name` in its file; the trials of the earlier one stay where they are",
        )


def _enqueue_grid(study: Study, plan: StudyPlan) -> None:
    """Ask for all combinations that were not asked for yet, by this sampler or by the one that was there before."""
    trials = study.get_trials(deepcopy=False)
    asked = [trial.system_attrs.get("fixed_params", trial.params) for trial in trials
             if not trial.user_attrs.get(UNTOUCHED)]  # fmt: skip
    known = {json.dumps(plan.space.exact(values), sort_keys=True) for values in asked}
    for values in plan.space.grid():
        if json.dumps(values, sort_keys=True) not in known:
            study.enqueue_trial(values)


def _differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """`space.x.high: 0.01 there, 0.02 in the file` for each difference."""
    old, new = _flat(there), _flat(asked)
    told = []
    for name in dict.fromkeys([*old, *new]):
        if old.get(name, "nothing") != new.get(name, "nothing"):
            told.append(f"{name}: {old.get(name, 'nothing')} there, {new.get(name, 'nothing')} in the file")
    return told


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, Mapping) or not data:
        return {prefix: data}
    return {k: v for name, part in data.items() for k, v in _flat(part, f"{prefix}.{name}" if prefix else name).items()}


def sampler_of(sweep: Sweep, number: int) -> BaseSampler:
    """Who proposes the values of a trial.

    Args:
        number: of the trial, which no other has in any process: samplers with one seed propose the same.
    """
    from optuna import samplers

    seed = sweep.sampler.seed + number
    match sweep.sampler.name:
        case "tpe":
            return samplers.TPESampler(seed=seed, n_startup_trials=sweep.sampler.startup)
        case "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=max(2, sweep.sampler.startup))
        case _:
            return samplers.RandomSampler(seed=seed)


def pruner_of(loaded: LoadedSweep) -> BasePruner:
    """Who ends trials that are behind. Steps are points of the curve, seed after seed; of wilcoxon, seeds."""
    from optuna import pruners
    from optuna.exceptions import ExperimentalWarning

    asked, points = loaded.sweep.pruner, loaded.curve_points * len(loaded.sweep.seeds)
    match asked.name:
        case "median":
            # The first point is step 1, and Optuna counts steps from 0.
            return pruners.MedianPruner(n_startup_trials=asked.startup, n_warmup_steps=asked.warmup + 1)
        case "hyperband":
            return pruners.HyperbandPruner(1, max(1, points), asked.reduction)
        case "wilcoxon":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return pruners.WilcoxonPruner(p_threshold=asked.p)
        case _:
            return pruners.NopPruner()
