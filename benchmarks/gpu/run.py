"""Checks and measures what a GPU computes: attention without padding, and training steps against transformers' models.

    python benchmarks/gpu/run.py --minutes 8 --out DIR

Needs no network, no weights and no tokeniser: configurations come with the package, weights are random. The parts run
in order for as long as time is left, and `DIR/results.json` is written after each. A part that fails says why, and the
next one runs. `--size tiny` runs all of it with tiny models, on a CPU too.

1. checks: logits and loss of documents in one row equal those of padded rows, with each kernel that there is
2. Idefics3-8B, DoRA and LoRA, pages of up to 26 tiles: real tokens a second, MFU, peak memory, and the same of
   transformers' model with adapters of peft on padded batches
3. SmolVLM-256M, frozen encoder
4. the kernels of attention, gradient checkpointing and padding, each switched alone

MFU counts the operations of the model without recomputation: two a weight and token forward, two backward for the
gradient of what flows, two more where a weight is trained; attention half, as it is causal.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedModel, SiglipVisionConfig

sys.path.insert(0, str(Path(__file__).parent))

from batches import documents_of, padded, theirs_of

from vlm_ablate.accounting.gpus import GPUS
from vlm_ablate.checkpoints.to_transformers import fit
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.config.stages import LoraConfig, Stage, Training
from vlm_ablate.errors import ModelError
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.documents import Kernel, choose
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.provenance import library_versions, machine
from vlm_ablate.registry import load_plugins

ADAPTED = r".*\.(q_proj|k_proj|v_proj|o_proj|out_proj|gate_proj|up_proj|down_proj|fc1|fc2)"


@dataclass(frozen=True)
class Shape:
    """A model's parts and its batches."""

    vision: SiglipVisionConfig | str
    language: LlamaConfig | str
    factor: int
    tile: int
    tiles: int
    """Most views of a page."""
    texts: tuple[int, int]
    """Least and most text tokens of a document."""
    documents: int
    """Of a batch."""


SIGLIP, LLAMA = "google/siglip-so400m-patch14-384", "meta-llama/Llama-3.1-8B-Instruct"
SHAPES = {
    "tiny": Shape(
        SiglipVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                           image_size=32, patch_size=8),
        LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, vocab_size=300),
        2, 32, 5, (4, 40), 4,
    ),
    "idefics3_8b": Shape(SIGLIP, LLAMA, 2, 364, 26, (32, 1500), 4),
    "smolvlm_256m": Shape(
        SiglipVisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                           image_size=512, patch_size=16),
        "HuggingFaceTB/SmolLM2-135M-Instruct", 4, 512, 17, (32, 800), 8,
    ),
}  # fmt: skip


class Pack:
    """Runs parts until the time is used up and keeps what they found."""

    def __init__(self, out: Path, minutes: float) -> None:
        self.file, self._end = out / "results.json", time.monotonic() + 60 * minutes
        out.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, Any] = {"machine": machine(), "versions": library_versions(), "parts": {}}

    def run(self, name: str, part: Callable[[], Any], least: float) -> None:
        """Run a part if `least` seconds are left."""
        left = self._end - time.monotonic()
        begun = time.monotonic()
        if left < least:
            self.found["parts"][name] = {"skipped": f"{left:.0f} s were left, it may need {least:.0f}"}
        else:
            try:
                self.found["parts"][name] = {"found": part()}
            except Exception as error:  # the parts that follow may still run
                traceback.print_exc()
                self.found["parts"][name] = {"failed": f"{type(error).__name__}: {error}"}
            self.found["parts"][name]["seconds"] = round(time.monotonic() - begun, 1)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"{name}: {json.dumps(self.found['parts'][name])[:400]}", flush=True)
        self.file.write_text(json.dumps(self.found, indent=1) + "\n")


