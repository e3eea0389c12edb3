"""Jobs on collections by the gateway's own worker: what `/search` finds of files, paths and pages, and what fails."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ingest_files import write_bomb, write_pdf
from page_server import PageServer, page, redirect
from running_gateway import Running, run_gateway
from upstream import Received, Script, Upstream, reply

from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.principal import ROLES, Scope
from sage.middleware.cli.ingest.command import IngestOptions, ingest
from sage.middleware.client.connection import Client
from sage.middleware.engines.proc_stats import descendants
from sage.middleware.ingest.document import OVERLAP, SIZE
from sage.middleware.ingest.files import Walk
from sage.middleware.ingest.parsing import ParsingLimits
from sage.middleware.ingest.records import Recipe
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow

PAGES = {
    "/grapes.html": page(b"<html lang=en><title>Grapes</title><main><p>Grapes are shipped on Tuesdays.</p></main>"),
    "/held": page(b"<p>This page takes its time.</p>"),
    "/elsewhere": redirect("http://169.254.169.254/latest/meta-data"),
}


@dataclass
class Jobs:
    """A gateway with its own worker, a root of files that it may read, and a server of pages that it may fetch."""

    running: Running
    root: Path
    server: PageServer
    up: Upstream
    dead_link: str

    def submit(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.running.post(f"/tasks/{kind}", body)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            view: dict[str, Any] = self.running.get(job["status_url"]).json()
            if view["finished_at"] is not None:
                return view
            time.sleep(0.05)
        raise AssertionError(f"the job has not ended: {view}")

    def run(self, kind: str, **body: Any) -> dict[str, Any]:
        return self.ended(self.submit(kind, body))

    def results(self, view: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """What became of each source, by the last part of its name."""
        answer = self.running.get(f"{view['status_url']}/results")
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert [line["index"] for line in lines] == list(range(len(lines)))
        return {line["source"].rpartition("/")[2]: line for line in lines}

    def found(self, collection: str, query: str) -> list[str]:
        asked = {"collection": collection, "query": query, "mode": "bm25", "syntax": "query"}
        answer = self.running.post("/search", asked)
        assert answer.status_code == 200, answer.text
        return [result["id"] for result in answer.json()["results"]]

    def upload(self, name: str, content: bytes, purpose: str = "ingest") -> str:
        answer = self.running.request(
            "POST", "/v1/files", data={"purpose": purpose}, files={"file": (name, io.BytesIO(content))}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def write(self, name: str, content: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    base = tmp_path_factory.mktemp("jobs")
    root = base / "root"
    root.mkdir()
    (base / "secret.txt").write_text("the secret of the machine")
    with PageServer({}) as gone:
        pass
    with PageServer(PAGES) as server, Upstream() as up:
        models = {name: {"deployments": [{"provider": "up", "model": name}]} for name in ("first", "second")}
        settings = {
            "data_dir": base / "data",
            "api": {"port": 0, "access_log": False},
            "retrieval": {"defaults": {"embedder": "none"}},
            "llm": {"providers": {"up": {"kind": "openai", "base_url": up.url, "api_key": "k"}}, "models": models},
            "queue": {"ingest": {"roots": [root], "url_hosts": [server.host, gone.host], "max_file": "20MiB"}},
        }
        with run_gateway(Settings.model_validate(settings)) as running:
            yield Jobs(running, root, server, up, f"http://{gone.host}/gone")


def embeddings(request: Received) -> Script:
    """Vectors of two numbers of `first`, of three of `second`."""
    vector = [1.0, 2.0] if request.body["model"] == "first" else [1.0, 2.0, 3.0]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i in range(len(request.body["input"]))]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return reply({"object": "list", "data": data, "model": request.body["model"], "usage": usage})


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def zip_bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", bytes(10 * 2**20))
    return packed.getvalue()


def test_what_all_kinds_of_sources_say_is_found_and_what_fails_is_told(jobs: Jobs) -> None:
    jobs.write("all/guide.md", "# Harvest\n\nThe harvest of pears begins in August.")
    jobs.write("all/lines.jsonl", '{"text": "Plums are dried."}\n{"no": "text"}\n')
    jobs.write("all/broken.pdf", "%PDF-1.7 and then nothing")
    jobs.write("all/empty.txt", " \n")
    write_pdf(jobs.root / "all/paper.pdf", ["Cherries freeze below zero."])
    write_bomb(jobs.root / "all/bomb.pdf", 80 * 2**20)
    (jobs.root / "all/data.bin").write_bytes(bytes(range(256)))
    (jobs.root / "all/leak.txt").symlink_to(jobs.root.parent / "secret.txt")
    uploads = [jobs.upload("notes.html", b"<p>Apples ripen in the cellar.</p>"), jobs.upload("bomb.docx", zip_bomb())]
    job = jobs.submit(
        "ingest",
        {
            "collection": "fruit",
            "file_ids": uploads,
            "paths": [str(jobs.root / "all")],
            "urls": [jobs.server.url(path) for path in ("/grapes.html", "/elsewhere", "/missing.html")]
            + [jobs.dead_link],
            "document_metadata": {"team": "orchard"},
        },
    )
    assert job["progress"]["total"] == 13
    view = jobs.ended(job)
    lines = jobs.results(view)
    errors = {name: line["error"]["message"] for name, line in lines.items() if "error" in line}
    assert view["state"] == "succeeded", view
    assert {name: line["outcome"] for name, line in lines.items()} == {
        **dict.fromkeys(["notes.html", "guide.md", "paper.pdf", "grapes.html"], "added"),
        **dict.fromkeys(
            ["bomb.docx", "bomb.pdf", "broken.pdf", "lines.jsonl", "elsewhere", "missing.html", "gone"], "failed"
        ),
        **{"empty.txt": "empty", "data.bin": "skipped"},
    }, errors
    assert errors["bomb.docx"].startswith("is not a Word document (.docx)")
    assert errors["bomb.pdf"].startswith("cannot be read as PDF: Limit reached while decompressing")
    assert errors["broken.pdf"].startswith("cannot be read as PDF")
    assert errors["lines.jsonl"].startswith("line 2: ")
    assert "302: redirects are not followed" in errors["elsewhere"]
    assert errors["gone"] == "cannot be fetched: its host cannot be connected to"
    assert errors["missing.html"] == "was answered with 404"
    assert (view["progress"]["done"], view["progress"]["failed"]) == (6, 7)
    assert view["result"]["sources"] == {"added": 4, "failed": 7, "empty": 1, "skipped": 1}
    assert jobs.found("fruit", "cellar") == ["notes.html#0"]
    assert jobs.found("fruit", "August harvest") == [f"{jobs.root}/all/guide.md#0"]
    assert jobs.found("fruit", "plums") == [f"{jobs.root}/all/lines.jsonl#1"]
    assert jobs.found("fruit", "cherries") == [f"{jobs.root}/all/paper.pdf#0"]
    assert jobs.found("fruit", "Tuesdays") == [f"{jobs.server.url('/grapes.html')}#0"]
    assert jobs.found("fruit", "secret machine") == []
    document = jobs.running.get(f"/collections/fruit/documents/{'notes.html%230'}").json()
    assert (document["metadata"]["team"], document["metadata"]["source"]) == ("orchard", "notes.html")


def test_a_job_and_the_command_give_the_same_documents(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    """So a second delivery, or a second job, changes nothing."""
    long = "\n\n".join(f"# Part {number}\n\nSentence {number} of the same text. " * 3 for number in range(120))
    jobs.write("same/long.md", long)
    jobs.write("same/short.txt", "Short and simple.")
    first = jobs.run("ingest", collection="same", paths=[str(jobs.root / "same")])
    assert first["result"]["sources"] == {"added": 2}
    options = IngestOptions("same", Recipe(SIZE, OVERLAP), ParsingLimits(), Walk())
    ingest(options, [jobs.root / "same"], lambda: Client(jobs.running.url, jobs.running.key), as_json=True)
    summary = json.loads(capsys.readouterr().out)
    assert (summary["files"]["unchanged"], summary["sent"]) == (2, 0)
    again = jobs.run("ingest", collection="same", paths=[str(jobs.root / "same")])
    assert (again["result"]["sources"], again["result"]["sent"]) == ({"unchanged": 2}, 0)

    jobs.write("same/long.md", long[: len(long) // 2] + "\n\nA new end.")
    changed = jobs.run("ingest", collection="same", paths=[str(jobs.root / "same")])
    assert changed["result"]["sources"] == {"changed": 1, "unchanged": 1}
    assert changed["result"]["deleted"] > 10
    assert jobs.found("same", '"new end"') != []
    assert jobs.found("same", '"sentence 119"') == []


def test_pruning_deletes_what_is_no_longer_there_and_nothing_else(jobs: Jobs) -> None:
    for name in ("gone.txt", "kept.txt", "hidden/deep.txt"):
        jobs.write(f"pruned/{name}", f"This is {name}.")
    jobs.write("elsewhere/other.txt", "This is elsewhere.")
    jobs.run("ingest", collection="pruned", paths=[str(jobs.root / "pruned"), str(jobs.root / "elsewhere")])
    (jobs.root / "pruned/gone.txt").unlink()
    (jobs.root / "elsewhere/other.txt").unlink()
    unpruned = jobs.run("ingest", collection="pruned", paths=[str(jobs.root / "pruned")])
    assert unpruned["result"]["sources"] == {"unchanged": 2}
    view = jobs.run("ingest", collection="pruned", paths=[str(jobs.root / "pruned")], prune=True)
    assert (view["result"]["sources"], view["result"]["deleted"]) == ({"unchanged": 2, "pruned": 1}, 1), view
    shown = jobs.running.get("/collections/pruned/documents").json()["documents"]
    names = {document["id"].removeprefix(f"{jobs.root}/") for document in shown}
    assert names == {"pruned/kept.txt#0", "pruned/hidden/deep.txt#0", "elsewhere/other.txt#0"}
    body = {"collection": "pruned", "paths": [str(jobs.root / "pruned")], "prune": True, "include": ["*.md"]}
    assert jobs.running.post("/tasks/ingest", body).json()["error"]["param"] == "prune"


def test_what_a_job_may_not_read_is_refused_at_once(jobs: Jobs) -> None:
    def refused(status: int = 400, **sources: Any) -> dict[str, Any]:
        answer = jobs.running.post("/tasks/ingest", {"collection": "refused", **sources})
        assert answer.status_code == status, answer.text
        error: dict[str, Any] = answer.json()["error"]
        return error

    (jobs.root / "out").symlink_to(jobs.root.parent)
    for path in (jobs.root / "out/secret.txt", jobs.root.parent / "secret.txt", "/etc/passwd"):
        assert "queue.ingest.roots" in refused(paths=[str(path)])["message"]
    for url in ("http://169.254.169.254/", "http://localhost/", jobs.server.url("/").replace("127.0.0.1", "0x7f.1")):
        error = refused(urls=[jobs.server.url("/grapes.html"), url])
        assert (error["param"], error["code"]) == ("urls", "address_refused")
        assert error["message"].startswith("urls[1]: ")
    assert refused(404, file_ids=["file-nobodys"])["code"]
    assert refused()["param"] == "file_ids"
    assert refused(paths=[str(jobs.root)], chunk_size=100, overlap=100)["param"] == "overlap"
    assert refused(paths=[str(jobs.root)], document_metadata={"source": "x"})["param"] == "document_metadata"
    assert refused(paths=[str(jobs.root)], encoding="hex")["param"] == "encoding"
    assert refused(paths=[str(jobs.root)], surprise=1)["param"] == "surprise"
    assert jobs.running.get("/collections/refused").status_code == 404
    narrow = jobs.running.new_key(scopes=[Scope.TASKS, Scope.SEARCH])
    body = {"collection": "refused", "paths": [str(jobs.root)]}
    assert jobs.running.post("/tasks/ingest", body, key=narrow).status_code == 403


def test_files_of_one_name_are_told_apart_by_the_name_that_they_get(jobs: Jobs) -> None:
    one, two = (jobs.upload("a.txt", text) for text in (b"the first", b"the second"))
    body = {"collection": "named", "file_ids": [one, two]}
    answer = jobs.running.post("/tasks/ingest", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file_ids")
    view = jobs.run("ingest", collection="named", file_ids=[one, {"file_id": two, "name": "b/a.txt"}])
    assert view["result"]["sources"] == {"added": 2}
    assert jobs.found("named", "second") == ["b/a.txt#0"]


def test_a_killed_worker_costs_no_source_and_doubles_none(jobs: Jobs) -> None:
    names = [f"killed/{number}.txt" for number in range(12)]
    for name in names:
        jobs.write(name, f"The content of {name}")
    sources = {"paths": [str(jobs.root / "killed")], "urls": [jobs.server.url("/held")]}
    job = jobs.submit("ingest", {"collection": "killed", **sources})
    wait_for(lambda: jobs.server.asked["/held"] == 1)
    wait_for(lambda: jobs.running.get(job["status_url"]).json()["progress"]["done"] > 4)
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            if b"sage.middleware.worker.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
    jobs.server.gate.set()
    view = jobs.ended(job)
    assert (view["state"], view["deliveries"], view["result"]["sources"].get("failed", 0)) == ("succeeded", 2, 0), view
    assert jobs.running.get("/collections/killed").json()["documents"] == 13
    assert sorted(jobs.results(view)) == sorted([*(f"{number}.txt" for number in range(12)), "held"])


def test_a_snapshot_is_stored_and_restored(jobs: Jobs) -> None:
    documents = [{"id": str(number), "text": f"kept text {number}"} for number in range(50)]
    jobs.running.post("/collections/kept/documents", {"documents": documents})
    view = jobs.run("snapshot", collection="kept")
    assert view["state"] == "succeeded", view
    content = jobs.running.get(f"/v1/files/{view['output_file_id']}/content").content
    assert len(content) == view["result"]["bytes"]
    headers = {"Content-Type": "application/octet-stream"}
    restored = jobs.running.request("PUT", "/collections/copy/snapshot", data=content, headers=headers)
    assert (restored.status_code, restored.json()["documents"]) == (201, 50)
    assert jobs.found("copy", '"text 7"') == ["7"]
    assert jobs.running.get(f"{view['status_url']}/results").text == ""
    assert jobs.running.request("DELETE", view["status_url"]).status_code == 204
    assert jobs.running.get(f"/v1/files/{view['output_file_id']}").status_code == 404, "it goes with its job"
    missing = jobs.running.post("/tasks/snapshot", {"collection": "nope"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "collection_not_found")


def with_vectors(jobs: Jobs, name: str) -> None:
    """A collection of three documents with vectors of `first`."""
    jobs.up.handler = embeddings
    assert jobs.running.post("/collections", {"name": name, "embedder": "first"}).status_code == 201
    documents = [{"id": str(number), "text": f"document {number}"} for number in range(3)]
    assert jobs.running.post(f"/collections/{name}/documents", {"documents": documents}).status_code == 200


def described(jobs: Jobs, name: str) -> tuple[str, bool]:
    """What its vectors are of, and whether they are being made again."""
    shown = jobs.running.get(f"/collections/{name}").json()
    return shown["embedder"].partition("@")[0], bool((shown["reembedding"] or {}).get("running"))


def test_what_jobs_ask_of_models_is_booked_to_who_submitted_them(jobs: Jobs) -> None:
    jobs.up.handler = embeddings
    running = jobs.running
    assert running.accounts is not None
    running.accounts.users.add("ann", "a fine password of hers", "user", "acme")
    made = running.accounts.keys.create_for("ann", KeyRequest(scopes=sorted(ROLES["user"])))
    ann = replace(jobs, running=Running(running.url, made.secret, running.settings, running.server, running.edge))
    with_vectors(ann, "hers")
    upload = ann.upload("hers.md", b"# Tea\n\nGreen tea grows in Fujian.")

    def used(run: Callable[[], Any]) -> set[tuple[str, str, str]]:
        """User, key and model of the calls that are in the ledger once ``run`` has ended, and were not before."""

        def rows() -> list[dict[str, Any]]:
            return list(running.get("/usage/requests?limit=1000").json()["requests"])

        before = len(rows())
        ended = run()
        end = time.monotonic() + 10
        while not (new := rows()[:-before]) and time.monotonic() < end:
            time.sleep(0.05)
        assert {row["tenant"] for row in new} == {"acme"}, ended
        return {(row["user"], row["key"], row["model"]) for row in new}

    for kind, body, model in (
        ("embed", {"model": "first", "input": ["one"]}, "first"),
        ("ingest", {"collection": "hers", "file_ids": [upload]}, "first"),
        ("reembed", {"collection": "hers", "embedder": "second"}, "second"),
    ):
        assert used(lambda kind=kind, body=body: ann.run(kind, **body)) == {("ann", made.key.id, model)}, kind
    ann.running.close()


def test_vectors_are_made_again_by_a_job(jobs: Jobs) -> None:
    with_vectors(jobs, "vectors")
    view = jobs.run("reembed", collection="vectors", embedder="second")
    assert (view["state"], view["result"]["documents"]) == ("succeeded", 3), view
    assert (view["progress"]["done"], view["progress"]["total"]) == (3, 3)
    assert described(jobs, "vectors") == ("second", False)
    assert (
        jobs.running.post("/tasks/reembed", {"collection": "vectors", "embedder": "second", "x": 1}).status_code == 400
    )
    failed = jobs.run("reembed", collection="vectors", embedder="nobody")
    assert (failed["state"], failed["error"]["code"]) == ("failed", "model_not_found")


def held_embeddings(jobs: Jobs, model: str) -> tuple[threading.Event, threading.Event]:
    """From now on vectors of the model come once the first event is set; the second says that some were asked for."""
    gate, arrived = threading.Event(), threading.Event()

    def waiting(request: Received) -> Script:
        if request.body["model"] == model:
            arrived.set()
            return Script(embeddings(request).writes, gate=gate)
        return embeddings(request)

    jobs.up.handler = waiting
    return gate, arrived


def test_cancelling_an_ingest_ends_it_in_the_midst_of_a_source(jobs: Jobs) -> None:
    with_vectors(jobs, "cut-short")
    jobs.write("cut/one.txt", "A text to embed.")
    gate, arrived = held_embeddings(jobs, "first")
    job = jobs.submit("ingest", {"collection": "cut-short", "paths": [str(jobs.root / "cut")]})
    assert arrived.wait(30)
    begin = time.monotonic()
    assert jobs.running.post(f"{job['status_url']}/cancel", {}).status_code == 200
    view = jobs.ended(job)
    gate.set()
    assert (view["state"], view["progress"]["done"]) == ("cancelled", 0)
    assert time.monotonic() - begin < 10


def test_cancelling_a_job_stops_the_new_embedding(jobs: Jobs) -> None:
    with_vectors(jobs, "kept-vectors")
    gate, arrived = held_embeddings(jobs, "second")
    job = jobs.submit("reembed", {"collection": "kept-vectors", "embedder": "second"})
    assert arrived.wait(30)
    assert jobs.running.post(f"{job['status_url']}/cancel", {}).status_code == 200
    assert jobs.ended(job)["state"] == "cancelled"
    gate.set()
    wait_for(lambda: not described(jobs, "kept-vectors")[1])
    assert described(jobs, "kept-vectors") == ("first", False)
