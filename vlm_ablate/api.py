"""What a notebook needs, as `import vlm_ablate as va`: load an experiment, plan it, run it, read its table.

```python
import vlm_ablate as va

study = va.load("idefics2/t12_depth", scale="laptop", home="outputs")
study.plan()                        # parameters and visual tokens of each arm
study.run(seeds=[0, 1, 2], jobs=2)  # what is done is not done again
study.table()                       # the table, the paper's numbers beside ours
study.claims()                      # each claim with its verdict
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_ablate.home import Home

if TYPE_CHECKING:
    import pandas as pd

    from vlm_ablate.config.expand import LoadedExperiment
    from vlm_ablate.events import Event
    from vlm_ablate.reporting import Report
    from vlm_ablate.runs.outcome import RunOutcome
    from vlm_ablate.runs.spec import RunSpec


def load(
    experiment: str | Path,
    *,
    scale: str = "laptop",
    arms: Sequence[str] | None = None,
    sets: Sequence[str] = (),
    home: str | Path | None = None,
) -> Study:
    """An experiment at a scale, checked.

    Args:
        experiment: a file, or a name such as `idefics2/t12_depth`.
        arms: only these; None: all.
        sets: settings by hand, as `--set` takes them: `"stages.*.steps=50"`.
        home: folder of runs and records; None: $VLM_ABLATE_HOME, or outputs.

    Raises:
        ConfigError: everything that is wrong with the file.
        UnknownNameError: no such experiment, scale or arm.
    """
    from vlm_ablate.config.expand import load_experiment

    loaded = load_experiment(Path(experiment), scale=scale, sets=list(sets), arms=None if arms is None else list(arms))
    return Study(loaded, Home.at(None if home is None else str(home)))


@dataclass(frozen=True)
class Study:
    """An experiment at a scale, with the home that its results are in."""

    loaded: LoadedExperiment
    home: Home = field(repr=False)

    def specs(self, seeds: Sequence[int] | None = None) -> list[RunSpec]:
        """A run for each arm and seed; None: the file's seeds."""
        from vlm_ablate.runs.spec import specs_of

        return specs_of(self.loaded, seeds=None if seeds is None else list(seeds))

    def plan(self) -> pd.DataFrame:
        """A row for each arm: visual tokens an image, weights in all and trained. Reads no weights."""
        import pandas as pd

        from vlm_ablate.accounting import Planner
        from vlm_ablate.runs.starts import placed_run

        planner = Planner()
        rows = []
        for arm in self.loaded.arms.values():
            with self.home.as_default():
                plan = planner.plan(placed_run(arm.config, self.home))
            rows.append({
                "visual_tokens_per_image": plan.visual_tokens_per_image,
                "total_parameters": plan.final_parameters,
                "trainable_parameters": plan.trainable_parameters,
            })  # fmt: skip
        return pd.DataFrame(rows, index=pd.Index([arm.label for arm in self.loaded.arms.values()], name="arm"))

    def run(
        self, seeds: Sequence[int] | None = None, *, jobs: int = 1, show: Callable[[Event], None] = lambda _: None
    ) -> list[RunOutcome]:
        """Run what is missing on this machine, in processes of their own; what is done is not done again.

        Args:
            jobs: runs at a time.
            show: is given every event.

        Raises:
            LaunchInterrupted: after Ctrl-C; the same call continues.
            DataError: the material is not there, or not as it should be; nothing was begun.
        """
        from vlm_ablate.evaluation.material import look_over
        from vlm_ablate.launch.campaign import Campaign
        from vlm_ablate.launch.configs import LocalConfig
        from vlm_ablate.launch.local import LocalLauncher
        from vlm_ablate.runs.results import find_results

        specs = self.specs(seeds)
        self.home.prepare()
        with self.home.as_default():
            missing = {spec.arm: spec.config for spec in specs if not find_results(spec, self.home).done}
            if missing and (error := look_over(missing).error()):
                raise error
        with Campaign(LocalLauncher(LocalConfig(jobs=jobs)), self.home, show) as campaign:
            return campaign.run(specs)

    def report(self, seeds: Sequence[int] | None = None) -> Report:
        """All that a table says, as values: `vlm_ablate.reporting.render` draws it.

        Raises:
            TrackingError: nothing was run in this home.
        """
        from vlm_ablate.cli.records import build_report, recorded

        numbers = None if seeds is None else list(seeds)
        with self.home.as_default():
            return build_report(self.loaded, recorded(self.loaded, self.home, seeds=numbers), numbers)

    def table(self, seeds: Sequence[int] | None = None) -> pd.DataFrame:
        """A row for each arm: the paper's score, ours (mean over seeds), the half-width of its 95 % interval, the
        number of seeds, how the runs ended, and the mean of each benchmark. Scores are on 0..100.

        Raises:
            TrackingError: nothing was run in this home.
        """
        import pandas as pd

        found = self.report(seeds)
        rows: list[dict[str, Any]] = []
        for row in found.rows:
            score = row.score()
            rows.append({
                "paper": row.paper_score,
                "score": score and score.mean,
                "half_width": score and score.half_width,
                "seeds": score.n if score else 0,
                "status": row.status,
                **{c: (each.mean if (each := row.score(c)) else None) for c in found.columns},
            })  # fmt: skip
        return pd.DataFrame(rows, index=pd.Index([row.label for row in found.rows], name="arm"))

    def claims(self, seeds: Sequence[int] | None = None) -> pd.DataFrame:
        """A row for each comparison of a claim: the paper's difference, ours with its interval, p after Holm, verdict.

        Raises:
            TrackingError: nothing was run in this home.
        """
        import pandas as pd

        names = ("claim", "better", "worse", "paper", "ours", "low", "high", "p_holm", "verdict")
        rows = [
            (claim.text, c.better, c.worse, c.paper_gain, d and d.mean, d and d.low, d and d.high, c.p_holm,
             str(claim.verdict if len(claim.comparisons) == 1 else c.outcome))
            for claim in self.report(seeds).claims
            for c in claim.comparisons
            for d in (c.difference,)
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=names)
