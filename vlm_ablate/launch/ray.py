"""Runs as tasks of a Ray cluster. A task starts a process of its own for its run and looks after it.

Ray starts the task of a lost machine again on another. Its run goes on from the last checkpoint there; what still runs
on the lost machine ends when it sees that Ray's daemon is gone, and cannot write once the other has the run's lease.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vlm_ablate import __version__
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.launch.base import Placement
from vlm_ablate.launch.configs import RayConfig
from vlm_ablate.launch.devices import cores, gpus
from vlm_ablate.launch.engine import EngineLauncher
from vlm_ablate.launch.handover import Handover, Task, check_home
from vlm_ablate.launch.remote import attend


def RayLauncher(config: RayConfig) -> EngineLauncher:
    """A launcher over a Ray cluster."""
    return EngineLauncher(RayEngine(config))


class RayEngine:
    """See `Engine`."""

    name = "ray"
    outlive = False

    def __init__(self, config: RayConfig) -> None:
        self.config = config
        self.jobs, self.retries, self.threads = config.jobs, config.retries, config.threads
        self.alone = config.address is None
        self._ours = False
        """Whether the connection was made here."""

    def open(self, handover: Handover) -> None:
        """See `Engine.open`."""
        self._ray = _ray()
        self._handover = handover
        if not self._ray.is_initialized():
            self._connect()
            self._ours = True
        try:
            self._probe()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        address = self.config.address
        if address is None:
            settings |= {"num_cpus": cores(), "num_gpus": len(gpus()), "include_dashboard": False, "address": "local"}
        else:
            _reachable(address, self.config.connect_seconds)
            settings |= {"address": address}
        try:
            self._ray.init(**settings)
        except Exception as error:  # Ray raises many kinds, from its own to those of gRPC
            where = f"the Ray cluster at {address!r} does not take us" if address else "no Ray cluster starts here"
            raise VlmAblateError(f"{where}: {_first_line(error)}", hint=_ADDRESS_HINT) from error

    def _probe(self) -> None:
        """Every machine that can get runs shows that it has this package and sees the home.

        Raises:
            VlmAblateError: one does not.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe = self._ray.remote(num_cpus=0, max_retries=0)(_probe)
        asked = {}
        for node in self._nodes():
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = probe.options(scheduling_strategy=strategy)
            asked[options.remote(str(self._handover.root), self._handover.token, __version__)] = node
        if not asked:
            raise VlmAblateError("the Ray cluster has no machine that could run anything", hint=_ADDRESS_HINT)
        ready, late = self._ray.wait(list(asked), num_returns=len(asked), timeout=self.config.probe_seconds)
        for ref in ready:
            name = asked[ref]["NodeManagerHostname"]
            try:
                if problem := self._ray.get(ref):
                    raise VlmAblateError(f"the Ray node {name}: {problem[0]}", hint=problem[1])
            except self._ray.exceptions.RayError as error:
                raise VlmAblateError(
                    f"the Ray node {name} cannot run vlm_ablate: {_first_line(error)}",
                    hint="install the same version of vlm_ablate[ray] and of Python on every machine of the cluster",
                ) from error
        if late:
            names = ", ".join(asked[ref]["NodeManagerHostname"] for ref in late)
            raise VlmAblateError(f"Ray nodes show no life for {self.config.probe_seconds:g} s: {names}")

    def _nodes(self) -> list[dict[str, Any]]:
        """Machines that may get runs. A head without CPUs gets none."""
        useful = ("CPU", "GPU")
        return [n for n in self._ray.nodes() if n["Alive"] and any(n["Resources"].get(kind) for kind in useful)]

    def check(self, placement: Placement) -> None:
        """See `Engine.check`."""
        if (placement.nodes or 1) > 1:
            raise VlmAblateError(
                f"{placement.nodes} nodes a run: the ranks of a run of Ray's are on one machine",
                hint="leave --nodes out, --devices takes all GPUs of a machine; several machines a run have Slurm"
                " (--launcher slurm) and torchrun (docs/how-to/several-gpus.md)",
            )
        if self.config.autoscaling:
            return
        with _answering():
            wanted, nodes = self._wanted(placement), self._nodes()
        if not any(all(node["Resources"].get(k, 0) >= v for k, v in wanted.items()) for node in nodes):
            asked = ", ".join(f"{value:g} {kind}" for kind, value in wanted.items())
            most = {kind: max((n["Resources"].get(kind, 0) for n in nodes), default=0) for kind in wanted}
            has = ", ".join(f"{value:g} {kind}" for kind, value in most.items())
            raise VlmAblateError(
                f"a run asks for {asked}, and no Ray node has that: the most that any has is {has}",
                hint="ask for less a run: --devices, --launcher-set cpus=N; autoscaling=true waits for more nodes",
            )

    def _wanted(self, placement: Placement) -> dict[str, float]:
        found = any(node["Resources"].get("GPU") for node in self._nodes())
        count = placement.devices if placement.devices is not None else int(found)
        wanted = {"CPU": self.config.cpus, "GPU": float(count), **self.config.resources}
        return {kind: value for kind, value in wanted.items() if value}

    def start(self, tasks: Sequence[Task], placement: Placement) -> Sequence[Hashable]:
        """See `Engine.start`."""
        with _answering():
            return self._started(tasks, self._wanted(placement))

    def _started(self, tasks: Sequence[Task], wanted: dict[str, float]) -> Sequence[Hashable]:
        settings = {"num_cpus": wanted.pop("CPU", 0), "num_gpus": wanted.pop("GPU", 0), "resources": wanted}
        # A worker of Ray's is used once: what a run leaves in its devices and threads ends with it.
        task = self._ray.remote(max_calls=1, max_retries=self.retries, **settings)(_run)
        arguments = (str(self._handover.root), self._handover.token, not settings["num_gpus"])
        return [task.options(name=each.root.name).remote(str(each.root), *arguments) for each in tasks]

    def ended(self, jobs: Iterable[Hashable]) -> Mapping[Hashable, str]:
        """See `Engine.ended`."""
        refs = list(jobs)
        if not refs:
            return {}
        with _answering():
            ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        return {ref: self._why(ref) for ref in ready}

    def _why(self, ref: Any) -> str:
        try:
            return str(self._ray.get(ref) or "")
        except Exception as error:
            return _first_line(error)

    def cancel(self, jobs: Iterable[Hashable]) -> None:
        """See `Engine.cancel`."""
        for ref in jobs:
            with suppress(Exception):  # it may be over
                self._ray.cancel(ref, force=True)

    def close(self) -> None:
        """See `Engine.close`."""
        if self._ours:
            self._ray.shutdown()
            self._ours = False


