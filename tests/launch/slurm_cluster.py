"""A real Slurm of one node on this machine, apart from any that it is part of. Needs slurm-wlm, munge and root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONF = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
StateSaveLocation={root}/ctld
SlurmdSpoolDir={root}/d
SlurmctldPidFile={root}/ctld.pid
SlurmdPidFile={root}/d.pid
SlurmctldLogFile={root}/ctld.log
SlurmdLogFile={root}/d.log
SlurmctldPort={ctld}
SlurmdPort={d}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=preempt_send_user_signal,sched_interval=2,bf_interval=2,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
MinJobAge=600
InactiveLimit=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes={host} MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun")


def missing() -> str:
    """Why there can be no Slurm here; empty: there can."""
    if os.geteuid():
        return "Slurm's daemons need root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]
    return f"not installed: {', '.join(absent)} (apt-get install slurm-wlm munge)" if absent else ""


@contextmanager
def slurm(root: Path) -> Iterator[None]:
    """Within this block Slurm's commands speak to a cluster of this machine alone."""
    root.chmod(0o755)
    for folder in ("ctld", "d"):
        (root / folder).mkdir()
    (root / "slurm.conf").write_text(
        CONF.format(root=root, host=socket.gethostname().partition(".")[0], ctld=_port(), d=_port())
    )
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    os.environ["SLURM_CONF"] = str(root / "slurm.conf")
    os.environ["PATH"] = f"{os.environ['PATH']}:/usr/sbin"
    subprocess.run(["mungekey", "--create", "--keyfile", str(root / "key")], check=True)
    files = [f"--{name}={root / file}" for name, file in
             (("socket", "munge.socket"), ("key-file", "key"), ("pid-file", "munge.pid"), ("log-file", "munge.log"),
              ("seed-file", "seed"))]  # fmt: skip
    commands = [["munged", "--foreground", "--force", *files], ["slurmctld", "-D"], ["slurmd", "-D"]]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            started.append(subprocess.Popen(command, start_new_session=True, **quiet))  # type: ignore[call-overload]
            time.sleep(0.5)
        _wait_until_idle()
        yield
    finally:
        subprocess.run(["scancel", "--user", "root", "--quiet"], check=False, timeout=120)
        _wait_for_jobs()
        for process in reversed(started):  # one after another: slurmd waits for a controller to hear it
            process.terminate()
            process.wait(60)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _wait_until_idle(seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        told = subprocess.run(["sinfo", "--noheader", "--format", "%t"], capture_output=True, text=True)
        if told.stdout.split()[:1] == ["idle"]:
            return
        time.sleep(0.3)
    raise RuntimeError(f"Slurm does not come up: {told.stdout} {told.stderr}")


def _wait_for_jobs(seconds: float = 120.0) -> None:
    """Until no job runs or is being ended."""
    listing = ["squeue", "--noheader", "--states=RUNNING,COMPLETING", "--format=%i"]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and subprocess.run(listing, capture_output=True, text=True).stdout.strip():
        time.sleep(0.3)


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
