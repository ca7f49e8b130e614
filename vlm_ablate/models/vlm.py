"""A vision-language model: vision encoder, connector, language model, and the architecture that joins them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlm_ablate.config.model import ModelConfig
from vlm_ablate.config.stages import Training
from vlm_ablate.errors import ModelError
from vlm_ablate.models import documents, masks, promises
from vlm_ablate.models.architectures.base import Architecture, Reading, Visual
from vlm_ablate.models.batch import IGNORE, Batch, Encoded
from vlm_ablate.models.beginnings import Beginnings
from vlm_ablate.models.checkpointing import set_checkpointing
from vlm_ablate.models.connectors.base import Connector
from vlm_ablate.models.features import StoredFeatures
from vlm_ablate.models.generation import continued
from vlm_ablate.models.half import hold_in_bf16
from vlm_ablate.models.language.base import LanguageModel
from vlm_ablate.models.language.vocabulary import extend_vocabulary
from vlm_ablate.models.pretrained import quietly
from vlm_ablate.models.seeding import seeded
from vlm_ablate.models.tokens import IMAGE, add_tokens, image_tokens
from vlm_ablate.models.views import Views
from vlm_ablate.models.vision.base import VisionEncoder
from vlm_ablate.registry import architectures, connectors, language_models, vision_encoders

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Adapter:
    """The adapters that are in a backbone."""

    kind: Training
    r: int
    alpha: float
    dropout: float
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Output:
    """What a training step needs."""

    loss_sum: Tensor
    """Cross-entropy summed over the supervised tokens, in nats; a scalar with gradients."""
    supervised_tokens: int
    logits: Tensor | None = None
    """(supervised_tokens, vocabulary)."""


class VLM(nn.Module):
    """The four parts put together. Build one with `build_vlm`."""

    def __init__(
        self,
        config: ModelConfig,
        views: Views,
        *,
        vision: VisionEncoder,
        connector: Connector,
        language: LanguageModel,
        architecture: Architecture,
        image_token_id: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.views, self.seed = config, views, seed
        self.vision, self.connector, self.language, self.architecture = vision, connector, language, architecture
        self.image_token_id = image_token_id
        self.neftune_alpha: float | None = None
        """Uniform noise of +-alpha / sqrt(document * hidden) on the embedded text while training (arXiv:2310.05914)."""
        self.attention: documents.Kernel = "padded"
        """What computes attention among the documents of a batch without padding (`Batch.documents`); "padded": they
        are masked from each other as documents of a padded row are."""
        self.attended_apart: set[str] = set()
        """Why layers were computed one document at a time although `attention` names a kernel of flash attention."""
        self.passes: Callable[[int], int] | None = None
        """Of a model whose ranks hold a share each: runs of the encoder in a training step of this rank -> the most of
        any rank. All must run it equally often, as each run gathers its layers from all; None: there is one rank, or
        each has the whole model."""
        self.adapters: dict[str, Adapter] = {}
        """Backbone -> the adapters in it; see `adapters.apply_training`."""
        self.touched: set[str] = set()
        """Names (as without adapters) of the parameters that any stage has trained."""
        self.features: StoredFeatures | None = None
        """Where the output of the encoder is kept while it is frozen; None: nowhere."""
        architecture.install(language)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The language model's tokeniser with the image tokens.

        Raises:
            ModelError: there is none, as only the structure was built.
        """
        return self.language.require_tokenizer()

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    def visual_tokens(self, height: int, width: int) -> int:
        """Visual tokens of one view of that size in pixels."""
        return self.connector.visual_tokens(self.vision.grid(height, width))

    def placeholders(self, height: int, width: int) -> int:
        """`<image>` placeholders in the text of one view of that size in pixels."""
        return self.architecture.placeholders(self.visual_tokens(height, width))

    def encode_images(
        self, pixel_values: Tensor, pixel_mask: Tensor | None, keys: Sequence[bytes] | None = None
    ) -> Tensor:
        """(views, 3, height, width) normalised pixels -> (views, visual_tokens, width of the connector).

        Args:
            keys: names of the views' contents (`features.view_key`), to look the encoder's output up by.
        """
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.vision.parameters())
        rounds = not pixel_values.is_meta and torch.is_autocast_enabled(pixel_values.device.type)
        # An encoder held in bf16 gets the pixels that it would get in fp32: not all that it does to them is rounded.
        pixels = pixel_values if rounds else pixel_values.to(_dtype(self.vision))
        with nullcontext() if trained else torch.no_grad():
            if self.features is None or keys is None or trained or self.vision.training or self.passes is not None:
                seen = self.vision(pixels, pixel_mask)
            else:
                seen = self.features.see(self.vision, pixels, pixel_mask, keys)
        promises.check_features(self.vision, seen, pixel_values)
        return self.connect(seen.features, seen.mask, seen.grid)

    def encode(self, batch: Batch) -> Encoded | None:
        """The visual tokens of a batch, as many a view as its own size gives; None without images.

        Padded views are encoded together where padding adds no tokens, and by size otherwise: their placeholders were
        counted by each view's own size.
        """
        if batch.visual is not None:
            return batch.visual if len(batch.visual) else None
        pixels = batch.pixel_values
        if pixels is None or not len(pixels):
            return None
        by_size = self._by_size(batch)
        if by_size is None:
            return Encoded(self.encode_images(pixels, batch.pixel_mask, batch.view_keys))
        sizes = batch.view_sizes
        states: list[Tensor] = [pixels] * len(sizes)
        for height, width in by_size:
            chosen = [view for view, size in enumerate(sizes) if size == (height, width)]
            keys = batch.view_keys and [batch.view_keys[view] for view in chosen]
            found = self.encode_images(pixels[chosen, :, :height, :width], None, keys)
            for view, own in zip(chosen, found, strict=True):
                states[view] = own
        return Encoded.of(states)

    def _by_size(self, batch: Batch) -> list[tuple[int, int]] | None:
        """Sizes of the views that are encoded one after another; None: all views together."""
        assert batch.pixel_values is not None
        sizes, (height, width) = set(batch.view_sizes), batch.pixel_values.shape[-2:]
        together = {self.visual_tokens(*size) for size in sizes} == {self.visual_tokens(height, width)}
        return None if together else sorted(sizes)

    def connect(self, features: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """(views, patches, width of the encoder) -> (views, visual_tokens, width that the architecture asks for).

        Raises:
            ModelError: the connector gives another shape than it promised or was asked for.
        """
        states: Tensor = self.connector(features.to(_dtype(self.connector)), mask, grid)
        tokens = self.connector.visual_tokens(grid)
        width = self.architecture.connector_width(self.language, self.vision.width)
        if states.shape != (len(features), tokens, width):
            given = " x ".join(map(str, states.shape[1:]))
            raise ModelError(
                f"connector {self.connector.config.name!r} gives {given} a view, where {tokens} visual tokens "
                f"of width {width} are expected"
            )
        if torch.is_grad_enabled():
            promises.check_gradient(self.connector, features, states)
        return states

    def forward(self, batch: Batch) -> Output:
        """The summed next-token loss of a batch. Logits are computed at supervised positions only.

        The first position of a document is predicted by nothing.
        """
        missing = self._missing(batch)  # before any run of the encoder: it waits for the other ranks
        visual = self.encode(batch)
        even = self._zero_of_runs(missing, batch.input_ids.device) if missing else None
        targets = batch.targets
        scored = nn.functional.pad(targets != IGNORE, (0, 1))
        targets = targets[targets != IGNORE]
        with self.language.scoring(scored):
            logits = self._decode(batch, visual)[0]
        loss = cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, targets, reduction="sum")
        if torch.is_grad_enabled() and (visual is None or not len(targets)):
            loss = loss + self._zero()
        loss = loss if even is None else loss + even
        return Output(loss, len(targets), logits)

    def logits(self, batch: Batch) -> Tensor:
        """Logits at every position, (batch, sequence, vocabulary)."""
        return self._decode(batch, self.encode(batch))

    @torch.no_grad()
    def generate(
        self, batch: Batch, *, max_new_tokens: int, stop: Sequence[str] = (), beginnings: Beginnings | None = None
    ) -> list[str]:
        """Greedy continuations of left-padded prompts, each up to the end of text or the first stop string.

        Args:
            beginnings: computes what prompts begin with in common once, where that pays and the views have names
                (`Batch.view_keys`); None: every prompt is computed whole.

        Raises:
            ModelError: the prompts are not padded on the left, or there are several in a row.
        """
        if not batch.attention_mask[:, -1].all():
            raise ModelError("prompts must be padded on the left")
        if masks.packed(batch.segment):
            raise ModelError("a row to be continued holds one prompt")
        prompts = replace(batch, labels=torch.full_like(batch.input_ids, IGNORE))
        reading = self._reading(prompts, self.encode(prompts))
        return continued(
            self.language, self.architecture, prompts, reading, self._embed_text(prompts),
            max_new_tokens=max_new_tokens, stop=list(stop), beginnings=beginnings,
        )  # fmt: skip

    def attend_by(self, kernel: documents.Kernel) -> bool:
        """Choose what computes attention; whether batches may come without padding.

        A language model that cannot read documents in one row stays with padding.
        """
        able = kernel != "padded" and documents.reads_documents(self.language.decoder, self.language.hidden)
        self.attention, self.attended_apart = kernel if able else "padded", set()
        return able

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute the layers of both backbones, and the blocks between them, instead of keeping their activations."""
        set_checkpointing(self.vision, self.language, self.architecture, enabled=enabled)

    def _decode(self, batch: Batch, visual: Encoded | None) -> Tensor:
        reading = self._reading(batch, visual)
        embeds = self.architecture.embed(self._embed_text(batch), reading)
        decoder, apart = self.language.decoder, self._documents(reading)
        mask = None if apart else masks.decoder_mask(decoder.config, embeds, batch.segment)
        with self.architecture.seeing(reading), documents.reading(decoder, apart):
            out = self.language.model(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=masks.positions(batch.segment),
                use_cache=False,
            )
        logits: Tensor = out.logits
        return logits

    def _documents(self, reading: Reading) -> documents.Documents | None:
        if reading.documents is None or self.attention == "padded":
            return None
        device, both_ways = reading.segment.device, self.architecture.both_ways(reading)
        return documents.Documents.of(
            reading.documents, device, kernel=self.attention, both_ways=both_ways, apart=self.attended_apart
        )

    def _reading(self, batch: Batch, encoded: Encoded | None) -> Reading:
        """Where the placeholders are, what sees what, and the visual tokens in the order of the batch's rows."""
        visual, rows, own = None, batch.view_sample, None
        if encoded is not None:
            if len(encoded) != len(rows):
                raise ModelError(f"{len(encoded)} views were encoded, {len(rows)} belong to the batch")
            order = rows.argsort(stable=True)
            image = torch.arange(len(order), device=order.device) if batch.view_image is None else batch.view_image
            own = None if encoded.own is None else encoded.own[order]
            visual = Visual(encoded.states[order], rows[order], image[order], own, self._shown(encoded))
        is_image = batch.input_ids == self.image_token_id
        prefix = masks.prefix(batch.labels, batch.segment)
        return Reading(is_image, batch.segment, prefix, visual, batch.documents)

    def _shown(self, encoded: Encoded) -> int | None:
        """Of an encoder that gives padding with a view's own patches, where the connector keeps patches."""
        own, side = self.vision.own_patches, self.views.side
        if own is None or encoded.states.shape[1] != math.prod(self.vision.grid(side, side)):
            return None
        return own

    def _embed_text(self, batch: Batch) -> Tensor:
        embeds: Tensor = self.language.model.get_input_embeddings()(batch.input_ids)
        if not (self.training and self.neftune_alpha):
            return embeds
        bound: Tensor = self.neftune_alpha / (masks.lengths(batch.segment)[..., None] * embeds.shape[-1]).sqrt()
        return embeds + (torch.rand_like(embeds) * 2 - 1) * bound * batch.attention_mask[..., None]

    def _zero(self) -> Tensor:
        """0 by way of every trained parameter that a batch without images leaves out: all ranks get gradients.

        Of an encoder whose layers are shared out, `_zero_of_runs` does so.
        """
        parts = (self.connector, self.architecture, *((self.vision,) if self.passes is None else ()))
        return sum((p.sum() * 0.0 for part in parts for p in part.parameters() if p.requires_grad), torch.tensor(0.0))

    def _missing(self, batch: Batch) -> int:
        """How much oftener another rank runs encoder and connector for its batch; 0 where nothing is shared out."""
        if self.passes is None or not torch.is_grad_enabled():
            return 0
        pixels = batch.pixel_values
        own = 0 if pixels is None or not len(pixels) else len(self._by_size(batch) or [()])
        return self.passes(own) - own

    def _zero_of_runs(self, count: int, device: torch.device) -> Tensor:
        """0 by way of so many runs of encoder and connector over an empty view."""
        side = self.views.side
        empty = torch.zeros(1, 3, side, side, device=device)
        return torch.stack([self.encode_images(empty, None).sum() for _ in range(count)]).sum() * 0.0


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters()), torch.get_default_dtype())


