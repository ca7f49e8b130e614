"""A vision-language model: vision encoder, connector, language model, and the architecture that joins them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.errors import ModelError
from vlm_ablate.models.architectures.base import Architecture, Visual
from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.connectors.base import Connector
from vlm_ablate.models.generation import greedy
from vlm_ablate.models.language.base import LanguageModel
from vlm_ablate.models.language.vocabulary import extend_vocabulary
from vlm_ablate.models.pretrained import quietly
from vlm_ablate.models.seeding import seeded
from vlm_ablate.models.tokens import IMAGE, add_tokens, image_tokens
from vlm_ablate.models.vision.base import VisionEncoder
from vlm_ablate.registry import architectures, connectors, language_models, vision_encoders

if TYPE_CHECKING:
    from vlm_ablate.models.adapters import Adapter


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
        image: ImageConfig,
        *,
        vision: VisionEncoder,
        connector: Connector,
        language: LanguageModel,
        architecture: Architecture,
        image_token_id: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.image, self.seed = config, image, seed
        self.vision, self.connector, self.language, self.architecture = vision, connector, language, architecture
        self.image_token_id = image_token_id
        self.neftune_alpha: float | None = None
        """Uniform noise of +-alpha / sqrt(sequence * hidden) on the embedded text while training (arXiv:2310.05914)."""
        self.adapters: dict[str, Adapter] = {}
        """Backbone -> the adapters in it; see `adapters.apply_training`."""
        self.touched: set[str] = set()
        """Names (as without adapters) of the parameters that any stage has trained."""
        architecture.install(language)

    @property
    def tokenizer(self):
        """The language model's tokeniser with the image tokens."""
        return self.language.tokenizer

    @property
    def side(self) -> int:
        """Longest side in pixels of one view."""
        return view_side(self.image)

    def visual_tokens(self, height: int, width: int) -> int:
        """Visual tokens of one view of that size in pixels (padding included)."""
        return self.connector.visual_tokens(self.vision.grid(height, width))

    @property
    def text_tokens_per_view(self) -> int:
        """`<image>` placeholders of one view in the text."""
        return self.architecture.text_tokens(self.visual_tokens(self.side, self.side))

    def encode_images(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> Tensor:
        """(views, 3, height, width) normalised pixels -> (views, visual_tokens, width of the connector)."""
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.vision.parameters())
        with nullcontext() if trained else torch.no_grad():
            seen = self.vision(pixel_values.to(_dtype(self.vision)), pixel_mask)
        return self.connect(seen.features, seen.mask, seen.grid)

    def connect(self, features: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """(views, patches, width of the encoder) -> (views, visual_tokens, width that the architecture asks for).

        Raises:
            ModelError: the connector gives another shape than it promised or was asked for.
        """
        states = self.connector(features.to(_dtype(self.connector)), mask, grid)
        tokens = self.connector.visual_tokens(grid)
        width = self.architecture.connector_width(self.language, self.vision.width)
        if states.shape != (len(features), tokens, width):
            given = " x ".join(map(str, states.shape[1:]))
            raise ModelError(
                f"connector {self.connector.config.name!r} gives {given} a view, where {tokens} visual tokens "
                f"of width {width} are expected"
            )
        return states

    def forward(self, batch: Batch) -> Output:
        """The summed next-token loss of a batch. Logits are computed at supervised positions only."""
        visual = None
        if batch.pixel_values is not None and len(batch.pixel_values):
            visual = self.encode_images(batch.pixel_values, batch.pixel_mask)
        prompt = (batch.labels != IGNORE).cumsum(1) == 0
        targets = batch.labels[:, 1:]
        positions = nn.functional.pad(targets != IGNORE, (0, 1))
        targets = targets[targets != IGNORE]
        with self.language.scoring(positions):
            logits = self._decode(
                batch.input_ids, batch.attention_mask, visual, batch.view_sample, batch.view_image, prompt
            )[0]
        loss = cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, targets, reduction="sum")
        if torch.is_grad_enabled() and (visual is None or not len(targets)):
            loss = loss + self._zero()
        return Output(loss, len(targets), logits)

    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        visual: Tensor | None,
        view_sample: Tensor,
        view_image: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        """Logits at every position, (batch, sequence, vocabulary).

        Args:
            input_ids: (batch, sequence) with placeholders.
            attention_mask: (batch, sequence) bool.
            visual: (views, visual_tokens, width) from `encode_images`, or None.
            view_sample: (views,) row of the batch of each view.
            view_image: (views,) image of each view; None: each view is an image.
            prompt: (batch, sequence) bool, True before the first position that is to be predicted; None: everywhere.
                It matters where prompts attend in another way than what follows them.
        """
        return self._decode(input_ids, attention_mask, visual, view_sample, view_image, prompt)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        visual: Tensor | None,
        view_sample: Tensor,
        *,
        max_new_tokens: int,
        stop: list[str],
        view_image: Tensor | None = None,
    ) -> list[str]:
        """Greedy continuations of left-padded prompts, each up to the end of text or the first stop string.

        Raises:
            ModelError: the prompts are not padded on the left.
        """
        if not attention_mask[:, -1].all():
            raise ModelError("prompts must be padded on the left")
        is_image, seen = self._seen(input_ids, visual, view_sample, view_image)
        embeds = self.architecture.embed(self._embed_text(input_ids, attention_mask), is_image, seen)
        with self.architecture.seeing(is_image, seen), self.architecture.decoding():
            return greedy(self.language, embeds, attention_mask, max_new_tokens=max_new_tokens, stop=stop)

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute the layers of both backbones, and the blocks between them, instead of keeping their activations."""
        self.architecture.gradient_checkpointing = enabled
        for model, contexts in (
            (self.language.model, getattr(self.architecture, "checkpoint_contexts", None)),
            (self.vision.backbone, None),
        ):
            if not getattr(model, "supports_gradient_checkpointing", False):
                continue
            if not enabled:
                if model.is_gradient_checkpointing:
                    _switch(model, "disable")
                continue
            options = {"use_reentrant": False, **({"context_fn": contexts} if contexts else {})}
            _switch(model, "enable", options)

    def _decode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        visual: Tensor | None,
        view_sample: Tensor,
        view_image: Tensor | None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        is_image, seen = self._seen(input_ids, visual, view_sample, view_image)
        embeds = self.architecture.embed(self._embed_text(input_ids, attention_mask), is_image, seen)
        positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        with self.architecture.seeing(is_image, seen, prompt):
            return self.language.model(
                inputs_embeds=embeds, attention_mask=attention_mask.bool(), position_ids=positions, use_cache=False
            ).logits

    def _seen(
        self, input_ids: Tensor, visual: Tensor | None, view_sample: Tensor, view_image: Tensor | None
    ) -> tuple[Tensor, Visual | None]:
        """Where the placeholders are, and the visual tokens in the order of the batch's rows."""
        is_image = input_ids == self.image_token_id
        if visual is None or not len(visual):
            return is_image, None
        if len(visual) != len(view_sample):
            raise ModelError(f"{len(visual)} views were encoded, {len(view_sample)} belong to the batch")
        order = view_sample.argsort(stable=True)
        image = torch.arange(len(order), device=order.device) if view_image is None else view_image
        return is_image, Visual(visual[order], view_sample[order], image[order])

    def _embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embeds = self.language.model.get_input_embeddings()(input_ids)
        if not (self.training and self.neftune_alpha):
            return embeds
        lengths = attention_mask.sum(1).clamp(min=1)[:, None, None]
        bound = self.neftune_alpha / (lengths * embeds.shape[-1]).sqrt()
        return embeds + (torch.rand_like(embeds) * 2 - 1) * bound * attention_mask[..., None]

    def _zero(self) -> Tensor:
        """0 by way of every trained parameter that a batch without images leaves out: all ranks get gradients."""
        parts = (self.vision, self.connector, self.architecture)
        return sum((p.sum() * 0.0 for part in parts for p in part.parameters() if p.requires_grad), torch.tensor(0.0))


