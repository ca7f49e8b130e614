"""Pretraining of the stand-in vision encoder: contrast of picture regions with their names, after SigLIP.

The encoder is transformers' Idefics2 vision transformer (SigLIP with variable-resolution position ids). In the first
phase every region whose text is known (a drawing, a word, a digit, a bar, the bare ground) is pooled and contrasted
with a bank of all texts; the text side is the mean of the stand-in language model's frozen token embeddings, whitened,
under one learned linear map. In the second phase every patch of a region is aligned with that text, so that a connector
can learn to speak to the language model from few examples.

The pictures of every split take part: this is to the benchmarks what SigLIP's web corpus is to the paper's. No
benchmark picture, question or answer does: pictures are composed from a stream of their own.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, get_cosine_schedule_with_warmup
from transformers.models.idefics2.configuration_idefics2 import Idefics2VisionConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

from vlm_ablate.offline import facts, pictures, tables
from vlm_ablate.offline.configs import SiglipNanoConfig
from vlm_ablate.offline.pretrain.phases import phase
from vlm_ablate.offline.pretrain.recipe import STANDINS, write_recipe
from vlm_ablate.offline.pretrain.regions import IGNORE, PretrainPictures, Regions, TextBank
from vlm_ablate.offline.pretrain.vision_recipe import VISION_RECIPES, Quality, VisionRecipe
from vlm_ablate.training.muon import MuonAdamW
from vlm_ablate.training.optim import is_decayed


class RegionContrast(nn.Module):
    """First phase: pooled regions against banks of texts, whitened and under one learned linear map."""

    def __init__(self, recipe: VisionRecipe, banks: dict[str, Tensor]) -> None:
        super().__init__()
        self.encoder = Idefics2VisionTransformer(vision_config(recipe))
        patch = self.encoder.embeddings.patch_embedding.weight
        nn.init.normal_(patch, std=patch[0].numel() ** -0.5)
        width = banks["names"].shape[1]
        self.project = nn.Linear(recipe.hidden, width, bias=False)
        self.text = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.text.weight)
        self.scale = nn.Parameter(torch.tensor(1 / recipe.temperature).log())
        centre, whiten = _whitening(banks["names"])
        for kind, rows in banks.items():
            self.register_buffer(kind, (rows - centre) @ whiten)

    def forward(self, pixels: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        """Mean loss over the three banks, and the share of named regions whose own name scores highest."""
        patches = encode(self.encoder, pixels)
        pooled = torch.einsum("rp,rpd->rd", regions.weights, patches[regions.image])
        z = F.normalize(self.project(pooled), dim=-1)
        total, hits = z.new_zeros(()), z.new_zeros(())
        for kind, target, weight in (
            ("names", regions.name, 1.0), ("places", regions.place, 0.2), ("grounds", regions.ground, 0.2)
        ):
            known = target != IGNORE
            if known.any():
                logits = self.scale.exp() * z[known] @ F.normalize(self.text(getattr(self, kind)), dim=-1).T
                total = total + weight * F.cross_entropy(logits, target[known])
                if kind == "names":
                    hits = (logits.argmax(1) == target[known]).float().mean()
        return total, hits


class PatchAlignment(nn.Module):
    """Second phase: every patch of a region is a linear image of its name's embedding, and tells place and ground.

    A linear image, because a connector that has learned to translate some names then translates the others too.
    """

    names: Tensor
    whiten: Tensor
    metric: Tensor

    def __init__(self, encoder: Idefics2VisionTransformer, recipe: VisionRecipe, banks: dict[str, Tensor]) -> None:
        super().__init__()
        self.encoder = encoder
        width = banks["names"].shape[1]
        self.embed = nn.Linear(recipe.hidden, width)
        nn.init.normal_(self.embed.weight, std=0.1 * banks["names"].std().item() * recipe.hidden**-0.5)
        nn.init.zeros_(self.embed.bias)
        self.place = nn.Linear(recipe.hidden, len(banks["places"]))
        self.ground = nn.Linear(recipe.hidden, len(banks["grounds"]))
        self.temperature = recipe.temperature
        centre, whiten = _whitening(banks["names"])
        self.register_buffer("whiten", whiten)
        self.register_buffer("names", banks["names"] - centre)
        self.register_buffer("metric", _whitening(banks["names"], 0.5)[1])

    def forward(self, pixels: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        """Loss (squared error of half-whitened names over their variance, contrast, place, ground) and names right."""
        patches = encode(self.encoder, pixels)
        region, patch = (regions.weights >= 0.5 * regions.weights.amax(1, keepdim=True)).nonzero(as_tuple=True)
        seen = patches[regions.image[region], patch]
        share = regions.weights.new_ones(len(region)) / torch.bincount(region)[region]
        name = regions.name[region]
        known = name != IGNORE
        guess, weight = self.embed(seen[known]), share[known] / share[known].sum()
        far = (guess - self.names[name[known]]) @ self.metric
        error = (far**2).sum(1) / (self.names @ self.metric).var(0).sum()
        logits = F.normalize(guess @ self.whiten, dim=-1) @ F.normalize(self.names @ self.whiten, dim=-1).T
        contrast = F.cross_entropy(logits / self.temperature, name[known], reduction="none")
        total = (weight * (error + 0.5 * contrast)).sum()
        for head, target in ((self.place, regions.place[region]), (self.ground, regions.ground[region])):
            if (target != IGNORE).any():
                total = total + 0.2 * F.cross_entropy(head(seen), target, ignore_index=IGNORE)
        hits = (weight * (logits.argmax(1) == name[known])).sum()
        return total, hits.detach()


def encode(encoder: Idefics2VisionTransformer, pixels: Tensor) -> Tensor:
    """Patch features (pictures, patches, hidden) of whole pictures."""
    patch = cast(int, encoder.config.patch_size)  # transformers has room for two sides; this encoder has one
    rows, columns = (side // patch for side in pixels.shape[-2:])
    mask = torch.ones(len(pixels), rows, columns, dtype=torch.bool)
    states: Tensor = encoder(pixel_values=pixels, patch_attention_mask=mask).last_hidden_state
    return states


def text_banks(language: Path) -> dict[str, Tensor]:
    """Embeddings of names, places and grounds in the language model of folder `language`, each (texts, width)."""
    model = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32)
    table = cast(nn.Embedding, model.get_input_embeddings()).weight.detach()
    tokenizer, bank = AutoTokenizer.from_pretrained(language), TextBank()
    return {kind: _embed(getattr(bank, kind), table, tokenizer) for kind in ("names", "places", "grounds")}


def _embed(texts: list[str], table: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Mean of the language model's embeddings of the tokens of ` text`: (texts, width)."""
    ids = [tokenizer(f" {t}", add_special_tokens=False)["input_ids"] for t in texts]
    return torch.stack([table[torch.tensor(i)].mean(0) for i in ids])


