"""Training steps of ours and of transformers' models on the same documents, timed."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from batches import documents_of, padded, theirs_of
from shapes import ADAPTED, RANK, Shape, build, described, device_of, planned
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlm_ablate.accounting import StagePlan
from vlm_ablate.accounting.gpus import gpu_called
from vlm_ablate.checkpoints.to_transformers import fit
from vlm_ablate.errors import ModelError
from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.compiled import compile_layers
from vlm_ablate.models.documents import Kernel, choose
from vlm_ablate.models.features import StoredFeatures
from vlm_ablate.models.vlm import VLM
from vlm_ablate.training.counters import flops_by_rates

Loss = Callable[[Batch], Tensor]
STEPS = 4


def autocast() -> Any:
    """bf16 on a GPU, nothing on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if torch.cuda.is_available() else nullcontext()


def kernels() -> list[Kernel]:
    """What can compute attention without padding here, the best last."""
    found: list[Kernel] = []
    for kernel in ("documents", "varlen", "flash_attn"):
        try:
            found.append(choose(kernel, device_of(), half=True))
        except ModelError as error:
            print(f"{kernel}: {error.message}")
    return found


def trainer(model: nn.Module, loss: Loss) -> Callable[[Sequence[Batch]], None]:
    """A step of training on micro-batches, whose losses are sums over supervised tokens."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def step(parts: Sequence[Batch]) -> None:
        supervised = sum(part.supervised_tokens for part in parts)
        for part in parts:
            with autocast():
                value = loss(part.to(device_of())) / supervised
            value.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measured(
    step: Callable[[Sequence[Batch]], None],
    batches: Sequence[Sequence[Batch]],
    plan: StagePlan | None,
    *,
    warm: int = 1,
) -> dict[str, float | None]:
    """Real tokens a second, MFU, HFU and peak memory of a step on each of these batches.

    Args:
        step: trains on one.
        batches: each in micro-batches, on the host.
        plan: has the model's own operations; None: nothing is said of MFU.
        warm: steps on the first ones before any is timed.
    """
    cuda = device_of().type == "cuda"
    for batch in batches[:warm]:
        step(batch)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    begun = time.perf_counter()
    for batch in batches:
        step(batch)
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    every = [part for batch in batches for part in batch]
    gpu, mfu = gpu_called(torch.cuda.get_device_name()) if cuda else None, None
    if plan is not None:
        per_view, per_token, per_pair = plan.model_rates
        done = sum(map(flops_by_rates(per_view, per_token, per_pair), every))
        mfu = done / seconds / gpu.flops if gpu else None
    real, places = sum(int(b.attention_mask.sum()) for b in every), sum(b.segment.numel() for b in every)
    return {
        "tokens_per_s": real / seconds,
        "mfu": mfu,
        "hfu": mfu * plan.hardware_share if mfu and plan is not None else None,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "fill": real / places,
        "seconds_a_step": seconds / len(batches),
    }


def ours(
    shape: Shape,
    training: str,
    *,
    vision: str | None = None,
    checkpointing: bool = False,
    kernel: Kernel | None = None,
    compiler: str | None = None,
    everywhere: bool = False,
    stored: bool = False,
    steps: int = STEPS,
) -> dict[str, Any]:
    """Steps of our model.

    Args:
        shape: of the model and its batches.
        training: of the language model.
        vision: of the encoder; None: as the language model.
        checkpointing: recompute activations.
        kernel: of attention; None: the best there is.
        compiler: backend that compiles the layers' parts; None: nothing is compiled.
        everywhere: compute logits at every position, not at supervised ones alone.
        stored: read the output of the (frozen) encoder from files, which are in the page cache: they were just written.
        steps: that are timed.
    """
    vlm = build(shape, training, vision, checkpointing)
    ragged = vlm.attend_by(kernel or kernels()[-1])
    layers = compile_layers(vlm, compiler) if compiler else 0
    batches = [documents_of(vlm, shape, seed=number) for number in range(steps)]
    batches = batches if ragged else [padded(batch) for batch in batches]
    plan = None if stored else planned(shape, training, vision, checkpointing)  # its rates are those with the encoder
    with features(vlm, batches) if stored else nullcontext():
        step = trainer(vlm, (lambda batch: loss_everywhere(vlm, batch)) if everywhere else lambda b: vlm(b).loss_sum)
        warm = steps if compiler else 1
        found = measured(step, [[batch] for batch in batches], plan, warm=warm)
    return {"attention": vlm.attention, "compiled_layers": layers, **found}


def loss_everywhere(vlm: VLM, batch: Batch) -> Tensor:
    """The loss by logits at every position."""
    logits = vlm.logits(batch)[:, :-1].flatten(0, 1)
    return cross_entropy(logits.float(), batch.targets.flatten(), ignore_index=IGNORE, reduction="sum")


@contextmanager
def features(vlm: VLM, batches: Sequence[Batch]) -> Iterator[None]:
    """Within the block the encoder's output of these batches is on disk."""
    with tempfile.TemporaryDirectory() as folder:
        vlm.features = StoredFeatures(vlm.vision, Path(folder), limit=2**36)
        with torch.no_grad(), autocast():
            for batch in batches:
                vlm.encode(batch.to(device_of()))
        yield
        vlm.features = None