def device_of() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(shape: Shape, training: str = "frozen", vision: str | None = None, checkpointing: bool = False) -> VLM:
    """A model of that shape with random weights, the language model in bf16 on a GPU."""
    device = device_of()
    with tempfile.TemporaryDirectory() as folder:
        ids = []
        for name, part in (("vision", shape.vision), ("language", shape.language)):
            if not isinstance(part, str):
                part.save_pretrained(Path(folder) / name)
            ids.append(part if isinstance(part, str) else str(Path(folder) / name))
        config = ModelConfig.model_validate({
            "vision": {"name": "siglip-native", "id": ids[0], "image_size": shape.tile, "patches": "any"},
            "language": {"name": "hf", "id": ids[1]},
            "connector": {"name": "pixel_shuffle", "factor": shape.factor},
            "architecture": "autoregressive",
        })  # fmt: skip
        image = ImageConfig(split="tiles", tile=shape.tile, size=shape.tile * 5)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        vlm = build_vlm(config, Views.of([image]), load_weights=False, language_dtype=dtype)
    vlm = vlm.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in vlm.parameters():
            parameter.fill_(1.0) if parameter.ndim == 1 else parameter.normal_(std=0.02, generator=generator)
    for module in vlm.modules():
        if hasattr(module, "inv_freq"):  # no parameter, and not in a checkpoint: made anew
            made = type(module)(module.config)
            for name, value in made.named_buffers():
                setattr(module, name, value.to(device))
    stage = Stage(
        steps=1, batch_size=1, vision=Training(vision or training), language=Training(training),
        lora=LoraConfig(r=64, dropout=0.0, vision_targets=ADAPTED, language_targets=ADAPTED),
    )  # fmt: skip
    apply_training(vlm, stage, gradient_checkpointing=checkpointing)
    return vlm.train()


def autocast() -> Any:
    """bf16 on a GPU, nothing on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if torch.cuda.is_available() else nullcontext()


def kernels() -> list[Kernel]:
    """What can compute attention without padding here."""
    found: list[Kernel] = []
    for kernel in ("documents", "varlen", "flash_attn"):
        try:
            found.append(choose(kernel, device_of(), half=True))
        except ModelError as error:
            print(f"{kernel}: {error.message}")
    return found


def check() -> dict[str, float]:
    """Largest difference of logits, over the largest, between padded batches and each kernel's; and of the loss.

    Raises:
        AssertionError: beyond 2 % in bf16, 1e-4 in fp32.
    """
    shape = replace(SHAPES["tiny"], documents=6)
    vlm, found = build(shape).eval(), {}
    row = documents_of(vlm, shape, seed=0).to(device_of())
    apart = padded(row)
    limit = 2e-2 if torch.cuda.is_available() else 1e-4
    with torch.no_grad(), autocast():
        expected, loss = vlm.logits(apart)[apart.attention_mask].float(), vlm(apart).loss_sum
        for kernel in kernels():
            assert vlm.attend_by(kernel), kernel
            logits, own = vlm.logits(row)[0].float(), vlm(row).loss_sum
            found[kernel] = float((logits - expected).abs().max() / expected.abs().max())
            found[f"{kernel} loss"] = float((own - loss).abs() / loss)
    worst = max(found.values())
    assert worst <= limit, f"{found} above {limit}"
    return found


def measured(step: Callable[[Batch], Any], batches: list[Batch], flops: Callable[[Batch], float]) -> dict[str, float]:
    """Real tokens a second, MFU and peak memory of steps on these batches; the first one warms up."""
    device = device_of()
    step(batches[0])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    begun = time.perf_counter()
    for batch in batches:
        step(batch)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    tokens = sum(int(batch.attention_mask.sum()) for batch in batches)
    peak = next((gpu.flops for gpu in GPUS.values() if gpu.title.split()[0] in machine()), GPUS["h100"].flops)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    mfu = sum(map(flops, batches)) / seconds / peak
    return {"tokens_per_s": tokens / seconds, "mfu": mfu, "peak_gib": memory, "seconds": seconds}


def operations(vlm: VLM) -> Callable[[Batch], float]:
    """Operations of the model in a training step on a batch; see the top of the file."""
    counts = {}
    for name, part in (("language", vlm.language), ("vision", vlm.vision)):
        tables = {id(vlm.language.model.get_input_embeddings().weight)}
        matrices = [p for p in part.parameters() if p.ndim == 2 and id(p) not in tables]
        every, trained = sum(p.numel() for p in matrices), sum(p.numel() for p in matrices if p.requires_grad)
        counts[name] = (4 * every if trained or name == "language" else 2 * every) + 2 * trained
    config, side = vlm.language.model.config, vlm.views.side
    grid = vlm.vision.grid(side, side)

    def flops(batch: Batch) -> float:
        lengths = batch.documents or tuple(batch.attention_mask.sum(1).tolist())
        attention = sum(length**2 for length in lengths) * 2 * config.hidden_size * config.num_hidden_layers * 3
        patches = len(batch.pixel_values) * grid[0] * grid[1]
        return counts["language"] * sum(lengths) + counts["vision"] * patches + attention

    return flops


def trainer(model: nn.Module, loss: Callable[[Batch], Tensor]) -> Callable[[Batch], None]:
    """A step of training."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def step(batch: Batch) -> None:
        with autocast():
            value = loss(batch)
        value.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def ours(
    shape: Shape, training: str, *, kernel: Kernel | None = None, steps: int = 4, **options: Any
) -> dict[str, Any]:
    """Steps of our model; `kernel` None: the best there is."""
    vlm = build(shape, training, **options)
    kernel = kernel or (kernels()[-1])
    ragged = vlm.attend_by(kernel)
    batches = [documents_of(vlm, shape, seed=number).to(device_of()) for number in range(steps)]
    batches = batches if ragged else [padded(batch) for batch in batches]

    def loss(batch: Batch) -> Tensor:
        output = vlm(batch)
        return output.loss_sum / output.supervised_tokens

    return {"attention": vlm.attention} | measured(trainer(vlm, loss), batches, operations(vlm))


