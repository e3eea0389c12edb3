"""Builds both images, runs them as a new user would and takes everything away again: what `make image-test` calls.

Needs buildah and podman, no engine that runs all the time and no root. The environment says what a machine needs:

=====================  =============================================================================================
IMAGE_BASE             a base image instead of the Dockerfile's; ``stand-in``: made here from Debian's packages, for
                       machines that reach a Debian mirror and no registry (needs debootstrap and root)
IMAGE_STORAGE          storage driver of both tools, such as ``vfs`` (default: theirs)
IMAGE_ISOLATION        buildah's isolation (default: ``chroot``)
IMAGE_BUILD_FLAGS      more flags of ``buildah build``
IMAGE_PODMAN_FLAGS     flags of ``podman`` itself, such as ``--runtime runc``
IMAGE_RUN_FLAGS        more flags of ``podman run``, such as ``--dns 192.0.2.1``
IMAGE_NETWORK          ``host``: the containers share the host's network, and the gateway listens on its loopback
IMAGE_REMOVE           ``1``: the images and the stages of their build go too at the end
PIP_CERT               a certificate file for the build's downloads, handed in as a build secret
=====================  =============================================================================================
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "localhost/sage-middleware"
STAND_IN = "localhost/sage-base:stand-in"
STAGE = "SAGE Middleware, a stage of its build"
GATEWAY_LIMIT = 600 * 10**6
QUESTION = {"model": "gemma-3-270m", "prompt": "What is the capital of France?", "temperature": 0}
# Nothing of this machine's proxies may come between the test and a loopback port.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def flags(name: str) -> list[str]:
    return shlex.split(os.environ.get(name, ""))


def storage() -> list[str]:
    driver = os.environ.get("IMAGE_STORAGE")
    return ["--storage-driver", driver] if driver else []


def run(*command: str, given: str | None = None, check: bool = True) -> str:
    """A command's stdout; a failure shows all that it said."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=ROOT)
    if check and done.returncode != 0:
        raise SystemExit(f"{shlex.join(command)}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def podman(*arguments: str, given: str | None = None, check: bool = True) -> str:
    return run("podman", *storage(), *flags("IMAGE_PODMAN_FLAGS"), *arguments, given=given, check=check)


def wait_for(what: str, seconds: float, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about in {seconds:g} s")
        time.sleep(0.1)


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    print(f"ok  {text} ({time.monotonic() - begun:.1f} s)", flush=True)


def build(target: str) -> str:
    tag = f"{REPOSITORY}:{target}"
    command = ["buildah", *storage(), "build", "--layers", "--format", "docker"]
    command += ["--isolation", os.environ.get("IMAGE_ISOLATION", "chroot"), "--target", target, "-t", tag]
    if base := os.environ.get("IMAGE_BASE"):
        command += ["--build-arg", f"BASE={STAND_IN if base == 'stand-in' else base}"]
    if certificate := os.environ.get("PIP_CERT"):
        command += ["--secret", f"id=pip_cert,src={certificate}"]
    with step(f"{target}: built"):
        run(*command, *flags("IMAGE_BUILD_FLAGS"), "-f", "Dockerfile", ".")
    return tag


def make_stand_in() -> None:
    if run("buildah", *storage(), "images", "-q", "--filter", f"reference={STAND_IN}"):
        return
    with step("stand-in for the base image: made"):
        run("sh", "tests/image/stand_in.sh", STAND_IN, *storage(), *flags("IMAGE_PODMAN_FLAGS"))


@dataclass
class Answer:
    status: int
    body: Any


@dataclass
class Container:
    """A gateway in a container, with the narrowest rights it is meant to run with."""

    image: str
    volume: str
    port: int = field(default_factory=lambda: free_port())
    name: str = field(default_factory=lambda: f"sage-image-test-{secrets.token_hex(4)}")

    def start(self) -> None:
        narrow = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        # Podman's own timer for health checks needs systemd; `healthy` asks instead.
        narrow += ["--health-interval", "disable"]
        if os.environ.get("IMAGE_NETWORK") == "host":
            network = ["--network", "host", "-e", "SAGE_API__HOST=127.0.0.1", "-e", f"SAGE_API__PORT={self.port}"]
        else:
            network = ["-p", f"127.0.0.1:{self.port}:8000"]
        options = [*narrow, *network, *own_limits(), "-v", f"{self.volume}:/data", *flags("IMAGE_RUN_FLAGS")]
        podman("run", "-d", "--name", self.name, *options, self.image)
        wait_for(f"{self.image}: an answer on /health", 30, lambda: self.alive())

    def alive(self) -> bool:
        if self.state("Status") != "running":
            raise AssertionError(f"{self.image} ended by itself:\n{self.logs()}")
        with contextlib.suppress(OSError):
            return self.ask("GET", "/health").status == 200
        return False

    def ask(self, method: str, path: str, body: object = None, token: str | None = None) -> Answer:
        headers = {"content-type": "application/json"} if body is not None else {}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        try:
            with DIRECT.open(request, timeout=60) as response:
                return Answer(response.status, json.loads(response.read() or b"null"))
        except urllib.error.HTTPError as refusal:
            with refusal:
                return Answer(refusal.code, json.loads(refusal.read() or b"null"))

    def execute(self, *command: str, given: str | None = None, check: bool = True) -> str:
        return podman("exec", *(["-i"] if given is not None else []), self.name, *command, given=given, check=check)

    def python(self, code: str) -> Any:
        return json.loads(self.execute("python", "-c", f"import json, os, shutil\nprint(json.dumps({code}))"))

    def state(self, key: str) -> str:
        return podman("inspect", "--format", f"{{{{.State.{key}}}}}", self.name)

    def logs(self) -> str:
        done = subprocess.run(
            ["podman", *storage(), *flags("IMAGE_PODMAN_FLAGS"), "logs", self.name], capture_output=True, text=True
        )
        return done.stdout + done.stderr

    def stop(self) -> None:
        """By SIGTERM, as every orchestrator does: the gateway ends itself, with 0."""
        begun = time.monotonic()
        podman("stop", "-t", "20", self.name)
        took, code = time.monotonic() - begun, self.state("ExitCode")
        assert code == "0", f"SIGTERM ended it with {code}, not 0:\n{self.logs()}"
        assert took < 10, f"SIGTERM took {took:.1f} s"

    def remove(self) -> None:
        podman("rm", "-f", "-t", "2", self.name, check=False)


def own_limits() -> list[str]:
    """The limits of this process: podman's defaults may be above what the machine allows."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    _, processes = resource.getrlimit(resource.RLIMIT_NPROC)
    most = int(Path("/proc/sys/kernel/pid_max").read_text())  # podman lowers its own limit to this
    processes = most if processes == resource.RLIM_INFINITY else min(processes, most)
    return ["--ulimit", f"nofile={files}:{files}", "--ulimit", f"nproc={processes}:{processes}"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(image: str, volume: str) -> Iterator[Container]:
    container = Container(image, volume)
    try:
        container.start()
        yield container
    finally:
        container.remove()


@contextlib.contextmanager
def fresh_volume() -> Iterator[str]:
    name = podman("volume", "create", f"sage-image-test-{secrets.token_hex(4)}")
    try:
        yield name
    finally:
        podman("volume", "rm", "-f", name, check=False)


def check_size(image: str) -> int:
    size = int(podman("image", "inspect", "--format", "{{.Size}}", image))
    print(f"    {image}: {size / 10**6:.0f} MB", flush=True)
    return size


def check_contents(container: Container) -> None:
    uid = container.python("os.getuid()")
    assert uid == 10001, f"runs as {uid}"
    with step("runs as 10001; writes to /data and nowhere else; carries no compiler, no pip"):
        container.python("open('/data/probe', 'w').close() or os.remove('/data/probe')")
        # By owner and mode, since under --read-only nothing at all would seem writable.
        own = "[d for d, s in ((d, os.stat(d)) for d in PLACES) if s.st_uid == os.getuid() or s.st_mode & 2]"
        places = "('/', '/opt/sage', '/opt/sage/bin/sage', '/etc', '/etc/passwd', '/var', '/usr', '/home')"
        assert container.python(own.replace("PLACES", places)) == []
        assert container.python("[t for t in ('gcc', 'cc', 'ld', 'curl') if shutil.which(t)]") == []
        assert container.python("__import__('importlib.util').util.find_spec('pip') is None") is True
    with step("its own health check passes"):
        podman("healthcheck", "run", container.name)


def check_first_user(container: Container) -> str:
    """A token of the first user, both through `exec`, with the gateway running."""
    password = secrets.token_urlsafe(18)
    with step("first user, and a token for it, by exec"):
        container.execute("sage", "user", "add", "me", "--role", "admin", "--password-stdin", given=password + "\n")
        token = container.execute("sage", "token")
        assert token.count(".") == 2, f"not a token: {token!r}"
    me = container.ask("GET", "/auth/me", token=token)
    assert me.status == 200, me
    logs = container.logs()
    assert password not in logs, "the password stands in the log"
    assert token not in logs, "the token stands in the log"
    return token


def check_answer(container: Container, token: str) -> None:
    with step("POST /generate answers Paris; 401 without a credential"):
        refused = container.ask("POST", "/generate", QUESTION)
        assert refused.status == 401, refused
        assert refused.body["error"]["message"], refused
        answer = container.ask("POST", "/generate", QUESTION, token)
        assert answer.status == 200, answer
        assert answer.body["text"] == "Paris", answer
        assert answer.body["model"] == "gemma-3-270m", answer
        assert answer.body["usage"]["completion_tokens"] > 0, answer


def check_local(image: str) -> None:
    with fresh_volume() as volume:
        begun = time.monotonic()
        with running(image, volume) as container:
            print(f"    start to /health: {time.monotonic() - begun:.1f} s", flush=True)
            check_contents(container)
            token = check_first_user(container)
            check_answer(container, token)
            with step("what fetches models from a hub is there"):
                container.execute("python", "-c", "import huggingface_hub")
            with step("SIGTERM, with the engine loaded: ends by itself with 0"):
                container.stop()
        begun = time.monotonic()
        with running(image, volume) as again:
            with step("another container on the same volume knows the user and the token"):
                assert again.ask("GET", "/auth/me", token=token).status == 200
                check_answer(again, again.execute("sage", "token", "--user", "me"))
            print(f"    second start to its answer: {time.monotonic() - begun:.1f} s", flush=True)
            again.stop()


def check_gateway(image: str) -> None:
    with fresh_volume() as volume, running(image, volume) as container:
        check_contents(container)
        token = check_first_user(container)
        with step("without the engine: the model is named as missing, nothing pretends"):
            answer = container.ask("POST", "/generate", QUESTION, token)
            assert answer.status in (404, 503), answer
            assert "gemma-3-270m" in answer.body["error"]["message"], answer
        with step("SIGTERM: ends by itself with 0"):
            container.stop()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    if os.environ.get("IMAGE_BASE") == "stand-in":
        make_stand_in()
    images = {target: build(target) for target in ("gateway", "local")}
    try:
        sizes = {target: check_size(image) for target, image in images.items()}
        assert sizes["gateway"] < GATEWAY_LIMIT, f"gateway is {sizes['gateway']} bytes, over {GATEWAY_LIMIT}"
        check_gateway(images["gateway"])
        check_local(images["local"])
    finally:
        if os.environ.get("IMAGE_REMOVE") == "1":
            podman("rmi", "-f", *images.values(), check=False)
            podman("image", "prune", "-f", "--filter", f"label=org.opencontainers.image.title={STAGE}", check=False)
    print("image-test: all well")


if __name__ == "__main__":
    main()
