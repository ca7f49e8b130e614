"""Real tokens a second in training, end to end from files: ours without padding against transformers' Idefics3, padded.

Both train the same weights (Idefics3's form: tiles, pixel shuffle, a Llama) on the same records in the same order:
pictures and texts whose lengths are spread as the Cauldron's are, read from JSON lines and JPEG files. Ours: the data
module of a stage and `execution.attention: documents` on a CPU, the best there is on a GPU. Theirs: transformers'
processor with padding, and its model with its own loss. Frozen encoder, the rest in full, AdamW, clipping.

The two take turns; medians of the rounds' ratios are printed and written as JSON. Process CPU time is the safer number
on a machine that is shared. That both compute the same loss is checked before anything is timed.

    python benchmarks/ragged.py [--rounds 5] [--steps 4] [--width 256] [--json benchmarks/results/ragged.json]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
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
from vlm_ablate.config.data import DataConfig, ImageConfig
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.config.run_config import RunStage
from vlm_ablate.config.stages import Training
from vlm_ablate.data.dataset import build_mixture
from vlm_ablate.data.module import VLMDataModule
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.documents import choose
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.provenance import library_versions, machine
from vlm_ablate.registry import language_models, load_plugins
from vlm_ablate.training.fit import configure_threads, training_device

TARGET = 3.0
WORDS = "the a cat dog red blue sign says one two three what is it answer question yes no flag house road".split()


@dataclass(frozen=True)
class Timing:
    """Seconds of one round, the tokens that were read in it, and its last loss."""

    wall: float
    cpu: float
    tokens: int
    loss: float


def write_records(folder: Path, count: int, longest: int) -> None:
    """Pictures of different sizes and texts whose lengths are log-normal: batches of eight are about 40 % full."""
    generator = np.random.default_rng(0)
    lines = []
    for number in range(count):
        width, height = (int(side) for side in generator.choice([60, 100, 128], 2))
        pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
        length = int(np.clip(generator.lognormal(4.4, 1.2), 4, longest))
        text = " ".join(generator.choice(WORDS, length))
        lines.append(json.dumps({"image": str(folder / f"{number}.jpg"), "text": text}))
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")


def write_parts(folder: Path, width: int) -> dict[str, Any]:
    """Random encoder and language model in folders of transformers; the tokeniser is the shipped one."""
    config = language_models["llama-nano"].config.model_validate({"name": "llama-nano"})
    tokenizer = language_models.build(config, load_weights=True, dtype=torch.float32).require_tokenizer()
    tokenizer.save_pretrained(folder / "language")
    torch.manual_seed(0)
    llama = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=2048, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(llama).save_pretrained(folder / "language")
    vision = SiglipVisionConfig(
        hidden_size=width // 2, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=4, image_size=64,
        patch_size=8,
    )  # fmt: skip
    SiglipVisionModel(vision).save_pretrained(folder / "vision")
    return {
        "vision": {"name": "siglip-native", "id": str(folder / "vision"), "patches": "any"},
        "language": {"name": "hf", "id": str(folder / "language")},
        "connector": {"name": "pixel_shuffle", "factor": 2},
        "architecture": "autoregressive",
    }


def the_stage(folder: Path, image: ImageConfig, steps: int) -> RunStage:
    """Eight samples a step, as they are in the file's order of training."""
    source = {"name": "pairs", "id": str(folder / "records.jsonl")}
    data = {"mixture": {"records": {"source": source}}, "image": image, "sequence_length": 2048, "prompt": "plain"}
    return RunStage(steps=steps, batch_size=8, language=Training.full, data=DataConfig.model_validate(data))


def data_of(vlm: VLM, stage: RunStage) -> VLMDataModule:
    """The stage's data, opened anew."""
    mixture = build_mixture(stage.data, 0)
    for source in mixture.sources:
        source.prepare()
    return VLMDataModule(
        stage, execution=Execution(), mixture=mixture, tokenizer=vlm.tokenizer, tokens_per_view=vlm.placeholders,
        mean=vlm.vision.mean, std=vlm.vision.std, ragged=vlm.attention != "padded",
    )  # fmt: skip


class Loop:
    """What both have in common: the optimiser and the clock."""

    def __init__(self, model: nn.Module) -> None:
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, fused=True)

    def run(self, losses: Iterator[tuple[Tensor, int]]) -> Timing:
        """Train on losses as they come; each with its real tokens."""
        wall, cpu, tokens, last = time.perf_counter(), time.process_time(), 0, 0.0
        for loss, count in losses:
            loss.backward()
            nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            tokens, last = tokens + count, float(loss.detach())
        return Timing(time.perf_counter() - wall, time.process_time() - cpu, tokens, last)


def ours(vlm: VLM, stage: RunStage) -> Iterator[tuple[Tensor, int]]:
    """Losses of our model on batches without padding."""
    device = training_device()
    for _, batch in zip(range(stage.steps), data_of(vlm, stage).train_dataloader(), strict=False):
        output = vlm(batch.to(device))
        yield output.loss_sum / output.supervised_tokens, int(batch.attention_mask.sum())


