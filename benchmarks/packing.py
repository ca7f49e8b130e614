"""How full packed rows are and what packing costs: 16,384 samples like the Cauldron's, rows of 4,096 tokens, 48 tiles.

Ours packs windows of 2,048 with both limits. Beside it best fit decreasing of the package `binpacking` over all samples
at once, which knows one limit; both take the sizes as they are. The two take turns; medians of the rounds' ratios.

    pip install binpacking
    python benchmarks/packing.py [--rounds 5] [--json benchmarks/results/packing.json]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from vlm_ablate.data.deal import Size
from vlm_ablate.data.pack import WINDOW, best_fit, fill_of
from vlm_ablate.provenance import machine

SAMPLES, TOKENS, TILES, FILL, TIMES = 16_384, 4_096, 48, 0.995, 2.0


def cauldron_like(count: int) -> list[Size]:
    """Log-normal texts beside one to five tiles of 64 tokens."""
    generator = np.random.default_rng(0)
    texts = np.clip(generator.lognormal(6.3, 0.9, count), 16, None).astype(int)
    tiles = generator.integers(1, 6, count)
    return list(zip(np.minimum(texts + 64 * tiles, TOKENS).tolist(), tiles.tolist(), strict=True))


def main() -> None:
    """Print fill and medians; exit status 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from binpacking import to_constant_volume

    sizes = cauldron_like(SAMPLES)
    lengths = dict(enumerate(length for length, _ in sizes))
    pairs = []
    for _ in range(options.rounds):
        begun = time.process_time()
        rows = to_constant_volume(lengths, TOKENS)
        between = time.process_time()
        for first in range(0, SAMPLES, WINDOW):
            best_fit(sizes[first : first + WINDOW], TOKENS, TILES)
        pairs.append((between - begun, time.process_time() - between))
    fill, theirs = fill_of(sizes, TOKENS, TILES), sum(lengths.values()) / (len(rows) * TOKENS)
    ratio = median(mine / base for base, mine in pairs)
    base, mine = (median(pair[i] for pair in pairs) for i in (0, 1))
    found: dict[str, Any] = {
        "benchmark": "packing", "machine": machine(), "fill": fill.share, "most_tiles": fill.most_views,
        "library_fill": theirs, "seconds": mine, "library_seconds": base, "ratio": ratio,
        "targets": {"fill": FILL, "ratio": TIMES}, "pairs": pairs,
    }  # fmt: skip
    print(f"ours: {fill.rows} rows, {fill.share:.4f} full, at most {fill.most_views} tiles, {mine * 1000:.0f} ms")
    print(f"binpacking, one limit: {len(rows)} rows, {theirs:.4f} full, {base * 1000:.0f} ms")
    print(f"ours / its time, median: {ratio:.4f}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    reached = fill.share >= FILL and ratio <= TIMES
    print(f"targets: fill {FILL}, at most {TIMES:g} times its time: {'reached' if reached else 'MISSED'}")
    raise SystemExit(0 if reached else 1)


if __name__ == "__main__":
    main()
