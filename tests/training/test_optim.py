"""Parameter groups, schedule, and the one-pass scaling and clipping of gradients."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    MllamaVisionModel,
)
from transformers.models.mllama.configuration_mllama import MllamaVisionConfig

from vlm_ablate.config.stages import Stage
from vlm_ablate.errors import ModelError
from vlm_ablate.models.connectors.configs import MappingNetworkConfig, PerceiverConfig
from vlm_ablate.registry import connectors
from vlm_ablate.training.optim import (
    build_optimizer,
    build_scheduler,
    learning_rate,
    parameter_groups,
    part_of,
    scale_and_clip,
)


def stage(**values) -> Stage:
    return Stage(**({"steps": 10, "batch_size": 2} | values))


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.language = nn.ModuleDict(
            {"embed": nn.Embedding(4, 3), "gate_proj": nn.Linear(3, 3), "norm": nn.LayerNorm(3)}
        )
        self.connector = nn.Linear(3, 3)
        self.connector.latents = nn.Parameter(torch.ones(4, 3))
        self.gates = nn.ParameterDict(
            {"scalar": nn.Parameter(torch.zeros(1)), "vector": nn.Parameter(torch.zeros(1, 1, 3))}
        )


def test_decay_is_for_matrices_only_and_backbones_have_their_own_rate():
    model = Parts()
    groups = parameter_groups(model, stage(weight_decay=0.1, learning_rate=1e-3, backbone_learning_rate=1e-5))
    names = {id(p): n for n, p in model.named_parameters()}
    told = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert set(told) == set(names.values())
    assert {n for n, (_, decay) in told.items() if decay} == {"language.gate_proj.weight", "connector.weight"}
    assert all(rate == (1e-5 if n.startswith("language") else 1e-3) for n, (rate, _) in told.items())


@pytest.mark.parametrize(
    ("encoder", "config"),
    [
        (Dinov2WithRegistersModel, Dinov2WithRegistersConfig(num_hidden_layers=1)),
        (MllamaVisionModel, MllamaVisionConfig(num_hidden_layers=1, num_global_layers=1)),
    ],
)
def test_places_and_learned_tokens_of_encoders_do_not_decay(encoder, config):
    """Those that are no tables, too, whatever the encoder calls them."""
    model = nn.Module()
    with torch.device("meta"):
        model.vision = encoder(config)
    groups = parameter_groups(model, stage(weight_decay=0.1))
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed
    assert {n for n, p in model.named_parameters() if id(p) in decayed and not n.endswith(".weight")} == set()


@pytest.mark.parametrize("rank", [1, 2])
def test_adapters_of_every_rank_decay_alike(rank):
    model = nn.Module()
    model.language = nn.Module()
    model.language.lora_A, model.language.lora_B = nn.Linear(3, rank, bias=False), nn.Linear(rank, 3, bias=False)
    model.language.lora_magnitude_vector = nn.Parameter(torch.ones(3))
    groups = parameter_groups(model, stage(weight_decay=0.1))
    names = {id(p): n for n, p in model.named_parameters()}
    decayed = {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {"language.lora_A.weight", "language.lora_B.weight"}


@pytest.mark.parametrize(
    "config",
    [MappingNetworkConfig(tokens=4), PerceiverConfig(latents=4, heads=2, head_dim=8, kv_heads=1)],
    ids=lambda config: config.name,
)
def test_learned_tokens_of_connectors_are_no_matrices_to_the_optimiser(config):
    model = nn.Module()
    model.connector = connectors.build(config, vision_width=24, hidden=32, intermediate=40, grid=(4, 6))
    tokens = {id(p) for p in model.connector.parameters() if p.shape[0] == 4 and p.ndim == 2}
    groups = parameter_groups(model, stage(optimizer="muon", weight_decay=0.1))
    (told,) = [(g["muon"], g["weight_decay"], g["lr"]) for g in groups if {id(p) for p in g["params"]} & tokens]
    assert len(tokens) == 1 and told == (False, 0.0, stage().learning_rate)


def test_a_part_with_a_rate_of_its_own_is_a_group_of_its_own_and_its_matrices_follow():
    model = Parts()
    model.vision = nn.Linear(3, 3)
    model.architecture = nn.Module()
    model.architecture.alpha_dense = nn.Parameter(torch.zeros(1))
    own = {"vision": 1e-4, "gates": 1e-1}
    groups = parameter_groups(model, stage(optimizer="muon", learning_rate=1e-2, learning_rates=own))
    names = {id(p): n for n, p in model.named_parameters()}
    told = {names[id(p)]: g["lr"] for g in groups for p in g["params"]}
    assert told["vision.bias"] == 1e-4 and told["architecture.alpha_dense"] == 1e-1
    assert told["vision.weight"] == pytest.approx(0.02 * 1e-4 / 1e-2)
    assert told["connector.weight"] == told["language.gate_proj.weight"] == pytest.approx(0.02)
    rest = set(told) - {"vision.weight", "vision.bias", "architecture.alpha_dense"}
    assert {told[n] for n in rest if not n.endswith(("_proj.weight", "connector.weight"))} == {1e-2}
    assert groups[-1]["name"] == "new_undecayed", "what is logged as the learning rate"


def test_the_gates_follow_the_connector_and_backbones_their_common_rate():
    s = stage(learning_rate=1e-2, backbone_learning_rate=1e-5, learning_rates={"connector": 1e-3, "language": 1e-4})
    assert [learning_rate(part, s) for part in ("connector", "gates", "vision", "language")] == [1e-3, 1e-3, 1e-5, 1e-4]


def test_the_gates_are_those_of_the_gated_blocks():
    from transformers import LlamaConfig

    from vlm_ablate.models.architectures.gated_block import GatedBlock

    config = LlamaConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8)
    block = GatedBlock(config, 8, gate="scalar", qk_norm=False)
    gates = {name for name, _ in block.named_parameters() if part_of(f"architecture.blocks.0.{name}") == "gates"}
    assert gates == {name for name, p in block.named_parameters() if p.numel() == 1} != set()


def test_nothing_to_train_is_an_error():
    with pytest.raises(ModelError, match="trains nothing"):
        parameter_groups(Parts().requires_grad_(False), stage())


@pytest.mark.parametrize(
    ("kind", "expected"), [("constant", [1.0, 1.0]), ("linear", [0.5, 0.125]), ("cosine", [0.5, 0.0380602])]
)
def test_schedule_warms_up_and_ends(kind, expected):
    s = stage(schedule=kind, warmup_steps=2, learning_rate=1.0)
    optimizer = build_optimizer(nn.Linear(2, 2), s)
    scheduler, rates = build_scheduler(optimizer, s), []
    for _ in range(10):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert [rates[6], rates[9]] == pytest.approx(expected)


def test_scale_and_clip_equals_scaling_then_torch_clipping():
    mine, theirs = nn.Linear(5, 5), nn.Linear(5, 5)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        a.grad = torch.randn_like(a)
        b.grad = a.grad / 7
    norm = scale_and_clip(mine.parameters(), 1 / 7, 0.1)
    reference = nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
    torch.testing.assert_close(norm, reference)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_muon_takes_the_matrices_and_adamw_the_rest():
    groups = parameter_groups(model := Parts(), stage(optimizer="muon", weight_decay=0.1))
    names = {id(p): n for n, p in model.named_parameters()}
    by_muon = {names[id(p)] for g in groups if g["muon"] for p in g["params"]}
    assert by_muon == {"language.gate_proj.weight", "connector.weight"}


def test_muon_leaves_low_rank_adapters_to_adamw():
    model = nn.Module()
    model.language = nn.ModuleDict({"lora_A": nn.Linear(3, 2, bias=False), "q_proj": nn.Linear(3, 3, bias=False)})
    assert [len(g["params"]) for g in parameter_groups(model, stage(optimizer="muon")) if g["muon"]] == [1]


def test_muon_leaves_an_untied_output_head_to_adamw():
    model = nn.Module()
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    model.language = LlamaForCausalLM(LlamaConfig(vocab_size=11, tie_word_embeddings=False, **sizes))
    groups = parameter_groups(model, stage(optimizer="muon"))
    by_muon = {id(p) for g in groups if g["muon"] for p in g["params"]}
    assert {n for n, p in model.named_parameters() if p.ndim == 2 and id(p) not in by_muon} == {
        "language.lm_head.weight",
        "language.model.embed_tokens.weight",
    }


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(len(optimizer.state))
    for _ in range(steps):
        x = torch.randn(8, 6, generator=generator)
        model(x).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3))


def test_muon_and_adamw_step_as_they_do_apart():
    together, apart = small_model(), small_model()
    s = stage(optimizer="muon", learning_rate=0.01, matrix_learning_rate=0.03, weight_decay=0.1, betas=(0.9, 0.98))
    train(together, build_optimizer(together, s), 3)
    matrices = [p for p in apart.parameters() if p.ndim == 2]
    rest = [p for p in apart.parameters() if p.ndim != 2]
    parts = [
        torch.optim.Muon(matrices, lr=0.03, weight_decay=0.1, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        x = torch.randn(8, 6, generator=generator)
        apart(x).pow(2).mean().backward()
        for part in parts:
            part.step()
            part.zero_grad()
    for mine, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_muon_goes_on_from_its_state():
    s = stage(optimizer="muon", learning_rate=0.01)
    straight, resumed = small_model(), small_model()
    optimizer = build_optimizer(straight, s)
    train(straight, optimizer, 2)
    resumed.load_state_dict(straight.state_dict())
    again = build_optimizer(resumed, s)
    again.load_state_dict(deepcopy(optimizer.state_dict()))
    train(straight, optimizer, 2)
    train(resumed, again, 2)
    for mine, theirs in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_schedule_moves_both_parts():
    s = stage(optimizer="muon", learning_rate=1.0, matrix_learning_rate=2.0, warmup_steps=4)
    optimizer = build_optimizer(model := small_model(), s)
    scheduler = build_scheduler(optimizer, s)
    train(model, optimizer, 1)
    scheduler.step()
    assert {g["lr"] for part in optimizer._parts for g in part.param_groups} == {0.5, 1.0}
