"""Tests of a real vLLM (the CPU build), which `make test-vllm` runs: without ``VLLM_PYTHON`` they are left out.

``VLLM_PYTHON`` is the Python of an environment that has vLLM. Everything else is made here: a tiny random model with
its tokenizer, a LoRA adapter for it, and a gateway that starts the servers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from project import SCRIPTED
from running_gateway import Running, run_gateway

from sage.middleware.settings.settings import Settings

HERE = Path(__file__).parent
ARGUMENTS = ["--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "8"]
ADAPTERS = ["--enable-lora", "--max-lora-rank", "8"]
VARIABLES = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "VLLM_PYTHON" not in os.environ and not config.option.collectonly:
        left = [item for item in items if item.path.is_relative_to(HERE)]
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


@pytest.fixture(scope="session")
def python() -> str:
    return str(Path(os.environ["VLLM_PYTHON"]).absolute())


@pytest.fixture(scope="session")
def files(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``tiny-llama``, its copy ``tiny-embedder`` and ``adapters/random-lora``."""
    directory = tmp_path_factory.mktemp("model")
    subprocess.run(
        [python, str(SCRIPTED / "tiny_llama.py"), str(directory)], check=True, env={**os.environ, **VARIABLES}
    )
    shutil.copytree(directory / "tiny-llama", directory / "tiny-embedder")
    return directory


@pytest.fixture(scope="session")
def llm(python: str, files: Path) -> Callable[..., dict[str, Any]]:
    """``llm(**model)``: the section of the configuration with the models ``tiny``, ``tales`` and ``embedder``."""

    def section(**model: Any) -> dict[str, Any]:
        provider = {
            "command": [python, "-m", "vllm.entrypoints.openai.api_server", "--model"],
            "environment": VARIABLES,
            "start_timeout": 300,
            "lora_dir": str(files / "adapters"),
        }
        tiny = {"provider": "vllm", "model": str(files / "tiny-llama")}
        embedder = {"provider": "vllm", "model": str(files / "tiny-embedder")}
        pooling = {"args": [*ARGUMENTS, "--runner", "pooling"]}
        models = {
            "tiny": {"deployments": [{**tiny, "engine": {"args": [*ARGUMENTS, *ADAPTERS]}}], **model},
            "tales": {"deployments": [{**tiny, "lora": "random-lora"}]},
            "embedder": {"deployments": [{**embedder, "engine": pooling}]},
            "too-long": {
                "deployments": [
                    {**tiny, "provider": "other", "engine": {"args": [*ARGUMENTS, "--max-model-len", "9999"]}}
                ]
            },
        }
        return {"providers": {"vllm": provider, "other": {"kind": "vllm", **provider}}, "models": models}

    return section


@pytest.fixture(scope="module")
def running(llm: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One gateway for all: a server takes half a minute to start."""
    data = tmp_path_factory.mktemp("data")
    api = {"port": 0, "access_log": False}
    with run_gateway(Settings.model_validate({"data_dir": data, "api": api, "llm": llm()})) as gateway:
        yield gateway
