"""The options that say where runs go."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from vlm_ablate.cli.app import app
from vlm_ablate.cli.launchers import where_to
from vlm_ablate.cli.sweep import places
from vlm_ablate.errors import ConfigError, UnknownNameError
from vlm_ablate.launch.base import Placement
from vlm_ablate.launch.configs import LocalConfig, RayConfig, SlurmConfig

EXPERIMENT = Path(__file__).parents[2] / "experiments/idefics2/t03_architecture.yaml"


def test_options_become_a_launcher_and_a_placement() -> None:
    assert where_to().config == LocalConfig() and where_to().placement == Placement()
    assert where_to(jobs=3, threads=2, gpus=0).config == LocalConfig(jobs=3, threads=2)
    ray = where_to("ray", ray_address="head:6379", gpus=1, nodes=2, sets=["cpus=2", "resources={tpu: 1}"])
    assert ray.config == RayConfig(address="head:6379", cpus=2, resources={"tpu": 1})
    assert ray.placement == Placement(1, 2)
    slurm = where_to("slurm", sets=["partition=gpu", "time=60", "extra={reservation: demo}", "mem=16GB"])
    assert slurm.config == SlurmConfig(partition="gpu", time=60, extra={"reservation": "demo"}, mem="16GB")


@pytest.mark.parametrize(
    ("launcher", "options", "told"),
    [
        (
            "local",
            {"ray_address": "head:6379"},
            "--ray-address: the launcher 'local' takes no address of a Ray cluster",
        ),
        ("slurm", {"sets": ["partion=gpu"]}, "--launcher-set: partion: .* takes no setting 'partion' .*'partition'"),
        ("slurm", {"sets": ["partition"]}, "'partition' is not FIELD=VALUE"),
        ("slurm", {"sets": ["time=soon"]}, "--launcher-set: time: .*valid integer"),
        ("slurm", {"sets": ["mem=much"]}, "--launcher-set: mem: .*pattern"),
        ("ray", {"sets": ["resources={"]}, "no YAML"),
        ("ray", {"sets": ["name=local"]}, "takes no setting 'name'"),
    ],
)
def test_what_a_launcher_does_not_take_is_named(launcher: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        where_to(launcher, **options)


def test_a_launcher_that_does_not_exist_is_told_before_anything(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'slurm'"):
        where_to("slrum")
    home = tmp_path / "home"
    asked = CliRunner().invoke(app, ["run", str(EXPERIMENT), "--launcher", "raay", "--home", str(home)])
    assert asked.exit_code == 2 and "unknown launcher 'raay'" in asked.stderr and "did you mean 'ray'" in asked.stderr
    assert not home.exists()


def test_a_sweep_has_as_many_trials_at_a_time_as_there_are_gpus_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(devices: int | None) -> Any:
        arm = SimpleNamespace(config=SimpleNamespace(execution=SimpleNamespace(devices=devices)))
        return SimpleNamespace(base=SimpleNamespace(arms={"one": arm}))

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert [places(Placement(devices=number), loaded(None)) for number in (None, 1, 2, 3, 8)] == [4, 4, 2, 1, 1]
    assert [places(Placement(devices=number), loaded(2)) for number in (None, 1)] == [2, 4], "the file's, and by hand"
