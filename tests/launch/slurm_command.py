"""A command that asks Slurm for a long run, to be killed: `python -m tests.launch.slurm_command HOME`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.launch.test_local import TARGET
from tests.tracking.specs import make_spec
from vlm_ablate.home import Home
from vlm_ablate.launch.campaign import Campaign
from vlm_ablate.launch.configs import SlurmConfig
from vlm_ablate.launch.slurm import SlurmLauncher

if __name__ == "__main__":
    with Campaign(SlurmLauncher(SlurmConfig()), Home(Path(sys.argv[1])), print, target=TARGET) as campaign:
        campaign.run([make_spec("long", note="sleep")])
