"""The Celery application: JSON only, no results, no redelivery, private directories."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sage.errors import MissingExtra
from sage.middleware.queue.messages import QUEUE_PREFIX
from sage.middleware.queue.transports import FILES, REDIS, file_options, register_transports
from sage.middleware.settings.queue import QueueSettings, check_broker
from sage.private_files import make_private_dir

DEFAULT_QUEUE = "default"
_SOCKET_SECONDS = 10.0
_START_SECONDS = 300.0
"""How long a process of the pool may take to start; then it is killed, and another begins. Celery's own 4 seconds are
too few where the machine is busy, since workers give way to others: each was killed before it could begin, and jobs
waited until the machine had less to do."""


def is_celery_installed() -> bool:
    """Whether the extra 'queue' is there; imports nothing."""
    try:
        return importlib.util.find_spec("celery") is not None
    except ValueError:  # what an import would find there is no module
        return False


def broker_folder(data_dir: Path) -> Path:
    """Where messages are when no broker is configured."""
    return data_dir / "queue" / "broker"


def make_broker_folders(data_dir: Path) -> Path:
    """Makes the directories of the broker of files, which only their owner may enter; returns that of messages."""
    folder = broker_folder(data_dir)
    for directory in (data_dir, folder.parent, folder, folder / "messages", folder / "control"):
        make_private_dir(directory)  # each by itself: parents that it makes would be open to others
    return folder / "messages"


def make_celery_app(queue: QueueSettings, data_dir: Path) -> Any:
    """The application for a worker, or for a program that watches workers (Flower). Connects to nothing.

    Raises :class:`ConfigError` for a broker that is none of ours, and :class:`MissingExtra`.
    """
    try:
        from celery import Celery
    except ImportError as exc:
        raise MissingExtra("the queue of jobs", "queue") from exc
    check_broker(queue.broker)
    register_transports()
    app = Celery("sage", set_as_current=False, changes=_settings() | _broker(queue, data_dir))
    app.conf.task_default_queue = QUEUE_PREFIX + DEFAULT_QUEUE
    return app


def _settings() -> dict[str, Any]:
    return {
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "result_accept_content": ["json"],
        "event_serializer": "json",
        "result_backend": None,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_send_sent_event": False,
        "task_remote_tracebacks": False,
        "task_create_missing_queues": True,
        "task_protocol": 2,
        "worker_prefetch_multiplier": 1,
        "worker_proc_alive_timeout": _START_SECONDS,
        "worker_send_task_events": False,  # Flower asks for them
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_prefetch_count_reduction": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,  # a server that refuses a command (READONLY, OOM) ends no worker
        "broker_connection_timeout": _SOCKET_SECONDS,
        "broker_pool_limit": 2,
        "enable_utc": True,
        "timezone": "UTC",
    }


def _broker(queue: QueueSettings, data_dir: Path) -> dict[str, Any]:
    if queue.broker is None:
        make_broker_folders(data_dir)
        return {
            "broker_url": "filesystem://localhost",
            "broker_transport": FILES,
            "broker_transport_options": file_options(broker_folder(data_dir)),
        }
    url = queue.broker.get_secret_value()
    options = {
        "priority_steps": [0],
        "ack_emulation": False,
        "socket_timeout": _SOCKET_SECONDS,
        "socket_connect_timeout": _SOCKET_SECONDS,
        "socket_keepalive": True,
        "queue_order_strategy": "round_robin",
    }
    settings: dict[str, Any] = {"broker_url": url, "broker_transport": REDIS, "broker_transport_options": options}
    if url.startswith("rediss://"):
        settings["broker_use_ssl"] = tls_options(url)
    return settings


def tls_options(url: str) -> dict[str, Any]:
    """What ``redis`` is told about TLS: certificates are checked, unless the URL says ``ssl_cert_reqs=none``."""
    query = {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items()}
    options = {name: value for name, value in query.items() if name.startswith("ssl_")}
    return {"ssl_cert_reqs": "required", **options}
