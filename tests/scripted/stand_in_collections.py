"""Collections of a gateway in memory, over HTTP, for rare events: it is busy, unreachable, or refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sage.middleware.retrieval.filters.language import parse_filter


class StandIn:
    """``documents`` are those of the one collection ``docs``, by id. ``faults`` are the answers of the next writes: a
    status (429 and 503 with ``Retry-After: 7``), or ``"drop"``, which writes and then closes the connection."""

    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self.faults: list[Any] = []
        self.writes: list[list[str]] = []
        self.most = 10_000
        self.refused: set[str] = set()
        self.url = ""

    def add(self, documents: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        if len(documents) > self.most:
            return 413, _error("the body is too large")
        for position, document in enumerate(documents):
            if document["id"] in self.refused:
                return 400, _error(f"documents[{position}]: 'text' is refused")
        for document in documents:
            self.documents.pop(document["id"], None)
            self.documents[document["id"]] = {"metadata": {}, **document}
        self.writes.append([document["id"] for document in documents])
        return 200, {"ids": self.writes[-1], "inserted": len(documents), "updated": 0}

    def delete(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = [key for key in body.get("ids") or () if key in self.documents]
        if "filter" in body:
            ids = [document["id"] for document in self.passing(body["filter"])]
        for key in ids:
            del self.documents[key]
        return {"deleted": len(ids)}

    def passing(self, condition: dict[str, Any]) -> list[dict[str, Any]]:
        parsed = parse_filter(condition)
        assert parsed is not None
        return [one for one in self.documents.values() if parsed.matches(one["metadata"])]

    def page(self, query: dict[str, list[str]]) -> dict[str, Any]:
        begin = int(query.get("cursor", ["0"])[0])
        limit = int(query["limit"][0])
        documents = self.passing(json.loads(query["filter"][0]))
        rest = str(begin + limit) if begin + limit < len(documents) else None
        return {"documents": documents[begin : begin + limit], "cursor": rest}


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "code": "x"}}


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if unquote(parts.path) == "/collections/docs":
            self._answer(200, {"name": "docs", "embedder": None, "created_at": 1.5, "documents": 0})
        elif parts.path == "/collections/docs/documents":
            self._answer(200, self.stand_in.page(parse_qs(parts.query)))
        else:
            self._answer(404, _error(f"nothing at {parts.path}"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.stand_in.faults.pop(0) if self.stand_in.faults else None
        if isinstance(fault, int):
            self._answer(fault, _error("not now"))
            return
        if self.path.endswith("/delete"):
            status, answer = 200, self.stand_in.delete(body)
        else:
            status, answer = self.stand_in.add(body["documents"])
        if fault == "drop":
            self.close_connection = True
            return
        self._answer(status, answer)

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status in (429, 503):
            self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def standing_in() -> Iterator[StandIn]:
    stand_in = StandIn()
    handler = type("Handler", (_Handler,), {"stand_in": stand_in})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield stand_in
        finally:
            server.shutdown()
            thread.join()
