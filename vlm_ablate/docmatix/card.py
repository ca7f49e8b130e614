"""The data card (README.md) of a built data set, with the counts of every step."""

from __future__ import annotations

import json
from collections.abc import Iterable

from vlm_ablate.docmatix.counts import Totals
from vlm_ablate.docmatix.parquet import Written
from vlm_ablate.docmatix.settings import BuildSettings

_WHO = {
    "rules": "rules over the text of the pages; every answer stands on its page as written, and a count names what "
    "can be counted there",
    "endpoint": "the language model `{model}` behind an OpenAI-compatible server, given the text of the pages",
    "local": "the language model `{model}`, given the text of the pages",
}


def data_card(settings: BuildSettings, totals: Totals, written: Written) -> str:
    """The card's text: header for the hub, what a row is, how it was made, and the counts."""
    pairs_a_page = written.pairs / max(written.images, 1)
    return f"""---
license: {settings.licence}
task_categories:
- visual-question-answering
size_categories:
- {_size(written.rows)}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---

# Questions on document pages

{written.rows:,} rows: {written.images:,} pages of PDFs and {written.pairs:,} questions with answers
({pairs_a_page:.1f} a page), in the schema of Docmatix (HuggingFaceM4/Docmatix) and The Cauldron.

- `images`: up to {settings.pages_per_row} consecutive pages of one PDF at {settings.dpi} dpi ({settings.image_format})
- `texts`: list of `user` (question), `assistant` (answer) and `source` (`PDF#pages kind`)

The questions were asked by {_WHO[settings.questioner].format(model=settings.model)}.

The documents keep their own licences; `license` above is what the builder of this data set stated.

## Counts

| step | count |
|---|---|
{_table(totals, written)}

Docmatix dropped 15 % of its pairs; here {totals.drop_share:.1%} were dropped. The settings:

```json
{json.dumps(settings.identity, indent=1)}
```

## Kinds of questions

| kind | kept |
|---|---|
{_lines((kind, count) for kind, count in totals.kinds.items())}
"""


def _table(totals: Totals, written: Written) -> str:
    steps: list[tuple[str, int]] = [(f"PDFs: {status}", count) for status, count in totals.pdfs.items()]
    steps += [(f"pages: {what}", count) for what, count in totals.pages.items() if count]
    steps += [("rows made", totals.rows_made), ("pairs generated", totals.generated)]
    steps += [(f"pairs dropped: {reason}", count) for reason, count in totals.dropped.items()]
    steps += [("pairs kept", totals.kept)]
    if totals.prompts_refused:
        steps.append(("prompts that the model refused", totals.prompts_refused))
    steps += [("rows without pairs, left out", totals.rows_without_pairs),
              ("rows with the text of an earlier one, left out", written.duplicates),
              ("rows written", written.rows), ("pages written", written.images), ("pairs written", written.pairs)]
    return _lines(steps)


def _lines(rows: Iterable[tuple[str, int]]) -> str:
    return "\n".join(f"| {name} | {count:,} |" for name, count in rows)


def _size(rows: int) -> str:
    """The hub's size category."""
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if rows < limit:
            return name
    return "1M<n<10M"
