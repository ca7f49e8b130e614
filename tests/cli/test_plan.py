"""`plan`: the parameter columns of the paper from the real architectures, without weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vlm_ablate.cli.app import app
from vlm_ablate.cli.plan_view import parse_count, rounding
from vlm_ablate.config.expand import experiment_files, load_experiment
from vlm_ablate.config.scales import scale_files

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Plans are kept in a home of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLM_ABLATE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def plan(*arguments: str) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        result = CliRunner().invoke(app, ["plan", "experiments/idefics2/t03_architecture.yaml", *arguments])
    return result.exit_code, result.stdout, result.stderr


def rows(text: str, title: str) -> dict[str, list[str]]:
    """First cell -> the other cells of the table below `title`."""
    lines = text.split(title, 1)[1].splitlines()
    found: dict[str, list[str]] = {}
    for first, *rest in (line.split() for line in lines if line.startswith((" ar_", " cross_"))):
        if first in found:
            break  # of the next table
        found[first] = rest
    return found


def test_table_3_of_idefics2_at_paper_scale() -> None:
    code, out, err = plan("--scale", "paper")
    assert code == 0, err
    ours = {arm: [c for c in cells if "[" not in c] for arm, cells in rows(out, "Size").items()}
    sizes = {arm: (cells[0], cells[1]) for arm, cells in ours.items()}
    assert sizes == {
        "ar_linear_frozen": ("7.66B", "4.74M"),
        "ar_perceiver_frozen": ("8.40B", "743M"),
        "cross_attention_frozen": ("9.91B", "2.26B"),
        "cross_attention_lora": ("9.91B", "2.46B"),
        "ar_perceiver_lora": ("8.40B", "946M"),
        "ar_perceiver_full": ("8.40B", "8.40B"),
    }
    for printed in ("[7.6B]", "[5M]", "[8.3B]", "[740M]", "[10B]", "[2.3B]", "[2.5B]", "[950M]"):
        assert printed in out
    assert "\\" not in out
    notes = out.rpartition("adapters on")[2]
    assert "total parameters: 7.66B, where the paper prints 7.6B (+0.8%)" in notes
    assert "ar_perceiver_frozen, ar_perceiver_lora\n    total parameters: 8.40B, where the paper prints 8.3B" in notes
    assert "trainable parameters:" not in notes, "those are the paper's, to the digits that it prints"
    assert "    model.connector.name: perceiver -> linear\n    model.connector.bias: (none) -> False\n" in out
    assert "    the base itself\n" in out
    text = " ".join(notes.split())
    assert "7.65B together" in text and "32 // 3 = 10 of 212M" in text, "notes say why"
    assert rows(out, "Parameters by part")["cross_attention_lora"] == [
        "413M", "138M*", "2.12B*", "6.98B", "262M", "(24.6k)", "203M*"
    ]  # fmt: skip
    assert "adapters on language: 224 modules" in out and "adapters on vision: 162 modules" in out
    assert "the arms do not have the same visual tokens per image: 729 (ar_linear_frozen) against 64" in err


def test_laptop_scale_tells_what_stands_in_and_fits_a_terminal_of_100_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_ablate.cli.console.PIPED_WIDTH", 100)
    code, out, err = plan("--scale", "laptop", "--arms", "ar_perceiver_frozen,cross_attention_lora")
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 100
    assert list(rows(out, "Costs")) == ["ar_perceiver_frozen", "cross_attention_lora"]
    text = " ".join(out.split())
    assert "stand-in model.vision google/siglip-so400m-patch14-384 -> siglip-nano" in text
    assert "depth 3 -> 2 or 6 -> 2" in text
    assert "GPU-hours" not in out, "a run of seconds is not for a GPU"


def plan_idefics3(*arguments: str) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        result = CliRunner().invoke(app, ["plan", "experiments/idefics3/idefics3_8b.yaml", *arguments])
    return result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())


def test_stages_image_size_sharding_and_modules_are_shown() -> None:
    options = ("--image", "60x40", "--micro-batch", "2", "--precision", "bf16", "--checkpointing", "--shards", "4")
    code, out, err = plan_idefics3(*options, "--modules")
    assert code == 0, err
    assert "An image of 60 x 40 px -> 32 x 32 px, 4 tokens (idefics3_8b pretrain_1) against 60 x 40 px -> 2 x 2" in out
    assert "tiles and the whole, each 32 x 32 px, 20 tokens (idefics3_8b pretrain_1 from step 20, idefics3_8b" in out
    assert re.search(r"Disk of a run: [\d.]+ MiB while it trains, of which [\d.]+ MiB stay: the weights of every", out)
    assert "Micro-batch: 2 x 512 tokens, bf16, with checkpointing; zero3 over 4 devices." in out
    for stage in ("pretrain_1", "pretrain_2", "pretrain_3", "sft"):
        tables = out.partition("Costs")[2]
        assert tables.count(f"idefics3_8b {stage} ") == 4, "costs, parameters, FLOPs, memory"
    assert "gathered" in out
    assert "self_attn.q_proj (" in out and ".layers.0-" in out, "module paths, layers together"


def test_the_home_is_the_one_that_is_named(tmp_path: Path) -> None:
    code, _, err = plan("--scale", "laptop", "--arms", "ar_perceiver_frozen", "--home", str(tmp_path))
    assert code == 0, err
    assert len(list((tmp_path / "cache" / "plans").glob("*.json"))) == 1


def test_a_size_that_is_none_is_refused() -> None:
    code, _, err = plan_idefics3("--image", "1456")
    assert code == 2 and "write WIDTHxHEIGHT" in err


def test_gpu_hours_and_what_does_not_fit_follow_the_gpu() -> None:
    arm = ("--scale", "paper", "--arms", "ar_perceiver_frozen")
    hours = {}
    for gpu in ("a100", "h100"):
        code, out, err = plan(*arm, "--gpu", gpu, "--mfu", "0.5")
        assert code == 0, err
        costs = rows(out.partition("Parameters by part")[0], "Costs")
        hours[gpu] = float(costs["ar_perceiver_frozen"][-1].replace(",", ""))
    assert hours["a100"] / hours["h100"] == pytest.approx(989 / 312, rel=0.03)
    assert "GPU-hours on H100 SXM at 50% of 989 T bf16 FLOPs/s" in " ".join(out.split())
    assert "told for bf16" not in out and "told for bf16" in " ".join(plan(*arm, "--precision", "fp32")[1].split())
    assert "more than the 74.5 GiB" in " ".join(plan(*arm, "--micro-batch", "256")[2].split())


def test_what_run_refuses_has_no_gpu_hours() -> None:
    arm = ("--scale", "paper", "--arms", "ar_perceiver_frozen")
    code, out, err = plan(*arm, "--shards", "2", "--sharding", "zero1")
    assert code == 0 and "`run` refuses what is planned here" in err and "nothing shares zero1" in err
    assert rows(out.partition("Parameters by part")[0], "Costs")["ar_perceiver_frozen"][-1] == "-"


def test_equal_models_and_stages_are_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlm_ablate.accounting import Planner, plan
    from vlm_ablate.models.vlm import build_vlm

    built: list[object] = []
    monkeypatch.setattr(plan, "build_vlm", lambda *a, **k: (built.append(a), build_vlm(*a, **k))[1])
    loaded = load_experiment(ROOT / "experiments/idefics2/t03_architecture.yaml", scale="laptop")
    arms = [loaded.arms[name].config for name in ("ar_perceiver_frozen", "ar_perceiver_lora", "ar_linear_frozen")]
    planner = Planner()
    plans = [planner.plan(config) for config in (*arms, *arms)]
    assert len(built) == 2, "two models, each for all of its stages"
    assert plans[:3] == plans[3:] and plans[0] != plans[1]


@pytest.fixture(scope="module")
def planner():
    """One for all files: what experiments share is planned once."""
    from vlm_ablate.accounting import Planner

    return Planner()


def plannings() -> Iterator[Any]:
    """Every file at every scale; what takes a minute of planning and finds what other files find is expensive."""
    whole = {"t03_architecture", "idefics2_8b", "idefics2_70b", "idefics3_8b", "idefics3_256m", "continued"}
    for file in experiment_files(ROOT / "experiments"):
        for scale in scale_files(ROOT / "experiments"):
            quick = scale == "laptop" or file.stem in whole
            yield pytest.param(file, scale, id=f"{file.stem}-{scale}", marks=() if quick else pytest.mark.expensive)


@pytest.mark.parametrize(("file", "scale"), plannings())
def test_every_experiment_plans_at_every_scale(file: Path, scale: str, planner) -> None:
    for arm in load_experiment(file, scale=scale).arms.values():
        plan = planner.plan(arm.config)
        assert plan.last.trainable_parameters > 0 and plan.last.memory.peak > 0 and plan.flops > 0


@pytest.mark.parametrize(
    ("printed", "count", "same"),
    [("7.6B", 7.64e9, True), ("7.6B", 7.66e9, False), ("740M", 743e6, True), ("740M", 746e6, False),
     ("10B", 9.91e9, True), ("10B", 10.6e9, False), ("5M", 4.74e6, True), ("5M", 4.4e6, False)],
)  # fmt: skip
def test_counts_agree_to_the_digits_that_are_printed(printed: str, count: float, same: bool) -> None:
    assert (abs(count - parse_count(printed)) <= rounding(printed)) is same


def test_pattern_that_matches_nothing_is_an_error_of_its_arm() -> None:
    setting = "stages.pretrain.lora.language_targets=[no_such_layer]"
    code, out, err = plan("--scale", "paper", "--arms", "ar_perceiver_lora", "--set", setting)
    assert code == 1
    assert "no_such_layer" in err and "ar_perceiver_lora" in err
    assert "stages.pretrain.vision: frozen -> lora" in out, "what can be shown is still shown"


def test_what_trains_nothing_has_a_size_and_no_costs() -> None:
    from rich.console import Console

    from vlm_ablate.accounting import GPUS, Planner
    from vlm_ablate.cli.plan_tables import PlanOptions, tables
    from vlm_ablate.sweeps.cost import Costs

    loaded = load_experiment(ROOT / "experiments/idefics2/t03_architecture.yaml", scale="laptop")
    arm = loaded.arms["ar_perceiver_frozen"]
    arm = replace(arm, config=arm.config.model_copy(update={"stages": {}}))
    console = Console(width=120)
    with console.capture() as captured:
        plans = {arm.name: Planner().plan(arm.config)}
        console.print(*tables(loaded, [arm], plans, PlanOptions(GPUS["h100"], 0.4)), sep="\n")
    assert "An image of" in captured.get() and "Costs" not in captured.get()
    assert Costs().cost(arm.config).peak_memory == 0


def test_material_that_runs_would_miss_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path))
    code, _, err = plan("--scale", "workstation", "--arms", "ar_perceiver_frozen")
    said = " ".join(err.split())
    assert code == 0 and "not fetched" in said and said.count("; the arms that need it are skipped (") == 1
    assert "run `vlm-ablate data fetch" in said and all(c in said for c in ("stamps", "clip_art", "maps"))
