"""Whoever adds a part writes one file: in the part's room, or in a package of their own that is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

import vlm_ablate
from vlm_ablate.registry import REGISTRIES, Registry

ROOT = Path(__file__).parents[1]
PACKAGE = Path(vlm_ablate.__file__).parent

CONNECTOR = '''
from typing import Literal
from torch import nn
from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.models.connectors.base import Connector
from vlm_ablate.registry import connectors


class NewConfig(ComponentConfig):
    name: Literal["new_connector"] = "new_connector"


@connectors.register("new_connector", NewConfig)
class New(Connector):
    """A connector that is new."""

    def __init__(self, config, **sizes):
        super().__init__(config, **sizes)
        self.project = nn.Linear(self.vision_width, self.hidden)

    def visual_tokens(self, grid):
        return 1

    def forward(self, features, mask, grid):
        return self.project(features.mean(1, keepdim=True))
'''

VISION = '''
from typing import Literal
import torch
from torch import nn
from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.models.vision.base import VisionEncoder, VisionFeatures
from vlm_ablate.registry import vision_encoders


class NewConfig(ComponentConfig):
    name: Literal["new_vision"] = "new_vision"


@vision_encoders.register("new_vision", NewConfig)
class New(VisionEncoder):
    """A vision encoder that is new."""

    width = 24

    def __init__(self, config, *, device="cpu", image_size=None, load_weights=True):
        super().__init__(config)
        self.backbone = nn.Conv2d(3, self.width, 16, 16, device=device if load_weights else "meta")

    def grid(self, height, width):
        return height // 16, width // 16

    def forward(self, pixel_values, pixel_mask):
        found = self.backbone(pixel_values)
        return VisionFeatures(found.flatten(2).transpose(1, 2), None, tuple(found.shape[2:]))
'''

LANGUAGE = '''
from typing import Literal
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.models.language.base import LanguageModel
from vlm_ablate.models.language.hf import read_tokenizer
from vlm_ablate.models.pretrained import stand_in
from vlm_ablate.registry import language_models


class NewConfig(ComponentConfig):
    name: Literal["new_language"] = "new_language"


@language_models.register("new_language", NewConfig)
class New(LanguageModel):
    """A language model that is new."""

    def __init__(self, config, *, load_weights=True, dtype=torch.float32):
        super().__init__(config)
        self.tokenizer = read_tokenizer(stand_in("llama-nano-good", file="config.json"), needed=True)
        shape = LlamaConfig(vocab_size=len(self.tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                            num_attention_heads=2)
        with torch.device("cpu" if load_weights else "meta"):
            self.model = LlamaForCausalLM(shape).to(dtype)
'''

ARCHITECTURE = '''
from typing import Literal
from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.models.architectures.base import Architecture
from vlm_ablate.registry import architectures


class NewConfig(ComponentConfig):
    name: Literal["new_architecture"] = "new_architecture"


@architectures.register("new_architecture", NewConfig)
class New(Architecture):
    """An architecture that is new."""

    def connector_width(self, language, vision_width):
        return language.hidden

    def placeholders(self, visual_tokens):
        return visual_tokens

    def embed(self, embeds, reading):
        if reading.visual is None:
            return embeds
        return embeds.masked_scatter(reading.is_image[..., None], reading.visual.states.to(embeds.dtype))
'''

SOURCE = '''
from typing import Literal
from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.data.sample import Sample, Text
from vlm_ablate.data.sources.base import Source
from vlm_ablate.registry import sources


class NewConfig(ComponentConfig):
    name: Literal["new_source"] = "new_source"
    rows: int = 5


@sources.register("new_source", NewConfig)
class New(Source):
    """A source that is new."""

    fingerprint = "new"

    def __len__(self):
        return self.config.rows

    def __getitem__(self, index):
        return Sample((Text(f"row {index}", True),))
'''

BENCHMARK = '''
from typing import Literal
from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.evaluation.benchmarks.base import Benchmark, BenchmarkItem
from vlm_ablate.registry import benchmarks


class NewConfig(ComponentConfig):
    name: Literal["new_benchmark"] = "new_benchmark"


@benchmarks.register("new_benchmark", NewConfig)
class New(Benchmark):
    """A benchmark that is new."""

    metric_name = "exact_match"

    def items(self, split):
        return [BenchmarkItem(str(i), (), f"{i} + 1?", (str(i + 1),), str(i + 1)) for i in range(9)]
'''

LAUNCHER = '''
from typing import Literal
from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.launch.base import RunFuture
from vlm_ablate.registry import launchers
from vlm_ablate.runs.outcome import failed


class NewConfig(ComponentConfig, decides="execution"):
    name: Literal["new_launcher"] = "new_launcher"


@launchers.register("new_launcher", NewConfig)
class New:
    """A launcher that is new."""

    def __init__(self, config):
        self.config = config

    def open(self, context):
        self.context = context

    def submit(self, spec, placement):
        future = RunFuture(spec, lambda future: None)
        future.set_running_or_notify_cancel()
        future.set_result(failed(spec, "the new launcher runs nothing"))
        return future

    def close(self, grace_seconds=0.0):
        return 0
'''

PARTS = {
    "new_vision": ("models/vision", VISION),
    "new_language": ("models/language", LANGUAGE),
    "new_connector": ("models/connectors", CONNECTOR),
    "new_architecture": ("models/architectures", ARCHITECTURE),
    "new_source": ("data/sources", SOURCE),
    "new_benchmark": ("evaluation/benchmarks", BENCHMARK),
    "new_launcher": ("launch", LAUNCHER),
}
"""Name -> the room and the one file."""
ARMS = """
  none: {}
  vision: {set: {model.vision: new_vision}}
  language: {set: {model.language: new_language}}
  connector: {set: {model.connector: new_connector}}
  architecture: {set: {model.architecture: new_architecture}}
  source: {set: {data.mixture: {replace: true, new: {source: new_source}}}}
  benchmark: {set: {evaluation.benchmarks: {replace: true, new: {benchmark: new_benchmark, split: tune}}}}