def _whitening(rows: Tensor, degree: float = 1.0) -> tuple[Tensor, Tensor]:
    """Mean (width,) and matrix (width, width) that give rows (n, width) zero mean and unit covariance.

    Whitened names are far apart from the first step, and stay a linear image of what the language model reads. A lower
    `degree` leaves wide directions wider: the covariance becomes its own power 1 - degree.
    """
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    return rows.mean(0), vectors / (values.clamp(min=0) + 0.01 * values.mean()) ** (degree / 2)


def vision_config(recipe: VisionRecipe) -> Idefics2VisionConfig:
    """The encoder's configuration as transformers writes it."""
    return Idefics2VisionConfig(
        hidden_size=recipe.hidden, intermediate_size=recipe.intermediate, num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads, patch_size=recipe.patch, image_size=recipe.table,
        hidden_act="gelu_pytorch_tanh",
    )


def pretrain_vision(
    language: Path, *, quality: Quality = "good", out: Path | None = None, recipe: VisionRecipe | None = None,
    on_step: Callable[[int, int, float, float], None] = lambda step, steps, loss, accuracy: None,
) -> Path:
    """Train the encoder against the embeddings of the language model in `language`; write config, weights and recipe.

    `on_step(step, steps, loss, accuracy)` is called after every step; loss and accuracy are smoothed.

    Raises:
        AssetMissing: a package of the `offline` extra is not installed.
    """
    recipe = recipe or VISION_RECIPES[quality]
    out = out or STANDINS / SiglipNanoConfig(quality=quality).folder
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    banks = text_banks(language)
    total = recipe.steps + recipe.alignment_steps
    sources = [*pictures.licence_records(), *tables.licence_records(), *facts.licence_records()]
    settings = asdict(recipe) | {"sources": [s.to_dict() for s in sources], "language": _digest(banks)}
    contrast = RegionContrast(recipe, banks)
    early = {key: value for key, value in settings.items() if not key.startswith("alignment")}
    encoder = contrast.encoder
    measured = phase(encoder, "siglip-nano-contrast", early, lambda: _measured("contrast", "region", _train(
        contrast, _batches(recipe, "contrast", recipe.contrast_shares), recipe, recipe.steps,
        lambda step, *values: on_step(step, total, *values),
    )))
    measured |= phase(encoder, "siglip-nano-alignment", settings, lambda: _measured("alignment", "patch", _train(
        PatchAlignment(encoder, recipe, banks),
        _batches(recipe, "alignment", recipe.alignment_shares), recipe, recipe.alignment_steps,
        lambda step, *values: on_step(recipe.steps + step, total, *values),
    )))
    standardise(encoder, itertools.islice(_batches(recipe, "standardisation", recipe.alignment_shares), 20))
    encoder.half().save_pretrained(out)
    measured |= {"pictures": total * recipe.batch_size, "parameters": sum(p.numel() for p in encoder.parameters())}
    write_recipe(out, asdict(recipe) | {"language": settings["language"]}, sources, measured)
    return out


