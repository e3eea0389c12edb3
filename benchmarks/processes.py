"""Child processes of a benchmark: started, awaited, measured as whole families from ``/proc``, and ended by pid."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_FOREIGN = ("SAGE_", "OPENAI_", "OLLAMA_", "VLLM_", "ZHIPUAI_", "ZAI_", "CO_", "COHERE_", "LITELLM_")


class BenchmarkError(Exception):
    """The benchmark itself cannot go on."""


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would configure a gateway or keep Python from caching bytecode."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | dict(extra)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the command's name: state, parent and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
    members = [pid]
    for member in members:
        members += children.get(member, [])
    return members


@dataclass(frozen=True)
class Cpu:
    """CPU time of a family of processes: of each living thread in nanoseconds, and of all that ever were in ticks."""

    threads: dict[tuple[int, str], int]
    """By process and thread."""
    ticks: int

    def since(self, before: Cpu) -> float:
        """Seconds used since then: exact, and in ticks of 10 ms if threads or processes that worked have ended."""
        exact = sum(spent - before.threads.get(thread, 0) for thread, spent in self.threads.items()) / 1e9
        if before.threads.keys() <= self.threads.keys():
            return exact
        return max(exact, (self.ticks - before.ticks) / _TICK)

    def busiest_since(self, before: Cpu) -> float:
        """Seconds that the process used that used most."""
        spent: Counter[int] = Counter()
        for thread, nanoseconds in self.threads.items():
            spent[thread[0]] += nanoseconds - before.threads.get(thread, 0)
        return max(spent.values()) / 1e9


def cpu_of(pid: int) -> Cpu:
    """What the process and all that descend from it have used until now."""
    exact, ticks = {}, 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            ticks += sum(int(value) for value in _stat(member)[11:15])
            for task in Path(f"/proc/{member}/task").iterdir():
                exact[member, task.name] = int((task / "schedstat").read_bytes().split()[0])
    return Cpu(exact, ticks)


class Server:
    """One server as a child process, with its family; its output goes to a file."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        cores: frozenset[int] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.started = time.perf_counter()
        with log.open("ab") as output, _bound_to(cores):
            self._process = subprocess.Popen(
                argv,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it
            )

    def wait_ready(self, port: int, path: str, limit: float) -> float:
        """Seconds from its start to the first 200 of ``path``, asked every 10 ms."""
        seen = "no answer"
        while time.perf_counter() - self.started < limit:
            if self._process.poll() is not None:
                raise self.failure(f"ended with status {self._process.returncode}")
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                seen = f"status {response.status}: {response.read()[:200]!r}"
                if response.status == 200:
                    return time.perf_counter() - self.started
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.01)
        raise self.failure(f"not ready after {limit:.0f} s ({path}: {seen})")

    def failure(self, what: str) -> BenchmarkError:
        lines = self.log.read_text(errors="replace").splitlines()[-12:]
        return BenchmarkError("\n  ".join([f"{self.name}: {what}; the end of its output:", *lines]))

    def cpu(self) -> Cpu:
        """What the family has used until now; raises when it has ended."""
        found = cpu_of(self._process.pid)
        if self._process.poll() is not None:
            raise self.failure(f"ended with status {self._process.returncode} under the load")
        return found

    def cpu_seconds(self) -> float:
        """User and system time of the family, ended children included, to a tick of 10 ms."""
        return self.cpu().ticks / _TICK

    def memory(self) -> tuple[float, float]:
        """Resident and proportional memory of the family, in MiB."""
        resident = proportional = 0
        for pid in family(self._process.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    resident += int(line.split()[1]) if line.startswith("Rss:") else 0
                    proportional += int(line.split()[1]) if line.startswith("Pss:") else 0
        return resident / 1024, proportional / 1024

    def stop(self) -> None:
        """Ends the process, and after it whoever of its family is left."""
        births = {}
        for pid in family(self._process.pid)[1:]:
            with contextlib.suppress(OSError):
                births[pid] = _stat(pid)[19]
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid, birth in births.items():
            with contextlib.suppress(OSError):
                if _stat(pid)[19] == birth:
                    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _bound_to(cores: frozenset[int] | None) -> Iterator[None]:
    """Children that start in the block use only these processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running(
    name: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    cores: frozenset[int] | None = None,
) -> Iterator[Server]:
    """A server that ends with the block; it uses only those processors if some are given."""
    server = Server(name, argv, environment, log, cores)
    try:
        yield server
    finally:
        server.stop()


def command(argv: Sequence[str], environment: Mapping[str, str], given: str = "") -> str:
    """What a command prints, without the white space around it; raises when it fails."""
    done = subprocess.run(argv, env=dict(environment), input=given, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise BenchmarkError(
            f"{' '.join(argv)}: status {done.returncode}: {(done.stderr or done.stdout).strip()[-800:]}"
        )
    return done.stdout.strip()


def script(name: str) -> list[str]:
    """The command that runs a script of this folder."""
    return [sys.executable, str(Path(__file__).parent / name)]