"""


def added_to_rooms(folder: Path) -> Path:
    """A copy of the package with one more file in each room, and nothing else changed."""
    copy = folder / "vlm_ablate"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    (copy / "assets").symlink_to(PACKAGE / "assets")
    for name, (room, text) in PARTS.items():
        (copy / room / f"{name}.py").write_text(text)
    return folder


def installed(folder: Path) -> Path:
    """A module for each part, as `pip install` leaves them, declared in the entry-point group."""
    (folder / "new_parts-1.dist-info").mkdir()
    (folder / "new_parts-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: new-parts\nVersion: 1\n")
    points = ["[vlm_ablate.plugins]", *(f"{name} = a_{name}" for name in PARTS)]
    (folder / "new_parts-1.dist-info" / "entry_points.txt").write_text("\n".join(points))
    for name, (_, text) in PARTS.items():
        (folder / f"a_{name}.py").write_text(text)
    return folder


SCRIPT = """
import json, sys
from typer.testing import CliRunner
from vlm_ablate.cli.app import app

said = {}
for command in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, command)
    said[command[0]] = [result.exit_code, result.stdout, result.stderr]
print("SAID", json.dumps(said))
"""


def in_process(place: Path, script: str, *arguments: str) -> str:
    """What a process prints that finds packages in `place` first."""
    path = os.pathsep.join([str(place), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "VLM_ABLATE_HOME": str(place / "home")}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module", params=[added_to_rooms, installed], ids=["in its room", "installed"])
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Exit code, output and messages of some commands, by their first word."""
    place = request.param(tmp_path_factory.mktemp("parts"))
    base, scale = ROOT / "experiments/idefics2/_base.yaml", str(ROOT / "experiments/scales/laptop.yaml")
    (place / "new.yaml").write_text(f"base: {base}\nname: mine/new\ntitle: New parts\nfactor: [model]\narms:{ARMS}")
    one = ["--arms", "benchmark", "--seeds", "0", "--launcher", "new_launcher"]
    plan = ["plan", "new.yaml", "--scale", scale, "--set", "evaluation.ceiling=false"]  # its pictures have no words
    commands = [["list"], plan, ["run", "new.yaml", "--scale", scale, *one, *plan[-2:]]]
    return json.loads(in_process(place, SCRIPT, json.dumps(commands)).rpartition("SAID ")[2])


def test_every_registry_has_its_new_part() -> None:
    assert len(PARTS) == len(REGISTRIES)


@pytest.mark.parametrize("name", PARTS)
def test_a_new_part_is_listed_with_what_it_says_of_itself(name: str, said: dict[str, tuple[int, str, str]]) -> None:
    code, output, _ = said["list"]
    (line,) = [line for line in output.splitlines() if line.startswith(f"{name} ")]
    assert code == 0 and "that is new." in line


@pytest.mark.parametrize("name", [name for name in PARTS if name != "new_launcher"])
def test_an_experiment_is_planned_with_a_new_part(name: str, said: dict[str, tuple[int, str, str]]) -> None:
    code, output, messages = said["plan"]
    assert code == 0, messages
    assert name in output


def test_runs_are_given_to_a_new_launcher(said: dict[str, tuple[int, str, str]]) -> None:
    code, output, messages = said["run"]
    assert code == 1 and "1 failed" in output and "the new launcher runs nothing" in messages


def test_a_part_in_a_room_costs_nothing_until_an_experiment_names_it(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom vlm_ablate.cli.app import app\n"
        "assert CliRunner().invoke(app, sys.argv[1:]).exit_code == 0\nprint('torch' in sys.modules)"
    )
    experiment = str(ROOT / "experiments/idefics2/t03_architecture.yaml")
    scale = str(ROOT / "experiments/scales/laptop.yaml")
    assert in_process(added_to_rooms(tmp_path), script, "validate", experiment, "--scale", scale).split() == ["False"]


def test_a_name_is_given_once_whether_its_file_was_imported_or_not() -> None:
    room: Registry[object] = Registry("part")
    room.expect("one", "a.file")
    with pytest.raises(ValueError, match=r"'one' is registered twice: a\.file and another\.file"):
        room.expect("one", "another.file")
    with pytest.raises(ValueError, match=r"'one' is registered twice: a\.file and another\.file:One"):
        room.declare("one", BaseModel, "another.file:One")
    room.declare("one", BaseModel, "a.file:One")
    assert room.names() == ["one"]
