"""``sage ingest`` of files in several languages: the collection gets the embedder that knows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from running_gateway import Running
from sage_process import Sage

pytestmark = pytest.mark.slow

TEXTS = {
    "commute.txt": "上班坐地铁比开车快，早高峰尤其如此。",
    "cat.txt": "猫在沙发上睡觉。",
    "lunch.txt": "公司食堂中午十二点开门。",
}


@pytest.fixture
def running(gateway: Callable[..., Running]) -> Running:
    return gateway()


def test_chinese_files_are_found_by_their_meaning(running: Running, run: Sage, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "docs" / name).write_text(text)
    done = run("ingest", "kb", "docs")
    assert done.returncode == 0, done.stderr
    assert "is new (embedder: local/multilingual-e5-small-q4" in done.stderr
    assert (
        "most documents of collection 'kb' are not in English, so 'local-multilingual' makes its vectors" in done.stderr
    )
    again = run("ingest", "kb", "docs", "--again", "--json")
    assert json.loads(again.stdout)["warnings"] == []
    shown = running.get("/collections/kb").json()
    assert (shown["embedder"], shown["options"]["embedder"]) == ("local/multilingual-e5-small-q4", "local-multilingual")
    results = running.post("/search", {"collection": "kb", "query": "上班通勤方式"}).json()["results"]
    assert results[0]["text"] == TEXTS["commute.txt"]
    assert results[-1]["text"] == TEXTS["cat.txt"]


def test_english_files_keep_the_cheaper_embedder(running: Running, run: Sage, tmp_path: Path) -> None:
    (tmp_path / "cat.md").write_text("The cat sleeps on the sofa, and the dog sleeps on the floor.")
    done = run("ingest", "kb", "cat.md")
    assert done.returncode == 0, done.stderr
    assert "not in English" not in done.stderr
    assert running.get("/collections/kb").json()["embedder"] == "local/minilm-l6-v2-int8x8"


def test_over_http_a_collection_of_both_ways_of_making_gets_it(running: Running) -> None:
    assert running.post("/collections", {"name": "made"}).json()["embedder"] == "local/minilm-l6-v2-int8x8"
    documents = {"documents": [{"text": text} for text in TEXTS.values()]}
    for name in ("made", "by-its-documents"):
        (warning,) = running.post(f"/collections/{name}/documents", documents).json()["warnings"]
        assert warning.startswith(f"most documents of collection '{name}' are not in English, so 'local-multilingual'")
        assert "warnings" not in running.post(f"/collections/{name}/documents", documents).json()
        assert running.get(f"/collections/{name}").json()["embedder"] == "local/multilingual-e5-small-q4"


def test_a_collection_without_an_embedder_gets_the_one_for_what_it_has(running: Running, run: Sage) -> None:
    assert running.post("/collections", {"name": "kb", "embedder": "none"}).status_code == 201
    documents = {"documents": [{"text": text} for text in TEXTS.values()]}
    assert running.post("/collections/kb/documents", documents).status_code == 200
    done = run("collections", "reembed", "kb", "auto")
    assert done.returncode == 0, done.stderr
    assert running.get("/collections/kb").json()["options"]["embedder"] == "local-multilingual"
    results = running.post("/search", {"collection": "kb", "query": "上班通勤方式"}).json()["results"]
    assert results[0]["text"] == TEXTS["commute.txt"]