def _switch(model: nn.Module, state: str, *args: object) -> None:
    """transformers renamed the switch in 5.x; the old name warns there and the new one is missing before."""
    names = (f"activation_checkpointing_{state}", f"gradient_checkpointing_{state}")
    next(getattr(model, name) for name in names if hasattr(model, name))(*args)


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters()), torch.get_default_dtype())


def view_side(image: ImageConfig) -> int:
    """Longest side in pixels of one view of images prepared in this way."""
    return image.tile if image.split == "tiles" else image.size


def build_vlm(
    config: ModelConfig,
    image: ImageConfig,
    *,
    load_weights: bool = True,
    seed: int = 0,
    language_dtype: torch.dtype = torch.float32,
) -> VLM:
    """Put a model together from its registered parts.

    Args:
        config: the four parts.
        image: how images are prepared; decides the special tokens and the largest patch grid.
        load_weights: False builds the structure on the meta device, from configurations alone.
        seed: of all parameters that no checkpoint brings. Each part draws from a generator of its own.
        language_dtype: of the language model's own weights; what is new stays in fp32. In bf16 the model must run
            under autocast.

    Raises:
        AssetMissing: a part's files are not on this machine.
        ModelError: the parts do not fit together.
    """
    with quietly(), seeded(seed, "vision"):
        vision = vision_encoders.build(config.vision, image_size=view_side(image), load_weights=load_weights)
    with quietly(), seeded(seed, "language"):
        language = language_models.build(config.language, load_weights=load_weights, dtype=language_dtype)
    new = add_tokens(language, [*image_tokens(image), *config.extra_tokens])
    with seeded(seed, "vocabulary"):
        extend_vocabulary(language, new.start, len(new.tokens))
    grid = vision.grid(view_side(image), view_side(image))
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
    vlm = VLM(
        config,
        image,
        vision=vision,
        connector=connector,
        language=language,
        architecture=architecture,
        image_token_id=new.ids[IMAGE],
        seed=seed,
    )
    if config.init_from and load_weights:
        from vlm_ablate.checkpoints.start_from import import_checkpoint

        import_checkpoint(vlm, config.init_from)
    return vlm