@torch.no_grad()
def standardise(encoder: Idefics2VisionTransformer, batches: Iterable[tuple[Tensor, Regions]]) -> None:
    """Fold into the last norm that features have mean 0, and root mean square 1 over all of them.

    Readouts with a bias do not care; a norm without centring, as in resamplers, would see little but the mean.
    """
    features = torch.cat([encode(encoder, pixels).flatten(0, 1) for pixels, _ in batches])
    mean = features.mean(0)
    scale = (features - mean).pow(2).mean().rsqrt()
    norm = encoder.post_layernorm
    norm.bias.copy_((norm.bias - mean) * scale)
    norm.weight.mul_(scale)


def _digest(banks: dict[str, Tensor]) -> str:
    """What the encoder learns of the language model."""
    return hashlib.sha256(b"".join(rows.numpy().tobytes() for rows in banks.values())).hexdigest()[:16]


def _measured(name: str, unit: str, end: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_loss": round(end[0], 4), f"{unit}_accuracy": round(end[1], 4)}


def _batches(recipe: VisionRecipe, name: str, shares: tuple[int, ...]) -> Iterator[tuple[Tensor, Regions]]:
    """Batches of a phase, composed in a process of their own."""
    made = PretrainPictures(recipe, name, shares)
    return iter(DataLoader(made, batch_size=None, num_workers=1, prefetch_factor=4))


def _train(
    model: nn.Module, batches: Iterator[tuple[Tensor, Regions]], recipe: VisionRecipe, steps: int,
    on_step: Callable[[int, float, float], None],
) -> tuple[float, float]:
    """Train for `steps`; returns the smoothed loss and accuracy."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        parts[parameter.ndim == 2 and is_decayed(name, parameter, embeddings)].append(parameter)
    groups = [
        {"params": parts[True], "muon": True, "lr": recipe.matrix_learning_rate, "weight_decay": recipe.weight_decay},
        {"params": parts[False], "muon": False, "lr": recipe.learning_rate, "weight_decay": 0.0},
    ]
    optimizer = MuonAdamW(groups, betas=(0.9, 0.98), fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(recipe.warmup_steps, steps // 5), steps)
    loss_mean = accuracy_mean = 0.0
    for step in range(1, steps + 1):
        loss, accuracy = model(*next(batches))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        keep = 0.0 if step == 1 else 0.97
        loss_mean = keep * loss_mean + (1 - keep) * loss.item()
        accuracy_mean = keep * accuracy_mean + (1 - keep) * accuracy.item()
        on_step(step, loss_mean, accuracy_mean)
    return loss_mean, accuracy_mean
