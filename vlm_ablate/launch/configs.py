"""Launchers: configuration, and which there are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.registry import launchers


class LocalConfig(ComponentConfig, decides="execution"):
    """Worker processes of this machine: one a GPU, or one a core."""

    name: Literal["local"] = "local"
    jobs: int | None = Field(None, gt=0)
    """Runs at a time; None: one for each GPU, or without GPUs for each core."""
    threads: int = Field(1, gt=0)
    """Threads of one CPU operation in a worker. The last digits of a result depend on it."""


class RayConfig(ComponentConfig, decides="execution"):
    """A Ray cluster, by address or started here; every machine sees the home."""

    name: Literal["ray"] = "ray"
    address: str | None = None
    """`HOST:PORT` or `ray://HOST:PORT` of a cluster, or `auto` for the one that this machine is part of; None: one of
    this machine alone is started, and ends with the command."""
    jobs: int | None = Field(None, gt=0)
    """Runs at a time; None: as many as the cluster has room for."""
    threads: int = Field(1, gt=0)
    """Threads of one CPU operation of a run. The last digits of a result depend on it."""
    cpus: float = Field(1.0, ge=0)
    """CPUs that a run reserves, as Ray counts them."""
    resources: dict[str, float] = {}
    """Further resources that a run reserves, e.g. `{"accelerator_type:H100": 0.001}`."""
    autoscaling: bool = False
    """Whether machines may join later that have what none has now: then a run waits for them instead of failing."""
    retries: int = Field(3, ge=0)
    """How often a run goes on elsewhere when its machine was lost."""
    connect_seconds: float = Field(30.0, gt=0)
    """How long the cluster may take to answer."""
    probe_seconds: float = Field(120.0, gt=0)
    """How long its machines may take to show that they see the home and have this package."""


class SlurmConfig(ComponentConfig, decides="execution"):
    """Jobs of a Slurm cluster, as arrays; preempted ones go on; every machine sees the home."""

    name: Literal["slurm"] = "slurm"
    executor: Literal["slurm", "local"] = "slurm"
    """`local` runs the same jobs as processes of this machine, to try things out without a cluster."""
    jobs: int | None = Field(None, gt=0)
    """Jobs of one array that run at a time; None: as many as Slurm lets."""
    threads: int = Field(1, gt=0)
    """Threads of one CPU operation of a run. The last digits of a result depend on it."""
    partition: str | None = None
    """None: the cluster's default."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Features of nodes, e.g. `a100|h100`."""
    time: int | None = Field(None, gt=0)
    """Limit of one job, minutes; None: four hours, or less where the partition allows less. A run that takes longer
    leaves a checkpoint before that and goes on in the next job."""
    cpus: int = Field(1, gt=0)
    """Cores of a job."""
    mem: str | None = Field(None, pattern=r"^[0-9]+(\.[0-9]+)?[KMGT]?B?$")
    """Memory of a job, e.g. `16GB`; None: the cluster's default."""
    signal_seconds: int = Field(90, ge=0)
    """How long before the time limit a run is told to leave a checkpoint."""
    extra: dict[str, str | int | bool] = {}
    """Further options of `sbatch`, e.g. `{"reservation": "demo", "exclude": "node7"}`."""
    setup: list[str] = []
    """Lines of shell before the job's own, e.g. `module load cuda`."""
    retries: int = Field(3, ge=0)
    """How often a run is handed over again whose job was lost and that Slurm does not start again by itself."""


launchers.declare("local", LocalConfig, "vlm_ablate.launch.local:LocalLauncher")
launchers.declare("ray", RayConfig, "vlm_ablate.launch.ray:RayLauncher")
launchers.declare("slurm", SlurmConfig, "vlm_ablate.launch.slurm:SlurmLauncher")
