"""CONTRIBUTING.md shows what is so: the row for Mistral can be read, the route is real, the service runs."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import orjson
import pytest
from project import ROOT
from sage_process import environment

from sage.middleware.providers.base import Endpoint, ModelCall, Operation, UpstreamModel
from sage.middleware.providers.presets import PresetProvider
from sage.middleware.settings.kinds import KINDS
from sage.middleware.settings.providers import RemoteProvider
from sage.middleware.settings.vendors.kind import Preset

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def block(words: str) -> str:
    [found] = [code for code in BLOCKS if words in code]
    return found


def acme() -> Preset:
    return eval(f"({textwrap.dedent(block('ACME_API_KEY'))})", {"Preset": Preset})[0]


def test_the_example_vendor_is_a_row_that_is_not_there_yet() -> None:
    row = acme()
    assert (row.name, row.default_url) == ("acme", "https://api.acme.example/v1")
    assert row.name not in KINDS, "it is in the product now: show another vendor"


def test_a_vendor_that_always_streams_usage_is_not_asked_for_it() -> None:
    row = acme()
    settings = RemoteProvider(kind="openai", api_key="sk-acme", base_url="http://127.0.0.1:1/v1")
    provider = PresetProvider("acme", settings, row)
    body = {"model": "x", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    call = ModelCall(Operation.CHAT, body, "x", stream=True, wants_usage=True)
    request = provider.encode(call, UpstreamModel("acme-small"), Endpoint("http://127.0.0.1:1/v1"))
    assert orjson.loads(request.body) == {"model": "acme-small", "messages": [], "stream": True}


def test_the_example_route_stands_in_the_code() -> None:
    router, route = block("services_list").split("\n\n\n")
    code = (ROOT / "sage/middleware/routers/services.py").read_text(encoding="utf-8")
    assert router in code
    assert route.rstrip() in code


@pytest.mark.slow
def test_the_example_service_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block("class Counter")],
        env={**environment(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:sage|tests|docs|benchmarks)/[\w./]+)`", TEXT))))
def test_every_file_that_it_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()