def theirs(
    model: PreTrainedModel, processor: ProcessorMixin, stage: RunStage, image_id: int
) -> Iterator[tuple[Tensor, int]]:
    """Losses of transformers' model on padded batches of the same records."""
    device, mixture = training_device(), build_mixture(stage.data, 0)
    for step in range(stage.steps):
        places = [mixture[index] for index in range(step * stage.batch_size, (step + 1) * stage.batch_size)]
        samples = [mixture.sources[which][row] for which, row in places]
        pictures = [[ref.load() for ref in sample.images] for sample in samples]
        end = processor.tokenizer.eos_token
        texts = ["<image>" + sample.segments[-1].text + end for sample in samples]
        inputs = processor(images=pictures, text=texts, padding=True, padding_side="right", return_tensors="pt")
        real = inputs["attention_mask"].bool()
        labels = inputs["input_ids"].masked_fill(~real | is_image_block(inputs["input_ids"], processor, image_id), -100)
        inputs = {name: value.to(device) for name, value in inputs.items()}
        yield model(**inputs, labels=labels.to(device), use_cache=False).loss, int(real.sum())


def is_image_block(ids: Tensor, processor: ProcessorMixin, image_id: int) -> Tensor:
    """(batch, sequence) bool, True up to the last token of the image block that every text begins with."""
    fake = processor.tokenizer.convert_tokens_to_ids("<fake_token_around_image>")
    ends = ((ids == fake) | (ids == image_id)).long()
    last = ends.shape[1] - 1 - ends.flip(1).argmax(1)
    return torch.arange(ids.shape[1]) <= last[:, None]


def main() -> None:
    """Print the medians; exit status 1 when the CPU ratio is below the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of eight samples, a round")
    parser.add_argument("--width", type=int, default=256, help="of the language model")
    parser.add_argument("--longest", type=int, default=700, help="words of a text")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load_plugins()
    threads = configure_threads()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_records(folder, 8 * options.steps, options.longest)
        image = ImageConfig(split="tiles", tile=64, size=128)
        stage = the_stage(folder, image, options.steps)
        vlm = build_vlm(ModelConfig.model_validate(write_parts(folder, options.width)), Views.of([image]))
        vlm = vlm.to(training_device())
        model = to_transformers(vlm).to(training_device()).train()
        processor_for(vlm, image, "plain").processor.save_pretrained(folder / "processor")
        processor = AutoProcessor.from_pretrained(folder / "processor")
        apply_training(vlm, stage)
        vlm.train()
        wanted = "auto" if training_device().type == "cuda" else "documents"
        vlm.attend_by(choose(wanted, training_device(), half=False))
        model.requires_grad_(True)
        model.model.vision_model.requires_grad_(False)
        agree(vlm, stage, model, processor)
        loops, pairs = (Loop(model), Loop(vlm)), []
        for number in range(options.rounds + 1):
            base = loops[0].run(theirs(model, processor, stage, vlm.image_token_id))
            mine = loops[1].run(ours(vlm, stage))
            if number:  # the first round warms up
                pairs.append((base, mine))
                print(f"  round {number}: {rate(mine, 'cpu') / rate(base, 'cpu'):.3f}", flush=True)
        fill = padded_fill(vlm, stage)
    report(pairs, options.json, {"attention": vlm.attention, "threads": threads, "fill": fill} | sizes(vlm, options))


def agree(vlm: VLM, stage: RunStage, model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Raises SystemExit when the two do not compute the same first loss on the same tokens."""
    with torch.no_grad():
        mine, tokens = next(ours(vlm, stage))
        base, others = next(theirs(model, processor, stage, vlm.image_token_id))
    print(f"first loss {float(mine):.6f}, transformers' {float(base):.6f}; tokens {tokens} and {others}")
    if tokens != others or abs(float(mine) - float(base)) > 1e-4 * abs(float(base)):
        raise SystemExit("they do not compute the same thing")


def padded_fill(vlm: VLM, stage: RunStage) -> float:
    """Share of real tokens in padded batches."""
    vlm.attention, kept = "padded", vlm.attention
    masks = [b.attention_mask for _, b in zip(range(stage.steps), data_of(vlm, stage).train_dataloader(), strict=False)]
    vlm.attention = kept
    return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def sizes(vlm: VLM, options: argparse.Namespace) -> dict[str, Any]:
    """What was trained."""
    return {
        "parameters": sum(p.numel() for p in vlm.parameters()),
        "steps": options.steps,
        "rounds": options.rounds,
        "longest": options.longest,
    }


def rate(timing: Timing, kind: str) -> float:
    """Real tokens a second."""
    return timing.tokens / float(getattr(timing, kind))


def report(pairs: list[tuple[Timing, Timing]], file: Path | None, facts: dict[str, Any]) -> None:
    """Medians, and the verdict."""
    found: dict[str, Any] = {"benchmark": "ragged", "machine": machine(), "versions": library_versions(), **facts}
    for kind in ("wall", "cpu"):
        base, mine = (median(rate(pair[i], kind) for pair in pairs) for i in (0, 1))
        ratio = median(rate(two, kind) / rate(one, kind) for one, two in pairs)
        found[kind] = {"transformers": base, "ours": mine, "ratio": ratio}
        print(f"{kind:>4}: transformers {base:.0f} real tokens/s, ours {mine:.0f}, median of ratios {ratio:.3f}")
    print(f"padded batches are {facts['fill']:.0%} full; attention: {facts['attention']}")
    found |= {"target": TARGET, "pairs": [[asdict(one), asdict(two)] for one, two in pairs]}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
    reached = found["cpu"]["ratio"] >= TARGET
    print(f"target: at least {TARGET:.1f} times transformers' by CPU time: {'reached' if reached else 'MISSED'}")
    raise SystemExit(0 if reached else 1)


if __name__ == "__main__":
    main()
