"""One gateway with its own worker for the tests of vector stores of a file."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from running_gateway import run_gateway
from stores_client import Stores

from sage.middleware.settings.settings import Settings


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    data = {
        "data_dir": tmp_path_factory.mktemp("stores"),
        "api": {"port": 0, "access_log": False},
        "retrieval": {"defaults": {"embedder": "none"}, "limits": {"max_store_files": 50}},
    }
    with (
        run_gateway(Settings.model_validate(data)) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client,
    ):
        yield Stores(running, client)
