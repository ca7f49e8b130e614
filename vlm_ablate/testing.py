"""The contracts of parts as checks that the tests of a plug-in call in a line, as this package's own tests do.

```python
from vlm_ablate.testing import check_connector

def test_mean_pool(tmp_path):
    check_connector(MeanPoolConfig(), tmp_path)
```

Each check raises `AssertionError` (or the part's own error) with the promise that is broken.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.config.stages import Stage, Training
from vlm_ablate.data.sample import Sample, Text
from vlm_ablate.data.sources.base import Source
from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.benchmarks.base import Benchmark, Split
from vlm_ablate.evaluation.metrics import Metric
from vlm_ablate.evaluation.prompts import get_template
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.connectors.base import Connector
from vlm_ablate.models.half import hold_in_bf16
from vlm_ablate.models.promises import check_features, check_grid, check_methods, check_tokens
from vlm_ablate.models.tokens import IMAGE
from vlm_ablate.models.trained_state import load_trained, save_trained
from vlm_ablate.models.views import Views
from vlm_ablate.models.vision.base import VisionEncoder
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.registry import benchmarks, connectors, sources, vision_encoders

Grid = tuple[int, int]
QUESTIONS = (f"{IMAGE} what is it? a cat", f"{IMAGE} one and {IMAGE} another", "no picture")


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def check_connector(
    config: ComponentConfig,
    folder: Path,
    *,
    grid: Grid = (4, 6),
    vision_width: int = 24,
    hidden: int = 32,
    intermediate: int = 40,
) -> None:
    """Promised tokens, a gradient for every parameter, views that do not see each other, a state that survives a file,
    and a structure that needs no memory.

    Args:
        folder: for a file.
        grid: (rows, columns) of patches of the views that are tried.
    """
    sizes = {"vision_width": vision_width, "hidden": hidden, "intermediate": intermediate, "grid": grid}
    patches = grid[0] * grid[1]
    with _seeded():
        connector, other = connectors.build(config, **sizes), connectors.build(config, **sizes)
        features = torch.randn(3, patches, vision_width)
    check_methods(connector, Connector)
    tokens = check_tokens(connector, grid)
    out = connector(features, None, grid)
    _equal(tuple(out.shape), (3, tokens, hidden), "shape of the visual tokens: (views, visual_tokens(grid), hidden)")
    out.square().sum().backward()
    dead = [n for n, p in connector.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead, f"no gradient reaches {', '.join(dead)}"

    connector.eval()
    with torch.no_grad():
        alone, among = connector(features[1:2], None, grid), connector(features, None, grid)[1:2]
        torch.testing.assert_close(alone, among, rtol=1e-5, atol=1e-6, msg=_told("a view's tokens depend on others'"))
        save_file(connector.state_dict(), folder / "connector.safetensors")
        other.load_state_dict(load_file(folder / "connector.safetensors"), strict=True)
        assert torch.equal(other.eval()(features, None, grid), connector(features, None, grid)), (
            "a connector with the saved state gives other tokens"
        )
    with torch.device("meta"):
        bare = connectors.build(config, **sizes)
        shape = tuple(bare(torch.empty(2, patches, vision_width), None, grid).shape)
    assert all(p.is_meta for p in bare.parameters()), "a plan needs connectors that are built on the meta device"
    _equal(shape, (2, tokens, hidden), "shape of the visual tokens on the meta device")


def check_vision_encoder(config: ComponentConfig, *, side: int = 32) -> None:
    """Features as the grid and width promise, different for different views; a view's alone as among others; the same
    under autocast when a GPU holds in bf16 what that rounds.

    Args:
        side: of the square views that are tried, in pixels.
    """
    with _seeded():
        encoder = vision_encoders.build(config, image_size=side).eval()
        pixels = torch.randn(2, 3, side, side)
    check_methods(encoder, VisionEncoder)
    check_grid(encoder, side, side)
    _equal((len(encoder.mean), len(encoder.std)), (3, 3), "channels of mean and std")
    with torch.no_grad():
        seen, alone = encoder(pixels, None), encoder(pixels[:1], None)
    check_features(encoder, seen, pixels)
    assert not torch.allclose(seen.features[0], seen.features[1]), "two views have the same features"
    torch.testing.assert_close(
        alone.features, seen.features[:1], rtol=1e-4, atol=1e-4, msg=_told("a view's features depend on others'")
    )
    assert isinstance(encoder.backbone, nn.Module), "`backbone` is what stages freeze, adapt or train"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(pixels, None).features
        hold_in_bf16(encoder)
        assert torch.equal(encoder(pixels, None).features, rounded), (
            "linear layers and convolutions in bf16 give other features under autocast than in fp32"
        )


def example_batch(vlm: VLM, texts: Sequence[str] = QUESTIONS, *, left: bool = False, seed: int = 0) -> Batch:
    """Texts with a random view for each `<image>` in them; every other token is learned.

    Args:
        left: pad the shorter texts on the left.
        seed: of the views' pixels.
    """
    tokenizer, side = vlm.tokenizer, vlm.views.side
    views = [text.count(IMAGE) for text in texts]
    expanded = [text.replace(IMAGE, IMAGE * vlm.placeholders(side, side)) for text in texts]
    encoded = tokenizer(expanded, padding=True, padding_side="left" if left else "right", return_tensors="pt")
    labels = encoded.input_ids.masked_fill(encoded.attention_mask == 0, IGNORE)
    labels = labels.masked_fill(labels == vlm.image_token_id, IGNORE)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(sum(views), 3, side, side, generator=generator) if sum(views) else None
    rows = torch.arange(len(texts)).repeat_interleave(torch.tensor(views))
    ids = [f"sample-{i}" for i in range(len(texts))]
    return Batch(encoded.input_ids, encoded.attention_mask, labels, pixels, None, rows, ids, sum(views))


def check_architecture(
    config: ComponentConfig, folder: Path, *, opened: Callable[[VLM], VLM] = lambda vlm: vlm
) -> None:
    """`check_model` of an architecture between the package's small encoder and decoder, with random weights.

    Args:
        folder: for a file.
        opened: gives the model with what starts closed (gates at zero) opened, so that a gradient comes through.
    """
    parts = {"vision": {"name": "siglip-nano", "weights": "random"}, "connector": "linear", "architecture": config}
    model = ModelConfig.model_validate({**parts, "language": {"name": "llama-nano", "weights": "random"}})
    check_model(lambda: opened(build_vlm(model, Views(side=32))), example_batch, folder)


def check_model(build: Callable[[], VLM], batch: Callable[[VLM], Batch], folder: Path) -> None:
    """A whole model: placeholders and visual tokens as promised; gradients for what is trained and nothing else; what
    was saved after training comes back.

    Args:
        build: gives the model, each time the same.
        batch: gives examples for it: views of `vlm.views.side` pixels, at least one.
        folder: for a file.
    """
    vlm = build()
    examples, side = batch(vlm), vlm.views.side
    assert examples.pixel_values is not None, "the batch has no views"
    views = len(examples.pixel_values)
    visual = vlm.encode_images(examples.pixel_values, None)
    _equal(tuple(visual.shape[:2]), (views, vlm.visual_tokens(side, side)), "views and visual tokens of each")
    placed = int((examples.input_ids == vlm.image_token_id).sum())
    _equal(placed, views * vlm.placeholders(side, side), "placeholders in the text")
    for vision in dict.fromkeys((Training.frozen, Training.full if vlm.vision.trainable else Training.frozen)):
        _check_gradients(vlm, vision, examples)
    with torch.no_grad(), _seeded():
        for parameter in vlm.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
        expected = vlm.eval()(examples).loss_sum
        save_trained(vlm, folder / "trained.safetensors")
        fresh = build().eval()
        load_trained(fresh, folder / "trained.safetensors")
        assert torch.equal(fresh(examples).loss_sum, expected), "the loss differs after weights came back from a file"


def _check_gradients(vlm: VLM, vision: Training, examples: Batch) -> None:
    apply_training(vlm, Stage(steps=1, batch_size=1, vision=vision))
    vlm.zero_grad(set_to_none=True)
    vlm(examples).loss_sum.backward()
    for name, parameter in vlm.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, f"{name}: gradient without training or reverse"
        in_backbone = name.startswith(("vision.", "language."))
        assert parameter.requires_grad or in_backbone, f"{name} is new and is not trained"
    assert any(_moves(p) for p in vlm.connector.parameters()), "no gradient reaches the connector"
    if vision is Training.full:
        assert any(_moves(p) for p in vlm.vision.backbone.parameters()), "no gradient reaches the vision encoder"


def check_source(config: ComponentConfig, *, rows: int = 8) -> None:
    """Rows that are samples, the same each time and after pickling; text to learn; images that open; a fingerprint.

    Args:
        rows: how many of the first are looked at.
    """
    source = sources.build(config)
    assert isinstance(source, Source), f"{type(source).__name__} is no Source"
    assert len(source) > 0, "the source has no rows"
    again = pickle.loads(pickle.dumps(source))  # as loader processes get it
    _equal(again.fingerprint, source.fingerprint, "fingerprint after pickling")
    assert source.fingerprint, "a source says by its fingerprint when its rows have changed"
    for index in range(min(rows, len(source))):
        sample = source[index]
        _equal(_told_of(again[index]), _told_of(sample), f"row {index} after pickling")
        assert sample.id, f"row {index} has no id"
        taught = [part for part in sample.segments if isinstance(part, Text) and part.supervised]
        assert taught, f"row {index} teaches no text"
        for image in sample.images:
            image.load()


def check_benchmark(config: ComponentConfig, *, splits: tuple[Split, ...] = ("report",), items: int = 8) -> None:
    """Items with references and an id of their own, the same each time; its metric and template are there; the first
    reference scores above nothing.

    Args:
        splits: that must exist.
        items: how many of the first are looked at.
    """
    benchmark = benchmarks.build(config)
    assert isinstance(benchmark, Benchmark), f"{type(benchmark).__name__} is no Benchmark"
    get_template(benchmark.asked_with(config)[0])
    for split in splits:
        benchmark.open(split)
        shown = list(islice(benchmark.checked_items(split), items))
        again = benchmarks.build(config)
        _equal(again.split_hash(split, items), benchmark.split_hash(split, items), f"items of {split}")
        for item in shown:
            for image in item.images:
                image.load()
        scored = benchmark.metric.corpus([item.references[0] for item in shown], [item.references for item in shown])
        assert scored.mean > 0, f"{split}: answers that are the first references score {scored.mean}"


def check_metric(metric: Metric, answers: Sequence[tuple[str, Sequence[str]]], *, most: float = 1.0) -> None:
    """A name and a version; a score for any text, between 0 and `most`; the same whatever stands around it; the first
    reference scores above nothing, and nothing is scored against no references.

    Args:
        answers: (prediction, references) of some items.
        most: that one answer can score.
    """
    assert metric.name and metric.version, "a metric has a name and a version, which stand beside every score"
    given, references = [prediction for prediction, _ in answers], [list(known) for _, known in answers]
    anything = [*given, "", "\n", "é 1,000.50 %"]
    for prediction, value in zip(
        anything, metric.corpus(anything, [*references, *references[:1] * 3]).per_item, strict=True
    ):
        assert value is None or 0 <= value <= most, f"{prediction!r} scores {value}, outside 0..{most:g}"
    scored, turned = metric.corpus(given, references), metric.corpus(given[::-1], references[::-1])
    _equal((turned.mean, turned.per_item), (scored.mean, scored.per_item[::-1]), "scores of the items in reverse")
    assert metric.corpus([known[0] for known in references], references).mean > 0, "the first references score nothing"
    try:
        metric.corpus(given[:1], [[]])
    except DataError:
        return
    raise AssertionError("an item without references is scored; use `check_references`")


def _told_of(sample: Sample) -> tuple[str, ...]:
    return (sample.id, *(part.text for part in sample.segments if isinstance(part, Text)))


def _moves(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.abs().max() > 0)


def _equal(found: object, expected: object, what: str) -> None:
    assert found == expected, f"{what}: {found}, promised {expected}"


def _told(promise: str) -> Callable[[str], str]:
    return lambda difference: f"{promise}: {difference}"
