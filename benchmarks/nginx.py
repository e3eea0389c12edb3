"""nginx as a reverse proxy with the upstream's key: the yardstick, one worker, connections kept alive on both sides."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from wire import UPSTREAM_KEY

INSTALL = "apt-get install nginx-light"

_CONFIG = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
error_log stderr;
pid {folder}/nginx-{port}.pid;
{user}
events {{ worker_connections 8192; }}
http {{
    access_log {folder}/nginx-access-{port}.log;
    client_body_temp_path {folder}/nginx-bodies;
    proxy_temp_path {folder}/nginx-answers;
    fastcgi_temp_path {folder}/nginx-unused;
    uwsgi_temp_path {folder}/nginx-unused;
    scgi_temp_path {folder}/nginx-unused;
    client_max_body_size 64m;
    keepalive_requests 1000000;
    upstream scripted {{
        server 127.0.0.1:{upstream};
        keepalive 2048;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /ready {{ access_log off; return 200; }}
        location / {{
            proxy_pass http://scripted;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization "Bearer {key}";
            proxy_buffering off;
            {bodies}
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


def executable() -> str | None:
    """Where nginx is; Debian keeps it out of the path of plain users."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def arguments(folder: Path, port: int, upstream_port: int) -> list[str]:
    """What follows the executable so that it serves on that port, its configuration written to the folder."""
    return _configured(folder, port, upstream_port, "proxy_request_buffering off;")


def arguments_as_installed(folder: Path, port: int, upstream_port: int) -> list[str]:
    """The same with nginx's own setting for bodies: those over 16 KB go through a file on their way."""
    return _configured(folder, port, upstream_port, "")


def _configured(folder: Path, port: int, upstream_port: int, bodies: str) -> list[str]:
    # As root, nginx's workers would be another user's, who may not enter the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / f"nginx-{port}.conf"
    values = {"folder": folder, "user": user, "port": port, "upstream": upstream_port, "bodies": bodies}
    config.write_text(_CONFIG.format(key=UPSTREAM_KEY, **values))
    return ["-c", str(config), "-e", "stderr"]
