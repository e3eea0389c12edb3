"""Vector stores with OpenAI's own client: files are read by a job, searched, filtered, changed and taken out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from ingest_files import write_bomb, write_pdf
from stores_client import Stores

pytestmark = pytest.mark.slow

SHIPPING = b"# Shipping\n\nParcels of grapes leave on Tuesdays."
WARRANTY = b"# Warranty\n\nThe warranty of a press lasts two years."


def test_a_store_reads_files_and_answers_with_the_chunks_of_each(stores: Stores) -> None:
    client = stores.client
    made = client.vector_stores.create(
        name="Support FAQ", metadata={"team": "help"}, file_ids=[stores.upload("shipping.md", SHIPPING)]
    )
    assert made.id.startswith("vs_support-faq-")
    assert (made.name, made.metadata, made.file_counts.total) == ("Support FAQ", {"team": "help"}, 1)
    attached = client.vector_stores.files.upload_and_poll(
        vector_store_id=made.id, file=("warranty.md", WARRANTY), attributes={"lang": "en", "year": 2024, "title": "W"}
    )
    assert (attached.status, attached.last_error) == ("completed", None)
    assert attached.attributes == {"lang": "en", "year": 2024, "title": "W"}
    assert attached.usage_bytes > 30
    done = stores.done(made.id)
    assert (done.file_counts.completed, done.file_counts.failed) == (2, 0)
    assert done.usage_bytes > attached.usage_bytes
    page = client.vector_stores.search(made.id, query="How long does the warranty last?")
    (best, *_) = page.data
    assert (best.file_id, best.filename, best.attributes) == (attached.id, "warranty.md", attached.attributes)
    assert "two years" in best.content[0].text
    assert 0 < best.score <= 1
    content = client.vector_stores.files.content(attached.id, vector_store_id=made.id)
    assert "".join(part.text or "" for part in content.data) == "Warranty\n\nThe warranty of a press lasts two years."


def found(stores: Stores, store: str, query: Any = "warranty grapes", **fields: Any) -> set[str]:
    return {each.filename for each in stores.client.vector_stores.search(store, query=query, **fields).data}


@pytest.fixture(scope="module")
def filtered(stores: Stores) -> str:
    """A store of two files, whose attributes also have names that the ingest uses itself."""
    client = stores.client
    store = client.vector_stores.create(name="Filters").id
    files: Any = [
        {"file_id": stores.upload("a.md", SHIPPING), "attributes": {"lang": "en", "year": 2020, "source": "web"}},
        {"file_id": stores.upload("b.md", WARRANTY), "attributes": {"lang": "de", "year": 2024, "source": "mail"}},
    ]
    batch = client.vector_stores.file_batches.create_and_poll(store, files=files)
    assert (batch.status, batch.file_counts.completed) == ("completed", 2)
    return store


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"type": "eq", "key": "lang", "value": "en"}, {"a.md"}),
        ({"type": "ne", "key": "lang", "value": "en"}, {"b.md"}),
        ({"type": "gt", "key": "year", "value": 2020}, {"b.md"}),
        ({"type": "gte", "key": "year", "value": 2020}, {"a.md", "b.md"}),
        ({"type": "lt", "key": "year", "value": 2024}, {"a.md"}),
        ({"type": "lte", "key": "year", "value": 2019}, set()),
        ({"type": "in", "key": "lang", "value": ["de", "fr"]}, {"b.md"}),
        ({"type": "nin", "key": "lang", "value": ["de", "fr"]}, {"a.md"}),
        ({"type": "eq", "key": "source", "value": "mail"}, {"b.md"}),
        ({"type": "ne", "key": "source", "value": "mail"}, {"a.md"}),
        (
            {
                "type": "or",
                "filters": [
                    {"type": "eq", "key": "year", "value": 2020},
                    {
                        "type": "and",
                        "filters": [
                            {"type": "eq", "key": "lang", "value": "de"},
                            {"type": "gt", "key": "year", "value": 2024},
                        ],
                    },
                ],
            },
            {"a.md"},
        ),
    ],
)
def test_filters(stores: Stores, filtered: str, filters: Any, names: set[str]) -> None:
    assert found(stores, filtered, filters=filters) == names


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"filters": {"type": "like", "key": "lang", "value": "e"}}, "filters.type"),
        ({"filters": {"type": "in", "key": "lang", "value": "e"}}, "filters.value"),
        ({"filters": {"type": "and", "filters": [{"type": "eq", "value": "e"}]}}, "filters.filters[0].key"),
        ({"filters": {"type": "eq", "key": "$or", "value": "e"}}, "filters.key"),
        ({"max_num_results": 51}, "max_num_results"),
        ({"ranking_options": {"score_threshold": 2}}, "ranking_options.score_threshold"),
        ({"ranking_options": {"ranker": "no-such-model"}}, None),
    ],
)
def test_a_wrong_search_is_named(stores: Stores, filtered: str, fields: Any, param: str | None) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        stores.client.vector_stores.search(filtered, query="grapes", **fields)
    assert param is None or refused.value.param == param


def test_several_questions_are_one_list_and_a_threshold_leaves_out(stores: Stores, filtered: str) -> None:
    search = stores.client.vector_stores.search
    both = search(filtered, query=["grapes", "warranty"])
    assert sorted(each.filename for each in both.data) == ["a.md", "b.md"]
    assert [each.filename for each in search(filtered, query=["grapes", "warranty"], max_num_results=1).data] != []
    strict: Any = {"score_threshold": 0.9}
    assert [each.filename for each in search(filtered, query="grapes", ranking_options=strict).data] == ["a.md"]


def test_attributes_change_in_the_store_and_in_its_collection(stores: Stores) -> None:
    client = stores.client
    store = client.vector_stores.create(name="Changes").id
    file = client.vector_stores.files.create_and_poll(
        stores.upload("a.md", SHIPPING), vector_store_id=store, attributes={"old": 1, "both": "x"}
    )
    changed = client.vector_stores.files.update(file.id, vector_store_id=store, attributes={"both": "y", "new": True})
    assert changed.attributes == {"both": "y", "new": True}
    collection = store.removeprefix("vs_")
    (document,) = stores.running.get(f"/collections/{collection}/documents").json()["documents"]
    shown = {name: document["metadata"].get(name) for name in ("old", "both", "new", "file_id")}
    assert shown == {"old": None, "both": "y", "new": True, "file_id": file.id}
    filters: Any = {"type": "eq", "key": "both", "value": "y"}
    assert found(stores, store, "grapes", filters=filters) == {"a.md"}
    assert client.vector_stores.files.retrieve(file.id, vector_store_id=store).attributes == changed.attributes
    client.vector_stores.files.create_and_poll(file.id, vector_store_id=store, attributes={"old": 1, "both": "x"})
    assert found(stores, store, "grapes", filters=filters) == set()
    filters["value"] = "x"
    assert found(stores, store, "grapes", filters=filters) == {"a.md"}


def test_a_file_that_cannot_be_read_says_why_and_leaves_nothing(stores: Stores, tmp_path: Path) -> None:
    client = stores.client
    bomb, pdf = tmp_path / "bomb.pdf", tmp_path / "whole.pdf"
    write_bomb(bomb, 80 * 2**20)
    write_pdf(pdf, ["A page about cellars."])
    named = {
        "tool.exe": b"MZ\x90\x00\x03\x00\x00\x00\x04\x00\x00\x00\xff\xff" + bytes(200),
        "bomb.pdf": bomb.read_bytes(),
        "cut.pdf": pdf.read_bytes()[:200],
        "empty.txt": b"  \n",
        "whole.pdf": pdf.read_bytes(),
        "lines.jsonl": b'{"text": "first of two", "id": "x"}\n{"text": "second of two", "id": "x"}\n',
    }
    ids = {stores.upload(name, content): name for name, content in named.items()}
    store = client.vector_stores.create(name="Hostile").id
    batch = client.vector_stores.file_batches.create_and_poll(store, file_ids=list(ids))
    assert (batch.file_counts.completed, batch.file_counts.failed) == (2, 4)
    files = {ids[each.id]: each for each in client.vector_stores.files.list(store, limit=50)}
    codes = {name: each.last_error.code for name, each in files.items() if each.last_error is not None}
    assert codes == {
        "tool.exe": "unsupported_file",
        "bomb.pdf": "invalid_file",
        "cut.pdf": "invalid_file",
        "empty.txt": "invalid_file",
    }
    listed = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store, filter="failed")
    assert {ids[each.id] for each in listed} == set(codes)
    documents = stores.running.get(f"/collections/{store.removeprefix('vs_')}/documents").json()["documents"]
    assert {ids[each["metadata"]["file_id"]] for each in documents} == {"whole.pdf", "lines.jsonl"}


def test_files_are_cut_as_they_are_told(stores: Stores) -> None:
    client = stores.client
    text = "\n\n".join(f"Barrel {number} holds wine of the year {1900 + number}." for number in range(100)).encode()
    store = client.vector_stores.create().id
    counts = []
    whole = {"type": "static", "static": {"max_chunk_size_tokens": 1000, "chunk_overlap_tokens": 0}}
    for strategy in ({"type": "auto"}, whole):
        file_id = stores.upload("barrels.txt", text)
        file = client.vector_stores.files.create_and_poll(
            file_id,
            vector_store_id=store,
            chunking_strategy=strategy,  # type: ignore[arg-type]
        )
        counts.append(len(client.vector_stores.files.content(file_id, vector_store_id=store).data))
    assert file.chunking_strategy is not None
    assert file.chunking_strategy.to_dict() == whole
    assert counts[0] > 3 * counts[1]
    wrong: Any = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 51}}
    with pytest.raises(openai.BadRequestError):
        client.vector_stores.files.create(store, file_id=file_id, chunking_strategy=wrong)


def test_a_file_goes_from_the_store_and_a_deleted_one_from_all(stores: Stores) -> None:
    client = stores.client
    first, second = stores.upload("a.md", SHIPPING), stores.upload("b.md", WARRANTY)
    store = client.vector_stores.create(file_ids=[first, second]).id
    stores.done(store)
    assert client.vector_stores.files.delete(first, vector_store_id=store).deleted
    assert found(stores, store) == {"b.md"}
    assert client.files.retrieve(first).id == first
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.files.retrieve(first, vector_store_id=store)
    client.files.delete(second)
    assert found(stores, store) == set()
    assert client.vector_stores.retrieve(store).file_counts.total == 0


def test_pages_of_files_and_of_stores(stores: Stores) -> None:
    client = stores.client
    ids = [stores.upload(f"{number}.txt", f"text {number}".encode()) for number in range(5)]
    store = client.vector_stores.create(name="Pages", file_ids=ids).id
    stores.done(store)
    listing = client.vector_stores.files.list
    assert [each.id for each in listing(store, limit=2)] == ids[::-1]
    assert [each.id for each in listing(store, order="asc", limit=2)] == ids
    assert [each.id for each in listing(store, order="asc", limit=2, before=ids[4]).data] == ids[2:4]
    assert [each.id for each in listing(store, order="asc", after=ids[0], before=ids[3]).data] == ids[1:3]
    assert not listing(store, filter="failed").data
    with pytest.raises(openai.BadRequestError) as refused:
        listing(store, after="file-none")
    assert refused.value.param == "after"
    everything = [each.id for each in client.vector_stores.list(limit=2)]
    assert everything[0] == store
    assert len(everything) == len(set(everything))
    assert [each.id for each in client.vector_stores.list(limit=100, order="asc")] == everything[::-1]


def test_any_collection_is_a_store_and_both_sides_agree(stores: Stores) -> None:
    client, running = stores.client, stores.running
    documents = [{"id": "1", "text": "The cellar is cold.", "metadata": {"lang": "en", "source": "wiki"}}]
    running.post("/collections/notes/documents", {"documents": documents})
    store = client.vector_stores.retrieve("vs_notes")
    assert (store.name, store.file_counts.total, store.status) == ("notes", 0, "completed")
    (result,) = client.vector_stores.search("vs_notes", query="cellar").data
    assert (result.file_id, result.filename, result.attributes) == ("wiki", "wiki", {"lang": "en"})
    filters: Any = {"type": "eq", "key": "source", "value": "wiki"}
    assert len(client.vector_stores.search("vs_notes", query="cellar", filters=filters).data) == 1
    client.vector_stores.update("vs_notes", name="My notes", metadata={"a": "b"})
    client.vector_stores.files.create_and_poll(stores.upload("a.md", SHIPPING), vector_store_id="vs_notes")
    assert running.get("/collections/notes").json()["documents"] == 2
    assert running.request("DELETE", "/collections/notes").status_code == 204
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve("vs_notes")
    running.post("/collections", {"name": "notes"})  # another one
    again = client.vector_stores.retrieve("vs_notes")
    assert (again.name, again.metadata, again.file_counts.total) == ("notes", {}, 0)
    assert client.vector_stores.delete("vs_notes").deleted
    assert running.get("/collections/notes").status_code == 404


def test_tenants_never_meet(stores: Stores) -> None:
    client = stores.client
    file = stores.upload("a.md", SHIPPING)
    store = client.vector_stores.create(name="Ours", file_ids=[file]).id
    other = stores.as_other(tenant="elsewhere")
    assert other.vector_stores.list().data == []
    for call in (
        lambda: other.vector_stores.retrieve(store),
        lambda: other.vector_stores.search(store, query="grapes"),
        lambda: other.vector_stores.delete(store),
        lambda: other.vector_stores.files.list(store),
        lambda: other.vector_stores.files.create(store, file_id=file),
        lambda: other.vector_stores.create(file_ids=[file]),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    assert other.vector_stores.list().data == []
    assert stores.done(store).file_counts.completed == 1


def test_scopes_hold(stores: Stores) -> None:
    reader = stores.as_other(scopes=["search"])
    store = stores.client.vector_stores.create(name="Read only").id
    assert reader.vector_stores.retrieve(store).id == store
    assert reader.vector_stores.search(store, query="x").data == []
    with pytest.raises(openai.PermissionDeniedError):
        reader.vector_stores.delete(store)
    writer = stores.as_other(scopes=["search", "collections:write"])
    with pytest.raises(openai.PermissionDeniedError):
        writer.vector_stores.files.create(store, file_id=stores.upload("a.md", SHIPPING))


def test_what_is_refused_leaves_nothing(stores: Stores) -> None:
    client = stores.client
    before = {each.id for each in client.vector_stores.list(limit=100)}
    batch = stores.upload("lines.jsonl", b"{}\n", purpose="batch")
    wrong: list[dict[str, Any]] = [
        {"file_ids": ["file-none"]},
        {"file_ids": [batch]},
        {"expires_after": {"anchor": "created_at", "days": 1}},
        {"expires_after": {"anchor": "last_active_at", "days": 0}},
        {"metadata": {str(number): "x" for number in range(17)}},
        {"colour": "red"},
    ]
    for fields in wrong:
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
            client.vector_stores.create(**fields) if "colour" not in fields else client.vector_stores.create(
                extra_body=fields
            )
    assert {each.id for each in client.vector_stores.list(limit=100)} == before
    store = client.vector_stores.create().id
    many = [stores.upload("a.txt", b"a")] * 2
    with pytest.raises(openai.BadRequestError):
        client.vector_stores.file_batches.create(store, file_ids=many)
    ids = [stores.upload(f"{number}.txt", b"text") for number in range(51)]
    with pytest.raises(openai.ConflictError) as refused:
        client.vector_stores.file_batches.create(store, file_ids=ids)
    assert "retrieval.limits.max_store_files" in str(refused.value)
    assert client.vector_stores.retrieve(store).file_counts.total == 0
