"""URLs and paths that an upstream would read from: only ``data:``, or http(s) from allowed hosts.

Servers know many spellings (``image_url``, ``image``, ``source``, ``file_url``, ``video_url``…), and readers of URLs
and paths forgive much. So a text counts as one of them by its form, or because its key says so, wherever it stands.
:mod:`sage.middleware.gateway.body_walk` knows which texts of a request are words instead.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from sage.errors import InvalidRequest
from sage.middleware.providers.wire.pictures import is_base64

_LOOKED_AT = 64
"""Visible characters at the front of a text that are looked at: no URL or path begins later."""
WINDOW = 512
"""Characters among which these are; where they are not, the text hides what it is."""
_SCHEMES = (
    "https?|ftps?|sftp|scp|ssh|tftp|telnet|file|local_file|s3|gs|gcs|az|abfss?|wasbs?|smb|cifs|nfs|jar|zip|blob|gopher"
    "|dict|ldaps?|rtsps?|rtmps?|rtp|srt|udp|tcp|unix|wss?|hdfs|webhdfs|ipfs|ipns|view-source"
)
_URL = re.compile(
    rf"(?:{_SCHEMES}):"  # a scheme that can be fetched
    r"|(?:[a-z][a-z0-9+._\-]*:)+[/\\]"  # any scheme with a slash, also one in another, and a drive: C:\
    r"|(?:\d{1,3}\.){3}\d{1,3}[:/]|\[[0-9a-f:.]*:[0-9a-f:.]*\][:/]|localhost[:/]",
    re.I,
)
_PATH = re.compile(
    r"[/\\]"  # from the root, or from a host after two slashes
    r"|(?:~[\w.\-]*|\.{1,2}|\$\{?\w+\}?|%\w+%)[/\\]"  # from home, from here, from a variable
)
_WRAPPING = "<([{\"'`@"
"""Readers of URLs take them out of these."""
_PATH_WRAPPING = "\"'`@"
"""The last is curl's sign for a file."""
_URL_KEY = re.compile(r"(?:ur[il]s?|href|_links?)$", re.I)
_MEDIA_KEY = re.compile(r"(?:^|[_\-.])(?:image|picture|photo|video|audio|frame|screenshot)s?$", re.I)
_BASE64_SOUND = re.compile(r"//[E-HI-LM-Pk-v]")
"""How files of MP3 and AAC begin in base64: as UNC paths do, too."""
_LONGEST_HOST = 255
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\@]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# How picture files begin in base64. Zhipu's SDK removes the head of a data: URL, and `restore_head` adds it again.
_PICTURES = {"iVBORw0KGgo": "png", "/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp"}


def names_url(key: str) -> bool:
    """Whether what stands under ``key`` is a URL, whatever it looks like."""
    return _URL_KEY.search(key) is not None


def check_text(text: str, where: str, key: str, hosts: Sequence[str], *, named: bool) -> None:
    """Raises :class:`InvalidRequest`, naming the field, for a text that would make an upstream read from elsewhere.

    ``named`` means that the key says that this is a URL, so it must be a valid one.
    """
    if named or (not text.startswith("data:") and _is_address(text, key)):
        _check_url(text, where, hosts)


def _is_address(text: str, key: str) -> bool:
    if text[:WINDOW].isalnum():  # not all of it: pictures have megabytes
        return False
    if _MEDIA_KEY.search(key) and not is_base64(text) and "." in text[:WINDOW]:
        return True  # `image: secret.png`, which a server may look for in its own directory
    if text.startswith("/") and _is_base64_of_media(text, key):
        return False
    visible = _visible(text)
    if len(visible) < _LOOKED_AT and len(text) > WINDOW:
        return True
    plain = visible if visible.isascii() else unicodedata.normalize("NFKC", visible)
    unwrapped = plain.lstrip(_WRAPPING)
    if _URL.match(plain) is not None or _URL.match(unwrapped) is not None:
        return True
    return _PATH.match(plain.lstrip(_PATH_WRAPPING)) is not None


def _visible(text: str) -> str:
    """The front of ``text`` as the most forgiving reader takes it: without what cannot be seen."""
    front = (char for char in text[:WINDOW] if char.isprintable() and not char.isspace())
    return "".join(islice(front, _LOOKED_AT))


def _is_base64_of_media(text: str, key: str) -> bool:
    """Whether ``text``, which begins with a slash, is a picture (JPEG) or sound (MP3, AAC) rather than a path."""
    if text.startswith("/9j/"):
        return is_base64(text)
    if _BASE64_SOUND.match(text) is None or not (key == "data" or len(text) > _LONGEST_HOST):
        return False
    return is_base64(text)


def restore_head(image: dict[str, Any]) -> None:
    """Makes a data: URL of bare base64, which only Zhipu's server takes for a picture."""
    url = image.get("url")
    if isinstance(url, str) and not url.startswith("data:"):
        kind = next((kind for start, kind in _PICTURES.items() if url.startswith(start)), None)
        if kind is not None and is_base64(url):
            image["url"] = f"data:image/{kind};base64,{url}"


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
        source = f"{parts.scheme}://{host[:100]}" if host else url[:100]
        raise InvalidRequest(
            f"{where}: upstreams may not fetch from '{source}'; send a data: URL, or "
            "have an administrator add the host (host:port for a port of its own) to llm.limits.image_hosts",
            param=where,
            code="url_not_allowed",
        )