def build_vlm(
    config: ModelConfig,
    views: Views,
    *,
    load_weights: bool = True,
    seed: int = 0,
    half: Collection[str] = (),
) -> VLM:
    """Put a model together from its registered parts. `init_from` is not read: see `checkpoints/start_from.py`.

    Args:
        config: the four parts.
        views: what images will be prepared to; decides the special tokens and the largest patch grid.
        load_weights: False builds the structure on the meta device, from configurations alone.
        seed: of all parameters that no checkpoint brings. Each part draws from a generator of its own.
        half: backbones ("vision", "language") whose own weights are held in bf16; what is new stays in fp32. The model
            must then run under autocast. Of the encoder that is what autocast rounds anyway (`half.py`).

    Raises:
        AssetMissing: a part's files are not on this machine.
        ModelError: the parts do not fit together.
    """
    with quietly(), seeded(seed, "vision"):
        vision = vision_encoders.build(config.vision, image_size=views.side, load_weights=load_weights)
    if "vision" in half:
        hold_in_bf16(vision)
    with quietly(), seeded(seed, "language"):
        dtype = torch.bfloat16 if "language" in half else torch.float32
        language = language_models.build(config.language, load_weights=load_weights, dtype=dtype)
    new = add_tokens(language, image_tokens(views), config.extra_tokens)
    with seeded(seed, "vocabulary"):
        extend_vocabulary(language, new.start, len(new.tokens))
    promises.check_methods(vision, VisionEncoder)
    grid = promises.check_grid(vision, views.side, views.side)
    with torch.device("cpu" if load_weights else "meta"):
        with seeded(seed, "architecture"):
            architecture = architectures.build(config.architecture, language=language, vision_width=vision.width)
        with seeded(seed, "connector"):
            connector = connectors.build(
                config.connector,
                vision_width=vision.width,
                hidden=architecture.connector_width(language, vision.width),
                intermediate=language.intermediate,
                grid=grid,
            )
    promises.check_methods(architecture, Architecture)
    promises.check_methods(connector, Connector)
    promises.check_tokens(connector, grid)
    return VLM(
        config,
        views,
        vision=vision,
        connector=connector,
        language=language,
        architecture=architecture,
        image_token_id=new.ids[IMAGE],
        seed=seed,
    )