@contextmanager
def _answering() -> Iterator[None]:
    """Turn what Ray raises when its head is gone, of many kinds, into one error."""
    try:
        yield
    except Exception as error:
        raise VlmAblateError(
            f"the Ray cluster is gone: {_first_line(error)}", hint="the same command goes on"
        ) from error


_ADDRESS_HINT = (
    "--ray-address takes HOST:PORT of the head, ray://HOST:10001 or auto; without it a cluster is started here"
)


def _probe(root: str, token: str, version: str) -> tuple[str, str] | None:
    """On a machine of the cluster: what keeps it from computing runs, and what helps."""
    if version != __version__:
        return (f"it has vlm_ablate {__version__}, and here is {version}", "install the same version everywhere")
    try:
        check_home(root, token)
    except VlmAblateError as error:
        return error.message, error.hint or ""
    return None


def _run(task: str, root: str, token: str, without_gpus: bool) -> str:
    """On a machine of the cluster: one run; says why when the machine cannot."""
    try:
        check_home(root, token)  # it may have joined the cluster since
    except VlmAblateError as error:
        return str(error)
    attend(Task(Path(task)), leave=lambda: False, without_gpus=without_gpus)
    return ""


def _reachable(address: str, seconds: float) -> None:
    """Raises VlmAblateError when nobody listens at `HOST:PORT`; Ray itself would try for minutes."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65_536 or not host:
        raise VlmAblateError(f"{address!r} is no address of a Ray cluster", hint=_ADDRESS_HINT)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except OSError as error:
        raise VlmAblateError(
            f"the Ray cluster at {address!r} does not answer: {error.strerror or error}", hint=_ADDRESS_HINT
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise VlmAblateError("Ray is not installed", hint="pip install 'vlm_ablate[ray]'") from error
    return ray
