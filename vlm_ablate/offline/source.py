"""The source "offline": several pictures of one task with a question or caption each, as one interleaved document.

Training samples have the shape of few-shot prompts, because that is how the papers' ablations are scored; or they are
dialogues, as the data of instruction tuning are.
"""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.data.sources.base import Source
from vlm_ablate.evaluation.prompts import get_template
from vlm_ablate.offline.alt_text import alt_text
from vlm_ablate.offline.configs import OfflineSourceConfig, TaskName
from vlm_ablate.offline.store import ItemStore, item_store, items
from vlm_ablate.offline.tasks import TASKS, licence_records, share_out
from vlm_ablate.provenance import AssetRecord


class Offline(Source):
    """Rows are drawn from the train split only.

    Raises:
        AssetMissing: on construction, when the material of a task is not on this machine.
    """

    config: OfflineSourceConfig

    def __init__(self, config: OfflineSourceConfig) -> None:
        super().__init__(config)
        self._licences = licence_records(config.tasks)
        rng = random.Random(f"offline/{config.rows}")
        # Row -> (task, number of its first item): items are never used twice.
        self._counts = dict.fromkeys(config.tasks, 0)
        self._plan: list[tuple[TaskName, int]] = []
        for task in share_out(config.tasks, config.rows, rng):
            self._plan.append((task, self._counts[task]))
            self._counts[task] += config.pictures
        self._stores: dict[str, ItemStore] = {}
        self._described = [rng.random() < config.described for _ in self._plan]

    def __len__(self) -> int:
        return self.config.rows

    def __getitem__(self, index: int) -> Sample:
        task, first = self._plan[index]
        store = self._store(task)
        segments: list[Image | Text] = []
        described = self._described[index]
        dialogue = self.config.dialogue and not described
        shot = _turns if dialogue else _shot
        for i in range(first, first + self.config.pictures):
            segments += _described(store, i) if described else shot(store, i, self._answer(store, i))
        return Sample(f"offline/{task}/{first}", tuple(segments), f"offline/{task}", dialogue)

    def _answer(self, store: ItemStore, i: int) -> str:
        """What is learned: the exact answer, or for captions alt text where that is asked for."""
        row = store.rows[i]
        if row["question"] or self.config.captions == "exact":
            return str(row["answer"])
        other = store.rows[(i + 1) % len(store.rows)]
        return alt_text(row["description"], row["answer"], other["answer"], random.Random(f"alt text/{row['id']}"))

    def prepare(self) -> None:
        for task, count in self._counts.items():
            if count:
                item_store(task, "train", count, self.config.side)
        self._stores.clear()

    def _store(self, task: TaskName) -> ItemStore:
        if task not in self._stores:
            self._stores[task] = items(task, "train", self._counts[task], self.config.side)
        return self._stores[task]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stores": {}}  # arrays that are mapped from disk would be copied

    @property
    def fingerprint(self) -> str:
        made_of = [TASKS[task].fingerprint for task, count in self._counts.items() if count]
        body = json.dumps([self.config.model_dump(mode="json"), made_of], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:16]

    @property
    def licences(self) -> list[AssetRecord]:
        return self._licences


def _described(store: ItemStore, i: int) -> list[Image | Text]:
    """One picture with all that is in it, as the web's image-text pairs are to the papers' mixtures."""
    row = store.rows[i]
    return [Image(ImageRef(store.images[i], row["id"])), Text(f"{row['description']}\n\n", supervised=True)]


def _turns(store: ItemStore, i: int, answer: str) -> list[Image | Text]:
    """One picture with the user's question, or their wish for a caption, and the assistant's answer."""
    row = store.rows[i]
    asked = row["question"] or get_template("caption").user
    return [Image(ImageRef(store.images[i], row["id"])), Text(asked), Text(answer, supervised=True)]


def _shot(store: ItemStore, i: int, answer: str) -> list[Image | Text]:
    """One picture with its question and answer, or its caption, as the few-shot templates write it."""
    row = store.rows[i]
    lead = f"Question: {row['question']} Answer:" if row["question"] else "Caption:"
    return [
        Image(ImageRef(store.images[i], row["id"])),
        Text(lead),
        Text(f" {answer}\n\n", supervised=True),
    ]
