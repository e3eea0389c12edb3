"""``/v1/files``, with OpenAI's own SDK as the client, and by hand where a client is hostile."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import openai
import pytest
import requests
from running_gateway import Running, run_gateway

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

MAX_FILE = 4 * 2**20
MAX_TOTAL = 6 * 2**20
LIMITS = {"limits": {"max_file": MAX_FILE, "max_files_total": MAX_TOTAL}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data = tmp_path_factory.mktemp("files") / "data"
    api = {"port": 0, "access_log": False, "max_body_bytes": 2**20}
    settings = Settings.model_validate({"data_dir": data, "api": api, "queue": LIMITS})
    with run_gateway(settings) as started:
        yield started


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as sdk:
        yield sdk


@pytest.fixture(autouse=True)
def nothing_stays(running: Running) -> Iterator[None]:
    yield
    for file in running.get("/v1/files").json()["data"]:
        assert running.request("DELETE", f"/v1/files/{file['id']}").status_code == 200
    assert blobs(running) == []


def blobs(running: Running) -> list[Path]:
    return sorted((running.settings.data_dir / "queue" / "files").glob("*"))


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return True


def upload(running: Running, content: bytes, name: str = "a.jsonl", *, key: str | None = None, **fields: str):
    fields.setdefault("purpose", "user_data")
    return running.request("POST", "/v1/files", key=key, files={"file": (name, content)}, data=fields)


def post_form(running: Running, body: bytes | Iterator[bytes], boundary: str = "edge", **headers: str):
    kind = f"multipart/form-data; boundary={boundary}"
    return running.request("POST", "/v1/files", data=body, headers={"Content-Type": kind, **headers})


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    extra = "" if filename is None else f'; filename="{filename}"'
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + value + b"\r\n"


END = b"--edge--\r\n"


def test_a_file_is_stored_listed_read_and_deleted(client: openai.OpenAI, running: Running) -> None:
    before = int(time.time())
    content = os.urandom(300_000) + b"\r\n--edge\r\n"
    made = client.files.create(file=("notes.bin", content), purpose="user_data")
    assert made.id.startswith("file-")
    assert (made.object, made.bytes, made.filename, made.purpose, made.status) == (
        "file",
        len(content),
        "notes.bin",
        "user_data",
        "processed",
    )
    assert before <= made.created_at <= time.time()
    assert made.expires_at is None
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == content
    assert [file.id for file in client.files.list()] == [made.id]
    deleted = client.files.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "file")
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        client.files.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(made.id)
    with pytest.raises(openai.NotFoundError):
        client.files.delete(made.id)
    assert blobs(running) == []


def test_files_on_disk_are_private_and_named_by_nobody(client: openai.OpenAI, running: Running) -> None:
    client.files.create(file=("secret.jsonl", b"{}\n"), purpose="batch")
    [blob] = blobs(running)
    assert blob.read_bytes() == b"{}\n"
    assert blob.stat().st_mode & 0o777 == 0o600
    assert blob.parent.stat().st_mode & 0o777 == 0o700
    assert len(blob.name) == 32
    assert "secret" not in blob.name


def test_when_files_expire(client: openai.OpenAI, running: Running) -> None:
    batch = client.files.create(file=("a.jsonl", b"{}\n"), purpose="batch")
    assert batch.expires_at == batch.created_at + 30 * 86400
    hour = client.files.create(
        file=("a.jsonl", b"{}\n"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert hour.expires_at == hour.created_at + 3600
    for wrong in ({"anchor": "created_at", "seconds": 3599}, {"anchor": "last_active_at", "seconds": 3600}):
        with pytest.raises(openai.BadRequestError, match="expires_after") as caught:
            client.files.create(file=("a", b"x"), purpose="batch", expires_after=wrong)
        assert caught.value.param == "expires_after"
    for text in ("many", "1e4", "-3600", "٣٦٠٠", "9" * 40, ""):
        fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": text}
        assert upload(running, b"x", **fields).status_code == 400, text


def test_what_has_expired_and_what_a_gateway_left_behind_go_at_the_next_start(tmp_path: Path) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path / "data", "api": {"port": 0, "access_log": False}})
    with run_gateway(settings) as first:
        kept, expired = (upload(first, content).json() for content in (b"kept", b"expired"))
        expire(first, expired["id"])
        assert first.get(f"/v1/files/{expired['id']}/content").status_code == 404
        assert [file["id"] for file in first.get("/v1/files").json()["data"]] == [kept["id"]]
        directory = blobs(first)[0].parent
    (directory / ("0" * 32)).write_bytes(b"its row was never written")
    (directory / ("1" * 32 + ".part")).write_bytes(b"half of i")
    (directory / "README").write_bytes(b"not ours")
    with run_gateway(settings) as second:
        assert wait_until(lambda: len(blobs(second)) == 2)
        assert second.get(f"/v1/files/{kept['id']}/content").content == b"kept"
        assert sorted(blob.read_bytes() for blob in blobs(second)) == [b"kept", b"not ours"]


def expire(running: Running, file_id: str) -> None:
    with closing(sqlite3.connect(running.settings.data_dir / "queue" / "jobs.db")) as database, database:
        database.execute("UPDATE files SET expires_at = ? WHERE id = ?", (time.time() - 1, file_id))


def test_pages(client: openai.OpenAI, running: Running) -> None:
    ids = [client.files.create(file=(f"{n}", b"x"), purpose="evals" if n % 2 else "vision").id for n in range(5)]
    assert [file.id for file in client.files.list()] == ids[::-1]
    assert [file.id for file in client.files.list(order="asc")] == ids
    assert [file.id for file in client.files.list(limit=2)] == ids[::-1]  # the SDK asks for page after page
    first = client.files.list(limit=2, order="asc")
    assert [file.id for file in first.data] == ids[:2]
    assert first.has_more
    rest = client.files.list(limit=3, order="asc", after=ids[1])
    assert [file.id for file in rest.data] == ids[2:]
    assert not rest.has_more
    assert [file.id for file in client.files.list(purpose="vision", order="asc")] == ids[::2]
    assert client.files.list(purpose="batch").data == []
    page = running.get("/v1/files?limit=1").json()
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", ids[4], ids[4], True)
    for query in ("limit=0", "limit=10001", "order=up", "after=file-none", "limit=x"):
        assert running.get(f"/v1/files?{query}").status_code == 400, query


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\windows\\system32\\a.jsonl", "a.jsonl"),
        ("a\u202etxt.exe", "atxt.exe"),
        ("наборы 数据.jsonl", "наборы 数据.jsonl"),
        ("<script>alert(1)<script>", "<script>alert(1)<script>"),
        ("..", "file"),
        ("x" * 500 + ".jsonl", "x" * 249 + ".jsonl"),
        ("a;b.jsonl", "a;b.jsonl"),
    ],
)
def test_names_are_text_and_nothing_else(client: openai.OpenAI, running: Running, name: str, shown: str) -> None:
    made = client.files.create(file=(name, b"x"), purpose="user_data")
    assert made.filename == shown
    answer = running.get(f"/v1/files/{made.id}/content")
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{quote(shown, safe='')}"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_name_with_a_line_end_ends_nothing(running: Running) -> None:
    made = upload(running, b"x", 'a"\r\nX-Evil: 1\r\n\r\n.jsonl').json()
    assert "\n" not in made["filename"]
    assert "x-evil" not in running.get(f"/v1/files/{made['id']}/content").headers


def test_ranges(client: openai.OpenAI, running: Running) -> None:
    made = client.files.create(file=("a", b"0123456789"), purpose="user_data")

    def ask(wanted: str, **headers: str) -> tuple[int, bytes, str | None]:
        answer = running.get(f"/v1/files/{made.id}/content", headers={"Range": wanted, **headers})
        return answer.status_code, answer.content, answer.headers.get("content-range")

    assert ask("bytes=2-4") == (206, b"234", "bytes 2-4/10")
    assert ask("bytes=7-") == (206, b"789", "bytes 7-9/10")
    assert ask("bytes=-3") == (206, b"789", "bytes 7-9/10")
    assert ask("bytes=0-99") == (206, b"0123456789", "bytes 0-9/10")
    assert ask("bytes=10-") == (416, b"", "bytes */10")
    assert ask("bytes=-0") == (416, b"", "bytes */10")
    for ignored in ("bytes=4-2", "bytes=-", "bytes=0-1,3-4", "lines=1-2", "bytes=" + "9" * 50 + "-"):
        assert ask(ignored) == (200, b"0123456789", None)
    tag = running.get(f"/v1/files/{made.id}/content").headers["etag"]
    assert ask("bytes=2-4", **{"If-Range": tag})[0] == 206
    assert ask("bytes=2-4", **{"If-Range": '"another"'})[0] == 200
    head = running.request("HEAD", f"/v1/files/{made.id}/content")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")


def test_a_file_may_be_larger_than_a_body_and_no_larger_than_the_limit(client: openai.OpenAI, running: Running) -> None:
    large = os.urandom(MAX_FILE)
    made = client.files.create(file=("large", large), purpose="batch")
    assert client.files.content(made.id).read() == large
    client.files.delete(made.id)
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("larger", large + b"x"), purpose="batch")
    assert caught.value.status_code == 413
    assert "queue.limits.max_file" in str(caught.value)
    assert blobs(running) == []


def test_what_a_tenant_may_store(client: openai.OpenAI, running: Running) -> None:
    half = os.urandom(MAX_TOTAL // 2)
    first = client.files.create(file=("a", half), purpose="batch")
    client.files.create(file=("b", half), purpose="batch")
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("c", b"x"), purpose="batch")
    assert (caught.value.status_code, caught.value.code) == (413, "storage_quota_exceeded")
    assert upload(running, b"y", key=running.new_key(scopes=["tasks"], tenant="elsewhere")).status_code == 200
    client.files.delete(first.id)
    client.files.create(file=("c", b"x"), purpose="batch")
    for file in running.get("/v1/files", key=running.new_key(scopes=["tasks"], tenant="elsewhere")).json()["data"]:
        key = running.new_key(scopes=["tasks"], tenant="elsewhere")
        assert running.request("DELETE", f"/v1/files/{file['id']}", key=key).status_code == 200


def test_uploads_at_the_same_time_do_not_pass_the_limit_together(running: Running) -> None:
    statuses: list[int] = []

    def send() -> None:
        answer = requests.post(
            running.url + "/v1/files",
            headers=running.headers(),
            files={"file": ("a", bytes(MAX_TOTAL // 3 + 1))},
            data={"purpose": "batch"},
            timeout=30,
        )
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 413}
    assert statuses.count(200) <= 2
    assert sum(blob.stat().st_size for blob in blobs(running)) <= MAX_TOTAL


def test_tenants_see_only_their_own(client: openai.OpenAI, running: Running) -> None:
    made = client.files.create(file=("mine", b"mine"), purpose="batch")
    key = running.new_key(scopes=["tasks"], tenant="elsewhere")
    assert running.get("/v1/files", key=key).json()["data"] == []
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        answer = running.request(method, f"/v1/files/{made.id}{path}", key=key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert running.get(f"/v1/files?after={made.id}", key=key).status_code == 400
    assert client.files.content(made.id).read() == b"mine"


def test_the_scope_is_needed(running: Running) -> None:
    key = running.new_key(scopes=["generate", "search"])
    answers = [
        upload(running, b"x", key=key),
        running.get("/v1/files", key=key),
        running.get("/v1/files/file-1", key=key),
        running.get("/v1/files/file-1/content", key=key),
        running.request("DELETE", "/v1/files/file-1", key=key),
    ]
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(403, "missing_scope")}


FILE = part("file", b"content", "a.jsonl")
PURPOSE = part("purpose", b"batch")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (PURPOSE + END, "no file in its field 'file'"),
        (FILE + END, "needs the field 'purpose'"),
        (FILE + part("purpose", b"profit") + END, "'profit' is no purpose"),
        (part("purpose", b"batch_output") + FILE + END, "'batch_output' is no purpose"),
        (PURPOSE + FILE, "ends before its last boundary"),
        (PURPOSE + FILE[:-12], "ends before its last boundary"),
        (b"", "ends before its last boundary"),
        (b'{"purpose": "batch"}', "not a form"),
        (PURPOSE + FILE + FILE + END, "several files"),
        (PURPOSE + part("file", b"content") + END, "must be a file"),
        (PURPOSE + part("purpose", b"batch") + FILE + END, "given twice"),
        (PURPOSE + FILE + part("expire_after", b"3600") + END, "no field 'expire_after'"),
        (part("purpose", b"batch", "purpose.txt") + FILE + END, "must be no file"),
        (part("purpose", b"b" * 5000) + FILE + END, "more than 4096 bytes"),
        (b"".join(part(f"f{n}", b"x") for n in range(40)) + FILE + END, "more than 32 fields"),
        (b"--edge\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END, "no name"),
        (b"--edge\r\nX: " + b"y" * 9000 + b"\r\n\r\nx\r\n" + END, "8192 bytes"),
        (b"--edge\r\n" + b"X: y\r\n" * 9000 + b"\r\nx\r\n" + END, "8192 bytes"),
    ],
)
def test_a_bad_form_is_refused_and_leaves_nothing(running: Running, body: bytes, said: str) -> None:
    answer = post_form(running, body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert said in error["message"] or "Maximum" in error["message"], error
    assert error["type"] == "invalid_request_error"
    assert blobs(running) == []


def test_a_body_that_is_more_than_its_file_is_bounded_too(running: Running) -> None:
    """What comes before the first boundary and after the last is nobody's, and may not go on for ever."""
    around = (b"\r\n" * 2**17 for _ in range((MAX_FILE + 2**21) // 2**18))
    answer = post_form(running, around)
    assert answer.status_code == 413
    assert "queue.limits.max_file" in answer.json()["error"]["message"]


def test_what_is_no_form_is_refused(running: Running) -> None:
    for kind in ("application/json", "multipart/form-data", "multipart/mixed; boundary=edge", "text/plain"):
        answer = running.request("POST", "/v1/files", data=PURPOSE + FILE + END, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_type")
    assert post_form(running, PURPOSE + FILE + END, boundary="e" * 300).status_code == 400


def test_the_order_of_fields_and_empty_files(running: Running) -> None:
    late = post_form(running, part("file", b"content", "a.jsonl") + PURPOSE + END)
    assert (late.status_code, late.json()["bytes"], late.json()["purpose"]) == (200, 7, "batch")
    empty = post_form(running, PURPOSE + part("file", b"", "") + END).json()
    assert (empty["bytes"], empty["filename"]) == (0, "file")
    assert running.get(f"/v1/files/{empty['id']}/content").content == b""


def test_a_form_in_single_bytes_is_read_the_same(running: Running) -> None:
    content = b"\r\n--edg\r\n--edge!\r-\r\n--"
    body = PURPOSE + part("file", content, "a.jsonl") + END
    made = post_form(running, (body[n : n + 1] for n in range(len(body)))).json()
    assert running.get(f"/v1/files/{made['id']}/content").content == content


def test_a_client_that_leaves_leaves_nothing(running: Running) -> None:
    def body() -> Iterator[bytes]:
        yield PURPOSE + part("file", b"", "a.jsonl")[:-2]
        for _ in range(8):
            yield bytes(2**18)
        assert wait_until(lambda: blobs(running) != [])
        raise RuntimeError("the client has had enough")

    with pytest.raises((RuntimeError, requests.ConnectionError)):
        requests.post(
            running.url + "/v1/files",
            data=body(),
            headers={**running.headers(), "Content-Type": "multipart/form-data; boundary=edge"},
            timeout=30,
        )
    wait_until(lambda: blobs(running) == [])
    assert running.get("/v1/files").json()["data"] == []


def test_without_a_body_limit_of_the_edge_for_uploads_alone(running: Running) -> None:
    answer = running.request("POST", "/v1/files/", files={"file": ("a", bytes(2**21))}, data={"purpose": "batch"})
    assert answer.status_code == 200
    answer = running.request("POST", "/v1/chat/completions", data=bytes(2**21))
    assert answer.status_code == 413
