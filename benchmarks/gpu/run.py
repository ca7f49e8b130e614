"""Checks and measures what a GPU computes: attention without padding, and training steps against transformers' models.

    python benchmarks/gpu/run.py --minutes 8 --out DIR

Needs no network, no weights and no tokeniser: configurations come with the package, weights are random. The parts run
in order for as long as time is left, and `DIR/results.json` and `DIR/results.md` are written after each. A part that
fails says why, and the next one runs, in a process of its own where the GPU takes no more from this one; one that is at
work when the time is up ends there. `--size tiny` runs all of it with tiny models, on a CPU too.

1. checks: logits, loss and gradients of documents in one row equal those of padded rows with each kernel that there is,
   flash attention is really called, and laptop runs rank as on a CPU (on a GPU only)
2. Idefics3-8B, DoRA and LoRA, pages at 1820 pixels: real tokens a second, MFU, peak memory, and the same of
   transformers' model with adapters of peft on padded batches
3. the same of SmolVLM-256M and Idefics2-8B
4. each switch alone: padding, attention one document at a time, checkpointing, logits at every position, the encoder's
   output read back (from the page cache: it was just written), compiled layers

MFU counts the model's own operations, without what checkpointing computes again and with half of causal attention;
HFU counts that, too. Operations are those of the package's own plan.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

import checks
from shapes import SHAPES
from steps import STEPS, kernels, ours, theirs
from summary import summary, text

from vlm_ablate.provenance import library_versions, machine
from vlm_ablate.registry import load_plugins

Part = tuple[str, Callable[[], Any], float]
"""Name, what it does, and seconds that it may need."""
LAPTOP_SECONDS = 150.0


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer; in the main thread only."""

    def up(*_: object) -> None:
        raise TimeoutError(f"not done in the {seconds:.0f} s that were left")

    handler, begun = signal.signal(signal.SIGALRM, up), time.monotonic()
    other, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        left = other and max(other - (time.monotonic() - begun), 0.001)  # of whoever set the timer before
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left)


class Pack:
    """Runs parts until the time is used up and keeps what they found.

    Args:
        again: go on with what stands in `out`.
    """

    def __init__(self, out: Path, minutes: float, *, again: bool = False) -> None:
        self._out, self._end = out, time.monotonic() + 60 * minutes
        out.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, Any] = {"machine": machine(), "versions": library_versions(), "parts": {}}
        if again:
            self.found = json.loads((out / "results.json").read_text(encoding="utf-8"))

    @property
    def minutes(self) -> float:
        """Left."""
        return (self._end - time.monotonic()) / 60

    @property
    def parts(self) -> dict[str, Any]:
        """Name of a part -> what came of it."""
        parts: dict[str, Any] = self.found["parts"]
        return parts

    def run(self, name: str, part: Callable[[], Any], least: float) -> None:
        """Run a part if `least` seconds are left."""
        begun = time.monotonic()
        left = self._end - begun
        if left < least:
            self.parts[name] = {"skipped": f"{max(left, 0):.0f} s were left, it may need {least:.0f}"}
        else:
            try:
                with within(left):
                    self.parts[name] = {"found": part()}
            except Exception as error:  # the parts that follow may still run
                traceback.print_exc()
                self.parts[name] = {"failed": f"{type(error).__name__}: {error}"[:2000]}
            self.parts[name]["seconds"] = round(time.monotonic() - begun, 1)
        print(f"{name}: {json.dumps(self.parts[name])[:400]}", flush=True)
        self.found["summary"] = summary(self.parts)
        (self._out / "results.json").write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        (self._out / "results.md").write_text(text(self.found), encoding="utf-8")
        gc.collect()


def usable() -> bool:
    """Whether the GPU still takes work of this process: after an error on the device each call repeats it."""
    if torch.cuda.is_available():
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            return False
    return True


def parts(size: str, out: Path) -> Iterator[Part]:
    """All parts, in order."""
    full, cuda = size == "full", torch.cuda.is_available()
    steps = STEPS if full else 1
    need = 30.0 if full else 0.0
    yield "checks", checks.attention, need
    if cuda:
        yield "flash is used", checks.flash_is_used, need
        yield "laptop ranking", lambda: checks.laptop(out / "home", seconds=LAPTOP_SECONDS), 2 * LAPTOP_SECONDS
    forms = ("idefics3_8b", "smolvlm_256m", "idefics2_8b")
    tiny = {"idefics3_8b": "tiny_idefics3", "smolvlm_256m": "tiny_idefics3", "idefics2_8b": "tiny_idefics2"}
    for name in forms:
        shape, again = SHAPES[name if full else tiny[name]], name != "smolvlm_256m"
        for training in ("dora", "lora") if name == "idefics3_8b" else ("lora",):
            options = {"checkpointing": again, "steps": steps}
            yield f"{name} {training}", lambda s=shape, t=training, o=options: ours(s, t, **o), need
            yield f"{name} {training} transformers", lambda s=shape, t=training, o=options: theirs(s, t, **o), need
    small = SHAPES["smolvlm_256m" if full else "tiny_idefics3"]
    for switch, options in switches(full).items():
        base = {"training": "lora", "vision": "frozen", "steps": steps}
        # What it takes to compile is not known beforehand: it comes last, and has what is left.
        yield f"switch {switch}", lambda o={**base, **options}: ours(small, **o), need / 3


def switches(full: bool) -> dict[str, dict[str, Any]]:
    """Name -> what is otherwise than in "as it is", one thing each."""
    found: dict[str, dict[str, Any]] = {"as it is": {}, "padded": {"kernel": "padded"}}
    found |= {f"attention {kernel}": {"kernel": kernel} for kernel in kernels()}
    found["checkpointing"] = {"checkpointing": True}
    found["logits everywhere"] = {"everywhere": True}
    found["stored features"] = {"stored": True}
    found["compiled"] = {"compiler": "inductor" if full else "eager"}
    return found


def main() -> None:
    """Run the parts; exit status 1 when the checks failed or had no time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=["full", "tiny"], default="full" if torch.cuda.is_available() else "tiny")
    parser.add_argument("--again", action="store_true", help="only the parts of which nothing stands in DIR yet")
    options = parser.parse_args()
    load_plugins()
    pack = Pack(options.out, options.minutes, again=options.again)
    for name, part, least in parts(options.size, options.out):
        if options.again and name in pack.parts:
            continue
        pack.run(name, part, least)
        if not usable():
            left = [f"--minutes={pack.minutes:.4f}", "--out", str(options.out), "--size", options.size, "--again"]
            os.execv(sys.executable, [sys.executable, __file__, *left])
    raise SystemExit(int("found" not in pack.parts["checks"]))


if __name__ == "__main__":
    main()
