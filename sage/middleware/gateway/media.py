"""URLs in messages, which an upstream would fetch: only ``data:``, or http(s) from allowed hosts.

Servers know many spellings (``image_url``, ``image``, ``source``, ``file_url``, ``video_url``…). So every text in a
part counts as a URL if its form or its key says so, except the ``text`` of a part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from sage.errors import InvalidRequest

# A scheme that can be fetched, any scheme with a slash, or two slashes and a host (base64 has no dot or colon).
_LOOKS_LIKE_URL = re.compile(
    r"(?:https?|ftps?|file|s3|gs|smb|jar|gopher|dict):|[a-z][a-z0-9+.\-]*:/|[/\\]{2}[^/?#\\]*[.:\]]", re.I
)
_INVISIBLE = re.compile(r"[\x00-\x20\x7f]+")  # parsers of URLs ignore these
_URL_KEY = re.compile(r"ur[il]s?$", re.I)
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\@]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# How picture files begin in base64. Zhipu's SDK removes the head of a data: URL, and `_restore_head` adds it again.
_PICTURES = {"iVBORw0KGgo": "png", "/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp"}


def check_parts(parts: list[Any], where: str, hosts: Sequence[str]) -> None:
    """Raises :class:`InvalidRequest`, naming the field, for a part that would make an upstream fetch from elsewhere."""
    for index, part in enumerate(parts):
        field = f"{where}[{index}]"
        if not isinstance(part, dict):
            raise InvalidRequest(f"{field} must be an object with a 'type'", param=field)
        if str(part.get("type", "")).endswith("_embeds"):
            raise InvalidRequest(f"{field}: parts of embeddings are not passed on", param=field)
        if isinstance(part.get("image_url"), dict):
            _restore_head(part["image_url"])
        for key, value in part.items():
            if key == "type" or (key == "text" and isinstance(value, str)):
                continue
            _check(value, f"{field}.{key}", hosts, named=_URL_KEY.search(key) is not None)


def _restore_head(image: dict[str, Any]) -> None:
    """Makes a data: URL of bare base64, which only Zhipu's server takes for a picture."""
    url = image.get("url")
    if isinstance(url, str) and not url.startswith("data:"):
        kind = next((kind for start, kind in _PICTURES.items() if url.startswith(start)), None)
        if kind is not None:
            image["url"] = f"data:image/{kind};base64,{url}"


def _check(value: Any, where: str, hosts: Sequence[str], *, named: bool) -> None:
    """``named`` means that the key says that this is a URL, so it must be a valid one."""
    if isinstance(value, str):
        if named or _LOOKS_LIKE_URL.match(_INVISIBLE.sub("", value[:300])):
            _check_url(value, where, hosts)
    elif isinstance(value, dict):
        if named and not value.get("url"):
            raise InvalidRequest(f"{where} must carry a URL", param=where)
        for key, inner in value.items():
            _check(inner, where, hosts, named=_URL_KEY.search(key) is not None)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, where, hosts, named=named)
    elif named:
        raise InvalidRequest(f"{where} must carry a URL", param=where)


def _check_url(url: str, where: str, hosts: Sequence[str]) -> None:
    if url.startswith("data:"):
        return
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidRequest(f"{where} is not a URL", param=where) from None
    usual = port is None or port == _DEFAULT_PORTS.get(parts.scheme)
    # What another parser may read differently (a backslash, a name before the host) is refused for every host.
    allowed = not _UNSAFE.search(url) and (host in hosts if usual else f"{host}:{port}" in hosts)
    if parts.scheme not in _DEFAULT_PORTS or not allowed:
        raise InvalidRequest(
            f"{where}: upstreams may not fetch from '{parts.scheme}://{host[:100]}'; send a data: URL, or "
            "have an administrator add the host (host:port for a port of its own) to llm.limits.image_hosts",
            param=where,
            code="url_not_allowed",
        )
