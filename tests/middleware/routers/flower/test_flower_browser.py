"""A real Flower behind the gateway in a real browser, with a real worker, on both brokers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from browser import Page, open_page
from flower_process import flower, wait_for, worker
from running_gateway import PASSWORD, Running
from sage_process import SAGE, environment, sage, without
from shared_gateway import one_model
from upstream import Upstream
from valkey_server import valkey

pytestmark = pytest.mark.slow


class Watched:
    """A gateway with a worker, and the Flower on its data directory. ``line`` is what ``sage flower`` printed."""

    def __init__(self, running: Running, env: dict[str, str], line: str) -> None:
        self.running = running
        self.env = env
        self.line = line

    @property
    def file(self) -> Path:
        return self.running.settings.data_dir / "queue" / "flower.json"

    def finish_job(self) -> str:
        """The id of a job that a worker has done."""
        job = self.running.post("/tasks/generate", {"model": "bench", "prompt": "hello"}).json()
        view = f"/tasks/{job['id']}"
        wait_for(lambda: self.running.get(view).json()["finished_at"] is not None, "no worker does the job")
        assert self.running.get(view).json()["state"] == "succeeded"
        return str(job["id"])


@pytest.fixture(scope="module", params=["files", "redis"])
def watched(
    request: pytest.FixtureRequest, module_gateway: Callable[..., Running], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """On files with the gateway's own worker, on Redis with one beside it."""
    with ExitStack() as stack:
        broker = None if request.param == "files" else stack.enter_context(valkey()).url
        upstream = stack.enter_context(Upstream())
        running = module_gateway(queue={"broker": broker}, **one_model(upstream))
        extra = {} if broker is None else {"SAGE_QUEUE__BROKER": broker}
        # What a stray environment and a file beside it would change, were they read.
        extra |= {"FLOWER_BASIC_AUTH": "open:sesame", "FLOWER_URL_PREFIX": "elsewhere", "FLOWER_ADDRESS": "0.0.0.0"}
        env = environment(running.settings.data_dir, **extra)
        directory = tmp_path_factory.mktemp("flower")
        (directory / "flowerconfig.py").write_text("raise SystemExit('this file is not read')\n")
        if broker is not None:
            stack.enter_context(worker(env, directory, running))
        yield Watched(running, env, stack.enter_context(flower(env, directory, "--port", "0")))


def strangers(page: Page, running: Running) -> list[str]:
    """The requests of ``page`` to anyone but ``running``; ``data:`` goes nowhere."""
    own = urlsplit(running.url).netloc
    return [url for url in page.requested if not url.startswith("data:") and urlsplit(url).netloc != own]


async def log_in(page: Page) -> None:
    await page.type("#username", "root")
    await page.type("#password", PASSWORD)
    await page.follow("form button")


def test_flowers_page_behind_the_login(watched: Watched, tmp_path: Path) -> None:
    running, done = watched.running, []

    def is_seen() -> bool:
        """A worker that has just started tells of its tasks once Flower has asked it to."""
        done.append(watched.finish_job())
        return running.get("/flower/api/tasks").json().get(done[-1], {}).get("name") == "sage.run"

    wait_for(is_seen, "Flower never heard of a job")
    [known] = running.get("/flower/workers?json=1").json()["data"]
    name = known["hostname"]

    async def visit() -> None:
        async with open_page(tmp_path / "profile") as page:
            await page.go(f"{running.url}/flower/")
            assert await page.evaluate("location.pathname") == "/flower/login"
            await log_in(page)
            await page.wait_for("document.querySelector('#workers-table tbody').textContent.includes('" + name + "')")
            assert await page.evaluate("location.pathname") == "/flower/"
            await page.follow("a[href='/flower/tasks']")
            await page.wait_for("document.querySelector('#tasks-table tbody').textContent.includes('SUCCESS')")
            tasks = await page.evaluate("document.querySelector('#tasks-table tbody').textContent")
            assert "sage.run" in tasks
            assert done[-1] in tasks
            await page.go(f"{running.url}/flower/worker/{name}")
            await page.wait_for("document.body.innerText.includes('Pool')")
            assert await page.evaluate("document.cookie") == ""
            assert await page.evaluate("fetch('/auth/me').then(answer => answer.status)") == 401
            assert strangers(page, running) == []
            assert [error for error in page.errors if "/auth/me" not in error] == []
            await page.go(f"{running.url}/flower/logout")
            assert "You have logged out." in await page.text("main")
            await page.go(f"{running.url}/flower/tasks")
            assert await page.evaluate("location.pathname + location.search") == "/flower/login?next=%2Fflower%2Ftasks"

    asyncio.run(visit())


