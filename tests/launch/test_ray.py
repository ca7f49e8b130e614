"""The Ray launcher on a real cluster: two machines, both on this one, of which one is lost in the middle of a run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.launch.test_local import TARGET, calls
from tests.tracking.specs import make_spec
from tests.waiting import wait_for
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.events import Checkpointed, Event, StepDone
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Placement
from vlm_ablate.launch.campaign import Campaign
from vlm_ablate.launch.configs import RayConfig
from vlm_ablate.launch.handover import Handover
from vlm_ablate.launch.ray import RayLauncher
from vlm_ablate.runs.folder import run_folder

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.timeout(600)  # Ray starts for half a minute, and three times; on a busy machine for more


def opened(home: Home, on_event: Callable[[Event], None] = print, **settings: Any) -> Campaign:
    return Campaign(RayLauncher(RayConfig(**settings)), home, on_event, target=TARGET, grace_seconds=120)


@pytest.mark.parametrize(
    ("address", "told"),
    [("127.0.0.1:9", "does not answer: Connection refused"), ("nonsense", "is no address of a Ray cluster")],
)
def test_an_address_where_nothing_is_is_an_error_soon(home: Home, address: str, told: str) -> None:
    started = time.monotonic()
    with pytest.raises(VlmAblateError, match=told):
        opened(home, address=address).__enter__()
    assert time.monotonic() - started < 90 and calls(home) == []
    assert not any(home.launches.iterdir())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.mark.expensive
def test_a_run_of_a_lost_machine_goes_on_elsewhere_from_its_checkpoint(home: Home, cluster: Any) -> None:
    first = cluster.add_node(**NODE)
    events: list[Event] = []
    with opened(home, events.append, address=cluster.address, cpus=1) as campaign:
        _refused_at_once(campaign)
        long = campaign.submit(make_spec("long", note="sleep"))
        wait_for(lambda: any(isinstance(event, StepDone) for event in events), 180)
        second = cluster.add_node(**NODE)
        # Killed as a machine is: Ray's daemon is gone, what it started is not told.
        os.kill(first.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        outcome = long.result(120)
        assert (outcome.status, outcome.message) == ("finished", "continued")
        assert (run_folder(home, long.spec.id).root / "checkpoint").exists()
        assert sum(isinstance(event, Checkpointed) for event in events) == 1
        # The next runs go to the machine that is left: one dies, one is stopped early.
        dies = campaign.submit(make_spec("dies", note="kill"))
        assert "SIGKILL" in dies.result(120).message
        events.clear()
        other = campaign.submit(make_spec("other", note="sleep:again"))
        wait_for(lambda: any(isinstance(event, StepDone) for event in events), 180)
        other.stop()
        assert other.result(120).status == "stopped"
    assert second is not first
    assert {gpu for _, _, _, *gpu in calls(home) for gpu in gpu} == set()  # a run that asks for none sees none


def _refused_at_once(campaign: Campaign) -> None:
    for placement, told in (
        (Placement(devices=2), "asks for 1 CPU, 2 GPU, and no Ray node has that: .* is 1 CPU, 0 GPU"),
        (Placement(nodes=3), "3 nodes a run: the ranks of a run of Ray's are on one machine"),
    ):
        with pytest.raises(VlmAblateError, match=told):
            campaign.submit(make_spec("mlp", 1), placement)


def test_machines_that_do_not_see_the_home_are_named_before_any_run(
    home: Home, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Handover.create.__func__

    def elsewhere(cls: Any, at: Home, setup: dict[str, Any]) -> Handover:
        made: Handover = create(cls, at, setup)
        (made.root / "token").unlink()  # what a machine sees that has another folder at this path
        return made

    monkeypatch.setattr(Handover, "create", classmethod(elsewhere))
    cluster.add_node(**NODE)
    with (
        pytest.raises(VlmAblateError, match=r"the Ray node .* does not see the home"),
        opened(home, address=cluster.address),
    ):
        pass
    assert not any(home.launches.iterdir())
