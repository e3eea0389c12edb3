"""Sharded collections on disk: deleted, made anew, damaged, and left unfinished by a process that was killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sage.errors import InvalidRequest, NotFound, Unavailable
from sage.middleware.retrieval.embedding import builtin
from sage.middleware.retrieval.embedding.registry import ModelsByName
from sage.middleware.settings.retrieval import Retrieval
from sage.service.vdb.sharded.collections import TenantCollections
from sage.service.vdb.sharded.hosting import RunningShards, ShardHosting

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

Open = Callable[..., TenantCollections]


class Killed(BaseException):
    """Ends a call where a killed process would."""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    with ExitStack() as stack:

        def open_collections(embedder: str = "none", **limits: int) -> TenantCollections:
            settings = Retrieval.model_validate({"shards": 2, "defaults": {"embedder": embedder}, "limits": limits})
            collections = TenantCollections(tmp_path, settings, ModelsByName(None, None), ShardHosting())
            stack.callback(collections.close)
            return collections

        yield open_collections


def make_old(directory: Path) -> None:
    for folder, _, names in os.walk(directory):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            os.utime(path, (0, 0))


def test_one_that_another_process_made_anew_is_not_taken_for_the_old_one(opened: Open) -> None:
    first, second = opened(), opened()
    first.create("t", "c").add([{"id": "old", "text": "amber"}])
    for n in range(3):  # a file system soon uses the inode of a deleted file again
        second.delete("t", "c")
        second.create("t", "c").add([{"id": f"new{n}", "text": "birch"}])
        assert first.open("t", "c").get(f"new{n}").text == "birch"
        first.open("t", "c").add([{"id": "mine", "text": "cedar"}])
        assert second.open("t", "c").count() == 2


@pytest.mark.parametrize("during", ["create", "delete"])
def test_what_a_killed_process_left_is_removed_after_a_day(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    collections = opened()
    collections.create("t", "other").add([{"id": "a", "text": "amber"}])
    with monkeypatch.context() as patch:
        if during == "delete":
            collections.create("t", "c")
            patch.setattr(RunningShards, "erase", killed)
            patch.setattr("sage.service.vdb.sharded.collections.shutil.rmtree", killed)
            with pytest.raises(Killed):
                collections.delete("t", "c")
        else:
            patch.setattr(RunningShards, "__init__", killed)
            patch.setattr("sage.service.vdb.sharded.collections.shutil.rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                collections.create("t", "c")
            (unfinished,) = (tmp_path / "t").glob(".new-*")
            key = unfinished.joinpath("shards.json").read_text().split('"key":"')[1].split('"')[0]
            (tmp_path / "t" / key / "0").mkdir(parents=True)
    collections.create("t", "soon")
    assert len(list((tmp_path / "t").glob(".shards-*"))) == 3
    assert collections.names("t") == ["other", "soon"]
    make_old(tmp_path)
    collections.create("t", "later")
    assert len(list((tmp_path / "t").glob(".shards-*"))) == 3  # other, soon, later
    assert not [*(tmp_path / "t").glob(".new-*"), *(tmp_path / "t").glob(".deleted-*")]
    assert collections.open("t", "other").get("a").text == "amber"


def test_a_deleted_or_refused_one_leaves_no_file(opened: Open, tmp_path: Path) -> None:
    collections = opened()
    collections.create("t", "c")
    collections.delete("t", "c")
    with pytest.raises(InvalidRequest):
        collections.create_with("t", "c", [{"id": "a", "text": 1}])
    with pytest.raises(NotFound):
        collections.delete("t", "c")
    assert not list((tmp_path / "t").iterdir())


def test_a_damaged_one_is_named_and_keeps_its_files(opened: Open, tmp_path: Path) -> None:
    collections = opened()
    collections.create("t", "c")
    collections.close()
    (tmp_path / "t" / "c" / "shards.json").write_text("{")
    collections = opened()
    for call in (collections.open, collections.outline, collections.delete):
        with pytest.raises(Unavailable, match=r"shards\.json of collection 'c' cannot be read"):
            call("t", "c")
    assert list((tmp_path / "t").glob(".shards-*"))


def test_a_request_may_spread_a_collection_over_so_many_shards(opened: Open) -> None:
    collections = opened(max_shards=1)
    with pytest.raises(InvalidRequest, match=r"0 \(one store\) to 1 \(retrieval\.limits\.max_shards\)"):
        collections.create("t", "c", shards=2)
    collections.create("t", "c")
    assert collections.outline("t", "c")["shards"] == 2  # the configuration's own number


@pytest.mark.slow
def test_an_embedder_that_does_not_know_the_documents_language_is_told(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtin, "KINDS", builtin.KINDS[:1])
    collections = opened("auto")
    (warning,) = collections.create_with("t", "zh", [{"text": "猫在沙发上睡觉。"}]).warnings
    assert "not in English" in warning
    assert "embed-multilingual" in warning
    assert collections.create_with("t", "en", [{"text": "The cat sleeps on the sofa."}]).warnings == []
    assert collections.open("t", "zh").options.embedder == "local"
