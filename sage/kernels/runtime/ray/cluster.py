"""The Ray cluster of an environment: started on this machine, or joined; always with a token."""

from __future__ import annotations

import contextlib
import difflib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from sage.errors import ConfigError, InvalidRequest, Unavailable
from sage.kernels.runtime.ray.package import load_ray
from sage.kernels.runtime.ray.patience import Patience
from sage.processors import contention

_DEFAULTS: dict[str, Any] = {
    "address": None,
    "dashboard": False,
    "node_ip_address": None,
    "num_cpus": None,
    "object_store_memory": None,
    "runtime_env": None,
    "start_timeout": 60.0,
    "temp_dir": None,
    "token_path": None,
}
_LOOPBACK = "127.0.0.1"
"""With this address, and no other, Ray's servers listen nowhere else."""
_BUSY = 2.0
"""Threads for each processor with which a machine counts as busy."""
_WORKER_START = "600"
"""Seconds."""
_OPEN, _CLOSED = 7, 8
_PROBE = f"""
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).internal_kv_exists(b"sage", b"sage", timeout=10)
except AuthenticationError:
    sys.exit({_CLOSED})
sys.exit({_OPEN})
"""
_PROBE_SECONDS = 60.0


class _Uses:
    """Counts the environments that use Ray in this process: a process has one Ray at most, so there is one count."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.ours = False


_uses = _Uses()


class RayCluster:
    """``config`` may have these keys: ``address`` (``host:port`` of a cluster to join; ``None`` means the one that this
    process uses already, else a new one on this machine), ``dashboard`` (off), ``num_cpus``, ``object_store_memory``
    (bytes), ``temp_dir`` (a short path, since it holds sockets), ``token_path``, ``node_ip_address``, ``runtime_env``
    (Ray's, for machines that lack the code) and ``start_timeout`` (seconds that the actors of a service have to be
    placed and set up, on an idle machine; beside other work they have longer)."""

    def __init__(self, environment: str, config: Mapping[str, Any]) -> None:
        self.environment = environment
        self.namespace = f"sage/{environment}/{secrets.token_hex(8)}"
        self._config = _DEFAULTS | _checked(config)
        self._open = False

    def patience(self) -> Patience:
        """With the start of one service or stage."""
        return Patience(float(self._config["start_timeout"]))

    def open(self) -> None:
        """Raises :class:`MissingExtra` without Ray, :class:`ConfigError` for a cluster without token authentication,
        :class:`Unavailable` for one that does not answer."""
        with _uses.lock:
            if self._open:
                return
            _require_token(self._config["token_path"], make=self._config["address"] is None)
            ray = load_ray()
            if ray.is_initialized():
                self._check_running(ray)
            else:
                self._connect(ray)
                _uses.ours = True
            _uses.count += 1
            self._open = True

    def close(self) -> None:
        """A Ray that was started or joined here ends with its last user."""
        with _uses.lock:
            if not self._open:
                return
            self._open = False
            _uses.count -= 1
            if _uses.count == 0 and _uses.ours:
                _uses.ours = False
                load_ray().shutdown()

    def actor_options(self, name: str, placement: Mapping[str, Any]) -> dict[str, Any]:
        """Ray's options for an actor; those of ``placement`` win. Raises :class:`InvalidRequest` for an option that the
        environment sets itself."""
        for option in ("name", "namespace", "lifetime", "get_if_exists", "concurrency_groups", "max_task_retries"):
            if option in placement:
                raise InvalidRequest(
                    f"the placement of '{name}' cannot set '{option}': the environment does", param=option
                )
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "namespace": self.namespace, **placement}
        if self._config["runtime_env"] and "runtime_env" not in options:
            options["runtime_env"] = self._config["runtime_env"]
        return options

    def _check_running(self, ray: Any) -> None:
        if not _uses.ours and not _answers_only_with_token(ray.get_runtime_context().gcs_address):
            raise _runs_open(ray.get_runtime_context().gcs_address)
        address = self._config["address"]
        if address is not None and address != ray.get_runtime_context().gcs_address:
            raise ConfigError(
                f"this process uses the Ray at {ray.get_runtime_context().gcs_address} already and cannot join "
                f"{address} too; end the other environment first, or run this one in a process of its own"
            )

    def _connect(self, ray: Any) -> None:
        config = self._config
        address = config["address"]
        if address is not None and not _answers_only_with_token(address):
            raise _runs_open(address)
        options: dict[str, Any] = {"_node_ip_address": config["node_ip_address"]}
        if address is None:
            options["_node_ip_address"] = config["node_ip_address"] or _LOOPBACK
            options |= {
                "num_cpus": config["num_cpus"],
                "object_store_memory": config["object_store_memory"],
                "include_dashboard": config["dashboard"],
                "_temp_dir": config["temp_dir"],
            }
        elif address.startswith("127."):
            options["_node_ip_address"] = config["node_ip_address"] or address.rpartition(":")[0]
        with _keep_signal_handler(), _stay_on_loopback(options.get("_node_ip_address") == _LOOPBACK):
            self._begin(ray, address, {name: value for name, value in options.items() if value is not None})

    def _begin(self, ray: Any, address: str | None, options: dict[str, Any]) -> None:
        """Ray allows its own processes 30 s to start, whatever else the machine does. A start that failed on a busy
        machine is tried again, as long as the patience lasts."""
        for _ in self.patience().waits():
            try:
                with _time_for_workers(own=address is None):
                    ray.init(
                        address=address or "local",
                        namespace=self.namespace,
                        job_config=_with_import_path(ray.job_config.JobConfig()),
                        log_to_driver=False,
                        logging_level="ERROR",
                        **options,
                    )
                return
            except Exception as exc:
                failure = exc
                if not _is_failed_start(exc):
                    raise
                if address is not None or contention() < _BUSY:
                    break
                ray.shutdown()  # ends the processes that have started
        where = f"the Ray cluster at {address} cannot be joined" if address else "Ray cannot be started"
        cause = str(failure).strip() or type(failure).__name__
        raise Unavailable(f"{where}: {cause}", code="ray_unavailable") from failure


def _is_failed_start(error: Exception) -> bool:
    """Ray raises a bare ``Exception`` when its node does not start in time."""
    kinds = (ConnectionError, load_ray().exceptions.RayError, RuntimeError, TimeoutError)
    return isinstance(error, kinds) or type(error) is Exception


@contextlib.contextmanager
def _time_for_workers(own: bool) -> Iterator[None]:
    """In a Ray of our ``own``, a worker may take minutes to start; Ray would end it after one and start another."""
    name = "RAY_worker_register_timeout_seconds"
    if not own or name in os.environ:
        yield
        return
    os.environ[name] = _WORKER_START
    try:
        yield
    finally:
        del os.environ[name]


@contextlib.contextmanager
def _stay_on_loopback(wanted: bool) -> Iterator[None]:
    """Where Ray could have several nodes it turns 127.0.0.1 into the machine's outer address and then listens on all
    interfaces (``ray._private.services.resolve_ip_for_localhost``). A Ray that is started here has one node."""
    if not wanted:
        yield
        return
    ray_constants = load_ray()._private.ray_constants
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _with_import_path(job_config: Any) -> Any:
    """Lets the actors import what this process can import; Ray itself passes on two directories only."""
    prefixes = tuple({sys.prefix, sys.base_prefix})
    paths = [os.path.abspath(path) for path in sys.path if path]
    job_config._py_driver_sys_path.extend(path for path in paths if not path.startswith(prefixes))
    return job_config


def _require_token(path: str | None, make: bool) -> None:
    """Makes Ray in this process, and all that it starts, ask for a token. With ``make``, a token is made when there is
    none."""
    environ = os.environ
    mode = environ.get("RAY_AUTH_MODE", "token").lower()
    if mode not in ("token", "k8s"):
        raise ConfigError(
            f"RAY_AUTH_MODE is '{mode}': Ray without authentication runs code of whoever reaches it; "
            "unset it, or set it to 'token'"
        )
    if path is not None:
        environ["RAY_AUTH_TOKEN_PATH"] = str(_checked_token(Path(path)))
        environ.pop("RAY_AUTH_TOKEN", None)
    elif "RAY_AUTH_TOKEN" not in environ and "RAY_AUTH_TOKEN_PATH" not in environ and not _has_default_token():
        if not make:
            raise ConfigError("joining a Ray cluster needs its token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
                              "the setting ray.token_path")  # fmt: skip
        environ["RAY_AUTH_TOKEN_PATH"] = str(_own_token())
    environ["RAY_AUTH_MODE"] = mode
    environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = load_ray()
    if not ray.is_initialized():
        ray._raylet.Config.initialize("")  # else it would use the environment of the moment when it was imported


def _has_default_token() -> bool:
    return (Path.home() / ".ray" / "auth_token").is_file()


def _checked_token(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"there is no Ray token at {path} (ray.token_path)")
    return path


def _own_token() -> Path:
    """The token in the data directory, made when it is first needed. Only the user of this process can read it."""
    directory = Path(os.environ.get("SAGE_DATA_DIR") or platformdirs.user_data_dir("sage", appauthor=False))
    path = directory / "ray-token"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, written = tempfile.mkstemp(dir=directory, prefix=".ray-token")  # 0600
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(written, path)  # when two processes make one at a time, the first wins
        except FileExistsError:
            pass
        finally:
            os.unlink(written)
    return path


def _answers_only_with_token(address: str) -> bool:
    """Asks the cluster without any token. A process of its own does this, since Ray keeps the token of a process."""
    hidden = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-c", _PROBE, address]
    try:
        probe = subprocess.run(  # noqa: S603 - the command is ours
            command, env=environment | {"RAY_AUTH_MODE": "disabled"}, capture_output=True, timeout=_PROBE_SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the Ray cluster at {address} does not answer", code="ray_unavailable") from None
    if probe.returncode in (_OPEN, _CLOSED):
        return probe.returncode == _CLOSED
    lines = probe.stderr.decode(errors="replace").strip().splitlines()
    raise Unavailable(
        f"the Ray cluster at {address} does not answer: {lines[-1] if lines else probe.returncode}",
        code="ray_unavailable",
    )


def _runs_open(address: str) -> ConfigError:
    return ConfigError(
        f"the Ray cluster at {address} runs without authentication, so whoever reaches it runs code there; "
        "start it with RAY_AUTH_MODE=token and a token (ray get-auth-token --generate)",
        code="ray_open",
    )


@contextlib.contextmanager
def _keep_signal_handler() -> Iterator[None]:
    """Ray installs a handler for SIGTERM; this brings back the one before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    for key in config:
        if key not in _DEFAULTS:
            similar = difflib.get_close_matches(str(key), _DEFAULTS, 1)
            hint = f"; did you mean '{similar[0]}'?" if similar else f"; there are: {', '.join(_DEFAULTS)}"
            raise InvalidRequest(f"the setting 'ray' has no '{key}'{hint}", param=f"ray.{key}")
    address = config.get("address")
    if address is not None and (not isinstance(address, str) or "://" in address or ":" not in address):
        raise InvalidRequest(f"ray.address must be 'host:port' of a head node, not {address!r}", param="ray.address")
    return dict(config)
