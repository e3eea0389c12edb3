"""Messages reach the broker, or their sender learns within a second that they do not."""

from __future__ import annotations

import asyncio
import builtins
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from kombu import Exchange, Queue
from pydantic import SecretStr
from valkey_server import Valkey, valkey

from sage.errors import ConfigError, Unavailable
from sage.middleware.queue.celery_app import make_broker_folders, make_celery_app
from sage.middleware.queue.file_messages import put_file
from sage.middleware.queue.messages import encode_message, read_message
from sage.middleware.queue.publisher import Publisher
from sage.middleware.queue.signing import Signer
from sage.middleware.settings.queue import QueueSettings
from sage.middleware.worker.heartbeat import clean_broker_folder


def run(data_dir: Path, url: str | None, use: Callable[[Publisher], Awaitable[None]]) -> None:
    async def main() -> None:
        settings = QueueSettings(broker=None if url is None else SecretStr(url))
        publisher = Publisher(settings, data_dir, Signer(data_dir))
        try:
            await use(publisher)
        finally:
            await publisher.close()

    asyncio.run(main())


async def refused(publisher: Publisher) -> float:
    """Seconds until a message is refused."""
    begin = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await publisher.publish(["job_x"])
    assert caught.value.code == "broker_unavailable"
    assert caught.value.retry_after is not None
    return time.monotonic() - begin


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with valkey() as running:
        yield running


def test_files_hold_the_id_and_a_signature_and_are_private(tmp_path: Path) -> None:
    async def use(publisher: Publisher) -> None:
        await publisher.publish(["job_1", "job_2"], "default")
        await publisher.publish(["job_3"], "ingest")
        assert await publisher.depth("default") == 2
        assert await publisher.depth("ingest") == 1

    run(tmp_path, None, use)
    folder = tmp_path / "queue" / "broker" / "messages"
    entries = [file.read_bytes() for file in sorted(folder.iterdir())]
    read = [read_message(entry) for entry in entries]
    assert [one and one[0] for one in read] == ["job_1", "job_2", "job_3"]
    signer = Signer(tmp_path)
    assert all(one is not None and signer.verify(*one) for one in read)
    assert not signer.verify("job_1", read[1][1])  # type: ignore[index]
    assert not Signer(tmp_path / "other").verify("job_1", read[0][1])  # type: ignore[index]
    for path in (folder, folder.parent, folder.parent / "control", tmp_path / "queue"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    assert stat.S_IMODE((tmp_path / "queue" / "key").stat().st_mode) == 0o600


def test_a_message_is_no_larger_than_it_must_be_and_names_nobody() -> None:
    message = json.loads(encode_message("job_1", "s" * 32, "default"))
    assert message["headers"]["task"] == "sage.run"
    assert "s" * 32 not in json.dumps(message["headers"])  # Flower shows those
    assert len(encode_message("job_1", "s" * 32, "default")) < 1200


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"not json",
        b"\x80\x04\x95",
        b"[]",
        b"null",
        b'"x"',
        b"[" * 8000,
        b"{" * 3000,
        b"x" * 100_000,
        json.dumps({"body": "gAR9", "headers": {}, "properties": {}}).encode(),
        encode_message("job_1", "s" * 32, "default").replace(b"application/json", b"application/x-python-serialize"),
        encode_message("job_1", "s" * 32, "default").replace(b"sage.run", b"celery.backend_cleanup"),
        encode_message("../../etc", "s" * 32, "default"),
        encode_message("job_1", "short", "default"),
        encode_message("job_1", "s" * 32, "default").replace(b'"body":"', b'"body":"!'),
    ],
)
def test_what_is_not_ours_is_not_read(entry: bytes) -> None:
    assert read_message(entry) is None


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(publisher: Publisher) -> None:
        await publisher.publish(["job_1"])
        folder = str(tmp_path / "queue")
        real = builtins.open

        def open_on_full_disk(file: object, mode: str = "r", *rest: object, **options: object) -> object:
            if str(file).startswith(folder) and "x" in mode:
                real(file, mode).close()  # type: ignore[call-overload]
                return real("/dev/full", "wb")
            return real(file, mode, *rest, **options)  # type: ignore[call-overload]

        monkeypatch.setattr(builtins, "open", open_on_full_disk)
        assert await refused(publisher) < 1
        monkeypatch.undo()
        assert await publisher.depth() == 1
        await publisher.publish(["job_2"])

    run(tmp_path, None, use)
    assert len(list((tmp_path / "queue" / "broker" / "messages").iterdir())) == 2