def test_flower_answers_the_gateway_alone(watched: Watched) -> None:
    assert watched.line.startswith("Flower listens on http://127.0.0.1:")
    url = watched.line.split()[3].rstrip(";")
    content = json.loads(watched.file.read_text())
    assert content["url"] == url
    assert stat.S_IMODE(os.stat(watched.file).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(watched.file.parent).st_mode) == 0o700
    for path in ("/flower/", "/flower/api/workers", "/flower/api/tasks", "/flower/metrics"):
        for auth in (None, ("open", "sesame"), ("nobody", ""), ("sage", "")):
            assert requests.get(url + path, auth=auth, timeout=10).status_code == 401, (path, auth)
        assert requests.get(url + path, auth=("sage", content["password"]), timeout=10).status_code == 200
    shutdown = f"{url}/flower/api/worker/shutdown/any@worker"
    assert requests.post(shutdown, timeout=10).status_code == 401
    for path in ("/", "/healthcheck", "/metrics", "/flower/healthcheck", "/flower/static/favicon.ico"):
        assert requests.get(url + path, timeout=10).status_code == 401


def test_a_second_flower_is_refused(watched: Watched, tmp_path: Path) -> None:
    second = sage(["flower", "--port", "0"], watched.env, cwd=tmp_path)
    assert second.returncode == 1
    assert second.stderr == f"sage: 'sage flower' runs already on the data directory {watched.env['SAGE_DATA_DIR']}\n"
    assert watched.running.get("/flower/").status_code == 200


def test_flower_without_its_extra_names_it(tmp_path: Path) -> None:
    command = without(["flower", "flower.app"])
    done = subprocess.run([*command, "flower"], env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        "sage: 'sage flower' needs the extra 'queue': pip install 'intellistream-sage-middleware[queue]'\n"
    )


def test_the_end_of_flower_is_told(gateway: Callable[..., Running], tmp_path: Path) -> None:
    """Killed, it leaves its file behind; what then takes its port is not asked."""
    running = gateway()
    env = environment(running.settings.data_dir)
    process = subprocess.Popen(
        [*SAGE, "flower", "--port", "0"], env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        url = process.stdout.readline().split()[3].rstrip(";")
        wait_for(lambda: running.get("/flower/").status_code == 200, "Flower is not shown")
        process.kill()
        process.wait()
    assert json.loads((running.settings.data_dir / "queue" / "flower.json").read_text())["url"] == url
    down = running.get("/flower/")
    assert (down.status_code, down.json()["error"]["code"]) == (503, "flower_unavailable")
    assert "does not run: start it with 'sage flower'" in down.json()["error"]["message"]
    taken = urlsplit(url)
    with subprocess.Popen(
        [*SAGE, "flower", "--port", str(taken.port)], env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as again:
        assert again.stdout is not None
        assert again.stdout.readline().split()[3].rstrip(";") == url
        assert running.get("/flower/").status_code == 200
        again.terminate()
    assert again.returncode == 0
    assert running.get("/flower/").status_code == 503


def test_flower_elsewhere_has_the_configurations_password(gateway: Callable[..., Running], tmp_path: Path) -> None:
    """As in another container: another data directory, and only the configuration in common."""
    secret = {"SAGE_QUEUE__FLOWER__PASSWORD": "a password of sixteen or more"}
    env = environment(tmp_path / "other", **secret)
    with flower(env, tmp_path, "--port", "0", "--host", "0.0.0.0") as line:
        url = line.split()[3].rstrip(";")
        running = gateway(queue={"flower": {"url": url, "password": "a password of sixteen or more"}})
        assert running.get("/flower/api/workers").status_code == 200
        other = gateway(queue={"flower": {"url": url, "password": "another one of sixteen"}})
        assert "refused the gateway's password" in other.get("/flower/").json()["error"]["message"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_flower_ends_though_its_broker_is_frozen(number: int, status: int, tmp_path: Path) -> None:
    with valkey() as broker:
        env = environment(tmp_path / "data", SAGE_QUEUE__BROKER=broker.url)
        broker.process.send_signal(signal.SIGSTOP)
        with subprocess.Popen(
            [*SAGE, "flower", "--port", "0"], env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Flower listens on")
            url = json.loads((tmp_path / "data" / "queue" / "flower.json").read_text())["url"]
            assert requests.get(f"{url}/flower/", timeout=10).status_code == 401  # it runs
            process.send_signal(number)
            assert process.wait(10) == status
        assert (tmp_path / "data" / "queue" / "flower.json").read_text() == ""
