"""Directories of tenants and collections: distinct on every disk, and found as older releases named them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running_gateway import Running

from sage.middleware.retrieval.directories import CollectionDirectories, encoded
from sage.middleware.retrieval.vector_store import VectorStore

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

KEYWORDS = {"defaults": {"embedder": "none"}}


def as_a_disk_sees_it(name: str) -> str:
    """The name on a disk that folds case and normalises, as macOS and Windows have them."""
    return unicodedata.normalize("NFD", name).casefold()


@given(st.lists(st.text(min_size=1), min_size=2, unique=True))
def test_names_differ_on_every_disk(names: list[str]) -> None:
    try:
        [name.encode() for name in names]
    except UnicodeEncodeError:
        return
    assert len({as_a_disk_sees_it(encoded(name)) for name in names}) == len(names)


def test_names_that_one_disk_or_another_would_mix() -> None:
    names = ["A", "a", "%41", "%61", "é", "e\u0301", "É", "ß", "ss", "SS", "K", "\u212a", "k", "a.", "a", "con", "CON"]
    for one, other in combinations(sorted(set(names)), 2):
        assert as_a_disk_sees_it(encoded(one)) != as_a_disk_sees_it(encoded(other)), (one, other)
    assert encoded("default") == "default"
    assert encoded("Notes.v2") == "%4Eotes%2Ev2"


@pytest.mark.parametrize("tenants", [("A", "a"), ("team.Red", "team.red")])
def test_tenants_and_collections_that_differ_by_case_have_their_own(
    gateway: Callable[..., Running], tenants: tuple[str, str]
) -> None:
    running = gateway(retrieval=KEYWORDS)
    keys = {tenant: running.new_key(tenant=tenant) for tenant in tenants}
    for tenant, key in keys.items():
        for name in ("Notes", "notes"):
            document = {"id": "1", "text": f"{tenant} {name}"}
            path = f"/collections/{name}/documents"
            assert running.post(path, {"documents": [document]}, key=key).status_code == 200
    for tenant, key in keys.items():
        listed = running.get("/collections", key=key).json()["collections"]
        assert [collection["name"] for collection in listed] == ["Notes", "notes"]
        for name in ("Notes", "notes"):
            assert running.get(f"/collections/{name}/documents/1", key=key).json()["text"] == f"{tenant} {name}"
    root = running.settings.data_dir / "collections"
    folded = [as_a_disk_sees_it(str(path.relative_to(root))) for path in root.glob("*/*")]
    assert len(set(folded)) == len(folded) == 4


def test_directories_of_older_releases_are_found(gateway: Callable[..., Running], tmp_path: Path) -> None:
    old = tmp_path / "data1" / "collections" / "Team-A" / "Notes%2Ev2"
    old.parent.mkdir(mode=0o700, parents=True)
    with VectorStore(old, embedder=None) as store:
        store.add_documents(["an old document"], ids=["1"])
    running = gateway(retrieval=KEYWORDS)
    key = running.new_key(tenant="Team-A")
    assert [c["name"] for c in running.get("/collections", key=key).json()["collections"]] == ["Notes.v2"]
    assert running.get("/collections/Notes.v2/documents/1", key=key).json()["text"] == "an old document"
    assert running.post("/collections", {"name": "Notes.v2"}, key=key).status_code == 409
    assert running.post("/collections", {"name": "More"}, key=key).status_code == 201
    assert sorted(path.name for path in old.parent.iterdir()) == ["%4Dore", "Notes%2Ev2"]
    # Another tenant never gets that directory, whatever the disk makes of its name.
    other = running.new_key(tenant="team-a")
    assert running.get("/collections", key=other).json()["collections"] == []
    assert running.post("/collections", {"name": "notes.v2"}, key=other).status_code == 201
    assert {path.name.lower() for path in old.parent.parent.iterdir()} == {"team-a", "%74%65%61%6d%2d%61"}
    assert running.request("DELETE", "/collections/Notes.v2", key=key).status_code == 204
    assert running.get("/collections/Notes.v2", key=key).status_code == 404


def test_a_directory_that_another_process_made_anew_is_found(tmp_path: Path) -> None:
    directories = CollectionDirectories(tmp_path)
    old = tmp_path / "t" / "Notes"
    old.mkdir(parents=True)
    assert directories.of("t", "Notes") == old
    old.rename(tmp_path / "t" / "%4Eotes")
    assert directories.of("t", "Notes") == tmp_path / "t" / "%4Eotes"