def test_another_broker_than_redis_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"queue\.broker is not the URL"):
        Publisher(QueueSettings(broker=SecretStr("amqp://host")), tmp_path, Signer(tmp_path))


@pytest.mark.slow
def test_no_celery_is_imported_for_messages_in_files(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from sage.middleware.queue.publisher import Publisher\n"
        "from sage.middleware.queue.signing import Signer\n"
        "from sage.middleware.settings.queue import QueueSettings\n"
        "d = Path(sys.argv[1]); asyncio.run(Publisher(QueueSettings(), d, Signer(d)).publish(['job_1']))\n"
        "print(sorted({'celery', 'kombu', 'redis'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_redis_gets_what_kombu_reads(tmp_path: Path, server: Valkey) -> None:
    async def use(publisher: Publisher) -> None:
        await publisher.publish([f"job_{number}" for number in range(3)])
        assert await publisher.depth() == 3

    run(tmp_path, server.url, use)
    with server.client as client:
        entries = client.lrange("sage.jobs.default", 0, -1)
        client.flushall()
    assert [read_message(entry)[0] for entry in reversed(entries)] == ["job_0", "job_1", "job_2"]  # type: ignore[index, union-attr, arg-type]


def test_a_wrong_password_is_refused_at_once(tmp_path: Path, server: Valkey) -> None:
    async def use(publisher: Publisher) -> None:
        assert await refused(publisher) < 1

    run(tmp_path, server.url.replace("redis://", "redis://:wrong@"), use)


@pytest.mark.slow
def test_a_frozen_a_dead_and_a_new_server(tmp_path: Path) -> None:
    with valkey() as running:

        async def use(publisher: Publisher) -> None:
            await publisher.publish(["job_1"])
            running.process.send_signal(signal.SIGSTOP)
            try:
                assert await refused(publisher) < 1
                assert await refused(publisher) < 1
                both = await asyncio.gather(refused(publisher), refused(publisher), refused(publisher))
                assert max(both) < 1
            finally:
                running.process.send_signal(signal.SIGCONT)
            end = time.monotonic() + 5
            while True:  # a call that had been given up may still be on its way
                try:
                    await publisher.publish(["job_2"])
                    break
                except Unavailable:
                    assert time.monotonic() < end
                    await asyncio.sleep(0.05)
            with running.client as client:
                client.client_kill_filter(_type="normal", skipme=True)
            await publisher.publish(["job_3"])  # its connection was closed: it makes a new one
            running.process.kill()
            running.process.wait()
            assert await refused(publisher) < 1
            assert await refused(publisher) < 1

        run(tmp_path, running.url, use)


def test_listeners_that_are_gone_get_nothing_more(tmp_path: Path) -> None:
    """A Flower that was killed leaves its queue behind: its messages are removed, and no new ones are made for it."""
    app = make_celery_app(QueueSettings(), tmp_path)
    folder = make_broker_folders(tmp_path)
    with app.connection() as connection:
        exchange = Exchange("celeryev", "topic")
        gone, here = (Queue(f"celeryev.{name}", exchange, routing_key="#") for name in ("gone", "here"))
        for queue in (gone, here):
            queue(connection.default_channel).declare()
        producer = connection.Producer(exchange=exchange, serializer="json")
        producer.publish({"n": 1}, routing_key="task.x")
        put_file(folder, "sage.jobs.default", b"job")
        names = sorted(os.listdir(folder))
        assert len(names) == 3
        for name in names:
            if "here" not in name:
                os.utime(folder / name, (0, 0))
        clean_broker_folder(tmp_path)
        assert [name.partition(".")[2] for name in sorted(os.listdir(folder))] == [
            name.partition(".")[2] for name in names if "gone" not in name
        ]
        producer.publish({"n": 2}, routing_key="task.x")
    queues = sorted(name.partition(".")[2] for name in os.listdir(folder))
    assert queues == ["celeryev.here.msg", "celeryev.here.msg", "sage.jobs.default.msg"]
    app.close()