def theirs(shape: Shape, training: str, *, steps: int = 4, checkpointing: bool = False) -> dict[str, Any]:
    """Steps of transformers' model of the same configuration on padded batches, with adapters of peft."""
    from peft import LoraConfig as PeftLora
    from peft import inject_adapter_in_model

    small = build(shape) if shape == SHAPES["tiny"] else None
    vlm = small or _described(shape)
    config, flops = fit(vlm).config, operations(vlm)
    batches = [padded(documents_of(vlm, shape, seed=number)) for number in range(steps)]
    tokens, image_id = vlm.placeholders(shape.tile, shape.tile), vlm.image_token_id
    del vlm, small
    from transformers import AutoModelForImageTextToText

    with device_of():
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32
        )
    model.requires_grad_(False)
    if training in ("lora", "dora"):
        inject_adapter_in_model(
            PeftLora(r=64, lora_alpha=16, target_modules=ADAPTED, use_dora=training == "dora"), model
        )
    model.model.connector.requires_grad_(True)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()

    def loss(batch: Batch) -> Tensor:
        value: Tensor = model(**theirs_of(batch.to(device_of()), image_id, tokens), use_cache=False).loss
        return value

    return measured(trainer(model, loss), batches, flops)


def _described(shape: Shape) -> VLM:
    """The structure alone, on the meta device."""
    with torch.device("meta"):
        config = ModelConfig.model_validate({
            "vision": {"name": "siglip-native", "id": shape.vision, "image_size": shape.tile, "patches": "any"},
            "language": {"name": "hf", "id": shape.language},
            "connector": {"name": "pixel_shuffle", "factor": shape.factor},
            "architecture": "autoregressive",
        })  # fmt: skip
    image = ImageConfig(split="tiles", tile=shape.tile, size=shape.tile * 5)
    return build_vlm(config, Views.of([image]), load_weights=False)


def parts(size: str) -> Iterator[tuple[str, Callable[[], Any], float]]:
    """(name, part, seconds that it may need), in order."""
    full = size == "full"
    large, small = (SHAPES["idefics3_8b"], SHAPES["smolvlm_256m"]) if full else (SHAPES["tiny"],) * 2
    need = 45.0 if full else 0.0
    yield "checks", check, need
    for training in ("dora", "lora"):
        yield f"idefics3_8b {training}", lambda t=training: ours(large, t, checkpointing=True), need
        yield f"idefics3_8b {training} transformers", lambda t=training: theirs(large, t, checkpointing=True), need
    yield "smolvlm_256m", lambda: ours(small, "full", vision="frozen"), need
    switches: dict[str, dict[str, Any]] = {"padded": {"kernel": "padded"}, "documents": {"kernel": "documents"}}
    switches |= {kernel: {"kernel": kernel} for kernel in kernels() if kernel != "documents"}
    switches["without checkpointing"] = {"checkpointing": False}
    for name, options in switches.items():
        yield f"switch {name}", lambda o=options: ours(small, "lora", **{"checkpointing": True, **o}), need


def main() -> None:
    """Run the parts; exit status 1 when the checks failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=["full", "tiny"], default="full" if torch.cuda.is_available() else "tiny")
    options = parser.parse_args()
    load_plugins()
    pack = Pack(options.out, options.minutes)
    for name, part, least in parts(options.size):
        pack.run(name, part, least)
    raise SystemExit(int("found" not in pack.found["parts"]["checks"]))


if __name__ == "__main__":
    main()
