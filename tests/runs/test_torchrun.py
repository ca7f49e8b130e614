"""Two agents of torchrun on this machine, each with one process: the weights and the export of one process.

The quick tests of this are `launch/test_seats.py` (how processes meet) and `test_devices.py` (ranks of one machine).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs.ranked import compare_exports, compare_weights, write_experiment
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.home import Home
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.results import find_stages
from vlm_ablate.runs.spec import RunSpec, specs_of

pytestmark = [pytest.mark.expensive, pytest.mark.timeout(400)]
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("torchrun"))


@pytest.fixture(scope="module")
def spec(file: Path) -> RunSpec:
    return specs_of(load_experiment(file, scale="paper"))[0]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def together(
    command: list[str], per_node: list[list[str]], environments: list[dict[str, str]]
) -> list[tuple[int, str]]:
    """(exit status, output) of the same command, started on two machines that are this one."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    processes = [
        subprocess.Popen(
            [*own, *command], env=os.environ | {"PYTHONPATH": path} | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for own, environment in zip(per_node, environments, strict=True)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def test_two_nodes_leave_the_weights_and_the_export_of_one_process(
    spec: RunSpec, file: Path, home: Home, tmp_path: Path
) -> None:
    alone = Home(tmp_path / "alone").prepare(minimum_free=0)
    assert execute(spec, home=alone).status == "finished"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "test"]
    command = ["-m", "vlm_ablate", "run", str(file), "--scale", "paper", "--home", str(home.root)]
    command += ["--set", "execution.strategy=fsdp2"]
    node = [*torchrun, "--local-addr", "127.0.0.1"]
    (status, said), (other, heard) = together(command, [node, node], [{}, {}])
    assert (status, other) == (0, 0), said + heard
    assert "1 finished" in said + heard and "trains what rank 0 says" in said + heard
    compare_weights(spec, home, alone)
    compare_exports(spec, home, alone, tmp_path)
    for stage in find_stages(spec, home):
        outcome = stage.outcome()
        assert outcome is not None
        assert [outcome["execution"][name] for name in ("devices", "nodes", "strategy")] == [1, 2, "fsdp2"]


def test_two_processes_started_by_hand_with_other_settings_are_refused(file: Path, home: Home) -> None:
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = ["--scale", "paper", "--home", str(home.root), "--set"]
    start = [sys.executable, "-m", "vlm_ablate", "run", str(file), *command]
    ended = together([], [[*start, "stages.tune.learning_rate=0.001"], [*start, "stages.tune.learning_rate=0.002"]],
                     [shared | {"RANK": "0"}, shared | {"RANK": "1"}])  # fmt: skip
    for status, said in ended:
        assert status == 1 and "config.stages.tune.learning_rate is 0.002, not 0.001" in said.replace("\n", " "), said
    assert not any(home.stages.iterdir())
