"""The source "offline": several pictures of one task with a question or caption each, as one interleaved document.

Training samples have the shape of few-shot prompts, because that is how the papers' ablations are scored.
"""

from __future__ import annotations

import hashlib
import json
import random
from functools import cached_property

from vlm_ablate.config.components.sources import OfflineConfig
from vlm_ablate.data.offline.store import ItemStore, item_store, licence_records, material_fingerprint
from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.data.sources.base import AssetRecord, Source


class Offline(Source):
    """Rows are drawn from the train split only."""

    config: OfflineConfig

    def __len__(self) -> int:
        return self.config.rows

    def __getitem__(self, index: int) -> Sample:
        task, first = self._plan[index]
        store = self._store(task)
        segments: list[Image | Text] = []
        described = self._described[index]
        for i in range(first, first + self.config.pictures):
            segments += _described(store, i) if described else _shot(store, i)
        return Sample(f"offline/{task}/{first}", tuple(segments), f"offline/{task}")

    @property
    def fingerprint(self) -> str:
        body = json.dumps(self.config.model_dump(mode="json"), sort_keys=True) + material_fingerprint()
        return hashlib.sha256(body.encode()).hexdigest()[:16]

    @property
    def licences(self) -> list[AssetRecord]:
        return licence_records()

    @cached_property
    def _plan(self) -> list[tuple[str, int]]:
        """Row -> (task, number of its first item): tasks in the proportions asked for, items never used twice."""
        rng = random.Random(f"offline/{self.config.rows}")
        names, weights = list(self.config.tasks), list(self.config.tasks.values())
        used = dict.fromkeys(names, 0)
        plan = []
        for _ in range(self.config.rows):
            task = rng.choices(names, weights)[0]
            plan.append((task, used[task]))
            used[task] += self.config.pictures
        self._counts = used
        self._described = [rng.random() < self.config.described for _ in plan]
        return plan

    def _store(self, task: str) -> ItemStore:
        self._plan  # noqa: B018 - fills _counts
        return item_store(task, "train", self._counts[task], self.config.side)

    def __getstate__(self) -> dict:
        return {"config": self.config}


def _described(store: ItemStore, i: int) -> list[Image | Text]:
    """One picture with all that is in it, as the web's image-text pairs are to the papers' mixtures."""
    row = store.rows[i]
    return [Image(ImageRef(store.images[i], row["id"])), Text(f"{row['description']}\n\n", supervised=True)]


def _shot(store: ItemStore, i: int) -> list[Image | Text]:
    """One picture with its question and answer, or its caption, as the few-shot templates write it."""
    row = store.rows[i]
    lead = f"Question: {row['question']} Answer:" if row["question"] else "Caption:"
    return [
        Image(ImageRef(store.images[i], row["id"])),
        Text(lead),
        Text(f" {row['answer']}\n\n", supervised=True),
    ]