def theirs(shape: Shape, training: str, *, checkpointing: bool = False, steps: int = STEPS) -> dict[str, Any]:
    """Steps of transformers' model of the same configuration on padded batches, with adapters of peft.

    Where a batch is too much for the memory, in micro-batches of half as many rows, and so on. (Ours take it whole.)
    """
    vlm = described(shape)
    fitted = fit(vlm)
    if fitted.config is None:
        raise ModelError(f"transformers has no class for this shape: {fitted.reason}")
    plan = planned(shape, training, None, checkpointing)
    batches = [padded(documents_of(vlm, shape, seed=number)) for number in range(steps)]
    tokens, image_id = vlm.placeholders(shape.side, shape.side), vlm.image_token_id
    del vlm
    model = their_model(fitted.config, training, checkpointing)

    def loss(batch: Batch) -> Tensor:
        output = model(**theirs_of(batch, image_id, tokens), use_cache=False)
        value: Tensor = output.loss * batch.supervised_tokens
        return value

    step, rows = trainer(model, loss), shape.documents
    while True:
        try:
            parts = [in_rows(batch, rows) for batch in batches]
            return {"rows": rows, **measured(step, parts, plan)}
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
            rows //= 2
        model.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()


def their_model(config: Any, training: str, checkpointing: bool) -> nn.Module:
    """transformers' model with random weights: frozen but for its connector and the adapters, which are in fp32."""
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import AutoModelForImageTextToText

    device = device_of()
    with device:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.requires_grad_(False)
    if training in ("lora", "dora"):
        dora, new = training == "dora", r".*connector.*"
        peft = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=ADAPTED, exclude_modules=new, use_dora=dora)
        inject_adapter_in_model(peft, model)
    model.model.connector.requires_grad_(True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if checkpointing:
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")  # renamed in transformers 5.x
        next(getattr(model, name) for name in names if hasattr(model, name))({"use_reentrant": False})
    return model.train()


def in_rows(batch: Batch, rows: int) -> list[Batch]:
    """A padded batch in parts of so many rows."""
    found = []
    for first in range(0, len(batch.input_ids), rows):
        one, views = slice(first, first + rows), (batch.view_sample >= first) & (batch.view_sample < first + rows)
        found.append(
            replace(
                batch, input_ids=batch.input_ids[one], segment=batch.segment[one], labels=batch.labels[one],
                pixel_values=batch.pixel_values[views], view_sample=batch.view_sample[views] - first,
                view_image=batch.view_image[views] - first, sample_ids=batch.sample_ids[one], view_keys=None,
            )
        )  # fmt: skip
    return found
