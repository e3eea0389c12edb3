"""``sage ingest --watch``: what changes, goes and gets another name, also while the gateway is away."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running_gateway import Running
from sage_process import SAGE, environment

from sage.errors import CallFailed, InvalidRequest
from sage.middleware.cli.ingest.command import IngestOptions, ParsingLimits, Recipe, Walk
from sage.middleware.cli.ingest.watch import DirectoryWatch
from sage.middleware.client.connection import Client, connect

pytestmark = pytest.mark.slow


def texts(running: Running, collection: str = "kb") -> dict[str, str]:
    answer = running.get(f"/collections/{collection}/documents", params={"limit": 1000}).json()
    return {document["id"]: document["text"] for document in answer.get("documents", ())}


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


class Away:
    """A client of a gateway that may be away."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.away = threading.Event()
        self.refused = 0
        self.url = client.url

    def _check(self) -> None:
        if self.away.is_set():
            self.refused += 1
            raise CallFailed("it is away", answer_status=503, retry_after=0.05)

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        self._check()
        return self._client.get(path, **query)

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        self._check()
        return self._client.post(path, body)


@contextmanager
def watching(client: Any, *paths: Path, looks: float = 60.0) -> Iterator[DirectoryWatch]:
    options = IngestOptions("kb", Recipe(900, 100), ParsingLimits(), Walk(alias="d"))
    watch = DirectoryWatch(options, paths, lambda: client, looks=looks)
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop.set()
        watch._changed.set()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def client(running: Running, monkeypatch: pytest.MonkeyPatch) -> Away:
    monkeypatch.setenv("SAGE_URL", running.url)
    monkeypatch.setenv("SAGE_API_KEY", running.key)
    return Away(connect())


def test_what_changes_goes_and_is_renamed(running: Running, client: Away, tmp_path: Path) -> None:
    root = tmp_path / "docs"
    root.mkdir()
    (root / "a.txt").write_text("first")
    (root / ".gitignore").write_text("*.tmp\n")
    with watching(client, root):
        wait_for(lambda: texts(running) == {"d/a.txt#0": "first"})
        (root / "b.txt").write_text("second")
        (root / "c.tmp").write_text("ignored")
        wait_for(lambda: texts(running) == {"d/a.txt#0": "first", "d/b.txt#0": "second"})
        (root / "a.txt").write_text("changed")
        wait_for(lambda: texts(running)["d/a.txt#0"] == "changed")
        (root / "sub").mkdir()
        (root / "b.txt").rename(root / "sub" / "e.txt")
        wait_for(lambda: texts(running) == {"d/a.txt#0": "changed", "d/sub/e.txt#0": "second"})
        (root / "a.txt").unlink()
        wait_for(lambda: texts(running) == {"d/sub/e.txt#0": "second"})


def test_a_gateway_that_is_away_is_waited_for(running: Running, client: Away, tmp_path: Path) -> None:
    root = tmp_path / "docs"
    root.mkdir()
    (root / "a.txt").write_text("first")
    with watching(client, root):
        wait_for(lambda: texts(running) == {"d/a.txt#0": "first"})
        client.away.set()
        (root / "b.txt").write_text("second")
        (root / "a.txt").unlink()
        wait_for(lambda: client.refused > 2)
        client.away.clear()
        wait_for(lambda: texts(running) == {"d/b.txt#0": "second"})


def test_a_directory_that_is_gone_as_a_whole_deletes_nothing(running: Running, client: Away, tmp_path: Path) -> None:
    root = tmp_path / "docs"
    root.mkdir()
    (root / "a.txt").write_text("first")
    with watching(client, root, looks=0.2) as watch:
        wait_for(lambda: texts(running) == {"d/a.txt#0": "first"})
        shutil.move(root, tmp_path / "unmounted")
        time.sleep(1.5)
        assert texts(running) == {"d/a.txt#0": "first"}
        shutil.move(tmp_path / "unmounted", root)
        (root / "b.txt").write_text("second")
        wait_for(lambda: "d/b.txt#0" in texts(running))
        assert not watch.stop.is_set()


def test_the_command_ends_with_ctrl_c(running: Running, tmp_path: Path) -> None:
    root = tmp_path / "docs"
    root.mkdir()
    (root / "a.txt").write_text("first")
    env = environment(tmp_path / "data", SAGE_URL=running.url, SAGE_API_KEY=running.key)
    command = [*SAGE, "ingest", "kb", str(root), "--as", "d", "--watch"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: texts(running) == {"d/a.txt#0": "first"})
    (root / "a.txt").write_text("changed")
    wait_for(lambda: texts(running) == {"d/a.txt#0": "changed"})
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "watching " in err
    assert out.startswith("kb: files: 1 new\n")


def test_it_needs_what_is_there(tmp_path: Path) -> None:
    options = IngestOptions("kb", Recipe(900, 100), ParsingLimits(), Walk())
    for argument in ("-", str(tmp_path / "none")):
        with pytest.raises(InvalidRequest, match="--watch needs"):
            DirectoryWatch(options, [Path(argument)], lambda: None).run()  # type: ignore[arg-type, return-value]
