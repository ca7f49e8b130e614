"""Few-shot evaluation of a model against one-by-one `generate` of the same model as transformers has it.

Both answer the same questions on pictures, with the same demonstrations before them, from files to texts. Ours: the
evaluation of a run with `execution.shared_prompts: on`. Theirs: the exported model and its processor, one prompt after
the other. Idefics3's form in the proportions of SmolVLM-256M: tiles, sixteen patches to a visual token, an encoder of
two thirds of the language model's size without its tables; random weights.

    random  each question has its own demonstrations; each of them stands before eight questions in the mean, as in an
            evaluation of 4,096 items with four shots from a pool of 2,048
    fixed   all questions have the same

Ours is timed twice: `cold`, where every picture is encoded once, and `stored`, where the output of the frozen encoder
is kept from an earlier evaluation, as every arm and seed after the first finds it. The targets are judged by `stored`.

They take turns; medians of the rounds' ratios of CPU seconds are printed and written as JSON. That the answers are the
same is checked every time: at least 95 % of them, as random weights leave tokens that are almost equally likely.

    python benchmarks/few_shot.py [--rounds 3] [--items 16] [--json benchmarks/results/few_shot.json]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    LlamaConfig,
    PreTrainedModel,
    ProcessorMixin,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vlm_ablate.checkpoints.processor import processor_for
from vlm_ablate.checkpoints.to_transformers import to_transformers
from vlm_ablate.config.data import ImageConfig, Preparation
from vlm_ablate.config.evaluation import EvaluationConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.data.sample import Image as Picture
from vlm_ablate.evaluation.benchmarks.base import Benchmark
from vlm_ablate.evaluation.demonstrations import Demonstrator
from vlm_ablate.evaluation.evaluate import Sharing, evaluate
from vlm_ablate.evaluation.predictions import read_predictions
from vlm_ablate.evaluation.prompts import build_prompt, get_template
from vlm_ablate.models.features import StoredFeatures
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.provenance import library_versions, machine
from vlm_ablate.registry import benchmarks, language_models, load_plugins
from vlm_ablate.storage import write_atomically
from vlm_ablate.training.fit import configure_threads, training_device

TARGETS = {"random": 4.5, "fixed": 8.0}
"""How many times faster, with stored features."""
USES = 8
"""Questions before which a demonstration of the pool stands in the mean."""
WORDS = "the a cat dog red blue sign says one two three what is it answer question yes no flag house road".split()
IMAGE = ImageConfig(split="tiles", tile=128, size=256)


@dataclass(frozen=True)
class Timing:
    """CPU seconds of all questions, and the answers."""

    seconds: float
    answers: dict[str, str]
    positions: int = 0
    """Of all prompts."""
    computed: int = 0


def write_questions(folder: Path, items: int, pool: int) -> None:
    """JPEG pictures of different sizes and questions of different lengths; train is the pool."""
    generator = np.random.default_rng(0)
    for split, count in (("train", pool), ("validation", items)):
        rows = []
        for number in range(count):
            width, height = (int(side) for side in generator.choice([150, 200, 256], 2))
            name = f"{split}{number}.jpg"
            pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name, quality=90)
            question = " ".join(generator.choice(WORDS, generator.integers(4, 12)))
            answer = str(generator.choice(WORDS))
            rows.append({"question_id": f"{split}{number}", "image_id": name, "question": question,
                         "answers": [answer] * 10, "image": name})  # fmt: skip
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def write_parts(folder: Path) -> dict[str, Any]:
    """Random encoder and language model in folders of transformers; the tokeniser is the shipped one."""
    config = language_models["llama-nano"].config.model_validate({"name": "llama-nano"})
    tokenizer = language_models.build(config, load_weights=True, dtype=torch.float32).require_tokenizer()
    tokenizer.save_pretrained(folder / "language")
    torch.manual_seed(0)
    llama = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=576, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=3, max_position_embeddings=4096, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(llama).save_pretrained(folder / "language")
    vision = SiglipVisionConfig(
        hidden_size=144, intermediate_size=576, num_hidden_layers=7, num_attention_heads=6, image_size=128, patch_size=8
    )
    SiglipVisionModel(vision).save_pretrained(folder / "vision")
    return {
        "vision": {"name": "siglip-native", "id": str(folder / "vision"), "patches": "any"},
        "language": {"name": "hf", "id": str(folder / "language")},
        "connector": {"name": "pixel_shuffle", "factor": 4},
        "architecture": "autoregressive",
    }


def protocol(folder: Path, selection: str, shots: int) -> EvaluationConfig:
    """Four shots of one benchmark."""
    source = {"name": "vqav2", "id": str(folder), "splits": {"train": "train", "report": "validation"}}
    drawn = {"selection": selection, "pool": None}
    body = {"benchmarks": {"questions": {"benchmark": source}}, "shots": shots, "demonstrations": drawn}
    return EvaluationConfig.model_validate({**body, "prompt": "plain", "image": IMAGE.model_dump(mode="json")})


def ours(vlm: VLM, config: EvaluationConfig, out: Path, batch_size: int) -> Timing:
    """The evaluation of a run."""
    entry = config.benchmarks["questions"]
    started = time.process_time()
    sharing = Sharing.of(vlm, IMAGE)
    prepared = config.preparation("questions")
    evaluate(vlm, "questions", entry, config, prepared, blind=False, out=out, batch_size=batch_size, sharing=sharing)
    seconds, counted = time.process_time() - started, sharing.beginnings
    answers = {p.id: p.prediction for p in read_predictions(out)}
    return Timing(seconds, answers, counted.positions, counted.computed)


def theirs(vlm: VLM, model: PreTrainedModel, processor: ProcessorMixin, config: EvaluationConfig) -> Timing:
    """One prompt after the other."""
    entry, prepared = config.benchmarks["questions"], config.preparation("questions")
    benchmark = benchmarks.build(entry.benchmark)
    started, answers = time.process_time(), {}
    items = benchmark.checked_items(entry.split, entry.limit)
    drawn = Demonstrator(benchmark, config.shots, config.demonstrations, vlm.vision, prepared.image).draw(items)
    for item, shots in zip(items, drawn, strict=True):
        sample = build_prompt(item, shots, get_template(benchmark.template), prepared.prompt)
        text = "".join("<image>" if isinstance(each, Picture) else each.text for each in sample.segments)
        pictures = [ref.load() for ref in sample.images]
        inputs = processor(images=pictures, text=text, return_tensors="pt").to(model.device)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=benchmark.max_new_tokens, do_sample=False)
        made = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answers[item.id] = cut(made, benchmark)
    return Timing(time.process_time() - started, answers)


def cut(text: str, benchmark: Benchmark) -> str:
    """Up to the first stop string."""
    places = [place for place in map(text.find, benchmark.stop) if place >= 0]
    return text[: min(places, default=len(text))].strip()


def compared(one: Timing, other: Timing) -> float:
    """Share of equal answers; raises SystemExit where too many differ."""
    equal = sum(other.answers[item] == answer for item, answer in one.answers.items()) / len(one.answers)
    if equal < 0.95:
        raise SystemExit(f"only {equal:.0%} of the answers are the same")
    return equal


def main() -> None:
    """Print the medians; status 1 below a target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=16, help="questions")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32, help="prompts that ours answers together")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    load_plugins()
    threads = configure_threads()
    pool = max(asked.items * asked.shots // USES, asked.shots + 1)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in TARGETS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_questions(folder, asked.items, pool)
        vlm = build_vlm(ModelConfig.model_validate(write_parts(folder)), Views.of([IMAGE])).eval()
        vlm = vlm.to(training_device())
        model = to_transformers(vlm).to(training_device()).eval()
        processor_for(vlm, IMAGE, "plain").processor.save_pretrained(folder / "processor")
        processor = AutoProcessor.from_pretrained(folder / "processor")
        facts = sizes(vlm, asked) | {"pool": pool, "threads": threads}
        store = StoredFeatures(vlm.vision.requires_grad_(False), folder / "features", limit=2**30)
        for number in range(asked.rounds):
            for selection in TARGETS:
                config = protocol(folder, selection, asked.shots)
                base = theirs(vlm, model, processor, config)
                found: dict[str, float] = {"theirs": base.seconds}
                for kind in ("cold", "filling", "stored")[:: 2 if number else 1]:
                    vlm.features = None if kind == "cold" else store
                    mine = ours(vlm, config, folder / f"{selection} {kind} {number}.jsonl", asked.batch)
                    found |= {kind: mine.seconds, f"{kind} equal": compared(mine, base)}
                    found |= {f"{kind} ratio": base.seconds / mine.seconds, "computed": mine.computed / mine.positions}
                rounds[selection].append(found)
                print(f"  round {number + 1}, {selection}: {json.dumps(found)}", flush=True)
            report(rounds, facts, asked.json)
    raise SystemExit(any(medians(rounds, "stored")[name] < target for name, target in TARGETS.items()))


def sizes(vlm: VLM, asked: argparse.Namespace) -> dict[str, Any]:
    """What was asked of what."""
    parts = {"vision": vlm.vision, "language": vlm.language}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    named = {name: getattr(asked, name) for name in ("items", "shots", "batch", "rounds")}
    return {"parameters": counts, **named, "preparation": Preparation(image=IMAGE).model_dump(mode="json")["image"]}


def medians(rounds: dict[str, list[dict[str, float]]], kind: str) -> dict[str, float]:
    """Of the rounds' ratios."""
    return {name: median(each[f"{kind} ratio"] for each in found) for name, found in rounds.items()}


def report(rounds: dict[str, list[dict[str, float]]], facts: dict[str, Any], file: Path | None) -> None:
    """The medians so far, and the verdict."""
    found = {kind: medians(rounds, kind) for kind in ("cold", "stored")}
    for name, target in TARGETS.items():
        print(f"{name}: {found['cold'][name]:.2f}x cold, {found['stored'][name]:.2f}x stored (at least {target}x)")
    if file is not None:
        body = {**facts, "rounds": rounds, "medians": found, "targets": TARGETS}
        body |= {"machine": machine(), "versions": library_versions()}
        write_atomically(file, json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
